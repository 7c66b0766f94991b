# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Take weights that others have trained
#
# **Question.** What does a network bring along that was not trained here?
#
# **Reads** the weights that the study file names under `pretraining.weights`: torchvision's own, or a local file.
# **Writes** `data/<study>/pretrained/`: the same weights as safetensors. **Takes** seconds, once per such corpus.

# %% [markdown]
# A weight file may be a pickle, and a pickle may ask for anything to be run. Here nothing in it is ever executed: torch's
# restricted reader takes the tensors by their names, and whatever else the file asks for is refused. Names and shapes must
# be those of the study's network, in torchvision's naming. A file may hold the convolutions only; fine-tuning then
# starts from a fresh classifier.

# %% tags=["parameters"]
study: str = "paper"  # a file in studies/
pretraining: str = "imagenet"  # a corpus for which the study file names weights

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai.drawing import figures, previews
from pretrain_xai import paths
from pretrain_xai.networks.models import pretrained_state, save_state
from pretrain_xai.provenance import record
from pretrain_xai.study import load_study

config = load_study(study)
config.check_corpus(pretraining, trained=False)
source = config.pretraining.weights[pretraining]
figures.use_style()

# %% [markdown]
# ## Read the weights and compare them with the network

# %%
state = pretrained_state(config.network, source)
n_parameters = sum(tensor.numel() for tensor in state.values())
print(f"{config.network.name} from {source}: {len(state)} tensors, {n_parameters:,} numbers")

# %% [markdown]
# Spreads far from those of the layers around, or layers that are mostly 0, would say that something went wrong.

# %%
layers = {name: tensor.double() for name, tensor in state.items() if tensor.ndim > 1}
pd.DataFrame(
    {
        "shape": {name: tuple(tensor.shape) for name, tensor in layers.items()},
        "mean": {name: tensor.mean().item() for name, tensor in layers.items()},
        "spread": {name: tensor.std().item() for name, tensor in layers.items()},
        "zeros": {name: (tensor == 0).double().mean().item() for name, tensor in layers.items()},
    }
).style.format({"mean": "{:.4f}", "spread": "{:.4f}", "zeros": "{:.1%}"})

# %% [markdown]
# ## Look at the first layer
#
# Filters that have learnt something show edges and colours; fresh ones show noise.

# %%
first = next(tensor for tensor in state.values() if tensor.ndim == 4)
figure = previews.filter_figure(first.numpy())
plt.show(figure)

# %% [markdown]
# ## Keep them
#
# The provenance beside the file says where the weights came from, with the checksum of the file that was read.

# %%
path = config.paths.pretrained(pretraining)
save_state(path, state)
local_file = paths.weights_file(source)
record(
    path,
    parameters={"study": study, "pretraining": pretraining, "weights": source},
    inputs=[local_file] if local_file else [],
)

# %%
last = list(state)[-1]
print(f"the last tensor is {last} with {state[last].shape[0]} outputs; saved {path}")
