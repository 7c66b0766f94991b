# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune a network on the lesions
#
# **Question.** How well does a network tell round from irregular lesions if only its last blocks may change?
#
# **Reads** pre-trained weights and the dataset. **Writes** `data/<study>/finetuned/<model>/`: weights, history and
# predictions. **Takes** half a minute for the demo, once per corpus, depth and seed.

# %% [markdown]
# Fine-tuning depth d trains the classifier and the last d of five convolutional blocks; the rest stays as pre-training
# left it. At depth 1 most of what the network sees with comes from pre-training, at depth 5 everything may be
# relearnt. (In the released code the first convolution of the lowest block stayed frozen too; see
# `Protocol.first_conv_frozen`.)

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
pretraining: str = "natural"  # the corpus that the network saw first
finetune_depth: int = 3  # 1: last block only ... 5: whole network
seed: int = 0  # of the fresh last layer, of the order of the images and of dropout

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai.drawing import figures, previews
from pretrain_xai.networks.checkpoints import Checkpoints
from pretrain_xai.classification import LESION_FREE, classification_metrics, prediction_table
from pretrain_xai.dataset import read_lesion_free, read_split
from pretrain_xai.networks.models import device_name, freeze_below, load_pretrained
from pretrain_xai.networks.weight_files import save_state
from pretrain_xai.provenance import record
from pretrain_xai.study import Run, load_study
from pretrain_xai.tables import write_table
from pretrain_xai.networks.training import configure_torch, predict, state_file, train

config = load_study(study)
protocol = config.protocol
run = config.check_run(Run(selection, pretraining, finetune_depth, seed))
configure_torch(config.threads)
figures.use_style()

# %% [markdown]
# ## Load the data and the pre-trained network

# %%
splits = {name: read_split(config.paths.dataset / name) for name in ("train", "validation", "test")}
pd.DataFrame({name: {"images": len(split), "irregular": split.labels.mean()} for name, split in splits.items()}).T

# %% [markdown]
# Only the last blocks may change.

# %%
network = load_pretrained(config, run)
freeze_below(network, finetune_depth, first_conv_frozen=protocol.first_conv_frozen)
trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
print(f"{trainable:,} of {sum(parameter.numel() for parameter in network.parameters()):,} parameters are trained")

# %% [markdown]
# ## Train
#
# The checkpoint is chosen on the validation images; the test images are not looked at until the end. The frozen layers are
# run once per image, and what they give is kept. After an interruption the training goes on where it was. A study that
# matches models by their accuracy (notebook 12) keeps more checkpoints on the way.

# %%
folder = config.paths.finetuned(run.name)
state = state_file(folder / "weights.safetensors")
kept = config.kept_checkpoints
checkpoints = None if kept is None else Checkpoints(config.paths.checkpoints(run.name), **kept)
history = train(
    network,
    splits["train"],
    splits["validation"],
    config.finetuning.training,
    learning_rate=config.learning_rate(run),
    seed=seed,
    dropout_active=protocol.dropout_active,
    checkpoints=checkpoints,
    cache_gib=config.finetuning.cache_gib,
    state=state,
)

# %%
figure = previews.history_figure(history)
plt.show(figure)

# %% [markdown]
# ## Predict
#
# Predictions of the validation and test images are kept with their logits: all classification metrics come from them.
# Those of the test slices without their lesions tell whether a decision depends on the lesions at all (notebook 06).

# %%
shown = splits | {LESION_FREE: read_lesion_free(config.paths.dataset / "test")}
predictions = pd.concat(
    [
        prediction_table(
            run,
            name,
            shown[name].labels,
            predict(network, shown[name].images, dropout_active=protocol.dropout_active),
        )
        for name in ("validation", "test", LESION_FREE)
    ]
)
save_state(folder / "weights.safetensors", network.state_dict())
write_table(history, folder / "history.csv")
write_table(predictions, folder / "predictions.parquet")
if checkpoints is not None:
    checkpoints.save()
state.unlink()

# %%
record(
    folder / "weights.safetensors",
    parameters={
        "study": study,
        "run": run,
        "protocol": config.protocol_name,
        "learning_rate": config.learning_rate(run),
        "device": device_name(network),
    },
    inputs=[
        config.paths.pretrained(pretraining, config.pretraining_seed(run)),
        config.paths.dataset / "train" / "images.npy",
    ],
)
metrics = classification_metrics(predictions[predictions["split"] == "test"])
print(f"test accuracy {metrics['accuracy']:.3f}, AUROC {metrics['auroc']:.3f} (chance 0.5); saved {folder}")
