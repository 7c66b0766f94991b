"""The table of subjects: read strictly, and dealt to disjoint splits."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from pretrain_xai.errors import did_you_mean, first_ten
from pretrain_xai.settings.slices import Participants, is_shares
from pretrain_xai.slices.files import SourceError, bare_subject
from pretrain_xai.study import PRETRAINING_SPLITS

#: a table of subjects is smaller, bytes
MAX_BYTES = 2**26
#: how a missing value is written
MISSING = {"", "n/a", "na", "nan", "none"}
#: what a network can be trained to tell has at most so many classes; an age or a name has more
MAX_CLASSES = 50
_SEX = {**dict.fromkeys(("f", "female", "w", "woman"), "F"), **dict.fromkeys(("m", "male", "man"), "M")}


def read_participants(path: Path, columns: Participants, target: str) -> pd.DataFrame:
    """Read a table of subjects: tab-separated as in BIDS, or with commas if its name ends in .csv.

    Parameters
    ----------
    columns : Participants
        What its columns are called.
    target : str
        A further column, unless it is `sex`.

    Returns
    -------
    DataFrame, one row per subject, indexed by its name without `sub-`
        `sex` (F, M, or as it is written; "" if missing), `age` (years, NaN if missing), and the column `target`.

    Raises
    ------
    SourceError
        The file is missing, too large, not UTF-8, has ragged rows, lacks a column or has a subject twice; or an age is none.
    """
    header, rows = _rows(path)
    wanted = {"subject": columns.subject, "sex": columns.sex, "age": columns.age, target: target}
    wanted["sex"] = columns.sex  # also as the target
    places = {name: _place(path, header, column, name) for name, column in wanted.items() if column}
    cells = {name: [row[place].strip() for row in rows] for name, place in places.items()}
    names = [bare_subject(name) for name in cells["subject"]]
    _check_names(path, names)
    ages = cells.get("age", [""] * len(rows))
    table = pd.DataFrame(
        {
            "sex": [read_sex(sex) for sex in cells["sex"]],
            "age": [_age_of(path, name, age) for name, age in zip(names, ages, strict=True)],
        },
        index=pd.Index(names, name="subject"),
    )
    return table if target == "sex" else table.assign(**{target: ["" if _missing(c) else c for c in cells[target]]})


def read_sex(text: str) -> str:
    """Return F or M for the words that say so, any other text as it is, and "" for a missing value."""
    return "" if _missing(text) else _SEX.get(text.strip().lower(), text.strip())


def read_age(text: str) -> float:
    """Return an age in years: of a range such as 26-30 its middle, of 36+ its lower end, NaN for a missing value.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if _missing(text):
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
    rng, order = np.random.default_rng(seed), {}
    for value in sorted(set(subjects.values())):
        members = sorted(subject for subject, own in subjects.items() if own == value)
        # evenly from 0 to 1: any stretch of the order holds the classes in proportion
        places = (rng.permutation(len(members)) + rng.random()) / len(members)
        order.update(zip(members, places, strict=True))
    waiting = sorted(order, key=lambda subject: (order[subject], subject))
    counts = _counts(len(waiting), splits)
    if sum(counts.values()) > len(waiting):
        raise SourceError(
            f"slices.subjects asks for {sum(counts.values())} subjects, but only {len(waiting)} can be used; lower "
            "the counts, or give shares such as 0.25"
        )
    if empty := [split for split, count in counts.items() if not count]:
        raise SourceError(f"{', '.join(empty)} would have none of {len(waiting)} subjects; raise its share")
    dealt = iter(waiting)
    of = {subject: split for split, count in counts.items() for subject in islice(dealt, count)}
    return of, waiting[len(of) :]


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
    if missing := sorted(set(splits) - set(table["split"])):
        raise SourceError(
            f"no slice is left for {', '.join(missing)}; see the reasons why files and slices are rejected, or give the "
            "split more subjects"
        )
    wanted = [split for split in PRETRAINING_SPLITS if split in set(splits)]
    classes = set(table[target].astype(str))
    if wanted and not 2 <= len(classes) <= MAX_CLASSES:
        raise SourceError(
            f"{target} has {len(classes)} values ({first_ten(sorted(classes))}); 2 to {MAX_CLASSES} classes can be learnt: "
            "set pretraining.target to another column"
        )
    for split in wanted:
        if lacking := sorted(classes - set(table.loc[table["split"] == split, target].astype(str))):
            raise SourceError(
                f"{split} has no subject with {target} {', '.join(lacking)}; give it more subjects or change slices.seed"
            )


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table as text, none of them ragged."""
    if not path.is_file():
        raise SourceError(f"{path} is missing; set slices.participants.file to the table of subjects")
    if path.stat().st_size > MAX_BYTES:
        raise SourceError(f"{path}: larger than {MAX_BYTES:,} bytes; a table of subjects is expected")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8 text") from None
    comma = path.suffix.lower() == ".csv"
    quoting = csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE  # in BIDS a quote is a character like any other
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="," if comma else "\t", quoting=quoting, strict=comma)
    header: list[str] = []
    rows = []
    try:
        for row in reader:
            if not "".join(row).strip():
                continue
            if not header:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                kind = "commas" if comma else "tabs"
                raise SourceError(
                    f"{path}: line {reader.line_num} has {len(row)} fields, the header {len(header)}; fields are "
                    f"separated by {kind}"
                )
            else:
                rows.append(row)
    except csv.Error as error:
        raise SourceError(f"{path}: line {reader.line_num} can't be read ({error})") from None
    if not rows:
        raise SourceError(f"{path}: no subjects; a header and a row per subject are expected")
    return header, rows


def _place(path: Path, header: list[str], column: str, name: str) -> int:
    if header.count(column) == 1:
        return header.index(column)
    setting = f"slices.participants.{name}" if name in ("subject", "sex", "age") else "pretraining.target"
    if column in header:
        raise SourceError(f"{path}: the column {column!r} comes {header.count(column)} times; rename or remove one")
    raise SourceError(
        f"{path}: no column {column!r} ({setting}); it has {first_ten(header)}{did_you_mean(column, header)}"
    )


def _check_names(path: Path, names: list[str]) -> None:
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise SourceError(f"{path}: {first_ten(repeated)} more than once; one row per subject is expected")
    if "" in names:
        raise SourceError(f"{path}: row {names.index('') + 1} has no subject")


def _missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def _age_of(path: Path, subject: str, text: str) -> float:
    try:
        return read_age(text)
    except ValueError as error:
        raise SourceError(f"{path}: {subject}: {error} (or set slices.participants.age to null)") from None


def _counts(n_subjects: int, splits: Mapping[str, float]) -> dict[str, int]:
    if not is_shares(dict(splits)):
        return {split: int(count) for split, count in splits.items()}
    ends = np.rint(np.cumsum(list(splits.values())) * n_subjects).astype(int)
    return dict(zip(splits, np.diff(ends, prepend=0).tolist(), strict=True))
