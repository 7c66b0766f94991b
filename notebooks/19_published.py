# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Recompute the published tables from the authors' files
# **Question.** Do the released result files give the numbers of the paper, and what in them needs a second look?
#
# **Reads** a clone of the authors' repository (`git clone https://github.com/Marta54/Pretrain_XAI_gt data/published`).
# **Writes** one CSV per table and the paper's figures as far as the files give them. **Takes** under a minute.
#
# Nothing in the files is executed: a pickle can ask for any program to be run, so an allow-list reader is used that
# knows numbers, text, arrays and tensors only. A file that it refuses or cannot read is listed, the rest is read.

# %% tags=["parameters"]
study: str = "published"  # names the folders of tables and figures
folder: str = "data/published"  # the authors' files; relative to the project, or absolute

# %%
from matplotlib import pyplot as plt

from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.drawing.figures import save_figure, use_style
from pretrain_xai.drawing.boxplots import boxplot_figure, score_box_data
from pretrain_xai.provenance import record
from pretrain_xai.published import compare, draw, read_release
from pretrain_xai.published.read import METHODS
from pretrain_xai.tables import write_table

use_style()
methods = list(dict.fromkeys(METHODS.values()))
tables = {}

# %% [markdown]
# ## What is there
# A file is known by what it holds, so a copy with other names, the other selection (`same`, here called *matched*) or
# the MRI models is read by the same code.

# %%
release = read_release(paths.root() / folder)
inputs = [paths.root() / folder / file for file in release.files["file"]]
release.files.drop(columns="sha256")

# %% [markdown]
# Files that could not be read, each with what was found and what to do:

# %%
tables["problems"] = release.problems
print(f"{len(release.problems)} files could not be read")
release.problems

# %% [markdown]
# Files of the study that this copy lacks. Some were never released: the counts of the trained models (`metrics_*`),
# which all published boxplots of correctly classified images are drawn from, and every prediction of an MRI model.

# %%
tables["missing"] = compare.missing_files(release)
tables["missing"]

# %% [markdown]
# ## Classification
# The metrics are recomputed from the logits. The released code prints sensitivity and specificity under each other's
# name: both readings are in the table, the right one without prefix. A mean over a fine-tuning depth hides which
# models it comes from, so the seeds stand beside it further down.

# %%
classification = compare.metrics_by_model(release.predictions)
tables["classification"] = classification
classification.groupby(compare.SELECTED_CELL)[compare.RATES].mean().round(4)

# %% [markdown]
# Is each stored AUROC, AUPRC and accuracy the one that its own logits give? The stored AUPRC is the mean over both
# classes. The stored accuracy of the older files is the mean of sensitivity and specificity rather than the share of
# correct images, which lies up to 0.00015 beside it; newer files store the share.

# %%
differences = compare.differences_from_stored(classification, release.stored_metrics)
tables["differences_from_stored"] = differences
stored_accuracy = differences[["accuracy", "balanced_accuracy"]].abs().min(axis=1)
is_equal = (differences[["auroc", "auprc"]].abs().max(axis=1) < 1e-5) & (stored_accuracy < 1e-5)
print(f"{is_equal.sum()} of {len(is_equal)} models: stored AUROC, AUPRC and accuracy equal to 1e-5")
differences[["auroc", "auprc", "accuracy", "balanced_accuracy"]].abs().max()

# %% [markdown]
# Are the labels those that the released code draws for seeds 50000, 50001, ...? If so, the test set can be built again
# from the slices, image by image.

# %%
labels = compare.label_agreement(release.predictions)
tables["label_agreement"] = labels
print(f"labels equal to those of the seeds: {labels['n_equal'].min()} of {labels['n_images'].max()} in every model")

# %% [markdown]
# ## Intersections
# The paper scores explanations on the images that *all* models of a selection classify correctly, and shows heatmaps
# of images that all classify wrongly. For the 25 released ImageNet models of the selection *best* these are 4,574 and 7
# images. The lists of misclassified images are released too: they must follow from the predictions.

# %%
tables["intersections"] = compare.intersections(release.predictions)
tables["intersections"]

# %%
lists = compare.misclassified_agreement(release.predictions, release.misclassified)
tables["misclassified"] = lists
print(f"{lists['equal'].sum()} of {len(lists)} released lists of misclassified images equal the recomputed ones")

# %% [markdown]
# ## Explanations of misclassified images
# Explanation performance is the share of the lesion pixels that lie among the k highest-ranked pixels, with k lesion
# pixels in the image. The authors rounded it to two decimals here.

# %%
tables["incorrect_medians"] = compare.incorrect_medians(release.incorrect_ratios).reset_index()
tables["incorrect_medians"]

# %% [markdown]
# By class: networks that take round lesions for irregular, and irregular for round. If a network knows one class by its
# lesions and takes the other for granted, the two are not alike.

# %%
tables["incorrect_by_class"] = compare.incorrect_by_class(release)
tables["incorrect_by_class"].pivot(index="method", columns="finetune_depth", values="difference").round(3)

# %% [markdown]
# One figure per selection, in the paper's arrangement: a panel per method, a box per fine-tuning depth. A box pools
# the images of all models of a depth, so images that several models get wrong count several times. How large the lesions
# of these images are was not released; chance, dashed, is that of the images whose counts are.

# %%
scores = compare.explanation_scores(release.confusion)
chance = scores.groupby("selection")["chance"].mean()
saved = []
for selection, ratios in release.incorrect_ratios.groupby("selection"):
    shown = ratios.assign(chance=chance.get(selection, float("nan")))
    figure = boxplot_figure(shown, methods, list(shown["pretraining"].unique()), ylabel="explanation performance")
    about = {"parameters": {"folder": folder, "selection": selection}, "inputs": inputs}
    saved.append(save_figure(figure, score_box_data(shown), study, f"misclassified_{selection}", **about))
    plt.show(figure)

# %% [markdown]
# ## Comparison maps, and the models where released
# Maps that know nothing of the task show what the score gives for free: two edge filters and the untrained network.
# The dashed line is the mean score of a random map.

# %%
tables["explanation_medians"] = compare.explanation_medians(release.confusion)
tables["explanation_medians"].round(4)

# %%
for selection, maps in scores.query("pretraining == 'none'").groupby("selection"):
    figure = draw.comparison_figure(maps, methods)
    about = {"parameters": {"folder": folder, "selection": selection}, "inputs": inputs}
    saved.append(save_figure(figure, score_box_data(maps), study, f"comparison_maps_{selection}", **about))
    plt.show(figure)

# %% [markdown]
# The boxplots of the paper, for each selection whose counts (`metrics_*`) are there. Its heatmaps can't be drawn again, as no
# map was released; notebook 09 draws those of the demo in the same arrangement.

# %%
trained = scores.query("pretraining != 'none'")
for selection, shown in trained.groupby("selection"):
    figure = boxplot_figure(shown, methods, list(shown["pretraining"].unique()), ylabel="explanation performance")
    about = {"parameters": {"folder": folder, "selection": selection}, "inputs": inputs}
    saved.append(save_figure(figure, score_box_data(shown), study, f"explanations_{selection}", **about))
    plt.show(figure)
print(f"{trained['source'].nunique()} trained models with explanation scores")

# %% [markdown]
# Two different filters cannot score equally on thousands of images. Which maps do, and are their files the same?

# %%
equal_maps = compare.equal_counts(release)
tables["equal_maps"] = equal_maps
for row in equal_maps.itertuples():
    files = "their files are equal to the byte" if row.equal_bytes else "in different files"
    print(f"{row.selection}: {row.map} equals {row.equal_to} on all {row.n_images} images; {files}")

# %% [markdown]
# In the released code the function that fills both lists appends the Laplace counts to both, so the Sobel scores are
# the ones that are lost; only new maps can give them.
#
# The paper scores trained models by TP / (TP + FN) and edge filters by TP / (TP + FP). Both are the same as long as
# exactly k pixels are counted; where ties at the threshold left fewer, they differ:

# %%
tables["ties"] = compare.tied_rows(release.confusion)
tables["ties"].query("n_tied > 0")

# %% [markdown]
# ## Beside the paper
# Every number of the paper's table and of its boxplots, with the recomputed one where the files give it. A difference
# is only one if the models are the same: the note says from how many models the recomputed number comes (the released
# ImageNet predictions are of an earlier run with five models per depth, the paper's table has three).

# %%
comparison = compare.side_by_side(release)
tables["side_by_side"] = comparison
comparison[comparison["recomputed"].notna()].drop(columns="table").round(4)

# %%
summary = comparison.assign(n=1).groupby(["table", "selection", "note"], sort=False)
summary.agg(numbers=("n", "sum"), smallest=("difference", "min"), largest=("difference", "max")).reset_index()

# %% [markdown]
# The paper's main figure from the medians that were read off it, where boxes can't be drawn again; the accuracies are those
# of its table.

# %%
for selection, numbers in comparison.groupby("selection"):
    figure = draw.medians_figure(numbers, methods, chance.get(selection, float("nan")))
    about = {"parameters": {"selection": selection}, "inputs": inputs}
    saved.append(save_figure(figure, numbers, study, f"paper_medians_{selection}", **about))
    plt.show(figure)

# %% [markdown]
# Recomputed minus published, for all numbers that can be: filled, from as many models as the paper's.

# %%
recomputed = comparison.dropna(subset="recomputed")
if len(recomputed):
    figure = draw.differences_figure(recomputed)
    about = {"parameters": {"folder": folder}, "inputs": inputs}
    saved.append(save_figure(figure, recomputed, study, "differences_from_paper", **about))
    plt.show(figure)

# %% [markdown]
# ## Save

# %%
for name, table in tables.items():
    path = Paths(study).figures / "tables" / f"{name}.csv"
    write_table(table, path)
    record(path, parameters={"folder": folder}, inputs=inputs)
    saved.append(path)
print(*saved, sep="\n")

# %% [markdown]
# ## What holds
# The untrained network's medians and the boxplots of misclassified images can be checked to the last digit. The table
# of classification performance cannot, as the predictions of its models are not released, and neither can the boxplots
# of trained models. The paper's medians are read off its figures, to within 0.002.

# %%
same_models = recomputed[recomputed["note"].isin(draw.SAME_MODELS)]
print(f"{len(recomputed)} of the paper's {len(comparison)} numbers can be recomputed from {len(inputs)} files;")
print(f"{len(same_models)} of them from as many models as the paper's,", end=" ")
print(f"where the largest difference is {same_models['difference'].abs().max():.4f}")
