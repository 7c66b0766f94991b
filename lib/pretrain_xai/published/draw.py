"""Figures of the authors' release and of the paper's numbers, in this project's style; as in `boxplots`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain_xai.drawing import figures
from pretrain_xai.drawing.boxplots import draw_box
from pretrain_xai.drawing.figures import CHANCE_LINE, ONE_COLUMN, Style, marker
from pretrain_xai.names import colour, label
from pretrain_xai.published.read import EDGE_FILTERS
from pretrain_xai.study import UNTRAINED

CORPORA = ("imagenet", "mri")
#: notes of `compare.side_by_side` on numbers that come from as many models as the paper's
SAME_MODELS = ("the untrained network", "from 3 models")
_ACCURACY = marker(UNTRAINED, 2) | {"markersize": 2.6, "markerfacecolor": "white"}
_UNTRAINED: Style = {"color": colour(UNTRAINED), "linewidth": 1.1, "linestyle": (0, (1, 1))}


def comparison_figure(maps: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw a box per map that knows nothing of the task, edge filters first, then methods on the untrained network.

    Parameters
    ----------
    maps : DataFrame with `method`, `value`, `chance`
        The mean chance is drawn dashed.
    """
    names = {name: label(name) for name in EDGE_FILTERS} | {name: f"{label(name)}, untrained" for name in methods}
    names = {name: text for name, text in names.items() if name in set(maps["method"])}
    figure, axes = figures.panels(1, 1, (ONE_COLUMN, 0.19 * len(names) + 0.75))
    ax, values = axes[0, 0], maps.groupby("method")["value"]
    for place, name in enumerate(names):
        shade = name if name in EDGE_FILTERS else UNTRAINED
        draw_box(ax, values.get_group(name), place, shade, widths=0.6, orientation="horizontal")
    ax.axvline(maps["chance"].mean(), **CHANCE_LINE)
    ax.set_yticks(range(len(names)), names.values())
    ax.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, None), xlabel="explanation performance")
    figures.legend(figure, (), {"chance": CHANCE_LINE})
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

    def draw(ax: Axes, method: str) -> None:
        medians = comparison[comparison["method"] == method]
        figures.plot_by_depth(ax, comparison[comparison["metric"] == "accuracy"], CORPORA, "published", **_ACCURACY)
        figures.plot_by_depth(ax, medians, CORPORA, "published").set_ylim(0, 1.03)
        for level in medians.loc[medians["pretraining"] == UNTRAINED, "published"]:
            ax.axhline(level, **_UNTRAINED)
        ax.axhline(chance, **CHANCE_LINE)

    blocks = "fine-tuned blocks (5: whole network)"
    figure = figures.method_panels(methods, 1.8, draw, ylabel="median performance", xlabel=blocks)
    lines = {"classification accuracy": _ACCURACY, label(UNTRAINED): _UNTRAINED}
    figures.legend(figure, CORPORA, lines | ({} if np.isnan(chance) else {"chance": CHANCE_LINE}))
    return figure


def differences_figure(comparison: pd.DataFrame) -> Figure:
    """Draw recomputed minus published numbers below each other, a row per metric, by how many models they come from.

    Parameters
    ----------
    comparison : DataFrame
        Rows of `compare.side_by_side` that could be recomputed.
    """
    metrics = list(dict.fromkeys(comparison["metric"]))
    figure, axes = figures.panels(1, 1, (ONE_COLUMN, 0.3 * len(metrics) + 0.9))
    ax, looks = axes[0, 0], {}
    places = comparison["metric"].map(metrics.index) + 0.06 * (comparison["finetune_depth"].clip(lower=1) - 3)
    same = comparison["note"].isin(SAME_MODELS)
    for number, (rows, face, name) in enumerate(((same, "black", "as many models"), (~same, "white", "other models"))):
        looks[name] = marker(name, number) | {"markersize": 3, "markerfacecolor": face}
        ax.plot(comparison.loc[rows, "difference"], places[rows], **looks[name])
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(metrics)), [label(name) for name in metrics])
    ax.set(ylim=(len(metrics) - 0.5, -0.5), xlabel="recomputed minus published")
    figures.legend(figure, (), looks)
    return figure
