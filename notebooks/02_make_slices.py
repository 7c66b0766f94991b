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
# **Reads** the MNI152 template that nilearn ships. **Writes** `data/<study>/slices/`: the lesion-free slices, one row
# per slice, and the participants. **Takes** less than a minute for the demo.

# %% [markdown]
# The anatomy is real, averaged over 152 people; the people are simulated. Each is the template under a smooth random
# deformation, with a contrast, an intensity bias and a noise of its own. *Sex* shifts size and shape so that a
# network can be pre-trained to tell it, as the paper's was on real brains; *age* widens the ventricles. Nothing here says
# anything about real sex or age.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/

# %%
import matplotlib.pyplot as plt
import numpy as np

from pretrain_xai import figures, paths, previews
from pretrain_xai.provenance import record
from pretrain_xai.slices import read_slices, simulate_cohort, simulate_participants, write_slices
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table

config = load_study(study)
settings = config.slices
figures.use_style()

# %% [markdown]
# ## Recruit
#
# Splits are disjoint by subject: slices of one brain resemble each other, and a network that is tested on the
# brains of its training would look better than it is. Networks are pre-trained on yet other subjects.

# %%
participants = simulate_participants(settings.subjects, np.random.default_rng(settings.seed))
assert participants["participant_id"].is_unique
participants.groupby(["split", "sex"], sort=False)["age"].agg(["size", "mean"]).round(1)

# %% [markdown]
# ## Scan
#
# Slices are sampled one subject at a time and streamed to a memory-mapped file.

# %%
folder = paths.slices(study)
cohort = simulate_cohort(participants, settings.slices_per_subject, tuple(settings.z_range), settings.seed)
write_table(participants, folder / "participants.csv")
write_slices(folder, cohort, n_slices=len(participants) * settings.slices_per_subject)
record(folder / "slices.npy", parameters={"study": study, **settings.model_dump()})

# %% [markdown]
# ## Look
#
# One row per subject, from below to above.

# %%
slices, table = read_slices(folder)
n_slices, height, width = slices.shape
figure = previews.slice_figure(slices, table, n_subjects=4)
plt.show(figure)

# %% [markdown]
# ## Compare
#
# Men's simulated brains are larger; the distributions overlap, as real ones do.

# %%
brain = table.assign(brain_share=[(slice_ > 0).mean() for slice_ in slices])
figure, ax = plt.subplots(figsize=(figures.ONE_COLUMN, 2))
previews.plot_distributions(
    ax, brain.groupby(["subject", "sex"], as_index=False)["brain_share"].mean(), "brain_share", "sex"
)
plt.show(figure)

# %%
assert np.isfinite(slices).all() and (brain["brain_share"] > 0.1).all()
print(f"{n_slices} slices of {height} x {width} px from {len(participants)} subjects, saved in {folder}")
