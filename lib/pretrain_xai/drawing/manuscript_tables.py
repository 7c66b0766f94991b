"""Tables for papers: estimates with their 95 % intervals, each as LaTeX (booktabs) and as Markdown."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import label
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import record, write_text

#: signs that LaTeX does not know in text, or prints as another
_MATH = {"−": "$-$", "<": "$<$", ">": "$>$", "|": "$|$", "–": "--", "×": r"$\times$", "≥": r"$\geq$", "τ": r"$\tau$"}
#: families of effects in the order of the table, and how each names its rows
_FAMILIES = {
    "corpus": "all",
    "corpus_by_method": "{method}",
    "corpus_by_depth": "{finetune_depth}",
    "corpus_x_depth": "change with depth",
    "depth": "all",
    "depth_by_corpus": "{pretraining}",
}


def cells_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return mean skill with its interval: a row per corpus and method, a column per fine-tuning depth.

    Parameters
    ----------
    cells : DataFrame
        From `effects.cell_table`.
    """
    shown = cells.assign(
        skill=[with_interval(row) for row in cells.itertuples()],
        Corpus=[label(name) for name in cells["pretraining"]],
        Method=[label(name) for name in cells["method"]],
        blocks=[_blocks(depth) for depth in cells["finetune_depth"]],
    )
    wide = shown.pivot(index=["Corpus", "Method"], columns="blocks", values="skill")
    order = pd.MultiIndex.from_frame(shown[["Corpus", "Method"]].drop_duplicates())
    return wide.loc[order, sorted(wide.columns)].rename_axis(columns=None).reset_index()


def effects_table(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of corpus and depth, and the methods beside the comparison maps, in the primary way.

    Parameters
    ----------
    effects : DataFrame
        From `effects.effect_table`.
    """
    primary = effects[effects["way"] == "t"]
    families = _FAMILIES | dict.fromkeys((*COMPARISON_MAPS, "untrained"), "{method}")
    rows = []
    for family, name in families.items():
        for row in primary[primary["family"] == family].to_dict("records"):
            shown = {key: label(str(value)) for key, value in row.items() if isinstance(value, str)}
            shown["finetune_depth"] = _blocks(row["finetune_depth"])
            rows.append({"Difference": _contrast(family, row["contrast"]), "Of": name.format(**shown)} | _numbers(row))
    columns = ["Difference", "Of", "Skill", "p", "p (Holm)", "d", "n"]
    table = pd.DataFrame(rows, columns=columns)
    return table.drop(columns=[name for name in ("d",) if (table[name] == "").all()])


def ranks_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """Return mean ranks over networks and mean skill of each method, best first.

    Parameters
    ----------
    ranks : DataFrame
        The table of `ranks.rank_methods`.
    """
    return pd.DataFrame(
        {
            "Method": [label(method) for method in ranks["method"]],
            "Mean rank": [f"{rank:.2f}" for rank in ranks["mean_rank"]],
            "Mean skill": [number(skill) for skill in ranks["mean_skill"]],
            "Networks": [str(n) for n in ranks["n_networks"]],
        }
    )


def with_interval(row: Any) -> str:
    """Return `estimate [low, high]` with three decimals; a missing end is a dash."""
    return f"{number(row.estimate)} [{number(row.low)}, {number(row.high)}]"


def number(value: float, decimals: int = 3) -> str:
    """Return a number with a true minus; a dash if it is missing. What rounds to 0 has no sign."""
    if pd.isna(value):
        return "–"
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


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
    comment = " ".join(caption.split())
    return f"% {comment} Needs \\usepackage{{booktabs}}.\n{text}"


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """Return a Markdown table with its caption below."""
    cells = [[*table.columns], ["---"] * table.shape[1], *table.to_numpy().tolist()]
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([*lines, "", f"*{' '.join(caption.split())}*", ""])


def save_table(
    table: pd.DataFrame,
    study: str,
    name: str,
    caption: str,
    *,
    parameters: Mapping[str, Any],
    inputs: Iterable[Path] = (),
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


def _blocks(depth: object) -> str:
    return f"{depth} block{'' if str(depth) == '1' else 's'}"


def _contrast(family: str, contrast: str) -> str:
    if family == "corpus_x_depth":
        contrast = contrast.partition(") x (")[0].strip("(")
    one, other = contrast.split(" - ")
    if family.startswith("depth"):
        return f"{one} − {other} blocks"
    return f"{label(one)} − {label(other)}" if family.startswith("corpus") else f"method − {label(other)}"


def _numbers(row: Mapping[str, Any]) -> dict[str, str]:
    skill = f"{number(row['estimate'])} [{number(row['low'])}, {number(row['high'])}]"
    size = "" if pd.isna(row["effect_size"]) else number(row["effect_size"], 1)
    return {
        "Skill": skill,
        "p": p_value(row["p"]),
        "p (Holm)": p_value(row["p_holm"]),
        "d": size,
        "n": str(row["n_units"]),
    }
