"""Figures that are tables of coloured numbers: what switches change, what other ways to score change, redundancy."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from seaborn.utils import relative_luminance

from pretrain_xai.drawing.figures import ONE_COLUMN, TWO_COLUMNS, Style, panels
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.names import label
from pretrain_xai.protocol import ALL_TOGETHER, UNCHANGED
from pretrain_xai.running.variants import RETRAINED
from pretrain_xai.statistics.protocol_effects import ALL_METHODS, CHANCE, DECIDED, RANKING
from pretrain_xai.statistics.sensitivity import CORRECT, INCORRECT, SAME_DEPTHS

#: the letter of each kind of conclusion; capital: reversed, small: only its clearness changes
LETTERS = {"first": "f", "corpus": "c", "depth": "d", "methods": "m", "references": "r"}
#: colours beyond this change by a switch are all the same
LIMIT = 0.2
_CHANGES = plt.get_cmap("RdBu_r")
_BLACK: Style = {"color": "black"}
_SHADES = sns.color_palette("light:#4cb89a", as_cmap=True)
_GREY = ListedColormap(["0.93"])
#: colours and letters of what a switch changes
_LOOKS: dict[str, tuple[Colormap, Style]] = {
    "decided": (_CHANGES, {"fontweight": "bold"}),
    "weak": (_CHANGES, {"color": "0.25"}),
    "undecided": (_GREY, {"color": "0.6"}),
    "unchanged": (ListedColormap(["white"]), {"color": "0.6"}),
}


def plot_numbers(ax: Axes, numbers: pd.DataFrame, texts: pd.DataFrame, look: Style, **options: Any) -> Axes:
    """Draw a coloured cell with a text for every number that is known; `options` are those of `pcolormesh`.

    Without a colour in `look` a text is white on dark cells. (seaborn's heatmap would draw the whole figure at every call.)
    """
    values = np.ma.masked_invalid(numbers.to_numpy())
    faces = ax.pcolormesh(values, edgecolors="white", **options).to_rgba(values)
    style: Style = {"fontsize": 7, "linespacing": 0.95, "ha": "center", "va": "center"}
    for y, x in np.argwhere(numbers.notna().to_numpy()):
        contrast: Style = {"color": "0.15" if relative_luminance(faces[y, x]) > 0.25 else "white"}
        ax.text(x + 0.5, y + 0.5, texts.iat[y, x], **style | contrast | look)
    ax.set_xticks(np.arange(numbers.shape[1]) + 0.5, numbers.columns, rotation=90)
    ax.set_yticks(np.arange(numbers.shape[0]) + 0.5, numbers.index)
    ax.set_ylim(len(numbers), 0)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_redundancy(ax: Axes, table: pd.DataFrame, methods: Sequence[str]) -> Axes:
    """Draw correlations of methods: of their scores above the diagonal, of their maps, where there are any, below.

    Parameters
    ----------
    table : DataFrame with `method`, `other`, `scores` and perhaps `maps`
    """
    matrix = pd.DataFrame(np.nan, index=methods, columns=methods).rename(index=label, columns=label)
    for row in table.itertuples():
        i, j = sorted((methods.index(row.method), methods.index(row.other)))
        matrix.iloc[i, j], matrix.iloc[j, i] = row.scores, getattr(row, "maps", np.nan)
    texts = matrix.map(lambda value: f"{value:.2f}".replace("0.", "."))
    plot_numbers(ax, matrix, texts, _BLACK, cmap=_SHADES, vmin=0, vmax=1).set_aspect("equal")
    plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    return ax


def redundancy_figure(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw `plot_redundancy` at one column."""
    figure, axes = panels(1, 1, (ONE_COLUMN, ONE_COLUMN))
    title = "above: scores, below: maps" if "maps" in table else "correlation of scores"
    plot_redundancy(axes[0, 0], table, list(methods)).set_title(title)
    return figure


def sensitivity_figure(table: pd.DataFrame) -> Figure:
    """Draw a panel per population: scores in columns, channel reductions with mask thresholds in rows.

    Colour and number are Kendall's tau with the default's ranking; letters say what flips; the default is framed.

    Parameters
    ----------
    table : DataFrame
        `sensitivity` of `sensitivity.sensitivity_tables`.
    """
    titles = {CORRECT: "right for all models", SAME_DEPTHS: "right for all, same depths"}
    titles[INCORRECT] = "wrong for the network"
    populations = list(table.groupby("population", sort=False))
    n_settings = len(table[["channel_reduction", "mask_threshold"]].drop_duplicates())
    figure, axes = panels(1, len(populations), (TWO_COLUMNS, 0.255 * n_settings + 1.65), sharey=True)
    for ax, (population, rows) in zip(axes.flat, populations, strict=True):
        plot_sensitivity(ax, rows, lowest=min(0.0, table["tau"].min()))
        fewest, most = rows[["fewest_images", "most_images"]].iloc[0]
        n_images = f"{fewest} to {most}" if most != fewest else fewest
        ax.set_title(f"{titles[population]}\n{rows['n_networks'].iloc[0]} networks, {n_images} images")
    figure.supxlabel(
        "Number and colour: Kendall's τ with the study's ranking; framed: the study's own. A letter: a conclusion flips,\n"
        "to the opposite (capital) or between clear and not clear (small). f: which method is first, c: corpora, d: depths,\n"
        "m: methods against each other, r: methods against comparison maps or the untrained network"
    )
    return figure


def plot_sensitivity(ax: Axes, table: pd.DataFrame, lowest: float = 0.0) -> Axes:
    """Draw the rows of one population, a cell per setting; colours begin at `lowest`."""
    names = [
        f"{label(row.channel_reduction)}, mask {'≥' if row.mask_threshold else '>'} {row.mask_threshold:g}"
        for row in table.itertuples()
    ]
    scores = [fill(label(score).replace(" (TPR)", ""), 15) for score in table["score"]]
    # one method alone has no order
    texts = [f"{row['tau']:.2f}\n{flip_letters(row)}".removeprefix("nan").strip() for row in table.to_dict("records")]
    cells = table.assign(row=names, column=scores, text=texts, tau=table["tau"].fillna(lowest))
    rows, columns = (list(dict.fromkeys(cells[name])) for name in ("row", "column"))
    tau, text, default = (
        cells.pivot(index="row", columns="column", values=name).loc[rows, columns]
        for name in ("tau", "text", "is_default")
    )
    colours = _SHADES if table["tau"].notna().any() else _GREY
    plot_numbers(ax, tau, text, _BLACK, cmap=colours, vmin=lowest, vmax=1, linewidth=0.6)
    for y, x in np.argwhere(default.to_numpy()):
        ax.add_patch(Rectangle((x, y), 1, 1, fill=False, linewidth=1.6, clip_on=False, zorder=3))
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


def protocols_figure(effects: pd.DataFrame, methods: Sequence[str]) -> Figure:
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
    wanted = [
        ("median Relevance Rank Accuracy", "mean", [*methods, ALL_METHODS]),
        ("without network", "mean", [*COMPARISON_MAPS, CHANCE]),
        ("classification", "mean", ["accuracy", "auroc", "sensitivity", "specificity"]),
        ("order", "mean", [RANKING]),
        ("MRI −\nphotos", "corpus", [ALL_METHODS, "accuracy"]),
        ("deep −\nshallow", "depth", [ALL_METHODS, "accuracy"]),
    ]
    columns = []
    for title, effect, quantities in wanted:
        rows = shown[(shown["effect"] == effect) & shown["quantity"].isin(quantities)]
        known = [name for name in quantities if (rows["quantity"] == name).any()]
        columns += [(title, rows, known)] if known else []
    switches = list(dict.fromkeys(shown["switch"]))
    retrained = [name for name in switches if name in RETRAINED and name != ALL_TOGETHER]
    groups = {
        "networks unchanged": [name for name in switches if name not in RETRAINED],
        "networks trained again": retrained,
        "all switches": [name for name in switches if name == ALL_TOGETHER],
    }
    groups = {group: names for group, names in groups.items() if names}
    figure, axes = panels(
        len(groups),
        len(columns),
        (TWO_COLUMNS, 0.185 * len(switches) + 2.15),
        height_ratios=[len(names) for names in groups.values()],
        width_ratios=[len(known) for *_, known in columns],
        sharex="col",
        sharey="row",
    )
    for row, (group, names) in zip(axes, groups.items(), strict=True):
        for ax, (title, rows, known) in zip(row, columns, strict=True):
            plot_protocols(ax, rows, names, known).set_title(title if ax in axes[0] else "", fontsize=7)
        words = {"fontsize": 7, "fontweight": "bold", "ha": "right"}
        row[0].annotate(group, (0, 1), (-5, 1.5), "axes fraction", "offset points", **words)
    handles = [
        Patch(facecolor=_CHANGES(0.85), label="decided (bold)"),
        Patch(facecolor=_CHANGES(0.58), label="decided, less than retraining alone may change"),
        Patch(facecolor=_GREY(0), label="undecided"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    scale = ScalarMappable(Normalize(-LIMIT, LIMIT), _CHANGES)
    bar = figure.colorbar(scale, ax=axes, location="bottom", aspect=50, shrink=0.5, extend="both")
    bar.set_label("published minus corrected")
    figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    return figure


def plot_protocols(ax: Axes, effects: pd.DataFrame, switches: Sequence[str], quantities: Sequence[str]) -> Axes:
    """Draw one cell per switch and quantity, coloured by its verdict.

    Parameters
    ----------
    effects : DataFrame with `switch`, `quantity`, `difference`, `verdict`, `below_floor`; one effect
    """
    strength, weak = (effects["difference"] / LIMIT).clip(-1, 1), effects["below_floor"].astype(bool)
    strong = np.sign(strength) * strength.abs().clip(lower=0.3)  # also a small decided change stands out
    short = [
        f"{value:+.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:+.0f}"
        for value in effects["difference"]
    ]
    cells = effects.assign(
        text=np.where(effects["verdict"] == "unchanged", "–", short),
        shade=strong.where(~weak, 0.16 * np.sign(strength)),
        look=np.where(effects["verdict"].isin(DECIDED), np.where(weak, "weak", "decided"), effects["verdict"]),
    )
    shade, text, look = (
        cells.pivot(index="switch", columns="quantity", values=name).reindex(switches, columns=quantities)
        for name in ("shade", "text", "look")
    )
    names = {RANKING: "Kendall's τ − 1", ALL_METHODS: "mean of methods", CHANCE: "chance level"}
    shade = shade.rename(index=label, columns=lambda name: names.get(name, label(name)))
    for kind, (colours, style) in _LOOKS.items():
        known = shade.where((look == kind).to_numpy())
        plot_numbers(ax, known, text, style, cmap=colours, vmin=-1, vmax=1, linewidth=0.8)
    return ax
