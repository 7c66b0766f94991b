"""Where a study's slices come from: the sources by name, all of which give the same files.

`slices.npy` holds float32 slices of one shape in [0, 1], background exactly 0; `slices.csv` has a row per slice,
`participants.csv` one per subject, `rejected.csv` one per file or slice that can't be used, with the reason.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pretrain_xai.settings.slices import Arrays, Nifti, Pickle, Slices, Template
from pretrain_xai.slices import files, reading
from pretrain_xai.slices.template import Part, simulate_cohort, simulate_participants
from pretrain_xai.study import Study
from pretrain_xai.tables import growing_array, read_with_arrays, write_table

#: what can't be used: a file, or the slice of it at a z
REJECTED_COLUMNS = ["file", "subject", "z", "reason"]
#: edges of the bins of a histogram over [0, 1]
EDGES = np.linspace(0, 1, 41)


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
    rejected, rows = list[dict[str, Any]](), list[pd.DataFrame]()
    if isinstance(settings, Template):
        people = simulate_participants(settings.subjects, np.random.default_rng(settings.seed))
        cohort = simulate_cohort(people, settings.slices_per_subject, settings.z_range, settings.seed)
    elif isinstance(settings, Pickle):
        cohort = pickle_cohort(settings, rejected)
    else:
        cohort = file_cohort(settings, target, rejected)
    try:
        with growing_array(folder / "slices.npy") as add:
            for slices, part in cohort:
                add(slices)
                rows.append(part)
            table = pd.concat(rows or [pd.DataFrame()], ignore_index=True)
            files.check_splits(table, settings.splits, target)
    except files.SourceError as error:
        few = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
        more = f" ({len(rejected)} files or slices rejected, such as {few})" if rejected else ""
        raise files.SourceError(f"{error}{more}") from None
    write_table(table, folder / "slices.csv")
    participants = table.drop(columns=["z", "file"], errors="ignore").drop_duplicates(["subject", "split"])
    write_table(participants.rename(columns={"subject": "participant_id"}), folder / "participants.csv")
    reasons = pd.DataFrame(rejected, columns=REJECTED_COLUMNS)
    write_table(reasons, folder / "rejected.csv")
    return reasons


def slices_of(study: Study) -> Part:
    """Return the slices of a study and their table; they are made again if the batch, which ended, removed them."""
    folder = study.paths.slices
    if (folder / "slices.csv").is_file() and not (folder / "slices.npy").is_file():
        make_slices(folder, study.slices, study.pretraining.target)
    return read_slices(folder)


def read_slices(folder: Path) -> Part:
    """Return the slices, memory-mapped float32 array of shape (n, height, width) in [0, 1], and their table.

    Raises
    ------
    TableError
        The files are missing, or have different numbers of slices.
    """
    return read_with_arrays(folder / "slices.csv", "slices")


def file_cohort(settings: Nifti | Arrays, target: str, rejected: list[dict[str, Any]]) -> Iterator[Part]:
    """Yield the slices of each file of each subject, the subjects in the order of the splits.

    A subject whose files are all broken is replaced by one that is left over, if there is one.
    """
    folder = files.source_folder(settings)
    people = files.read_participants(folder, settings.participants, target)
    is_nifti = isinstance(settings, Nifti)
    shape_of = reading.nifti_shape if is_nifti else reading.array_shape
    read: Callable[..., reading.Cut] = reading.read_nifti if is_nifti else reading.read_arrays
    found, usable, shapes = files.find_files(folder, settings.pattern), dict[str, list[str]](), set()
    for name, fields in found.items():
        subject = fields["subject"].removeprefix("sub-")  # `sub-01` and `01` are the same
        with reading.rejecting(rejected, file=name, subject=f"sub-{subject}"):
            if subject not in people.index or people.at[subject, target] == "":
                raise files.SourceError(f"its subject is not in the table of participants, or has no {target} there")
            shapes.add(shape_of(folder / name))
            usable.setdefault(subject, []).append(name)
    dealt, left = files.deal(people.loc[list(usable), target].to_dict(), settings.subjects, settings.seed)
    shape = reading.common_shape(shapes, settings.shape)
    waiting = list(dealt.items())
    for subject, split in tqdm(waiting, desc="subjects"):
        used = False
        for name in usable[subject]:
            own = {"file": name, "subject": f"sub-{subject}"}
            with reading.rejecting(rejected, **own):
                slices, z, reasons = read(folder / name, found[name], settings)
                slices = reading.centred(slices, shape)
                rejected += [{**own, "z": height, "reason": reason} for height, reason in reasons.items()]
                row = {"subject": own["subject"], **people.loc[subject].to_dict(), "split": split}
                yield slices, pd.DataFrame({**row, "z": z, "file": name})
                used = True
        if left and not used:
            waiting.append((left.pop(0), split))


def pickle_cohort(settings: Pickle, rejected: list[dict[str, Any]]) -> Iterator[Part]:
    """Yield the slices of each subject of the authors' pickles, in the order of the files."""
    folder = files.source_folder(settings)
    slices, tables = {}, []
    for name, shares in settings.files.items():
        slices[name], table = reading.read_slice_pickle(folder / name)
        people = dict(zip(table["subject"], table["sex"], strict=True))
        if len(table) < 2 * len(people) and list(shares.values()) != [1]:
            found = f"{folder / name}: sex or age changes after {len(table) / len(people):.1f} slices on average"
            raise files.SourceError(f"{found}, so subjects can't be told apart; give all of the file to one split")
        split = table["subject"].map(files.deal(people, shares, settings.seed)[0])
        tables.append(table.assign(split=split, z=np.arange(len(table), dtype=float), file=name))
    chosen = pd.concat(tables, ignore_index=True).dropna(subset="split")
    for split, most in settings.max_slices.items():
        own = chosen.index[chosen["split"] == split]
        chosen = chosen.drop(np.random.default_rng(settings.seed).permutation(own)[most:])
    shape = reading.common_shape({slice_.shape for of_file in slices.values() for slice_ in of_file}, settings.shape)
    for (name, subject), rows in tqdm(chosen.groupby(["file", "subject"], sort=False), desc="subjects"):
        good = {}
        for row, z in rows["z"].items():
            with reading.rejecting(rejected, file=name, subject=subject, z=z):
                one, *_ = reading.cut(slices[name][int(z)][None], np.array([z]), settings.min_brain_share)
                good[row] = reading.centred(one, shape)
        if good:
            yield np.concatenate(list(good.values())), rows.loc[list(good)]


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
