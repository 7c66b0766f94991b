# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Measure how well the models classify
#
# **Question.** Which models tell round from irregular lesions, and how surely?
#
# **Reads** the predictions of all models. **Writes** `data/<study>/classification.csv`, `lesion_dependence.csv` beside it and
# the figures `classification` and `lesion_dependence`. **Takes** seconds.

# %% [markdown]
# An explanation of a model that cannot do the task says little. The paper therefore reports classification beside
# explanation performance. Irregular lesions are the positive class: sensitivity is the share of irregular slices that are
# found, specificity the share of round ones (the released code printed them under each other's name).

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how the models of the figure are chosen, best or matched; the table has all

# %%
import matplotlib.pyplot as plt

from pretrain_xai.drawing import figures
from pretrain_xai.classification import METRICS, classification_table, lesion_dependence, mean_over_seeds
from pretrain_xai.drawing.boxplots import classification_figure, dependence_figure
from pretrain_xai.provenance import record
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_predictions, write_table

config = load_study(study)
config.check_selection(selection)
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Gather the predictions
#
# Of every model of the study; a missing one is an error, so that no table is made of half a grid.

# %%
files = [config.paths.finetuned(run.name) / "predictions.parquet" for run in config.runs()]
predictions = read_predictions(study, config.runs())
predictions.groupby("split")["image_index"].agg(["nunique", "size"])

# %% [markdown]
# ## Test images
#
# From subjects that no training has seen.

# %%
table = classification_table(predictions[predictions["split"] == "test"], swapped_rates=config.protocol.swapped_rates)
write_table(table, config.paths.classification)
record(config.paths.classification, parameters={"study": study, "split": "test"}, inputs=files)
table.style.format(precision=3).hide(axis="index")

# %% [markdown]
# Means over the seeds of each cell:

# %%
mean_over_seeds(table).style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Figure

# %%
shown = table[table["selection"] == selection]
figure = classification_figure(shown, config.pretraining.corpora, METRICS[:1] + METRICS[2:])
parameters = {"study": study, "selection": selection}
figures.save_figure(figure, shown, study, "classification", parameters=parameters, inputs=files)
plt.show(figure)

# %%
accuracy = shown.groupby(["pretraining", "finetune_depth"])["accuracy"].mean().unstack()
for corpus, row in accuracy.iterrows():
    print(f"{corpus}: accuracy {row.iloc[0]:.3f} at depth {row.index[0]}, {row.iloc[-1]:.3f} at depth {row.index[-1]}")

# %% [markdown]
# ## Does the decision depend on the lesions?
#
# Take the lesions away and look again: the same test slices without them. A network that knows one class by its lesions and
# takes the other for granted is right on both, but on the second nothing that an explanation could show made the decision.
# `owed` is the share of a class's right decisions that owe more than half of their log-odds to the lesions, `flips` the
# share that changes; `called_irregular` is how often a slice without lesions is called irregular. Where a network has
# learnt even odds of such slices, what it calls them is the toss of a coin. Beyond 75 % of one class, whose right decisions
# mostly do not owe so much to the lesions, that class is its `default`.

# %%
dependence = lesion_dependence(predictions)
write_table(dependence, config.paths.lesion_dependence)
record(config.paths.lesion_dependence, parameters={"study": study}, inputs=files)
dependence.style.format(precision=3).hide(axis="index")

# %%
shown = dependence[dependence["selection"] == selection]
figure = dependence_figure(shown, config.pretraining.corpora)
figures.save_figure(figure, shown, study, "lesion_dependence", parameters=parameters, inputs=files)
plt.show(figure)

# %%
networks = shown.groupby(["pretraining", "finetune_depth", "seed"])["default"].first()
print(f"of {len(networks)} networks {(networks != 'none').sum()} take one class for their default")
