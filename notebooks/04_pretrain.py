# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pre-train a network, or take one that others have trained
#
# **Question.** What has a network learnt before it sees its first lesion?
#
# **Reads** photographs that scikit-image ships, the slices set aside for pre-training, or the weights that the study file
# names under `pretraining.weights`. **Writes** `data/<study>/pretrained/`: the weights and, of a network that is trained
# here, the history. **Takes** a minute for the demo, once per corpus.

# %% [markdown]
# The paper compares two origins: ImageNet, with its wealth of natural images, and MRI, which looks like the task
# but teaches only to tell men from women. In the demo crops of sixteen photographs (which photograph is this?) stand in
# for ImageNet, and simulated brains (which simulated sex?) for the MRI corpus.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
pretraining: str = "natural"  # the corpus: natural, mri, one for which the study names weights, or scratch: none
seed: int = 0  # of the weights before training and of the order of the images; and of the crops of photographs

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai import paths
from pretrain_xai.drawing import figures, previews
from pretrain_xai.networks.corpora import CORPORA
from pretrain_xai.networks.models import N_CLASSES, STANDARDISE, build_network, device_name, place, pretrained_state
from pretrain_xai.networks.training import configure_torch, state_file, train
from pretrain_xai.networks.weight_files import save_state
from pretrain_xai.provenance import record
from pretrain_xai.settings.sections import SCRATCH
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table

config = load_study(study)
config.check_corpus(pretraining)
settings = config.pretraining
trains = pretraining in settings.trained
configure_torch(config.threads)
figures.use_style()

# %% [markdown]
# ## Gather the corpus

# %%
if trains:
    training_set, validation_set = CORPORA[pretraining](config, seed)
    n_classes = int(training_set.labels.max()) + 1
    print(f"{len(training_set)} training and {len(validation_set)} validation images of {n_classes} classes")
    plt.show(previews.corpus_figure(training_set, n_shown=8))

# %% [markdown]
# ## Train, or read the weights
#
# The whole network is trained, from random weights. The checkpoint with the best validation accuracy is kept. After an
# interruption the training goes on where it was.
#
# A weight file that others have made may be a pickle, and a pickle may ask for anything to be run. Nothing in it is
# ever executed: torch's restricted reader takes the tensors by their names. Names and shapes must be those of the study's
# network, in torchvision's naming. A file may hold the convolutions only; fine-tuning then starts from a fresh classifier.
#
# The corpus `scratch` is none: the random weights themselves, from which fine-tuning then starts.

# %%
path = config.paths.pretrained(pretraining, seed)
facts, local_file = {"study": study, "pretraining": pretraining, "seed": seed}, None
if trains:
    network = place(build_network(config.network, n_classes, seed=seed), config)
    given = {"learning_rate": settings.learning_rate, "seed": seed, "state": state_file(path)}
    history = train(network, training_set, validation_set, settings.training, **given)
    facts |= {"device": device_name(network)} | settings.model_dump()
    state = network.state_dict()
elif pretraining == SCRATCH:
    state = build_network(config.network, N_CLASSES, seed=seed).state_dict()
else:
    facts["weights"] = source = settings.weights[pretraining]
    state, local_file = pretrained_state(config.network, source), paths.weights_file(source)

# %% [markdown]
# The provenance beside the file says how the weights came about, with the checksum of a file that was read.

# %%
save_state(path, state)
if trains:
    write_table(history, path.with_suffix(".history.csv"))
    state_file(path).unlink()
record(path, parameters=facts, inputs=[local_file] if local_file else [])

# %% [markdown]
# ## How well was it learnt?

# %%
if trains:
    plt.show(previews.history_figure(history))
    best = history[history["checkpoint"]].iloc[-1]
    print(f"validation accuracy {best['validation_accuracy']:.3f} (chance {1 / n_classes:.3f})")

# %% [markdown]
# ## Look at the weights
#
# Filters of the first layer that have learnt something show edges and colours; fresh ones show noise.

# %%
layers = {name: tensor.cpu().double() for name, tensor in state.items() if tensor.ndim > 1 and STANDARDISE not in name}
plt.show(previews.filter_figure(next(iter(layers.values())).numpy()))

# %% [markdown]
# Spreads far from those of the layers around, or layers that are mostly 0, would say that something went wrong.

# %%
weights = {
    "shape": {name: tuple(tensor.shape) for name, tensor in layers.items()},
    "mean": {name: tensor.mean().item() for name, tensor in layers.items()},
    "spread": {name: tensor.std().item() for name, tensor in layers.items()},
    "zeros": {name: (tensor == 0).double().mean().item() for name, tensor in layers.items()},
}
pd.DataFrame(weights).style.format({"mean": "{:.4f}", "spread": "{:.4f}", "zeros": "{:.1%}"})

# %%
print(f"{config.network.name}: {sum(tensor.numel() for tensor in state.values()):,} numbers; saved {path}")
