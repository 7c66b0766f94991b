"""Figures of the statistics: intervals, effects, ranks, power, accuracy beside skill, and maps of random networks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain_xai.drawing import figures
from pretrain_xai.drawing.figures import CHANCE_LINE, ONE_COLUMN, TWO_COLUMNS, Style, marker, panels
from pretrain_xai.names import blocks, colour, label
from pretrain_xai.networks.matching import RATE
from pretrain_xai.skill import skill
from pretrain_xai.statistics.findings import WAY_NAMES
from pretrain_xai.statistics.power import POWER

_NOT_MATCHED = {"not matched": marker("", 0, filled=False) | {"markeredgecolor": "black"}}
#: the answers of `equal_accuracy.ANSWERS` in words
_ANSWERS = {"unadjusted": "all networks", "adjusted": "accuracy as a covariate"}
_ANSWERS |= {"same_depths": "the depths that match", "matched": "matched networks"}


def cells_figure(cells: pd.DataFrame, methods: Sequence[str], corpora: Sequence[str]) -> Figure:
    """Draw mean skill with its 95 % interval by method, depth and corpus; dashed: chance, dotted: within the brain.

    Parameters
    ----------
    cells : DataFrame
        From `effects.cell_table`.
    """
    levels = {"chance in the image": (0.0, CHANCE_LINE)}
    if "chance_brain" in cells:
        in_brain = float(skill(cells["chance_brain"].mean(), cells["chance"].mean()))
        levels["chance in the brain"] = (in_brain, CHANCE_LINE | {"linestyle": (0, (1, 2)), "linewidth": 0.9})

    def draw(ax: Axes, method: str) -> None:
        figures.plot_by_depth(ax, cells[cells["method"] == method], corpora, "estimate")
        for level, look in levels.values():
            ax.axhline(level, **look)

    figure = figures.method_panels(methods, 1.7, draw, ylabel="skill")
    figures.legend(figure, corpora, {name: look for name, (_, look) in levels.items()})
    return figure


def _intervals_figure(parts: Sequence[tuple[str, pd.DataFrame, Sequence[str]]], contrast: str) -> Figure:
    """Draw parts, each with a title, effects and their names, below each other with 95 % intervals; filled: without 0."""
    heights = [len(rows) + 0.6 for _, rows, _ in parts]
    size = (ONE_COLUMN, 0.15 * sum(heights) + 0.21 * len(parts) + 0.5)
    figure, axes = panels(len(parts), 1, size, sharex=True, height_ratios=heights)
    for ax, (title, rows, names) in zip(axes.flat, parts, strict=True):
        places, clear = np.arange(len(rows)), (rows["low"] > 0) | (rows["high"] < 0)
        ax.plot(rows[["low", "high"]].to_numpy().T, [places, places], "|-", color="black", linewidth=0.8, markersize=4)
        faces = np.where(clear, "black", "white")
        ax.scatter(rows["estimate"], places, s=8, color=faces, edgecolors="black", linewidths=0.9, zorder=3)
        ax.axvline(0, **CHANCE_LINE)
        ax.set_yticks(places, names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_title(title, loc="right")  # it may be longer than the axes are wide
    second, first = contrast.split(" - ")
    axes[-1, 0].locator_params(axis="x", nbins=4)
    axes[-1, 0].set_xlabel(f"skill, {label(second)} minus {label(first)}")
    return figure


def corpus_effect_figure(effects: pd.DataFrame, contrast: str) -> Figure:
    """Draw the effect of the corpus: over all in every way, and with the primary way by method and by depth."""
    of = effects[effects["contrast"] == contrast]
    rows = of[of["family"] == "corpus"]
    parts = [("over all", rows, _ways(rows))]
    for column, title in (("method", "by method"), ("finetune_depth", "by depth")):
        rows = of[(of["family"] == f"corpus_{title.replace(' ', '_')}") & (of["way"] == "t")]
        parts.append((title, rows, [label(name) for name in rows[column]]))
    return _intervals_figure(parts, contrast)


def equality_figure(effects: pd.DataFrame, contrast: str) -> Figure:
    """Draw the corpus effect before and at equal accuracy, each in its ways, with 95 % intervals.

    Parameters
    ----------
    effects : DataFrame
        The table `equal_accuracy` of `equal_accuracy.equal_accuracy_tables`.
    """
    parts = [
        (f"{_ANSWERS[answer]} (blocks {str(depths).replace(' ', ', ')})", rows, _ways(rows))
        for (answer, depths), rows in effects[effects["contrast"] == contrast].groupby(["answer", "depths"], sort=False)
    ]
    return _intervals_figure(parts, contrast)


def _ways(rows: pd.DataFrame) -> list[str]:
    """Return the names of ways to make an interval."""
    names = WAY_NAMES | {"regression": "regression over networks"}
    return ["t interval over images" if row.unit == "image" else names[row.way] for row in rows.itertuples()]


def ranks_figure(ranks: pd.DataFrame) -> Figure:
    """Draw mean ranks, best first; filled: the first and the methods that can't be told from it.

    Parameters
    ----------
    ranks : DataFrame
        From `summary.rank_methods`.
    """
    n, rank, filled = len(ranks), ranks["mean_rank"], ranks["tied"] | (ranks.index == 0)
    figure, axes = panels(1, 1, (ONE_COLUMN, 0.16 * n + 0.6))
    ax = axes[0, 0]
    ax.hlines(range(n), 1, rank, color="0.8", linewidth=0.6)
    ax.scatter(rank, range(n), s=16, color=np.where(filled, "black", "white"), edgecolors="black", zorder=3)
    ax.set_yticks(range(n), [label(method) for method in ranks["method"]])
    ax.set(ylim=(n - 0.4, -0.6), xticks=range(1, n + 1), xlabel="mean rank")
    ax.spines["bottom"].set_bounds(1, n)
    return figure


def power_figure(table: pd.DataFrame, n_seeds: int, n_images: int) -> Figure:
    """Draw power by seeds at about the study's images, and by images at about its seeds, over all cells and for one.

    A line per true difference; dashed: what is usually asked for.

    Parameters
    ----------
    table : DataFrame
        From `power.power_table`.
    n_seeds, n_images : int
        Of the study; the nearest of the table are drawn.
    """
    study = {"n_seeds": n_seeds, "n_images": n_images}
    nearest = {name: min(sorted(table[name].unique()), key=lambda one: abs(one - n)) for name, n in study.items()}
    figure, axes = panels(2, 2, (TWO_COLUMNS, 3.6), sharey=True)
    for row, (averaged, part) in zip(axes, table.groupby("averaged", sort=False), strict=True):
        for ax, (over, fixed) in zip(row, (("n_seeds", "n_images"), ("n_images", "n_seeds")), strict=True):
            for number, (difference, rows) in enumerate(part[part[fixed] == nearest[fixed]].groupby("difference")):
                shade = str(max(0.75 - 0.25 * number, 0))
                look = marker("", number) | {
                    "color": shade,
                    "markerfacecolor": shade,
                    "markersize": 3,
                    "linestyle": "-",
                }
                ax.plot(rows[over], rows["power"], **look, label=f"{difference:g}")
            ax.axhline(POWER, **CHANCE_LINE)
            ticks = sorted(part[over].unique())
            ax.set_xscale("log")
            ax.set_xticks(ticks, ticks)
            ax.minorticks_off()
            ax.set(ylim=(0, 1.03), xlabel=over[2:], title=f"{averaged}, {nearest[fixed]} {fixed[2:]}")
        row[0].set_ylabel("power")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), title="true difference of skill")
    return figure


def matching_figure(
    checkpoints: pd.DataFrame, matched: pd.DataFrame, corpora: Sequence[str], tolerance: float
) -> Figure:
    """Draw the rate along the trainings by depth, with the chosen checkpoints; hollow: not matched.

    The rate is the lower of sensitivity and specificity; the band is the tolerance around the common one.

    Parameters
    ----------
    checkpoints : DataFrame with `pretraining`, `finetune_depth`, `seed`, `step`, `validation_lower_rate`
    matched : DataFrame
        From `matching.match_checkpoints`.
    """
    depths, target = sorted(matched["finetune_depth"].unique()), matched["target"].iloc[0]
    figure, axes = panels(1, len(depths), (TWO_COLUMNS, 2.2), sharey=True, sharex=True)
    for ax, depth in zip(axes.flat, depths, strict=True):
        of_depth = checkpoints[checkpoints["finetune_depth"] == depth]
        for (corpus, _), line in of_depth.groupby(["pretraining", "seed"]):
            dashes = (0, (3, 1.5)) if list(corpora).index(corpus) % 2 else "-"
            ax.plot(line["step"], line[RATE], color=colour(corpus), linewidth=0.8, linestyle=dashes)
        chosen = matched[matched["finetune_depth"] == depth]
        _plot_networks(ax, chosen, corpora, "step", RATE, size=_size(2))
        ax.axhline(target, **CHANCE_LINE)
        ax.axhspan(target - tolerance, target + tolerance, color="0.88", zorder=0)
        ax.set_title(blocks(depth))
    axes[0, 0].set_ylabel("lower of both rates")
    figure.supxlabel("training step")
    lines = {f"common rate ± {tolerance:g}": CHANCE_LINE}
    figures.legend(figure, corpora, lines | ({} if matched["matched"].all() else _NOT_MATCHED))
    return figure


def accuracy_figure(networks: pd.DataFrame, correlations: pd.DataFrame, corpora: Sequence[str]) -> Figure:
    """Draw every network of every selection at its test accuracy and mean skill, the larger the deeper; hollow: not matched.

    In the title the correlation: that of the matched networks where some are not; a title without it
    has too few networks.

    Parameters
    ----------
    networks, correlations : DataFrame
        The tables `accuracy_and_skill` and `accuracy_correlations` of `equal_accuracy.equal_accuracy_tables`.
    """
    selections = list(dict.fromkeys(networks["selection"]))
    figure, axes = panels(1, len(selections), (TWO_COLUMNS if len(selections) > 1 else ONE_COLUMN, 2.7))
    of_all = correlations[correlations["of"] == "all"].set_index("selection")
    for ax, selection in zip(axes.flat, selections, strict=True):
        _plot_networks(ax, networks[networks["selection"] == selection], corpora, "accuracy", "skill")
        ax.margins(0.09)
        row = of_all.loc[selection]
        r = "" if pd.isna(row["r"]) else f": r = {row['r']:.2f}"
        ax.set(xlabel="test accuracy", title=f"{label(selection)}{r}")
    axes[0, 0].set_ylabel("skill, mean over methods")
    ends = sorted({networks["finetune_depth"].min(), networks["finetune_depth"].max()})
    grey = marker("", 0) | {"markerfacecolor": "0.85"}
    sizes = {f"{blocks(depth)} fine-tuned": grey | {"markersize": _size(depth)} for depth in ends}
    figures.legend(figure, corpora, sizes | ({} if networks["matched"].all() else _NOT_MATCHED))
    return figure


def _plot_networks(ax: Axes, networks: pd.DataFrame, corpora: Sequence[str], x: str, y: str, size: float = 0) -> None:
    """Draw a marker per network at two of its columns, of a size or the larger the deeper; hollow: not matched."""
    for row in networks.to_dict("records"):
        look = marker(row["pretraining"], list(corpora).index(row["pretraining"]), filled=row["matched"])
        ax.plot(row[x], row[y], **look | {"markersize": size or _size(row["finetune_depth"])}, zorder=3)


def _size(finetune_depth: int) -> float:
    return 2.2 + 0.8 * finetune_depth


def sanity_figure(means: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw a panel per measure by the layer that became random last, a line and marker per method; random maps stand apart.

    The grey line is at equal maps, the dotted line is what a random map reaches in the mean.

    Parameters
    ----------
    means : DataFrame with `measure`, `method`, `layer`, `mean`
        From `sanity.mean_similarity`; the last layer stands for random maps.
    """
    figure, axes = panels(2, 2, (TWO_COLUMNS, 4.4), sharex=True)
    *layers, random_map = dict.fromkeys(means["layer"])
    places, colours = np.array([*range(len(layers)), len(layers) + 0.5]), sns.color_palette("colorblind")
    for ax, (measure, rows) in zip(axes.flat, means.groupby("measure", sort=False), strict=True):
        table = rows.pivot(index="layer", columns="method", values="mean").loc[[*layers, random_map]]
        for number, method in enumerate(methods):
            # lines may coincide: their markers do not stand on one spot
            at = places + 0.4 * (number / max(len(methods) - 1, 1) - 0.5)
            look: Style = {"color": colours[number % 10], "marker": "osD^vP*X<>hp"[number % 12], "markersize": 3}
            ax.plot(at[:-1], table[method].iloc[:-1], label=label(method), linewidth=0.7, **look)
            ax.plot(at[-1:], table[method].iloc[-1:], linestyle="", **look)
        is_change = measure.endswith("_change")
        ax.axhline(0 if is_change else 1, color="0.8", linewidth=0.6, zorder=0)
        ax.axvline(len(layers) - 0.25, **CHANCE_LINE)
        if not is_change:  # a change to chance depends on where a method comes from: no common floor
            floor = table.loc[random_map].mean()
            ax.axhline(floor, color="black", linestyle=":", linewidth=0.7, zorder=1, label=random_map)
        ax.set_xticks(places, [*layers, random_map], rotation=90)
        ax.set_title(label(measure))
    figure.supxlabel("random layers: from the last one down to")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
