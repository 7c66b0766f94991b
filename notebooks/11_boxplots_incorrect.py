# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare the methods on misclassified images
#
# **Question.** Do explanations find the lesions where the model is wrong about them?
#
# **Reads** the scores of all models. **Writes** the figure `boxplots_wrong`. **Takes** seconds.

# %% [markdown]
# Every model is scored on the images that it gets wrong itself, so the boxes of a panel stand for different images,
# and a model that is rarely wrong has few: the table counts them. A box of one or two images is a line, and says no more than
# those images do. The explained class is the true one.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
import matplotlib.pyplot as plt

from pretrain_xai.drawing import figures
from pretrain_xai.drawing.boxplots import boxplot_figure, score_box_data
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_scores

config = load_study(study)
config.check_selection(selection)
methods, corpora = config.attribution.methods, config.pretraining.corpora
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the scores

# %%
scores = read_scores(study).query("selection == @selection and metric == 'relevance_rank_accuracy'")
wrong = scores[(scores["finetune_depth"] > 0) & (scores["label"] != scores["predicted"])]
counts = wrong.groupby(["pretraining", "finetune_depth"], observed=True)["image_index"].nunique().unstack(fill_value=0)
counts

# %% [markdown]
# ## Figure

# %%
figure = boxplot_figure(wrong, methods, corpora, ylabel="Relevance Rank Accuracy")
parameters = {"study": study, "selection": selection, "images": "wrong_for_one"}
inputs = sorted(config.paths.scores.glob("[!.]*.parquet"))
figures.save_figure(figure, score_box_data(wrong), study, "boxplots_wrong", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## Read the result

# %%
right = scores[(scores["finetune_depth"] > 0) & (scores["label"] == scores["predicted"])]
medians = [group.groupby("finetune_depth")["value"].median() for group in (right, wrong)]
print("median Relevance Rank Accuracy over all methods, by depth")
print("right:", medians[0].round(3).to_dict())
print("wrong:", medians[1].round(3).to_dict() or "no misclassified image was scored")
