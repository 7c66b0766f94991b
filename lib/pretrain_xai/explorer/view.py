"""The picture of the `explore` notebook: networks in rows, methods in columns."""

import io
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pretrain_xai.drawing.figures import TWO_COLUMNS
from pretrain_xai.drawing.previews import outline_lesions
from pretrain_xai.explorer.data import RANK_ACCURACY, Choice, Explorer, Heatmap
from pretrain_xai.lesions import CLASSES
from pretrain_xai.names import label
from pretrain_xai.study import Run

#: of Okabe and Ito's colours three that differ for all eyes, in lightness too; the outline is the second cue
HIT, MISS, FALSE_ALARM = "#56B4E9", "#F0E442", "#D55E00"
#: what is drawn of a map, by the words of the menu, with its legend
MODES = {
    "map": {"0": "black", "strongest pixels of the map": "#FCFFA4"},
    "signed map": {"for the true class": "#B35806", "against it": "#542788"},
    "hits and misses": {"hit": HIT, "miss": MISS, "false alarm": FALSE_ALARM},
}
_STRIP = [
    Line2D([], [], color="black", marker="D", markersize=3.5, linestyle="", label="this image's score"),
    Line2D([], [], color="0.6", linewidth=3, label="scored images: range, quartiles, median"),
    Line2D([], [], color="black", linestyle=(0, (2, 2)), linewidth=0.8, label="chance"),
]
#: more columns or rows can't be read
MOST_METHODS, MOST_NETWORKS = 8, 6
#: up to so many columns a method's name fits on one line
_WIDE = 4


def hits_and_misses(heatmap: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return hits, misses and false alarms of the strongest pixels as colours, RGBA array (height, width, 4).

    A pixel is a false alarm if it is among the k strongest and not in the mask, which has k pixels. Pixels that tie for the
    last places are left out, since which of them to take is chance.
    """
    strongest = np.append(np.sort(heatmap, axis=None)[::-1], -np.inf)
    selected = heatmap > strongest[mask.sum()]
    colours = np.zeros((*mask.shape, 4))
    for where, colour in ((selected & mask, HIT), (mask & ~selected, MISS), (selected & ~mask, FALSE_ALARM)):
        colours[where] = to_rgba(colour)
    return colours


def explorer_figure(explorer: Explorer, choice: Choice, mode: str, strength: float) -> tuple[Figure, pd.DataFrame]:
    """Draw a choice, and return the numbers that are drawn (`Explorer.table`).

    Parameters
    ----------
    mode : a key of MODES
    strength : float, range [0, 1]
        How much the map covers the image: 0 shows the image alone, 1 the map alone.
    """
    table, maps = explorer.table(choice), explorer.heatmaps(choice)
    image, mask = np.asarray(explorer.test.images[choice.image]), explorer.test.masks[choice.image]
    n_rows, n_columns = len(choice.runs), len(choice.methods)
    side, words = min(TWO_COLUMNS / (n_columns + 1.4), 2), 0.44 if n_columns > _WIDE else 0.32  # inches
    pitch = side + words + 0.3
    width, height = max((n_columns + 1) * side + 0.3, 5.2), n_rows * pitch + 0.8
    figure = Figure(figsize=(width, height), dpi=140)
    figure.set_layout_engine("none")  # an engine takes longer than all the rest

    def axes(row: int, column: int, *, below: bool = False) -> Axes:
        left, bottom = column * side + 0.3 * (column > 0) + 0.06, height - 0.22 - row * pitch - words - side
        box = (left, bottom - 0.11, 0.92 * side, 0.1) if below else (left, bottom, 0.92 * side, side)
        return figure.add_axes(tuple(np.array(box) / (width, height, width, height)))

    for place, ((run, method), row) in enumerate(zip(maps, table.to_dict("records"), strict=True)):
        at, column = divmod(place, n_columns)
        ax, value = axes(at, column + 1), row[RANK_ACCURACY]
        _draw_map(ax, image, mask, maps[run, method], mode, strength)
        name = label(method).replace(" ", "\n", 1) if n_columns > _WIDE else label(method)
        ax.set_title(f"{name}\n{'no score' if np.isnan(value) else f'{value:.2f}'}", fontsize=7, pad=3)
        others = np.array(explorer.rank_accuracies(run).get(method, []))
        _draw_strip(axes(at, column + 1, below=True), value, row[f"{RANK_ACCURACY}_chance"], others)
        if column == 0:
            verdict = _verdict(row)
            said = f"{row['predicted']}{verdict} p = {row['probability']:.2f}" if verdict else ""
            _draw_map(ax := axes(at, 0), image, mask, None, "", 0)
            ax.set_title(f"{explorer.run_name(run)}\n{said}", fontsize=7, pad=3, loc="left")
    patches = [Patch(facecolor=colour, edgecolor="black", label=words) for words, colour in MODES[mode].items()]
    figure.legend(handles=[*patches, *_STRIP], loc="lower center", ncols=3, handlelength=1.4)
    truth, chance = table["class"][0], table[f"{RANK_ACCURACY}_chance"][0]
    title = f"Test image {choice.image}: {truth} lesions. Relevance Rank Accuracy of each map; chance {chance:.2f}"
    figure.suptitle(title, fontsize=8, x=0.01, y=1 - 0.04 / height, ha="left", va="top")
    return figure, table


def as_png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def montage(explorer: Explorer, runs: Sequence[Run], method: str) -> Figure:
    """Draw every image of which maps of all `runs` were kept in a row: the image, then the method's map of each network."""
    images = explorer.kept_images(runs)
    size = ((len(runs) + 1) * 1.7, 1.9 * len(images))
    figure, axes = plt.subplots(len(images), len(runs) + 1, figsize=size, squeeze=False)
    for (first, *rest), image in zip(axes, images, strict=True):
        picture, mask = np.asarray(explorer.test.images[image]), explorer.test.masks[image]
        choice = Choice(image, tuple(runs), (method,))
        _draw_map(first, picture, mask, None, "", 0)
        first.set_title(f"image {image}, {CLASSES[explorer.test.labels[image]]}", fontsize=7)
        rows = explorer.table(choice).to_dict("records")
        for ax, ((run, _), heatmap), row in zip(rest, explorer.heatmaps(choice).items(), rows, strict=True):
            _draw_map(ax, picture, mask, heatmap, "map", 1)
            ax.set_title(f"{explorer.run_name(run)}{_verdict(row)}: {row[RANK_ACCURACY]:.2f}", fontsize=7)
    figure.suptitle(label(method))
    return figure


def _verdict(row: Mapping[Hashable, Any]) -> str:
    """Return whether a network is right; nothing of the untrained network, which is not asked."""
    return "" if pd.isna(row["predicted"]) else " ✓" if row["predicted"] == row["class"] else " ✗"


def _draw_map(
    ax: Axes, image: np.ndarray, mask: np.ndarray, heatmap: Heatmap | None, mode: str, strength: float
) -> None:
    """Draw a map over its image, with the lesions outlined; without a map say so where one is asked for."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    signed = mode == "signed map"
    values = None if heatmap is None else heatmap.signed if signed else heatmap.absolute
    outline_lesions(ax, mask, color="black" if values is not None and signed and strength > 0.5 else "white")
    if values is None:
        ax.text(0.5, 0.5, "not computed" if mode else "", transform=ax.transAxes, ha="center", color="white")
    elif mode == "hits and misses":
        ax.imshow(hits_and_misses(values, mask) * (1, 1, 1, strength), interpolation="nearest")
    else:
        top = max(np.quantile(np.abs(values), 0.995), 1e-12)
        low, colours = (-top, "PuOr_r") if signed else (0, "inferno")
        ax.imshow(values, cmap=colours, vmin=low, vmax=top, alpha=strength, interpolation="nearest")


def _draw_strip(ax: Axes, value: float, chance: float, others: np.ndarray) -> None:
    """Draw where a score stands among those of all scored images."""
    low, lower, middle, upper, high = np.nanquantile(others, [0, 0.25, 0.5, 0.75, 1]) if len(others) else [np.nan] * 5
    ax.plot([low, high], [0, 0], color="0.6", linewidth=1)
    ax.plot([lower, upper], [0, 0], color="0.6", linewidth=4, solid_capstyle="butt")
    ax.plot(middle, 0, "|", color="black", markersize=6)
    ax.plot([chance, chance], [-1, 1], color="black", linestyle=(0, (2, 2)), linewidth=0.8)
    ax.plot(value, 0, "D", color="black", markersize=3.5)
    ax.set(xlim=(-0.02, 1.02), ylim=(-1, 1), yticks=[])
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.spines["left"].set_visible(False)
    ax.tick_params(length=2, pad=1, labelsize=7)
