"""The audit passes on a sound dataset and goes red for each flaw of the released code."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai import dataset
from pretrain_xai.audit import AuditError, assert_passed, audit_splits, probe_accuracy
from pretrain_xai.dataset import build_splits, read_split
from pretrain_xai.lesions import generate_patches
from pretrain_xai.overlay import OverlayError, clean_at_model_resolution, to_model_resolution
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.settings.sections import Dataset
from pretrain_xai.slices.simulated import simulate_cohort, simulate_participants

SHARES = {"train": 8, "validation": 6, "test": 6}
SUBJECTS = {"train": 30, "validation": 10, "test": 10}
SETTINGS = Dataset(image_size=48, lesion_intensity=0.9)


@pytest.fixture(scope="module")
def cohort():
    """Return 500 slices of 50 subjects and their table."""
    participants = simulate_participants(SUBJECTS, np.random.default_rng(0))
    slices, tables = zip(*simulate_cohort(participants, 10, (0.0, 30.0), seed=0), strict=True)
    return np.concatenate(slices), pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def patches():
    return generate_patches(sum(SHARES.values()))


def audited(tmp_path, cohort, patches, protocol=CORRECTED) -> pd.DataFrame:
    slices, table = cohort
    pools = build_splits(tmp_path, slices, table, patches, SHARES, SETTINGS, protocol)
    return audit_splits(tmp_path, pools, seed=0).set_index("check")


def failed(audit: pd.DataFrame) -> set[str]:
    return set(audit.index[~audit["passed"]])


def test_a_sound_dataset_passes(tmp_path, cohort, patches):
    audit = audited(tmp_path, cohort, patches)
    assert failed(audit) == set()
    assert_passed(audit.reset_index())
    assert audit.loc["difference outside the lesions", "value"] <= 1e-6


@pytest.mark.parametrize(
    ("flaw", "check"),
    [
        ({"lesion_floor": 0.1}, "difference outside the lesions"),
        ({"round_never_shuffled": True}, "patch usage (train)"),
        ({"shared_seed": True}, "class from lesion positions"),
        ({"shared_patch_pool": True}, "patches in two splits"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_flaw_turns_the_audit_red(tmp_path, cohort, patches, flaw, check):
    audit = audited(tmp_path, cohort, patches, dataclasses.replace(CORRECTED, **flaw))
    assert check in failed(audit)
    with pytest.raises(AuditError, match=check.replace("(", r"\(").replace(")", r"\)")):
        assert_passed(audit.reset_index())


def test_brains_that_tell_the_class_turn_the_audit_red(tmp_path, cohort, patches):
    """Brains of irregular slices are a little brighter, which no lesion explains."""
    slices, table = cohort
    pools = build_splits(tmp_path, slices, table, patches, SHARES, SETTINGS, CORRECTED)
    for split in pools:
        labels = read_split(tmp_path / split).labels
        thumbnails = np.load(tmp_path / split / "thumbnails.npy")
        np.save(tmp_path / split / "thumbnails.npy", thumbnails * (1 + 0.1 * labels[:, None]))
    assert failed(audit_splits(tmp_path, pools, seed=0).set_index("check")) == {"class from lesion-free slices"}


def test_subjects_in_two_splits_turn_the_audit_red(tmp_path, cohort, patches):
    slices, table = cohort
    mixed = table.assign(subject=table["subject"].replace("sub-0050", "sub-0001"))
    assert "subjects in two splits" in failed(audited(tmp_path, (slices, mixed), patches))


def test_the_probe_stays_below_its_bound_on_noise_and_above_on_signal():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    noise = rng.normal(size=(400, 10))
    below = [np.less_equal(*probe_accuracy(rng.normal(size=(400, 10)), labels, rng)) for _ in range(20)]
    assert np.mean(below) >= 0.9
    accuracy, bound = probe_accuracy(noise + 0.5 * labels[:, None], labels, rng)
    assert accuracy > bound


def test_every_image_depends_on_its_own_slice_only(tmp_path, cohort, patches):
    """The first images of a longer split equal those of a shorter one, to the bit."""
    slices, table = cohort
    build_splits(tmp_path / "all", slices, table, patches, SHARES, SETTINGS, CORRECTED)
    short = table.groupby("split").head(20)
    build_splits(tmp_path / "short", slices, short, patches, SHARES, SETTINGS, CORRECTED)
    for split in SHARES:
        long_split, short_split = (read_split(tmp_path / name / split) for name in ("all", "short"))
        for name in ("images", "masks", "labels"):
            np.testing.assert_array_equal(getattr(long_split, name)[:20], getattr(short_split, name)[:])


def test_images_equal_the_lesion_free_slices_away_from_lesions(tmp_path, cohort, patches):
    slices, table = cohort
    build_splits(tmp_path, slices, table, patches, SHARES, SETTINGS, CORRECTED)
    test = read_split(tmp_path / "test")
    for image, mask, row in zip(test.images, test.masks[:], test.table["slice_index"], strict=True):
        clean = clean_at_model_resolution(slices[row], SETTINGS.image_size, SETTINGS.brain_intensity)
        assert (image >= clean - 1e-6).all(), "lesions only brighten"
        assert (image - clean)[mask].min() > 0.05, "every mask pixel is brightened"
        assert 0 < mask.mean() < 0.2


def test_a_slice_whose_lesions_vanish_is_an_error_that_names_it(tmp_path, cohort, patches, monkeypatch):
    def fade(overlay, size):
        image, strength, clean, support = to_model_resolution(overlay, size)
        return image, 0.4 * strength, clean, support

    monkeypatch.setattr(dataset, "to_model_resolution", fade)
    with pytest.raises(OverlayError, match=r"slice \d+ \(sub-\d+\): no pixel of 48 x 48 shows a lesion"):
        audited(tmp_path, cohort, patches)


def test_slices_without_room_for_corners_are_left_out_and_the_others_stay(tmp_path, cohort, patches, caplog):
    """The released code would never end on them."""
    slices, table = cohort
    first = table.index[table["split"] == "test"][0]
    small = np.array(slices)
    small[first] *= np.pad(np.ones((45, 45)), ((60, small.shape[1] - 105), (50, small.shape[2] - 95)))
    corners = dataclasses.replace(CORRECTED, corner_placement=True)
    for name, images in (("whole", slices), ("small", small)):
        build_splits(tmp_path / name, images, table, patches, SHARES, SETTINGS, corners)
    assert "of 100 slices have no room" in caplog.text
    whole, fewer = (read_split(tmp_path / name / "test") for name in ("whole", "small"))
    kept = whole.table["slice_index"] != first
    assert len(fewer) == kept.sum() == len(whole) - 1
    assert fewer.table["seed"].tolist() == whole.table.loc[kept, "seed"].tolist()
    np.testing.assert_array_equal(fewer.images, whole.images[kept])
    with pytest.raises(OverlayError, match="leave this slice out"):
        build_splits(tmp_path / "corrected", small, table, patches, SHARES, SETTINGS, CORRECTED)
