# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare the explanation methods
#
# **Question.** How well do the methods find the lesions, and how does it depend on pre-training and fine-tuning depth?
#
# **Reads** the scores of all models. **Writes** the figures `boxplots_tpr` and `boxplots_tnr`, or `boxplots_tpr_<selection>`
# and `boxplots_tnr_<selection>` for another selection than the study's first. **Takes** seconds.

# %% [markdown]
# The paper's main figure: a panel per method; comparison maps and the untrained network on the left, then the depths with the
# corpora side by side. All on the images that every model classifies correctly, so that the boxes differ in the
# models and not in the images.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai.drawing import figures
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.networks.matching import cell_matched, read_matching
from pretrain_xai.names import label
from pretrain_xai.drawing.boxplots import boxplot_figure, mean_by_class, score_box_data
from pretrain_xai.selection import CORRECT_FOR_ALL, scored_on
from pretrain_xai.study import CLASSES, MATCHED, load_study
from pretrain_xai.tables import read_classification, read_scores, read_table, true_negative_rates

config = load_study(study)
config.check_selection(selection)
methods, corpora = config.attribution.methods, config.pretraining.corpora
ending = "" if selection == config.main_selection else f"_{selection}"
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the scores

# %%
classification = read_classification(study).query("selection == @selection")
intersections = read_table(config.paths.intersections)
scores = read_scores(study).query("selection == @selection")
scores = scored_on(scores, intersections, selection, CORRECT_FOR_ALL)
n_images = scores["image_index"].nunique()
assert (
    scores.groupby(["pretraining", "finetune_depth", "seed"], observed=True)["image_index"].nunique() == n_images
).all()
matching = read_matching(config) if selection == MATCHED else None
matched = cell_matched(matching) if matching is not None else pd.Series(dtype=bool)
unmatched = set(matched.index[~matched])
print(f"{scores[['pretraining', 'finetune_depth', 'seed']].drop_duplicates().shape[0]} models, {n_images} images each")

# %% [markdown]
# ## Of the lesion pixels, how many are found?
#
# Relevance Rank Accuracy is the true positive rate of the k strongest pixels. Diamonds are the classification accuracy, on
# the same axis from 0 to 1. A star marks cells whose models could not be matched by their accuracy (notebook 12): the images
# are those that all others classify correctly.

# %%
tpr = scores[scores["metric"] == "relevance_rank_accuracy"]
figure = boxplot_figure(tpr, methods, corpora, classification, unmatched, ylabel="Relevance Rank Accuracy")
parameters = {"study": study, "selection": selection, "images": CORRECT_FOR_ALL}
inputs = [*sorted(config.paths.scores.glob("[!.]*.parquet")), config.paths.classification]
figures.save_figure(figure, score_box_data(tpr), study, f"boxplots_tpr{ending}", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# Read a panel from left to right. Grey are maps that need no network: edges, and the image itself (*intensity*). Lesions are
# bright, so that *intensity* may well score above every method. It is no competitor, since a method is asked what the network
# used; it warns that a high score alone does not prove an explanation (notebook 16 does more). Orange is the untrained
# network: what architecture and image give by themselves. What fine-tuning adds is how far the boxes of the depths rise above
# it; what the corpora differ by is seen between colours at one depth.

# %%
cells = tpr[tpr["finetune_depth"] > 0].groupby(["pretraining", "finetune_depth"], observed=True)["value"].median()
for corpus in corpora:
    of = cells[corpus]
    print(
        f"{label(corpus)}: {of.iloc[0]:.3f} at depth {of.index[0]}, {of.iloc[-1]:.3f} at depth {of.index[-1]},", end=" "
    )
    print("median over all methods")
without = tpr[tpr["finetune_depth"] == 0].groupby("method", observed=True)["value"].median()
image, network = without[list(COMPARISON_MAPS)], without[methods]
print(f"without a network: {label(image.idxmax())} {image.max():.3f}; untrained: up to {network.max():.3f}")

# %% [markdown]
# ## Is one class explained better?
#
# Long boxes above may be two populations. A network may look for the signs of one class and take their absence for the
# other: then the maps of that class, which show little that speaks for it, find less. Here is the mean over the methods, by
# the class of the image. A difference of corpora that turns round between the panels is one of what the networks look for.

# %%
means = mean_by_class(tpr, methods)
figure = boxplot_figure(means, CLASSES, corpora, ylabel="Relevance Rank Accuracy")
name = f"boxplots_by_class{ending}"
figures.save_figure(figure, score_box_data(means), study, name, parameters=parameters, inputs=inputs)
plt.show(figure)

# %%
network = ["pretraining", "finetune_depth", "seed"]
by_class = means.groupby([*network, "method"], observed=True)["value"].mean().unstack()
both = by_class.shape[1] == 2
print("mean over methods, depths, seeds and images" if both else "all images are of one class")
for corpus in corpora if both else []:
    of, n_round = by_class.loc[corpus], (by_class.loc[corpus, "round"] > by_class.loc[corpus, "irregular"]).sum()
    print(
        f"{label(corpus)}: {of['round'].mean():.3f} of round lesions, {of['irregular'].mean():.3f} of irregular ones;",
        end=" ",
    )
    print(f"{n_round} of {len(of)} networks find more of the round ones")

# %% [markdown]
# ## Of the other pixels, how many are left alone?
#
# The true negative rate is high by construction: few pixels are selected. Chance is 1 − k / all pixels.

# %%
tnr = true_negative_rates(scores)
figure = boxplot_figure(tnr, methods, corpora, None, unmatched, ylabel="true negative rate")
for ax in figure.axes:
    ax.set_ylim(0.9, 1)
figures.save_figure(figure, score_box_data(tnr), study, f"boxplots_tnr{ending}", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## Medians

# %%
medians = tpr.groupby(["pretraining", "finetune_depth", "method"], observed=True)["value"].median().unstack()
medians[methods].rename(columns=label).rename(index=label, level="pretraining").style.format(precision=3)

# %% [markdown]
# A cell is one corpus and depth. With one seed per cell these numbers say how images differ, not how networks differ: another
# seed may change a cell (notebook 13).

# %%
trained = tpr[tpr["finetune_depth"] > 0].groupby("method", observed=True)["value"].median().sort_values()
print(f"over all fine-tuned models {label(trained.index[-1])} finds most ({trained.iloc[-1]:.3f}),", end=" ")
print(f"{label(trained.index[0])} least ({trained.iloc[0]:.3f}); chance is {tpr['chance'].mean():.3f}")
