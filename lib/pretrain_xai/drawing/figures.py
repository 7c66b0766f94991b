"""Figures for papers: one style, and every figure as PDF, PNG, the numbers it draws and where it came from."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.typing import ColorType

from pretrain_xai.names import use_target
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import atomic_path, record
from pretrain_xai.tables import write_table

#: widths of one and of two journal columns, inches
ONE_COLUMN, TWO_COLUMNS = 88 / 25.4, 180 / 25.4
#: points; smaller text is hard to read in print
SMALLEST_TEXT = 7.0
STYLE = Path(__file__).with_name("paper.mplstyle")

Style = dict[str, Any]  # keyword arguments of matplotlib


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

    Warns of each fault that `print_faults` finds.

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
    for fault in print_faults(figure):
        warnings.warn(f"figure {name}: {fault}", stacklevel=2)
    record(base.with_suffix(".png"), parameters=parameters, inputs=inputs, to=base.with_suffix(".json"))
    return base.with_suffix(".png")


def print_faults(figure: Figure) -> list[str]:
    """Return what keeps a figure from print: wider than two columns, small text, text off the canvas or on other text.

    Of text at a slant only size is looked at.
    """
    figure.draw_without_rendering()
    width, (right, top) = figure.get_figwidth(), figure.bbox.size
    faults = [f"{width * 25.4:.0f} mm wide, 180 mm at most is expected"] if width > TWO_COLUMNS + 1e-6 else []
    texts = list(_drawn_texts(figure))
    sizes = [float(text.get_fontsize()) for text in texts]
    small = ((text, size) for text, size in zip(texts, sizes, strict=True) if size < SMALLEST_TEXT)
    faults += [f"{text.get_text()!r} has {size:g} pt" for text, size in small]
    upright = [text for text in texts if text.get_rotation() % 90 == 0]
    boxes = np.array([text.get_window_extent().extents for text in upright]).reshape(-1, 4)
    room = figure.dpi / 72  # a point, since boxes hold the space around letters
    outside = (boxes[:, :2] < -room).any(1) | (boxes[:, 2] > right + room) | (boxes[:, 3] > top + room)
    faults += [f"{upright[place].get_text()!r} leaves the canvas" for place in np.flatnonzero(outside)]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    overlap = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low > room).all(-1)
    pairs = np.argwhere(np.triu(overlap, k=1))
    return faults + [f"{upright[one].get_text()!r} lies on {upright[other].get_text()!r}" for one, other in pairs]


def _drawn_texts(figure: Figure) -> Iterator[Text]:
    """Yield the texts that are visible; ticks keep labels beyond the ends of their axis, which are not drawn."""
    beyond = {
        label
        for axis in figure.findobj(Axis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not _in_view(axis, tick.get_loc())
    }
    off = {text for ax in figure.axes if not (ax.axison and ax.get_visible()) for text in ax.findobj(Text)}
    for text in figure.findobj(Text):
        if (
            text.get_visible()
            and text.get_text().strip()
            and text not in beyond | off
            and text.get_figure() is not None
        ):
            yield text


def _in_view(axis: Axis, place: float) -> bool:
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    return bool(low - room <= place <= high + room)


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
    size = (TWO_COLUMNS, row_height * n_rows + room)
    figure, axes = plt.subplots(n_rows, 4, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")
    for ax in axes.flat[n_panels:]:
        ax.remove()
    return figure, axes


def outline_lesions(ax: Axes, mask: np.ndarray, color: ColorType = "white") -> Axes:
    """Draw the outline of a bool mask of shape (height, width)."""
    ax.contour(mask, levels=[0.5], colors=color, linewidths=0.6)
    return ax
