"""What the statistics of a study say, in sentences whose numbers come from its tables."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import label
from pretrain_xai.statistics.survival import survival_sentences

Tables = Mapping[str, pd.DataFrame]


class Finding(NamedTuple):
    """A sentence, the table (of `table_names.STATISTICS` or `SENSITIVITY`) that has its numbers and the figure that shows it.

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
    return [
        *(Finding(text, "cells", "skill_intervals", short=True) for text in _caution(tables)),
        *(Finding(text, "effects", "skill_intervals", short=True) for text in _depth(tables)),
        *_corpora(tables),
        *(Finding(text, "ranks", "ranks", short=True) for text in _methods(tables)),
        *(Finding(text, "effects", "skill_intervals") for text in _beside(tables)),
        *(Finding(text, "redundancy", "redundancy") for text in _same_methods(tables)),
        *(Finding(text, "effective_methods", "redundancy") for text in _diversity(tables)),
        *(Finding(*found, "sensitivity") for found in survival_sentences(tables)),
    ]


def _caution(tables: Tables) -> Iterator[str]:
    cells = tables["cells"]
    if (cells["unit"] == "image").all():
        n = cells["n_units"].max()
        yield (
            "With one seed per corpus and depth nothing can be said of networks trained anew: all intervals here are about "
            f"other images of the same networks, from {n} test subjects."
        )


def _corpora(tables: Tables) -> Iterator[Finding]:
    effects = tables["effects"]
    for row in _primary(effects, "corpus").itertuples():
        second, first = row.contrast.split(" - ")
        figure = f"effect_{second}_{first}"
        if _is_clear(row):
            better, worse = (second, first) if row.estimate > 0 else (first, second)
            tested = "Networks" if row.unit == "seed" else "The tested networks"
            text = (
                f"{tested} pre-trained on {label(better)} are explained better than those pre-trained on {label(worse)}"
            )
        else:
            text = f"Whether networks are pre-trained on {label(first)} or {label(second)} makes no clear difference"
        numbers = f"{label(second)} minus {label(first)} {_numbers(row)}{_other_images(effects, row)}"
        yield Finding(f"{text}: {numbers}. {_agreement(effects, row)}", "effects", figure, short=True)
    methods = _primary(effects, "corpus_by_method")
    for contrast, rows in methods.groupby("contrast", sort=False):
        second, first = contrast.split(" - ")
        pair, figure = f"{label(first)} and {label(second)}", f"effect_{second}_{first}"
        clear = rows[rows["p_holm"] < 0.05]
        if len(clear):
            names = ", ".join(f"{label(row.method)} ({row.estimate:+.3f})" for row in clear.itertuples())
            yield Finding(f"After Holm's correction {pair} differ for {names}.", "effects", figure)
        else:
            yield Finding(f"For no single method do {pair} differ after Holm's correction.", "effects", figure)


def _depth(tables: Tables) -> Iterator[str]:
    effects = tables["effects"]
    for row in _primary(effects, "depth").itertuples():
        deepest, shallowest = row.contrast.split(" - ")
        if _is_clear(row):
            how = "better" if row.estimate > 0 else "worse"
            text = f"Fine-tuning {deepest} blocks instead of {shallowest} gives {how} explanations"
        else:
            text = f"Fine-tuning {deepest} blocks instead of {shallowest} makes no clear difference"
        yield f"{text}: {_numbers(row)}{_other_images(effects, row)}. {_agreement(effects, row)}"


def _methods(tables: Tables) -> Iterator[str]:
    ranks = tables["ranks"]
    if len(ranks) < 2:
        return
    best, last = ranks.iloc[0], ranks.iloc[-1]
    tied = ranks.loc[ranks["mean_rank"] <= best["mean_rank"] + best["critical_difference"], "method"].tolist()[1:]
    text = (
        f"Of the methods {label(best['method'])} ranks first (mean rank {best['mean_rank']:.1f}, "
        f"skill {best['mean_skill']:.3f}) and {label(last['method'])} last "
        f"({last['mean_rank']:.1f}, {last['mean_skill']:.3f})"
    )
    if tied:
        text += f"; by Nemenyi's test {', '.join(map(label, tied))} can't be told from the first"
    friedman = f" (Friedman over {best['n_networks']} networks, p = {_p(best['p'])})" if len(ranks) > 2 else ""
    yield f"{text}{friedman}."


def _beside(tables: Tables) -> Iterator[str]:
    for reference in (*COMPARISON_MAPS, "untrained"):
        rows = _primary(tables["effects"], reference)
        if not len(rows):
            continue
        name = "the untrained network" if reference == "untrained" else f"the comparison map {label(reference)}"
        clear = rows["p_holm"] < 0.05
        if (clear & (rows["estimate"] > 0)).all():
            least = rows.loc[rows["estimate"].idxmin()]
            yield (
                f"All methods find the lesions better than {name} on the same images; {label(least.method)} does so by "
                f"the least, {least.estimate:.3f} of skill."
            )
        for word, chosen in (
            ("worse than", clear & (rows["estimate"] < 0)),
            ("not clearly different from", ~clear),
        ):
            names = ", ".join(f"{label(row.method)} ({row.estimate:+.3f})" for row in rows[chosen].itertuples())
            if names:
                yield f"On the same images {word} {name}, after Holm's correction: {names}."


def _same_methods(tables: Tables) -> Iterator[str]:
    same = tables["redundancy"][tables["redundancy"]["same"]]
    kinds = [name for name in ("scores", "maps") if name in same]
    for row in same.itertuples():
        numbers = ", ".join(f"{kind} {getattr(row, kind):.3f}" for kind in kinds)
        yield f"{label(row.method)} and {label(row.other)} are one method here (correlation of {numbers})."


def _diversity(tables: Tables) -> Iterator[str]:
    row = tables["effective_methods"].iloc[-1]
    yield (
        f"By their {row['of']} the {row['n_methods']} methods are as diverse as {row['participation_ratio']:.1f} methods "
        "that have nothing in common (participation ratio of their correlations)."
    )


def _primary(effects: pd.DataFrame, family: str) -> pd.DataFrame:
    return effects[(effects["family"] == family) & (effects["way"] == "t")]


def _numbers(row: Any) -> str:
    unit = {"seed": "seeds", "image": "test subjects"}[row.unit]
    return (
        f"skill {row.estimate:+.3f} (95 % interval {row.low:+.3f} to {row.high:+.3f}, "
        f"{row.n_units} {unit}, p = {_p(row.p)})"
    )


def _other_images(effects: pd.DataFrame, row: Any) -> str:
    """Return the interval that holds for other images, too, where there is one."""
    for other in _same_effect(effects, row, "t_both").itertuples():
        return f"; on other images {other.low:+.3f} to {other.high:+.3f}"
    return ""


def _same_effect(effects: pd.DataFrame, row: Any, way: str | None = None) -> pd.DataFrame:
    same = (effects["family"] == row.family) & (effects["contrast"] == row.contrast)
    return effects[same & ((effects["way"] == way) if way else (effects["way"] != row.way))]


def _agreement(effects: pd.DataFrame, row: Any) -> str:
    """Say which of the other ways to make the interval come to another answer about 0."""
    others = _same_effect(effects, row)
    if not len(others):
        return "This holds for the tested networks only."
    differing = [WAY_NAMES[other.way] for other in others.itertuples() if _is_clear(other) != _is_clear(row)]
    if not differing:
        return "The other ways to make the interval agree."
    return (
        f"Not all ways agree: the interval of the {', '.join(differing)} {'holds' if _is_clear(row) else 'excludes'} 0."
    )


#: the ways of `effects.WAYS` in words
WAY_NAMES = {
    "t": "t interval on seed means",
    "bootstrap_t": "bootstrap-t",
    "hierarchical": "hierarchical bootstrap",
    "t_both": "t interval over seeds and images",
    "mixed_model": "mixed model",
}


def _is_clear(row: Any) -> bool:
    return row.low > 0 or row.high < 0


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"
