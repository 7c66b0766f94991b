# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explore images, maps and scores
#
# **Question.** What does a map look like where it scores well, and where it fails?
#
# **Reads** the images, networks, scores and example maps that a study made. **Writes** `figures/<study>/<name>` when
# you press *export this view*, else nothing. **Takes** seconds; choose in the menus, or read the montage below where there
# are no widgets.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
from IPython.display import display

from pretrain_xai.drawing import figures
from pretrain_xai.explorer.data import Choice, Explorer
from pretrain_xai.explorer.view import ExplorerControls, explorer_figure

explorer = Explorer(study, selection)
figures.use_style(explorer.study.pretraining.target)

# %% [markdown]
# ## Choose
#
# Each row is a network: on the left the image with its lesions outlined, what the network takes it for (✓ right, ✗ wrong)
# and with which probability. Then a map of each method. The number above a map is its Relevance Rank Accuracy: if
# the lesions have k pixels, the share of the k strongest pixels that lie in them. The strip below shows where that stands
# among all scored images, and chance.
#
# - **Several at once**: hold Ctrl (or Shift and the arrow keys) in networks and methods. For another study or selection
#   change the first code cell and run all again.
# - **Images** are listed with the number that they are sorted by: the score, averaged over what is chosen, or how far apart
#   the methods are. A click on a row, or an arrow key, opens the image.
# - **Show**: *map* is what is scored, each scaled to its own maximum; *signed map* tells what speaks for the true class from
#   what speaks against it; *hits and misses* are the k strongest pixels against the lesions.
# - The study kept maps of a few images only, without their sign. *Compute* makes those that are missing, also of methods
#   that the study did not run.

# %%
ExplorerControls(explorer)

# %% [markdown]
# ## Montage
#
# The same without widgets: every image of which maps were kept, with the first methods, for the networks of the greatest
# depth.

# %%
runs, methods = tuple(explorer.deepest), tuple(explorer.study.attribution.methods[:4])
for image in explorer.kept_images(runs):
    figure, numbers = explorer_figure(explorer, Choice(image, runs, methods), "map", 1.0)
    display(figure)

# %% [markdown]
# ## Read the result

# %%
method, depth = methods[0], runs[0].finetune_depth
scored = explorer.images(runs, [method], "scored", "lowest score")
worst, best = scored.iloc[0], scored.iloc[-1]
print(
    f"{len(scored)} scored images; {method} finds least in image {worst['image_index']:.0f} ({worst['score']:.2f})",
    end=" ",
)
print(
    f"and most in image {best['image_index']:.0f} ({best['score']:.2f}), mean of {len(runs)} networks of depth {depth}"
)
