"""A split of the dataset in parts: laid side by side by several processes, and not laid again after an interruption.

Images are written straight to where they will stay, a part at a time, so that memory does not grow with their number; what
the tables need of a part lies in a small file beside, which says that the part is done.
"""

import hashlib
import mmap
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from pretrain_xai import paths
from pretrain_xai.allocation import keep_freed_memory
from pretrain_xai.provenance import atomic_path, replace_changed

#: slices of a part
PART = 64
#: the column of what tells a part's slices from changed ones
CHECKSUMS = "checksums"
#: what is kept of a part: an array by name, its first axis counting images or lesions
Columns = dict[str, np.ndarray]
T = TypeVar("T")


class PartStore:
    """The parts of a split that is being built, in a hidden folder of the split's.

    Parameters
    ----------
    folder : Path
        Of the split.
    key : str
        What everything is made from but the slices, whose checksums the parts keep; parts of another key are thrown away.
    arrays : dict from name to shape
        The float32 arrays that are filled, the first axis counting all images of the split.
    """

    def __init__(self, folder: Path, key: str, arrays: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self.target = folder / ".building", folder
        self.arrays = list(arrays)
        mark = self.folder / "key.txt"
        if not (mark.is_file() and mark.read_text() == key):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            for name, shape in arrays.items():
                open_memmap(self._array(name), "w+", np.float32, shape)
            mark.write_text(key)  # last: a folder with a key is complete

    def has(self, start: int, slices: np.ndarray, table: pd.DataFrame) -> bool:
        """Return whether the part that begins with the image `start` is done, of the slices that the table names now."""
        if not self._columns(start).is_file():
            return False
        with np.load(self._columns(start), allow_pickle=False) as columns:
            return np.array_equal(columns[CHECKSUMS], checksums(read_part(slices, table, start)))

    def put(self, start: int, slices: np.ndarray, arrays: dict[str, np.ndarray], columns: Columns) -> None:
        """Write the part that begins with the image `start` and is made of these slices."""
        for name, values in arrays.items():
            offset = open_memmap(self._array(name), "r").offset + start * values[0].nbytes
            with self._array(name).open("r+b") as file:  # not memory-mapped: what is written takes no memory
                file.seek(offset)
                file.write(np.ascontiguousarray(values).data)
        with atomic_path(self._columns(start)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns, **{CHECKSUMS: checksums(slices)})

    def columns(self, starts: Sequence[int]) -> Columns:
        """Return the columns of all parts, one after the other."""
        parts = [dict(np.load(self._columns(start), allow_pickle=False)) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def finish(self) -> None:
        """Move the arrays to their place and remove the parts; call it last."""
        for name in self.arrays:
            replace_changed(self._array(name), self.target / f"{name}.npy")
        shutil.rmtree(self.folder)

    def _array(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _columns(self, start: int) -> Path:
        return self.folder / f"part-{start:06d}.npz"


def part_starts(n_slices: int) -> range:
    """Return the first image of each part."""
    return range(0, n_slices, PART)


def side_by_side(
    function: Callable[..., T], slices: np.ndarray, table: pd.DataFrame, starts: Sequence[int], workers: int, desc: str
) -> Iterator[T]:
    """Yield `function(part, slices of the part, start)` for parts of the table, in any order.

    Parameters
    ----------
    function : picklable
    slices : float array of shape (n_slices, height, width)
    table : DataFrame
        Its index numbers `slices`.
    workers : int
        Processes; 1 does all in this one.
    """
    parts = ((table.iloc[start : start + PART], read_part(slices, table, start), start) for start in starts)
    calls = (joblib.delayed(_within)(function, *part) for part in parts)
    run = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", max_nbytes=None, pre_dispatch="2*n_jobs")
    yield from tqdm(run(calls), total=len(starts), desc=desc, unit="part")


def read_part(slices: np.ndarray, table: pd.DataFrame, start: int) -> np.ndarray:
    """Return the slices of the part that begins with the image `start`."""
    return read_rows(slices, table.index[start : start + PART])


def read_rows(slices: np.ndarray, rows: pd.Index) -> np.ndarray:
    """Return some slices as an array; of a memory-mapped file no page stays in memory."""
    if isinstance(slices, np.memmap) and isinstance(slices.base, mmap.mmap):
        slices = np.memmap(slices.filename, slices.dtype, "r", slices.offset, slices.shape)
    return np.asarray(slices[rows.to_numpy()])  # a copy, as rows are picked one by one


def build_key(table: pd.DataFrame, made_from: Sequence[Any]) -> str:
    """Return a digest of the table, of what is laid over its slices (by its `repr`, or bytes) and of the code."""
    digest = hashlib.sha256()
    for name in ("dataset.py", "overlay.py", "placement.py", "split_parts.py"):
        digest.update((paths.LIBRARY / name).read_bytes())
    for thing in made_from:
        digest.update(thing if isinstance(thing, bytes) else repr(thing).encode())
    digest.update(table.to_csv().encode())
    return digest.hexdigest()


def checksums(slices: np.ndarray) -> np.ndarray:
    """Return a number that tells each slice from one that was changed; CRC32, in a third of the time of a hash."""
    return np.array([zlib.crc32(slice_) for slice_ in slices], dtype=np.uint32)


def _within(function: Callable[..., T], part: pd.DataFrame, slices: np.ndarray, start: int) -> T:
    keep_freed_memory()
    return function(part, slices, start)
