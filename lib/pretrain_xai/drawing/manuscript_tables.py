"""Tables for papers: estimates with their 95 % intervals, each as LaTeX (booktabs) and as Markdown."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import blocks, label
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import record, write_text

#: signs that LaTeX does not know in text, or prints as another
_MATH = {"−": "$-$", "<": "$<$", ">": "$>$", "|": "$|$", "–": "--", "×": r"$\times$", "≥": r"$\geq$", "τ": r"$\tau$"}
#: families of effects in the order of the table, and how each names its rows
_FAMILIES = {"corpus": "all", "corpus_by_class": "{lesions}", "corpus_by_method": "{method}"}
_FAMILIES |= {"corpus_by_depth": "{finetune_depth}", "corpus_x_depth": "change with depth", "depth": "all"}
_FAMILIES |= {"depth_by_class": "{lesions}", "depth_by_corpus": "{pretraining}"}
_FAMILIES |= dict.fromkeys((*COMPARISON_MAPS, "untrained"), "{method}")


def cells_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return mean skill with its interval: a row per corpus and method, a column per fine-tuning depth.

    Parameters
    ----------
    cells : DataFrame
        From `effects.cell_table`.
    """
    names = [cells["pretraining"].map(label).rename("Corpus"), cells["method"].map(label).rename("Method")]
    shown = pd.Series(with_interval(cells), [*names, cells["finetune_depth"].map(blocks)])
    return shown.unstack(sort=False).rename_axis(columns=None).reset_index()


def effects_table(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of corpus and depth, and the methods beside the comparison maps, in the primary way.

    Parameters
    ----------
    effects : DataFrame
        From `effects.effect_table`.
    """
    rows = effects[(effects["way"] == "t") & effects["family"].isin(_FAMILIES.keys())]
    rows = rows.sort_values("family", key=lambda family: family.map([*_FAMILIES].index), kind="stable")
    labels = (
        rows[["pretraining", "method", "lesions"]].map(label).assign(finetune_depth=rows["finetune_depth"].map(blocks))
    )
    of = [_FAMILIES[one].format(**row) for one, row in zip(rows["family"], labels.to_dict("records"), strict=True)]
    differences = [_contrast(*pair) for pair in zip(rows["family"], rows["contrast"], strict=True)]
    p = {"p": rows["p"].map(p_value), "p (Holm)": rows["p_holm"].map(p_value)}
    table = pd.DataFrame({"Difference": differences, "Of": of, "Skill": with_interval(rows), **p}, rows.index)
    if rows["effect_size"].notna().any():
        table["d"] = ["" if pd.isna(size) else number(size, 1) for size in rows["effect_size"]]
    return table.assign(n=rows["n_units"].astype(str)).reset_index(drop=True)


def ranks_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """Return mean ranks over networks and mean skill of each method, best first.

    Parameters
    ----------
    ranks : DataFrame
        The table of `summary.rank_methods`.
    """
    table = pd.DataFrame({"Method": ranks["method"].map(label), "Mean rank": ranks["mean_rank"].map("{:.2f}".format)})
    return table.assign(**{"Mean skill": ranks["mean_skill"].map(number)}, Networks=ranks["n_networks"].astype(str))


def with_interval(rows: pd.DataFrame) -> list[str]:
    """Return `estimate [low, high]` of every row, with three decimals."""
    numbers = rows[["estimate", "low", "high"]].map(number)
    return [f"{row.estimate} [{row.low}, {row.high}]" for row in numbers.itertuples()]


def number(value: float, decimals: int = 3) -> str:
    """Return a number with a true minus; a dash if it is missing. What rounds to 0 has no sign."""
    return f"{value:z.{decimals}f}".replace("nan", "–").replace("-", "−")


def p_value(p: float) -> str:
    """Return a p value with three decimals, those below 0.001 as that."""
    return "–" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Return a `tabular` with booktabs rules, the first line a comment with the caption; equal tables give equal text."""
    style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    left = [table.columns.get_loc(name) for name in table if not table[name].str.match(r"[−<]?\d|–").all()]
    columns = "".join("l" if place in left else "r" for place in range(table.shape[1]))
    text = style.to_latex(hrules=True, column_format=columns)
    for sign, command in _MATH.items():
        text = text.replace(sign, command)
    return f"% {' '.join(caption.split())} Needs \\usepackage{{booktabs}}.\n{text}"


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """Return a Markdown table with its caption below."""
    cells = [[*table.columns], ["---"] * table.shape[1], *table.to_numpy().tolist()]
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([*lines, "", f"*{' '.join(caption.split())}*", ""])


def save_table(
    table: pd.DataFrame, study: str, name: str, caption: str, parameters: Mapping[str, Any], inputs: Iterable[Path] = ()
) -> list[Path]:
    """Write `figures/<study>/tables/<name>` as `.tex`, `.md` and `.json` (provenance), each atomically.

    Returns
    -------
    Paths of the LaTeX and of the Markdown file.
    """
    base = Paths(study).figures / "tables" / name
    written = [base.with_suffix(".tex"), base.with_suffix(".md")]
    for path, text in zip(written, (to_latex(table, caption), to_markdown(table, caption)), strict=True):
        write_text(path, text)
    record(written[0], parameters=dict(parameters) | {"caption": caption}, inputs=inputs, to=base.with_suffix(".json"))
    return written


def _contrast(family: str, contrast: str) -> str:
    one, other = contrast.partition(") x (")[0].strip("(").split(" - ")
    if family.startswith("depth"):
        return f"{one} − {other} blocks"
    return f"{label(one)} − {label(other)}" if family.startswith("corpus") else f"method − {label(other)}"
