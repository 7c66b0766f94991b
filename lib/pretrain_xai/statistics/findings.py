"""What the statistics of a study say: which rows of its tables each sentence of `templates/findings.j2` is about."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.networks.matching import NEEDED_SHARE
from pretrain_xai.sentences import sentence
from pretrain_xai.statistics.survival import survival_sentences

Tables = Mapping[str, pd.DataFrame]

#: the ways of `effects.WAYS`, and the regression of `equal_accuracy`, in words
WAY_NAMES = {
    "t": "t interval on seed means",
    "hierarchical": "hierarchical bootstrap",
    "t_both": "t interval over seeds and images",
    "mixed_model": "mixed model",
    "regression": "regression over networks",
}


class Finding(NamedTuple):
    """A sentence, the table (of `table_names`) that has its numbers and the figure that shows it.

    `short` marks those that answer the study's question; the others say more of it.
    """

    text: str
    table: str
    figure: str
    short: bool = False


def findings(tables: Tables) -> list[Finding]:
    """Return sentences about corpora, depth, methods, comparison maps and redundancy.

    Every number stands in one of the tables, rounded as it is there printed: three decimals for skill, one for ranks and
    effective numbers, two for correlations.

    Parameters
    ----------
    tables : dict of DataFrame
        From `summary.study_statistics`, or read from its files; with those of `sensitivity.sensitivity_tables` it also
        says which conclusions survive other ways to score.
    """
    cells, ranks, redundancy = tables["cells"], tables["ranks"], tables["redundancy"]
    effects = _judged(tables["effects"])
    primary = dict(iter(effects[effects["way"] == "t"].groupby("family")))
    found = []
    if (cells["unit"] == "image").all():
        found.append(_say("one_seed", "cells", "skill_intervals", {"n": cells["n_units"].max()}, short=True))
    for family in ("depth", "corpus"):
        for row in _records(primary.get(family, effects[:0])):
            same = effects[(effects["family"] == family) & (effects["contrast"] == row["contrast"])]
            figure = _figure("effect", row["contrast"]) if family == "corpus" else "skill_intervals"
            values = {"row": row, "others": _records(same[same["way"] != "t"])}
            found.append(_say(family, "effects", figure, values, short=True))
    for contrast, rows in primary.get("corpus_by_method", effects[:0]).groupby("contrast", sort=False):
        values = {"contrast": contrast, "rows": _records(rows[rows["p_holm"] < 0.05])}
        found.append(_say("corpus_by_method", "effects", _figure("effect", contrast), values))
    if len(ranks) > 1:
        first, *others, last = _records(ranks)
        reach = first["mean_rank"] + first["critical_difference"]
        tied = [row["method"] for row in (*others, last) if row["mean_rank"] <= reach]
        found.append(_say("methods", "ranks", "ranks", {"first": first, "last": last, "tied": tied}, short=True))
    for reference in (*COMPARISON_MAPS, "untrained"):
        if reference in primary:
            rows = primary[reference]
            clear, above = rows["p_holm"] < 0.05, rows["estimate"] > 0
            values = {"worse": _records(rows[clear & ~above]), "unclear": _records(rows[~clear])}
            least = _records(rows.nsmallest(1, "estimate") if (clear & above).all() else rows[:0])
            values |= {"reference": reference, "least": least}
            found.append(_say("beside", "effects", "skill_intervals", values))
    same = _records(redundancy[redundancy["same"]])
    found += [_say("same", "redundancy", "redundancy", {"row": row}) for row in same]
    diversity = _records(tables["effective_methods"])[-1]
    found.append(_say("diversity", "effective_methods", "redundancy", {"row": diversity}))
    return found + [Finding(text, table, "sensitivity") for text, table in survival_sentences(tables)]


def equality_findings(tables: Tables) -> list[Finding]:
    """Return sentences about the matching, the corpus effect at equal accuracy, and the correlation of accuracy and skill.

    Parameters
    ----------
    tables : dict of DataFrame
        From `equal_accuracy.equal_accuracy_tables`, or read from its files.
    """
    effects, correlations = _judged(tables["equal_accuracy"]), tables["accuracy_correlations"]
    failed = bool((effects["cells_matched"] / effects["cells"] < NEEDED_SHARE).any())  # NaN: not matched by checkpoints
    found = []
    if effects["cells"].notna().any():
        values = {"row": _records(effects)[0], "failed": failed}
        found.append(_say("matching", "equal_accuracy", "matching", values))
    for contrast, rows in effects.groupby("contrast", sort=False):
        # the first way is the primary one, the regression the last
        values = dict.fromkeys(("same_depths", "matched", "adjusted")) | {"contrast": contrast}
        values |= {row["answer"]: row for row in _records(rows.drop_duplicates("answer"))}
        values |= {"matched": None} if failed else {}
        found.append(_say("equality", "equal_accuracy", _figure("equal_accuracy", contrast), values))
    main = correlations[correlations["selection"] == correlations["selection"].iloc[0]].set_index("of")
    whole, partial = main.loc["all"], main.loc["given corpus and depth"]
    if pd.notna(whole["r"]):
        values = {"whole": dict(whole), "partial": dict(partial)}
        found.append(_say("correlation", "accuracy_correlations", "accuracy_and_skill", values))
    return found


def _say(kind: str, table: str, figure: str, values: Mapping[str, Any], *, short: bool = False) -> Finding:
    return Finding(sentence("findings.j2", kind, **values), table, figure, short)


def _figure(name: str, contrast: str) -> str:
    return f"{name}_{contrast.replace(' - ', '_')}"


def _judged(effects: pd.DataFrame) -> pd.DataFrame:
    clear = (effects["low"] > 0) | (effects["high"] < 0)
    return effects.assign(is_clear=clear, way_name=effects["way"].map(WAY_NAMES))


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.to_dict("records")
