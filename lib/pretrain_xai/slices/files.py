"""Which files a study's slices come from: found by pattern, in an order of their own, and when they last changed."""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain_xai import paths
from pretrain_xai.errors import UserError, first_ten
from pretrain_xai.settings.slices import Files, Nifti, Pickle, Slices, Template

#: what a pattern is made of: {name}, **/ for any folders, * for any part of a name
_PARTS = re.compile(r"\{(\w+)\}|(\*\*/)|(\*)")


class SourceError(UserError):
    """What a study's slices are made from is missing or wrong; the message says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names of files and columns may hold line breaks


@dataclass(frozen=True)
class SourceFile:
    """A file, its name in the folder of the source, and what the names in braces stand for."""

    path: Path
    name: str
    fields: dict[str, str]

    @property
    def subject(self) -> str:
        """The name of the subject, without the `sub-` of BIDS."""
        return bare_subject(self.fields["subject"])


def bare_subject(name: str) -> str:
    """Return a subject's name as it is compared: `sub-01` and `01` are the same."""
    return name.strip().removeprefix("sub-")


def full_subject(name: str) -> str:
    """Return a subject's name as tables have it; with letters, as a reader of `01` would make a number of it."""
    return f"sub-{name}"


def source_path(text: str) -> Path:
    """Return a path of a study file: absolute, in the home (~), or from the folder that holds `studies/`."""
    return paths.root() / Path(text).expanduser()


def source_folder(settings: Files | Pickle) -> Path:
    """Return the folder of a source.

    Raises
    ------
    SourceError
        It is missing.
    """
    folder = source_path(settings.folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "is missing"
        raise SourceError(
            f"slices.folder: {folder} {what}; set it to where the MRI lies: an absolute path, one from your home (~) or one "
            f"from {paths.root()}"
        )
    return folder


def find_files(folder: Path, pattern: str) -> list[SourceFile]:
    """Return the files of a folder that fit a pattern, sorted by their names.

    `{name}` stands for any part of a file's or folder's name, the same each time; `**/` for any folders, also none. Links
    to files that are not there are found, too, so that they can be reported.

    Raises
    ------
    SourceError
        No file fits.
    """
    wild = _PARTS.sub(lambda part: part[2] or "*", re.sub(r"([?\[])", r"[\1]", pattern))
    known = re.compile(_expression(pattern))
    names = sorted(Path(name).as_posix() for name in glob.glob(wild, root_dir=folder, recursive=True))
    found = [SourceFile(folder / name, name, match.groupdict()) for name in names if (match := known.fullmatch(name))]
    if not found:
        there = first_ten(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise SourceError(f"{folder}: no file fits the pattern {pattern!r}; in the folder there is {there}")
    return found


def find_mask(folder: Path, pattern: str, fields: dict[str, str]) -> Path | str:
    """Return the one mask that goes with an image of these `fields`, or what is wrong with the masks, in words."""
    filled = pattern
    for name, value in fields.items():
        filled = filled.replace(f"{{{name}}}", value)
    try:
        found = find_files(folder, filled)
    except SourceError:
        return f"it has no mask ({filled})"
    return found[0].path if len(found) == 1 else f"it has {len(found)} masks ({filled})"


def source_files(settings: Slices) -> Iterator[Path]:
    """Yield every file that the slices are made from, in a fixed order."""
    if isinstance(settings, Template):
        return
    folder = source_folder(settings)
    if isinstance(settings, Pickle):
        yield from (folder / name for name in settings.files)
        return
    yield folder / Path(settings.participants.file).expanduser()
    for file in find_files(folder, settings.pattern):
        yield file.path
        if isinstance(settings, Nifti) and settings.mask:
            mask = find_mask(folder, settings.mask, file.fields)
            yield from [mask] if isinstance(mask, Path) else []


def source_state(settings: Slices) -> str:
    """Return a digest of the source's files: their names, sizes and times of change; "" if it has none."""
    digest = hashlib.sha256()
    for path in source_files(settings):
        facts = path.stat() if path.exists() else None
        digest.update(f"{os.fspath(path)}\0{facts and (facts.st_size, facts.st_mtime_ns)}\n".encode(errors="replace"))
    return "" if isinstance(settings, Template) else digest.hexdigest()[:16]


def check_source(settings: Slices) -> None:
    """Check before anything runs that the folder and the files of a source are there.

    Raises
    ------
    SourceError
        Naming what is missing.
    """
    files = list(source_files(settings))
    needed = files if isinstance(settings, Pickle) else files[:1]
    if missing := [str(path) for path in needed if not path.is_file()]:
        setting = "files" if isinstance(settings, Pickle) else "participants.file"
        raise SourceError(f"slices.{setting}: {first_ten(missing)} is missing; check the name and slices.folder")


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern; a name that comes again stands for the same."""
    expression, seen, end = "", set(), 0
    for part in _PARTS.finditer(pattern):
        expression += re.escape(pattern[end : part.start()])
        if name := part[1]:
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            expression += "(?:[^/]+/)*" if part[2] else "[^/]*"
        end = part.end()
    return expression + re.escape(pattern[end:])
