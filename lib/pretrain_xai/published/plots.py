"""Figures of the authors' release and of the paper's numbers, in this project's style; as in `boxplots`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pretrain_xai.drawing.figures import ONE_COLUMN, Style, panel_grid
from pretrain_xai.names import colour, label
from pretrain_xai.published.files import EDGE_FILTERS
from pretrain_xai.settings.sections import FINETUNE_DEPTHS
from pretrain_xai.study import UNTRAINED

MARKERS = {"imagenet": "o", "mri": "s"}
_CHANCE: Style = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 0.7, "zorder": 1}
_THIN: Style = {"color": "black", "linewidth": 0.6}


def plot_comparison_boxes(ax: Axes, maps: pd.DataFrame, names: Sequence[str]) -> Axes:
    """Draw a box per map that knows nothing of the task, the first on top; dashed: chance.

    Parameters
    ----------
    maps : DataFrame with `method`, `value`, `chance`
    names : sequence of str
        Edge filters, and methods on the untrained network.
    """
    for place, name in enumerate(names):
        ax.boxplot(
            maps.loc[maps["method"] == name, "value"].to_numpy(),
            positions=[place],
            orientation="horizontal",
            widths=0.6,
            patch_artist=True,
            showfliers=False,
            manage_ticks=False,
            boxprops={
                "facecolor": colour(name if name in EDGE_FILTERS else UNTRAINED),
                "edgecolor": "black",
                "linewidth": 0.5,
            },
            whiskerprops=_THIN,
            capprops=_THIN,
            medianprops={"color": "black", "linewidth": 1.1},
        )
    ax.axvline(maps["chance"].mean(), **_CHANCE)
    suffixes = ["" if name in EDGE_FILTERS else ", untrained" for name in names]
    ax.set_yticks(range(len(names)), [label(name) + suffix for name, suffix in zip(names, suffixes, strict=True)])
    ax.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, None), xlabel="explanation performance")
    return ax


def comparison_figure(maps: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw `plot_comparison_boxes` of the edge filters and methods that there are, at one column."""
    names = [name for name in (*EDGE_FILTERS, *methods) if name in set(maps["method"])]
    figure, ax = plt.subplots(figsize=(ONE_COLUMN, 0.19 * len(names) + 0.75), layout="constrained")
    plot_comparison_boxes(ax, maps, names)
    figure.legend(handles=[Line2D([], [], label="chance", **_CHANCE)], loc="outside upper center")
    return figure


def plot_medians(ax: Axes, published: pd.DataFrame, accuracy: pd.DataFrame) -> Axes:
    """Draw one method's medians as the paper has them: a marker per corpus and depth, a line for the untrained network.

    Parameters
    ----------
    published : DataFrame with `pretraining`, `finetune_depth`, `published`
        The untrained network has `pretraining` none.
    accuracy : DataFrame with the same columns
        Drawn as diamonds on the same axis.
    """
    for number, (corpus, marker) in enumerate(MARKERS.items()):
        paper: Style = {"marker": marker, "markersize": 4, "color": colour(corpus)}
        diamond: Style = {"marker": "D", "markersize": 2.6, "color": "white" if number else "0.6"}
        for rows, style in ((published, paper), (accuracy, diamond)):
            of_corpus = rows[rows["pretraining"] == corpus].sort_values("finetune_depth")
            places = of_corpus["finetune_depth"] + 0.2 * (number - 0.5)
            ax.plot(places, of_corpus["published"], linestyle="", markeredgecolor="black", markeredgewidth=0.5, **style)
    for level in published.loc[published["pretraining"] == UNTRAINED, "published"]:
        ax.axhline(level, color=colour(UNTRAINED), linewidth=1.1, linestyle=(0, (1, 1)))
    ax.set(xticks=FINETUNE_DEPTHS, xlim=(0.5, 5.5), ylim=(0, 1.03))
    return ax


def medians_figure(comparison: pd.DataFrame, methods: Sequence[str], chance: float) -> Figure:
    """Draw the paper's figure of correctly classified images from its medians: a panel per method, in rows of four.

    Parameters
    ----------
    comparison : DataFrame
        Rows of `published_tables.side_by_side` of one selection.
    chance : float
        Mean chance level, drawn dashed; NaN: not known.
    """
    medians = comparison[comparison["table"] == "explanation"]
    accuracy = comparison[(comparison["table"] == "classification") & (comparison["metric"] == "accuracy")]
    figure, axes = panel_grid(len(methods), 1.8, room=0.6)
    for ax, method in zip(axes.flat, methods, strict=False):
        plot_medians(ax, medians[medians["method"] == method], accuracy).set_title(label(method))
        if not np.isnan(chance):
            ax.axhline(chance, **_CHANCE)
    for ax in axes[:, 0]:
        ax.set_ylabel("median performance")
    figure.supxlabel("fine-tuned blocks (5: whole network)", fontsize=7)
    figure.legend(handles=_medians_legend(medians, chance), loc="outside upper center", ncols=6)
    return figure


def plot_differences(ax: Axes, comparison: pd.DataFrame) -> Axes:
    """Draw recomputed minus published numbers below each other, a row per metric, by how many models they come from.

    Parameters
    ----------
    comparison : DataFrame
        Rows of `published_tables.side_by_side` that could be recomputed.
    """
    metrics = list(dict.fromkeys(comparison["metric"]))
    same = comparison["note"].isin(SAME_MODELS)
    for rows, face, name in (
        (comparison[same], "black", "as many models"),
        (comparison[~same], "white", "other models"),
    ):
        places = np.array([metrics.index(metric) for metric in rows["metric"]], dtype=float)
        ax.plot(
            rows["difference"],
            places + 0.06 * (rows["finetune_depth"].clip(lower=1) - 3),
            linestyle="",
            marker="o" if face == "black" else "s",
            markersize=3,
            markerfacecolor=face,
            markeredgecolor="black",
            markeredgewidth=0.5,
            label=name,
        )
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(metrics)), [_METRICS.get(name, label(name)) for name in metrics])
    ax.set(ylim=(len(metrics) - 0.5, -0.5), xlabel="recomputed minus published")
    return ax


def differences_figure(comparison: pd.DataFrame) -> Figure:
    """Draw `plot_differences` at one column."""
    size = (ONE_COLUMN, 0.3 * comparison["metric"].nunique() + 0.9)
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    plot_differences(ax, comparison)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


#: notes of `published_tables.side_by_side` on numbers that come from as many models as the paper's
SAME_MODELS = ("the untrained network", "from 3 models")
_METRICS = {"median_relevance_rank_accuracy": "median performance,\nuntrained network"}


def _medians_legend(medians: pd.DataFrame, chance: float) -> list[Line2D]:
    edge: Style = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5}
    handles = [
        Line2D([], [], marker=MARKERS[c], color=colour(c), markersize=4, label=label(c), **edge) for c in MARKERS
    ]
    for number, corpus in enumerate(MARKERS):
        face = "white" if number else "0.6"
        handles.append(
            Line2D([], [], marker="D", color=face, markersize=2.6, label=f"accuracy, {label(corpus)}", **edge)
        )
    if (medians["pretraining"] == UNTRAINED).any():
        handles.append(Line2D([], [], color=colour(UNTRAINED), linestyle=(0, (1, 1)), linewidth=1.1, label="untrained"))
    if not np.isnan(chance):
        handles.append(Line2D([], [], label="chance", **_CHANCE))
    return handles
