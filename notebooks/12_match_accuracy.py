# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Match models by their accuracy
#
# **Question.** Which checkpoints along the trainings classify equally well, and how equally?
#
# **Reads** the checkpoints of all fine-tuned models. **Writes** `data/<study>/matching.csv`, the weights and predictions of
# the selection `matched`, and the figure `matching`. **Takes** half a minute for the demo.

# %% [markdown]
# Networks that classify better may be explained better for that reason alone. To compare them at equal accuracy, the
# paper trained with other learning rates. Here nothing is trained anew: every training passes through lower accuracies
# on its way, and of each the checkpoint nearest to a common rate is taken: the lower of sensitivity and specificity.
#
# Why not accuracy or AUROC? On its way a network often calls one class too often for a while. Its accuracy is then that of a
# network that knows less, and its AUROC, which knows no threshold, may be near 1 while it gets most images of a class wrong.
# Of such a class few images are left that all networks get right, and only those are compared. The lower rate keeps both
# classes. The higher rate and AUROC may differ, so their spread on test images is printed below.
#
# The common rate is the one at which most networks can be matched, and of those the highest. A network that has no
# checkpoint within the tolerance is *not matched*: its nearest checkpoint is shown, marked, and left out of the
# comparison. All this looks at validation images only.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai.drawing import figures
from pretrain_xai.networks.checkpoints import load_checkpoint
from pretrain_xai.classification import LESION_FREE, classification_metrics, prediction_table
from pretrain_xai.dataset import read_lesion_free, read_split
from pretrain_xai.networks.models import device_name, load_finetuned
from pretrain_xai.networks.matching import NEEDED_SHARE, cell_matched, match_checkpoints, read_checkpoints
from pretrain_xai.drawing.statistics_plots import matching_figure
from pretrain_xai.networks.weight_files import save_state
from pretrain_xai.provenance import record
from pretrain_xai.statistics.equal_accuracy import SPREAD
from pretrain_xai.study import MATCHED, NETWORK, Run, load_study
from pretrain_xai.tables import write_table
from pretrain_xai.networks.training import configure_torch, predict

config = load_study(study)
protocol = config.protocol
matching = config.finetuning.matching
configure_torch(config.threads)
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the rates along the trainings

# %%
checkpoints = read_checkpoints(config)
runs = [run for run in config.explained_runs() if run.selection == config.main_selection]
files = [config.paths.checkpoints(run.name) for run in runs]
print(f"{len(runs)} networks, {len(checkpoints)} validated steps, {checkpoints['kept'].sum()} checkpoints")

# %% [markdown]
# ## Choose the common rate and the checkpoints

# %%
matched = match_checkpoints(checkpoints, matching)
cells = cell_matched(matched)
print(f"common rate {matched['target'].iloc[0]:.4f}, tolerance {matching.tolerance}")
print(f"{cells.sum()} of {len(cells)} cells are matched, {matched['matched'].sum()} of {len(matched)} networks")
print(f"largest gap of a matched network: {matched.loc[matched['matched'], 'gap'].abs().max():.4f}")
if cells.mean() < NEEDED_SHARE:
    print("matching failed: too few cells")

# %% [markdown]
# ## Restore these networks and predict
#
# Weights and predictions get the names of any other model's, so that all further notebooks take them with `-p selection
# matched`.

# %%
splits = {name: read_split(config.paths.dataset / name) for name in ("validation", "test")}
splits[LESION_FREE] = read_lesion_free(config.paths.dataset / "test")
found = []
for row in matched.itertuples():
    trained, run = (Run(name, *row[1:4]) for name in (config.main_selection, MATCHED))
    network = load_finetuned(config, trained)
    load_checkpoint(config.paths.checkpoints(trained.name).with_suffix(""), row.step, network)
    logits = {
        name: predict(network, split.images, dropout_active=protocol.dropout_active) for name, split in splits.items()
    }
    predictions = pd.concat([prediction_table(run, name, splits[name].labels, logits[name]) for name in splits])
    accuracy = (logits["validation"].argmax(axis=1) == splits["validation"].labels).mean()
    # as noted along the training, up to an image that rounds in another way; with dropout each prediction is another
    assert protocol.dropout_active or abs(accuracy - row.validation_accuracy) * len(splits["validation"]) < 1.5, (
        run.name
    )
    folder = config.paths.finetuned(run.name)
    save_state(folder / "weights.safetensors", network.state_dict())
    write_table(predictions, folder / "predictions.parquet")
    facts = {"study": study, "run": run, "step": row.step, "device": device_name(network)}
    record(folder / "weights.safetensors", parameters=facts, inputs=files)
    found.append(classification_metrics(predictions[predictions["split"] == "test"]))

# %% [markdown]
# ## How equal are they?
#
# On the validation images, by which they were chosen, and on the test images, by which nothing was. Below, the lowest and
# highest values of the matched networks.

# %%
on_test = pd.DataFrame(found)[SPREAD].add_prefix("test_")
matched = matched.join(on_test)
write_table(matched, config.paths.matching)
record(config.paths.matching, parameters={"study": study, "matching": matching}, inputs=files)
matched.style.format(precision=3).hide(axis="index")

# %%
spread = on_test[matched["matched"]].agg(["min", "max"])
spread.round(3)

# %%
figure = matching_figure(checkpoints, matched, config.pretraining.corpora, matching.tolerance)
drawn = checkpoints.merge(matched[[*NETWORK, "step", "matched"]], on=[*NETWORK, "step"], how="left")
figures.save_figure(figure, drawn, study, "matching", parameters={"study": study}, inputs=files)
plt.show(figure)

# %% [markdown]
# ## Read the result

# %%
ranges = [f"{name.removeprefix('test_')} {spread[name].min():.3f} to {spread[name].max():.3f}" for name in spread]
print(
    f"{matched['matched'].sum()} matched networks, on test images: {', '.join(ranges)}; saved {config.paths.matching}"
)
