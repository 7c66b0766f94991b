"""Figures of the results: boxplots of explanation scores, heatmaps of attributions, classification performance.

Every function takes tidy data and axes and returns the axes; none touches global settings.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS, Style, outline_lesions, panel_grid
from pretrain_xai.lesions import CLASSES
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import colour, hatch, label
from pretrain_xai.settings.sections import FINETUNE_DEPTHS
from pretrain_xai.study import UNTRAINED

BOX_WIDTH = 0.36
_THIN: Style = {"color": "black", "linewidth": 0.6}
#: above a box that stands for models that are not matched
_STAR: Style = {"linestyle": "", "marker": "*", "markersize": 5, "color": "black", "markeredgewidth": 0}


def plot_score_boxes(
    ax: Axes,
    scores: pd.DataFrame,
    corpora: Sequence[str],
    classification: pd.DataFrame | None = None,
    unmatched: Collection[tuple[str, int]] = (),
) -> Axes:
    """Draw one method's scores: comparison maps on the left, then every depth with the corpora side by side.

    Boxes are quartiles with the median, whiskers reach to the last value within 1.5 interquartile ranges. The dashed line
    is the mean chance level.

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
    places = _places(scores, corpora)
    for (pretraining, depth, comparison), position in places.items():
        chosen = (scores["pretraining"] == pretraining) & (scores["finetune_depth"] == depth)
        is_map = scores["method"].isin(COMPARISON_MAPS)
        chosen &= (scores["method"] == comparison) if comparison else ~is_map
        if chosen.any():
            draw_box(ax, scores.loc[chosen, "value"].dropna().to_numpy(), position, comparison or pretraining)
    if scores["chance"].notna().any():
        ax.axhline(scores["chance"].mean(), color="black", linestyle=(0, (4, 3)), linewidth=0.7, zorder=1)
    if classification is not None:
        for row in classification.itertuples():
            position = places[row.pretraining, row.finetune_depth, None]
            ax.plot(
                position,
                row.accuracy,
                "D",
                markersize=2.6,
                markerfacecolor="white",
                markeredgecolor="black",
                markeredgewidth=0.6,
            )
    for corpus, depth in unmatched:
        ax.plot(places[corpus, depth, None], 0.95, transform=ax.get_xaxis_transform(), zorder=4, **_STAR)
    ticks = {
        position: label(comparison or UNTRAINED)
        for (pretraining, _, comparison), position in places.items()
        if pretraining == UNTRAINED
    }
    ticks |= {_depth_position(scores, depth): str(depth) for depth in FINETUNE_DEPTHS}
    ax.set_xticks(list(ticks), list(ticks.values()))
    for text, position in zip(ax.get_xticklabels(), ticks, strict=False):  # a shared axis shows none
        text.set_rotation(90 if position < _depth_position(scores, 1) else 0)
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

    Parameters
    ----------
    scores : DataFrame
        Score rows of one selection and one metric.
    """
    figure, axes = panel_grid(len(methods), 2.15, room=0.5)
    for ax, method in zip(axes.flat, methods, strict=False):
        shown = scores[scores["method"].isin([method, *COMPARISON_MAPS])]
        plot_score_boxes(ax, shown, corpora, classification, unmatched)
        ax.set_title(label(method))
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    depths = "fine-tuned blocks"
    left = "comparison maps and untrained network, then " if (scores["pretraining"] == UNTRAINED).any() else ""
    figure.supxlabel(left + depths, fontsize=7)
    handles = _legend(corpora, scores, classification)
    handles += [Line2D([], [], **_STAR, label="not matched")] if unmatched else []
    figure.legend(handles=handles, loc="outside upper center", ncols=6 if len(handles) < 7 else 4)
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


def class_figure(means: pd.DataFrame, corpora: Sequence[str], *, ylabel: str) -> Figure:
    """Draw the boxes of `mean_by_class`: a panel per class, corpora side by side per fine-tuning depth."""
    figure, axes = plt.subplots(1, len(CLASSES), figsize=(0.7 * TWO_COLUMNS, 2.4), sharey=True, layout="constrained")
    for ax, name in zip(axes, CLASSES, strict=True):
        plot_score_boxes(ax, means[means["method"] == name], corpora).set_title(f"{name} lesions")
    axes[0].set_ylabel(ylabel)
    figure.supxlabel("fine-tuned blocks", fontsize=7)
    figure.legend(handles=_legend(corpora, means, None), loc="outside upper center", ncols=4)
    return figure


def plot_classification(ax: Axes, table: pd.DataFrame, corpora: Sequence[str], metric: str = "accuracy") -> Axes:
    """Draw a classification metric by depth: one marker per model, depths are categories and not joined by lines."""
    for number, corpus in enumerate(corpora):
        rows = table[table["pretraining"] == corpus]
        shift = 0.3 * (number - (len(corpora) - 1) / 2)
        ax.plot(
            rows["finetune_depth"] + shift,
            rows[metric],
            "osD^"[number % 4],
            markersize=4,
            color=colour(corpus),
            markeredgecolor="black",
            markeredgewidth=0.4,
            label=label(corpus),
        )
    ax.axhline(0.5, color="black", linestyle=(0, (4, 3)), linewidth=0.7)
    ax.annotate("chance", (0.6, 0.505), va="bottom")
    ax.set(
        xticks=FINETUNE_DEPTHS,
        xlim=(0.5, 5.5),
        ylim=(min(0.45, table[metric].min() - 0.04), 1.03),
        xlabel="fine-tuned blocks",
        ylabel=label(metric),
    )
    return ax


def classification_figure(table: pd.DataFrame, corpora: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Draw several classification metrics side by side."""
    width = min(TWO_COLUMNS, ONE_COLUMN / 2 * len(metrics) + 0.4)
    figure, axes = plt.subplots(1, len(metrics), figsize=(width, 2.3), squeeze=False, layout="constrained")
    for ax, metric in zip(axes.flat, metrics, strict=True):
        plot_classification(ax, table, corpora, metric).set_title(label(metric))
        ax.set(xlabel="", ylabel="")
    figure.supxlabel("fine-tuned blocks", fontsize=7)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def plot_heatmap(ax: Axes, heatmap: np.ndarray, mask: np.ndarray | None = None) -> Axes:
    """Draw a map of shape (height, width) from 0 to its 99.5 % quantile, with the lesions outlined."""
    ax.imshow(heatmap, cmap="inferno", vmin=0, vmax=max(np.quantile(heatmap, 0.995), 1e-12), interpolation="nearest")
    if mask is not None:
        outline_lesions(ax, mask)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def heatmap_figure(image: np.ndarray, mask: np.ndarray, maps: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw methods x models for one image, as the paper does: the image first, then each method's map in a row.

    Parameters
    ----------
    image : float array of shape (height, width)
    mask : bool array of shape (height, width)
    maps : DataFrame with `title` (of the column, in order), `method`, `map` (float array (height, width)), `score`
    """
    titles = list(dict.fromkeys(maps["title"]))
    cell = TWO_COLUMNS / 8.2
    figure, axes = plt.subplots(
        len(methods),
        len(titles) + 1,
        figsize=((len(titles) + 1) * cell, len(methods) * cell * 0.9 + 0.4),
        squeeze=False,
        layout="constrained",
    )
    lookup = maps.set_index(["method", "title"])
    for row, method in enumerate(methods):
        axes[row, 0].imshow(image, cmap="gray", vmin=0, vmax=1)
        axes[row, 0].set(xticks=[], yticks=[], ylabel=label(method).replace(" ", "\n"))
        outline_lesions(axes[row, 0], mask, color=colour("mri") if row == 0 else "none")
        for column, title in enumerate(titles, start=1):
            cell_map = lookup.loc[(method, title)]
            plot_heatmap(axes[row, column], cell_map["map"], mask)
            axes[row, column].text(
                0.97,
                0.03,
                f"{cell_map['score']:.2f}",
                color="white",
                fontsize=7,
                ha="right",
                transform=axes[row, column].transAxes,
            )
    for ax, title in zip(axes[0], ["image", *titles], strict=True):
        ax.set_title(title, fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    return figure


def _places(scores: pd.DataFrame, corpora: Sequence[str]) -> dict[tuple[str, int, str | None], float]:
    """Return where each box stands: comparison maps and the untrained network by one, then depths with their corpora."""
    left: list[tuple[str, int, str | None]] = [
        (UNTRAINED, 0, name) for name in COMPARISON_MAPS if (scores["method"] == name).any()
    ]
    if ((scores["pretraining"] == UNTRAINED) & ~scores["method"].isin(COMPARISON_MAPS)).any():
        left.append((UNTRAINED, 0, None))
    places = {key: 0.6 * number for number, key in enumerate(left)}
    shifts = (BOX_WIDTH + 0.04) * (np.arange(len(corpora)) - (len(corpora) - 1) / 2)
    for depth in FINETUNE_DEPTHS:
        for corpus, shift in zip(corpora, shifts, strict=True):
            places[corpus, depth, None] = _depth_position(scores, depth) + shift
    return places


def _depth_position(scores: pd.DataFrame, depth: int) -> float:
    n_left = scores.loc[scores["pretraining"] == UNTRAINED, "method"].nunique()
    return 0.6 * n_left + 0.4 + depth - 1


def draw_box(ax: Axes, values: np.ndarray, position: float, name: str, **options: Any) -> None:
    """Draw the box of a corpus or map; `options` are matplotlib's."""
    ax.boxplot(
        values,
        positions=[position],
        patch_artist=True,
        showfliers=False,
        manage_ticks=False,
        boxprops={"facecolor": colour(name), "hatch": hatch(name), "edgecolor": "black", "linewidth": 0.5},
        whiskerprops=_THIN,
        capprops=_THIN,
        medianprops={"color": "black", "linewidth": 1.1},
        **{"widths": BOX_WIDTH, **options},
    )


def _legend(corpora: Sequence[str], scores: pd.DataFrame, classification: pd.DataFrame | None) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour(name), hatch=hatch(name), edgecolor="black", linewidth=0.5, label=label(name))
        for name in corpora
    ]
    if (scores["pretraining"] == UNTRAINED).any():
        handles.append(Patch(facecolor=colour(UNTRAINED), edgecolor="black", linewidth=0.5, label="untrained network"))
        handles.append(Patch(facecolor=colour("sobel"), edgecolor="black", linewidth=0.5, label="comparison maps"))
    if scores["chance"].notna().any():
        handles.append(Line2D([], [], color="black", linestyle=(0, (4, 3)), linewidth=0.7, label="chance"))
    if classification is not None:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker="D",
                markersize=2.6,
                markerfacecolor="white",
                markeredgecolor="black",
                label="classification accuracy",
            )
        )
    return handles
