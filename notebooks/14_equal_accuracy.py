# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare corpora and depths at equal accuracy
#
# **Question.** Are networks of one corpus explained better because they classify better?
#
# **Reads** the scores and accuracies of all models. **Writes** the tables `equal_accuracy`, `accuracy_and_skill`,
# `accuracy_correlations`, `claims` and `test_spread` in `data/<study>/statistics`, and the figures `accuracy_and_skill` and
# `equal_accuracy_<corpus>_<corpus>`. **Takes** seconds.

# %% [markdown]
# Two ways to hold accuracy equal. *Matched*: each network is the checkpoint of its training at which it classified as well as
# all the others (notebook 12); the corpora are compared at the depths where all networks are matched, and the depths of one
# corpus where its networks are. *Adjusted*: the networks of the whole trainings, with test accuracy as a covariate, skill ~
# depth + corpus + accuracy.
#
# Matching compares networks that have seen fewer images; the covariate takes accuracy to act linearly and in both
# corpora alike. Where both say the same, the answer does not depend on either.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
metric: str = "relevance_rank_accuracy"  # a score that has a chance level
seed: int = 0  # of the bootstraps

# %%
import matplotlib.pyplot as plt

from pretrain_xai.drawing import figures
from pretrain_xai.dataset import read_split
from pretrain_xai.statistics.equal_accuracy import equal_accuracy_tables
from pretrain_xai.statistics.findings import equality_findings
from pretrain_xai.names import pairs
from pretrain_xai.networks.matching import cell_matched, read_matching
from pretrain_xai.drawing.statistics_plots import accuracy_figure, equality_figure
from pretrain_xai.provenance import record
from pretrain_xai.selection import CORRECT_FOR_ALL, scored_on
from pretrain_xai.skill import collect_skills
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_classification, read_scores, read_table, write_table

config = load_study(study)
config.check_metric(metric)
methods, corpora = config.attribution.methods, config.pretraining.corpora
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the scores of every selection, and the accuracies
#
# Each selection on the images that all its models get right; of the matched one, all that are matched.

# %%
scores = read_scores(study).query("metric == @metric")
lists = read_table(config.paths.intersections)
images = read_split(config.paths.dataset / "test").table[["image_index", "subject"]]
names = dict.fromkeys([config.main_selection, *scores["selection"].unique()])
of_selection = {name: scored_on(scores[scores["selection"] == name], lists, name, CORRECT_FOR_ALL) for name in names}
own = {"own_pretrainings": config.own_pretrainings}
skills = {name: collect_skills(rows, methods, corpora, images, **own) for name, rows in of_selection.items()}
print({name: "{} networks, {} methods, {} images".format(*one.values.shape) for name, one in skills.items()})

# %% [markdown]
# ## Which cells are matched?

# %%
matching = read_matching(config)
if matching is None:
    print("this study has no checkpoints of equal accuracy: see finetuning.matching in studies/demo.yaml")
else:
    print(cell_matched(matching).unstack().map({True: "matched", False: "not matched"}.get).to_string())

# %% [markdown]
# ## Compute

# %%
tables = equal_accuracy_tables(skills, read_classification(study), matching, seed)
parameters = {"study": study, "metric": metric, "images": CORRECT_FOR_ALL, "seed": seed}
inputs = [*sorted(config.paths.scores.glob("[!.]*.parquet")), config.paths.intersections, config.paths.classification]
for name, table in tables.items():
    path = config.paths.statistics / f"{name}.csv"
    write_table(table, path)
    record(path, parameters=parameters, inputs=inputs)

# %% [markdown]
# ## How equal are they on test images?

# %%
tables["test_spread"].style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Do accuracy and skill go together?
#
# A point is a network. A correlation over all depths says little of cause: more fine-tuning changes both.

# %%
points, correlations = tables["accuracy_and_skill"], tables["accuracy_correlations"]
figure = accuracy_figure(points, correlations, corpora)
figures.save_figure(figure, points, study, "accuracy_and_skill", parameters=parameters, inputs=inputs)
plt.show(figure)
correlations.style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Does the corpus matter at equal accuracy?
#
# Unadjusted and at equal accuracy, each in the ways of notebook 13. In the table also the depth, for one corpus at a time.

# %%
effects = tables["equal_accuracy"]
for contrast in pairs(corpora):
    name, shown = f"equal_accuracy_{contrast.replace(' - ', '_')}", effects[effects["contrast"] == contrast]
    figure = equality_figure(shown, contrast)
    figures.save_figure(figure, shown, study, name, parameters=parameters, inputs=inputs)
    plt.show(figure)

# %%
columns = ["answer", "contrast", "pretraining", "depths", "way", "unit", "n_units"]
columns += ["estimate", "low", "high", "p", "accuracy_difference"]
effects[columns].style.format(precision=3, na_rep="").format("{:.1e}", subset="p", na_rep="").hide(axis="index")

# %% [markdown]
# ## The paper's claims, one by one
#
# The paper says that the corpus and the depth matter, at equal accuracy too. Each row sets a contrast of its own medians
# (the mean over so many cells, of which so many are positive) beside the same contrast of this study, in units of skill.
# They agree or are opposite where the study's interval leaves out 0. Scores of other images and lesions are not equal in
# size: only signs are compared. Photographs stand for ImageNet where a study has no ImageNet.

# %%
tables["claims"].style.format(precision=3, na_rep="").hide(axis="index")

# %% [markdown]
# ## Read the result
#
# Every number of these sentences stands in one of the tables.

# %%
print(*(finding.text for finding in equality_findings(tables)), sep="\n")
