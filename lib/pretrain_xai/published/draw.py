"""Figures of the authors' release and of the paper's numbers, in this project's style; as in `boxplots`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pretrain_xai.drawing.boxplots import draw_box
from pretrain_xai.drawing.figures import CHANCE_LINE, ONE_COLUMN, Style, panel_grid
from pretrain_xai.names import colour, label
from pretrain_xai.published.read import EDGE_FILTERS
from pretrain_xai.settings.sections import FINETUNE_DEPTHS
from pretrain_xai.study import UNTRAINED

MARKERS = {"imagenet": "o", "mri": "s"}
#: notes of `compare.side_by_side` on numbers that come from as many models as the paper's
SAME_MODELS = ("the untrained network", "from 3 models")
_METRICS = {"median_relevance_rank_accuracy": "median performance,\nuntrained network"}
_CHANCE = CHANCE_LINE | {"label": "chance"}
_POINTS: Style = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5}


def comparison_figure(maps: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw a box per map that knows nothing of the task, edge filters first, then methods on the untrained network.

    Parameters
    ----------
    maps : DataFrame with `method`, `value`, `chance`
        The mean chance is drawn dashed.
    """
    names = [name for name in (*EDGE_FILTERS, *methods) if name in set(maps["method"])]
    figure, ax = plt.subplots(figsize=(ONE_COLUMN, 0.19 * len(names) + 0.75), layout="constrained")
    for place, name in enumerate(names):
        values = maps.loc[maps["method"] == name, "value"].to_numpy()
        draw_box(ax, values, place, name if name in EDGE_FILTERS else UNTRAINED, widths=0.6, orientation="horizontal")
    ax.axvline(maps["chance"].mean(), **_CHANCE)
    suffixes = ["" if name in EDGE_FILTERS else ", untrained" for name in names]
    ax.set_yticks(range(len(names)), [label(name) + suffix for name, suffix in zip(names, suffixes, strict=True)])
    ax.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, None), xlabel="explanation performance")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center")
    return figure


def medians_figure(comparison: pd.DataFrame, methods: Sequence[str], chance: float) -> Figure:
    """Draw the paper's figure of correctly classified images from its medians: a panel per method, in rows of four.

    A marker per corpus and depth, a diamond for the accuracy, a dotted line for the untrained network.

    Parameters
    ----------
    comparison : DataFrame
        Rows of `compare.side_by_side` of one selection.
    chance : float
        Mean chance level, drawn dashed; NaN: not known.
    """
    accuracy = comparison[comparison["metric"] == "accuracy"]
    figure, axes = panel_grid(len(methods), 1.8, room=0.6)
    for ax, method in zip(axes.flat, methods, strict=False):
        medians = comparison[comparison["method"] == method]
        for rows, prefix in ((medians, ""), (accuracy, "accuracy, ")):
            for number, (corpus, marker) in enumerate(MARKERS.items()):
                style: Style = {"marker": marker, "markersize": 4, "color": colour(corpus)}
                if prefix:
                    style = {"marker": "D", "markersize": 2.6, "color": "white" if number else "0.6"}
                shown = rows[rows["pretraining"] == corpus].sort_values("finetune_depth")
                places = shown["finetune_depth"] + 0.2 * (number - 0.5)
                ax.plot(places, shown["published"], label=prefix + label(corpus), **style, **_POINTS)
        for level in medians.loc[medians["pretraining"] == UNTRAINED, "published"]:
            ax.axhline(level, color=colour(UNTRAINED), linewidth=1.1, linestyle=(0, (1, 1)), label=label(UNTRAINED))
        if not np.isnan(chance):
            ax.axhline(chance, **_CHANCE)
        ax.set(xticks=FINETUNE_DEPTHS, xlim=(0.5, 5.5), ylim=(0, 1.03), title=label(method))
    for ax in axes[:, 0]:
        ax.set_ylabel("median performance")
    figure.supxlabel("fine-tuned blocks (5: whole network)", fontsize=7)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def differences_figure(comparison: pd.DataFrame) -> Figure:
    """Draw recomputed minus published numbers below each other, a row per metric, by how many models they come from.

    Parameters
    ----------
    comparison : DataFrame
        Rows of `compare.side_by_side` that could be recomputed.
    """
    metrics = list(dict.fromkeys(comparison["metric"]))
    figure, ax = plt.subplots(figsize=(ONE_COLUMN, 0.3 * len(metrics) + 0.9), layout="constrained")
    places = comparison["metric"].map(metrics.index) + 0.06 * (comparison["finetune_depth"].clip(lower=1) - 3)
    same = comparison["note"].isin(SAME_MODELS)
    for rows, marker, face, name in ((same, "o", "black", "as many models"), (~same, "s", "white", "other models")):
        style: Style = {"marker": marker, "markersize": 3, "markerfacecolor": face, "label": name}
        ax.plot(comparison.loc[rows, "difference"], places[rows], **style, **_POINTS)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(metrics)), [_METRICS.get(name, label(name)) for name in metrics])
    ax.set(ylim=(len(metrics) - 0.5, -0.5), xlabel="recomputed minus published")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
