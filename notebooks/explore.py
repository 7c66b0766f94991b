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
import matplotlib.pyplot as plt

from pretrain_xai.drawing import figures
from pretrain_xai.explorer.data import Explorer
from pretrain_xai.explorer.controls import ExplorerControls
from pretrain_xai.explorer.view import montage

figures.use_style()

# %% [markdown]
# ## Choose
#
# Each row is a network: on the left the image with its lesions outlined, what the network takes it for (✓ right, ✗ wrong)
# and with which probability. Then a map of each method. The number above a map is its Relevance Rank Accuracy: if
# the lesions have k pixels, the share of the k strongest pixels that lie in them. The strip below shows where that stands
# among all scored images, and chance.
#
# - **Several at once**: hold Ctrl (or Shift and the arrow keys) in corpora, depths and methods.
# - **Images** are listed with the number that they are sorted by: the score, averaged over what is chosen, or how far apart
#   the methods are. A click on a row, or an arrow key, opens the image.
# - **Show**: *map* is what is scored, each scaled to its own maximum; *signed map* tells what speaks for the true class from
#   what speaks against it; *hits and misses* are the k strongest pixels against the lesions.
# - The study kept maps of a few images only, without their sign. *Compute* makes those that are missing, also of methods
#   that the study did not run.

# %%
ExplorerControls(study, selection)

# %% [markdown]
# ## Montage
#
# The same without widgets: every kept image with the first method, for the networks of the greatest depth.

# %%
explorer = Explorer(study)
method, depth = explorer.study.attribution.methods[0], explorer.study.finetuning.depths[-1]
runs = explorer.runs(selection, explorer.study.pretraining.corpora, [depth])
figure = montage(explorer, runs, method)
plt.show(figure)

# %% [markdown]
# ## Read the result

# %%
scored = explorer.images(runs, [method], "scored", "lowest score")
worst, best = scored.iloc[0], scored.iloc[-1]
print(
    f"{len(scored)} scored images; {method} finds least in image {worst['image_index']:.0f} ({worst['score']:.2f})",
    end=" ",
)
print(
    f"and most in image {best['image_index']:.0f} ({best['score']:.2f}), mean of {len(runs)} networks of depth {depth}"
)
