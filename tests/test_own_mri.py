"""A study on real files: the recipes of `docs/own_mri.md`, and `tiny` on a cohort of NIfTI files from end to end."""

import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from faults import finish
from mri_cohort import brain_volume, write_cohort
from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.run_notebook import check_parameters, run_notebook
from pretrain_xai.running.stages import fingerprint
from pretrain_xai.slices.files import source_state
from pretrain_xai.slices.sources import make_slices, read_slices, slices_of
from pretrain_xai.study import Study, StudyError, load_study
from test_batch import planned

PAGE = (paths.REPOSITORY / "docs" / "own_mri.md").read_text()
RECIPES = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)]
SUBJECTS = {"pretraining": 8, "pretraining_validation": 4, "train": 12, "validation": 6, "test": 8}
COHORT = {
    "source": "nifti",
    "folder": "bids",
    "pattern": "sub-{subject}/anat/*_T1w.nii*",
    "subjects": SUBJECTS,
    "z_range": [0.0, 30.0],
    "slices_per_volume": 4,
}


def study_with(recipe: dict) -> dict:
    """Return the settings of the tiny study, with the sections of a recipe."""
    settings = yaml.safe_load((paths.REPOSITORY / "studies" / "tiny.yaml").read_text())
    pretraining = settings["pretraining"] | recipe.get("pretraining", {})
    return settings | recipe | {"pretraining": pretraining}


def write_study(root: Path, recipe: dict, name: str = "own") -> Path:
    path = root / "studies" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study_with(recipe), sort_keys=False))
    return path


def test_there_is_a_recipe_for_every_source_and_each_is_a_valid_study():
    assert {recipe["slices"]["source"] for recipe in RECIPES} == {"nifti", "pickle", "arrays"}
    for recipe in RECIPES:
        assert Study.model_validate(study_with(recipe)).slices.splits == set(SUBJECTS)


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.int16), np.diag([2.0, 2, 2, 1])), path)


def test_the_recipes_read_the_folders_that_they_name(root, monkeypatch):
    """HCP and fMRIPrep, each with a handful of small brains; counts are lowered to shares."""
    monkeypatch.setenv("HOME", str(root))
    head = np.zeros((30, 36, 24))
    head[6:24, 6:30, :18] = np.random.default_rng(0).integers(50, 200, (18, 24, 18))
    hcp, fmriprep, sessions = (recipe for recipe in RECIPES if recipe["slices"]["source"] == "nifti")
    names = list(map(str, range(100101, 100121)))
    for name in names:
        save(root / f"hcp/{name}/T1w/T1w_acpc_dc_restore_brain.nii.gz", head)
        stem = root / f"bids/derivatives/fmriprep/sub-{name}/anat/sub-{name}_"
        save(Path(f"{stem}desc-preproc_T1w.nii.gz"), np.where(head > 0, head, 20))
        save(Path(f"{stem}desc-brain_mask.nii.gz"), head > 0)
        for session in "ab":
            save(root / f"data/brains/sub-{name}/ses-{session}/anat/sub-{name}_ses-{session}_T1w.nii.gz", head)
    rows = [f"sub-{name}\t{'FM'[n % 2]}\t30\t{'AB'[n % 2]}" for n, name in enumerate(names)]
    table = "\n".join(["participant_id\tsex\tage\tdiagnosis", *rows]) + "\n"
    for folder in ("bids", "data/brains"):
        (root / folder / "participants.tsv").write_text(table)
    csv = ["Subject,Gender,Age", *(f"{name},{'FM'[n % 2]},26-30" for n, name in enumerate(names))]
    (root / "hcp" / "hcp.csv").write_text("\n".join(csv))
    fmriprep = fmriprep | {"slices": fmriprep["slices"] | {"folder": "bids/derivatives/fmriprep"}}
    for recipe, n_slices, target in ((hcp, 8, "sex"), (fmriprep, 5, "sex"), (sessions, 36, "diagnosis")):
        write_study(root, recipe | {"slices": recipe["slices"] | {"subjects": dict.fromkeys(SUBJECTS, 0.2)}})
        study = load_study("own")
        make_slices(Paths("own").slices, study.slices, study.pretraining.target)
        slices, of = read_slices(Paths("own").slices)
        assert len(slices) == 20 * n_slices and slices.shape[1:] == (36, 30)
        assert of.drop_duplicates("subject").groupby("split")[target].nunique().eq(2).all()
        assert len(pd.read_csv(Paths("own").slices / "rejected.csv")) == 0
    notebook = paths.NOTEBOOKS / "02_make_slices.ipynb"  # of the last, with a target of its own
    run_notebook(notebook, root / "out.ipynb", check_parameters(notebook, {"study": "own"}))
    assert (Paths("own").figures / "slices.csv").is_file()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"slices": COHORT | {"source": "dicom"}}, "slices: .*'dicom'.*'template', 'nifti', 'pickle', 'arrays'"),
        ({"slices": COHORT | {"patern": "x"}}, r"slices\.nifti\.patern: .*not permitted"),
        ({"slices": COHORT | {"subjects": {"train": 0.7, "test": 0.4}}}, "shares must sum to at most 1, found 1.1"),
        ({"slices": COHORT | {"subjects": {"train": 5}}}, "slices has no entry for"),
        ({"slices": COHORT, "pretraining": {"target": "split"}}, "pretraining.target can't be split"),
        ({"pretraining": {"target": "age_group"}}, "slices of the source template tell only sex"),
        (
            {"slices": {"source": "pickle", "folder": ".", "files": {"a": {"train": 1.0}}, "max_slices": {"test": 3}}},
            "max_slices: no file gives slices to test",
        ),
    ],
)
def test_a_wrong_section_is_one_line(root, recipe, words):
    write_study(root, recipe)
    with pytest.raises(StudyError, match=words) as error:
        load_study("own")
    assert "\n" not in str(error.value)


def test_changed_files_and_another_target_count_for_the_slices_only(root):
    write_study(root, {"slices": COHORT})
    write_cohort(root / "bids", 1, broken=False)
    study = load_study("own")
    assert fingerprint(study, "02_make_slices")["source"] == source_state(study.slices)
    assert "source" not in fingerprint(study, "03_build_dataset")
    other = study.pretraining.model_copy(update={"target": "handedness"})
    changed = fingerprint(study.model_copy(update={"pretraining": other}), "02_make_slices")
    assert changed["pretraining.target"] == "handedness"


@pytest.mark.system
def test_tiny_runs_on_a_cohort_of_nifti_files(root):
    """From files in six orientations, one packed, one oblique and three broken, to the report; then a file changes."""
    write_cohort(root / "bids", 38)
    write_study(root, {"slices": COHORT, "title": "Tiny on NIfTI"})
    result = finish(root, study="own")
    assert result.returncode == 0, result.stderr[-3000:]
    data = root / "data" / "own"
    rejected = pd.read_csv(data / "slices" / "rejected.csv").set_index("subject")["reason"]
    assert rejected.index.isin(["sub-39", "sub-40", "sub-41"]).all() and "4-D" in rejected["sub-40"]
    slices, table = slices_of(load_study("own"))
    assert table.drop_duplicates("subject")["split"].value_counts().to_dict() == SUBJECTS
    assert slices.shape == (38 * 4, 233, 197)
    assert pd.read_csv(data / "dataset" / "audit.csv")["passed"].all()
    assert (root / "figures" / "own" / "report.html").is_file()
    assert "Nothing to be done" in (again := finish(root, study="own")).stdout + again.stderr
    before = np.array(slices)
    file = next((root / "bids").glob("sub-05/**/*.nii"))
    nibabel.save(brain_volume(99, male=False), file)
    assert {"make_slices", "build_dataset", "pretrain", "finetune"} <= set(planned(root, "own"))
    assert finish(root, "data/own/slices/slices.npy", study="own").returncode == 0
    other = (slices_of(load_study("own"))[0] != before).any(axis=(1, 2))
    assert set(table["subject"][other]) == {"sub-05"}
    shutil.rmtree(root / "bids")
    assert finish(root, study="own").returncode == 2
