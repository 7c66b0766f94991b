# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Make the slices
#
# **Question.** Which brains carry the lesions, and how do they vary?
#
# **Reads** what the study's `slices.source` says: the MNI152 template that nilearn ships (`template`), NIfTI volumes
# (`nifti`), the authors' slice pickles (`pickle`), or 2-D arrays (`arrays`); see `docs/own_mri.md`. **Writes**
# `data/<study>/slices/`: the lesion-free slices, one row per slice, the participants, and what was rejected. **Takes**
# less than a minute for the demo.

# %% [markdown]
# In the demo the anatomy is real, averaged over 152 people; the people are simulated. Each is the template under a smooth
# random deformation, with a contrast, an intensity bias and a noise of its own. *Sex* shifts size and shape so that a
# network can be pre-trained to tell it, as the paper's was on real brains; *age* widens the ventricles. Nothing there says
# anything about real sex or age.
#
# Files of real brains are not trusted: one that is damaged, or is not what it says it is, is left out, with the reason.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pretrain_xai.drawing import figures, previews
from pretrain_xai.provenance import record
from pretrain_xai.slices.files import source_state
from pretrain_xai.slices.sources import make_slices, read_slices, rejection_counts, slice_quality
from pretrain_xai.study import load_study

config = load_study(study)
settings = config.slices
target = config.pretraining.target
folder = config.paths.slices
figures.use_style()

# %% [markdown]
# ## Gather
#
# One subject at a time, streamed to a memory-mapped file. Splits are disjoint by subject: slices of one brain resemble
# each other, and a network that is tested on the brains of its training would look better than it is. Networks are
# pre-trained on yet other subjects.

# %%
rejected = make_slices(folder, settings, target)
parameters = {"study": study, "target": target, **settings.model_dump(), "source_state": source_state(settings)}
record(folder / "slices.npy", parameters=parameters)

# %%
slices, table = read_slices(folder)
participants = table.drop_duplicates("subject")
participants.groupby(["split", target], sort=False)["age"].agg(["size", "mean"]).round(1)

# %% [markdown]
# ## Look
#
# One row per subject, from below to above; on the left what pre-training on MRI learns to tell, and the age.

# %%
n_slices, height, width = slices.shape
unit = "mm" if settings.source in ("template", "nifti") else ""
figure = previews.slice_figure(slices, table, n_subjects=4, unit=unit, by=target)
plt.show(figure)

# %% [markdown]
# ## Compare
#
# Splits should be equally bright: their curves (left) lie on each other. The classes that pre-training on MRI learns to tell
# (middle) may differ in size, as brains of men and women do, also the simulated ones. Where the curves do not overlap, size
# alone tells the class.

# %%
quality = slice_quality(slices, table, by=target)
reasons = rejection_counts(rejected)
figure = previews.quality_figure(quality, reasons)
figures.save_figure(figure, pd.concat([quality, reasons], ignore_index=True), study, "slices", parameters=parameters)
plt.show(figure)

# %% [markdown]
# ## What was rejected
#
# All of it stands in `rejected.csv`; a row with a `z` is a single slice, one without a whole file.

# %%
listed = rejected.head(20).style.format(precision=1, na_rep="").hide(axis="index")
listed if len(rejected) else print("nothing was rejected")

# %%
assert all(np.isfinite(slice_).all() and slice_.any() and slice_.min() == 0 for slice_ in slices)
n_files = int(rejected["z"].isna().sum())
print(f"{n_slices} slices of {height} x {width} px from {len(participants)} subjects, saved in {folder}")
print(f"rejected: {n_files} files and {len(rejected) - n_files} single slices")
