# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Find the images to explain
#
# **Question.** Which images does every model classify correctly, and which does each get wrong?
#
# **Reads** the predictions of all models. **Writes** `data/<study>/intersections.csv`. **Takes** seconds.

# %% [markdown]
# Explanations of different models can only be compared on the same images, and an explanation of a wrong
# decision may rightly point elsewhere. The paper scores the images that all models get right, and looks at the
# misclassified ones apart. The weakest models decide how many images are left. Models that could not be matched by their
# accuracy (notebook 12) are left out of that decision.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/

# %%
from pretrain_xai.networks.matching import read_matching, unmatched_runs
from pretrain_xai.provenance import record
from pretrain_xai.selection import CORRECT_FOR_ALL, WRONG_FOR_ONE, find_intersections
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_predictions, write_table

config = load_study(study)

# %% [markdown]
# ## Intersect
#
# On the test images only.

# %%
matching = read_matching(config)
apart = [] if matching is None else unmatched_runs(matching)
predictions = read_predictions(study, config.explained_runs())
test = predictions[predictions["split"] == "test"]
intersections = find_intersections(test, apart)
write_table(intersections, config.paths.intersections)

# %%
files = [config.paths.finetuned(run.name) / "predictions.parquet" for run in config.explained_runs()]
files += [] if matching is None else [config.paths.matching]
record(config.paths.intersections, parameters={"study": study, "split": "test"}, inputs=files)
sizes = intersections.groupby(["selection", "images"])["image_index"].agg(["nunique"])
sizes.rename(columns={"nunique": "images in the list (for wrong_for_one: wrong for any model)"})

# %% [markdown]
# ## Which models get how many wrong?

# %%
wrong = intersections[intersections["images"] == WRONG_FOR_ONE]
wrong.groupby(["selection", "pretraining", "finetune_depth", "seed"]).size().unstack("finetune_depth", fill_value=0)

# %% [markdown]
# ## Are the images that all get right a fair sample?
#
# If one class were easier, the scores would speak of that class.

# %%
correct = test.merge(intersections[intersections["images"] == CORRECT_FOR_ALL][["selection", "image_index"]])
share = correct.drop_duplicates(["selection", "image_index"]).groupby("selection")["label"].agg(["size", "mean"])
print(share.rename(columns={"size": "images right for all", "mean": "share of irregular"}).round(3).to_string())
print(f"not matched and left out: {', '.join(run.name for run in apart) or 'none'}; saved {config.paths.intersections}")
