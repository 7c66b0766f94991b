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
# **Reads** the example maps, images and scores that the study made. **Writes** nothing. **Takes** seconds; choose in the
# menus, or read the montage below where there are no widgets.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt

from pretrain_xai import figures
from pretrain_xai.explorer import Explorer
from pretrain_xai.study import load_study

config = load_study(study)
explorer = Explorer(study, config, selection)
figures.use_style()

# %% [markdown]
# ## Choose
#
# On the left the image with its lesions, then the method's map for the network pre-trained on each corpus. The number is
# the share of the strongest pixels that lie in the lesions.

# %%
menus = widgets.interactive(
    explorer.show,
    image=widgets.Dropdown(options=explorer.image_options, description="image"),
    method=widgets.Dropdown(options=explorer.method_options, description="method"),
    finetune_depth=widgets.SelectionSlider(options=config.finetuning.depths, description="depth"),
)
menus

# %% [markdown]
# ## Montage
#
# The same without widgets: every kept image with one method at the greatest depth.

# %%
figure = explorer.montage(method=config.attribution.methods[0], finetune_depth=config.finetuning.depths[-1])
plt.show(figure)
