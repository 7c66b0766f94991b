"""Figures that are tables of coloured numbers: what switches change, what other ways to score change, redundancy."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
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
_SHADES, _CHANGES = sns.color_palette("light:#4cb89a", as_cmap=True), plt.get_cmap("RdBu_r")
_GREY = (0.93, 0.93, 0.93, 1)


def plot_numbers(ax: Axes, texts: pd.DataFrame, colours: np.ndarray, looks: Sequence[Style] = ({},)) -> Axes:
    """Draw a coloured cell for every text that is not missing; texts on dark cells are white.

    (seaborn's heatmap would draw the whole figure at every call.)

    Parameters
    ----------
    texts : DataFrame of shape (n_rows, n_columns)
    colours : RGBA array of shape (n_rows, n_columns, 4)
    looks : sequence
        How texts look, row by row; one is for all.
    """
    ax.pcolormesh(colours, edgecolors="white", linewidth=0.7)
    style: Style = {"fontsize": 7, "linespacing": 0.95, "ha": "center", "va": "center"}
    for y, x in np.argwhere(texts.notna().to_numpy()):
        contrast: Style = {"color": "black" if relative_luminance(colours[y, x]) > 0.25 else "white"}
        look = looks[(y * texts.shape[1] + x) % len(looks)]
        ax.text(x + 0.5, y + 0.5, texts.iat[y, x], **style | contrast | look)
    ax.set_xticks(np.arange(texts.shape[1]) + 0.5, texts.columns, rotation=90)
    ax.set_yticks(np.arange(texts.shape[0]) + 0.5, texts.index)
    ax.set_ylim(len(texts), 0)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def redundancy_figure(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw correlations of methods: of their scores above the diagonal, of their maps, where there are any, below.

    Parameters
    ----------
    table : DataFrame with `method`, `other`, `scores` and perhaps `maps`
    """
    matrix = pd.DataFrame(np.nan, index=methods, columns=methods).rename(index=label, columns=label)
    for row in table.itertuples():
        i, j = sorted((list(methods).index(row.method), list(methods).index(row.other)))
        matrix.iloc[i, j], matrix.iloc[j, i] = row.scores, getattr(row, "maps", np.nan)
    texts = matrix.map(lambda value: f"{value:.2f}".replace("0.", "."), na_action="ignore")
    figure, axes = panels(1, 1, (ONE_COLUMN, ONE_COLUMN))
    ax = plot_numbers(axes[0, 0], texts, _SHADES(np.ma.masked_invalid(matrix)))
    ax.set(aspect="equal", title="above: scores, below: maps" if "maps" in table else "correlation of scores")
    plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    return figure


def sensitivity_figure(table: pd.DataFrame) -> Figure:
    """Draw a panel per population: scores in columns, channel reductions with mask thresholds in rows.

    Colour and number are Kendall's tau with the default's ranking; letters say what flips; the default is framed. Below are
    the ground truths in rows, with chance and what the map |image - twin| scores, and the signs of the maps in columns.

    Parameters
    ----------
    table : DataFrame
        `sensitivity` of `sensitivity.sensitivity_tables`.
    """
    titles = {CORRECT: "right for all models", SAME_DEPTHS: "right for all, same depths"}
    titles[INCORRECT] = "wrong for the network"
    masks = table["mask_threshold"].map(lambda threshold: f", mask {'≥' if threshold else '>'} {threshold:g}")
    scores = [fill(label(score).replace(" (TPR)", ""), 15) for score in table["score"]]
    table = table.assign(way=table["channel_reduction"].map(label) + masks, shown_score=scores)
    plain = (table["ground_truth"] == "lesion") & (table["sign"] == "unsigned")
    way = ["channel_reduction", "mask_threshold", "score"]
    others = table.merge(table.loc[~plain, way].drop_duplicates())
    levels = others.drop_duplicates("ground_truth").set_index("ground_truth")[["chance", "twin_map"]].T
    shown = {name: ", ".join(level.dropna().map("{:.2f}".format)) for name, level in levels.items()}
    others["truth"] = [f"{label(name)}\n({shown[name]})".replace("\n()", "") for name in others["ground_truth"]]
    others["shown_sign"] = [fill(label(sign), 9) for sign in others["sign"]]
    parts = [(table[plain], "way", "shown_score")] + ([(others, "truth", "shown_sign")] if len(others) else [])
    heights = [rows[row].nunique() for rows, row, _ in parts]
    populations, lowest = list(table["population"].unique()), min(0, table["tau"].min())
    size = (TWO_COLUMNS, 0.255 * sum(heights) + 0.75 + 0.9 * len(parts))
    figure, axes = panels(len(parts), len(populations), size, sharey="row", height_ratios=heights)
    for line, (rows, row, column) in zip(axes, parts, strict=True):
        for ax, population in zip(line, populations, strict=True):
            _plot_settings(ax, rows[rows["population"] == population], row, column, lowest)
    for ax, population in zip(axes[0], populations, strict=True):
        first = table[table["population"] == population].iloc[0]
        fewest, most = first[["fewest_images", "most_images"]]
        n_images = f"{fewest} to {most}" if most != fewest else fewest
        ax.set_title(f"{titles[population]}\n{first['n_networks']} networks, {n_images} images")
    figure.supxlabel(
        "Number and colour: Kendall's τ with the study's ranking; framed: the study's own. A letter: a conclusion flips,\n"
        "to the opposite (capital) or between clear and not clear (small). f: which method is first, c: corpora, d: depths,\n"
        "m: methods against each other, r: methods against comparison maps or the untrained network"
    )
    return figure


def _plot_settings(ax: Axes, rows: pd.DataFrame, row: str, column: str, lowest: float) -> None:
    """Draw the settings of a population, with a frame around the default; `lowest` has the palest colour."""
    letters = [flip_letters(one) for one in rows.to_dict("records")]
    texts = rows["tau"].map("{:.2f}\n".format, na_action="ignore").fillna("")  # one method alone has no order
    cells = rows[["tau", "is_default"]].assign(text=(texts + letters).str.strip())
    cells = cells.set_index([rows[row], rows[column]]).unstack(sort=False)
    plot_numbers(ax, cells["text"], _SHADES(((cells["tau"] - lowest) / (1 - lowest)).fillna(0)))
    for y, x in np.argwhere(cells["is_default"].eq(True).to_numpy()):
        ax.add_patch(Rectangle((x, y), 1, 1, fill=False, linewidth=1.6, clip_on=False, zorder=3))


def flip_letters(row: Mapping[str, object]) -> str:
    """Return a letter per kind of conclusion that changes: a capital if one is reversed."""
    flipped = [kind for kind in LETTERS if any(row.get(f"{kind}_{way}", 0) for way in ("reversed", "lost", "gained"))]
    return "".join(LETTERS[kind].upper() if row[f"{kind}_reversed"] else LETTERS[kind] for kind in flipped)


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
        if known := [name for name in quantities if name in set(rows["quantity"])]:
            columns.append((title, rows, known))
    switches = pd.Series(shown["switch"].unique())
    kinds = [switches == ALL_TOGETHER, switches.isin(RETRAINED)]
    group_of = np.select(kinds, ["all switches", "networks trained again"], "networks unchanged")
    groups = sorted(switches.groupby(group_of), reverse=True)
    shared: Style = {"sharex": "col", "sharey": "row", "height_ratios": [len(names) for _, names in groups]}
    widths, size = [len(known) for *_, known in columns], (TWO_COLUMNS, 0.185 * len(switches) + 1.75)
    figure, axes = panels(len(groups), len(columns), size, width_ratios=widths, **shared)
    for row, (group, names) in zip(axes, groups, strict=True):
        for ax, (title, rows, known) in zip(row, columns, strict=True):
            plot_protocols(ax, rows, list(names), known).set_title(title if ax in axes[0] else "", fontsize=7)
        words = {"fontsize": 7, "fontweight": "bold", "ha": "right"}
        row[0].annotate(group, (0, 1), (-5, 1.5), "axes fraction", "offset points", **words)
    changes = {"raised (bold)": 0.85, "lowered (bold)": 0.15, "less than retraining alone may change": 0.58}
    handles = [Patch(facecolor=_CHANGES(shade), label=text) for text, shade in changes.items()]
    handles.append(Patch(facecolor=_GREY, label="undecided"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, title="published minus corrected")
    figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    return figure


def plot_protocols(ax: Axes, effects: pd.DataFrame, switches: Sequence[str], quantities: Sequence[str]) -> Axes:
    """Draw one cell per switch and quantity, coloured by its verdict.

    Parameters
    ----------
    effects : DataFrame with `switch`, `quantity`, `difference`, `verdict`, `below_floor`; one effect
    """
    cells = pd.MultiIndex.from_product([switches, quantities], names=["switch", "quantity"])
    cells = effects.set_index(cells.names).reindex(cells).reset_index()
    strength = (cells["difference"] / LIMIT).clip(-1, 1)
    strong = np.sign(strength) * strength.abs().clip(lower=0.3)  # also a small decided change stands out
    weak, decided = cells["below_floor"].eq(True), cells["verdict"].isin(DECIDED)
    colours = _CHANGES(np.ma.masked_invalid(0.5 + strong.mask(weak, 0.16 * np.sign(strength)) / 2))
    colours[~decided] = np.where(cells.loc[~decided, ["verdict"]] == "undecided", _GREY, (1, 1, 1, 1))
    kinds: list[Style] = [{"color": "0.6"}, {"color": "0.25"}, {"fontweight": "bold"}]
    looks = [kinds[kind] for kind in decided * (2 - weak.astype(int))]  # undecided, weak, strong
    short = [f"{one:+.2f}".replace("0.", ".", 1) if abs(one) < 0.995 else f"{one:+.0f}" for one in cells["difference"]]
    shown = pd.Series(short).mask(cells["verdict"] == "unchanged", "–").where(cells["verdict"].notna())
    names = {RANKING: "Kendall's τ − 1", ALL_METHODS: "mean of methods", CHANCE: "chance level"}
    rows, columns = [label(name) for name in switches], [names.get(name, label(name)) for name in quantities]
    texts = pd.DataFrame(shown.to_numpy().reshape(len(rows), -1), rows, columns)
    return plot_numbers(ax, texts, colours.reshape(*texts.shape, 4), looks)
