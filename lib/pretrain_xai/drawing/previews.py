"""Pictures of what a study is made of: patches, slices, images with lesions and maps, training curves, the audit."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from pretrain_xai.dataset import LabelledImages, Split
from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS, Style, panels
from pretrain_xai.lesions import Patches
from pretrain_xai.names import colour, label
from pretrain_xai.study import CLASSES

CLASS_COLOURS = sns.color_palette("colorblind")[:2]


def picture_rows(
    rows: Iterable[tuple[str, Sequence[np.ndarray] | np.ndarray, Sequence[str]]],
) -> tuple[Figure, np.ndarray]:
    """Draw rows of images across two columns, each row with its name, its images and their titles; return figure and axes."""
    rows = list(rows)
    n_columns = max(len(images) for _, images, _ in rows)
    height, width = rows[0][1][0].shape[:2]
    side = TWO_COLUMNS / n_columns * height / width + (0.17 if rows[0][2][0] else 0.02)
    figure, axes = panels(len(rows), n_columns, (TWO_COLUMNS, side * len(rows)))
    for row, (name, images, titles) in zip(axes, rows, strict=True):
        for ax in row[len(images) :]:
            ax.axis("off")
        for ax, image, title in zip(row, images, titles, strict=False):
            show_image(ax, image).set_title(title, fontsize=7, pad=1)
        row[0].set_ylabel(name)
    return figure, axes


def patch_figure(patches: Patches, n_shown: int) -> Figure:
    """Draw the first patches of each class at one scale."""
    shown = {name: pool[:n_shown] for name, pool in patches.items()}
    side = max(max(patch.weights.shape) for pool in shown.values() for patch in pool)
    rows = []
    for name, pool in shown.items():
        sides = [[((side - n) // 2, -(-(side - n) // 2)) for n in patch.weights.shape] for patch in pool]
        centred = [np.pad(patch.weights, around) for patch, around in zip(pool, sides, strict=True)]
        rows.append((name, centred, [f"{patch.compactness:.2f}" for patch in pool]))
    figure, _ = picture_rows(rows)
    figure.supxlabel("above each patch: compactness")
    return figure


def slice_figure(slices: np.ndarray, table: pd.DataFrame, n_subjects: int, unit: str, by: str = "sex") -> Figure:
    """Draw slices of the first subjects, one row per subject, at most eight from below to above; z has the `unit`.

    Rows are named by the column `by` and, where it is known, by age.
    """
    rows = []
    for subject in table["subject"].unique()[:n_subjects]:
        of = table[table["subject"] == subject]
        drawn = of.iloc[np.unique(np.linspace(0, len(of) - 1, min(8, len(of))).round().astype(int))]
        who = str(of[by].iloc[0]) + (f", {of['age'].iloc[0]:g}" if of["age"].notna().all() else "")
        rows.append((who, slices[drawn.index], [f"{z:.0f} {unit}" for z in drawn["z"]]))
    return picture_rows(rows)[0]


def quality_figure(quality: pd.DataFrame, rejected: pd.DataFrame) -> Figure:
    """Draw the brightness of the brain by split, the share of brain by class, and what was rejected why, if anything was.

    Both tables are those of `slices.sources`.
    """
    ratios = (1, 1) if rejected.empty else (1, 1, 1.2)
    figure, axes = panels(1, len(ratios), (TWO_COLUMNS, 2), width_ratios=ratios)
    for ax, panel, unit in zip(axes.flat, ("intensity", "brain_share"), ("brain pixels", "slices"), strict=False):
        rows = quality[quality["panel"] == panel]
        sns.lineplot(rows, x="x", y="value", hue="group", style="group", estimator=None, ax=ax)
        ax.set(xlabel=label(panel), ylabel=f"share of {unit}", xlim=(0, 1), ylim=(0, 1.9 * ax.dataLim.ymax))
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
    shown = [np.flatnonzero(split.labels == number)[:n_shown] for number in range(len(CLASSES))]
    rows = [(name, split.images[indices], [""] * n_shown) for name, indices in zip(CLASSES, shown, strict=True)]
    figure, axes = picture_rows(rows)
    for row, indices, shade in zip(axes, shown, CLASS_COLOURS, strict=True):
        for ax, index in zip(row, indices, strict=False):
            outline_lesions(ax, split.masks[index], color=shade)
    return figure


def corpus_figure(corpus: LabelledImages, n_shown: int) -> Figure:
    """Draw images from all over a pre-training corpus."""
    shown = np.linspace(0, len(corpus) - 1, n_shown).astype(int)
    return picture_rows([("", corpus.images[shown], [f"class {corpus.labels[index]}" for index in shown])])[0]


def filter_figure(weight: np.ndarray, n_columns: int = 16) -> Figure:
    """Draw the filters of a first layer, float array of shape (n_filters, 3, height, width), each from black to white."""
    images = [np.moveaxis((one - one.min()) / max(np.ptp(one), 1e-12), 0, -1) for one in weight]
    rows = [images[start : start + n_columns] for start in range(0, len(images), n_columns)]
    return picture_rows(("", row, [""] * len(row)) for row in rows)[0]


def history_figure(history: pd.DataFrame) -> Figure:
    """Draw loss and accuracy by epoch; the kept checkpoint is marked."""
    figure, axes = panels(1, 2, (1.4 * ONE_COLUMN, 1.8))
    kept = history.loc[history["checkpoint"], "epoch"].iloc[-1]
    for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
        for part, style in (("train", ":"), ("validation", "-")):
            ax.plot(history["epoch"], history[f"{part}_{quantity}"], style, marker=".", label=part)
        ax.axvline(kept, color="0.6", linewidth=0.6, label="kept")
        ax.set(xlabel="epoch", ylabel=quantity)
    axes[0, 0].legend()
    return figure


def audit_figure(images: pd.DataFrame, lesions: pd.DataFrame) -> Figure:
    """Draw by class what must not differ, and what does by construction: masks, boxes, brightening, positions.

    The second class is dashed.
    """
    figure, axes = panels(1, 4, (TWO_COLUMNS, 1.9))
    *histograms, centres = axes.flat
    for number, (name, shade) in enumerate(zip(CLASSES, CLASS_COLOURS, strict=True)):
        look: Style = {"facecolor": (*shade, 0.3), "edgecolor": shade, "linestyle": ("-", "--")[number], "label": name}
        for ax, column in zip(histograms, ("mask_pixels", "box_pixels", "lightening"), strict=True):
            bins, values = np.histogram_bin_edges(images[column], 25), images.loc[images["label"] == number, column]
            ax.hist(values, bins, histtype="stepfilled", density=True, **look)
            ax.set(xlabel=label(column), yticks=[], ylabel="density")
        rows = lesions[lesions["label"] == number]
        centres.plot(rows["column"], rows["row"], ".", color=shade, markersize=1, alpha=0.4)
    centres.set(xlabel="column (px)", ylabel="row (px)", aspect="equal", title="lesion centres")
    centres.invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def show_image(ax: Axes, image: np.ndarray, **options: Any) -> Axes:
    """Draw an image of shape (height, width), in grey from 0 to 1 if no `options` of `imshow` say otherwise."""
    look: Style = {"cmap": "gray", "vmin": 0, "vmax": 255 if image.dtype == np.uint8 else 1}
    ax.imshow(image, **look | options)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def outline_lesions(ax: Axes, mask: np.ndarray, color: ColorType = "white") -> Axes:
    """Draw the outline of a bool mask of shape (height, width)."""
    ax.contour(mask, levels=[0.5], colors=color, linewidths=0.6)
    return ax


def heatmap_figure(image: np.ndarray, mask: np.ndarray, maps: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw methods x models for one image, as the paper does: the image first, then each method's map in a row.

    A map is drawn from 0 to its 99.5 % quantile, with the lesions outlined.

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
            heatmap, score = lookup.loc[(method, title), ["map", "score"]]
            strongest = max(np.quantile(heatmap, 0.995), 1e-12)
            outline_lesions(show_image(ax, heatmap, cmap="inferno", vmax=strongest, interpolation="nearest"), mask)
            ax.text(0.97, 0.03, f"{score:.2f}", color="white", fontsize=7, ha="right", transform=ax.transAxes)
    outline_lesions(axes[0, 0], mask, color=colour("mri"))
    for ax, title in zip(axes[0], ["image", *titles], strict=True):
        ax.set_title(title, fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    return figure
