"""Figures for papers: one style, and every figure as PDF, PNG, the numbers it draws and where it came from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pretrain_xai.names import colour, label, use_target
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import atomic_path, record
from pretrain_xai.settings.sections import FINETUNE_DEPTHS
from pretrain_xai.tables import write_table

#: widths of one and of two journal columns, inches
ONE_COLUMN, TWO_COLUMNS = 88 / 25.4, 180 / 25.4
STYLE = Path(__file__).with_name("paper.mplstyle")

Style = dict[str, Any]  # keyword arguments of matplotlib

#: lines at chance and other references
CHANCE_LINE: Style = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 0.7, "zorder": 1}


def use_style(target: str = "sex") -> None:
    """Use the project's style in a notebook, for all figures that follow; labels call the corpus `mri` by `target`."""
    plt.style.use(STYLE)
    use_target(target)


def save_figure(
    figure: Figure,
    data: pd.DataFrame,
    study: str,
    name: str,
    parameters: Mapping[str, Any],
    inputs: Iterable[Path] = (),
) -> Path:
    """Write `figures/<study>/<name>` as PDF, PNG (300 dpi), CSV and JSON, each atomically.

    Parameters
    ----------
    data : DataFrame
        The numbers that the figure draws.
    parameters, inputs
        For the provenance, as in `provenance.record`.

    Returns
    -------
    Path of the PNG.
    """
    base = Paths(study).figures / name
    write_table(data, base.with_suffix(".csv"))
    for suffix, options in ((".pdf", {"metadata": {"CreationDate": None}}), (".png", {"dpi": 300})):
        with atomic_path(base.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, **options)
    record(base.with_suffix(".png"), parameters=parameters, inputs=inputs, to=base.with_suffix(".json"))
    return base.with_suffix(".png")


def panels(n_rows: int, n_columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a figure of a size in inches, and its axes as an array of shape (n_rows, n_columns)."""
    return plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained", **options)


def method_panels(
    methods: Sequence[str],
    height: float,
    draw: Callable[[Axes, str], Any],
    ylabel: str,
    xlabel: str = "fine-tuned blocks",
) -> Figure:
    """Return a figure of two columns' width with a panel per method in rows of four, drawn by `draw`, that share both axes.

    Parameters
    ----------
    height : float
        Of a row, inches.
    """
    n_rows = -(-len(methods) // 4)
    size = (TWO_COLUMNS, height * n_rows + 0.6)
    figure, axes = panels(n_rows, min(4, len(methods)), size, sharex=True, sharey=True)
    for ax in axes.flat[len(methods) :]:
        ax.remove()
    for ax, method in zip(axes.flat, methods, strict=False):
        draw(ax, method)
        ax.set_title(label(method))
    figure.supylabel(ylabel)
    figure.supxlabel(xlabel)
    return figure


def plot_by_depth(ax: Axes, table: pd.DataFrame, corpora: Sequence[str], column: str, **look: Any) -> Axes:
    """Draw a column by fine-tuned blocks: a marker per row, corpora side by side, and its interval if there is one.

    Parameters
    ----------
    table : DataFrame with `pretraining`, `finetune_depth`, the column, and perhaps `low` and `high`
    """
    bars: Style = {"ecolor": "black", "elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7}
    for number, corpus in enumerate(corpora):
        rows = table[table["pretraining"] == corpus]
        places = rows["finetune_depth"] + 0.22 * (number - (len(corpora) - 1) / 2)
        widths = np.abs(rows[["low", "high"]].to_numpy().T - rows[column].to_numpy()) if "low" in rows else None
        ax.errorbar(places, rows[column], widths, **marker(corpus, number) | bars | look)
    ax.set(xticks=FINETUNE_DEPTHS, xlim=(0.5, 5.5))
    return ax


def marker(corpus: str, number: int, *, filled: bool = True) -> Style:
    """Return how networks of a corpus, the `number`-th that is drawn, are marked; not `filled`: they are not matched.

    The shape is a second cue beside the colour.
    """
    face, edge = (colour(corpus), "black") if filled else ("white", colour(corpus))
    style = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.5 if filled else 1.0}
    return {"linestyle": "", "marker": "osD^v"[number % 5], "markersize": 4} | style


def legend(figure: Figure, corpora: Iterable[str], lines: Mapping[str, Style], boxes: Sequence[Patch] = ()) -> None:
    """Name the markers of corpora and further lines, by their names, and perhaps boxes first, above all panels."""
    looks = {label(corpus): marker(corpus, number) for number, corpus in enumerate(corpora)} | dict(lines)
    handles = [*boxes, *(Line2D([], [], **look, label=name) for name, look in looks.items())]
    figure.legend(handles=handles, loc="outside upper center", ncols=6 if len(handles) < 7 else 4)
