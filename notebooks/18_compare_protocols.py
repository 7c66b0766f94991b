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
# together (*published*). Switches of scoring are compared on the same networks and images, so a difference is the switch
# and the choice of test subjects, whose share the interval shows (95 of 100 resamples of subjects).
#
# For the others networks were trained anew, on a smaller grid. Such a difference holds the chance of training, too. How
# large is that? The corrected study was trained with further seeds; from the spread between seeds follows the **noise
# floor**, within which a difference lies by retraining alone, 95 times in 100. Both chances add: a difference is decided if
# it is larger than √(floor² + half²), where half is the half width of its interval over test subjects. The rest is
# *undecided*.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai.drawing import figures
from pretrain_xai.drawing.heat_tables import protocols_figure
from pretrain_xai.statistics.protocol_effects import ALL_METHODS, RANKING, compare_protocols, conclusions
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table
from pretrain_xai.running.variants import finished_variants, variant_files, variant_states

config = load_study(study)
config.check_selection(selection)
figures.use_style()

# %% [markdown]
# ## Which variants are there?
#
# Only those are compared that were made with the settings and the code of now. Others are missing or out of date: run `make
# protocols`.

# %%
variants = finished_variants(config)
pd.Series(variant_states(config), name="retrained").to_frame()

# %% [markdown]
# ## Compare, cell by cell
#
# Means and effects are over the depths of the smaller grid. Where the test images are the same (`same_images`), both sides
# are scored on the images that were scored in both; where the images themselves change, each on its own. The table
# keeps every cell; shown are the means over the fine-tuned models.

# %%
effects = compare_protocols(config, selection, variants)
write_table(effects, config.paths.data / "protocols.csv")
print(f"{len(effects)} numbers, from {effects['switch'].nunique() - 1} switches, at depths {config.compared_depths}")
shown = effects[(effects["effect"] == "mean") & effects["quantity"].isin(["accuracy", ALL_METHODS, RANKING])]
columns = ["switch", "quantity", "corrected", "switched", "difference", "low", "high", "floor", "verdict"]
shown[columns].style.format(precision=3, na_rep="").hide(axis="index")

# %% [markdown]
# ## Figure
#
# Changes from corrected to published. *Order*: Kendall's tau between the methods' order with and without the switch, minus 1.
# *MRI − photos* and *deep − shallow*: the change of these differences. The published mask is larger, so that the level of
# chance rises with it. Coloured and bold: decided. Pale: decided, but less than training with another seed may change. Grey:
# undecided. A dash: 0 in every resample of subjects. Empty: the switch does not concern it.

# %%
figure = protocols_figure(effects, config.attribution.methods)
inputs = sorted(config.paths.switch_scores.glob("[!.]*.parquet"))
inputs += sorted({path for variant in variants for path in variant_files(study, variant)})
parameters = {"study": study, "selection": selection, "variants": variants}
drawn = effects[effects["effect"] != "cell"]
figures.save_figure(figure, drawn, study, "protocols", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## Read the result
#
# Which conclusions hold?

# %%
print("\n".join(conclusions(effects)))
