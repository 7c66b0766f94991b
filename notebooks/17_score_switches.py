# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Score one model under every switch that needs no training
#
# **Question.** What would the released code's way of scoring have said about the same network and the same images?
#
# **Reads** one model's weights, the test images and the list of images to explain. **Writes** one row per image, method and
# switch to `data/<study>/switch_scores/`, and the predictions with dropout alive to `switch_predictions/`.
# **Takes** half a minute per model of the demo.

# %% [markdown]
# Eight of the released code's flaws show on networks that are trained already. One, two rates under each other's name, needs
# nothing computed (notebook 18 exchanges them). The other seven: dropout stays alive while explaining (that it also had a say
# in which checkpoint was kept is seen only where networks are trained anew), channels are weighted by luminance although they
# are copies, the mask grows with the resize, tied pixels are dropped, edge filters keep their signs, DeepLift is
# incomplete, GradientSHAP has no seed. Each that the study does not have anyway is switched on alone; maps are computed anew
# only where a switch changes them.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
pretraining: str = "natural"  # the corpus that the network saw first; none: untrained network and comparison maps
finetune_depth: int = 3  # 1: last block only ... 5: whole network; 0: untrained
seed: int = 0  # of the fine-tuning

# %%
import pandas as pd

from pretrain_xai.classification import classification_metrics, prediction_table
from pretrain_xai.dataset import read_split
from pretrain_xai.explain import Explainer, comparison_switch_scores
from pretrain_xai.networks.models import device_name, load_finetuned
from pretrain_xai.provenance import record
from pretrain_xai.selection import explained_images
from pretrain_xai.study import Run, first_untrained, load_study
from pretrain_xai.tables import read_table, write_table
from pretrain_xai.networks.training import configure_torch, predict

config = load_study(study)
protocol = config.protocol
settings = config.attribution
run = config.check_run(Run(selection, pretraining, finetune_depth, seed))
configure_torch(config.threads)

# %% [markdown]
# ## Load the model and choose the images
#
# Those that all models classify correctly and that are scored in the study itself.

# %%
network = load_finetuned(config, run)
test = read_split(config.paths.dataset / "test", protocol.mask_threshold)
intersections = read_table(config.paths.intersections)
images = explained_images(intersections, run, settings.max_images, settings.seed, misclassified=False)
print(f"{run.name}: {len(images)} of {len(test)} test images")

# %% [markdown]
# ## Score

# %%
explainer = Explainer(network, test, settings, protocol)
scores = explainer.switch_scores(images, settings.methods)
if run == first_untrained(selection):
    scores = pd.concat([scores, comparison_switch_scores(test, images, protocol)])

# %%
path = config.paths.switch_scores / f"{run.name}.parquet"
named = scores.assign(selection=selection, pretraining=pretraining, finetune_depth=finetune_depth, seed=seed)
write_table(named, path)
inputs = [config.paths.dataset / "test" / "images.npy", config.paths.intersections]
facts = {"micro_batch": explainer.micro_batch, "device": device_name(network)}
record(path, parameters={"study": study, "run": run, "protocol": config.protocol_name} | facts, inputs=inputs)

# %% [markdown]
# ## Predict with dropout alive
#
# The one of these switches that changes predictions, too.

# %%
logits = predict(network, test.images, dropout_active=True)
predictions = prediction_table(run, "test", test.labels, logits)
write_table(predictions, config.paths.switch_predictions / f"{run.name}.parquet")
print(f"accuracy with dropout alive: {classification_metrics(predictions)['accuracy']:.3f}")

# %% [markdown]
# ## Read the result
#
# Median Relevance Rank Accuracy; the row *none* is the study itself.

# %%
medians = scores.groupby(["switch", "method"], sort=False)["value"].median().unstack()
medians.round(3)

# %%
shift = (medians - medians.loc["none"]).abs().max(axis=1).drop("none")
found = f"{shift.max():.3f}, by {shift.idxmax()}" if len(shift) else "none, all switches are as published already"
print(f"the largest change of a median: {found}; saved {path}")
