"""Figures for papers: one style, and every figure as PDF, PNG, the numbers it draws and where it came from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain_xai import paths
from pretrain_xai.provenance import atomic_path, record
from pretrain_xai.tables import write_table

#: widths of one and of two journal columns, inches
ONE_COLUMN, TWO_COLUMNS = 88 / 25.4, 180 / 25.4
STYLE = Path(__file__).with_name("paper.mplstyle")


def use_style() -> None:
    """Use the project's style in a notebook, for all figures that follow."""
    plt.style.use(STYLE)


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
    base = paths.figures(study) / name
    write_table(data, base.with_suffix(".csv"))
    for suffix, options in ((".pdf", {"metadata": {"CreationDate": None}}), (".png", {"dpi": 300})):
        with atomic_path(base.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, **options)
    record(base.with_suffix(".png"), parameters=parameters, inputs=inputs, to=base.with_suffix(".json"))
    return base.with_suffix(".png")


def outline_lesions(ax: Axes, mask: np.ndarray, color: str = "white") -> Axes:
    """Draw the outline of a bool mask of shape (height, width)."""
    ax.contour(mask, levels=[0.5], colors=color, linewidths=0.6)
    return ax
