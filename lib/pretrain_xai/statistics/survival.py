"""Which conclusions survive other ways to score, in sentences whose numbers come from the tables of `sensitivity`."""

from collections.abc import Iterator, Mapping

import pandas as pd

from pretrain_xai.sentences import sentence
from pretrain_xai.statistics.populations import CORRECT, INCORRECT

#: how sentences call the populations that they are about
POPULATION_NAMES = {
    CORRECT: "on the images that all models classify correctly",
    INCORRECT: "on the images that each network misclassifies itself",
}
#: so many conclusions about methods are named, those that flip most often
MOST = 4


def survival_sentences(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Yield sentences with the names of the tables that have their numbers.

    Parameters
    ----------
    tables : dict of DataFrame
        From `sensitivity.sensitivity_tables`, or read from its files; without them there is nothing to say.
    """
    for population, where in POPULATION_NAMES.items() if "sensitivity" in tables else ():
        rows, asked = (
            table[table["population"] == population] for table in (tables["sensitivity"], tables["survival"])
        )
        if len(ranked := rows.dropna(subset="tau")):  # one method alone has no order
            lowest, firsts = ranked.loc[ranked["tau"].idxmin()], ranked["first"].value_counts().index.tolist()
            yield sentence("survival.j2", "order", where=where, lowest=lowest, firsts=firsts), "sensitivity"
        if len(asked):
            clear, main = asked["default"] != "not clear", asked["conclusion"].isin(["first", "corpus", "depth"])
            turned = asked[clear & (asked["reversed"] > 0)].sort_values("reversed", ascending=False, kind="stable")
            of_methods = turned[~main.loc[turned.index]]
            lists = {
                "always": asked[clear & main & (asked["kept"] == asked["settings"])],
                "turned": pd.concat([turned[main.loc[turned.index]], of_methods.head(MOST)]),
                "lost": asked[clear & main & (asked["reversed"] == 0) & (asked["lost"] > 0)],
                "gained": asked[main & (asked["gained"] > 0)],
            }
            rows_of = {name: chosen.to_dict("records") for name, chosen in lists.items()}
            more = len(of_methods) > MOST
            yield sentence("survival.j2", "conclusions", where=where, more=more, **rows_of), "survival"
