"""Figures for papers: one style, and every figure as PDF, PNG, the numbers it draws and where it came from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pretrain_xai.names import colour, label, use_target
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import atomic_path, record
from pretrain_xai.tables import write_table

#: widths of one and of two journal columns, inches
ONE_COLUMN, TWO_COLUMNS = 88 / 25.4, 180 / 25.4
STYLE = Path(__file__).with_name("paper.mplstyle")

Style = dict[str, Any]  # keyword arguments of matplotlib

#: a second cue beside the colour of a corpus
_SHAPES = "osD^v"
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
    *,
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


def panel_grid(n_panels: int, row_height: float, *, room: float) -> tuple[Figure, np.ndarray]:
    """Return a figure of two columns' width with panels in rows of four that share both axes; superfluous ones are removed.

    Parameters
    ----------
    row_height, room : float
        Of each row, and of what stands above and below all, inches.

    Returns
    -------
    Figure, and its axes as an array of shape (n_rows, 4).
    """
    n_rows = -(-n_panels // 4)
    figure, axes = panels(n_rows, 4, (TWO_COLUMNS, row_height * n_rows + room), sharex=True, sharey=True)
    for ax in axes.flat[n_panels:]:
        ax.remove()
    return figure, axes


def marker(corpus: str, number: int, *, filled: bool = True) -> Style:
    """Return how networks of a corpus, the `number`-th that is drawn, are marked; not `filled`: they are not matched."""
    face, edge = (colour(corpus), "black") if filled else ("white", colour(corpus))
    style = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.5 if filled else 1.0}
    return {"linestyle": "", "marker": _SHAPES[number % len(_SHAPES)], "markersize": 4} | style


def corpus_handles(corpora: Iterable[str]) -> list[Line2D]:
    """Return the lines of a legend that name the markers of corpora."""
    return [Line2D([], [], **marker(corpus, number), label=label(corpus)) for number, corpus in enumerate(corpora)]
