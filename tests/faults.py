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
from pretrain_xai.provenance import sha256

#: how the processes of a batch are known by their command lines, from the outermost
PROCESSES = {
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


def start(root: Path) -> subprocess.Popen:
    """Start the tiny study in a session of its own; what it prints goes to `root/batch.log`."""
    command, log = [sys.executable, "-m", "pretrain_xai.batch", "tiny"], (root / "batch.log").open("ab")
    variables = os.environ | {"PRETRAIN_XAI_ROOT": str(root)}
    return subprocess.Popen(command, env=variables, start_new_session=True, stdout=log, stderr=log)


def finish(root: Path, *options: str, study: str = "tiny", **environment: str) -> subprocess.CompletedProcess:
    """Run a study to its end."""
    command = [sys.executable, "-m", "pretrain_xai.batch", study, *options]
    variables = os.environ | {"PRETRAIN_XAI_ROOT": str(root)} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def digests(root: Path) -> dict[str, str]:
    """Return the digests of the tables, weights and arrays that the tiny study keeps; of a variant or its switches none."""
    folder = root / "data" / "tiny"
    apart = {Paths("tiny").switch_scores.name, Paths("tiny").switch_predictions.name, "protocols.csv", "protocols"}
    apart |= {"slices.npy", "checkpoints"}  # gone at the end
    found = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        # a hidden folder is not under a final name either: parts of a dataset in the making lie in one
        if file.suffix in RESULTS and not apart & set(parts) and not any(part.startswith(".") for part in parts):
            with contextlib.suppress(FileNotFoundError):  # a batch that goes on may remove what a failed job made
                found[file.relative_to(root).as_posix()] = sha256(file)
    return found


def partial_files(root: Path, whole: dict[str, str]) -> list[str]:
    """Return the results under their final names that are not those of `whole`, an uninterrupted run."""
    return sorted(name for name, digest in digests(root).items() if whole.get(name) != digest)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a batch and all that it started and that lives, from the outermost."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def kill(process: subprocess.Popen, which: str, how: signal.Signals) -> bool:
    """Send a signal to one process of a batch (a key of PROCESSES), or to "all"; say whether there was one."""
    hit = []
    for member in family(process):  # kernels have a process group of their own
        with contextlib.suppress(psutil.Error):
            if which == "all" or (not hit and PROCESSES[which] in " ".join(member.cmdline())):
                member.send_signal(how)
                hit.append(member)
    return bool(hit)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of so many megabytes in memory at `folder`; skip clearly where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
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
