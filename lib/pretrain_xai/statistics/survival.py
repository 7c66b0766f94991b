"""Which conclusions survive other ways to score, in sentences whose numbers come from the tables of `sensitivity`."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pretrain_xai.names import label
from pretrain_xai.statistics.populations import CORRECT, INCORRECT

#: how sentences call the populations that they are about
POPULATION_NAMES = {
    CORRECT: "on the images that all models classify correctly",
    INCORRECT: "on the images that each network misclassifies itself",
}
#: so many conclusions about methods are named, those that flip most often
MOST = 4
#: conclusions that are always named
_MAIN = ("first", "corpus", "depth")


def survival_sentences(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Yield sentences with the names of the tables that have their numbers.

    Parameters
    ----------
    tables : dict of DataFrame
        From `sensitivity.sensitivity_tables`, or read from its files; without them there is nothing to say.
    """
    if "sensitivity" not in tables:
        return
    for population, where in POPULATION_NAMES.items():
        rows, asked = tables["sensitivity"], tables["survival"]
        if (rows["population"] == population).any():
            compared = rows[(rows["population"] == population) & rows["tau"].notna()]
            if len(compared):  # one method alone has no order
                yield _order(compared, where), "sensitivity"
            yield _conclusions(asked[asked["population"] == population], where), "survival"


def _order(rows: pd.DataFrame, where: str) -> str:
    lowest = rows.loc[rows["tau"].idxmin()]
    same = len(rows["first"].unique()) == 1
    first = f"{label(rows['first'].iloc[0])} ranks first in all" if same else _firsts(rows)
    depths, interval = (
        str(rows["depths"].iloc[0]).replace(" ", ", "),
        f"{lowest['tau_low']:.2f} to {lowest['tau_high']:.2f}",
    )
    setting = (
        f"{label(lowest['score'])}, mask threshold {lowest['mask_threshold']:.2f}, "
        f"channels {label(lowest['channel_reduction'])}"
    )
    return (
        f"In every way of scoring {where} (depths {depths}), the methods' order agrees with the study's by Kendall's tau of "
        f"{lowest['tau']:.2f} or more (95 % interval there {interval}; {setting}); {first}."
    )


def _firsts(rows: pd.DataFrame) -> str:
    names = rows["first"].value_counts().index
    return f"{', '.join(map(label, names[:-1]))} or {label(names[-1])} ranks first"


def _conclusions(rows: pd.DataFrame, where: str) -> str:
    """Say which of the study's clear conclusions always hold, which are reversed and which are not always clear."""
    clear = rows[rows["default"] != "not clear"]
    main = clear["conclusion"].isin(_MAIN)
    always = clear["kept"] == clear["settings"]
    turned = clear[clear["reversed"] > 0].sort_values("reversed", ascending=False, kind="stable")
    lost = clear[main & (clear["reversed"] == 0) & (clear["lost"] > 0)]
    gained = rows[(rows["gained"] > 0) & rows["conclusion"].isin(_MAIN)]
    listed = {
        "these hold in every way of scoring": [_claim(row) for row in clear[main & always].itertuples()],
        "in some ways the opposite is clear of these": _counted(turned, "reversed"),
        "in some ways these are not clear": _counted(lost, "lost"),
    }
    parts = [f"{words}: {', '.join(names)}" for words, names in listed.items() if names]
    parts += [] if len(turned) else ["none turns round"]
    parts += (
        [f"not clear in the study, but in some ways: {', '.join(_counted(gained, 'gained'))}"] if len(gained) else []
    )
    return f"Of what the study finds clear {where}, {'; '.join(parts)}."


def _counted(rows: pd.DataFrame, change: str) -> list[str]:
    """Return claims with the number of settings; of those about methods only the first MOST, as there may be many."""
    main = rows["conclusion"].isin(_MAIN)
    named = pd.concat([rows[main], rows[~main].head(MOST)])
    words = [f"{_claim(row)} ({getattr(row, change)} of {row.settings} ways)" for row in named.itertuples()]
    return [*words, "and others of methods"] if len(named) < len(rows) else words


def _claim(row: Any) -> str:
    if row.conclusion == "first":
        return f"{label(row.default)} ranks first"
    one, other = (label(name) for name in row.contrast.split(" - "))
    if row.conclusion == "depth":
        one, other = (f"{blocks} fine-tuned block{'s' if blocks != '1' else ''}" for blocks in (one, other))
    if row.default == "not clear":
        return f"{one} against {other}"
    return f"{one} {row.default} {other}"
