"""Faults while a batch runs: nothing is lost, nothing is half, and the tables end as those of an uninterrupted run."""

import random
import signal
import time

import psutil
import pytest
from faults import digests, family, finish, kill, make_root, partial_files, remount, small_disk, start

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def whole(tiny_root) -> dict[str, str]:
    """Return the digests of an uninterrupted run."""
    return digests(tiny_root)


def test_kills_in_a_row_lose_nothing(tmp_path, whole):
    """One of each kind of process, with and without a chance to clean up; resumed at once, while orphans still run."""
    root, rng = make_root(tmp_path), random.Random(0)
    orphans: list[psutil.Process] = []
    rounds = [
        [("driver", signal.SIGKILL)],
        [("all", signal.SIGTERM)],
        [("worker", signal.SIGTERM), ("kernel", signal.SIGKILL)],  # the batch tries both jobs again
    ]
    for kills in rounds:
        process = start(root)
        for which, how in kills:
            time.sleep(rng.uniform(8, 16))
            orphans += family(process)
            while not kill(process, which, how):  # between two jobs there is none
                assert process.poll() is None, f"the batch ended before a {which} was seen"
                time.sleep(0.1)
        process.wait()
        assert partial_files(root, whole) == []
    first = root / "data" / "tiny" / "lesions.npz"
    time_made = first.stat().st_mtime_ns if first.is_file() else None
    result = finish(root)
    assert result.returncode == 0, result.stderr[-2000:]
    assert time_made in (None, first.stat().st_mtime_ns), "finished work is kept"
    psutil.wait_procs(orphans, timeout=60)  # kernels and drivers outlive the one that was killed
    assert digests(root) == whole


def test_a_full_disk_is_named_and_what_follows_is_the_same(tmp_path, whole):
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        root = make_root(disk)
        result = finish(root)
        assert result.returncode != 0
        assert "No space left on device" in result.stdout + result.stderr
        assert partial_files(root, whole) == []
        remount(disk, "size=2g")
        assert finish(root).returncode == 0
        assert digests(root) == whole


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        root = make_root(disk)
        remount(disk, "ro")
        result = finish(root)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert "read-only" in result.stderr.lower()
