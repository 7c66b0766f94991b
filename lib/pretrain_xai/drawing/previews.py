"""Pictures of what a study is made of: patches, slices, images with lesions, training curves, the audit."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain_xai.dataset import LabelledImages, Split
from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS, outline_lesions
from pretrain_xai.lesions import CLASSES, Patches

CLASS_COLOURS = sns.color_palette("colorblind")[:2]


def patch_figure(patches: Patches, n_shown: int) -> Figure:
    """Draw the first patches of each class at one scale."""
    side = max(max(patch.weights.shape) for pool in patches.values() for patch in pool[:n_shown])
    figure, axes = plt.subplots(
        len(patches), n_shown, figsize=(TWO_COLUMNS, 0.95 * len(patches)), squeeze=False, layout="constrained"
    )
    for row, (name, pool) in zip(axes, patches.items(), strict=True):
        for ax, patch in zip(row, pool, strict=False):
            _show(ax, _centred(patch.weights, side)).set_xlabel(f"{patch.compactness:.2f}", labelpad=1)
        row[0].set_ylabel(name)
    figure.supxlabel("compactness", fontsize=7)
    return figure


def slice_figure(slices: np.ndarray, table: pd.DataFrame, n_subjects: int, unit: str, by: str = "sex") -> Figure:
    """Draw slices of the first subjects, one row per subject, at most eight from below to above; z has the `unit`.

    Rows are named by the column `by` and, where it is known, by age.
    """
    groups = [rows for _, rows in table.groupby("subject", sort=False)][:n_subjects]
    n_slices = min(8, max(map(len, groups)))
    height = TWO_COLUMNS / n_slices * slices.shape[1] / slices.shape[2] * 1.1
    figure, axes = plt.subplots(
        len(groups), n_slices, figsize=(TWO_COLUMNS, height * len(groups)), squeeze=False, layout="constrained"
    )
    for row, rows in zip(axes, groups, strict=True):
        drawn = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, n_slices).round().astype(int))]
        for ax, (index, z) in zip(row, drawn["z"].items(), strict=False):
            _show(ax, slices[index]).set_title(f"{z:.0f} {unit}", fontsize=7, pad=1)
        for ax in row[len(drawn) :]:
            ax.axis("off")
        subject = rows.iloc[0]
        row[0].set_ylabel(f"{subject[by]}, {subject['age']:g}" if pd.notna(subject["age"]) else str(subject[by]))
    return figure


def quality_figure(quality: pd.DataFrame, rejected: pd.DataFrame) -> Figure:
    """Draw the brightness of the brain by split, the share of brain by class, and what was rejected why, if anything was.

    Both tables are those of `slices.store`.
    """
    ratios = (1, 1) if rejected.empty else (1, 1, 1.2)
    figure, axes = plt.subplots(1, len(ratios), figsize=(TWO_COLUMNS, 2), layout="constrained", width_ratios=ratios)
    styles = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    for ax, panel, unit in zip(axes, ("intensity", "brain_share"), ("brain pixels", "slices"), strict=False):
        for number, (group, rows) in enumerate(quality[quality["panel"] == panel].groupby("group", sort=False)):
            ax.plot(rows["x"], rows["value"], linestyle=styles[number % len(styles)], label=group)
        ax.set(xlabel=_AXIS_LABELS[panel], ylabel=f"share of {unit}", xlim=(0, 1), ylim=(0, 1.9 * ax.dataLim.ymax))
        ax.legend(loc="upper left")
    if not rejected.empty:
        _draw_reasons(axes[2], rejected.head(6)[::-1])
    return figure


def _draw_reasons(ax: Axes, counts: pd.DataFrame) -> None:
    ax.barh(range(len(counts)), counts["value"], color="0.7")
    for place, row in enumerate(counts.itertuples()):
        words = textwrap.shorten(f"{row.value} {row.group}{'s' * (row.value > 1)}: {row.x}", 60, placeholder=" …")
        ax.text(0.02, place, words, transform=ax.get_yaxis_transform(), va="center")
    ax.set(xlabel="files and slices rejected", yticks=[])


def image_figure(split: Split, n_shown: int) -> Figure:
    """Draw images of each class with their lesion masks outlined."""
    figure, axes = plt.subplots(
        len(CLASSES), n_shown, figsize=(TWO_COLUMNS, 0.98 * len(CLASSES)), squeeze=False, layout="constrained"
    )
    for number, (row, name) in enumerate(zip(axes, CLASSES, strict=True)):
        for ax, index in zip(row, np.flatnonzero(split.labels == number).tolist(), strict=False):
            outline_lesions(_show(ax, split.images[index]), split.masks[index], color=CLASS_COLOURS[number])
        row[0].set_ylabel(name)
    return figure


def corpus_figure(corpus: LabelledImages, n_shown: int) -> Figure:
    """Draw images from all over a pre-training corpus."""
    figure, axes = plt.subplots(
        1, n_shown, figsize=(TWO_COLUMNS, TWO_COLUMNS / n_shown * 1.15), squeeze=False, layout="constrained"
    )
    for ax, index in zip(axes.flat, np.linspace(0, len(corpus) - 1, n_shown).astype(int), strict=True):
        _show(ax, corpus.images[index]).set_title(f"class {corpus.labels[index]}", fontsize=7, pad=1)
    return figure


def filter_figure(weight: np.ndarray, n_columns: int = 16) -> Figure:
    """Draw the filters of a first layer, float array of shape (n_filters, 3, height, width), each from black to white."""
    n_rows = -(-len(weight) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(TWO_COLUMNS, TWO_COLUMNS / n_columns * n_rows), squeeze=False, layout="constrained"
    )
    for ax, filter_ in zip(axes.flat, weight, strict=False):
        low, high = filter_.min(), filter_.max()
        ax.imshow(np.moveaxis((filter_ - low) / max(high - low, 1e-12), 0, -1))
    for ax in axes.flat:
        ax.set_axis_off()
    return figure


def history_figure(history: pd.DataFrame) -> Figure:
    """Draw loss and accuracy by epoch; the kept checkpoint is marked."""
    figure, axes = plt.subplots(1, 2, figsize=(1.4 * ONE_COLUMN, 1.8), layout="constrained")
    kept = history[history["checkpoint"]].iloc[-1]
    for ax, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for part, style in (("train", ":"), ("validation", "-")):
            ax.plot(history["epoch"], history[f"{part}_{quantity}"], style, marker=".", label=part)
        ax.axvline(kept["epoch"], color="0.6", linewidth=0.6)
        ax.set(xlabel="epoch", ylabel=quantity)
    axes[1].annotate(
        "kept", (kept["epoch"], axes[1].get_ylim()[0]), xytext=(2, 2), textcoords="offset points", color="0.4"
    )
    axes[0].legend()
    return figure


def audit_figure(images: pd.DataFrame, lesions: pd.DataFrame) -> Figure:
    """Draw by class what must not differ, and what does by construction: masks, boxes, brightening, positions."""
    figure, axes = plt.subplots(1, 4, figsize=(TWO_COLUMNS, 1.9), layout="constrained")
    for ax, column in zip(axes, ("mask_pixels", "box_pixels", "lightening"), strict=False):
        plot_by_class(ax, images, column)
    for number in range(len(CLASSES)):
        rows = lesions[lesions["label"] == number]
        style = {"color": CLASS_COLOURS[number], "markersize": 1, "alpha": 0.4}
        axes[3].plot(rows["column"], rows["row"], ".", **style)
    axes[3].set(xlabel="column (px)", ylabel="row (px)", aspect="equal", title="lesion centres")
    axes[3].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def plot_by_class(ax: Axes, images: pd.DataFrame, column: str) -> Axes:
    """Draw the histogram of a column for the images of each class, filled and outlined; the second class is dashed."""
    bins = np.histogram_bin_edges(images[column], 25)
    for number, name in enumerate(CLASSES):
        values = images.loc[images["label"] == number, column]
        common = {"bins": bins, "density": True, "color": CLASS_COLOURS[number]}
        ax.hist(values, histtype="stepfilled", alpha=0.3, **common)
        ax.hist(values, histtype="step", linestyle=("-", "--")[number], label=name, **common)
    ax.set(xlabel=_AXIS_LABELS[column], yticks=[], ylabel="density")
    return ax


_AXIS_LABELS: Mapping[str, str] = {
    "mask_pixels": "lesion mask (px)",
    "box_pixels": "boxes (px, before resizing)",
    "lightening": "mean brightening",
    "brain_share": "share of the slice that is brain",
    "intensity": "intensity",
}


def _show(ax: Axes, image: np.ndarray) -> Axes:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def _centred(weights: np.ndarray, side: int) -> np.ndarray:
    canvas = np.zeros((side, side))
    height, width = weights.shape
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = weights
    return canvas
