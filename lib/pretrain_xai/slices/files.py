"""What a study brings: files found by pattern, and its table of participants, who are dealt to disjoint splits."""

import csv
import glob
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pretrain_xai import paths
from pretrain_xai.errors import UserError, did_you_mean, first_ten
from pretrain_xai.settings.slices import Arrays, Nifti, Participants, Pickle, Slices, Template, is_shares
from pretrain_xai.study import PRETRAINING_SPLITS

#: how a missing value is written
MISSING = {"", "n/a", "na", "nan", "none"}
#: what a network can be trained to tell has at most so many classes; an age or a name has more
MAX_CLASSES = 50
_SEX = {**dict.fromkeys(("f", "female", "w", "woman"), "F"), **dict.fromkeys(("m", "male", "man"), "M")}


class SourceError(UserError):
    """What a study's slices are made from is missing or wrong; the message says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names of files and columns may hold line breaks


def source_folder(settings: Nifti | Arrays | Pickle) -> Path:
    """Return the folder of a source: absolute, in the home (~), or from the folder that holds `studies/`.

    Raises
    ------
    SourceError
        It is missing.
    """
    folder = paths.root() / Path(settings.folder).expanduser()
    if not folder.is_dir():
        raise SourceError(f"slices.folder: {folder} is missing or not a folder; set it to where the MRI lies")
    return folder


def find_files(folder: Path, pattern: str) -> dict[str, dict[str, str]]:
    """Return the names of the files in a folder that fit a pattern, sorted, with what the names in braces stand for.

    Raises
    ------
    SourceError
        No file fits.
    """
    if found := _fitting(folder, pattern):
        return found
    there = first_ten(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise SourceError(f"{folder}: no file fits the pattern {pattern!r}; in the folder there is {there}")


def find_masks(folder: Path, pattern: str, fields: dict[str, str]) -> list[Path]:
    """Return the masks that go with an image of these `fields`; one is as it should be."""
    for name, value in fields.items():
        pattern = pattern.replace(f"{{{name}}}", value)
    return [folder / name for name in _fitting(folder, pattern)]


def source_state(settings: Slices) -> str:
    """Return a digest of the files that the slices are made from: names, sizes and times of change; "" for the template.

    Raises
    ------
    SourceError
        The folder, the table of participants or a pickle is missing, or no file fits the pattern.
    """
    if isinstance(settings, Template):
        return ""
    folder, state = source_folder(settings), ""
    needed = settings.files if isinstance(settings, Pickle) else [settings.participants.file]
    found = [folder / Path(name).expanduser() for name in needed]
    if missing := [str(path) for path in found if not path.is_file()]:
        raise SourceError(f"{first_ten(missing)} is missing; check slices.folder and slices.participants or files")
    if not isinstance(settings, Pickle):
        for name, fields in find_files(folder, settings.pattern).items():
            masks = find_masks(folder, settings.mask, fields) if isinstance(settings, Nifti) and settings.mask else []
            found += [folder / name, *masks]
    for path in found:
        facts = path.stat() if path.exists() else None
        state += f"{path}\0{facts and (facts.st_size, facts.st_mtime_ns)}\n"
    return hashlib.sha256(state.encode(errors="replace")).hexdigest()[:16]


def read_participants(folder: Path, columns: Participants, target: str) -> pd.DataFrame:
    """Read a table of subjects: tab-separated as in BIDS, or with commas if its name ends in .csv.

    Parameters
    ----------
    columns : Participants
        Which file of `folder` it is, and what its columns are called.
    target : str
        A further column, unless it is `sex`.

    Returns
    -------
    DataFrame, one row per subject, indexed by its name without `sub-`
        `sex` (F, M, or as it is written; "" if missing), `age` (years, NaN if missing), and the column `target`.

    Raises
    ------
    SourceError
        The file is missing, not UTF-8, has ragged rows, lacks a column or has a subject twice; or an age is none.
    """
    path = folder / Path(columns.file).expanduser()
    cells = _read_cells(path)
    header = list(cells.columns)
    for column in [columns.subject, columns.sex, columns.age, columns.sex if target == "sex" else target]:
        if column and header.count(column) != 1:
            found = f"it has {first_ten(header)}{did_you_mean(column, header)}; see slices.participants"
            raise SourceError(f"{path}: one column {column!r} is expected, {found}, pretraining.target")
    names = cells[columns.subject].str.removeprefix("sub-")
    if wrong := sorted(set(names[names.duplicated() | (names == "")])):
        raise SourceError(f"{path}: subjects more than once or without a name: {first_ten([*map(repr, wrong)])}")
    try:
        age = cells[columns.age].map(read_age) if columns.age else math.nan
    except ValueError as error:
        raise SourceError(f"{path}: {error} (or set slices.participants.age to null)") from None
    table = pd.DataFrame({"sex": cells[columns.sex].map(read_sex), "age": age})
    if target != "sex":
        table[target] = cells[target].where(~cells[target].str.lower().isin(MISSING), "")
    return table.set_index(names.rename("subject"))


def read_sex(text: str) -> str:
    """Return F or M for the words that say so, any other text as it is, and "" for a missing value."""
    return "" if text.strip().lower() in MISSING else _SEX.get(text.strip().lower(), text.strip())


def read_age(text: str) -> float:
    """Return an age in years: of a range such as 26-30 its middle, of 36+ its lower end, NaN for a missing value.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if text.strip().lower() in MISSING:
        return math.nan
    match = re.fullmatch(r"(\d{1,3}(?:\.\d*)?)(?:\s*-\s*(\d{1,3}(?:\.\d*)?)|\+)?", text.strip(), re.ASCII)
    if not match:
        raise ValueError(f"{text[:30]!r} is no age; years such as 31 or 26-30 are expected, n/a if not known")
    return (float(match[1]) + float(match[2] or match[1])) / 2


def deal(subjects: Mapping[str, str], splits: Mapping[str, float], seed: int) -> tuple[dict[str, str], list[str]]:
    """Deal subjects to splits at random, each split with about the same share of every class.

    Parameters
    ----------
    subjects : mapping from a subject to its class
    splits : mapping from a split to its number of subjects, or to its share of all

    Returns
    -------
    splits : dict from a subject to its split, in the order of the splits
    reserve : list of the subjects that are left over, in random order

    Raises
    ------
    SourceError
        There are too few subjects, or a split would be empty.
    """
    rng = np.random.default_rng(seed)
    order: dict[str, float] = {}
    for value in sorted(set(subjects.values())):
        members = sorted(subject for subject, own in subjects.items() if own == value)
        # evenly from 0 to 1: any stretch of the order holds the classes in proportion
        places = (rng.permutation(len(members)) + rng.random()) / len(members)
        order.update(zip(members, places, strict=True))
    waiting = sorted(order, key=lambda subject: (order[subject], subject))
    last = np.rint(np.cumsum(list(splits.values())) * (len(waiting) if is_shares(dict(splits)) else 1)).astype(int)
    if last[-1] > len(waiting):
        raise SourceError(f"slices.subjects asks for {last[-1]} subjects, but only {len(waiting)} can be used")
    counts = np.diff(last, prepend=0)
    if empty := [split for split, count in zip(splits, counts, strict=True) if not count]:
        raise SourceError(f"{', '.join(empty)} would have none of {len(waiting)} subjects; raise its share")
    return dict(zip(waiting, np.repeat(list(splits), counts).tolist(), strict=False)), waiting[last[-1] :]


def check_splits(table: pd.DataFrame, splits: Iterable[str], target: str) -> None:
    """Check that each split has slices, and each class of `target` in both parts of the pre-training.

    Parameters
    ----------
    table : DataFrame
        `split` and the column `target`, one row per slice.

    Raises
    ------
    SourceError
        Naming the split or the classes.
    """
    if missing := sorted(set(splits) - set(table.get("split", []))):
        raise SourceError(f"no slice is left for {', '.join(missing)}; give it more subjects or better files")
    wanted = [split for split in PRETRAINING_SPLITS if split in set(splits)]
    classes = set(table[target].astype(str))
    if wanted and not 2 <= len(classes) <= MAX_CLASSES:
        found = f"{target} has {len(classes)} values ({first_ten(sorted(classes))})"
        raise SourceError(f"{found}, 2 to {MAX_CLASSES} can be learnt; set pretraining.target to another column")
    for split in wanted:
        if lacking := sorted(classes - set(table.loc[table["split"] == split, target].astype(str))):
            found = f"{split} has no subject with {target} {', '.join(lacking)}"
            raise SourceError(f"{found}; give it more subjects or change slices.seed")


def _fitting(folder: Path, pattern: str) -> dict[str, dict[str, str]]:
    """Return the files that fit, also links to files that are not there, so that they can be reported.

    `{name}` stands for any part of a file's or folder's name, the same each time; `**/` for any folders, also none.
    """
    wild = re.sub(r"\{\w+\}", "*", re.sub(r"([?\[])", r"[\1]", pattern))
    expression = re.escape(pattern).replace(r"\*\*/", "(?:[^/]+/)*").replace(r"\*", "[^/]*")
    for name in re.findall(r"\{(\w+)\}", pattern):
        braces = re.escape(f"{{{name}}}")
        expression = expression.replace(braces, f"(?P<{name}>[^/]+?)", 1).replace(braces, f"(?P={name})")
    names = sorted(Path(name).as_posix() for name in glob.glob(wild, root_dir=folder, recursive=True))
    matches = [(name, re.fullmatch(expression, name)) for name in names]
    return {name: match.groupdict() for name, match in matches if match}


def _read_cells(path: Path) -> pd.DataFrame:
    """Return a table as stripped text, under its header; no row is ragged."""
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    quote = '"' if separator == "," else None  # in BIDS a quote is a character like any other
    try:
        lines = csv.reader(io.StringIO(path.read_text("utf-8-sig")), delimiter=separator, quotechar=quote, strict=True)
        header, *rows = ([cell.strip() for cell in line] for line in lines if "".join(line).strip())
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{path}: not UTF-8 text with {separator!r} between its fields ({error})") from None
    if ragged := [number for number, row in enumerate(rows, 1) if len(row) != len(header)]:
        raise SourceError(
            f"{path}: row {ragged[0]} has fewer or more fields, separated by {separator!r}, than the header"
        )
    return pd.DataFrame(rows, columns=header, dtype=str)
