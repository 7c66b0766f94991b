# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Check whether ranking and conclusions survive other ways to score
#
# **Question.** Would the study say the same with another channel reduction, mask threshold, score or ground truth, by the
# positive or negative values of maps alone, or on misclassified images?
#
# **Reads** what the maps of all models score under every setting, the image lists and the test images. **Writes** the tables
# `sensitivity`, `flips`, `survival` and `ground_truths` in `data/<study>/statistics` and the figure `sensitivity`. **Takes**
# half a minute.

# %% [markdown]
# The study chose one way to make one map of three channels, one threshold above which a pixel belongs to a lesion and one
# score, and looks at images that all models classify correctly. None of these choices is the only one to be defended. So the
# same maps are scored in all combinations (the section `sensitivity` of a study's `attribution` names them), and the
# statistics of the main answers are repeated for each.
#
# The lesions' pixels are not all that tells the class. Each test image has an exact *twin*: the same slice with as many
# lesions of the other class at the same centres. So maps are also scored against the lesions of image and twin (`union`),
# what differs between the two (`difference`, graded) and the outlines of the lesions (`boundary`). And the study takes the
# size of a map's values, whatever their sign; the positive ones alone speak for the class. Ground truths and signs are
# combined with each other, under the study's own reduction and threshold. Where lesions are placed by their corners there are
# no twins.
#
# Misclassified images are each network's own. A network that is rarely wrong has few, so depths at which one has fewer than
# ten are left out; beside them stand the correct images at the same depths, which tells what the images do and what
# the depths.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
metric: str = "relevance_rank_accuracy"  # the score of the default
seed: int = 0  # of the resamples of subjects and seeds

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai.drawing import figures
from pretrain_xai.provenance import record
from pretrain_xai.setting_scores import Setting
from pretrain_xai.statistics.sensitivity import read_populations, sensitivity_tables
from pretrain_xai.drawing.heat_tables import sensitivity_figure
from pretrain_xai.study import load_study
from pretrain_xai.statistics.findings import survival_sentences
from pretrain_xai.tables import write_table

config = load_study(study)
config.check_selection(selection)
protocol = config.protocol
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the scores of all settings

# %%
populations = read_populations(config, selection)
for population in populations:
    n_networks, n_images = population.seen.shape
    per_network = population.seen.sum(axis=1)
    print(
        f"{population.name}: {n_networks} networks, {per_network.min()} to {per_network.max()} of {n_images} images each"
    )

# %% [markdown]
# ## Compare every setting with the default
#
# Kendall's tau says how alike two rankings are, by the methods' mean ranks over networks; its interval comes from drawing
# subjects (and seeds, where there are several) anew, the same for both. A conclusion is *reversed* if the opposite is clear,
# *lost* if it is clear no longer, and *gained* if it is clear only here.

# %%
default = Setting(protocol.channel_reduction, protocol.mask_threshold, metric)
tables = sensitivity_tables(populations, default, seed)
parameters = {"study": study, "selection": selection, "default": default, "seed": seed}
inputs = [*sorted(config.paths.setting_scores.glob("[!.]*.npz")), config.paths.intersections]
for name, table in tables.items():
    path = config.paths.statistics / f"{name}.csv"
    write_table(table, path)
    record(path, parameters=parameters, inputs=inputs)
print("rows:", ", ".join(f"{name} {len(table)}" for name, table in tables.items()))

# %% [markdown]
# What is a score of 1? On every ground truth it is the score of the ground truth itself as a map (`ceiling`). Beside it
# stand the scores of two other maps: the lesions' mask, and |image − twin|, which is all that tells the classes apart.

# %%
tables["ground_truths"].style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Figure
#
# Each cell is a way to score; the study's own is framed. Letters say which kinds of conclusions flip there.

# %%
figure = sensitivity_figure(tables["sensitivity"])
figures.save_figure(figure, tables["sensitivity"], study, "sensitivity", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## What flips?
#
# The conclusions that do not hold in every setting, those first that turn round most often. Families: `first` is the method
# that ranks first; pairs of methods and methods beside comparison maps are judged after Holm's correction.

# %%
survival = tables["survival"]
flipped = survival[survival["kept"] < survival["settings"]].sort_values(["reversed", "lost"], ascending=False)
print(f"{len(survival) - len(flipped)} of {len(survival)} conclusions are the same in all of their settings")
flipped.head(20).style.hide(axis="index")

# %% [markdown]
# How alike is the ranking, on average over the other axes, with each choice on one?

# %%
sensitivity = tables["sensitivity"]
axes = ["channel_reduction", "mask_threshold", "score", "ground_truth", "sign"]
means = [sensitivity.groupby([axis, "population"], sort=False)["tau"].mean().unstack() for axis in axes]
pd.concat(means, keys=axes).round(2)

# %% [markdown]
# ## Read the result
#
# Every number of these sentences stands in one of the tables.

# %%
print(*(finding.text for finding in survival_sentences(tables)), sep="\n")
