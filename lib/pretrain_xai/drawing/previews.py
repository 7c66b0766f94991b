"""Pictures of what a study is made of: patches, slices, images with lesions and maps, training curves, the audit."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from pretrain_xai.dataset import LabelledImages, Split
from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS, Style, panels
from pretrain_xai.lesions import CLASSES, Patches
from pretrain_xai.names import colour, label

CLASS_COLOURS = sns.color_palette("colorblind")[:2]


def patch_figure(patches: Patches, n_shown: int) -> Figure:
    """Draw the first patches of each class at one scale."""
    side = max(max(patch.weights.shape) for pool in patches.values() for patch in pool[:n_shown])
    figure, axes = panels(len(patches), n_shown, (TWO_COLUMNS, 0.95 * len(patches)))
    for row, (name, pool) in zip(axes, patches.items(), strict=True):
        for ax, patch in zip(row, pool, strict=False):
            (above, below), (left, right) = (((side - n) // 2, -(-(side - n) // 2)) for n in patch.weights.shape)
            centred = np.pad(patch.weights, ((above, below), (left, right)))
            show_image(ax, centred).set_xlabel(f"{patch.compactness:.2f}", labelpad=1)
        row[0].set_ylabel(name)
    figure.supxlabel("compactness")
    return figure


def slice_figure(slices: np.ndarray, table: pd.DataFrame, n_subjects: int, unit: str, by: str = "sex") -> Figure:
    """Draw slices of the first subjects, one row per subject, at most eight from below to above; z has the `unit`.

    Rows are named by the column `by` and, where it is known, by age.
    """
    groups = [rows for _, rows in table.groupby("subject", sort=False)][:n_subjects]
    n_slices = min(8, max(map(len, groups)))
    height = TWO_COLUMNS / n_slices * slices.shape[1] / slices.shape[2] * 1.1
    figure, axes = panels(len(groups), n_slices, (TWO_COLUMNS, height * len(groups)))
    for row, rows in zip(axes, groups, strict=True):
        drawn = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, n_slices).round().astype(int))]
        for ax, (index, z) in zip(row, drawn["z"].items(), strict=False):
            show_image(ax, slices[index]).set_title(f"{z:.0f} {unit}", fontsize=7, pad=1)
        for ax in row[len(drawn) :]:
            ax.axis("off")
        subject = rows.iloc[0]
        row[0].set_ylabel(f"{subject[by]}, {subject['age']:g}" if pd.notna(subject["age"]) else str(subject[by]))
    return figure


def quality_figure(quality: pd.DataFrame, rejected: pd.DataFrame) -> Figure:
    """Draw the brightness of the brain by split, the share of brain by class, and what was rejected why, if anything was.

    Both tables are those of `slices.sources`.
    """
    ratios = (1, 1) if rejected.empty else (1, 1, 1.2)
    figure, axes = panels(1, len(ratios), (TWO_COLUMNS, 2), width_ratios=ratios)
    styles = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    for ax, panel, unit in zip(axes.flat, ("intensity", "brain_share"), ("brain pixels", "slices"), strict=False):
        for number, (group, rows) in enumerate(quality[quality["panel"] == panel].groupby("group", sort=False)):
            ax.plot(rows["x"], rows["value"], linestyle=styles[number % len(styles)], label=group)
        ax.set(xlabel=_AXIS_LABELS[panel], ylabel=f"share of {unit}", xlim=(0, 1), ylim=(0, 1.9 * ax.dataLim.ymax))
        ax.legend(loc="upper left")
    if not rejected.empty:
        ax, counts = axes[0, 2], rejected.head(6)[::-1]
        ax.barh(range(len(counts)), counts["value"], color="0.7")
        for place, row in enumerate(counts.itertuples()):
            words = textwrap.shorten(f"{row.value} {row.group}{'s' * (row.value > 1)}: {row.x}", 60, placeholder=" …")
            ax.text(0.02, place, words, transform=ax.get_yaxis_transform(), va="center")
        ax.set(xlabel="files and slices rejected", yticks=[])
    return figure


def image_figure(split: Split, n_shown: int) -> Figure:
    """Draw images of each class with their lesion masks outlined."""
    figure, axes = panels(len(CLASSES), n_shown, (TWO_COLUMNS, 0.98 * len(CLASSES)))
    for number, (row, name) in enumerate(zip(axes, CLASSES, strict=True)):
        for ax, index in zip(row, np.flatnonzero(split.labels == number).tolist(), strict=False):
            outline_lesions(show_image(ax, split.images[index]), split.masks[index], color=CLASS_COLOURS[number])
        row[0].set_ylabel(name)
    return figure


def corpus_figure(corpus: LabelledImages, n_shown: int) -> Figure:
    """Draw images from all over a pre-training corpus."""
    figure, axes = panels(1, n_shown, (TWO_COLUMNS, TWO_COLUMNS / n_shown * 1.15))
    for ax, index in zip(axes.flat, np.linspace(0, len(corpus) - 1, n_shown).astype(int), strict=True):
        show_image(ax, corpus.images[index]).set_title(f"class {corpus.labels[index]}", fontsize=7, pad=1)
    return figure


def filter_figure(weight: np.ndarray, n_columns: int = 16) -> Figure:
    """Draw the filters of a first layer, float array of shape (n_filters, 3, height, width), each from black to white."""
    n_rows = -(-len(weight) // n_columns)
    figure, axes = panels(n_rows, n_columns, (TWO_COLUMNS, TWO_COLUMNS / n_columns * n_rows))
    for ax, one in zip(axes.flat, weight, strict=False):
        ax.imshow(np.moveaxis((one - one.min()) / max(np.ptp(one), 1e-12), 0, -1))
    for ax in axes.flat:
        ax.set_axis_off()
    return figure


def history_figure(history: pd.DataFrame) -> Figure:
    """Draw loss and accuracy by epoch; the kept checkpoint is marked."""
    figure, axes = panels(1, 2, (1.4 * ONE_COLUMN, 1.8))
    kept = history[history["checkpoint"]].iloc[-1]
    for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
        for part, style in (("train", ":"), ("validation", "-")):
            ax.plot(history["epoch"], history[f"{part}_{quantity}"], style, marker=".", label=part)
        ax.axvline(kept["epoch"], color="0.6", linewidth=0.6)
        ax.set(xlabel="epoch", ylabel=quantity)
    ax.annotate("kept", (kept["epoch"], 0), (2, 2), ("data", "axes fraction"), "offset points", color="0.4")
    axes[0, 0].legend()
    return figure


def audit_figure(images: pd.DataFrame, lesions: pd.DataFrame) -> Figure:
    """Draw by class what must not differ, and what does by construction: masks, boxes, brightening, positions."""
    figure, axes = panels(1, 4, (TWO_COLUMNS, 1.9))
    *histograms, centres = axes.flat
    for ax, column in zip(histograms, ("mask_pixels", "box_pixels", "lightening"), strict=True):
        plot_by_class(ax, images, column)
    for number, rows in lesions.groupby("label"):
        centres.plot(rows["column"], rows["row"], ".", color=CLASS_COLOURS[number], markersize=1, alpha=0.4)
    centres.set(xlabel="column (px)", ylabel="row (px)", aspect="equal", title="lesion centres")
    centres.invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
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


def show_image(ax: Axes, image: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> Axes:
    """Draw an image of shape (height, width), in grey from 0 to 1 if no `options` of `imshow` say otherwise."""
    look: Style = {"cmap": "gray", "vmin": 0, "vmax": 255 if image.dtype == np.uint8 else 1}
    ax.imshow(image, **look | options)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax if mask is None else outline_lesions(ax, mask)


def outline_lesions(ax: Axes, mask: np.ndarray, color: ColorType = "white") -> Axes:
    """Draw the outline of a bool mask of shape (height, width)."""
    ax.contour(mask, levels=[0.5], colors=color, linewidths=0.6)
    return ax


def plot_heatmap(ax: Axes, heatmap: np.ndarray, mask: np.ndarray | None = None) -> Axes:
    """Draw a map of shape (height, width) from 0 to its 99.5 % quantile, with the lesions outlined."""
    strongest = max(np.quantile(heatmap, 0.995), 1e-12)
    return show_image(ax, heatmap, mask, cmap="inferno", vmax=strongest, interpolation="nearest")


def heatmap_figure(image: np.ndarray, mask: np.ndarray, maps: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw methods x models for one image, as the paper does: the image first, then each method's map in a row.

    Parameters
    ----------
    image : float array of shape (height, width)
    mask : bool array of shape (height, width)
    maps : DataFrame with `title` (of the column, in order), `method`, `map` (float array (height, width)), `score`
    """
    titles, cell = list(dict.fromkeys(maps["title"])), TWO_COLUMNS / 8.2
    size = ((len(titles) + 1) * cell, len(methods) * cell * 0.9 + 0.4)
    figure, axes = panels(len(methods), len(titles) + 1, size)
    lookup = maps.set_index(["method", "title"])
    for row, method in zip(axes, methods, strict=True):
        show_image(row[0], image).set_ylabel(label(method).replace(" ", "\n"))
        for ax, title in zip(row[1:], titles, strict=True):
            shown = plot_heatmap(ax, lookup.loc[(method, title), "map"], mask)
            score = f"{lookup.loc[(method, title), 'score']:.2f}"
            shown.text(0.97, 0.03, score, color="white", fontsize=7, ha="right", transform=ax.transAxes)
    outline_lesions(axes[0, 0], mask, color=colour("mri"))
    for ax, title in zip(axes[0], ["image", *titles], strict=True):
        ax.set_title(title, fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    return figure
