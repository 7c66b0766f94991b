"""Write files whole or not at all, and say beside each where it came from."""

import filecmp
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pretrain_xai import paths

#: the packages whose version can change a number
PACKAGES = (
    *("torch", "torchvision", "captum", "zennit", "numpy", "scipy", "scikit-image", "scikit-learn", "pandas", "POT"),
    "statsmodels",
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, which becomes `path` if the block ends without an error.

    A reader therefore sees the old file or the whole new one, also after a kill. A file that would get the bytes that it
    has keeps its time: a notebook that is run again by hand makes nothing out of date.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(path: Path, *, parameters: Mapping[str, Any], inputs: Iterable[Path] = (), to: Path | None = None) -> None:
    """Write the provenance of the finished file `path` as JSON beside it (`<path>.json`, or `to`).

    Parameters
    ----------
    parameters : mapping
        What the maker of the file was told; anything that JSON can say.
    inputs : paths
        The files that it read; stored with their SHA-256 digest.
    """
    facts = {
        "file": _relative(path),
        "sha256": sha256(path),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": dict(parameters),
        "inputs": {_relative(file): sha256(file) for file in inputs},
        "packages": package_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "code": git_describe(),
    }
    write_text(to or path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1, default=str) + "\n")


def write_sums(path: Path, files: Iterable[Path]) -> None:
    """Write the digests of `files` as `sha256sum` does, so that `sha256sum --check` in the root folder reads them.

    Without files nothing is written.
    """
    if lines := [f"{sha256(file)}  {_relative(file)}\n" for file in files]:
        write_text(path, "".join(lines))


def read_sums(path: Path) -> dict[str, str]:
    """Return the digest of each file, by its path from the root folder, that `write_sums` wrote.

    Raises
    ------
    ValueError
        A line is something else.
    """
    lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    if any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise ValueError("expected a SHA-256 digest, two spaces and a path on each line")
    return {name: digest for digest, name in lines}


def _relative(path: Path) -> str:
    path = Path(os.path.abspath(path))  # not resolved: `data/` may be a link to another disk, and is still called data/
    return path.relative_to(paths.root()).as_posix() if path.is_relative_to(paths.root()) else str(path)


@cache
def package_versions() -> dict[str, str]:
    """Return the installed version of each of PACKAGES."""
    return {package: metadata.version(package) for package in PACKAGES}


@cache
def git_describe() -> str:
    """Return what git calls the code at hand, such as `3f2a1bc-dirty`."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        result = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return result.stdout.strip()
