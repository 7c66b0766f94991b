"""The picture of the `explore` notebook: networks in rows, methods in columns, drawn once and then only changed."""

import io
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from pretrain_xai.drawing.figures import TWO_COLUMNS, Style
from pretrain_xai.drawing.previews import outline_lesions, plot_heatmap
from pretrain_xai.explorer.data import RANK_ACCURACY, Choice, Explorer
from pretrain_xai.explorer.maps import Heatmap
from pretrain_xai.lesions import CLASSES
from pretrain_xai.names import label
from pretrain_xai.study import Run

#: what is drawn of a map, by the words of the menu
MODES = ("map", "signed map", "hits and misses")
#: of Okabe and Ito's colours three that differ for all eyes, in lightness too; the outline is the second cue
HIT, MISS, FALSE_ALARM = "#56B4E9", "#F0E442", "#D55E00"
#: more columns or rows can't be read
MOST_METHODS, MOST_NETWORKS = 8, 6
SCREEN_DPI = 140
#: up to so many columns a method's name fits on one line
_WIDE = 4


def top_k(heatmap: np.ndarray, k: int) -> np.ndarray:
    """Return which pixels are among the k strongest, bool array of the shape of `heatmap`.

    Pixels that tie for the last places are left out, since which of them to take is chance: there may be fewer than k.
    """
    if k >= heatmap.size:
        return np.ones(heatmap.shape, dtype=bool)
    following = np.partition(heatmap, heatmap.size - k - 1, axis=None)[heatmap.size - k - 1]
    return heatmap > following


def hits_and_misses(heatmap: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return hits, misses and false alarms of the strongest pixels as colours, RGBA array (height, width, 4).

    A pixel is a false alarm if it is among the k strongest and not in the mask, which has k pixels.
    """
    selected = top_k(heatmap, int(mask.sum()))
    colours = np.zeros((*mask.shape, 4))
    for where, colour in ((selected & mask, HIT), (mask & ~selected, MISS), (selected & ~mask, FALSE_ALARM)):
        colours[where] = to_rgba(colour)
    return colours


class _Cell:
    """One map over its image, and below it where its score stands among those of all scored images."""

    def __init__(self, ax: Axes, strip: Axes) -> None:
        blank = np.zeros((2, 2))
        self.ax, self.strip = ax, strip
        self.image = ax.imshow(blank, cmap="gray", vmin=0, vmax=1)
        self.map = ax.imshow(blank, interpolation="nearest")
        self.note = ax.text(0.5, 0.5, "", transform=ax.transAxes, ha="center", va="center", color="white")
        self.outline: Collection | None = None
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        strip.set(xlim=(-0.02, 1.02), ylim=(-1, 1), yticks=[])
        strip.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        strip.spines["left"].set_visible(False)
        strip.tick_params(length=2, pad=1, labelsize=7)
        thin: Style = {"color": "0.6", "linewidth": 1}
        thick: Style = {"color": "0.6", "linewidth": 4, "solid_capstyle": "butt"}
        (self.whole,), (self.half,) = strip.plot([], [], **thin), strip.plot([], [], **thick)
        (self.median,) = strip.plot([], [], "|", color="black", markersize=6)
        (self.chance,) = strip.plot([], [], color="black", linestyle=(0, (2, 2)), linewidth=0.8)
        (self.here,) = strip.plot([], [], "D", color="black", markersize=3.5)

    def set_image(self, image: np.ndarray, mask: np.ndarray) -> None:
        extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
        for artist in (self.image, self.map):
            artist.set_extent(extent)
        self.image.set_data(image)
        if self.outline is not None:
            self.outline.remove()
        before = set(self.ax.collections)
        outline_lesions(self.ax, mask)
        (self.outline,) = set(self.ax.collections) - before

    def set_map(self, heatmap: Heatmap | None, mask: np.ndarray, mode: str, strength: float) -> None:
        shown = heatmap is not None and not (mode == "signed map" and heatmap.signed is None)
        self.map.set_visible(shown)
        self.note.set_text("" if shown else "not computed")
        if self.outline is not None:
            self.outline.set_edgecolor("black" if shown and mode == "signed map" and strength > 0.5 else "white")
        if heatmap is None or not shown:
            return
        self.map.set_alpha(strength)
        if mode == "hits and misses":
            colours = hits_and_misses(heatmap.absolute, mask)
            colours[..., 3] *= strength
            self.map.set(data=colours, alpha=None)
        elif mode == "signed map" and heatmap.signed is not None:
            top = max(np.quantile(np.abs(heatmap.signed), 0.995), 1e-12)
            self.map.set(data=heatmap.signed, cmap="PuOr_r", clim=(-top, top))
        else:
            self.map.set(
                data=heatmap.absolute, cmap="inferno", clim=(0, max(np.quantile(heatmap.absolute, 0.995), 1e-12))
            )

    def set_words(self, words: str, *, left: bool = False) -> None:
        self.ax.set_title(words, fontsize=7, pad=3, loc="left" if left else "center")

    def set_score(self, value: float, chance: float, others: np.ndarray) -> None:
        low, lower, middle, upper, high = np.quantile(others, [0, 0.25, 0.5, 0.75, 1]) if len(others) else [np.nan] * 5
        self.whole.set_data([low, high], [0, 0])
        self.half.set_data([lower, upper], [0, 0])
        self.median.set_data([middle], [0])
        self.chance.set_data([chance, chance], [-1, 1])
        self.here.set_data([value], [0])


class ExplorerView:
    """One figure that shows a choice; a new one is made only when the number of rows or columns changes.

    Attributes
    ----------
    figure : Figure
    n_figures : int
        Figures made so far.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.figure: Figure = Figure()
        self.n_figures = 0
        self._shape = (0, 0)
        self._slices: list[_Cell] = []
        self._cells: list[list[_Cell]] = []
        self._drawn_image: int | None = None

    def show(self, choice: Choice, mode: str, strength: float) -> pd.DataFrame:
        """Let the figure show `choice`, and return the numbers that it draws (`Explorer.table`).

        Parameters
        ----------
        mode : one of MODES
        strength : float, range [0, 1]
            How much the map covers the image: 0 shows the image alone, 1 the map alone.
        """
        if self._shape != (len(choice.runs), len(choice.methods)):
            self._build(len(choice.runs), len(choice.methods))
        if self._drawn_image != choice.image:
            self._set_image(choice.image)
        table, maps = self.explorer.table(choice), self.explorer.heatmaps(choice)
        mask = self.explorer.test.masks[choice.image]
        values, chances = table[RANK_ACCURACY], table[f"{RANK_ACCURACY}_chance"]
        cells = [cell for row in self._cells for cell in row]
        for (run, method), cell, value, chance in zip(maps, cells, values, chances, strict=True):
            cell.set_map(maps[run, method], mask, mode, strength)
            cell.set_words(f"{_broken(method, len(choice.methods))}\n{_written(value)}")
            ranks = self.explorer.rank_accuracies(run)
            cell.set_score(value, chance, ranks[method].dropna().to_numpy() if method in ranks else np.array([]))
        for run, first in zip(choice.runs, self._slices, strict=True):
            first.set_words(self._network_words(run, choice.image), left=True)
        self._set_legend(mode)
        truth = CLASSES[self.explorer.test.labels[choice.image]]
        self.figure.suptitle(
            f"Test image {choice.image}: {truth} lesions. Relevance Rank Accuracy of each map; chance {chances[0]:.2f}",
            fontsize=8, x=0.01, y=1 - 0.04 / self.figure.get_figheight(), ha="left", va="top",
        )  # fmt: skip
        return table

    def png(self) -> bytes:
        """Return the figure as PNG."""
        canvas = cast("FigureCanvasAgg", self.figure.canvas)
        canvas.draw()  # savefig would draw twice
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    def _network_words(self, run: Run, image: int) -> str:
        prediction = self.explorer.prediction(run, image)
        name = self.explorer.run_name(run)
        if prediction is None:
            return f"{name}\n"
        verdict = "✓" if prediction.correct else "✗"
        return f"{name}\n{CLASSES[prediction.predicted]} {verdict} p = {prediction.probability:.2f}"

    def _build(self, n_rows: int, n_columns: int) -> None:
        """Make the figure with empty artists; fixed margins, since a layout engine takes longer than all the rest."""
        words = 0.44 if n_columns > _WIDE else 0.32  # inches: titles above a map
        side = min(TWO_COLUMNS / (n_columns + 1.4), 2)
        gap = max(1.1 - side, 0.12)  # what a network says needs room
        pitch = side + words + 0.3
        width, height = max((n_columns + 1) * side + gap, 5.2), n_rows * pitch + 0.8  # a legend of two lines
        self.figure = Figure(figsize=(width, height), dpi=SCREEN_DPI)
        self.figure.set_layout_engine("none")
        FigureCanvasAgg(self.figure)
        self.n_figures += 1
        self._slices, self._cells = [], []
        for row in range(n_rows):
            bottom = height - 0.2 - row * pitch - words - side
            cells = []
            for column in range(n_columns + 1):
                left = column * side + (gap if column else 0) + 0.06
                boxes = [left, bottom, 0.92 * side, side], [left, bottom - 0.11, 0.92 * side, 0.1]
                scaled = [np.array(box) / (width, height, width, height) for box in boxes]
                cells.append(_Cell(*(self.figure.add_axes(tuple(box)) for box in scaled)))
            cells[0].strip.set_visible(False)  # the image has no score
            cells[0].map.set_visible(False)
            self._slices.append(cells[0])
            self._cells.append(cells[1:])
        self._shape, self._drawn_image = (n_rows, n_columns), None

    def _set_image(self, index: int) -> None:
        image, mask = np.asarray(self.explorer.test.images[index]), self.explorer.test.masks[index]
        for cell in [*self._slices, *(cell for row in self._cells for cell in row)]:
            cell.set_image(image, mask)
        self._drawn_image = index

    def _set_legend(self, mode: str) -> None:
        for legend in self.figure.legends:
            legend.remove()
        self.figure.legends.clear()
        handles = [*_LEGENDS[mode], *_STRIP]
        self.figure.legend(handles=handles, loc="lower center", ncols=-(-len(handles) // 2), handlelength=1.4)


def montage(explorer: Explorer, runs: Sequence[Run], method: str) -> Figure:
    """Draw every image of which maps of all `runs` were kept in a row: the image, then the method's map of each network."""
    images = explorer.kept_images(runs)
    width = (len(runs) + 1) * 1.7
    figure, axes = plt.subplots(len(images), len(runs) + 1, figsize=(width, 1.9 * len(images)), squeeze=False)
    for (first, *rest), image in zip(axes, images, strict=True):
        mask = explorer.test.masks[image]
        first.imshow(explorer.test.images[image], cmap="gray", vmin=0, vmax=1)
        outline_lesions(first, mask)
        first.set(xticks=[], yticks=[], title=f"image {image}, {CLASSES[explorer.test.labels[image]]}")
        table = explorer.table(Choice(image, tuple(runs), (method,)))
        for run, ax, value in zip(runs, rest, table[RANK_ACCURACY], strict=True):
            kept = cast("Heatmap", explorer.shelf.find(run, method, image))  # at hand, as these are the kept images
            plot_heatmap(ax, kept.absolute, mask)
            prediction = explorer.prediction(run, image)
            verdict = "" if prediction is None else " ✓" if prediction.correct else " ✗"
            ax.set_title(f"{explorer.run_name(run)}{verdict}: {value:.2f}", fontsize=7)
    figure.suptitle(label(method))
    return figure


def _written(value: float) -> str:
    return "no score" if np.isnan(value) else f"{value:.2f}"


def _broken(method: str, n_columns: int) -> str:
    """Return the method's name, of two lines in narrow columns."""
    return label(method).replace(" ", "\n", 1) if n_columns > _WIDE else label(method)


def _patches(colours: Mapping[str, str]) -> list[Patch]:
    return [Patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=words) for words, colour in colours.items()]


_LEGENDS: Mapping[str, Sequence[Patch]] = {
    "map": _patches({"0": "black", "strongest pixels of the map": "#FCFFA4"}),
    "signed map": _patches({"for the true class": "#B35806", "against it": "#542788"}),
    "hits and misses": _patches({"hit": HIT, "miss": MISS, "false alarm": FALSE_ALARM}),
}
_STRIP = [
    Line2D([], [], color="black", marker="D", markersize=3.5, linestyle="", label="this image's score"),
    Line2D([], [], color="0.6", linewidth=3, label="scored images: range, quartiles, median"),
    Line2D([], [], color="black", linestyle=(0, (2, 2)), linewidth=0.8, label="chance"),
]
