# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pre-train a network
#
# **Question.** What has a network learnt before it sees its first lesion?
#
# **Reads** photographs that scikit-image ships, or the slices set aside for pre-training. **Writes**
# `data/<study>/pretrained/`: the weights and the history. **Takes** a minute for the demo, once per corpus.

# %% [markdown]
# The paper compares two origins: ImageNet, with its wealth of natural images, and MRI, which looks like the task
# but teaches only to tell men from women. In the demo crops of sixteen photographs (which photograph is this?) stand in
# for ImageNet, and simulated brains (which simulated sex?) for the MRI corpus.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
pretraining: str = "natural"  # the corpus: natural or mri

# %%
import matplotlib.pyplot as plt

from pretrain_xai.drawing import figures, previews
from pretrain_xai.networks.corpora import CORPORA
from pretrain_xai.networks.hardware import device_name, place
from pretrain_xai.networks.models import build_network, save_weights
from pretrain_xai.provenance import record
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table
from pretrain_xai.networks.training import configure_torch, state_file, train

config = load_study(study)
config.check_corpus(pretraining, trained=True)
settings = config.pretraining
configure_torch(config.threads)
figures.use_style()

# %% [markdown]
# ## Gather the corpus

# %%
training_set, validation_set = CORPORA[pretraining](config)
n_classes = training_set.labels.max() + 1
print(f"{len(training_set)} training and {len(validation_set)} validation images of {n_classes} classes")

# %%
figure = previews.corpus_figure(training_set, n_shown=8)
plt.show(figure)

# %% [markdown]
# ## Train
#
# The whole network, from random weights. The checkpoint with the best validation accuracy is kept. After an interruption the
# training goes on where it was.

# %%
network = place(build_network(config.network, n_classes=int(n_classes), seed=settings.seed), config)
path = config.paths.pretrained(pretraining)
state = state_file(path)
history = train(
    network,
    training_set,
    validation_set,
    settings.training,
    learning_rate=settings.learning_rate,
    seed=settings.seed,
    state=state,
)

# %%
save_weights(path, network)
write_table(history, path.with_suffix(".history.csv"))
state.unlink()
facts = {"study": study, "pretraining": pretraining, "device": device_name(network)}
record(path, parameters=facts | settings.model_dump())

# %% [markdown]
# ## How well was it learnt?

# %%
figure = previews.history_figure(history)
plt.show(figure)

# %%
best = history[history["checkpoint"]].iloc[-1]
print(f"validation accuracy {best['validation_accuracy']:.3f} (chance {1 / n_classes:.3f}), saved {path}")
