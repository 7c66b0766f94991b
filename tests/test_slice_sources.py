"""Slices of real brains: every source gives the same files, streamed, and says what it left out."""

import pickle
import tracemalloc
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from fuzz import survive
from pretrain_xai.drawing.previews import quality_figure
from pretrain_xai.overlay import clean_at_model_resolution
from pretrain_xai.settings.slices import Arrays, Nifti, Pickle
from pretrain_xai.slices import arrays as slice_arrays
from pretrain_xai.slices import sources as slice_sources
from pretrain_xai.slices.arrays import array_shape, read_arrays_of
from pretrain_xai.slices.checks import BadFileError, Frame, good_slices, slice_problem, unit_range
from pretrain_xai.slices.files import SourceError, SourceFile, check_source, find_files, source_folder, source_state
from pretrain_xai.slices.pickles import read_slice_pickle
from pretrain_xai.slices.quality import rejection_counts, slice_quality
from pretrain_xai.slices.simulated import read_slices
from pretrain_xai.slices.sources import make_slices

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


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bids_folder_gives_slices_with_their_subjects_in_disjoint_splits(mri, tmp_path):
    rejected = make_slices(tmp_path / "out", settings(), "sex")
    slices, table = read_slices(tmp_path / "out")
    assert slices.dtype == np.float32 and slices.shape == (22 * 4, 20, 16)
    assert rejected.empty
    people = pd.read_csv(tmp_path / "out" / "participants.csv")
    assert people["split"].value_counts().to_dict() == SPLITS
    assert people["participant_id"].is_unique and table.groupby("subject")["split"].nunique().max() == 1
    for row, (slice_, of) in enumerate(zip(slices, table.itertuples(), strict=True)):
        number = SUBJECTS.index(of.subject.removeprefix("sub-"))
        np.testing.assert_allclose(slice_, brain(20, 16, number) / brain(20, 16, number).max(), rtol=1e-6, err_msg=row)
        assert (of.sex, of.age) == ("FM"[(number + 1) % 2], 21 + number) and of.file.startswith(of.subject)
        assert of.z in (3, 6, 9, 12)
    before = written(tmp_path / "out")
    make_slices(tmp_path / "again", settings(), "sex")
    assert written(tmp_path / "again") == before, "the same bytes again"


def test_broken_files_are_listed_and_replaced_by_subjects_that_are_left_over(mri, tmp_path):
    (mri / "sub-05/anat/sub-05_T1w.nii.gz").write_bytes(b"no brain")
    packed = (mri / "sub-06/anat/sub-06_T1w.nii.gz").read_bytes()
    (mri / "sub-06/anat/sub-06_T1w.nii.gz").write_bytes(packed[: len(packed) // 2])
    volume(mri / "sub-99" / "sub-99_T1w.nii.gz", 0)
    counts = SPLITS | {"pretraining": 4}
    rejected = make_slices(tmp_path / "out", settings(subjects=counts), "sex").set_index("subject")
    assert set(rejected.index) <= {"sub-05", "sub-06", "sub-99"} and {"sub-05", "sub-99"} <= set(rejected.index)
    assert rejected.loc["sub-05", "reason"] == "not a NIfTI file"
    assert rejected.loc["sub-99", "reason"] == "its subject is not in the table of participants"
    assert "sub-06" not in rejected.index or "truncated" in rejected.loc["sub-06", "reason"]
    people = pd.read_csv(tmp_path / "out" / "participants.csv")
    assert people["split"].value_counts().to_dict() == counts
    assert (rejected.reset_index().columns == ["subject", "file", "z", "reason"]).all()


def test_without_reserve_a_split_gets_smaller_and_nothing_else_changes(mri, tmp_path):
    make_slices(tmp_path / "whole", settings(), "sex")
    whole = pd.read_csv(tmp_path / "whole" / "participants.csv")
    lost = whole.query("split == 'train'")["participant_id"].iloc[0]
    data = nibabel.Nifti1Image(np.full((16, 20, 6), np.nan, np.float32), np.eye(4))
    for file in mri.glob(f"{lost}/**/*.nii.gz"):
        nibabel.save(data, file)
    rejected = make_slices(tmp_path / "out", settings(), "sex")
    assert rejected["subject"].unique().tolist() == [lost]
    left = pd.read_csv(tmp_path / "out" / "participants.csv")
    pd.testing.assert_frame_equal(left, whole.query("participant_id != @lost").reset_index(drop=True))


def test_another_column_can_be_the_target(mri, tmp_path):
    make_slices(tmp_path / "out", settings(), "site")
    _, table = read_slices(tmp_path / "out")
    assert set(table["site"]) == {"x", "y", "z"}
    assert table.query("split == 'pretraining'")["site"].nunique() == 3
    text = (mri / "participants.tsv").read_text()
    (mri / "participants.tsv").write_text(text.replace("\tx\n", "\tn/a\n"))
    rejected = make_slices(tmp_path / "out", settings(subjects={split: 0.2 for split in SPLITS}), "site")
    assert set(rejected["reason"]) == {"its subject has no site in the table of participants"}


@pytest.mark.parametrize(
    ("changed", "target", "words"),
    [
        ({"folder": "absent"}, "sex", "slices.folder: .*absent is missing; set it to where the MRI lies"),
        ({"folder": "mri/participants.tsv"}, "sex", "is not a folder"),
        ({"pattern": "{subject}.nii"}, "sex", r"no file fits the pattern '\{subject\}\.nii'; in the folder .*sub-01"),
        ({"subjects": {"train": 21}}, "sex", "asks for 21 subjects, but only 20 can be used"),
        ({"subjects": {"train": 0.99, "test": 0.01}}, "sex", "test would have none of 20 subjects"),
        (
            {"z_range": [100.0, 200.0]},
            "sex",
            r"no slice is left \(22 files or slices rejected, such as .*no slice from 100",
        ),
        ({"shape": [16, 16], "pattern": "sub-0{subject}/**/*.gz"}, "sex", "no file can be used"),
        ({}, "group", r"no column 'group' \(pretraining\.target\)"),
        ({"subjects": {"pretraining": 1, "pretraining_validation": 1}}, "sex", "pretraining has no subject with sex"),
    ],
)
def test_what_can_not_work_is_one_line_and_writes_nothing(mri, tmp_path, changed, target, words):
    with pytest.raises(SourceError, match=words) as error:
        make_slices(tmp_path / "out", settings(**changed), target)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_brains_of_several_shapes_are_centred_in_the_largest(mri, tmp_path):
    volume(mri / "sub-07/anat/sub-07_T1w.nii.gz", 6, height=31, width=14)
    make_slices(tmp_path / "out", settings(), "sex")
    slices, table = read_slices(tmp_path / "out")
    assert slices.shape[1:] == (31, 16)
    for slice_, of in zip(slices, table.itertuples(), strict=True):
        expected = brain(31, 16, int(of.subject[-2:]) - 1)
        np.testing.assert_allclose(slice_, expected / expected.max(), rtol=1e-6)
    rejected = make_slices(tmp_path / "out", settings(shape=[16, 24]), "sex")
    assert rejected.empty and read_slices(tmp_path / "out")[0].shape[1:] == (16, 24)


def test_a_frame_cuts_no_brain_and_moves_nothing_without_need():
    slices = np.stack([np.eye(6), np.eye(6)])
    assert Frame.of({(6, 6)}, None).fit(slices) is slices
    framed = Frame.of({(6, 6), (4, 9)}, None).fit(slices[:, 1:5])
    assert framed.shape == (2, 6, 9) and framed.sum() == 8
    with pytest.raises(BadFileError, match=r"brain of 6 x 6 pixels does not fit into slices\.shape"):
        Frame.of({(6, 6)}, [5, 9]).fit(slices)


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e6])
def test_networks_see_the_same_image_as_of_the_raw_values(factor):
    slice_ = brain(40, 36, 3) * factor
    seen, raw = (clean_at_model_resolution(image, 32, 0.7) for image in (unit_range(slice_), slice_))
    np.testing.assert_allclose(seen, raw, atol=1e-6)


def test_slices_that_can_not_carry_lesions_are_told():
    good = brain(20, 16, 1)
    assert slice_problem(good, 0.2) is None
    assert "brain share 0.250, at least 0.3" in slice_problem(good, 0.3)
    assert "brain share 0.000" in slice_problem(good * 0, 0.0)
    assert "value 1" in slice_problem((good > 0) * 1, 0.1)
    assert "not skull-stripped" in slice_problem(good + 1, 0.1)
    assert "1 of 320 pixels are not finite" in slice_problem(np.where(good == 101, np.nan, good), 0.1)
    places, rejected = good_slices(np.stack([good, good * 0, good]), np.array([1.0, 2.0, 3.0]), 0.1)
    assert places.tolist() == [0, 2] and list(rejected) == [2]


# ---------------------------------------------------------------- files


def test_patterns_find_what_they_say(tmp_path):
    for name in (
        "1/T1w/x.nii",
        "1/x.nii",
        "2/T1w/x.nii",
        "2/b/T1w/x.nii",
        "3/T1w/y.nii",
        "s[1].nii",
        "s1.nii",
        ".4/T1w/x.nii",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        return [(file.name, file.fields) for file in find_files(tmp_path, pattern)]

    assert found("{subject}/T1w/x.nii") == [("1/T1w/x.nii", {"subject": "1"}), ("2/T1w/x.nii", {"subject": "2"})]
    assert [name for name, _ in found("{subject}/**/x.nii")] == [
        "1/T1w/x.nii",
        "1/x.nii",
        "2/T1w/x.nii",
        "2/b/T1w/x.nii",
    ]
    assert found("{subject}/T1w/{kind}.nii")[-1] == ("3/T1w/y.nii", {"subject": "3", "kind": "y"})
    assert found("s[1].nii") == [("s[1].nii", {})]
    (tmp_path / "5/5_6").mkdir(parents=True)
    (tmp_path / "5/5_6/5.nii").touch()
    assert found("{subject}/{subject}_{run}/{subject}.nii") == [("5/5_6/5.nii", {"subject": "5", "run": "6"})]


def test_the_state_of_a_source_tells_every_change_and_nothing_else(mri):
    source_settings = settings(mask="sub-{subject}/mask.nii")
    states = [source_state(source_settings)]
    (mri / "notes.txt").write_text("nothing of the source")
    assert source_state(source_settings) == states[0]
    file = mri / "sub-03/anat/sub-03_T1w.nii.gz"
    volume(file, 9)
    states.append(source_state(source_settings))
    (mri / "participants.tsv").write_text((mri / "participants.tsv").read_text() + "sub-33\tF\t20\tx\n")
    states.append(source_state(source_settings))
    file.unlink()
    states.append(source_state(source_settings))
    volume(mri / "sub-04/mask.nii", 1)
    states.append(source_state(source_settings))
    assert len(set(states)) == len(states)


def test_a_source_is_checked_before_anything_runs(mri, root, monkeypatch):
    check_source(settings())
    monkeypatch.setenv("HOME", str(root))
    assert source_folder(settings(folder="~/mri")) == source_folder(settings(folder=str(mri))) == root / "mri"
    (mri / "participants.tsv").unlink()
    with pytest.raises(SourceError, match=r"slices\.participants\.file: .*participants\.tsv is missing"):
        check_source(settings())
    with pytest.raises(SourceError, match=r"slices\.files: .*a\.pkl is missing"):
        check_source(Pickle(source="pickle", folder="mri", files={"a.pkl": {"train": 1.0}}))


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
    files = {
        "slices_training.pkl": {"pretraining": 0.6, "pretraining_validation": 0.4},
        "slices_validation.pkl": {"test": 1.0},
    }
    rejected = make_slices(root / "out", pickle_settings(files), "sex")
    slices, table = read_slices(root / "out")
    assert rejected.empty and len(slices) == 44
    test = table.query("split == 'test'")
    assert test["z"].tolist() == list(range(14)) and test["age"].tolist() == [22.0 + n // 2 for n in range(14)]
    assert table.groupby("subject")["split"].nunique().max() == 1 and table["subject"].nunique() == 17
    counts = table.drop_duplicates("subject").groupby(["split", "sex"]).size()
    assert counts["pretraining"].tolist() == [3, 3] and counts["pretraining_validation"].tolist() == [2, 2]
    for slice_, of in zip(slices, table.itertuples(), strict=True):
        expected = brain(20, 16, int(of.age) - 22)
        np.testing.assert_allclose(slice_, expected / expected.max(), rtol=1e-6)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("stacked", [False, True])
def test_slices_may_be_a_list_or_one_array_of_any_protocol(root, stacked, protocol):
    slices, sex, age = people(4, 3)
    path = pickled(
        root / "osf", (np.array(slices) if stacked else slices, np.array(sex), np.array(age)), protocol=protocol
    )
    read = read_slice_pickle(path)
    assert [slice_.tobytes() for slice_ in read.slices] == [slice_.tobytes() for slice_ in slices]
    assert (read.sex, read.age, read.subject.tolist()) == (sex, age, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)


def test_at_most_so_many_slices_of_a_split_are_drawn_with_the_seed(root):
    pickled(root / "osf", people(10, 3))
    drawn = []
    for seed in (0, 0, 1):
        limited = pickle_settings({"slices_training.pkl": {"train": 1.0}}, max_slices={"train": 12}, seed=seed)
        make_slices(root / "out", limited, "sex")
        drawn.append(read_slices(root / "out")[1]["z"].tolist())
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 12 and drawn[0] == sorted(drawn[0])


def test_slices_in_any_order_are_not_divided(root):
    slices, sex, age = people(10, 3)
    mixed = np.random.default_rng(0).permutation(30)
    pickled(root / "osf", tuple([part[n] for n in mixed] for part in (slices, sex, age)))
    make_slices(root / "out", pickle_settings({"slices_training.pkl": {"train": 1.0}}), "sex")
    with pytest.raises(SourceError, match=r"subjects can't be told apart .* give all of it to one split"):
        make_slices(root / "out", pickle_settings({"slices_training.pkl": {"train": 0.5, "test": 0.5}}), "sex")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], r"\(slices, sex, age\) are expected, found list of 2"),
        (([brain(20, 16, 1)], ["F"], [1, 2]), "of the same number are expected, found list of 1, list of 1, list of 2"),
        (([brain(20, 16, 1)[0]], ["F"], [1]), r"slice 0 is no array .* array of shape \(16,\)"),
        (([[1, 2]], ["F"], [1]), "slice 0 is no array"),
        (([np.array([["a"]])], ["F"], [1]), "slice 0 is no array of numbers"),
        (([brain(20, 16, 1)], ["F"], ["old"]), "'old' is no age"),
        (([brain(20, 16, 1)], [None], [1]), "slice 0 has no sex"),
        (({}, "F", 1), "of the same number are expected"),
    ],
)
def test_pickles_of_another_kind_are_one_line(root, content, words):
    with pytest.raises(SourceError, match=words) as error:
        read_slice_pickle(pickled(root / "osf", content))
    assert "slices_training.pkl" in str(error.value)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_large_pickle_is_not_loaded_into_memory(tmp_path, protocol, stacked):
    """64 slices of 260 x 311 are 41 MB; reading them takes less than one of them."""
    slices = np.random.default_rng(0).random((64, 260, 311))
    path = pickled(tmp_path, (slices if stacked else list(slices), ["F"] * 64, [30] * 64), protocol=protocol)
    del slices
    tracemalloc.start()
    read = read_slice_pickle(path)
    assert tracemalloc.get_traced_memory()[1] < 2**19
    tracemalloc.stop()
    assert len(read.slices) == 64 and read.slices[63].shape == (260, 311)


def test_no_mutation_of_a_slice_pickle_does_harm(tmp_path):
    path = pickled(tmp_path, people(4, 3))
    assert survive(path, path.read_bytes(), 400, lambda: read_slice_pickle(path), SourceError) > 0


# ---------------------------------------------------------------- arrays


def array_settings(**changed) -> Arrays:
    defaults = {"folder": "mri", "pattern": "{subject}_{z}.npy", "subjects": {"train": 1.0}, "source": "arrays"}
    return Arrays(**(defaults | changed))


def source_file(path: Path, **fields: str) -> SourceFile:
    return SourceFile(path, path.name, {"subject": "01", **fields})


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
        rejected = make_slices(root / "out", array_settings(pattern=pattern), "sex")
        slices, table = read_slices(root / "out")
        assert rejected.empty and len(slices) == len(z) * 20
        assert sorted(table["z"].iloc[: len(z)]) == sorted(z)
        for slice_, of in zip(slices, table.itertuples(), strict=True):
            expected = brain(20, 16, int(of.subject[-2:]) - 1)
            np.testing.assert_allclose(slice_, expected / expected.max(), rtol=1e-6)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_objects_in_arrays_are_never_unpickled(tmp_path, save):
    path = tmp_path / f"a.{'npy' if save is np.save else 'npz'}"
    save(path, np.array([[Touch(tmp_path / "executed")]], dtype=object))
    with pytest.raises(BadFileError, match="type object; plain numbers"):
        array_shape(source_file(path))
    with pytest.raises(BadFileError):
        read_arrays_of(source_file(path), array_settings())
    assert not (tmp_path / "executed").exists()


def test_arrays_that_lie_about_their_size_are_refused_without_memory(tmp_path):
    for shape, words in (((900, 900), "announces"), ((100_000, 100_000), "per side"), ((200, 1000, 1000), "in all")):
        path = tmp_path / "a.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
            file.write(bytes(800))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.write(path, "a.npy")
        for name in ("a.npy", "a.npz"):
            tracemalloc.start()
            with pytest.raises(BadFileError, match=words):
                read_arrays_of(source_file(tmp_path / name), array_settings())
            assert tracemalloc.get_traced_memory()[1] < 2**20
            tracemalloc.stop()


def test_many_arrays_in_one_file_have_a_bound(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", *(brain(20, 16, n) for n in range(4)))
    assert array_shape(source_file(tmp_path / "a.npz")) == (20, 16)
    monkeypatch.setattr(slice_arrays, "MAX_VALUES", 1000)
    with pytest.raises(BadFileError, match="its 4 arrays have more than 1,000 values"):
        array_shape(source_file(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", np.ones((4, 4)), np.ones((4, 5)))
    with pytest.raises(BadFileError, match="different shapes"):
        array_shape(source_file(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz")
    with pytest.raises(BadFileError, match="no arrays"):
        array_shape(source_file(tmp_path / "a.npz"))


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_no_mutation_of_an_array_file_does_harm(tmp_path, save):
    path = tmp_path / f"a.{'npy' if save is np.save else 'npz'}"
    save(path, brain(20, 16, 1))
    file = source_file(path)
    assert survive(path, path.read_bytes(), 128, lambda: read_arrays_of(file, array_settings()), BadFileError) > 0


# ---------------------------------------------------------------- quality


def test_the_quality_page_counts_what_there_is():
    slices = np.stack([brain(20, 16, 1) / 400, brain(20, 16, 3) / 400, brain(20, 16, 3) / 400])
    table = pd.DataFrame({"split": ["train", "train", "test"], "sex": ["F", "M", "F"]})
    quality = slice_quality(slices, table, by="sex")
    sums = quality.groupby(["panel", "group"])["value"].sum()
    assert sums.to_dict() == pytest.approx(
        {("intensity", "train"): 1, ("intensity", "test"): 1, ("brain_share", "F"): 1, ("brain_share", "M"): 1}
    )
    at = quality.query("panel == 'brain_share' and value > 0")
    assert at["x"].tolist() == [0.2625, 0.2625], "80 of 320 pixels, in the bin that begins there"
    dark = quality.query("panel == 'intensity' and group == 'train' and x < 0.5")["value"].sum()
    assert dark == pytest.approx(0.5)


def test_reasons_that_differ_by_numbers_only_are_of_one_kind():
    rows = [
        ("a", "", np.nan, "4-D of shape (1, 2, 3)"),
        ("b", "", np.nan, "4-D of shape (4, 5, 6)"),
        ("c", "", 3.5, "share 0.1"),
    ]
    counts = rejection_counts(pd.DataFrame(rows, columns=slice_sources.REJECTED_COLUMNS))
    assert counts[["group", "x", "value"]].to_numpy().tolist() == [
        ["file", "…-D of shape (…)", 2],
        ["slice", "share …", 1],
    ]
    assert rejection_counts(pd.DataFrame(columns=slice_sources.REJECTED_COLUMNS)).empty


def test_the_quality_figure_names_reasons_only_where_something_was_rejected():
    brightness = pd.DataFrame({"panel": "intensity", "group": "train", "x": [0.2, 0.8], "value": [0.4, 0.6]})
    share = brightness.assign(panel="brain_share", group="M")
    rejected = pd.DataFrame(
        [("a", "", np.nan, "broken"), ("b", "", np.nan, "broken")], columns=slice_sources.REJECTED_COLUMNS
    )
    words = []
    for table in (rejected, rejected.iloc[:0]):
        axes = quality_figure(pd.concat([brightness, share]), rejection_counts(table)).axes
        words.append([[text.get_text() for text in ax.texts] for ax in axes])
        assert [list(ax.lines[0].get_ydata()) for ax in axes[:2]] == [[0.4, 0.6], [0.4, 0.6]]
    assert words == [[[], [], ["2 files: broken"]], [[], []]]
