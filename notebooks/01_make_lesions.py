# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Make the lesions
#
# **Question.** What are the lesions that a network learns to tell apart, and that an explanation should find?
#
# **Reads** nothing but the study file. **Writes** `data/<study>/lesions.npz`. **Takes** half a minute for the demo.

# %% [markdown]
# The two classes must differ in shape and in nothing else: a network that can tell them by size or by
# brightness is right to look elsewhere, and an explanation method would be blamed for it. The published recipe cuts
# patches of exactly 70 pixels out of smoothed noise, keeps the clearly round and the clearly irregular ones, blurs
# their edges, and drops those whose total weight is off. Some irregular ones still cover less. With `lesions.candidates` more
# patches are made than are needed, and those are taken that are in both classes of equal area and weight.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pretrain_xai.drawing import figures, previews
from pretrain_xai.lesions import generate_patches, match_patches, save_patches
from pretrain_xai.provenance import record
from pretrain_xai.study import load_study

config = load_study(study)
figures.use_style()

# %% [markdown]
# ## Generate
#
# Every split gets its own patches, so that a network is tested on lesions that it has never seen. The released code used
# the same 30 + 30 patches everywhere. Patches have no seed: a longer list begins with the shorter one, and the first 30 are
# the published ones.

# %%
n_per_class = sum(config.lesions.patches.values())
candidates = config.lesions.candidates
patches = generate_patches(candidates or n_per_class, progress=True)
if candidates:
    patches = match_patches(patches, n_per_class)
save_patches(config.paths.lesions, patches)
record(config.paths.lesions, parameters={"study": study, "patches_per_class": n_per_class, "candidates": candidates})

# %% [markdown]
# ## Look
#
# The first patches of each class, enlarged twofold as they are laid over a slice.

# %%
figure = previews.patch_figure(patches, n_shown=8)
plt.show(figure)

# %% [markdown]
# ## Compare
#
# Compactness, 4π·area / perimeter², is 1 for a disc. The classes are far apart in it, and close in weight. Irregular
# patches need larger boxes by construction: this is why corrected placement goes by the centre, where the largest box of
# either class would fit.

# %%
summary = pd.DataFrame(
    [
        {
            "class": name,
            "compactness": patch.compactness,
            "total weight": patch.weights.sum(),
            "area (px)": np.count_nonzero(patch.weights >= patch.weights.max() / 2),
            "box area (px)": patch.weights.size,
        }
        for name, pool in patches.items()
        for patch in pool
    ]
)
assert (summary.groupby("class").size() == n_per_class).all()
summary.groupby("class", sort=False).agg(["min", "median", "max"]).round(2)

# %% [markdown]
# The total weights and areas of the classes overlap, the compactness does not: shape is what tells them apart.

# %%
weight_gap = np.ptp(summary.groupby("class")["total weight"].median()) / summary["total weight"].median()
print(f"{n_per_class} patches of each class; their median weights differ by {weight_gap:.1%}")
print(f"saved {config.paths.lesions}")
