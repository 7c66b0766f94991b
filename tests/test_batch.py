"""The batch: does what is missing, only that, and the same again after a kill."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from faults import finish
from pretrain_xai import paths
from pretrain_xai.batch import BatchError, only_batch
from pretrain_xai.paths import Paths
from pretrain_xai.plan import planned_jobs
from pretrain_xai.provenance import sha256
from pretrain_xai.slices.sources import slices_of
from pretrain_xai.study import load_study

DRAWN = {"heatmaps", "boxplots", "boxplots_incorrect", "report"}
EXPLAINING = {"explanation_metrics", "sanity_checks", "statistics", "equal_accuracy", "sensitivity"} | DRAWN
EVERYTHING_AFTER_FINETUNING = {"match_accuracy", "classification_metrics", "find_intersections"} | EXPLAINING


def planned(root: Path, study: str = "tiny") -> dict[str, int]:
    """Return how many jobs of each rule the batch would run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRETRAIN_XAI_ROOT", str(root))
        return dict(Counter(job.rule for job in planned_jobs(study)))


@pytest.fixture
def changed(tiny_root):
    """Return a function that changes one setting of the finished tiny study, for the length of the test."""
    file = tiny_root / "studies" / "tiny.yaml"
    original = file.read_text()

    def change(place: str, value) -> None:
        settings = yaml.safe_load(original)
        *sections, name = place.split(".")
        section = settings
        for part in sections:
            section = section[part]
        section[name] = value
        file.write_text(yaml.safe_dump(settings, sort_keys=False))  # the order of splits counts

    yield change
    file.write_text(original)


def test_a_second_batch_does_nothing_and_quickly(tiny_root):
    started = time.monotonic()
    result = finish(tiny_root)
    assert result.returncode == 0, result.stderr
    assert "Nothing to be done" in result.stdout + result.stderr
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("place", "value", "rules"),
    [
        ("title", "Another title", {"report"}),
        ("attribution.options", {"integrated_gradients": {"n_steps": 5}}, EXPLAINING),
        ("finetuning.training.epochs", 2, EVERYTHING_AFTER_FINETUNING | {"finetune"}),
        # the checkpoints were removed
        ("finetuning.matching.tolerance", 0.01, EVERYTHING_AFTER_FINETUNING | {"finetune"}),
        # the slices too, but who needs them makes them
        ("dataset.lesion_intensity", 0.8, EVERYTHING_AFTER_FINETUNING | {"finetune", "build_dataset"}),
        ("switches", {"swapped_rates": True}, None),
    ],
)
def test_a_changed_setting_runs_only_what_depends_on_it(tiny_root, changed, place, value, rules):
    changed(place, value)
    jobs = planned(tiny_root)
    if rules is None:  # the score table says under which protocol it was made
        assert {"classification_metrics", "explanation_metrics"} <= set(jobs)
        assert not {"finetune", "pretrain", "make_slices"} & set(jobs)
    else:
        assert set(jobs) == rules


def test_one_more_seed_needs_checkpoints_of_all_models_where_they_are_matched(tiny_root, changed):
    changed(
        "finetuning.selections",
        {"best": {"natural": {"learning_rate": 0.001, "seeds": [0]}, "mri": {"learning_rate": 0.001, "seeds": [0, 1]}}},
    )
    jobs = planned(tiny_root)
    assert jobs["finetune"] == 4 + 2
    assert "pretrain" not in jobs


def test_slices_and_checkpoints_are_removed_and_slices_made_again_as_they_were(tiny):
    folder = Paths(tiny).slices
    assert not (folder / "slices.npy").exists()
    assert not list(Paths(tiny).data.glob("finetuned/*/*checkpoints"))
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    slices_of(load_study(tiny))
    assert sha256(folder / "slices.npy") == json.loads((folder / "slices.npy.json").read_text())["sha256"]
    (folder / "slices.npy").unlink()
    assert times == {file: file.stat().st_mtime_ns for file in folder.iterdir()}, "nothing is out of date"


def test_a_result_is_made_again_with_all_that_follows_as_verify_says(tiny_root):
    result = finish(
        tiny_root, "--dry-run", "--quiet", "host", "--forcerun", "data/tiny/scores/best-mri-depth5-seed0.parquet"
    )
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE))
    assert jobs["explanation_metrics"] == "1" and {"boxplots", "report"} <= set(jobs) and "finetune" not in jobs


@pytest.mark.system
def test_a_notebook_run_again_by_hand_makes_nothing_out_of_date(tiny_root):
    """It writes the same bytes, and a file that keeps its bytes keeps its time."""
    notebook = paths.NOTEBOOKS / "07_find_intersections.ipynb"
    command = [sys.executable, "-m", "pretrain_xai.run_notebook", str(notebook), str(tiny_root / "by_hand.ipynb")]
    environment = os.environ | {"PRETRAIN_XAI_ROOT": str(tiny_root)}
    subprocess.run([*command, "-p", "study", "tiny"], env=environment, check=True)
    assert planned(tiny_root) == {}


def test_further_seeds_train_networks_and_share_the_rest(tiny_root):
    jobs = planned(tiny_root, "tiny+reseed1")
    once = ("classification_metrics", "find_intersections", "finish_variant")
    assert jobs == {"finetune": 4, "explanation_metrics": 5, **dict.fromkeys(once, 1)}


@pytest.mark.system
def test_retrained_variants_are_compared_with_a_noise_floor_and_do_not_run_twice(tiny_root, tmp_path):
    shutil.copytree(tiny_root, tmp_path / "root")
    root = tmp_path / "root"
    for variant in ("reseed1", "head_kept"):
        result = finish(root, study=f"tiny+{variant}")
        assert result.returncode == 0, result.stderr
        assert "Nothing to be done" in (again := finish(root, study=f"tiny+{variant}")).stdout + again.stderr
    assert finish(root, "compare_protocols").returncode == 0
    effects = pd.read_csv(root / "data" / "tiny" / "protocols.csv")
    assert effects.query("switch == 'head_kept' and effect == 'mean'")["floor"].notna().any()
    assert "Nothing to be done" in (again := finish(root, "compare_protocols")).stdout + again.stderr


def test_two_batches_on_one_study_do_not_mix(root):
    with only_batch("tiny"):
        result = finish(root)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "another batch is running the study 'tiny'" in result.stderr
    # variants share lesions, slices and images
    with only_batch("tiny+ties"), pytest.raises(BatchError, match="running the study 'tiny'"), only_batch("tiny"):
        pass
