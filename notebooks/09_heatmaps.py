# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Draw heatmaps
#
# **Question.** Where do the methods look, and does it change with the fine-tuning depth?
#
# **Reads** the example maps of all models. **Writes** the figures `heatmaps_correct_<corpus>` and
# `heatmaps_wrong_<corpus>`. **Takes** half a minute.

# %% [markdown]
# A figure per corpus, methods in rows and depths in columns, as in the paper: once for an image that every model classifies
# correctly, once for the one that most models get wrong. The number in each map is its Relevance Rank Accuracy. Each map is
# scaled to its own maximum, so brightness cannot be compared between maps.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
example: int = 0  # which of the kept images, 0 ... attribution.example_images - 1

# %%
import matplotlib.pyplot as plt

from pretrain_xai.drawing import figures
from pretrain_xai.dataset import read_split
from pretrain_xai.setting_scores import read_examples
from pretrain_xai.drawing.previews import heatmap_figure
from pretrain_xai.selection import example_images
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_table

config = load_study(study)
config.check_selection(selection)
settings = config.attribution
figures.use_style(config.pretraining.target)

# %% [markdown]
# ## Load the maps

# %%
test = read_split(config.paths.dataset / "test", config.protocol.mask_threshold)
intersections = read_table(config.paths.intersections)
chosen = example_images(intersections, selection, test.labels, settings.example_images, settings.seed)
maps = read_examples(config, selection, test)
parameters = {"study": study, "selection": selection, "example": example}
chosen

# %% [markdown]
# ## An image that every model gets right

# %%
correct = chosen.loc[chosen["correct"], "image_index"].iloc[example]
for corpus in config.pretraining.corpora:
    shown = maps[(maps["pretraining"] == corpus) & (maps["image_index"] == correct)]
    figure = heatmap_figure(test.images[correct], test.masks[correct], shown, settings.methods)
    figures.save_figure(figure, shown.drop(columns="map"), study, f"heatmaps_correct_{corpus}", parameters=parameters)
    plt.show(figure)

# %% [markdown]
# ## The image that most models get wrong
#
# A cross beside a depth marks the models that are wrong about it. An explanation of the true label may be right where
# the decision is wrong.

# %%
wrong = chosen.loc[~chosen["correct"], "image_index"].iloc[:1]
for corpus in config.pretraining.corpora if len(wrong) else []:
    shown = maps[(maps["pretraining"] == corpus) & (maps["image_index"] == wrong.iloc[0])]
    figure = heatmap_figure(test.images[wrong.iloc[0]], test.masks[wrong.iloc[0]], shown, settings.methods)
    figures.save_figure(figure, shown.drop(columns="map"), study, f"heatmaps_wrong_{corpus}", parameters=parameters)
    plt.show(figure)

# %% [markdown]
# ## Read the result

# %%
by_depth = maps[maps["image_index"] == correct].groupby(["pretraining", "finetune_depth"])["score"].mean()
print("mean Relevance Rank Accuracy over the methods, for the image that every model gets right:")
print(by_depth.unstack().round(2).to_string())
