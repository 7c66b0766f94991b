"""Figures of the results as the paper draws them: boxes of explanation scores, and classification performance.

Every function takes tidy data and axes and returns the axes; none touches global settings.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pretrain_xai.classification import DEFAULT_SHARE
from pretrain_xai.drawing import figures
from pretrain_xai.drawing.figures import CHANCE_LINE, Style, marker
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import colour, hatch, label
from pretrain_xai.settings.sections import FINETUNE_DEPTHS
from pretrain_xai.study import CLASSES, NETWORK, UNTRAINED

BOX_WIDTH = 0.36
_EDGE: Style = {"edgecolor": "black", "linewidth": 0.5}
_ACCURACY = marker(UNTRAINED, 2) | {"markersize": 2.6, "markerfacecolor": "white", "markeredgewidth": 0.6}
#: above a box that stands for models that are not matched
_STAR: Style = {"linestyle": "", "marker": "*", "markersize": 5, "color": "black", "markeredgewidth": 0}


def draw_box(ax: Axes, values: np.ndarray, position: float, name: str, **options: Any) -> None:
    """Draw the box of a corpus or map: quartiles, median, whiskers to 1.5 interquartile ranges; `options` of matplotlib."""
    thin: Style = {"color": "black", "linewidth": 0.6}
    look: Style = {
        "whiskerprops": thin,
        "capprops": thin,
        "medianprops": thin | {"linewidth": 1.1},
        "widths": BOX_WIDTH,
    }
    box = _EDGE | {"facecolor": colour(name), "hatch": hatch(name)}
    plain = {"patch_artist": True, "showfliers": False, "manage_ticks": False}
    ax.boxplot(values, positions=[position], boxprops=box, **plain | look | options)


def plot_score_boxes(
    ax: Axes,
    scores: pd.DataFrame,
    corpora: Sequence[str],
    classification: pd.DataFrame | None = None,
    unmatched: Collection[tuple[str, int]] = (),
) -> Axes:
    """Draw one method's scores: comparison maps on the left, then every depth with the corpora side by side.

    The dashed line is the mean chance level.

    Parameters
    ----------
    scores : DataFrame with `pretraining`, `finetune_depth`, `method`, `value`, `chance`; one metric
        Of one method and of the comparison maps.
    corpora : sequence of str
    classification : DataFrame with `pretraining`, `finetune_depth`, `accuracy`, optional
        Drawn as diamonds on the same axis.
    unmatched : collection of (corpus, depth)
        Marked by a star.
    """
    is_map = scores["method"].isin(COMPARISON_MAPS)
    names = scores["method"].astype(str).where(is_map, scores["pretraining"].astype(str))
    left = [name for name in (*COMPARISON_MAPS, UNTRAINED) if (names == name).any()]
    start = 0.6 * len(left) - 0.6
    shifts = {corpus: (BOX_WIDTH + 0.04) * (number - (len(corpora) - 1) / 2) for number, corpus in enumerate(corpora)}
    places: dict[tuple[str, int], float] = {(name, 0): 0.6 * number for number, name in enumerate(left)}
    places |= {(corpus, depth): start + depth + shifts[corpus] for depth in FINETUNE_DEPTHS for corpus in corpora}
    for key, values in scores["value"].groupby([names, scores["finetune_depth"]]):
        if key in places:
            draw_box(ax, values.dropna().to_numpy(), places[key], key[0])
    if scores["chance"].notna().any():
        ax.axhline(scores["chance"].mean(), **CHANCE_LINE)
    if classification is not None:
        models = zip(classification["pretraining"], classification["finetune_depth"], strict=True)
        ax.plot([places[model] for model in models], classification["accuracy"], **_ACCURACY)
    ax.plot([places[key] for key in unmatched], [0.95] * len(unmatched), **_STAR, transform=ax.get_xaxis_transform())
    depths = {*scores["finetune_depth"], *([] if classification is None else classification["finetune_depth"])}
    ticks = {places[name, 0]: label(name) for name in left}
    ticks |= {start + depth: str(depth) for depth in FINETUNE_DEPTHS if depth in depths}
    ax.set_xticks(list(ticks), list(ticks.values()))
    for text in ax.get_xticklabels()[: len(left)]:  # a shared axis shows none
        text.set_rotation(90)
    ax.set_ylim(0, 1.03)  # room for markers at 1
    return ax


def boxplot_figure(
    scores: pd.DataFrame,
    methods: Sequence[str],
    corpora: Sequence[str],
    classification: pd.DataFrame | None = None,
    unmatched: Collection[tuple[str, int]] = (),
    *,
    ylabel: str,
) -> Figure:
    """Draw the paper's arrangement: a panel per method in rows of four, corpora side by side per fine-tuning depth.

    Of `mean_by_class` it draws a panel per class.

    Parameters
    ----------
    scores : DataFrame
        Score rows of one selection and one metric.
    """

    def draw(ax: Axes, method: str) -> None:
        shown = scores[scores["method"].isin([method, *COMPARISON_MAPS])]
        plot_score_boxes(ax, shown, corpora, classification, unmatched)

    names, left = {corpus: label(corpus) for corpus in corpora}, ""
    if (scores["pretraining"] == UNTRAINED).any():
        names |= {UNTRAINED: "untrained network", "sobel": "comparison maps"}
        left = "comparison maps and untrained network, then "
    figure = figures.method_panels(methods, 2.15, draw, ylabel=ylabel, xlabel=f"{left}fine-tuned blocks")
    lines = {"chance": CHANCE_LINE} if scores["chance"].notna().any() else {}
    lines |= {"classification accuracy": _ACCURACY} if classification is not None else {}
    lines |= {"not matched": _STAR} if unmatched else {}
    boxes = [Patch(facecolor=colour(name), hatch=hatch(name), **_EDGE, label=text) for name, text in names.items()]
    figures.legend(figure, (), lines, boxes)
    return figure


def score_box_data(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what the boxes show: number, quartiles and mean chance of each model group and method."""
    groups = scores.groupby(["method", "pretraining", "finetune_depth"], observed=True)
    shares = {"q25": 0.25, "median": 0.5, "q75": 0.75}
    quartiles = pd.DataFrame({name: groups["value"].quantile(share) for name, share in shares.items()})
    return quartiles.assign(n=groups["value"].count(), mean_chance=groups["chance"].mean()).reset_index()


def mean_by_class(scores: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return each fine-tuned network's mean score over the methods on each image, with the image's class as `method`.

    Parameters
    ----------
    scores : DataFrame
        Score rows of one selection and one metric.
    """
    rows = scores[scores["method"].isin(methods) & (scores["finetune_depth"] > 0)]
    keys = ["pretraining", "finetune_depth", "seed", "image_index", "label"]
    means = rows.groupby(keys, observed=True)[["value", "chance"]].mean().reset_index()
    return means.assign(method=means["label"].map(dict(enumerate(CLASSES))))


def dependence_figure(table: pd.DataFrame, corpora: Sequence[str]) -> Figure:
    """Draw what becomes of decisions without lesions, by depth and a marker per model.

    Parameters
    ----------
    table : DataFrame
        Of `classification.lesion_dependence`, one selection.
    """
    owed = table.pivot(index=NETWORK, columns="label", values="owed").set_axis(CLASSES, axis=1)
    shares = owed.assign(called_irregular=table.groupby(NETWORK)["called_irregular"].first()).reset_index()
    titles = {name: f"{name}: owed to the lesions" for name in CLASSES} | {"called_irregular": "called irregular, all"}

    def draw(ax: Axes, name: str) -> None:
        figures.plot_by_depth(ax, shares, corpora, name)

    figure = figures.method_panels([*titles], 1.9, draw, ylabel="share of images")
    for ax, (name, title) in zip(figure.axes, titles.items(), strict=True):
        ax.set(title=title, ylim=(-0.04, 1.04))
        if name == "called_irregular":
            ax.axhspan(1 - DEFAULT_SHARE, DEFAULT_SHARE, color="0.92", zorder=0)
    figures.legend(figure, corpora, {})
    return figure


def classification_figure(table: pd.DataFrame, corpora: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Draw several classification metrics by depth, a panel per metric and a marker per model."""

    def draw(ax: Axes, metric: str) -> None:
        figures.plot_by_depth(ax, table, corpora, metric).axhline(0.5, **CHANCE_LINE)

    figure = figures.method_panels(metrics, 1.7, draw, ylabel="")
    figure.axes[0].set_ylim(min(0.45, table[list(metrics)].min(axis=None) - 0.04), 1.03)
    figures.legend(figure, corpora, {"chance": CHANCE_LINE})
    return figure
