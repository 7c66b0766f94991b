# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write the tables of a manuscript
#
# **Question.** How do the statistics look as tables that can be put into a paper as they are?
#
# **Reads** the tables of the statistics. **Writes** `skill`, `effects` and `ranks` as LaTeX and Markdown to
# `figures/<study>/tables`. **Takes** seconds.

# %% [markdown]
# Each estimate stands with its 95 % interval. LaTeX files hold a `tabular` with booktabs rules, to be read in by `\input`
# within a `table` of your own; nothing in them depends on the day, so a paper changes only when its numbers do.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched

# %%
from IPython.display import Markdown
from pretrain_xai.drawing import manuscript_tables
from pretrain_xai.names import use_target
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_table

config = load_study(study)
config.check_selection(selection)
use_target(config.pretraining.target)

inputs = {name: config.paths.statistics / f"{name}.csv" for name in ("cells", "effects", "ranks")}
statistics = {name: read_table(path) for name, path in inputs.items()}
parameters = {"study": study, "selection": selection}

# %% [markdown]
# ## What the intervals are over
#
# Seeds, if the study has several; else subjects with their images, and then nothing is said of other networks.

# %%
cells = statistics["cells"]
units = {"seed": "networks of other seeds on these images", "image": "other images of the same networks, by subject"}
about = f"Skill above chance with 95 % intervals for {units[cells['unit'].iloc[0]]}."
print(about)

# %% [markdown]
# ## Skill of every cell

# %%
skill = manuscript_tables.cells_table(cells)
saved = manuscript_tables.save_table(
    skill, study, "skill", f"{about} Columns: fine-tuned blocks.", parameters=parameters, inputs=[inputs["cells"]]
)
Markdown(saved[1].read_text())

# %% [markdown]
# ## Effects

# %%
effects = manuscript_tables.effects_table(statistics["effects"])
caption = (
    f"Differences of skill. {about} p by t tests, and after Holm's correction within each kind of difference; n: units."
)
saved += manuscript_tables.save_table(
    effects, study, "effects", caption, parameters=parameters, inputs=[inputs["effects"]]
)
Markdown(saved[-1].read_text())

# %% [markdown]
# ## Ranks

# %%
ranks = statistics["ranks"]
difference = ranks["critical_difference"].iloc[0]
caption = f"Methods by mean rank over networks. Ranks further apart than {difference:.2f} differ by Nemenyi's test."
saved += manuscript_tables.save_table(
    manuscript_tables.ranks_table(ranks), study, "ranks", caption, parameters=parameters, inputs=[inputs["ranks"]]
)
Markdown(saved[-1].read_text())

# %% [markdown]
# ## Read the result

# %%
print(f"{len(skill)} + {len(effects)} + {len(ranks)} rows; the files:", *saved, sep="\n")
