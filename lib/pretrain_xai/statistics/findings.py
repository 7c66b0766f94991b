"""What the statistics of a study say: which rows of its tables each sentence of `templates/findings.j2` is about."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import ALL_METHODS, SCORE_LEFT
from pretrain_xai.networks.matching import NEEDED_SHARE
from pretrain_xai.sentences import sentence
from pretrain_xai.statistics.claims import NOT_STUDIED
from pretrain_xai.statistics.dependence import DEPENDENT
from pretrain_xai.statistics.effects import ALL
from pretrain_xai.statistics.sensitivity import CORRECT, INCORRECT
from pretrain_xai.study import MATCHED

Tables = Mapping[str, pd.DataFrame]

#: the ways of `effects`, the primary one first, and the regression of `equal_accuracy`, in words
WAY_NAMES = {
    "t": "t interval on seed means",
    "hierarchical": "hierarchical bootstrap",
    "t_both": "t interval over seeds and images",
    "mixed_model": "mixed model",
    "regression": "regression over networks",
}
_COUNTED = ("sensitivity", "survival")
#: so many conclusions about methods are named, those that flip most often
MOST = 4


class Finding(NamedTuple):
    """A sentence, the table (of `table_names`) that has its numbers and the figure that shows it.

    `short` marks those that answer the study's question; the others say more of it.
    """

    text: str
    table: str
    figure: str
    short: bool = False


def findings(tables: Tables) -> Iterator[Finding]:
    """Yield sentences about corpora, depth, methods, comparison maps and redundancy.

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
    if (cells["unit"] == "image").all():
        yield _say("one_seed", "cells", "skill_intervals", short=True, n=cells["n_units"].max())
    for family in ("depth", "corpus"):
        for row in _records(primary.get(family, effects[:0])):
            same = (effects["family"] == family) & (effects["contrast"] == row["contrast"]) & (effects["way"] != "t")
            figure = _figure("effect", row["contrast"]) if family == "corpus" else "skill_intervals"
            by_class = primary.get(f"{family}_by_class", effects[:0]).query("contrast == @row['contrast']")
            further = {"others": _records(effects[same]), "classes": _records(by_class)}
            yield _say(family, "effects", figure, short=True, row=row, **further)
    yield from _dependence(_judged(tables["skill_by_dependence"]))
    for contrast, rows in primary.get("corpus_by_method", effects[:0]).groupby("contrast", sort=False):
        clear = _records(rows[rows["clear"]])
        yield _say("corpus_by_method", "effects", _figure("effect", contrast), contrast=contrast, rows=clear)
    if len(ranks) > 1:
        first, *_, last = _records(ranks)
        yield _say(
            "methods", "ranks", "ranks", short=True, first=first, last=last, tied=[*ranks.loc[ranks["tied"], "method"]]
        )
    for reference in (*COMPARISON_MAPS, "untrained"):
        if reference in primary:
            rows = primary[reference]
            clear, above = rows["clear"].astype(bool), rows["estimate"] > 0
            values: dict[str, Any] = {"worse": _records(rows[clear & ~above]), "unclear": _records(rows[~clear])}
            least = _records(rows.nsmallest(1, "estimate")) if (clear & above).all() else []
            yield _say("beside", "effects", "skill_intervals", reference=reference, least=least, **values)
    for row in _records(redundancy[redundancy["same"]]):
        yield _say("same", "redundancy", "redundancy", row=row)
    yield _say("diversity", "effective_methods", "redundancy", row=_records(tables["effective_methods"])[-1])
    yield from survival_sentences(tables)


def equality_findings(tables: Tables) -> Iterator[Finding]:
    """Yield sentences about the matching, corpus and depth at equal accuracy, and the correlation of accuracy and skill.

    Parameters
    ----------
    tables : dict of DataFrame
        From `equal_accuracy.equal_accuracy_tables`, or read from its files.
    """
    effects, correlations = _judged(tables["equal_accuracy"]), tables["accuracy_correlations"]
    failed = bool((effects["cells_matched"] / effects["cells"] < NEEDED_SHARE).any())  # NaN: not matched by checkpoints
    if effects["cells"].notna().any():
        yield _say("matching", "equal_accuracy", "matching", row=_records(effects)[0], failed=failed)
    spread = tables["test_spread"]
    if len(rows := spread[(spread["selection"] == MATCHED) & (spread["n_networks"] > 0)]):
        yield _say("spread", "test_spread", "accuracy_and_skill", rows=_records(rows))
    of_corpora = effects["pretraining"] == ALL
    for contrast, rows in effects[of_corpora].groupby("contrast", sort=False):
        # the first way is the primary one, the regression the last
        values: dict[str, Any] = dict.fromkeys(("same_depths", "matched", "adjusted"))
        values |= {row["answer"]: row for row in _records(rows.drop_duplicates("answer"))}
        values |= {"matched": None} if failed else {}
        yield _say("equality", "equal_accuracy", _figure("equal_accuracy", contrast), contrast=contrast, **values)
    for corpus, rows in effects[~of_corpora & (not failed)].groupby("pretraining", sort=False):
        before, after = _records(rows.drop_duplicates("answer"))
        yield _say("equal_depth", "equal_accuracy", "matching", corpus=corpus, before=before, after=after)
    for selection, rows in tables["claims"].groupby("selection", sort=False):
        if (rows["verdict"] != NOT_STUDIED).any():
            yield _say("the_paper", "claims", "accuracy_and_skill", selection=selection, rows=_records(rows))
    main = correlations[correlations["selection"] == correlations["selection"].iloc[0]].set_index("of")
    if pd.notna(main.at["all", "r"]):
        values = {"whole": dict(main.loc["all"]), "partial": dict(main.loc["given corpus and depth"])}
        yield _say("correlation", "accuracy_correlations", "accuracy_and_skill", **values)


def explained_finding(table: pd.DataFrame) -> Finding:
    """Return the sentence on whether it matters that maps explain one logit, from `sanity.logit_or_difference`."""
    whole, methods = table["method"] == ALL_METHODS, table[table["method"] != ALL_METHODS]
    largest = _records(methods.loc[[methods["change"].abs().idxmax()]])[0]
    return _say("explained", "explained", "sanity_checks", largest=largest, networks=_records(table[whole]))


def survival_sentences(tables: Tables) -> Iterator[Finding]:
    """Yield sentences about which conclusions survive other ways to score.

    Parameters
    ----------
    tables : dict of DataFrame
        From `sensitivity.sensitivity_tables`, or read from its files; without them there is nothing to say.
    """
    if "sensitivity" not in tables:
        return
    for name in (CORRECT, INCORRECT):
        rows, asked = (tables[of][(tables[of]["population"] == name) & _plain(tables[of])] for of in _COUNTED)
        if len(ranked := rows.dropna(subset="tau")):  # one method alone has no order
            lowest, firsts = ranked.loc[ranked["tau"].idxmin()], ranked["first"].value_counts().index.tolist()
            yield _say("order", "sensitivity", "sensitivity", population=name, lowest=lowest, firsts=firsts)
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
            rows_of: dict[str, Any] = {kind: _records(chosen) for kind, chosen in lists.items()}
            rows_of["more"] = len(of_methods) > MOST
            yield _say("conclusions", "survival", "sensitivity", population=name, **rows_of)
    yield from truth_sentences(tables)


def truth_sentences(tables: Tables) -> Iterator[Finding]:
    """Yield sentences about what a score of 1 would mean, and which conclusions depend on ground truth or sign.

    Parameters
    ----------
    tables : dict of DataFrame
        As for `survival_sentences`.
    """
    levels = tables["ground_truths"].dropna().set_index("ground_truth")
    if "difference" in levels.index:
        yield _say("levels", "ground_truths", "sensitivity", levels=levels.to_dict("index"))
    asked, flips = (
        table[
            (table["population"] == CORRECT) & ~_plain(table) & table["conclusion"].isin(["first", "corpus", "depth"])
        ]
        for table in (tables["survival"], tables["flips"])
    )
    key, always, turned = ["conclusion", "contrast", "default"], list[Any](), list[Any]()
    for about in _records(asked[key].drop_duplicates()):
        rows = flips[(flips[key] == pd.Series(about)).all(axis=1)]
        becomes = rows.groupby("found" if about["conclusion"] == "first" else "change", sort=False)
        if len(rows):
            turned.append(about | {"becomes": {now: _records(of_now) for now, of_now in becomes}})
        elif about["default"] != "not clear":
            always.append(about)
    if len(asked):
        yield _say("dependent", "flips", "sensitivity", always=always, turned=turned)


def sanity_findings(means: pd.DataFrame) -> Iterator[Finding]:
    """Yield the sentence on how much of a score is left when the classifier is random; none where no map found the lesions.

    Parameters
    ----------
    means : DataFrame
        The rows of `sanity.mean_similarity`, with those of `sanity.score_left`.
    """
    left = means[(means["measure"] == SCORE_LEFT) & (means["layer"] == "fc1")].dropna(subset="mean").sort_values("mean")
    whole, methods = left[left["method"] == ALL_METHODS], left[left["method"] != ALL_METHODS]
    if len(whole):
        ends = _records(methods.iloc[[0, -1]])
        yield _say("sanity", "sanity_checks", "sanity_checks", short=True, whole=_records(whole)[0], ends=ends)


def _dependence(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield whether corpora differ on the images whose decision depends on the lesions, too."""
    for contrast, rows in table[table["family"].str.startswith("corpus")].groupby("contrast", sort=False):
        whole, *of_images = (_records(rows[rows["images"] == name]) for name in (ALL, DEPENDENT))
        (dependent, *classes), figure = of_images[0], _figure("effect", str(contrast))
        values = {"whole": whole[0], "row": dependent, "classes": classes}
        yield _say("on_dependent", "skill_by_dependence", figure, short=True, **values)


def _say(kind: str, table: str, figure: str, *, short: bool = False, **values: Any) -> Finding:
    return Finding(sentence("findings.j2", kind, **values), table, figure, short)


def _plain(table: pd.DataFrame) -> "pd.Series[bool]":
    """Tell the settings with the lesions as ground truth and all values of the maps."""
    return (table["ground_truth"] == "lesion") & (table["sign"] == "unsigned")


def _figure(name: str, contrast: str) -> str:
    return f"{name}_{contrast.replace(' - ', '_')}"


def _judged(effects: pd.DataFrame) -> pd.DataFrame:
    clear = (effects["low"] > 0) | (effects["high"] < 0)
    return effects.assign(is_clear=clear, way_name=effects["way"].map(WAY_NAMES))


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.to_dict("records")
