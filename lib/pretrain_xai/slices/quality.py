"""What slices look like in numbers: brightness, share of brain, and why files and slices were rejected."""

import re

import numpy as np
import pandas as pd

#: bins of a histogram over [0, 1]
BINS = 40
_NUMBER, _BRACKETS = re.compile(r"-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?"), re.compile(r"\([^()]*\)")


def slice_quality(slices: np.ndarray, table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the histograms of a quality page; slices are read one at a time.

    Parameters
    ----------
    slices : float array of shape (n, height, width), range [0, 1], memory-mapped
    table : DataFrame
        One row per slice, with `split` and the column `by`.
    by : str
        The classes whose brain shares are compared.

    Returns
    -------
    DataFrame with `panel`, `group`, `x`, `value`
        `intensity`: of each split, the share of its brain pixels that are as bright as `x` (bin centres, range [0, 1]).
        `brain_share`: of each class, the share of its slices of which `x` is brain.
    """
    edges = np.linspace(0, 1, BINS + 1)
    shares, counts = np.empty(len(slices)), np.zeros((len(slices), BINS), dtype=int)
    for place, slice_ in enumerate(slices):
        brain = slice_[slice_ > 0]
        shares[place] = brain.size / slice_.size
        counts[place] = np.histogram(brain, edges)[0]
    parts = [_rows("intensity", split, edges, counts[own].sum(axis=0)) for split, own in _places(table, "split")]
    parts += [
        _rows("brain_share", name, edges, np.histogram(shares[own], edges)[0]) for name, own in _places(table, by)
    ]
    return pd.concat(parts, ignore_index=True)


def rejection_counts(rejected: pd.DataFrame) -> pd.DataFrame:
    """Return how many files and slices were rejected for each kind of reason, as rows of a quality page.

    Reasons that differ by numbers or by what stands in brackets only are of one kind.
    """
    kinds = [_NUMBER.sub("…", _BRACKETS.sub("(…)", reason)) for reason in rejected["reason"]]
    whole = np.where(rejected["z"].isna(), "file", "slice")
    counts = pd.DataFrame({"group": whole, "x": kinds}).value_counts().reset_index(name="value")
    return counts.sort_values(["value", "x"], ascending=[False, True]).assign(panel="rejected").reset_index(drop=True)


def _places(table: pd.DataFrame, column: str) -> list[tuple[str, np.ndarray]]:
    names = table[column].astype(str).to_numpy()
    return [(name, np.flatnonzero(names == name)) for name in dict.fromkeys(names)]


def _rows(panel: str, group: str, edges: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    centres = np.round((edges[:-1] + edges[1:]) / 2, 6)
    return pd.DataFrame({"panel": panel, "group": group, "x": centres, "value": counts / max(counts.sum(), 1)})
