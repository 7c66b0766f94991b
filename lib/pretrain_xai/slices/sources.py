"""Where a study's slices come from: the sources by name, all of which give the same files.

`slices.npy` holds float32 slices of one shape in [0, 1], background exactly 0; `slices.csv` has a row per slice,
`participants.csv` one per subject, `rejected.csv` one per file or slice that can't be used, with the reason.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pretrain_xai.settings.slices import Arrays, Files, Nifti, Slices, Template
from pretrain_xai.slices.arrays import array_shape, read_arrays_of
from pretrain_xai.slices.checks import BadFileError, Cut, Frame
from pretrain_xai.slices.files import SourceError, SourceFile, find_files, full_subject, source_folder
from pretrain_xai.slices.nifti import nifti_shape, read_nifti
from pretrain_xai.slices.participants import check_splits, deal, read_participants
from pretrain_xai.slices.pickles import pickle_cohort
from pretrain_xai.slices.simulated import read_slices, simulate_cohort, simulate_participants, write_slices
from pretrain_xai.study import Study
from pretrain_xai.tables import write_table

#: what can't be used: a file, or the slice of it at a z
REJECTED_COLUMNS = ["file", "subject", "z", "reason"]

#: slices of one subject or file, float32 (n, height, width), with a row per slice: subject, sex, age, split, z, ...
Part = tuple[np.ndarray, pd.DataFrame]


def make_slices(folder: Path, settings: Slices, target: str) -> pd.DataFrame:
    """Gather the slices of a study and write them, streamed, to `folder`.

    Parameters
    ----------
    settings : Slices
        The section `slices` of the study.
    target : str
        The column that pre-training on MRI learns to tell.

    Returns
    -------
    DataFrame with REJECTED_COLUMNS, one row per file or slice that can't be used.

    Raises
    ------
    SourceError
        The source is not as the study says, nothing is left, a split is empty, or a class is missing in the pre-training.
        Then nothing is written.
    """
    rejected: list[dict[str, Any]] = []
    cohort = SOURCES[settings.source](settings, target, rejected)
    table = write_slices(folder, _checked(cohort, settings, target, rejected))
    columns = dict.fromkeys(["subject", "sex", "age", target, "split"])
    participants = table[list(columns)].drop_duplicates(["subject", "split"])
    write_table(participants.rename(columns={"subject": "participant_id"}), folder / "participants.csv")
    reasons = pd.DataFrame(rejected, columns=REJECTED_COLUMNS)
    write_table(reasons, folder / "rejected.csv")
    return reasons


def slices_of(study: Study) -> Part:
    """Return the slices of a study and their table, as `read_slices`; made again if the batch, which ended, removed them."""
    folder = study.paths.slices
    if (folder / "slices.csv").is_file() and not (folder / "slices.npy").is_file():
        make_slices(folder, study.slices, study.pretraining.target)
    return read_slices(folder)


def template_cohort(settings: Template, target: str, rejected: list[dict[str, Any]]) -> Iterator[Part]:
    """Yield the slices of each simulated subject."""
    del target, rejected  # always sex; a simulated brain is never broken
    people = simulate_participants(settings.subjects, np.random.default_rng(settings.seed))
    low, high = settings.z_range
    yield from simulate_cohort(people, settings.slices_per_subject, (low, high), settings.seed)


def file_cohort(settings: Nifti | Arrays, target: str, rejected: list[dict[str, Any]]) -> Iterator[Part]:
    """Yield the slices of each file of each subject, the subjects in the order of the splits.

    A subject whose files are all broken is replaced by one that is left over, if there is one.
    """
    folder, reader = source_folder(settings), READERS[settings.source]
    people = read_participants(folder / Path(settings.participants.file).expanduser(), settings.participants, target)
    files, shapes = _usable_files(find_files(folder, settings.pattern), people[target], reader, rejected)
    if not files:
        raise SourceError(f"{folder}: no file can be used{_examples(rejected)}")
    frame = Frame.of(shapes, settings.shape)
    dealt, left = deal({subject: people.at[subject, target] for subject in files}, settings.subjects, settings.seed)
    waiting, reserve = deque(dealt.items()), deque(left)
    progress = tqdm(total=len(waiting), desc="subjects")
    while waiting:
        subject, split = waiting.popleft()
        n_used = 0
        for part in _cut_files(files[subject], settings, reader.read, frame, rejected):
            n_used += 1
            yield part.slices, _rows(part, subject, split, people.loc[subject])
        if not n_used and reserve:
            waiting.append((reserve.popleft(), split))
        progress.update(bool(n_used))


@dataclass(frozen=True)
class Reader:
    """How the files of a source are read: the shape of their slices first, then the slices; both may raise BadFileError."""

    shape: Callable[[SourceFile], tuple[int, int]]
    read: Callable[[SourceFile, Any], Cut]


READERS: Mapping[str, Reader] = {
    "nifti": Reader(nifti_shape, read_nifti),
    "arrays": Reader(array_shape, read_arrays_of),
}

#: a cohort by the name of its source
SOURCES: Mapping[str, Callable[[Any, str, list[dict[str, Any]]], Iterator[Part]]] = {
    "template": template_cohort,
    "nifti": file_cohort,
    "arrays": file_cohort,
    "pickle": pickle_cohort,
}


@dataclass(frozen=True)
class _Part(Cut):
    """The slices of one file, in the frame of the study."""

    file: str


def _usable_files(
    found: list[SourceFile], classes: pd.Series, reader: Reader, rejected: list[dict[str, Any]]
) -> tuple[dict[str, list[SourceFile]], set[tuple[int, int]]]:
    """Return the files of each subject of the table whose headers are right, and the shapes of their slices."""
    files: dict[str, list[SourceFile]] = {}
    shapes = set()
    for file in found:
        try:
            if file.subject not in classes.index:
                raise BadFileError("its subject is not in the table of participants")
            if classes[file.subject] == "":
                raise BadFileError(f"its subject has no {classes.name} in the table of participants")
            shapes.add(reader.shape(file))
            files.setdefault(file.subject, []).append(file)
        except BadFileError as error:
            rejected.append({"file": file.name, "subject": full_subject(file.subject), "reason": str(error)})
    return files, shapes


def _cut_files(
    files: list[SourceFile],
    settings: Files,
    read: Callable[[SourceFile, Any], Cut],
    frame: Frame,
    rejected: list[dict[str, Any]],
) -> Iterator[_Part]:
    for file in files:
        try:
            cut = read(file, settings)
            part = _Part(frame.fit(cut.slices), cut.z, cut.rejected, file.name)
        except BadFileError as error:
            rejected.append({"file": file.name, "subject": full_subject(file.subject), "reason": str(error)})
            continue
        own = {"file": file.name, "subject": full_subject(file.subject)}
        rejected += [{**own, "z": z, "reason": reason} for z, reason in cut.rejected.items()]
        yield part


def _rows(part: _Part, subject: str, split: str, person: pd.Series) -> pd.DataFrame:
    own = {"subject": full_subject(subject), **person.to_dict(), "split": split}
    return pd.DataFrame({**own, "z": part.z, "file": part.file})


def _checked(cohort: Iterator[Part], settings: Slices, target: str, rejected: list[dict[str, Any]]) -> Iterator[Part]:
    """Hand a cohort on, and raise at its end if it does not have what a study needs."""
    seen = []
    for slices, rows in cohort:
        seen.append(rows[["split", target]].drop_duplicates())
        yield slices, rows
    if not seen:
        raise SourceError(f"no slice is left{_examples(rejected)}")
    try:
        check_splits(pd.concat(seen, ignore_index=True), settings.splits, target)
    except SourceError as error:
        raise SourceError(f"{error}{_examples(rejected)}") from None


def _examples(rejected: list[dict[str, Any]]) -> str:
    """Return in words how many files and slices were rejected, and why the first ones were."""
    if not rejected:
        return ""
    few = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
    return f" ({len(rejected)} files or slices rejected, such as {few})"
