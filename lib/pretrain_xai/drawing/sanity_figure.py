"""Figure of the model randomisation check: how alike maps stay as the layers of a network become random."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain_xai.drawing.figures import CHANCE_LINE, TWO_COLUMNS, panels
from pretrain_xai.names import label
from pretrain_xai.sanity import RANDOM_MAP

#: a panel per measure: its title, and the value of equal maps
PANELS = {
    "rank_correlation": ("rank correlation, whole image", 1),
    "rank_correlation_in_brain": ("rank correlation, inside the brain", 1),
    "structural_similarity": ("structural similarity", 1),
    "rank_accuracy_change": ("change of Relevance Rank Accuracy", 0),
}
_MARKERS = "osD^vP*X<>hp"
_COLOURS = sns.color_palette("colorblind")


def plot_similarity(ax: Axes, means: pd.DataFrame, methods: Sequence[str], unchanged: float = 1) -> Axes:
    """Draw one measure by the layer that became random last, a line and marker per method; random maps stand apart.

    Parameters
    ----------
    means : DataFrame with `method`, `layer`, `mean`; one measure
        From `sanity.mean_similarity`.
    unchanged : float
        The value of equal maps, drawn as a grey line.
    """
    layers = [layer for layer in dict.fromkeys(means["layer"]) if layer != RANDOM_MAP]
    end = len(layers) + 0.5
    for number, method in enumerate(methods):
        heights = means[means["method"] == method].set_index("layer")["mean"]
        # lines may coincide: their markers do not stand on one spot
        shift = 0.4 * (number / max(len(methods) - 1, 1) - 0.5)
        style = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 3}
        places = [place + shift for place in range(len(layers))]
        ax.plot(places, heights[layers], label=label(method), linewidth=0.7, **style)
        ax.plot(end + shift, heights[RANDOM_MAP], linestyle="", **style)
    ax.axhline(unchanged, color="0.8", linewidth=0.6, zorder=0)
    ax.axvline(end - 0.75, **CHANCE_LINE)
    ax.set_xticks([*range(len(layers)), end], [*layers, RANDOM_MAP], rotation=90)
    return ax


def sanity_figure(means: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw a panel per measure, with one legend; the dotted line is what a random map reaches in the mean."""
    figure, axes = panels(2, 2, (TWO_COLUMNS, 4.4), sharex=True)
    for ax, (measure, (title, unchanged)) in zip(axes.flat, PANELS.items(), strict=True):
        rows = means[means["measure"] == measure]
        plot_similarity(ax, rows, methods, unchanged).set_title(title)
        if unchanged:  # a change to chance depends on where a method comes from: no common floor
            floor = rows.loc[rows["layer"] == RANDOM_MAP, "mean"].mean()
            ax.axhline(floor, color="black", linestyle=":", linewidth=0.7, zorder=1, label="random map")
    figure.supxlabel("random layers: from the last one down to")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
