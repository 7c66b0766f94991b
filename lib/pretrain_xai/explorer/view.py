"""The menus of the `explore` notebook and its picture: networks in rows, methods in columns."""

import html
import re
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.core.pylabtools import print_figure
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pretrain_xai import paths
from pretrain_xai.drawing.figures import Style, panels, save_figure
from pretrain_xai.drawing.previews import outline_lesions
from pretrain_xai.errors import UserError
from pretrain_xai.explorer.data import IMAGES, ORDERS, RANK_ACCURACY, Choice, Explorer, Heatmap
from pretrain_xai.names import label
from pretrain_xai.study import CLASSES

#: of Okabe and Ito's colours three that differ for all eyes, in lightness too; the outline is the second cue
HIT, MISS, FALSE_ALARM = "#56B4E9", "#F0E442", "#D55E00"
#: what is drawn of a map, by the words of the menu, with its legend
MODES = {
    "map": {"0": "black", "strongest pixels of the map": "#FCFFA4"},
    "signed map": {"for the true class": "#B35806", "against it": "#542788"},
    "hits and misses": {"hit": HIT, "miss": MISS, "false alarm": FALSE_ALARM},
}
_CHANCE: Style = {"color": "black", "linestyle": (0, (2, 2)), "linewidth": 0.8}
_STRIP = [
    Line2D([], [], color="black", marker="D", markersize=3.5, linestyle="", label="this image's score"),
    Line2D([], [], color="0.6", linewidth=3, label="scored images: range, quartiles, median"),
    Line2D([], [], **_CHANCE, label="chance"),
]
#: more can't be read
MOST_MAPS = 48
#: up to so many columns a method's name fits on one line
_WIDE = 4

#: the class of the explorer's element in the page
_ROOT = "pretrain-xai-explorer"
#: JupyterLab takes the arrow keys for moving from cell to cell, also where a menu has the focus, except in elements with an
#: attribute that ipywidgets can't set: an invisible image sets it on whatever gets the focus
_KEYS_STAY = f"""<img alt="" hidden src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    onload="document.addEventListener('focusin', ({{target}}) => target.closest('.{_ROOT}') &&
        target.setAttribute('data-lm-suppress-shortcuts', 'true'))">"""


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
    side = 1.6 if n_columns <= _WIDE else 1.1  # inches
    size = max((n_columns + 1) * side, 5.2), n_rows * (side + 0.6) + 0.8
    figure, axes = panels(n_rows, n_columns + 1, size, dpi=140)
    plt.close(figure)  # Jupyter would show it at the end of the cell, too
    for place, ((run, method), row) in enumerate(zip(maps, table.to_dict("records"), strict=True)):
        at, column = divmod(place, n_columns)
        ax, value = axes[at, column + 1], row[RANK_ACCURACY]
        _draw_map(ax, image, mask, maps[run, method], mode, strength)
        name = label(method).replace(" ", "\n", 1) if n_columns > _WIDE else label(method)
        ax.set_title(f"{name}\n{'no score' if np.isnan(value) else f'{value:.2f}'}", fontsize=7, pad=3)
        others = explorer.rank_accuracies(run).reindex(columns=[method])[method].dropna()
        _draw_strip(ax.inset_axes((0, -0.12, 1, 0.1)), value, row[f"{RANK_ACCURACY}_chance"], others)
        if column == 0:
            said = ""
            if row["predicted"] is not None:  # the untrained network is not asked
                verdict = "✓" if row["predicted"] == row["class"] else "✗"
                said = f"{row['predicted']} {verdict} p = {row['probability']:.2f}"
            _draw_map(axes[at, 0], image, mask, None, "", 0)
            axes[at, 0].set_title(f"{explorer.run_name(run)}\n{said}", fontsize=7, pad=3, loc="left")
    patches = [Patch(facecolor=colour, edgecolor="black", label=words) for words, colour in MODES[mode].items()]
    figure.legend(handles=[*patches, *_STRIP], loc="outside lower center", ncols=3, handlelength=1.4)
    truth, chance = table["class"][0], table[f"{RANK_ACCURACY}_chance"][0]
    title = f"Test image {choice.image}: {truth} lesions. Relevance Rank Accuracy of each map; chance {chance:.2f}"
    figure.suptitle(title, fontsize=8)
    return figure, table


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
        ax.text(
            0.5, 0.5, "not computed" if mode else "", transform=ax.transAxes, ha="center", color="white", fontsize=7
        )
    elif mode == "hits and misses":
        ax.imshow(hits_and_misses(values, mask) * (1, 1, 1, strength), interpolation="nearest")
    else:
        top = max(np.quantile(np.abs(values), 0.995), 1e-12)
        low, colours = (-top, "PuOr_r") if signed else (0, "inferno")
        ax.imshow(values, cmap=colours, vmin=low, vmax=top, alpha=strength, interpolation="nearest")


def _draw_strip(ax: Axes, value: float, chance: float, others: pd.Series) -> None:
    """Draw where a score stands among those of all scored images."""
    style: Style = {"boxprops": {"color": "0.6", "facecolor": "0.6"}, "whiskerprops": {"color": "0.6"}, "widths": 0.8}
    style |= {"medianprops": {"color": "black"}, "whis": (0, 100), "showcaps": False, "patch_artist": True}
    ax.boxplot(others, positions=[0], orientation="horizontal", **style)
    ax.axvline(chance, **_CHANCE)
    ax.plot(value, 0, "D", color="black", markersize=3.5)
    ax.set(xlim=(-0.02, 1.02), ylim=(-1, 1), yticks=[])
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.spines["left"].set_visible(False)
    ax.tick_params(length=2, pad=1, labelsize=7)


def _menu(kind: type[widgets.Widget], width: str, description: str, options: Any = (), **more: Any) -> widgets.Widget:
    style, layout = {"description_width": "initial"}, {"width": width}
    return kind(style=style, layout=layout, description=description, options=options, **more)


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


class ExplorerControls(widgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Menus above and on the left, the picture with its table on the right.

    Every menu is reached by Tab and moved by the arrow keys. The picture is drawn anew when a choice changes; maps that
    are not at hand are computed when asked for. At first it shows the deepest networks and the study's first three methods.
    """

    def __init__(self, explorer: Explorer) -> None:
        from pretrain_xai.attribution import METHODS

        self.explorer, several = explorer, widgets.SelectMultiple
        ran = explorer.study.attribution.methods
        methods = [(label(method), method) for method in ran]
        methods += [(f"{label(method)} (not run)", method) for method in METHODS if method not in ran]
        networks = [(explorer.run_name(run), run) for run in explorer.runs]
        self.networks = _menu(several, "24em", "networks", networks, value=explorer.deepest[:2], rows=11)
        self.methods = _menu(several, "24em", "methods", methods, value=ran[:3], rows=11)
        self.listed = _menu(widgets.Dropdown, "20em", "images", list(IMAGES), value="with kept maps")
        self.order = _menu(widgets.Dropdown, "20em", "sorted by", list(ORDERS))
        self.image = _menu(widgets.Select, "28em", "image", rows=24)
        self.mode = widgets.ToggleButtons(options=list(MODES), description="show", style={"button_width": "10em"})
        slider = {"value": 0.8, "min": 0, "max": 1, "step": 0.1, "continuous_update": False}
        self.strength = widgets.FloatSlider(description="overlay", **slider)
        self.compute = widgets.Button(layout={"width": "14em"})
        self.status, self.picture, self.numbers = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.file_name = widgets.Text(description="file name")
        self.export = widgets.Button(description="export this view")
        self._acting = False
        self._act(self._draw)
        for menu in (self.networks, self.methods, self.listed, self.order, self.image, self.mode, self.strength):
            menu.observe(lambda _: self._act(self._draw), "value")
        self.compute.on_click(lambda _: self._act(self._compute))
        self.export.on_click(lambda _: self._act(self._export))
        images = widgets.VBox([self.listed, self.order, self.image], layout={"width": "29em"})
        above = [_row(self.mode, self.strength), _row(self.compute, self.status)]
        below = [self.picture, self.numbers, _row(self.file_name, self.export)]
        right = widgets.VBox([*above, *below], layout={"flex": "1 1 30em", "min_width": "20em"})
        super().__init__((_row(self.networks, self.methods), _row(images, right), widgets.HTML(_KEYS_STAY)))
        self.add_class(_ROOT)

    def _act(self, action: Callable[[], None]) -> None:
        """Do what a menu asks for: menus that it changes ask for nothing, errors that the user can mend are shown."""
        if self._acting:
            return
        self._acting = True
        try:
            action()
        except UserError as error:
            self._say(str(error))
            self.picture.value = self.numbers.value = ""
        finally:
            self._acting = False

    def _say(self, words: str) -> None:
        self.status.value = f'<span role="status">{html.escape(words)}</span>'

    def choice(self) -> Choice:
        """List the images anew, stay at the one that is shown if it is still among them, and return what is chosen."""
        runs, methods, shown = self.networks.value, self.methods.value, self.image.value
        if not 1 <= len(runs) * len(methods) <= MOST_MAPS:
            chosen = f"{len(runs)} networks and {len(methods)} methods are chosen"
            raise UserError(f"{chosen}: choose 1 to {MOST_MAPS} maps, a network times a method each")
        listed = list(self.explorer.images(runs, methods, self.listed.value, self.order.value).itertuples())
        self.image.options = [(self._row_words(row, len(runs)), row.image_index) for row in listed]
        if not listed:
            raise UserError(f"no image is {self.listed.value}: choose other images or networks")
        self.image.value = shown if shown in dict(self.image.options).values() else listed[0].image_index
        return Choice(self.image.value, runs, methods)

    def _row_words(self, row: Any, n_runs: int) -> str:
        """Return the words of an image in the list: the number that it is sorted by, what it is, who gets it wrong."""
        value = row.disagreement if self.order.value == "methods disagree" else row.score
        number = " –  " if pd.isna(value) else f"{value:.2f}"
        wrong = f" · {row.n_wrong} of {n_runs} wrong" if row.n_wrong else ""
        name = CLASSES[self.explorer.test.labels[row.image_index]]
        return f"{number} · {row.image_index} {name}{wrong}{' · kept' if row.kept else ''}"

    def _draw(self) -> None:
        choice, mode = self.choice(), self.mode.value
        figure, table = explorer_figure(self.explorer, choice, mode, self.strength.value)
        source = f"data:image/png;base64,{print_figure(figure, base64=True)}"  # type: ignore[no-untyped-call]
        self.picture.value = f'<img style="max-width: 100%" alt="{figure.get_suptitle()}" src="{source}">'
        shown = table.drop(columns=["selection", "image_index", "class"]).rename(columns=label)
        look: dict[str, Any] = {"index": False, "border": 0, "na_rep": "–", "justify": "left"}
        words = {"pretraining": label, "method": label}
        page = shown.to_html(formatters=words, float_format="{:.3g}".format, **look)
        self.numbers.value = (
            f'<div style="overflow-x: auto" tabindex="0" role="region" aria-label="Numbers">{page}</div>'
        )
        missing = len(self.explorer.missing(choice, signed=mode == "signed map"))
        self.compute.disabled = not missing
        self.compute.description = f"compute {missing} map{'s' * (missing != 1)}" if missing else "all maps at hand"
        self._say("")
        self.file_name.value = f"explore_image{choice.image}_{mode.replace(' ', '_')}"

    def _compute(self) -> None:
        self.explorer.compute(self.choice(), signed=self.mode.value == "signed map", say=self._say)
        self._draw()

    def _export(self) -> None:
        """Write the picture and its numbers to the study's figures."""
        choice, name, study = self.choice(), self.file_name.value.strip(), self.explorer.study
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise UserError(f"file name {name!r}: letters, digits, _ and - are expected")
        shown = {"shown": self.mode.value, "overlay_strength": self.strength.value}
        figure, table = explorer_figure(self.explorer, choice, *shown.values())
        models = [run.name for run in choice.runs]
        chosen = {"study": study.name, "image": choice.image, "models": models, "methods": choice.methods}
        inputs = [study.paths.scores / f"{model}.parquet" for model in models]
        path = save_figure(figure, table, study.name, name, parameters=chosen | shown, inputs=inputs)
        self._say(f"wrote {path.relative_to(paths.root())} with PDF, CSV and JSON")
