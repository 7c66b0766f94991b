"""A dataset's bytes, and its audit, which passes on a sound one and goes red for each flaw of the released code."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from pretrain_xai import dataset
from pretrain_xai.audit import AuditError, assert_passed, audit_splits, probe_accuracy
from pretrain_xai.dataset import build_splits, read_lesion_free, read_split
from pretrain_xai.errors import UserError
from pretrain_xai.lesions import LesionPatch, generate_patches
from pretrain_xai.overlay import OverlayError, clean_at_model_resolution
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.slices.template import simulate_cohort, simulate_participants
from scipy.stats import binomtest

SHARES = {"train": 8, "validation": 6, "test": 6}
SUBJECTS = {"train": 30, "validation": 10, "test": 10}
SETTINGS = Dataset(image_size=48, lesion_intensity=0.9)


@pytest.fixture(scope="module")
def given():
    """Return 500 slices of 50 subjects, their table, and the patches."""
    participants = simulate_participants(SUBJECTS, np.random.default_rng(0))
    slices, tables = zip(*simulate_cohort(participants, 10, (0.0, 30.0), seed=0), strict=True)
    patches = generate_patches(sum(SHARES.values()))
    return np.concatenate(slices), pd.concat(tables, ignore_index=True), patches


@pytest.fixture(scope="module")
def sound(tmp_path_factory, given):
    """Return the folder of a corrected dataset and the patches of each split."""
    folder = tmp_path_factory.mktemp("sound")
    return folder, build_splits(folder, *given, SHARES, SETTINGS, CORRECTED)


def contents(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_bytes_are_the_same_for_any_source_number_of_processes_and_slices(tmp_path, given, sound, monkeypatch):
    np.save(tmp_path / "slices.npy", given[0])
    slices = np.load(tmp_path / "slices.npy", mmap_mode="r")
    build_splits(tmp_path / "two", slices, *given[1:], SHARES, SETTINGS, CORRECTED, workers=2)
    monkeypatch.setattr(dataset, "PART", 7)
    build_splits(tmp_path / "sevens", slices[:], *given[1:], SHARES, SETTINGS, CORRECTED)
    assert contents(tmp_path / "two") == contents(tmp_path / "sevens") == contents(sound[0])
    names = {split: {file.name for file in (tmp_path / "two" / split).iterdir()} for split in SUBJECTS}
    assert names["train"] == {"images.npy", "strength.npy", "images.csv", "lesions.csv", "thumbnails.npy"}
    assert names["test"] == names["train"] | {"clean.npy", "twins.npy", "twin_strength.npy"}


def test_a_share_of_the_slices_that_networks_learn_from_has_no_lesion_and_a_coin_for_a_class(tmp_path, given, sound):
    pools = build_splits(tmp_path, *given, SHARES, SETTINGS, CORRECTED)
    for split in SUBJECTS:
        found, before = (read_split(folder / split) for folder in (tmp_path, sound[0]))
        bare = found.table["n_lesions"].to_numpy() == 0
        assert bare.sum() == 0 if split == "test" else binomtest(bare.sum(), len(bare), 0.25).pvalue > 0.01
        # all else is as it was, the classes too
        assert found.table["label"].equals(before.table["label"])
        np.testing.assert_array_equal(found.images[~bare], before.images[~bare])
        np.testing.assert_array_equal(found.masks[~bare], before.masks[~bare])
        assert not found.masks[bare].any()
        kept = pd.read_csv(tmp_path / split / "lesions.csv").groupby("image")["order"].max() + 1
        assert kept.equals(found.table.set_index("image_index").query("n_lesions > 0")["n_lesions"].rename("order"))
        clean = [clean_at_model_resolution(given[0][i], 48, 0.7) for i in found.table["slice_index"]]
        np.testing.assert_array_equal(found.images[bare], np.array(clean)[bare])
    lesion_free = read_lesion_free(tmp_path / "test")  # the last of the splits
    np.testing.assert_array_equal(lesion_free.images, clean)
    np.testing.assert_array_equal(lesion_free.labels, found.labels)
    assert_passed(audit_splits(tmp_path, pools, seed=0))


def test_a_killed_build_leaves_nothing_that_counts_and_is_built_again(tmp_path, given, sound, monkeypatch):
    def build():
        build_splits(tmp_path, *given, SHARES, SETTINGS, CORRECTED)

    def lay_or_die(slice_, row, *others, lay=dataset._lay):
        return os.kill(os.getpid(), signal.SIGKILL) if row["seed"] == 200 else lay(slice_, row, *others)

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_lay", lay_or_die)
        child = multiprocessing.get_context("fork").Process(target=build)
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert all(name.startswith("train/.") for name in contents(tmp_path))
    build()
    assert contents(tmp_path) == contents(sound[0])


def test_every_image_depends_on_its_own_slice_only(tmp_path, given, sound):
    """The first images of a longer split equal those of a shorter one, to the bit."""
    slices, table, patches = given
    build_splits(tmp_path, slices, table.groupby("split").head(20), patches, SHARES, SETTINGS, CORRECTED)
    for split in SHARES:
        long_split, short_split = (read_split(folder / split) for folder in (sound[0], tmp_path))
        for name in ("images", "masks", "labels"):
            np.testing.assert_array_equal(getattr(long_split, name)[:20], getattr(short_split, name)[:])


def test_twins_of_the_test_images_are_stored_as_they_are_seen_and_ground_truths_are_of_both(sound):
    test = read_split(sound[0] / "test", with_twins=True)
    truths = test.ground_truths(np.arange(len(test)))
    equal = test.images == test.twins
    assert (equal | (truths.strength > 0) | (truths.twin_strength > 0)).all() and not equal.all(axis=(1, 2)).any()
    np.testing.assert_array_equal(truths.difference, np.abs(test.images - test.twins))
    masks = {name: truths.masks(name, 0.5) for name in ("lesion", "union", "boundary", "difference")}
    np.testing.assert_array_equal(masks["lesion"], test.masks[:])
    assert (masks["union"] >= masks["lesion"]).all() and (masks["union"] > masks["lesion"]).any()
    np.testing.assert_array_equal(masks["difference"], masks["lesion"])
    with pytest.raises(UserError, match=r"twins.npy is missing"):
        read_split(sound[0] / "train", with_twins=True)


def test_images_equal_the_lesion_free_slices_away_from_lesions(given, sound):
    test = read_split(sound[0] / "test")
    for image, mask, row in zip(test.images, test.masks[:], test.table["slice_index"], strict=True):
        clean = clean_at_model_resolution(given[0][row], SETTINGS.image_size, SETTINGS.brain_intensity)
        assert (image >= clean - 1e-6).all(), "lesions only brighten"
        assert (image - clean)[mask].min() > 0.05, "every mask pixel is brightened"
        assert 0 < mask.mean() < 0.2


def test_a_slice_whose_lesions_vanish_is_an_error_that_names_it(tmp_path, given):
    with pytest.raises(OverlayError, match=r"slice \d+ \(sub-\d+\): no pixel of 32 x 32 shows a lesion"):
        faint = {name: [LesionPatch(np.pad(np.eye(2), 9), 1.0)] * 20 for name in given[2]}
        build_splits(tmp_path, *given[:2], faint, SHARES, Dataset(image_size=32), CORRECTED)


def failed(folder, pools) -> set[str]:
    """Return the checks that a dataset does not pass; the error names each."""
    audit = audit_splits(folder, pools, seed=0)
    checks = set(audit["check"][~audit["passed"]])
    with pytest.raises(AuditError) if checks else nullcontext() as error:
        assert_passed(audit)
    assert all(check in str(error.value) for check in checks)
    return checks


def test_a_sound_dataset_passes(sound):
    assert failed(*sound) == set()


@pytest.mark.parametrize(
    ("flaw", "check"),
    [
        ({"lesion_floor": 0.1}, "difference outside the lesions"),
        ({"round_never_shuffled": True}, "patch usage (train)"),
        ({"shared_seed": True}, "class from lesion positions"),
        ({"shared_patch_pool": True}, "patches in two splits"),
    ],
)
def test_each_flaw_turns_the_audit_red(tmp_path, given, flaw, check):
    protocol = dataclasses.replace(CORRECTED, **flaw)
    assert check in failed(tmp_path, build_splits(tmp_path, *given, SHARES, SETTINGS, protocol))


def test_subjects_in_two_splits_and_brains_that_tell_the_class_turn_the_audit_red(tmp_path, sound):
    """Brains of irregular slices are a little brighter, which no lesion explains."""
    folder, pools = sound
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for split in pools:
        table = read_split(folder / split).table
        table.assign(subject=table["subject"].replace("sub-0050", "sub-0001")).to_csv(tmp_path / split / "images.csv")
        brighter = np.load(folder / split / "thumbnails.npy") * (1 + 0.1 * table["label"].to_numpy()[:, None])
        np.save(tmp_path / split / "thumbnails.npy", brighter)
    assert failed(tmp_path, pools) == {"subjects in two splits", "class from lesion-free slices"}


def test_the_probe_stays_below_its_bound_on_noise_and_above_on_signal():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    below = [np.less_equal(*probe_accuracy(rng.normal(size=(400, 10)), labels, rng)) for _ in range(20)]
    assert np.mean(below) >= 0.9
    accuracy, bound = probe_accuracy(rng.normal(size=(400, 10)) + 0.5 * labels[:, None], labels, rng)
    assert accuracy > bound


def test_slices_without_room_for_corners_are_left_out_and_the_others_stay(tmp_path, given, caplog):
    """The released code would never end on them."""
    slices, table, patches = given
    first = table.index[table["split"] == "test"][0]
    small = np.array(slices)
    small[first] *= np.pad(np.ones((45, 45)), ((60, small.shape[1] - 105), (50, small.shape[2] - 95)))
    corners = dataclasses.replace(CORRECTED, corner_placement=True)
    for name, images in (("whole", slices), ("small", small)):
        build_splits(tmp_path / name, images, table, patches, SHARES, SETTINGS, corners)
    assert "of 100 slices have no room" in caplog.text
    assert (tmp_path / "whole" / "test" / "clean.npy").is_file()
    assert not list(tmp_path.rglob("twin*.npy")), "there are no twins"
    whole, fewer = (read_split(tmp_path / name / "test") for name in ("whole", "small"))
    kept = whole.table["slice_index"] != first
    assert len(fewer) == kept.sum() == len(whole) - 1
    assert fewer.table["seed"].tolist() == whole.table.loc[kept, "seed"].tolist()
    np.testing.assert_array_equal(fewer.images, whole.images[kept])
    with pytest.raises(OverlayError, match=r"slice \d+ \(sub-\d+\): .*leave this slice out"):
        build_splits(tmp_path / "corrected", small, table, patches, SHARES, SETTINGS, CORRECTED)
