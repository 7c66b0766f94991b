"""The files of a study's slices, `slices.npy` and `slices.csv` with a row per slice, and what slices look like in numbers."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import write_array_header_1_0

from pretrain_xai.provenance import atomic_path
from pretrain_xai.tables import TableError, read_table, write_table

#: edges of the bins of a histogram over [0, 1]
EDGES = np.linspace(0, 1, 41)

#: slices of one subject or file, float32 (n, height, width), with a row per slice: subject, sex, age, split, z, ...
Part = tuple[np.ndarray, pd.DataFrame]


def write_slices(folder: Path, cohort: Iterable[Part], check: Callable[..., None] | None = None) -> pd.DataFrame:
    """Stream slices to `slices.npy` and their table to `slices.csv`; memory does not grow with their number.

    If `cohort` or `check`, which is given the whole table, raises an error, nothing is written. Returns the table.
    """
    rows: list[pd.DataFrame] = []
    header = {"descr": "<f4", "fortran_order": False}
    with atomic_path(folder / "slices.npy") as temporary, temporary.open("wb") as file:
        for slices, part in cohort:
            if not rows:
                write_array_header_1_0(file, {**header, "shape": (0, *slices.shape[1:])})
            file.write(np.ascontiguousarray(slices, dtype="<f4").data)
            rows.append(part)
        table = pd.concat(rows or [pd.DataFrame()], ignore_index=True)
        if check:
            check(table)
        file.seek(0)  # the header is as long as the first: numpy leaves room for the number of rows
        write_array_header_1_0(file, {**header, "shape": (len(table), *slices.shape[1:])})
    write_table(table, folder / "slices.csv")
    return table


def read_slices(folder: Path) -> Part:
    """Return the slices, memory-mapped float32 array of shape (n, height, width) in [0, 1], and their table.

    Raises
    ------
    TableError
        The files are missing, or have different numbers of slices.
    """
    table = read_table(folder / "slices.csv")
    try:
        slices = np.load(folder / "slices.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{folder / 'slices.npy'} can't be read: {error}") from None
    if len(slices) != len(table):
        raise TableError(f"{folder}: slices.npy has {len(slices)} slices, slices.csv {len(table)} rows")
    return slices, table


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
    bright = [np.histogram(slice_[slice_ > 0], EDGES)[0] for slice_ in slices]
    large = [np.histogram(np.count_nonzero(slice_ > 0) / slice_.size, EDGES)[0] for slice_ in slices]
    centres = np.round((EDGES[:-1] + EDGES[1:]) / 2, 6)
    parts = []
    for panel, column, counts in (("intensity", "split", bright), ("brain_share", by, large)):
        summed = pd.DataFrame(counts, columns=centres).groupby(table[column].astype(str), sort=False).sum()
        shares = summed.div(summed.sum(axis=1).clip(lower=1), axis=0).rename_axis(index="group", columns="x")
        parts.append(shares.stack().reset_index(name="value").assign(panel=panel))
    return pd.concat(parts, ignore_index=True)[["panel", "group", "x", "value"]]


def rejection_counts(rejected: pd.DataFrame) -> pd.DataFrame:
    """Return how many files and slices were rejected for each kind of reason, as rows of a quality page.

    Reasons that differ by numbers or by what stands in brackets only are of one kind.
    """
    kinds = rejected["reason"].astype(str).str.replace(r"\([^()]*\)", "(…)", regex=True)
    kinds = kinds.str.replace(r"-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", "…", regex=True)
    whole = np.where(rejected["z"].isna(), "file", "slice")
    counts = pd.DataFrame({"group": whole, "x": kinds}).value_counts().reset_index(name="value")
    return counts.sort_values(["value", "x"], ascending=[False, True]).assign(panel="rejected").reset_index(drop=True)
