"""Figures of equal accuracy: how models were matched, accuracy beside skill, and the effect of the corpus both ways."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS
from pretrain_xai.drawing.statistics_plots import MARKERS, plot_effects
from pretrain_xai.names import colour, label
from pretrain_xai.statistics.findings import WAY_NAMES

_LINES = ("-", (0, (3, 1.5)))
_TARGET = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 0.7, "zorder": 1}


def plot_matching(ax: Axes, checkpoints: pd.DataFrame, matched: pd.DataFrame, corpora: Sequence[str]) -> Axes:
    """Draw the validation accuracy along the trainings of one depth, with the chosen checkpoints; hollow: not matched.

    Parameters
    ----------
    checkpoints : DataFrame with `pretraining`, `finetune_depth`, `seed`, `step`, `validation_accuracy`
    matched : DataFrame
        From `matching.match_checkpoints`.
    """
    for corpus, rows in checkpoints.groupby("pretraining"):
        number = list(corpora).index(corpus)
        for _, line in rows.groupby("seed"):
            style = {"color": colour(corpus), "linewidth": 0.8, "linestyle": _LINES[number % len(_LINES)]}
            ax.plot(line["step"], line["validation_accuracy"], **style)
    for row in matched.itertuples():
        number = list(corpora).index(row.pretraining)
        ax.plot(row.step, row.validation_accuracy, **_marker(row.pretraining, number, filled=row.matched), zorder=3)
    ax.axhline(matched["target"].iloc[0], **_TARGET)
    return ax


def matching_figure(
    checkpoints: pd.DataFrame, matched: pd.DataFrame, corpora: Sequence[str], tolerance: float
) -> Figure:
    """Draw `plot_matching` of every depth side by side; the band is the tolerance around the common accuracy."""
    depths = sorted(matched["finetune_depth"].unique())
    figure, axes = plt.subplots(
        1, len(depths), figsize=(TWO_COLUMNS, 2.2), sharey=True, sharex=True, squeeze=False, layout="constrained"
    )
    target = matched["target"].iloc[0]
    for ax, depth in zip(axes.flat, depths, strict=True):
        of = [table[table["finetune_depth"] == depth] for table in (checkpoints, matched)]
        plot_matching(ax, *of, corpora).set_title(f"{depth} block{'s' if depth > 1 else ''}")
        ax.axhspan(target - tolerance, target + tolerance, color="0.88", zorder=0)
    axes[0, 0].set_ylabel("validation accuracy")
    figure.supxlabel("training step", fontsize=7)
    handles = [
        Line2D([], [], **_marker(corpus, number, filled=True), label=label(corpus))
        for number, corpus in enumerate(corpora)
    ]
    handles.append(Line2D([], [], **_TARGET, label=f"common accuracy ± {tolerance:g}"))
    if not matched["matched"].all():
        handles.append(not_matched("o"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def plot_accuracy_and_skill(ax: Axes, networks: pd.DataFrame, corpora: Sequence[str]) -> Axes:
    """Draw every network at its test accuracy and mean skill, the larger the deeper; hollow: not matched.

    Parameters
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `accuracy`, `skill`, `matched`
    """
    for row in networks.itertuples():
        number = list(corpora).index(row.pretraining)
        size = {"markersize": _marker_size(row.finetune_depth)}
        ax.plot(row.accuracy, row.skill, **_marker(row.pretraining, number, filled=row.matched) | size)
    ax.margins(0.09)
    ax.set_xlabel("test accuracy")
    return ax


def accuracy_figure(networks: pd.DataFrame, correlations: pd.DataFrame, corpora: Sequence[str]) -> Figure:
    """Draw `plot_accuracy_and_skill` of every selection, with the correlation and its 95 % interval in the title.

    The correlation is that of the matched networks where some are not; a title without it has too few networks.

    Parameters
    ----------
    networks, correlations : DataFrame
        The tables `accuracy_and_skill` and `accuracy_correlations` of `equal_accuracy.equal_accuracy_tables`.
    """
    selections = list(dict.fromkeys(networks["selection"]))
    size = (TWO_COLUMNS if len(selections) > 1 else ONE_COLUMN, 2.7)
    figure, axes = plt.subplots(1, len(selections), figsize=size, squeeze=False, layout="constrained")
    of_all = correlations[correlations["of"] == "all"].set_index("selection")
    for ax, selection in zip(axes.flat, selections, strict=True):
        plot_accuracy_and_skill(ax, networks[networks["selection"] == selection], corpora)
        row = of_all.loc[selection]
        r = "" if pd.isna(row["r"]) else f": r = {row['r']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        ax.set_title(f"{label(selection)}{r}")
    axes[0, 0].set_ylabel("skill, mean over methods")
    handles = [
        Line2D([], [], **_marker(corpus, number, filled=True), label=label(corpus))
        for number, corpus in enumerate(corpora)
    ]
    grey = {
        "linestyle": "",
        "marker": "o",
        "markerfacecolor": "0.85",
        "markeredgecolor": "black",
        "markeredgewidth": 0.5,
    }
    for depth in sorted({networks["finetune_depth"].min(), networks["finetune_depth"].max()}):
        words = f"{depth} fine-tuned block{'s' if depth > 1 else ''}"
        handles.append(Line2D([], [], **grey, markersize=_marker_size(depth), label=words))
    if not networks["matched"].all():
        handles.append(not_matched("o"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def equality_figure(effects: pd.DataFrame, contrast: str) -> Figure:
    """Draw the corpus effect before and at equal accuracy, each in its ways, with 95 % intervals.

    Parameters
    ----------
    effects : DataFrame
        The table `equal_accuracy` of `equal_accuracy.equal_accuracy_tables`.
    """
    of = effects[effects["contrast"] == contrast]
    parts = [(answer, of[of["answer"] == answer]) for answer in _ANSWERS if (of["answer"] == answer).any()]
    size = (ONE_COLUMN, 0.15 * len(of) + 0.3 * len(parts) + 0.5)
    heights = [len(rows) + 0.6 for _, rows in parts]
    figure, axes = plt.subplots(
        len(parts), 1, figsize=size, sharex=True, squeeze=False, layout="constrained", height_ratios=heights
    )
    for ax, (answer, rows) in zip(axes.flat, parts, strict=True):
        names = ["t interval over images" if row.unit == "image" else _WAYS[row.way] for row in rows.itertuples()]
        title = f"{_ANSWERS[answer]} (blocks {_range(rows['depths'].iloc[0])})"
        plot_effects(ax, rows, names).set_title(title, loc="right")  # it may be longer than the axes are wide
    second, first = contrast.split(" - ")
    axes[-1, 0].locator_params(axis="x", nbins=5)
    axes[-1, 0].set_xlabel(f"skill, {label(second)} minus {label(first)}")
    return figure


def _range(depths: str) -> str:
    """Return "1 2 3" as "1 to 3", which leaves a title its room."""
    numbers = [int(depth) for depth in str(depths).split()]
    without_gaps = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if without_gaps else " ".join(map(str, numbers))


#: the answers of `equal_accuracy.ANSWERS` in words
_ANSWERS = {
    "unadjusted": "all networks",
    "adjusted": "accuracy as a covariate",
    "same_depths": "the depths that match",
    "matched": "matched networks",
}
_WAYS = WAY_NAMES | {"regression": "regression over networks"}


def not_matched(marker: str) -> Line2D:
    """Return the line of a legend for networks that are not matched."""
    style = {"markersize": 4, "markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.6}
    return Line2D([], [], linestyle="", marker=marker, label="not matched", **style)


def _marker_size(finetune_depth: int) -> float:
    return 2.2 + 0.8 * finetune_depth


def _marker(corpus: str, number: int, *, filled: bool) -> dict:
    return {
        "linestyle": "",
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "markerfacecolor": colour(corpus) if filled else "white",
        "markeredgecolor": "black" if filled else colour(corpus),
        "markeredgewidth": 0.5 if filled else 1.0,
    }
