# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Measure what the study shows, and how surely
#
# **Question.** Which methods find the lesions, do corpus and depth matter, and how sure is it?
#
# **Reads** the scores and predictions of all models, their example maps and the test images. **Writes** the tables in
# `data/<study>/statistics`, the figures `skill_intervals`, `effect_<corpus>_<corpus>`, `ranks`, `redundancy` and, with
# several seeds, `power`, and in `figures/<study>/tables` skill, effects and ranks as LaTeX and Markdown. **Takes** half a
# minute.

# %% [markdown]
# What changes when a study is repeated? Networks do: with another pre-training each comes out differently. So the
# pre-training is the unit, with the networks of all depths that start from it. Where each corpus has one pre-trained
# network, the unit is the seed of fine-tuning, and a difference of the corpora is one of these two networks: whether another
# pre-training on the same corpus would show it, that design can't tell. Images are shared by all networks. Counting each
# image of each network as an independent case finds effects that are not there: `make bench-statistics` counts how often.
#
# Corpora differ in more than their images. In the demo the photographs are 16 classes of 1,600 crops, the MRI slices are 960
# of two classes. A difference of the corpora is one of images, task and number together.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
metric: str = "relevance_rank_accuracy"  # a score that has a chance level
seed: int = 0  # of the bootstraps and of the simulation of power

# %%
import matplotlib.pyplot as plt

from IPython.display import Markdown, display
from pretrain_xai.classification import owed_to_lesions
from pretrain_xai.drawing import figures, heat_tables, manuscript_tables, statistics_plots
from pretrain_xai.dataset import read_split
from pretrain_xai.names import label, pairs
from pretrain_xai.statistics.findings import findings
from pretrain_xai.statistics.power import seeds_needed
from pretrain_xai.provenance import record
from pretrain_xai.selection import CORRECT_FOR_ALL, scored_on
from pretrain_xai.skill import brain_chance, collect_skills
from pretrain_xai.statistics.summary import study_statistics
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_arrays, read_classification, read_predictions, read_scores, read_table, write_table

config = load_study(study)
config.check_selection(selection)
config.check_metric(metric)
methods, corpora = config.attribution.methods, config.pretraining.corpora
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the scores, and what is known of the images
#
# Only images that every model classifies correctly, so that all networks are compared on the same ones.

# %%
scores = read_scores(study).query("selection == @selection and metric == @metric")
scores = scored_on(scores, read_table(config.paths.intersections), selection, CORRECT_FOR_ALL)
test = read_split(config.paths.dataset / "test", config.protocol.mask_threshold)
images = test.table.loc[test.table["image_index"].isin(scores["image_index"]), ["image_index", "subject"]]
images = images.assign(chance_brain=brain_chance(test.images, test.masks, images["image_index"]))
runs = [run for run in config.explained_runs() if run.selection == selection]
maps = [read_arrays(config.paths.example_maps / f"{run.name}.npz") for run in runs]

# %% [markdown]
# ## From score to skill
#
# A random map scores k / pixels in expectation: the larger the lesions, the more. Skill takes that off, (score − chance)
# / (1 − chance): 0 is chance, 1 is perfect. A map that only knows where the brain is does better than chance in the
# image; that level is reported beside it.

# %%
skills = collect_skills(scores, methods, corpora, images, own_pretrainings=config.own_pretrainings)
(n_networks, n_methods, n_images) = skills.values.shape
assert n_networks == len(runs) and n_methods == len(methods)
print(f"{n_networks} networks, {n_methods} methods, {n_images} images of {images['subject'].nunique()} subjects,")
print(f"{skills.n_seeds} seed(s) per corpus and depth")
print(f"chance: {images['chance_brain'].mean():.3f} in the brain, {skills.images['chance'].mean():.3f} in the image")

# %% [markdown]
# ## Compute all tables
#
# Each effect in four ways: a t interval on the means of units (Welch's where these are pre-trainings; paired where they are
# seeds and all cells have the same), which is about other networks on these images and leads the answers; a hierarchical
# bootstrap of units, then subjects; a t interval over units and images, for other networks on other images; a linear mixed
# model with a random intercept per network and pre-training. p values are Holm-corrected within each family of questions.
# There are none where only images can be drawn again.
#
# `skill_by_dependence` holds skill over all images and over those whose decision owes more than half of its log-odds to the
# lesions (notebook 06). On the others the lesions did not make the decision.

# %%
parameters = {"study": study, "selection": selection, "metric": metric, "images": CORRECT_FOR_ALL, "seed": seed}
inputs = [*sorted(config.paths.scores.glob("[!.]*.parquet")), config.paths.intersections]
inputs += [config.paths.finetuned(run.name) / "predictions.parquet" for run in runs]
predictions = read_predictions(study, runs)
owed = owed_to_lesions(predictions, skills.networks, skills.images["image_index"])
tables = study_statistics(skills, maps, seed, owed=owed)
for name, table in tables.items():
    path = config.paths.statistics / f"{name}.csv"
    write_table(table, path)
    record(path, parameters=parameters, inputs=inputs)
print("rows:", ", ".join(f"{name} {len(table)}" for name, table in tables.items()))

# %% [markdown]
# ## Skill with intervals
#
# With several seeds the intervals are over seeds, with one over images alone: then they say nothing about networks.

# %%
figure = statistics_plots.cells_figure(tables["cells"], methods, corpora)
figures.save_figure(figure, tables["cells"], study, "skill_intervals", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## Does the corpus matter?

# %%
effects = tables["effects"]
for contrast in pairs(corpora):
    figure = statistics_plots.corpus_effect_figure(effects, contrast)
    data, name = effects[effects["contrast"] == contrast], f"effect_{contrast.replace(' - ', '_')}"
    figures.save_figure(figure, data, study, name, parameters=parameters, inputs=inputs)
    plt.show(figure)

# %% [markdown]
# The main effects, each in every way. Effect sizes and the other ways need several seeds.

# %%
main = effects[effects["family"].isin(["corpus", "depth", "depth_slope", "corpus_x_depth"])]
columns = ["contrast", "way", "unit", "n_units", "estimate", "low", "high", "p", "effect_size"]
main[columns].style.format(precision=3, na_rep="").format("{:.1e}", subset="p", na_rep="").hide(axis="index")

# %% [markdown]
# And where the decision depends on the lesions? A number is missing where a network has fewer than ten such images of a
# class.

# %%
by_dependence = tables["skill_by_dependence"].query("lesions == 'all'")
columns = ["contrast", "pretraining", "finetune_depth", "images", "fewest_images", "estimate", "low", "high"]
by_dependence[columns].style.format(precision=3, na_rep="").hide(axis="index")

# %% [markdown]
# ## And does classification go along?
#
# The same networks' accuracy. A corpus whose networks classify worse is not compared at equal accuracy here.

# %%
accuracy = read_classification(study).query("selection == @selection")
accuracy.groupby(["pretraining", "finetune_depth"])["accuracy"].mean().unstack().style.format(precision=3)

# %% [markdown]
# ## Which methods rank first?
#
# Mean ranks over networks. Filled: the first, and the methods whose skill does not differ clearly from that of the first. One
# rule decides that here, in the table for papers and in the sentences: the t interval, with Holm's correction for all pairs.

# %%
ranks = tables["ranks"]
figure = statistics_plots.ranks_figure(ranks)
figures.save_figure(figure, ranks, study, "ranks", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## How many different methods are there?
#
# Two methods whose scores and maps go along nearly perfectly are one.

# %%
figure = heat_tables.redundancy_figure(tables["redundancy"], methods)
figures.save_figure(figure, tables["redundancy"], study, "redundancy", parameters=parameters, inputs=inputs)
plt.show(figure)
tables["effective_methods"].style.format(precision=2).hide(axis="index")

# %% [markdown]
# ## How many seeds and images does it take?
#
# The power to see a true difference between corpora, simulated from the spread of this study. One seed shows no spread
# between seeds, so then there is nothing to simulate from: `make statistics` runs a study with three.

# %%
if skills.n_seeds > 1:
    figure = statistics_plots.power_figure(tables["power"], skills.n_seeds, n_images)
    figures.save_figure(figure, tables["power"], study, "power", parameters=parameters, inputs=inputs)
    plt.show(figure)
needed = seeds_needed(tables["power"]).pivot(index=["averaged", "difference"], columns="n_images", values="seeds")
needed if len(needed) else print("one seed per cell: no power is simulated")

# %% [markdown]
# ## Tables for a paper
#
# Each estimate with its 95 % interval, as LaTeX and Markdown. The LaTeX is a `tabular` with booktabs rules, to be read in
# by `\input` within a `table` of your own; nothing in it depends on the day, so a paper changes only when its numbers do.

# %%
units = {"seed": "networks of other seeds on these images", "image": "other images of the same networks, by subject"}
units["pretraining"] = "other pre-trainings on these images"
about = f"Skill above chance with 95 % intervals for {units[tables['cells']['unit'].iloc[0]]}."
test = "p by t tests, and after Holm's correction within each kind of difference; n: units."
tied = ", ".join(map(label, ranks.loc[ranks["tied"], "method"])) or "none"
captions = {
    "skill": (manuscript_tables.cells_table(tables["cells"]), f"{about} Columns: fine-tuned blocks."),
    "effects": (manuscript_tables.effects_table(effects), f"Differences of skill. {about} {test}"),
    "ranks": (
        manuscript_tables.ranks_table(ranks),
        f"Methods by mean rank over networks. Not told from the first, by skill after Holm's correction: {tied}.",
    ),
}
for name, (table, caption) in captions.items():
    saved = manuscript_tables.save_table(table, study, name, caption, parameters=parameters, inputs=inputs)
    display(Markdown(saved[1].read_text()))

# %% [markdown]
# ## Read the result
#
# Every number of these sentences stands in one of the tables.

# %%
print(*(finding.text for finding in findings(tables)), sep="\n")
