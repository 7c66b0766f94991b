"""Figures of the statistics: intervals, effects, ranks, redundancy and power. As in `boxplots`: tidy data and axes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS, Style, panel_grid
from pretrain_xai.names import colour, label
from pretrain_xai.skill import skill
from pretrain_xai.statistics.findings import WAY_NAMES
from pretrain_xai.statistics.power import POWER
from pretrain_xai.statistics.ranks import ALPHA

MARKERS = "osD^v"
_CHANCE: Style = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 0.7, "zorder": 1}
_BRAIN: Style = {"color": "black", "linestyle": (0, (1, 2)), "linewidth": 0.9, "zorder": 1}
_DEPTHS = "fine-tuned blocks"


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
        _draw_points(ax, places, rows, corpus, number)
    ax.axhline(0, **_CHANCE)
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
    figure.supxlabel(_DEPTHS, fontsize=7)
    handles = [_point(corpus, number) for number, corpus in enumerate(corpora)]
    handles.append(Line2D([], [], label="chance in the image", **_CHANCE))
    if "chance_brain" in cells:
        handles.append(Line2D([], [], label="chance in the brain", **_BRAIN))
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def plot_effects(ax: Axes, effects: pd.DataFrame, names: Sequence[str]) -> Axes:
    """Draw effects below each other with their 95 % intervals; filled where the interval leaves out 0.

    Parameters
    ----------
    effects : DataFrame with `estimate`, `low`, `high`
    names : sequence of str
        Of each effect.
    """
    for place, row in enumerate(effects.itertuples()):
        clear = row.low > 0 or row.high < 0
        ax.plot([row.low, row.high], [place, place], "|-", color="black", linewidth=0.8, markersize=4)
        ax.plot(row.estimate, place, "o", markersize=2.8, color="black", markerfacecolor="black" if clear else "white")
    ax.axvline(0, **_CHANCE)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    return ax


def corpus_figure(effects: pd.DataFrame, contrast: str) -> Figure:
    """Draw the effect of the corpus: over all in every way, and with the primary way by method and by depth."""
    of = effects[effects["contrast"] == contrast]
    primary = of["way"] == "t"
    parts = [
        (of[of["family"] == "corpus"], "way", "over all"),
        (of[(of["family"] == "corpus_by_method") & primary], "method", "by method"),
        (of[(of["family"] == "corpus_by_depth") & primary], "finetune_depth", "by depth"),
    ]
    size = (ONE_COLUMN, 0.15 * sum(len(rows) for rows, *_ in parts) + 1.2)
    figure, axes = plt.subplots(
        3, 1, figsize=size, sharex=True, layout="constrained", height_ratios=[len(rows) + 0.6 for rows, *_ in parts]
    )
    unit = of["unit"].iloc[0]
    for ax, (rows, column, title) in zip(axes, parts, strict=True):
        words = WAY_NAMES | ({"t": "t interval over images"} if unit == "image" else {})
        names = [words.get(name, label(name)) for name in rows[column]]
        plot_effects(ax, rows, names).set_title(title)
    second, first = contrast.split(" - ")
    axes[-1].xaxis.set_major_locator(MaxNLocator(4))
    axes[-1].set_xlabel(f"skill, {label(second)} minus {label(first)}")
    return figure


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
    figure, ax = plt.subplots(figsize=(ONE_COLUMN, 0.16 * len(ranks) + 0.8), layout="constrained")
    plot_ranks(ax, ranks, pairs)
    return figure


def plot_redundancy(ax: Axes, table: pd.DataFrame, methods: Sequence[str]) -> Axes:
    """Draw correlations of methods: of their scores above the diagonal, of their maps, where there are any, below.

    Parameters
    ----------
    table : DataFrame with `method`, `other`, `scores` and perhaps `maps`
    """
    n = len(methods)
    matrix = np.full((n, n), np.nan)
    for row in table.itertuples():
        i, j = sorted((methods.index(row.method), methods.index(row.other)))
        matrix[i, j] = row.scores
        matrix[j, i] = getattr(row, "maps", np.nan)
    ax.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(~np.isnan(matrix)), strict=True):
        text = f"{matrix[i, j]:.2f}".replace("0.", ".")
        ax.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if matrix[i, j] < 0.5 else "black")
    names = [label(method) for method in methods]
    ax.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def redundancy_figure(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw `plot_redundancy` at one column."""
    figure, ax = plt.subplots(figsize=(ONE_COLUMN, ONE_COLUMN), layout="constrained")
    title = "above: scores, below: maps" if "maps" in table else "correlation of scores"
    plot_redundancy(ax, table, list(methods)).set_title(title)
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
        ax.plot(
            rows[over],
            rows["power"],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3,
            color=shade,
            markeredgecolor="black",
            markeredgewidth=0.4,
            label=f"{difference:g}",
        )
    ax.axhline(POWER, **_CHANCE)
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
    seeds, images = (_nearest(table[name], n) for name, n in (("n_seeds", n_seeds), ("n_images", n_images)))
    figure, axes = plt.subplots(2, 2, figsize=(TWO_COLUMNS, 3.6), sharey=True, layout="constrained")
    for row, (averaged, part) in zip(axes, table.groupby("averaged", sort=False), strict=True):
        plot_power(row[0], part[part["n_images"] == images], "n_seeds").set_title(f"{averaged}, {images} images")
        plot_power(row[1], part[part["n_seeds"] == seeds], "n_images").set_title(f"{averaged}, {seeds} seeds")
        row[0].set_ylabel("power")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=len(names), title="true difference of skill", title_fontsize=7
    )
    return figure


def _nearest(values: pd.Series, number: int) -> int:
    unique = np.unique(values)
    return int(unique[np.abs(unique - number).argmin()])


def _draw_points(ax: Axes, places: pd.Series, rows: pd.DataFrame, corpus: str, number: int) -> None:
    ax.errorbar(
        places,
        rows["estimate"],
        yerr=np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy()),
        fmt=MARKERS[number % len(MARKERS)],
        markersize=3.5,
        color=colour(corpus),
        ecolor="black",
        elinewidth=0.7,
        capsize=1.5,
        capthick=0.7,
        markeredgecolor="black",
        markeredgewidth=0.4,
    )


def _point(corpus: str, number: int) -> Line2D:
    marker = MARKERS[number % len(MARKERS)]
    style: Style = {
        "markersize": 4,
        "markerfacecolor": colour(corpus),
        "markeredgecolor": "black",
        "markeredgewidth": 0.4,
    }
    return Line2D([], [], linestyle="", marker=marker, label=label(corpus), **style)
