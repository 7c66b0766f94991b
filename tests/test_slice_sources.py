"""Slices of real brains: every source gives the same files, streamed, and says what it left out."""

import contextlib
import pickle
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from damage import DAMAGE, damaged
from hypothesis import given
from mri_cohort import reason
from pretrain_xai.errors import UserError
from pretrain_xai.overlay import clean_at_model_resolution
from pretrain_xai.plan import peak_memory
from pretrain_xai.settings.slices import Arrays, Nifti, Pickle
from pretrain_xai.slices import reading
from pretrain_xai.slices.files import SourceError, find_files, source_folder, source_state
from pretrain_xai.slices.reading import read_arrays, read_slice_pickle, slice_problem
from pretrain_xai.slices.sources import REJECTED_COLUMNS, make_slices, read_slices, rejection_counts, slice_quality

SPLITS = {"pretraining": 6, "pretraining_validation": 4, "train": 6, "validation": 2, "test": 2}
SUBJECTS = [f"{number:02d}" for number in range(1, 21)]


def brain(height: int, width: int, number: int) -> np.ndarray:
    """Return a slice with a brain of 10 x 8 pixels, whose values tell its number."""
    slice_ = np.zeros((height, width))
    top, left = (height - 10) // 2, (width - 8) // 2
    slice_[top : top + 10, left : left + 8] = np.arange(80).reshape(10, 8) + 100 * number + 1
    return slice_


def participants(folder: Path, subjects=SUBJECTS) -> None:
    rows = [f"sub-{name}\t{'FM'[int(name) % 2]}\t{20 + int(name)}\t{'xyz'[int(name) % 3]}" for name in subjects]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tsex\tage\tsite", *rows]) + "\n")


def volume(path: Path, number: int, height: int = 20, width: int = 16) -> None:
    """Write a volume of six slices, two of them empty."""
    data = np.stack([brain(height, width, number) * (0 < z < 5) for z in range(6)])[:, ::-1].transpose(2, 1, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.int16), np.diag([1.0, 1, 3, 1])), path)


def settings(**changed) -> Nifti:
    defaults = {"folder": "mri", "pattern": "sub-{subject}/**/*.nii.gz", "subjects": SPLITS, "source": "nifti"}
    return Nifti(**(defaults | changed))


@pytest.fixture
def mri(root) -> Path:
    """Return a BIDS folder with twenty small brains, two of them in sessions of their own."""
    folder = root / "mri"
    for number, name in enumerate(SUBJECTS):
        for session in ("a", "b") if number < 2 else ("",):
            volume(folder / f"sub-{name}" / session / "anat" / f"sub-{name}_T1w.nii.gz", number)
    participants(folder)
    return folder


def made(folder: Path, settings, target: str = "sex") -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Make the slices; return them, their table, and what was rejected."""
    rejected = make_slices(folder, settings, target)
    return *read_slices(folder), rejected


def assert_brains(slices: np.ndarray, numbers) -> None:
    """Check that slices are the brains of these numbers, in the middle."""
    for slice_, number in zip(slices, numbers, strict=True):
        expected = brain(*slice_.shape, number)
        np.testing.assert_allclose(slice_, expected / expected.max(), rtol=1e-6)


def numbers_of(table: pd.DataFrame) -> pd.Series:
    return table["subject"].str[-2:].astype(int) - 1


def test_a_bids_folder_gives_slices_with_their_subjects_in_disjoint_splits(mri, tmp_path):
    slices, table, rejected = made(tmp_path / "out", settings())
    assert slices.dtype == np.float32 and slices.shape == (22 * 4, 20, 16) and rejected.empty
    people = pd.read_csv(tmp_path / "out" / "participants.csv")
    assert people["split"].value_counts().to_dict() == SPLITS
    assert people["participant_id"].is_unique and table.groupby("subject")["split"].nunique().max() == 1
    assert_brains(slices, numbers_of(table))
    assert (table["sex"] == numbers_of(table).map(lambda number: "MF"[number % 2])).all()
    assert (table["age"] == 21 + numbers_of(table)).all() and set(table["z"]) == {3, 6, 9, 12}
    assert all(file.startswith(subject) for file, subject in zip(table["file"], table["subject"], strict=True))
    make_slices(tmp_path / "again", settings(), "sex")
    for path in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), "the same bytes again"


def test_broken_files_are_listed_and_replaced_by_subjects_that_are_left_over(mri, tmp_path):
    (mri / "sub-05/anat/sub-05_T1w.nii.gz").write_bytes(b"no brain")
    packed = (mri / "sub-06/anat/sub-06_T1w.nii.gz").read_bytes()
    (mri / "sub-06/anat/sub-06_T1w.nii.gz").write_bytes(packed[: len(packed) // 2])
    volume(mri / "sub-99" / "sub-99_T1w.nii.gz", 0)
    counts = SPLITS | {"pretraining": 4}
    rejected = make_slices(tmp_path / "out", settings(subjects=counts), "sex").set_index("subject")
    assert set(rejected.index) <= {"sub-05", "sub-06", "sub-99"} and {"sub-05", "sub-99"} <= set(rejected.index)
    assert "Not a gzipped file" in rejected.loc["sub-05", "reason"]
    assert "not in the table of participants" in rejected.loc["sub-99", "reason"]
    assert "sub-06" not in rejected.index or "ended before" in rejected.loc["sub-06", "reason"]
    people = pd.read_csv(tmp_path / "out" / "participants.csv")
    assert people["split"].value_counts().to_dict() == counts
    assert (rejected.reset_index().columns == ["subject", "file", "z", "reason"]).all()


def test_without_reserve_a_split_gets_smaller_and_nothing_else_changes(mri, tmp_path):
    make_slices(tmp_path / "out", settings(), "sex")
    whole = pd.read_csv(tmp_path / "out" / "participants.csv")
    lost = whole.query("split == 'train'")["participant_id"].iloc[0]
    for file in mri.glob(f"{lost}/**/*.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(np.full((16, 20, 6), np.nan, np.float32), np.eye(4)), file)
    assert made(tmp_path / "out", settings())[2]["subject"].unique().tolist() == [lost]
    left = pd.read_csv(tmp_path / "out" / "participants.csv")
    pd.testing.assert_frame_equal(left, whole.query("participant_id != @lost").reset_index(drop=True))


def test_another_column_can_be_the_target(mri, tmp_path):
    _, table, _ = made(tmp_path / "out", settings(), "site")
    assert set(table["site"]) == {"x", "y", "z"}
    assert table.query("split == 'pretraining'")["site"].nunique() == 3
    text = (mri / "participants.tsv").read_text()
    (mri / "participants.tsv").write_text(text.replace("\tx\n", "\tn/a\n"))
    _, _, rejected = made(tmp_path / "out", settings(subjects={split: 0.2 for split in SPLITS}), "site")
    assert rejected["reason"].str.contains("has no site").all() and len(rejected) == 6


IMPOSSIBLE = [
    ({"folder": "absent"}, "sex", "slices.folder: .*absent is missing .*; set it to where the MRI lies"),
    ({"pattern": "{subject}.nii"}, "sex", r"no file fits the pattern '\{subject\}\.nii'; in the folder .*sub-01"),
    ({"subjects": {"train": 21}}, "sex", "asks for 21 subjects, but only 20 can be used"),
    ({"z_range": [100.0, 200.0]}, "sex", r"no slice is left .*\(22 files .*rejected, such as .*no slice from 100"),
    ({"shape": [16, 16], "pattern": "sub-0{subject}/**/*.gz"}, "sex", "only 0 can be used"),
    ({}, "group", r"one column 'group' is expected"),
]


@pytest.mark.parametrize(("changed", "target", "words"), IMPOSSIBLE)
def test_what_can_not_work_is_one_line_and_writes_nothing(mri, tmp_path, changed, target, words):
    with pytest.raises(SourceError, match=words) as error:
        make_slices(tmp_path / "out", settings(**changed), target)
    assert "\n" not in str(error.value)
    assert list(tmp_path.glob("out/*")) == []


def test_brains_of_several_shapes_are_centred_in_the_largest(mri, tmp_path):
    volume(mri / "sub-07/anat/sub-07_T1w.nii.gz", 6, height=31, width=14)
    slices, table, _ = made(tmp_path / "out", settings())
    assert slices.shape[1:] == (31, 16)
    assert_brains(slices, numbers_of(table))
    slices, _, rejected = made(tmp_path / "out", settings(shape=[16, 24]))
    assert rejected.empty and slices.shape[1:] == (16, 24)


def test_a_common_shape_cuts_no_brain_and_moves_nothing_without_need():
    slices = np.stack([np.eye(6), np.eye(6)])
    assert reading.common_shape({(6, 6)}, None) is None and reading.centred(slices, None) is slices
    framed = reading.centred(slices[:, 1:5], reading.common_shape({(6, 6), (4, 9)}, None))
    assert framed.shape == (2, 6, 9) and framed.sum() == 8
    with pytest.raises(SourceError, match=r"brain of 6 x 6 pixels does not fit into slices\.shape"):
        reading.centred(slices, reading.common_shape({(6, 6)}, [5, 9]))


def test_networks_see_the_same_image_as_of_the_raw_values():
    for slice_ in (brain(40, 36, 3), brain(40, 36, 3) * 1e-3, brain(40, 36, 3) * 1e6):
        slices, _, _ = reading.cut(slice_[None], np.zeros(1), 0.0)
        seen, raw = (clean_at_model_resolution(image, 32, 0.7) for image in (slices[0], slice_))
        np.testing.assert_allclose(seen, raw, atol=1e-6)


def test_slices_that_can_not_carry_lesions_are_told():
    good = brain(20, 16, 1)
    assert slice_problem(good, 0.2) is None
    assert "brain share 0.250, at least 0.3" in slice_problem(good, 0.3)
    assert "brain share 0.000" in slice_problem(good * 0, 0.0)
    assert "value 1" in slice_problem((good > 0) * 1, 0.1)
    assert "not skull-stripped" in slice_problem(good + 1, 0.1)
    assert "1 of 320 pixels are not finite" in slice_problem(np.where(good == 101, np.nan, good), 0.1)
    _, z, rejected = reading.cut(np.stack([good, good * 0, good]), np.array([1.0, 2.0, 3.0]), 0.1)
    assert z.tolist() == [1, 3] and list(rejected) == [2]


def test_patterns_find_what_they_say(tmp_path):
    names = ["1/T1w/x.nii", "1/x.nii", "2/T1w/x.nii", "2/b/T1w/x.nii"]
    for name in [*names, "3/T1w/y.nii", "s[1].nii", "s1.nii", ".4/T1w/x.nii", "5/5_6/5.nii"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for pattern, found in (
        ("{subject}/T1w/x.nii", {"1/T1w/x.nii": {"subject": "1"}, "2/T1w/x.nii": {"subject": "2"}}),
        ("3/T1w/{kind}.nii", {"3/T1w/y.nii": {"kind": "y"}}),
        ("s[1].nii", {"s[1].nii": {}}),
        ("{subject}/{subject}_{run}/{subject}.nii", {"5/5_6/5.nii": {"subject": "5", "run": "6"}}),
    ):
        assert find_files(tmp_path, pattern) == found
    assert list(find_files(tmp_path, "{subject}/**/x.nii")) == names


def test_the_state_of_a_source_tells_every_change_and_nothing_else(mri):
    source = settings(mask="sub-{subject}/mask.nii")
    file, table = mri / "sub-03/anat/sub-03_T1w.nii.gz", mri / "participants.tsv"
    states = [source_state(source)]
    (mri / "notes.txt").write_text("nothing of the source")
    assert source_state(source) == states[0]
    changes = [lambda: volume(file, 9), lambda: table.write_text(table.read_text() + "sub-33\tF\t20\tx\n"), file.unlink]
    for change in [*changes, lambda: volume(mri / "sub-04/mask.nii", 1)]:
        change()
        states.append(source_state(source))
    assert len(set(states)) == 5


def test_a_source_is_checked_before_anything_runs(mri, root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    assert source_folder(settings(folder="~/mri")) == source_folder(settings(folder=str(mri))) == root / "mri"
    (mri / "participants.tsv").unlink()
    with pytest.raises(SourceError, match=r"participants\.tsv is missing; .*slices\.participants"):
        source_state(settings())
    with pytest.raises(SourceError, match=r"a\.pkl is missing; .*files"):
        source_state(Pickle(source="pickle", folder="mri", files={"a.pkl": {"train": 1.0}}))


# ---------------------------------------------------------------- pickles


def people(n_subjects: int, n_slices: int) -> tuple[list[np.ndarray], list[str], list[float]]:
    """Return slices of subjects, women and men in turn, each a year older than the one before."""
    numbers = np.repeat(np.arange(n_subjects), n_slices)
    return [brain(20, 16, n) for n in numbers], ["FM"[n % 2] for n in numbers], [22.0 + n for n in numbers]


def pickled(folder: Path, content, name: str = "slices_training.pkl", protocol: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(content, protocol))
    return folder / name


def pickle_settings(files: dict, **changed) -> Pickle:
    return Pickle(source="pickle", folder="osf", files=files, **changed)


def test_the_authors_pickles_give_splits_by_file_in_the_order_of_the_file(root):
    pickled(root / "osf", people(10, 3))
    pickled(root / "osf", people(7, 2), "slices_validation.pkl")
    training = {"pretraining": 0.6, "pretraining_validation": 0.4}
    files = {"slices_training.pkl": training, "slices_validation.pkl": {"test": 1.0}}
    slices, table, rejected = made(root / "out", pickle_settings(files))
    assert rejected.empty and len(slices) == 44
    test = table.query("split == 'test'")
    assert test["z"].tolist() == list(range(14)) and test["age"].tolist() == [22.0 + n // 2 for n in range(14)]
    assert table.groupby("subject")["split"].nunique().max() == 1 and table["subject"].nunique() == 17
    counts = table.drop_duplicates("subject").groupby(["split", "sex"]).size()
    assert counts["pretraining"].tolist() == [3, 3] and counts["pretraining_validation"].tolist() == [2, 2]
    assert_brains(slices, table["age"].astype(int) - 22)


@pytest.mark.parametrize(("protocol", "kind"), [(3, list), (4, np.array), (5, list), (5, np.array)])
def test_slices_may_be_a_list_or_one_array_of_any_protocol(root, protocol, kind):
    slices, sex, age = people(4, 3)
    path = pickled(root / "osf", (kind(slices), np.array(sex), np.array(age)), protocol=protocol)
    read, table = read_slice_pickle(path)
    assert [slice_.tobytes() for slice_ in read] == [slice_.tobytes() for slice_ in slices]
    assert (table["sex"].tolist(), table["age"].tolist()) == (sex, age)
    assert table["subject"].tolist() == [f"slices_training-{n:05d}" for n in range(4) for _ in range(3)]


def test_at_most_so_many_slices_of_a_split_are_drawn_with_the_seed(root):
    pickled(root / "osf", people(10, 3))
    drawn = []
    for seed in (0, 0, 1):
        limited = pickle_settings({"slices_training.pkl": {"train": 1.0}}, max_slices={"train": 12}, seed=seed)
        drawn.append(made(root / "out", limited)[1]["z"].tolist())
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 12 and drawn[0] == sorted(drawn[0])


def test_slices_in_any_order_are_not_divided(root):
    slices, sex, age = people(10, 3)
    mixed = np.random.default_rng(0).permutation(30)
    pickled(root / "osf", tuple([part[n] for n in mixed] for part in (slices, sex, age)))
    make_slices(root / "out", pickle_settings({"slices_training.pkl": {"train": 1.0}}), "sex")
    with pytest.raises(SourceError, match=r"subjects can't be told apart; give all of the file to one"):
        make_slices(root / "out", pickle_settings({"slices_training.pkl": {"train": 0.5, "test": 0.5}}), "sex")


OTHER_KINDS = [
    ([1, 2], r"\(slices, sex, age\), .* are expected"),
    (([brain(20, 16, 1)], ["F"], [1, 2]), "all of the same number, are expected"),
    (([brain(20, 16, 1)[0]], ["F"], [1]), "a slice is no array of numbers"),
    (([np.array([["a"]])], ["F"], [1]), "a slice is no array of numbers"),
    (([brain(20, 16, 1)], ["F"], ["old"]), "'old' is no age"),
    (([brain(20, 16, 1)], [None], [1]), "have no sex"),
    (({}, "F", 1), "all of the same number, are expected"),
]


@pytest.mark.parametrize(("content", "words"), OTHER_KINDS)
def test_pickles_of_another_kind_are_one_line(root, content, words):
    with pytest.raises(SourceError, match=words) as error:
        read_slice_pickle(pickled(root / "osf", content))
    assert "slices_training.pkl" in str(error.value)


@given(DAMAGE)
def test_no_damage_of_a_slice_pickle_does_harm(tmp_path, damage):
    path = pickled(tmp_path, people(4, 3))
    path.write_bytes(damaged(path.read_bytes(), damage))
    with contextlib.suppress(UserError):
        read_slice_pickle(path)


# ---------------------------------------------------------------- arrays


def array_settings(**changed) -> Arrays:
    defaults = {"folder": "mri", "pattern": "{subject}_{z}.npy", "subjects": {"train": 1.0}, "source": "arrays"}
    return Arrays(**(defaults | changed))


def refusal(path: Path) -> str:
    return reason(lambda: read_arrays(path, {"subject": "01"}, array_settings()))


def test_a_folder_of_arrays_gives_slices(root):
    folder = root / "mri"
    folder.mkdir()
    participants(folder)
    for number, name in enumerate(SUBJECTS):
        for z in (-3, 12):
            np.save(folder / f"{name}_{z}.npy", brain(20, 16, number).astype(np.float32))
        np.savez_compressed(folder / f"{name}.npz", *(brain(20, 16, number) for _ in range(3)))
        np.save(folder / f"{name}-stack.npy", np.stack([brain(20, 16, number)] * 2))
    for pattern, z in (("{subject}_{z}.npy", [12, -3]), ("{subject}.npz", [0, 1, 2]), ("{subject}-stack.npy", [0, 1])):
        slices, table, rejected = made(root / "out", array_settings(pattern=pattern))
        assert rejected.empty and len(slices) == len(z) * 20
        assert sorted(table["z"].iloc[: len(z)]) == sorted(z)
        assert_brains(slices, numbers_of(table))


class Touch:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_objects_in_arrays_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([[Touch()]], dtype=object)
    Path("pickle.npy").write_bytes(pickle.dumps(objects))
    np.save("a.npy", objects)
    np.savez("a.npz", objects)
    for name in ("pickle.npy", "a.npy", "a.npz"):
        assert "can't be read" in refusal(Path(name))
    assert not Path("executed").exists()


@pytest.mark.parametrize("shape", [(900, 900), (100_000, 100_000), (2**40, 1000, 1000)])
def test_arrays_that_lie_about_their_size_are_refused_without_memory(tmp_path, shape):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
        file.write(bytes(800))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    before = peak_memory()
    for name in ("a.npy", "a.npz"):
        assert refusal(tmp_path / name)
    assert peak_memory() - before < 20_000_000, "bytes"


def test_arrays_of_other_kinds_are_refused(tmp_path, monkeypatch):
    cases = [([np.ones((4, 4)), np.ones((4, 5))], "must match"), ([], "at least one")]
    cases += [([np.ones((2, 2, 4, 4))], "shape"), ([np.ones((2, 1025))], "at most 1024 pixels")]
    for arrays, words in [*cases, ([np.ones((2, 4), complex)], "complex")]:
        np.savez(tmp_path / "a.npz", *arrays)
        assert words in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", *(brain(20, 16, n) for n in range(4)))
    assert reading.array_shape(tmp_path / "a.npz") == (20, 16)
    monkeypatch.setattr(reading, "MAX_VALUES", 1000)
    assert "more than 8,000 bytes" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
@given(damage=DAMAGE)
def test_no_damage_of_an_array_file_does_harm(tmp_path, save, damage):
    path = tmp_path / f"a.{'npy' if save is np.save else 'npz'}"
    save(path, brain(20, 16, 1))
    path.write_bytes(damaged(path.read_bytes(), damage))
    refusal(path)


# ---------------------------------------------------------------- quality


def test_the_quality_page_counts_what_there_is():
    slices = np.stack([brain(20, 16, 1) / 400, brain(20, 16, 3) / 400, brain(20, 16, 3) / 400])
    table = pd.DataFrame({"split": ["train", "train", "test"], "sex": ["F", "M", "F"]})
    quality = slice_quality(slices, table, by="sex")
    sums = quality.groupby(["panel", "group"])["value"].sum()
    groups = [("brain_share", "F"), ("brain_share", "M"), ("intensity", "test"), ("intensity", "train")]
    assert sums.to_dict() == pytest.approx(dict.fromkeys(groups, 1))
    at = quality.query("panel == 'brain_share' and value > 0")
    assert at["x"].tolist() == [0.2625, 0.2625], "80 of 320 pixels, in the bin that begins there"
    dark = quality.query("panel == 'intensity' and group == 'train' and x < 0.5")["value"].sum()
    assert dark == pytest.approx(0.5)


def test_reasons_that_differ_by_numbers_only_are_of_one_kind():
    rows = [("a", "", np.nan, f"4-D of shape {shape}") for shape in ((1, 2, 3), (4, 5, 6))]
    counts = rejection_counts(pd.DataFrame([*rows, ("c", "", 3.5, "share 0.1")], columns=REJECTED_COLUMNS))
    expected = [["file", "…-D of shape (…)", 2], ["slice", "share …", 1]]
    assert counts[["group", "x", "value"]].to_numpy().tolist() == expected
    assert rejection_counts(pd.DataFrame(columns=REJECTED_COLUMNS)).empty
