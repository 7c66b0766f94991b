"""The figure of what each flaw of the released code changes: decided changes in colour, the rest in grey."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.typing import ColorType

from pretrain_xai.drawing.figures import TWO_COLUMNS, Style
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import label
from pretrain_xai.protocol import UNCHANGED
from pretrain_xai.running.variants import RETRAINED
from pretrain_xai.statistics.protocol_effects import ALL_METHODS, CHANCE, RANKING

#: colours beyond this change are all the same
LIMIT = 0.2
_COLOURS = plt.get_cmap("RdBu_r")
_UNDECIDED = "0.93"
_GROUPS = ("networks unchanged", "networks trained anew", "all switches")


def effect_figure(effects: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw published minus corrected: a row per switch, a column per number, means over the fine-tuned models.

    Coloured with a bold number: decided. Pale with a plain number: decided, but less than retraining alone may change. Grey:
    undecided. A dash: 0 in every resample. Empty: not concerned. If no switch is left to compare, the figure says so.

    Parameters
    ----------
    effects : DataFrame
        From `protocol_effects.compare_protocols`.
    """
    shown = effects[effects["switch"] != UNCHANGED]
    if shown.empty:
        figure = plt.figure(figsize=(TWO_COLUMNS, 0.5))
        figure.text(0.5, 0.5, "nothing to compare: the study has every switch as published", ha="center", va="center")
        return figure
    panels = _panels(shown, methods)
    groups = _grouped_switches(shown)
    figure, axes = plt.subplots(
        len(groups),
        len(panels),
        figsize=(TWO_COLUMNS, 0.185 * sum(map(len, groups.values())) + 2.15),
        height_ratios=[len(switches) for switches in groups.values()],
        width_ratios=[len(columns) for _, _, columns in panels],
        squeeze=False,
        layout="constrained",
    )
    for row, (group, switches) in enumerate(groups.items()):
        for column, (title, effect, quantities) in enumerate(panels):
            ax = plot_effects(axes[row, column], shown[shown["effect"] == effect], switches, quantities)
            ax.set_yticks(range(len(switches)), [label(name) for name in switches] if column == 0 else [])
            ax.set_title(title if row == 0 else "", fontsize=7)
            if row < len(groups) - 1:
                ax.set_xticks([])
        axes[row, 0].annotate(
            group,
            (0, 1),
            (-5, 1.5),
            "axes fraction",
            textcoords="offset points",
            fontsize=7,
            fontweight="bold",
            ha="right",
        )
    handles = [
        Patch(facecolor=_COLOURS(0.85), label="decided (bold)"),
        Patch(facecolor=_COLOURS(0.58), label="decided, less than retraining alone may change"),
        Patch(facecolor=_UNDECIDED, label="undecided"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-LIMIT, LIMIT), _COLOURS),
        ax=axes,
        location="bottom",
        aspect=50,
        shrink=0.5,
        extend="both",
    )
    bar.set_label("published minus corrected")
    figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    return figure


def plot_effects(ax: Axes, effects: pd.DataFrame, switches: Sequence[str], quantities: Sequence[str]) -> Axes:
    """Draw one cell per switch and quantity, coloured by its verdict.

    Parameters
    ----------
    effects : DataFrame with `switch`, `quantity`, `difference`, `verdict`, `below_floor`; one effect
    """
    for row in effects.itertuples():
        if row.switch not in switches or row.quantity not in quantities or np.isnan(row.difference):
            continue
        x, y = quantities.index(row.quantity), switches.index(row.switch)
        face, style = _look(row)
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=0.8))
        text = "–" if row.verdict == "unchanged" else _short(row.difference)
        ax.text(x, y, text, ha="center", va="center", fontsize=7, **style)
    ax.set(xlim=(-0.5, len(quantities) - 0.5), ylim=(len(switches) - 0.5, -0.5))
    ax.set_xticks(range(len(quantities)), [_column(name) for name in quantities], rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _look(row: Any) -> tuple[ColorType, Style]:
    """Return the colour of a cell and the style of its number."""
    if row.verdict in ("undecided", "unchanged"):
        return _UNDECIDED if row.verdict == "undecided" else "white", {"color": "0.6"}
    strength = np.clip(row.difference / LIMIT, -1, 1)
    if row.below_floor:
        return _COLOURS(0.5 + 0.08 * np.sign(strength)), {"color": "0.25"}
    shown = np.sign(strength) * max(abs(strength), 0.3)  # also a small decided change stands out
    return _COLOURS(0.5 + shown / 2), {"color": "white" if abs(shown) > 0.7 else "black", "fontweight": "bold"}


def _short(value: float) -> str:
    """Return a signed number with two decimals and no leading zero, short enough for a cell."""
    return f"{value:+.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:+.0f}"


def _panels(effects: pd.DataFrame, methods: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Return title, effect and quantities of each column of panels; those that no switch concerns are left out."""
    wanted = [
        ("median Relevance Rank Accuracy", "mean", [*methods, ALL_METHODS]),
        ("without network", "mean", [*COMPARISON_MAPS, CHANCE]),
        ("classification", "mean", ["accuracy", "auroc", "sensitivity", "specificity"]),
        ("order", "mean", [RANKING]),
        ("MRI −\nphotos", "corpus", [ALL_METHODS, "accuracy"]),
        ("deep −\nshallow", "depth", [ALL_METHODS, "accuracy"]),
    ]
    panels = []
    for title, effect, quantities in wanted:
        known = set(effects.loc[effects["effect"] == effect, "quantity"])
        if there := [name for name in quantities if name in known]:
            panels.append((title, effect, there))
    return panels


def _grouped_switches(effects: pd.DataFrame) -> dict[str, list[str]]:
    names = list(dict.fromkeys(effects["switch"]))
    retrained = [name for name in names if name in RETRAINED and name != "published"]
    groups = (
        [name for name in names if name not in RETRAINED],
        retrained,
        [name for name in names if name == "published"],
    )
    return {group: chosen for group, chosen in zip(_GROUPS, groups, strict=True) if chosen}


def _column(name: str) -> str:
    return {RANKING: "Kendall's τ − 1", ALL_METHODS: "mean of methods", CHANCE: "chance level"}.get(name, label(name))
