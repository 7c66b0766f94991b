"""Write files whole or not at all, and say beside each where it came from."""

import filecmp
import hashlib
import json
import os
import platform
import secrets
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers take all but the owner's rights away
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
        "file": near(path),
        "sha256": sha256(path),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": dict(parameters),
        "inputs": {near(file): sha256(file) for file in inputs},
        "packages": package_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "code": git_describe(),
    }
    write_text(to or path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1, default=str) + "\n")


def write_sums(path: Path, files: Iterable[Path]) -> None:
    """Write the digests of `files` as `sha256sum` does, so that `sha256sum --check` in the root folder reads them.

    Folders are left out; without files nothing is written.
    """
    if lines := [f"{sha256(file)}  {near(file)}\n" for file in files if not file.is_dir()]:
        write_text(path, "".join(lines))


def read_sums(path: Path) -> dict[str, str]:
    """Return the digest of each file, by its path from the root folder, that `write_sums` wrote.

    Raises
    ------
    ValueError
        A line is something else.
    """
    lines = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in lines}


def near(path: Path) -> str:
    """Return a path as it is called from the root folder; absolute if it lies elsewhere."""
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
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(command, cwd=paths.REPOSITORY, stderr=subprocess.DEVNULL, text=True).strip()
    return "unknown (not a git checkout)"
