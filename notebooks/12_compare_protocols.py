# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare the study as published and as corrected
#
# **Question.** What does each flaw of the released code do to each number?
#
# **Reads** the scores of the study, of its networks under each switch that needs no training, and of the variants that
# were trained with one switch as published. **Writes** the figure and table `protocols`. **Takes** seconds.

# %% [markdown]
# The released code differs from the paper in sixteen places. Here each is switched back on alone, and all of them
# together (*published*). Rescored switches are compared on the same networks and images, so a difference is the switch
# and nothing else. For the others networks were trained anew on images or layers as published: such a difference holds
# the change of training, too, and with one seed it may be as large as that between two seeds.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
import matplotlib.pyplot as plt

from pretrain_xai import figures, paths
from pretrain_xai.plotting import effect_figure
from pretrain_xai.protocol_effects import RETRAINED, compare_protocols, finished_variants, largest_effects
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table

config = load_study(study)
figures.use_style()

# %% [markdown]
# ## Which variants are there?

# %%
variants = finished_variants(study, config)
missing = [variant for variant in RETRAINED if variant not in variants]
print("retrained:", ", ".join(variants) or "none")
print("not yet:", f"{', '.join(missing)}; `make protocols` makes them" if missing else "none")

# %% [markdown]
# ## Compare, cell by cell

# %%
effects = compare_protocols(study, config, selection, variants)
write_table(effects, paths.data(study) / "protocols.csv")
print(f"{len(effects)} numbers, from {effects['switch'].nunique()} switches")
largest_effects(effects, 20).style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Figure
#
# Changes from corrected to published, means over the fine-tuned models: of each method's median Relevance Rank Accuracy,
# and of the classification metrics. Empty: the switch does not concern it. The published mask is larger, so that the level of
# chance rises with it.

# %%
figure = effect_figure(effects, config.attribution.methods)
inputs = sorted(paths.switch_scores(study).glob("[!.]*.parquet"))
parameters = {"study": study, "selection": selection, "variants": variants}
figures.save_figure(figure, effects, study, "protocols", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## Read the result

# %%
for row in largest_effects(effects, count=20).itertuples():
    print(f"{row.switch}: up to {row.difference:+.3f} ({row.quantity}, {row.pretraining}, depth {row.finetune_depth})")
