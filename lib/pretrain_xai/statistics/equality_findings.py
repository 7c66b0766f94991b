"""What a study says of the corpora at equal accuracy, in sentences whose numbers come from its tables."""

from collections.abc import Iterator

import pandas as pd

from pretrain_xai.names import label
from pretrain_xai.networks.matching import NEEDED_SHARE
from pretrain_xai.statistics.findings import Finding, Tables

_UNITS = {"seed": "seeds", "image": "test subjects", "network": "networks"}


def equality_findings(tables: Tables) -> list[Finding]:
    """Return sentences about the matching, the corpus effect in both ways and the correlation of accuracy and skill.

    Parameters
    ----------
    tables : dict of DataFrame
        From `equal_accuracy.equal_accuracy_tables`, or read from its files.
    """
    effects = tables["equal_accuracy"]
    return [
        *(Finding(text, "equal_accuracy", "matching") for text in _matching(effects)),
        *_corpora(effects),
        *(
            Finding(text, "accuracy_correlations", "accuracy_and_skill")
            for text in _correlation(tables["accuracy_correlations"])
        ),
    ]


def _matching(effects: pd.DataFrame) -> Iterator[str]:
    if not len(effects) or pd.isna((facts := effects.iloc[0])["cells"]):
        return
    target, cells, matched = facts["target"], int(facts["cells"]), int(facts["cells_matched"])
    if _failed(effects):
        yield (
            f"Matching by accuracy failed: only {matched} of {cells} cells (corpus and depth) have checkpoints near a common "
            f"validation accuracy ({target:.3f}), so that the corpora can't be compared in this way."
        )
        return
    yield (
        f"By checkpoints along the training {matched} of {cells} cells (corpus and depth) are matched at a validation "
        f"accuracy of {target:.3f}, the largest gap being {facts['largest_gap']:.3f}."
    )


def _corpora(effects: pd.DataFrame) -> Iterator[Finding]:
    for contrast, rows in effects.groupby("contrast", sort=False):
        second, first = contrast.split(" - ")
        found = {answer: row for answer, of in rows.groupby("answer") if (row := _primary(of)) is not None}
        if _failed(effects):
            found.pop("matched", None)
        matched, adjusted = found.get("matched"), found.get("adjusted")
        parts = [f"unadjusted {_numbers(found['unadjusted'])}"] if "unadjusted" in found else []
        if matched is not None:
            parts.append(
                f"on matched networks (blocks {str(matched['depths']).replace(' ', ', ')}; test accuracies "
                f"{matched['lowest_accuracy']:.3f} to {matched['highest_accuracy']:.3f}) {_numbers(matched)}"
            )
            parts.append(f"before matching at these depths {_numbers(found['same_depths'])}")
        if adjusted is not None:
            parts.append(f"with accuracy as a covariate {_numbers(adjusted)}")
        numbers = "; ".join(parts)
        text = f"Skill, {label(second)} minus {label(first)}: {numbers}. {_verdict(matched, adjusted, second, first)}"
        yield Finding(text, "equal_accuracy", f"equal_accuracy_{second}_{first}")


def _verdict(matched: pd.Series | None, adjusted: pd.Series | None, second: str, first: str) -> str:
    """Say whether both ways agree at equal accuracy, or which of them can't answer."""
    if matched is None and adjusted is None:
        return "At equal accuracy this study can't compare the corpora."
    if matched is None or adjusted is None:
        which, missing = ("covariate", "matching") if matched is None else ("matching", "covariate")
        answer = _answer(adjusted if matched is None else matched, second, first)
        return f"At equal accuracy, by the {which} alone (there is no answer by the {missing}): {answer}."
    answers = [_answer(row, second, first) for row in (matched, adjusted)]
    if answers[0] == answers[1]:
        return f"At equal accuracy both ways agree: {answers[0]}."
    overlap = matched["low"] <= adjusted["high"] and adjusted["low"] <= matched["high"]
    return (
        f"At equal accuracy the two ways do not agree: by matching {answers[0]}, by the covariate {answers[1]}; "
        f"their intervals {'overlap' if overlap else 'do not overlap'}."
    )


def _answer(row: pd.Series, second: str, first: str) -> str:
    if row["low"] > 0 or row["high"] < 0:
        better, worse = (second, first) if row["estimate"] > 0 else (first, second)
        tested = "networks" if row["unit"] == "seed" else "the tested networks"
        return f"{tested} pre-trained on {label(better)} are explained better than those on {label(worse)}"
    return "the corpora make no clear difference"


def _correlation(table: pd.DataFrame) -> Iterator[str]:
    """Say how accuracy and skill go together in the main selection, which comes first."""
    rows = table[table["selection"] == table["selection"].iloc[0]].set_index("of")
    whole, partial = rows.loc["all"], rows.loc["given corpus and depth"]
    if pd.isna(whole["r"]):
        return
    text = f"Over {whole['n_networks']:.0f} networks accuracy and skill correlate with {_r(whole)}"
    if not pd.isna(partial["r"]):
        text += f"; with corpus and depth taken out (additive) with {_r(partial)}"
    yield f"{text}."


def _failed(effects: pd.DataFrame) -> bool:
    facts = effects.iloc[0]
    return bool(facts["cells_matched"] / facts["cells"] < NEEDED_SHARE)  # NaN: not matched by checkpoints


def _primary(rows: pd.DataFrame) -> pd.Series | None:
    for way in ("t", "regression"):
        if len(chosen := rows[rows["way"] == way]):
            return chosen.iloc[0]
    return None


def _numbers(row: pd.Series) -> str:
    return (
        f"{row['estimate']:+.3f} (95 % interval {row['low']:+.3f} to {row['high']:+.3f}, "
        f"{row['n_units']} {_UNITS[row['unit']]})"
    )


def _r(row: pd.Series) -> str:
    return f"r = {row['r']:.2f} (95 % interval {row['low']:.2f} to {row['high']:.2f})"
