"""A split is built in parts: the same bytes for any number of processes and after a kill, and no part twice."""

import dataclasses
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pretrain_xai import dataset, split_parts
from pretrain_xai.dataset import build_split
from pretrain_xai.lesions import generate_patches
from pretrain_xai.protocol import CORRECTED, PUBLISHED
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.slices.simulated import read_slices, simulate_cohort, simulate_participants, write_slices
from pretrain_xai.split_parts import read_rows

N_SLICES = 150
SETTINGS = Dataset(image_size=32)
PATCHES = generate_patches(6)


@pytest.fixture(scope="module")
def slices_folder(tmp_path_factory) -> Path:
    """Return a folder of 150 slices."""
    folder = tmp_path_factory.mktemp("slices")
    people = simulate_participants({"train": 15}, np.random.default_rng(0))
    write_slices(folder, simulate_cohort(people, 10, (0.0, 30.0), seed=0), N_SLICES)
    return folder


@pytest.fixture(scope="module")
def whole(slices_folder, tmp_path_factory) -> dict[str, bytes]:
    """Return the files of a build in one go."""
    folder = tmp_path_factory.mktemp("whole")
    build(folder, slices_folder)
    return contents(folder)


def build(folder: Path, slices_folder: Path, protocol=CORRECTED, settings=SETTINGS, workers: int = 1) -> None:
    slices, table = read_slices(slices_folder)
    build_split(folder, slices, table, PATCHES, 0, settings, protocol, workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def counted(monkeypatch) -> list[int]:
    """Return a list that grows by the first image of every part that is laid."""
    starts: list[int] = []
    real = dataset._build_part
    monkeypatch.setattr(dataset, "_build_part", lambda *given: (starts.append(given[-1]), real(*given)))
    return starts


def test_the_bytes_are_the_same_for_any_number_of_processes(slices_folder, tmp_path):
    build(tmp_path / "one", slices_folder, PUBLISHED)
    build(tmp_path / "two", slices_folder, PUBLISHED, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert set(contents(tmp_path / "one")) == {
        "images.npy",
        "strength.npy",
        "images.csv",
        "lesions.csv",
        "thumbnails.npy",
    }


def test_parts_are_joined_in_order(slices_folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(split_parts, "PART", 7)
    build(tmp_path / "pieces", slices_folder)
    assert contents(tmp_path / "pieces") == whole


def test_an_interrupted_build_lays_no_part_twice(slices_folder, whole, tmp_path, monkeypatch):
    real = dataset._build_part

    def fail_at(recipe, store, part, slices, start):
        if start >= 128:
            raise KeyboardInterrupt
        real(recipe, store, part, slices, start)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "_build_part", fail_at)
        build(tmp_path / "cut", slices_folder)
    assert not (tmp_path / "cut" / "images.npy").exists()
    starts = counted(monkeypatch)
    build(tmp_path / "cut", slices_folder)
    assert starts == [128]
    assert contents(tmp_path / "cut") == whole


@pytest.mark.parametrize(
    ("changed", "again"), [("settings", [0, 64, 128]), ("protocol", [0, 64, 128]), ("slices", [128])]
)
def test_parts_of_another_dataset_are_thrown_away(changed, again, slices_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(split_parts.PartStore, "columns", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        build(tmp_path / "cut", slices_folder)
    settings, protocol = SETTINGS, CORRECTED
    if changed == "settings":
        settings = SETTINGS.model_copy(update={"lesion_intensity": 0.6})
    elif changed == "protocol":
        protocol = dataclasses.replace(CORRECTED, lesion_floor=0.1)
    else:
        slices = np.load(slices_folder / "slices.npy")
        slices[140] *= 0.99
        slices_folder = shutil.copytree(slices_folder, tmp_path / "slices")
        np.save(slices_folder / "slices.npy", slices)
    starts = counted(monkeypatch)
    build(tmp_path / "cut", slices_folder, protocol, settings)
    assert starts == again
    build(tmp_path / "whole", slices_folder, protocol, settings)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from pretrain_xai.split_parts import PartStore
from test_split_parts import build
put = PartStore.put
def put_then_die(self, start, *given):
    put(self, start, *given)
    if start == 64:
        os.kill(os.getpid(), signal.SIGKILL)
PartStore.put = put_then_die
build(Path({folder!r}), Path({slices!r}))
"""


def test_a_killed_build_goes_on_in_another_process(slices_folder, whole, tmp_path, monkeypatch):
    program = PROGRAM.format(
        tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"), slices=str(slices_folder)
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    starts = counted(monkeypatch)
    build(tmp_path / "killed", slices_folder)
    assert starts == [128]
    assert contents(tmp_path / "killed") == whole


def test_rows_of_a_memory_mapped_file_are_those_of_the_array(slices_folder):
    slices = np.load(slices_folder / "slices.npy", mmap_mode="r")
    rows = pd.Index([3, 149, 4])
    for source in (slices, slices[:], np.array(slices), slices[1:]):
        expected = np.array(source)[rows[rows < len(source)]]
        assert np.array_equal(read_rows(source, rows[rows < len(source)]), expected)
