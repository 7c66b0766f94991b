"""Figures of the statistics: intervals, effects, ranks, power, and accuracy beside skill. As in `boxplots`: data and axes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pretrain_xai.drawing.figures import (
    CHANCE_LINE,
    ONE_COLUMN,
    TWO_COLUMNS,
    Style,
    corpus_handles,
    marker,
    panel_grid,
    panels,
)
from pretrain_xai.names import colour, label
from pretrain_xai.skill import skill
from pretrain_xai.statistics.findings import WAY_NAMES
from pretrain_xai.statistics.power import POWER
from pretrain_xai.statistics.summary import ALPHA

_BRAIN = CHANCE_LINE | {"linestyle": (0, (1, 2)), "linewidth": 0.9}
_NOT_MATCHED = Line2D([], [], **marker("", 0, filled=False) | {"markeredgecolor": "black"}, label="not matched")
#: the answers of `equal_accuracy.ANSWERS` in words
_ANSWERS = {
    "unadjusted": "all networks",
    "adjusted": "accuracy as a covariate",
    "same_depths": "the depths that match",
    "matched": "matched networks",
}


def plot_cells(ax: Axes, cells: pd.DataFrame, corpora: Sequence[str]) -> Axes:
    """Draw one method's mean skill with its 95 % interval, by depth and corpus; dashed: chance, dotted: within the brain.

    Parameters
    ----------
    cells : DataFrame
        Rows of `effects.cell_table` of one method.
    """
    depths = sorted(cells["finetune_depth"].unique())
    for number, corpus in enumerate(corpora):
        rows = cells[cells["pretraining"] == corpus].sort_values("finetune_depth")
        places = rows["finetune_depth"].map(depths.index) + 0.22 * (number - (len(corpora) - 1) / 2)
        widths = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
        bars: Style = {"ecolor": "black", "elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7}
        ax.errorbar(places, rows["estimate"], yerr=widths, **marker(corpus, number), **bars)
    ax.axhline(0, **CHANCE_LINE)
    if "chance_brain" in cells:
        ax.axhline(float(skill(cells["chance_brain"].mean(), cells["chance"].mean())), **_BRAIN)
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    ax.set_xlim(-0.5, len(depths) - 0.5)
    return ax


def cells_figure(cells: pd.DataFrame, methods: Sequence[str], corpora: Sequence[str]) -> Figure:
    """Draw `plot_cells` of every method, in rows of four."""
    figure, axes = panel_grid(len(methods), 1.7, room=0.6)
    for ax, method in zip(axes.flat, methods, strict=False):
        plot_cells(ax, cells[cells["method"] == method], corpora).set_title(label(method))
    for ax in axes[:, 0]:
        ax.set_ylabel("skill")
    figure.supxlabel("fine-tuned blocks")
    handles = [*corpus_handles(corpora), Line2D([], [], label="chance in the image", **CHANCE_LINE)]
    handles += [Line2D([], [], label="chance in the brain", **_BRAIN)] if "chance_brain" in cells else []
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def plot_intervals(ax: Axes, effects: pd.DataFrame, names: Sequence[str]) -> Axes:
    """Draw effects below each other with their 95 % intervals; filled where the interval leaves out 0.

    Parameters
    ----------
    effects : DataFrame with `estimate`, `low`, `high`
    names : sequence of str
        Of each effect.
    """
    places, clear = np.arange(len(effects)), (effects["low"] > 0) | (effects["high"] < 0)
    ax.plot(effects[["low", "high"]].to_numpy().T, [places, places], "|-", color="black", linewidth=0.8, markersize=4)
    faces = ["black" if one else "white" for one in clear]
    ax.scatter(effects["estimate"], places, s=8, color=faces, edgecolors="black", linewidths=0.9, zorder=3)
    ax.axvline(0, **CHANCE_LINE)
    ax.set_yticks(places, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    return ax


def _intervals_figure(parts: Sequence[tuple[str, pd.DataFrame, Sequence[str]]], contrast: str) -> Figure:
    """Draw `plot_intervals` of every part, with its title, rows and their names, below each other."""
    heights = [len(rows) + 0.6 for _, rows, _ in parts]
    size = (ONE_COLUMN, 0.15 * sum(heights) + 0.21 * len(parts) + 0.5)
    figure, axes = panels(len(parts), 1, size, sharex=True, height_ratios=heights)
    for ax, (title, rows, names) in zip(axes.flat, parts, strict=True):
        plot_intervals(ax, rows, names).set_title(title, loc="right")  # it may be longer than the axes are wide
    second, first = contrast.split(" - ")
    axes[-1, 0].locator_params(axis="x", nbins=4)
    axes[-1, 0].set_xlabel(f"skill, {label(second)} minus {label(first)}")
    return figure


def corpus_effect_figure(effects: pd.DataFrame, contrast: str) -> Figure:
    """Draw the effect of the corpus: over all in every way, and with the primary way by method and by depth."""
    of = effects[effects["contrast"] == contrast]
    rows = of[of["family"] == "corpus"]
    parts = [("over all", rows, _ways(rows))]
    for family, column in (("corpus_by_method", "method"), ("corpus_by_depth", "finetune_depth")):
        rows = of[(of["family"] == family) & (of["way"] == "t")]
        parts.append((family.removeprefix("corpus_").replace("_", " "), rows, [label(name) for name in rows[column]]))
    return _intervals_figure(parts, contrast)


def equality_figure(effects: pd.DataFrame, contrast: str) -> Figure:
    """Draw the corpus effect before and at equal accuracy, each in its ways, with 95 % intervals.

    Parameters
    ----------
    effects : DataFrame
        The table `equal_accuracy` of `equal_accuracy.equal_accuracy_tables`.
    """
    parts, of = [], effects[effects["contrast"] == contrast]
    for answer, rows in of.groupby("answer", sort=False):
        depths = str(rows["depths"].iloc[0])
        numbers = [int(depth) for depth in depths.split()]
        without_gaps = len(numbers) > 1 and (np.diff(numbers) == 1).all()
        blocks = f"{numbers[0]} to {numbers[-1]}" if without_gaps else depths
        parts.append((f"{_ANSWERS[answer]} (blocks {blocks})", rows, _ways(rows)))
    return _intervals_figure(parts, contrast)


def _ways(rows: pd.DataFrame) -> list[str]:
    """Return the names of ways to make an interval."""
    names = WAY_NAMES | {"regression": "regression over networks"}
    return ["t interval over images" if row.unit == "image" else names[row.way] for row in rows.itertuples()]


def plot_ranks(ax: Axes, ranks: pd.DataFrame, pairs: pd.DataFrame) -> Axes:
    """Draw a critical-difference diagram (Demšar 2006): bars on the right join methods that Nemenyi's test can't tell apart.

    Methods are rows, best first, so that labels never collide; the bar on top is as long as the critical difference.

    Parameters
    ----------
    ranks : DataFrame with `method`, `mean_rank`, `critical_difference`; best first
    pairs : DataFrame of shape (n_methods, n_methods)
        p values, indexed by method.
    """
    n = len(ranks)
    order = ranks["method"]
    ax.hlines(range(n), 1, ranks["mean_rank"], color="0.8", linewidth=0.6)
    ax.plot(ranks["mean_rank"], range(n), "o", color="black", markersize=4)
    for place, (first, last) in enumerate(alike(pairs.loc[order, order])):
        ax.plot(
            [n + 0.6 + 0.3 * place] * 2, [first - 0.2, last + 0.2], color="black", linewidth=2, solid_capstyle="butt"
        )
    width = float(ranks["critical_difference"].iloc[0])
    ax.plot([1, 1 + width], [-1.2, -1.2], "|-", color="black", markersize=4, linewidth=1)
    ax.annotate(f"critical difference {width:.1f}", (1 + width, -1.2), (4, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(n), [label(method) for method in order])
    ax.set(ylim=(n - 0.4, -1.8), xticks=range(1, n + 1), xlabel="mean rank")
    ax.spines["bottom"].set_bounds(1, n)
    return ax


def alike(pairs: pd.DataFrame) -> list[tuple[int, int]]:
    """Return the longest runs of rows (first, last) whose ends a test can't tell apart; `pairs` are p values by rank."""
    p, runs, end = pairs.to_numpy(), [], 0
    for first in range(len(p)):
        last = int(np.flatnonzero(p[first] > ALPHA).max(initial=first))
        if last > max(first, end):
            runs.append((first, last))
            end = last
    return runs


def ranks_figure(ranks: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Draw `plot_ranks` at one column."""
    figure, axes = panels(1, 1, (ONE_COLUMN, 0.16 * len(ranks) + 0.8))
    plot_ranks(axes[0, 0], ranks, pairs)
    return figure


def plot_power(ax: Axes, table: pd.DataFrame, over: str) -> Axes:
    """Draw power by number of seeds or images, a line per true difference; dashed: what is usually asked for.

    Parameters
    ----------
    table : DataFrame with `difference`, `power` and the column `over`
    over : "n_seeds" or "n_images"
    """
    for number, (difference, rows) in enumerate(table.groupby("difference")):
        shade = str(0.75 - 0.25 * number) if number < 3 else "black"
        look = marker("", number) | {"linestyle": "-", "color": shade, "markerfacecolor": shade, "markersize": 3}
        ax.plot(rows[over], rows["power"], **look, label=f"{difference:g}")
    ax.axhline(POWER, **CHANCE_LINE)
    ticks = sorted(table[over].unique())
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set(ylim=(0, 1.03), xlabel={"n_seeds": "seeds", "n_images": "images"}[over])
    return ax


def power_figure(table: pd.DataFrame, n_seeds: int, n_images: int) -> Figure:
    """Draw power by seeds at about the study's images, and by images at about its seeds, over all cells and for one.

    Parameters
    ----------
    table : DataFrame
        From `power.power_table`.
    n_seeds, n_images : int
        Of the study; the nearest of the table are drawn.
    """
    seeds, images = (
        int(min(table[name].unique(), key=lambda one: (abs(one - n), one)))
        for name, n in (("n_seeds", n_seeds), ("n_images", n_images))
    )
    figure, axes = panels(2, 2, (TWO_COLUMNS, 3.6), sharey=True)
    for row, (averaged, part) in zip(axes, table.groupby("averaged", sort=False), strict=True):
        plot_power(row[0], part[part["n_images"] == images], "n_seeds").set_title(f"{averaged}, {images} images")
        plot_power(row[1], part[part["n_seeds"] == seeds], "n_images").set_title(f"{averaged}, {seeds} seeds")
        row[0].set_ylabel("power")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), title="true difference of skill")
    return figure


def plot_matching(ax: Axes, checkpoints: pd.DataFrame, matched: pd.DataFrame, corpora: Sequence[str]) -> Axes:
    """Draw the validation accuracy along the trainings of one depth, with the chosen checkpoints; hollow: not matched.

    Parameters
    ----------
    checkpoints : DataFrame with `pretraining`, `finetune_depth`, `seed`, `step`, `validation_accuracy`
    matched : DataFrame
        From `matching.match_checkpoints`.
    """
    for (corpus, _), line in checkpoints.groupby(["pretraining", "seed"]):
        dashes = (0, (3, 1.5)) if list(corpora).index(corpus) % 2 else "-"
        ax.plot(line["step"], line["validation_accuracy"], color=colour(corpus), linewidth=0.8, linestyle=dashes)
    for row in matched.itertuples():
        look = marker(row.pretraining, list(corpora).index(row.pretraining), filled=row.matched)
        ax.plot(row.step, row.validation_accuracy, **look, zorder=3)
    ax.axhline(matched["target"].iloc[0], **CHANCE_LINE)
    return ax


def matching_figure(
    checkpoints: pd.DataFrame, matched: pd.DataFrame, corpora: Sequence[str], tolerance: float
) -> Figure:
    """Draw `plot_matching` of every depth side by side; the band is the tolerance around the common accuracy."""
    depths, target = sorted(matched["finetune_depth"].unique()), matched["target"].iloc[0]
    figure, axes = panels(1, len(depths), (TWO_COLUMNS, 2.2), sharey=True, sharex=True)
    for ax, depth in zip(axes.flat, depths, strict=True):
        validated, chosen = (table[table["finetune_depth"] == depth] for table in (checkpoints, matched))
        plot_matching(ax, validated, chosen, corpora).set_title(f"{depth} block{'s' if depth > 1 else ''}")
        ax.axhspan(target - tolerance, target + tolerance, color="0.88", zorder=0)
    axes[0, 0].set_ylabel("validation accuracy")
    figure.supxlabel("training step")
    handles = [*corpus_handles(corpora), Line2D([], [], **CHANCE_LINE, label=f"common accuracy ± {tolerance:g}")]
    handles += [] if matched["matched"].all() else [_NOT_MATCHED]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def plot_accuracy_and_skill(ax: Axes, networks: pd.DataFrame, corpora: Sequence[str]) -> Axes:
    """Draw every network at its test accuracy and mean skill, the larger the deeper; hollow: not matched.

    Parameters
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `accuracy`, `skill`, `matched`
    """
    for row in networks.itertuples():
        look = marker(row.pretraining, list(corpora).index(row.pretraining), filled=row.matched)
        ax.plot(row.accuracy, row.skill, **look | {"markersize": _size(row.finetune_depth)})
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
    figure, axes = panels(1, len(selections), (TWO_COLUMNS if len(selections) > 1 else ONE_COLUMN, 2.7))
    of_all = correlations[correlations["of"] == "all"].set_index("selection")
    for ax, selection in zip(axes.flat, selections, strict=True):
        plot_accuracy_and_skill(ax, networks[networks["selection"] == selection], corpora)
        row = of_all.loc[selection]
        r = "" if pd.isna(row["r"]) else f": r = {row['r']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        ax.set_title(f"{label(selection)}{r}")
    axes[0, 0].set_ylabel("skill, mean over methods")
    handles, depths = corpus_handles(corpora), networks["finetune_depth"]
    for depth in sorted({depths.min(), depths.max()}):
        grey = marker("", 0) | {"markerfacecolor": "0.85", "markersize": _size(depth)}
        handles.append(Line2D([], [], **grey, label=f"{depth} fine-tuned block{'s' if depth > 1 else ''}"))
    handles += [] if networks["matched"].all() else [_NOT_MATCHED]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _size(finetune_depth: int) -> float:
    return 2.2 + 0.8 * finetune_depth
