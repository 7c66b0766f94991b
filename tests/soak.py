"""The long versions of the reliability tests: `make soak`, or one part by `make soak PART=kills`.

Each part does to the tiny study what its tests do, more often, and counts. Its rows go to docs/reliability.json as soon as
they are known, from which docs/reliability.md is made. An uninterrupted run is kept in the work folder for all parts.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import psutil
import pytest
from conditions import conditions, largest_difference, run
from faults import (
    alter,
    digests,
    family,
    finish,
    kill,
    make_root,
    partial_files,
    recorded,
    remount,
    small_disk,
    start,
    verdict,
    wait_for_all,
)
from mri_cohort import brain_volume, volume_path, write_cohort
from pretrain_xai.provenance import write_text
from reliability_page import JSON, PAGE, page
from test_own_mri import COHORT, write_study

#: results that are altered together, one of each kind, by pattern from the root folder: from the last notebooks to the first
ALTERED = (
    ("data/tiny/statistics/effects.csv", "figures/tiny/boxplots_tpr.png", "figures/tiny/tables/*.tex"),
    (
        "data/tiny/classification.csv",
        "data/tiny/intersections.csv",
        "data/tiny/scores/best-mri-depth5-seed0.parquet",
        "data/tiny/setting_scores/best-none-*.npz",
        "data/tiny/example_maps/best-natural-depth1-seed0.npz",
    ),
    (
        "data/tiny/finetuned/best-mri-depth1-seed0/weights.safetensors",
        "data/tiny/finetuned/best-natural-depth5-seed0/history.csv",
        "data/tiny/finetuned/best-*/checkpoints/*.safetensors",
        "data/tiny/finetuned/matched-mri-depth1-seed0/weights.safetensors",
        "data/tiny/matching.csv",
    ),
    (
        "data/tiny/lesions.npz",
        "data/tiny/slices/slices.npy",
        "data/tiny/pretrained/mri.safetensors",
        "data/tiny/dataset/train/images.npy",
        "data/tiny/dataset/test/lesions.csv",
    ),
)

Rows = Iterator[dict[str, Any]]


class Soak:
    """What the parts share: a work folder, and the digests of an uninterrupted run in it.

    Attributes
    ----------
    work : Path
        Every part has a folder of its own in it, which it removes when it ends well.
    reference : Path
        The root of the uninterrupted run, by two jobs side by side.
    whole : dict of str
        Digests of its results by name.
    """

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.rng = work, random.Random(seed)
        self.reference = work / "whole"
        self.whole: dict[str, str] = {}

    def run_reference(self) -> None:
        """Run the tiny study without a fault; a finished one is kept."""
        if not self.reference.is_dir():
            self.reference.mkdir(parents=True)
            make_root(self.reference)
        result = finish(self.reference, "--cores", "2")
        assert result.returncode == 0, result.stderr[-2000:]
        self.whole = digests(self.reference)

    def new_root(self, name: str) -> Path:
        """Return an empty root with the study files."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return make_root(folder)

    def copy(self, name: str) -> Path:
        """Return a copy of the finished root."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        return Path(shutil.copytree(self.reference, self.work / name))

    def kills(self, count: int = 32) -> Rows:
        """Kill every kind of process with every signal at random moments, and go on each time."""
        self.run_reference()
        kinds = list(itertools.product(("driver", "worker", "kernel", "all"), (signal.SIGKILL, signal.SIGTERM)))
        waiting = self.rng.sample(kinds * -(-count // len(kinds)), count)
        rows = {kind: _fault(f"{kind[1].name} of {_NAMES[kind[0]]}") for kind in kinds}
        orphans: list[psutil.Process] = []
        for number in itertools.count():
            root, done = self.new_root(f"kills{number}"), []
            process = start(root)
            while waiting and process.poll() != 0:
                if process.poll() is not None:  # killed, or a job failed twice
                    process = start(root)
                time.sleep(self.rng.uniform(0.5, 15))
                if not _kill_when_there(process, *waiting[-1], orphans):
                    continue
                kind = waiting.pop()
                done.append(rows[kind])
                rows[kind]["times"] += 1
                rows[kind]["survived"] += 1
                if kind[0] in ("driver", "all"):
                    process.wait()
                rows[kind]["wrong"] += len(partial_files(root, self.whole))
                print(f"{len(waiting)} kills to come", flush=True)
            process.wait()
            _finish_and_count(root, self.whole, done)
            wait_for_all(orphans)
            assert digests(root) == self.whole or any(row["wrong"] or row["lost"] for row in done)
            shutil.rmtree(root)
            yield from (row for row in rows.values() if row["times"])
            if not waiting:
                return

    def disk(self) -> Rows:
        """Run on a disk that is full again and again, and one that can't be written."""
        self.run_reference()
        row, folder = _fault("disk full"), self.work / "disk"
        with small_disk(folder, megabytes=2) as disk:
            root = make_root(disk)
            for megabytes in (4, 8, 12, 16, 24, 32):
                remount(disk, f"size={megabytes}m")
                result = finish(root)
                if result.returncode == 0:
                    break
                row["times"] += 1
                row["survived"] += "No space left on device" in result.stdout + result.stderr
                row["wrong"] += len(partial_files(root, self.whole))
            remount(disk, "size=2g")
            _finish_and_count(root, self.whole, [row])
            yield row
            row = _fault("folder can't be written")
            for _ in range(3):
                remount(disk, "ro")
                result = finish(root)
                remount(disk, "rw")
                row["times"] += 1
                row["survived"] += result.returncode == 2 and len(result.stderr.splitlines()) == 1
            _finish_and_count(root, self.whole, [row])
            yield row

    def batches(self) -> Rows:
        """Start two batches on one study: while one runs, when only its driver is left, and at the same moment."""
        self.run_reference()
        root, row = self.new_root("batches"), _fault("second batch while one runs")
        process = start(root)
        for _ in range(5):
            time.sleep(self.rng.uniform(3, 12))
            _refused(root, row)
        left = _fault("second batch while the driver of a killed one runs")
        members = family(process)
        kill(process, "batch", signal.SIGKILL)
        for _ in range(3):
            _refused(root, left)
        wait_for_all(members, 3600)
        _finish_and_count(root, self.whole, [row, left])
        yield from (row, left)
        at_once = _fault("two batches at the same moment")
        root = self.new_root("at-once")
        for goal in ("lesions.npz", "dataset/audit.csv", "pretrained/mri.safetensors", "classification.csv", None):
            target = [f"data/tiny/{goal}"] if goal else []  # each pair has something to do
            both = [start(root, *target), start(root, *target)]
            statuses = sorted(process.wait() for process in both)
            at_once["times"] += 1
            at_once["survived"] += statuses == [0, 2]
        _finish_and_count(root, self.whole, [at_once])
        yield at_once

    def changes(self) -> Rows:
        """Flip a bit of a finished result, or cut it, with its time kept; the batch finds it and makes it again."""
        self.run_reference()
        root = self.copy("changes")
        before = recorded(root)
        rows = {how: _fault(f"{words} in a finished result, its time kept") for how, words in _HOW.items()}
        for turn, patterns in itertools.product(range(2), ALTERED):
            files = [self.rng.choice(sorted(root.glob(pattern))) for pattern in patterns]
            ways = ["flip" if (number + turn) % 2 else "cut" for number in range(len(files))]
            for file, how in zip(files, ways, strict=True):
                alter(file, how)
            result, now = finish(root), recorded(root)
            for file, how in zip(files, ways, strict=True):
                name = file.relative_to(root).as_posix()
                named = result.returncode == 0 and f"{name} was changed after it was made" in result.stderr
                rows[how]["times"] += 1
                rows[how]["survived"] += named and now[name] == before[name]
            # of both ways together
            lost = [name for name in before if now.get(name, "missing") == "missing"]
            rows["flip"]["lost"] += len(lost)
            rows["flip"]["wrong"] += sum(now[name] != before[name] for name in before if name not in lost)
            yield from rows.values()

    def inputs(self) -> Rows:
        """Change a volume under finished slices: they are made again, as they are from nothing."""
        row, slices = _fault("input changed under a finished result"), "data/own/slices/slices.npy"
        for number in range(3):
            root, fresh = self.new_root(f"inputs{number}"), self.new_root("inputs-fresh")
            write_cohort(root / "bids", 38)
            write_study(root, {"slices": COHORT})
            finish(root, slices, study="own")
            before = (root / slices).read_bytes()
            nibabel.save(brain_volume(99, male=True), volume_path(root / "bids", 3 + number, ".nii"))
            finish(root, slices, study="own")
            shutil.copytree(root / "bids", fresh / "bids")
            shutil.copy(root / "studies" / "own.yaml", fresh / "studies")
            finish(fresh, slices, study="own")
            row["times"] += 1
            row["survived"] += (root / slices).read_bytes() != before
            row["wrong"] += (root / slices).read_bytes() != (fresh / slices).read_bytes()
            yield row

    def determinism(self) -> Rows:
        """Run the study under conditions on which its results must not depend."""
        self.run_reference()
        for name, condition in conditions(self.work / "locales").items():
            folder = self.work / "condition"
            shutil.rmtree(folder, ignore_errors=True)
            result = run(folder, condition)
            assert result.returncode == 0, f"{name}: {result.stderr[-2000:]}"
            found = digests(folder)
            yield {
                "condition": name,
                "results": len(self.whole),
                "equal": sum(found.get(file) == digest for file, digest in self.whole.items()),
                "difference": largest_difference(self.reference, folder),
                "tolerance": condition.tolerance,
            }

    def fuzzing(self) -> Rows:
        """Read 2,000 damaged files by every reader, which counts them in docs/fuzz.json."""
        subprocess.run([sys.executable, str(Path(__file__).with_name("fuzz.py"))], check=True)
        yield from ()


_NAMES = {"driver": "the driver", "worker": "a worker", "kernel": "a kernel", "all": "all processes"}
_HOW = {"flip": "a bit flipped", "cut": "half cut off"}


def _fault(name: str) -> dict[str, Any]:
    return {"fault": name, "times": 0, "survived": 0, "lost": 0, "wrong": 0}


def _kill_when_there(process: subprocess.Popen, which: str, how: signal.Signals, orphans: list[psutil.Process]) -> bool:
    """Kill a process of a batch as soon as there is one of its kind; say whether there was before the batch ended."""
    while process.poll() is None:
        members = family(process)
        if kill(process, which, how):
            orphans += members
            return True
        time.sleep(0.1)
    return False


def _finish_and_count(root: Path, whole: dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
    """Run the study to its end and add to each row what is lost or wrong then; if anything is, nothing survived."""
    result = finish(root)
    lost, wrong = verdict(root, whole)
    for row in rows:
        row["lost"] += lost
        row["wrong"] += wrong
        row["survived"] *= result.returncode == 0 and not lost and not wrong


def _refused(root: Path, row: dict[str, Any]) -> None:
    result = finish(root)
    row["times"] += 1
    row["survived"] += result.returncode == 2 and "another batch is running" in result.stderr


PARTS = ("kills", "disk", "batches", "changes", "inputs", "determinism", "fuzzing")
#: writes the page alone, when `make fuzz` or `make mutation` counted anew
WRITE = "page"


def keep(part: str, row: dict[str, Any] | None, minutes: float) -> None:
    """Put a row of a part in the place of that of the same name in docs/reliability.json, and write the page."""
    content = json.loads(JSON.read_text(encoding="utf-8")) if JSON.is_file() else {}
    about = content.setdefault(part, {"rows": []})
    about |= {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cores": os.cpu_count(), "minutes": round(minutes, 1)}
    if row:
        rows = {next(iter(known.values())): known for known in about["rows"]}
        about["rows"] = list((rows | {next(iter(row.values())): row}).values())
    write_text(JSON, json.dumps(content, indent=1) + "\n")
    write_text(PAGE, page(content))


def main() -> int:
    """Run the parts and return 0 if nothing was lost, wrong or different."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, WRITE, []],
        metavar="PART",
        help=f"of {', '.join(PARTS)} (all if none is given); or {WRITE}",
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "pretrain-xai-soak"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    soak, good = Soak(options.work, options.seed), True
    if options.parts == [WRITE]:
        write_text(PAGE, page(json.loads(JSON.read_text(encoding="utf-8"))))
        return 0
    for part in options.parts or PARTS:
        started = time.monotonic()
        try:
            for row in getattr(soak, part)():
                keep(part, dict(row), (time.monotonic() - started) / 60)
                print(f"{part}: {row}", flush=True)
                good &= holds(row)
        except pytest.skip.Exception as reason:
            print(f"{part}: not done: {reason}", flush=True)
        else:
            keep(part, None, (time.monotonic() - started) / 60)
    print(f"wrote {PAGE}")
    return 0 if good else 1


def holds(row: dict[str, Any]) -> bool:
    """Return whether a row counts nothing that must not be."""
    if "condition" in row:
        return row["difference"] <= row["tolerance"] and (row["tolerance"] > 0 or row["equal"] == row["results"])
    return not row["lost"] and not row["wrong"] and row["survived"] == row["times"]


if __name__ == "__main__":
    sys.exit(main())
