"""Lesion-free slices: brains in range, repeatable subjects, and whole files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.slices.sources import read_slices
from pretrain_xai.slices.template import DARKEST_BRAIN, load_template, simulate_cohort, simulate_participants
from pretrain_xai.tables import TableError, growing_array

Z_RANGE = (0.0, 30.0)


def cohort_of(participants: pd.DataFrame, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    slices, rows = zip(*simulate_cohort(participants, 2, Z_RANGE, seed), strict=True)
    return np.concatenate(slices), pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def participants() -> pd.DataFrame:
    return simulate_participants({"train": 4, "validation": 2, "test": 3}, np.random.default_rng(0))


@pytest.fixture(scope="module")
def cohort(participants) -> tuple[np.ndarray, pd.DataFrame]:
    return cohort_of(participants)


@given(st.dictionaries(st.sampled_from(["train", "validation", "test", "pretraining"]), st.integers(1, 40), min_size=1))
def test_splits_are_disjoint_and_have_as_many_women_as_men(subjects):
    table = simulate_participants(subjects, np.random.default_rng(0))
    assert table["participant_id"].is_unique
    assert table["split"].value_counts().to_dict() == subjects
    for split, rows in table.groupby("split"):
        sexes = rows["sex"].value_counts().reindex(["F", "M"], fill_value=0)
        assert abs(sexes["F"] - sexes["M"]) == subjects[split] % 2
    assert table["age"].between(22, 36).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_brains(participants, cohort):
    slices, table = cohort
    again, table_again = cohort_of(participants.head(2))
    assert again.tobytes() == slices[:4].tobytes(), "a longer participants table repeats the subjects of a shorter one"
    pd.testing.assert_frame_equal(table_again, table.head(4))
    other, other_table = cohort_of(participants.head(2), seed=1)
    assert not set(other_table["z"]) & set(table["z"])
    brains = [*slices[::2], *other[::2]]
    assert all((one != two).mean() > 0.2 for i, one in enumerate(brains) for two in brains[:i])


def test_every_slice_has_its_subjects_row(participants, cohort):
    slices, table = cohort
    assert len(slices) == len(table) == 18
    known = participants.set_index("participant_id")
    for name in ("sex", "age", "split"):
        assert (known.loc[table["subject"], name].to_numpy() == table[name].to_numpy()).all()
    assert table["z"].between(*Z_RANGE).all()
    heights = table["z"].to_numpy().reshape(-1, 2)
    np.testing.assert_allclose(np.diff(heights), 15)
    assert len(np.unique(heights[:, 0])) == len(participants)


def test_background_is_exactly_0_and_brain_above_it_and_nothing_is_cut_off(cohort):
    slices, _ = cohort
    assert slices.dtype == np.float32
    assert slices.shape[1:] == load_template()[2][2:]
    assert slices.min() == 0 and slices.max() <= 1
    brain = slices > 0
    assert slices[brain].min() >= np.float32(DARKEST_BRAIN)
    assert ((brain.mean(axis=(1, 2)) > 0.3) & (brain.mean(axis=(1, 2)) < 0.8)).all()
    for edge in (slices[:, 0], slices[:, -1], slices[:, :, 0], slices[:, :, -1]):
        assert not edge.any()
    assert brain[:, slices.shape[1] // 2, 30:-30].mean() > 0.9


def test_the_same_subject_has_a_larger_brain_as_a_man(participants):
    areas = {sex: (cohort_of(participants.head(4).assign(sex=sex))[0] > 0).sum(axis=(1, 2)) for sex in ("F", "M")}
    ratio = areas["M"] / areas["F"]
    assert ratio.mean() > 1.02
    assert (ratio > 1).mean() >= 0.75


def test_the_middle_of_an_older_brain_is_wider(participants):
    """The ventricles are dark: the darker the middle, the wider they are."""
    middle = {}
    for age in (22, 36):
        slices, _ = cohort_of(participants.head(4).assign(age=age))
        height, width = slices.shape[1:]
        middle[age] = slices[:, height // 2 - 20 : height // 2 + 20, width // 2 - 20 : width // 2 + 20].mean()
    assert middle[36] < middle[22]


def write_small(folder: Path) -> None:
    with growing_array(folder / "slices.npy") as add:
        for number, count in enumerate((2, 3)):
            add(np.full((count, 2, 3), number))
    (folder / "slices.csv").write_text("subject\n" + 5 * "sub-1\n")


def test_an_array_grows_as_numpy_writes_it_and_an_error_leaves_nothing(tmp_path):
    write_small(tmp_path)
    np.save(tmp_path / "whole.npy", np.repeat(np.float32([0, 1]), [2, 3])[:, None, None] * np.ones((2, 3), np.float32))
    assert (tmp_path / "slices.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with pytest.raises(OSError, match="broken"), growing_array(tmp_path / "new" / "slices.npy") as add:
        add(np.ones((2, 2, 3)))
        raise OSError("broken")
    assert list((tmp_path / "new").iterdir()) == []


def test_slices_and_rows_of_different_numbers_are_an_error(tmp_path):
    write_small(tmp_path)
    with (tmp_path / "slices.csv").open("a") as table:
        table.write("sub-9\n")
    with pytest.raises(TableError, match=r"slices\.npy has 5 rows, slices\.csv 6"):
        read_slices(tmp_path)


@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_cut_or_missing_file_of_slices_is_an_error_that_names_it(tmp_path, kept):
    write_small(tmp_path)
    content = (tmp_path / "slices.npy").read_bytes()
    (tmp_path / "slices.npy").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(TableError, match=r"slices\.npy can't be read"):
        read_slices(tmp_path)
    for name in ("slices.npy", "slices.csv"):
        (tmp_path / name).unlink()
        with pytest.raises(TableError, match=name):
            read_slices(tmp_path)
