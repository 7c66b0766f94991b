"""The authors' slice pickles: `(slices, sex, age)` of many subjects, read without executing anything.

The files do not say which subject a slice is of. Slices that follow each other with the same sex and age count as those of
one subject: two subjects may be taken for one, which keeps splits disjoint all the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pretrain_xai import safe_pickle
from pretrain_xai.errors import UserError
from pretrain_xai.settings.slices import Pickle
from pretrain_xai.slices.checks import BadFileError, Frame, slice_problem, unit_range
from pretrain_xai.slices.files import SourceError, source_folder
from pretrain_xai.slices.participants import deal, read_age, read_sex

#: subjects have fewer slices on average: slices of one subject do not follow each other
FEWEST_SLICES = 2
MAX_SIDE = 1024


@dataclass(frozen=True)
class PickledSlices:
    """What a file holds: slices as read-only views of the file, a sex and an age of each, and the number of its subject."""

    slices: Sequence[np.ndarray]
    sex: list[str]
    age: list[float]
    subject: np.ndarray


def pickle_cohort(
    settings: Pickle, target: str, rejected: list[dict[str, Any]]
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Yield the slices of each subject, in the order of the files, with one row per slice; see `sources`."""
    del target  # always sex
    folder = source_folder(settings)
    files = {name: read_slice_pickle(folder / name) for name in settings.files}
    frame = Frame.of({slice_.shape for file in files.values() for slice_ in file.slices}, settings.shape)
    splits = {name: _splits(folder / name, files[name], settings.files[name], settings.seed) for name in files}
    chosen = _chosen(splits, settings)
    for name, file in files.items():
        ends = np.flatnonzero(np.diff(file.subject, append=-1)) + 1
        for start, end in tqdm(list(zip([0, *ends], ends, strict=False)), desc=name):
            places = [place for place in range(start, end) if chosen[name][place]]
            good, rows = [], []
            for place in places:
                row = {"subject": _name(name, file.subject[place]), "sex": file.sex[place], "age": file.age[place]}
                try:
                    good.append(_fitted(file.slices[place], frame, settings.min_brain_share))
                    rows.append({**row, "split": splits[name][place], "z": float(place), "file": name})
                except BadFileError as error:
                    rejected.append({"file": name, **row, "z": float(place), "reason": str(error)})
            if rows:
                yield np.concatenate(good), pd.DataFrame(rows)


def read_slice_pickle(path: Path) -> PickledSlices:
    """Read one of the authors' slice pickles; its arrays stay on disk.

    Raises
    ------
    SourceError
        The file can't be read, or does not hold `(slices, sex, age)` of the same number.
    """
    try:
        content = safe_pickle.load(path)
    except UserError as error:
        raise SourceError(str(error)) from None
    if not isinstance(content, list | tuple) or len(content) != 3:
        raise SourceError(f"{path}: (slices, sex, age) are expected, found {_kind(content)}")
    slices, sex, age = (list(part) if _is_sequence(part) else None for part in content)
    if slices is None or sex is None or age is None or not len(slices) == len(sex) == len(age) > 0:
        found = ", ".join(map(_kind, content))
        raise SourceError(f"{path}: slices, sex and age of the same number are expected, found {found}")
    for place, slice_ in enumerate(slices):
        if not _is_slice(slice_):
            raise SourceError(f"{path}: slice {place} is no array of numbers (height, width) but {_kind(slice_)}")
    try:
        sexes, ages = [read_sex(str(value)) for value in sex], [read_age(str(value)) for value in age]
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    if "" in sexes:
        raise SourceError(f"{path}: slice {sexes.index('')} has no sex")
    people = list(zip(sexes, map(str, ages), strict=True))  # as text, as NaN differs from itself
    new = [True] + [one != other for one, other in zip(people[1:], people[:-1], strict=True)]
    return PickledSlices(slices, sexes, ages, np.cumsum(new) - 1)


def _splits(path: Path, file: PickledSlices, shares: dict[str, float], seed: int) -> list[str | None]:
    """Return the split of each slice of a file, None if it belongs to none."""
    n_subjects = int(file.subject[-1]) + 1
    if list(shares.values()) == [1]:
        return [next(iter(shares)) for _ in file.slices]
    if len(file.slices) < FEWEST_SLICES * n_subjects:
        raise SourceError(
            f"{path}: sex or age changes after {len(file.slices) / n_subjects:.1f} slices on average, so that subjects can't "
            f"be told apart and the file can't be divided; give all of it to one split"
        )
    first = np.flatnonzero(np.diff(file.subject, prepend=-1))
    subjects = {f"{number:06d}": file.sex[place] for number, place in enumerate(first)}
    of, _ = deal(subjects, shares, seed)
    return [of.get(f"{number:06d}") for number in file.subject]


def _chosen(splits: dict[str, list[str | None]], settings: Pickle) -> dict[str, np.ndarray]:
    """Return of each file which slices are used: all that belong to a split, up to its number of slices."""
    everything = [(name, place, split) for name, of in splits.items() for place, split in enumerate(of)]
    chosen = {name: np.array([split is not None for split in of]) for name, of in splits.items()}
    for split, most in settings.max_slices.items():
        own = [number for number, item in enumerate(everything) if item[2] == split]
        drawn = np.random.default_rng(settings.seed).permutation(own)[most:]
        for number in drawn:
            name, place, _ = everything[number]
            chosen[name][place] = False
    return chosen


def _fitted(slice_: np.ndarray, frame: Frame, min_brain_share: float) -> np.ndarray:
    if problem := slice_problem(slice_, min_brain_share):
        raise BadFileError(problem)
    return frame.fit(unit_range(slice_[None]))


def _name(file: str, subject: int) -> str:
    return f"{Path(file).stem}-{subject:05d}"


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_slice(value: Any) -> bool:
    is_numbers = isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iuf"
    return is_numbers and min(value.shape) > 0 and max(value.shape) <= MAX_SIDE


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple | dict) else type(value).__name__
