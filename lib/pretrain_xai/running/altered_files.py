"""Results that are no longer what the batch made: found by their digests, set aside, and made again.

Beside each executed notebook, and for the report, lie the digests of what was made. Before Snakemake starts, all these
files are read: what a disk lost, what was cut and what was edited differs from its digest, also where time and size are as
they were. A result that comes out as it was recorded gets the time back that it had, so that nothing else
is made again, unless something may have been made from other bytes.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tqdm.auto import tqdm

from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import read_sums, sha256
from pretrain_xai.running.recorded_files import files_in, read_records

#: what a file that is set aside is called: hidden, so that no reader takes it for a result
_ASIDE = ".{name}.altered"
#: Snakemake sets the time of results when their job ends, soon after the record; later than that they were edited
_JOB_ENDS_NS = 60 * 10**9


@dataclass(frozen=True)
class _Record:
    """Where the digests of what one job made were read, and the first of these files, which Snakemake knows it by."""

    file: Path
    first: str


@dataclass(frozen=True)
class Altered:
    """A result that differs from what was recorded of it.

    Attributes
    ----------
    file : str
        Its path from the root folder.
    stage : str
        The notebook that made it, or the report: they sort in the order in which one reads what another made.
    made_with : tuple of str
        What Snakemake knows its job by: itself, and the first result of each job that recorded it.
    """

    file: str
    stage: str
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

    So are those that were set aside and are not made again yet. They are sorted by stage. A record that can't be read is left
    to `make verify`.
    """
    recorded = _recorded(study)
    found = digests([paths.root() / file for file in recorded])
    altered = [
        Altered(
            file,
            max(record.file.parent.name for record in records.values()),
            tuple(dict.fromkeys([file, *(record.first for record in records.values())])),
        )
        for file, records in recorded.items()
        if _is_altered(paths.root() / file, records, found)
    ]
    return sorted(altered, key=lambda result: (result.stage, result.file))


def name_altered(altered: Sequence[Altered], made_here: set[str]) -> None:
    """Say which results are not what was recorded, and what a batch will do, which makes the files `made_here`."""
    for result in altered:
        found = "was changed after it was made" if result.is_there else "was changed, and is not there again yet"
        follows = "this batch does not make it, and leaves it"
        if jobs_of([result], made_here):
            follows = "it is made again, and what depends on it if it comes out different"
            follows += f" (the changed file is kept as {result.aside.name})" if result.is_there else ""
        print(f"{result.file} {found}: {follows}", file=sys.stderr, flush=True)


def make_again(study: str, altered: Sequence[Altered], made_here: set[str], run: Callable[..., int]) -> int:
    """Set altered results aside and make them again, stage after stage, so that each is made from sound ones.

    Parameters
    ----------
    study : str
        Its name.
    altered : sequence of Altered
        As `find_altered` returns them.
    made_here : set of str
        The files that the batch makes; others are left alone.
    run : callable
        Runs Snakemake with further options and returns its exit status.

    Returns
    -------
    int
        The first exit status that is not 0, or 0.
    """
    ours = [result for result in altered if jobs_of([result], made_here)]
    for result in ours:
        if result.is_there:
            result.set_aside()
    for _, of_stage in groupby(ours, key=lambda result: result.stage):
        jobs = jobs_of(list(of_stage), made_here)
        with times_kept(study):
            status = run("--forcerun", *jobs, "--until", *jobs)
        if status:
            return status
    return 0


def jobs_of(altered: Sequence[Altered], made_here: set[str]) -> list[str]:
    """Return the files by which Snakemake knows the jobs that make altered results, of those that a batch makes."""
    return sorted({file for result in altered for file in result.made_with if file in made_here})


@contextmanager
def times_kept(study: str) -> Iterator[None]:
    """Give results that are made again meanwhile their earlier time back, so that what was made from them is not out of date.

    Only those that come out with the one digest that was recorded of them, and only if nothing can have been made from other
    bytes: none was edited since its record, and all that say what they read have read that digest.
    """
    recorded, readers = _recorded(study), read_records(study).read
    before = {file: _time(paths.root() / file) for file in recorded}
    edited = {
        file
        for file, records in recorded.items()
        if before[file] > max(record.file.stat().st_mtime_ns for record in records.values()) + _JOB_ENDS_NS
    }
    yield
    for file, records in recorded.items():
        path = paths.root() / file
        if file in edited or not before[file] or not path.is_file() or _time(path) == before[file]:
            continue
        digest = sha256(path)
        if records.keys() == {digest} and {digest}.issuperset(readers.get(path, {}).values()):
            os.utime(path, ns=(before[file], before[file]))


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


def _recorded(study: str) -> dict[str, dict[str, _Record]]:
    """Return what was recorded of the results of a study: by file, then by digest."""
    recorded: dict[str, dict[str, _Record]] = defaultdict(dict)
    for name in dict.fromkeys(paths.owner(study, artefact) for artefact in paths.ARTEFACTS):
        for file in files_in(Paths(name).executed, ".sha256"):
            made = _readable(file)
            for result, digest in made.items():
                recorded[result][digest] = _Record(file, next(iter(made)))
    return recorded


def _is_altered(file: Path, records: dict[str, _Record], found: dict[Path, str]) -> bool:
    return found[file] not in records if file in found else aside(file).is_file()


def _time(file: Path) -> int:
    """Return when a result was written, in ns, or what was set aside of it; 0 if neither is there."""
    return next((found.stat().st_mtime_ns for found in (file, aside(file)) if found.is_file()), 0)


def _readable(file: Path) -> dict[str, str]:
    try:
        return read_sums(file)
    except (ValueError, OSError):
        return {}
