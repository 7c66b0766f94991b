"""The figure of the sensitivity table: how alike the ranking is under every setting, and what flips."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pretrain_xai.drawing.figures import TWO_COLUMNS
from pretrain_xai.names import label
from pretrain_xai.statistics.populations import CORRECT, INCORRECT, SAME_DEPTHS

#: the letter of each kind of conclusion; capital: reversed, small: only its clearness changes
LETTERS = {"first": "f", "corpus": "c", "depth": "d", "methods": "m", "references": "r"}
_TITLES = {
    CORRECT: "right for all models",
    SAME_DEPTHS: "right for all, same depths",
    INCORRECT: "wrong for the network",
}
_ROWS = ["channel_reduction", "mask_threshold"]
_COLOURS = plt.get_cmap("cividis")


def sensitivity_figure(table: pd.DataFrame) -> Figure:
    """Draw a panel per population: scores in columns, channel reductions with mask thresholds in rows.

    Colour and number are Kendall's tau with the default's ranking; letters say what flips; the default is framed.

    Parameters
    ----------
    table : DataFrame
        `sensitivity` of `sensitivity.sensitivity_tables`.
    """
    panels = [(name, rows) for name, rows in table.groupby("population", sort=False)]
    settings = list(table[_ROWS].drop_duplicates().itertuples(index=False, name=None))
    size = (TWO_COLUMNS, 0.255 * len(settings) + 1.65)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    bounds = Normalize(min(0.0, float(table["tau"].min())), 1.0)
    for ax, (population, rows) in zip(axes[0], panels, strict=True):
        plot_sensitivity(ax, rows, settings, bounds).set_title(f"{_TITLES[population]}\n{_counts(rows.iloc[0])}")
        ax.set_yticks(range(len(settings)), [_row_name(*names) for names in settings] if ax is axes[0, 0] else [])
    figure.supxlabel(
        "Number and colour: Kendall's τ with the study's ranking; framed: the study's own. A letter: a conclusion flips,\n"
        "to the opposite (capital) or between clear and not clear (small). f: which method is first, c: corpora, d: depths,\n"
        "m: methods against each other, r: methods against comparison maps or the untrained network",
        fontsize=7,
    )
    return figure


def plot_sensitivity(ax: Axes, table: pd.DataFrame, settings: Sequence[tuple[str, float]], bounds: Normalize) -> Axes:
    """Draw one population: a cell per setting.

    Parameters
    ----------
    table : DataFrame
        Rows of one population.
    settings : sequence of (channel reduction, mask threshold)
        The rows, from the top.
    """
    scores = list(dict.fromkeys(table["score"]))
    for row in table.to_dict("records"):
        x, y = scores.index(row["score"]), settings.index(tuple(row[name] for name in _ROWS))
        ordered = not math.isnan(row["tau"])  # one method alone has no order
        face = _COLOURS(bounds(row["tau"])) if ordered else (0.9, 0.9, 0.9, 1.0)
        edge, width = ("black", 1.6) if row["is_default"] else ("white", 0.6)
        ax.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor=edge, linewidth=width, zorder=2 + row["is_default"]
            )
        )
        text = f"{row['tau']:.2f}\n{flip_letters(row)}".rstrip() if ordered else flip_letters(row)
        colour = "white" if np.dot(face[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
        ax.text(x, y, text, ha="center", va="center", fontsize=7, color=colour, linespacing=0.95, zorder=4)
    ax.set(xlim=(-0.55, len(scores) - 0.45), ylim=(len(settings) - 0.45, -0.55))
    ax.set_xticks(range(len(scores)), [_column_name(name) for name in scores], rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def flip_letters(row: Mapping[str, object]) -> str:
    """Return a letter per kind of conclusion that changes: a capital if one is reversed."""
    letters = ""
    for kind, letter in LETTERS.items():
        if row[f"{kind}_reversed"]:
            letters += letter.upper()
        elif row[f"{kind}_lost"] or row.get(f"{kind}_gained", 0):
            letters += letter
    return letters


def _column_name(score: str) -> str:
    return fill(label(score).replace(" (TPR)", ""), 15)


def _row_name(reduction: str, threshold: float) -> str:
    return f"{label(reduction)}, mask {'>' if threshold == 0 else '≥'} {threshold:g}"


def _counts(row: pd.Series) -> str:
    """Return how many networks and images a panel is about."""
    images = str(row["fewest_images"])
    if row["most_images"] != row["fewest_images"]:
        images += f" to {row['most_images']}"
    return f"{row['n_networks']} networks, {images} images"
