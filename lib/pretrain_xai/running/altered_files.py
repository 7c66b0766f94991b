"""Results that are no longer what the batch made: found by their digests, set aside, and made again.

Beside each executed notebook, and for the report, lie the digests of what was made. Before Snakemake starts, all these
files are read: what a disk lost, what was cut and what was edited differs from its digest, also where time and size are as
they were.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from pretrain_xai import paths
from pretrain_xai.files.provenance import read_sums, sha256
from pretrain_xai.running.recorded_files import files_in

#: what a file that is set aside is called: hidden, so that no reader takes it for a result
_ASIDE = ".{name}.altered"


@dataclass(frozen=True)
class Altered:
    """A result that differs from what was recorded of it.

    Attributes
    ----------
    file : str
        Its path from the root folder.
    made_with : tuple of str
        What Snakemake knows its job by: itself, and the first result of each job that recorded it.
    """

    file: str
    made_with: tuple[str, ...]

    @property
    def is_there(self) -> bool:
        """Whether it lies under its name; else it was set aside, and is not made again yet."""
        return (paths.root() / self.file).is_file()

    @property
    def aside(self) -> Path:
        """Where its bytes are kept for whoever changed it on purpose."""
        return aside(paths.root() / self.file)

    def set_aside(self) -> None:
        """Take it away from under its name, at once; it counts as altered until it is made again."""
        (paths.root() / self.file).replace(self.aside)


def aside(file: Path) -> Path:
    """Return the name under which a file is set aside, in its folder."""
    return file.with_name(_ASIDE.format(name=file.name))


def find_altered(study: str) -> list[Altered]:
    """Return the results of a study, and of one whose variant it is, that differ from all digests that their makers recorded.

    So are those that were set aside and are not made again yet. A record that can't be read is left to `make verify`.
    """
    recorded: dict[str, dict[str, str]] = defaultdict(dict)
    for name in dict.fromkeys(paths.owner(study, artefact) for artefact in paths.ARTEFACTS):
        for file in files_in(paths.executed(name), ".sha256"):
            made = _readable(file)
            for result, digest in made.items():
                recorded[result][digest] = next(iter(made))
    found = digests([paths.root() / file for file in recorded])
    return [
        Altered(file, tuple(dict.fromkeys([file, *firsts.values()])))
        for file, firsts in recorded.items()
        if _is_altered(paths.root() / file, firsts, found)
    ]


def digests(files: Sequence[Path]) -> dict[Path, str]:
    """Return the digests of those `files` that are there, read side by side."""
    sizes = {file: file.stat().st_size for file in files if file.is_file()}
    found = {}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(
            desc="checking results", total=sum(sizes.values()), unit="B", unit_scale=True, delay=3, leave=False
        ) as bar,
    ):
        for file, digest in zip(sizes, pool.map(sha256, sizes), strict=True):
            found[file] = digest
            bar.update(sizes[file])
    return found


def _is_altered(file: Path, recorded: dict[str, str], found: dict[Path, str]) -> bool:
    return found[file] not in recorded if file in found else aside(file).is_file()


def _readable(file: Path) -> dict[str, str]:
    try:
        return read_sums(file)
    except (ValueError, OSError):
        return {}
