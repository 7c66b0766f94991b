"""Faults that are done to a running batch for real: kills, a full disk, a folder that can't be written."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import read_sums, sha256

#: how the processes of a batch are known by their command lines, from the outermost
PROCESSES = {
    "batch": "pretrain_xai.batch",
    "driver": "-m snakemake",
    "worker": "pretrain_xai.run_notebook",
    "kernel": "ipykernel_launcher",
}
#: results that must repeat to the byte; provenance and executed notebooks hold times
RESULTS = {".csv", ".parquet", ".npy", ".npz", ".safetensors"}


def make_root(folder: Path) -> Path:
    """Make a root with the study files alone."""
    shutil.copytree(paths.REPOSITORY / "studies", folder / "studies")
    return folder


def start(root: Path, *options: str, study: str = "tiny", **environment: str) -> subprocess.Popen:
    """Start a study in a session of its own; what it prints goes to `root/batch.log`."""
    command = [sys.executable, "-m", "pretrain_xai.batch", study, *options]
    log = (root / "batch.log").open("ab")
    variables = os.environ | {"PRETRAIN_XAI_ROOT": str(root)} | environment
    return subprocess.Popen(command, env=variables, start_new_session=True, stdout=log, stderr=log)


def finish(root: Path, *options: str, study: str = "tiny", **environment: str) -> subprocess.CompletedProcess:
    """Run a study to its end."""
    command = [sys.executable, "-m", "pretrain_xai.batch", study, *options]
    variables = os.environ | {"PRETRAIN_XAI_ROOT": str(root)} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def digests(root: Path) -> dict[str, str]:
    """Return the digests of all tables, weights and arrays of the tiny study; of a variant or its switches none."""
    folder = root / "data" / "tiny"
    apart = {Paths("tiny").switch_scores.name, Paths("tiny").switch_predictions.name, "protocols.csv", "protocols"}
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in RESULTS and not apart & set(file.parts)]
    # a hidden folder is not under a final name either: parts of a dataset in the making lie in one
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a batch that goes on may remove what a failed job made
            found[str(file.relative_to(folder))] = sha256(file)
    return found


def recorded(root: Path) -> dict[str, str]:
    """Return the digests of all that was recorded of the tiny study: tables, weights, arrays, figures; not its report's.

    The report says how long the notebooks took.
    """
    sums = (root / "papermill_runs" / "tiny").glob("*/*.sha256")
    names = sorted({name for file in sums for name in read_sums(file) if not name.endswith(".html")})
    return {name: sha256(root / name) if (root / name).is_file() else "missing" for name in names}


def partial_files(root: Path, whole: dict[str, str]) -> list[str]:
    """Return the results under their final names that are not those of `whole`, an uninterrupted run."""
    return sorted(name for name, digest in digests(root).items() if whole.get(name) != digest)


def verdict(root: Path, whole: dict[str, str]) -> tuple[int, int]:
    """Return how many results of an uninterrupted run `root` lacks, and how many it has that are not those of such a run."""
    return len(whole.keys() - digests(root).keys()), len(partial_files(root, whole))


def kill(process: subprocess.Popen, which: str, how: signal.Signals) -> bool:
    """Send a signal to one process of a batch (a key of PROCESSES), or to "all"; say whether there was one."""
    members = family(process)
    if which == "all":  # kernels have a process group of their own
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.send_signal(how)
        return bool(members)
    for member in members:
        with contextlib.suppress(psutil.Error):
            if PROCESSES[which] in " ".join(member.cmdline()):
                member.send_signal(how)
                return True
    return False


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a batch and all that it started and that lives, from the outermost."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def wait_for_all(members: list[psutil.Process], seconds: float = 60) -> None:
    """Wait until processes have ended that outlive the one that was killed, as kernels and drivers do."""
    psutil.wait_procs(members, timeout=seconds)


def alter(file: Path, how: str) -> None:
    """Flip a bit in the middle of a file ("flip") or cut its second half ("cut"); its time stays as it was."""
    content, times = bytearray(file.read_bytes()), file.stat()
    if how == "flip":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of so many megabytes in memory at `folder`; skip clearly where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can't be mounted here (root is needed)")
    try:
        yield folder
    finally:
        for _ in range(20):
            if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.5)


def remount(folder: Path, options: str) -> None:
    """Change a mounted file system, such as `size=500m`, `ro` or `rw`."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)
