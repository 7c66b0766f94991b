"""The names that anything outside may rely on: how they are called, and what they give on a small case."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from pretrain_xai import attribution, dataset, lesions, localization, published, tables
from pretrain_xai.errors import UserError
from pretrain_xai.paths import REPOSITORY, Paths
from pretrain_xai.protocol import CORRECTED, PUBLISHED, Protocol
from torch import nn

EIGHT = [
    *("integrated_gradients", "gradient_shap", "deep_lift", "saliency", "input_x_gradient"),
    *("guided_backprop", "deconvolution", "lrp"),
]
MODEL = ["selection", "pretraining", "finetune_depth", "seed"]
SCORES = [
    *("study", "protocol", *MODEL, "method", "channel_reduction", "mask_threshold", "image_index"),
    *("label", "predicted", "metric", "value", "chance"),
]
CLASSIFICATION = [*MODEL, "auroc", "auprc", "accuracy", "sensitivity", "specificity"]
RELEASE = {
    "predictions": "model pretraining finetune_depth seed selection image_index label predicted logit_0 logit_1",
    "confusion": "source selection method position tp fp fn tn",
    "incorrect_ratios": "model pretraining finetune_depth seed selection method position value",
}
TARGETS = "demo test test-system lab published notebooks bench bench-statistics dry-run plan study statistics verify"


def names(function, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) -> list[str]:
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind == kind]


def test_lesions():
    assert names(lesions.generate_patches) == ["n_per_class"]
    patches = lesions.generate_patches(2)
    assert list(patches) == ["round", "irregular"] and [len(pool) for pool in patches.values()] == [2, 2]
    patch = patches["round"][0]
    assert patch.weights.ndim == 2 and patch.weights.dtype == np.float64 and patch.compactness > 0.8


def test_overlay():
    assert names(dataset.overlay_lesions) == ["slice_", "patches", "seed", "protocol"]
    further = inspect.signature(dataset.overlay_lesions).parameters
    assert (further["lesion_intensity"].default, further["brain_intensity"].default) == (0.5, 0.7)
    slice_ = np.zeros((200, 180))
    slice_[20:180, 20:160] = np.random.default_rng(0).random((160, 140)) + 0.1
    laid = dataset.overlay_lesions(slice_, lesions.generate_patches(5), 50_000, PUBLISHED)
    assert laid.image.shape == laid.ground_truth.shape == slice_.shape
    assert laid.label in (0, 1) and laid.n_lesions in (3, 4, 5) and (laid.ground_truth[slice_ == 0] == 0).all()


def test_protocols_and_attribution():
    assert isinstance(PUBLISHED, Protocol) and isinstance(CORRECTED, Protocol) and Protocol() == CORRECTED
    assert set(EIGHT) <= set(attribution.METHODS)
    assert names(attribution.attribute) == ["model", "images", "targets", "method"]
    assert names(attribution.attribute_all) == ["model", "images", "targets", "methods"]
    assert names(attribution.completeness_delta) == ["model", "images", "targets", "attributions"]
    options = names(attribution.attribute, inspect.Parameter.KEYWORD_ONLY)
    assert {"image_ids", "batch_size", "seed"} <= set(options)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    images, targets = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 1])
    expected = images * model[1].weight[targets].reshape(images.shape)
    found = attribution.attribute(model, images, targets, "input_x_gradient", batch_size=2)
    torch.testing.assert_close(found, expected.detach())
    assert attribution.completeness_delta(model, images, targets, found).abs().max() < 1e-6
    both = attribution.attribute_all(model, images, targets, EIGHT[3:5])
    assert list(both) == EIGHT[3:5] and torch.equal(both["input_x_gradient"], found)


def test_localization():
    maps, masks = np.arange(9.0).reshape(1, 3, 3), np.zeros((1, 3, 3), bool)
    masks[0, 2] = masks[0, 0, 0] = True
    assert localization.relevance_rank_accuracy(maps, masks).tolist() == [0.75]
    for name, score in localization.SCORES.items():
        assert list(inspect.signature(score.function).parameters)[:2] == ["maps", "masks"], name


def test_the_release(tmp_path):
    with pytest.raises(UserError):
        published.read_release(tmp_path)
    folder = REPOSITORY.parent / "shared" / "published"
    if not folder.is_dir():
        pytest.skip("the authors' files are not there")
    release = published.read_release(folder)
    for table, columns in RELEASE.items():
        assert set(columns.split()) <= set(getattr(release, table)), table
    assert set(release.predictions["selection"]) <= {"best", "matched"}
    assert set(release.confusion["source"]) >= {"untrained", "sobel", "laplace"}


def test_tables_and_files_of_a_finished_study(tiny):
    assert list(tables.read_scores(tiny)) == SCORES and list(tables.read_classification(tiny)) == CLASSIFICATION
    assert (Paths(tiny).figures / "report.html").is_file()
    found = {file.stem for file in Paths(tiny).statistics.glob("*.csv")}
    assert {"cells", "effects", "ranks", "redundancy", "equal_accuracy", "sensitivity", "flips", "survival"} <= found
    assert "ground_truths" in found
    for table in ("cells", "effects"):
        columns = set(pd.read_csv(Paths(tiny).statistics / f"{table}.csv"))
        assert {"pretraining", "finetune_depth", "method", "unit", "n_units", "estimate", "low", "high"} <= columns


def test_a_notebook_runs_from_the_command_line(tmp_path):
    cells = [nbformat.v4.new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("n")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "a.ipynb")
    run = [sys.executable, "-m", "pretrain_xai.run_notebook", str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb")]
    assert subprocess.run([*run, "-p", "n", "x"], capture_output=True, check=False).returncode == 1
    subprocess.run([*run, "-p", "n", "3"], check=True)
    shown = json.loads(Path(tmp_path / "b.ipynb").read_text())["cells"][-1]["outputs"][0]["data"]["text/plain"]
    assert shown == ["3"]


def test_make_targets():
    printed = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[1] for line in printed.splitlines() if line.strip().startswith("make ")}
    assert {*TARGETS.split(), "lint", "help"} <= listed
