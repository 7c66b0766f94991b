# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Build the dataset
#
# **Question.** Do the images hold lesions that tell the class, and nothing else that does?
#
# **Reads** the lesion patches and the slices. **Writes** `data/<study>/dataset/`: images, lesion masks and labels of
# each split, and the audit. **Takes** less than a minute for the demo.

# %% [markdown]
# Three to five lesions of one class are laid over each slice: inside the brain the image becomes
# I' = 1 − (1 − I)(1 − w·L), so a lesion L brightens it by at most w. Everything else must be independent of the class.
# In the released code it was not: a box around each patch was brightened too, round slices always carried the same
# patches, positions came from the random numbers that chose the class. Each of these is a switch in
# `pretrain_xai.protocol`; the audit below finds each of them.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from pretrain_xai.drawing import figures, previews
from pretrain_xai.audit import assert_passed, audit_splits
from pretrain_xai.dataset import build_splits, read_split
from pretrain_xai.lesions import load_patches
from pretrain_xai.provenance import record
from pretrain_xai.slices.sources import slices_of
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table

config = load_study(study)
protocol = config.protocol
folder = config.paths.dataset
figures.use_style()

# %% [markdown]
# ## Lay the lesions
#
# Each split draws from its own patches, each slice from its own seed.

# %%
patches = load_patches(config.paths.lesions)
slices, table = slices_of(config)
pools = build_splits(
    folder, slices, table, patches, config.lesions.patches, config.dataset, protocol, workers=config.workers
)

# %% [markdown]
# ## Look
#
# The outline is the lesion mask at the networks' resolution: every pixel that reaches half of its patch's maximum.

# %%
train = read_split(folder / "train")
n_images, height, width = train.images.shape
figure = previews.image_figure(train, n_shown=8)
plt.show(figure)

# %% [markdown]
# ## Audit
#
# No pixel outside the lesions may differ from the lesion-free slice, and a linear probe must not tell the class from the
# lesion-free slices or from the lesions' positions better than from permuted labels. Patches must be used equally often,
# and neither they nor subjects may appear in two splits.

# %%
audit = audit_splits(folder, pools, seed=config.slices.seed)
write_table(audit, folder / "audit.csv")
audit.style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## What differs between the classes
#
# Irregular patches are wider by construction, so their boxes are larger: with a floor of 0 under the patches that
# can't be seen in the image. Irregular lesions are thinner, and the thinner a lesion the more the resize dims it: this
# belongs to its shape, and is a cue that a network may use beside the outline; below stands how far it goes here. The
# figure says whether masks are of similar size. The centres do not depend on the class.

# %%
images = pd.concat([read_split(folder / split).table for split in pools], ignore_index=True)
lesions = pd.concat([pd.read_csv(folder / split / "lesions.csv") for split in pools], ignore_index=True)
laid = images[images["n_lesions"] > 0]
figure = previews.audit_figure(laid, lesions)
report = laid.groupby("label")[["mask_pixels", "box_pixels", "lightening"]].describe().stack(level=0).reset_index()
figures.save_figure(figure, report, study, "audit", parameters={"study": study, "protocol": config.protocol_name})
plt.show(figure)

# %%
counts = images.groupby(["split", "label"], sort=False).size().unstack()
auroc = roc_auc_score(laid["label"], -laid["lightening"])
area = roc_auc_score(laid["label"], -laid["mask_pixels"] / laid["n_lesions"])
print("what else tells the class (AUROC; .5: not at all):")
print(
    f"how much the lesions lighten the image, {auroc:.2f}; how many pixels of the mask there are a lesion, {area:.2f}"
)
print(f"median mask: {np.median(laid['mask_pixels']) / height / width:.3f} of the image, which is the level of chance")
if len(laid) < len(images):
    print(f"{len(images) - len(laid)} of {len(images)} slices, none of the test images, carry no lesion")
counts

# %% [markdown]
# A failed audit ends here, so that no network is trained on such images. Where the protocol asks for a flaw of the published
# images, the audit is expected to fail and only reported.

# %%
if protocol.corrects_dataset:
    assert_passed(audit)
inputs = [config.paths.lesions, config.paths.slices / "slices.npy"]
record(folder / "audit.csv", parameters={"study": study, "protocol": config.protocol_name}, inputs=inputs)
print(f"saved {', '.join(pools)} in {folder}")
