"""A finished study is checked from its files: what was changed afterwards is found and named."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import read_sums, sha256, write_sums
from pretrain_xai.study import load_study
from pretrain_xai.tables import read_table, write_table
from pretrain_xai.verify import Verification, main

RUN = "best-mri-depth5-seed0"


@pytest.fixture
def finished(tiny_root, tmp_path, monkeypatch) -> Path:
    """Return the folder of a copy of the finished tiny study, which a test may damage."""
    root = tmp_path / "root"
    shutil.copytree(tiny_root, root)
    monkeypatch.setenv("PRETRAIN_XAI_ROOT", str(root))
    return root


def failures(n_images: int = 0) -> dict[str, str]:
    """Return the files that fail, with the reasons, by their path from the root folder."""
    verification = Verification(load_study("tiny"), n_images)
    assert verification.run() is not bool(verification.failures)
    return {file: "; ".join(reasons) for file, reasons in verification.failures.items()}


def record_again(root: Path, file: Path) -> None:
    """Make the records of a changed file fit to it, as somebody would who wants nobody to see the change."""
    record = file.with_name(f"{file.name}.json")
    if record.is_file():
        record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": sha256(file)}))
    for sums in Paths("tiny").executed.rglob("*.sha256"):
        if (files := read_sums(sums)).keys() & {file.relative_to(root).as_posix()}:
            write_sums(sums, [root / name for name in files if (root / name).is_file()])


def test_a_finished_study_holds_and_its_scores_come_out_again(finished, capsys):
    (finished / "data/tiny/plan.json").write_text("{}")  # of `make plan`: no record
    assert main(["tiny", "--images", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" ok ") == 9
    assert "largest difference of a recomputed score: 0\n" in printed
    unrecorded = re.findall(r"without a recorded digest, so not compared: (.*)", printed)
    assert [name for line in unrecorded for name in line.split(", ") if "heatmaps_wrong_" not in name] == []
    assert not (finished / "data/tiny/slices/slices.npy").exists(), "removed, as are the checkpoints, and not missed"


@pytest.mark.parametrize(
    "name",
    [
        "data/tiny/lesions.npz",
        "data/tiny/dataset/test/strength.npy",
        f"data/tiny/finetuned/{RUN}/weights.safetensors",
        f"data/tiny/example_maps/{RUN}.npz",
        "figures/tiny/boxplots_tpr.pdf",
    ],
)
def test_a_flipped_bit_is_found(finished, name):
    content = bytearray((finished / name).read_bytes())
    content[len(content) // 2] ^= 1
    (finished / name).write_bytes(content)
    assert "bytes" in failures()[name]


@pytest.mark.parametrize(
    "name", [f"data/tiny/scores/{RUN}.parquet", "data/tiny/classification.csv", "data/tiny/dataset/train/images.npy"]
)
def test_a_truncated_table_is_found_and_does_not_stop_the_other_checks(finished, name, capsys):
    content = (finished / name).read_bytes()
    (finished / name).write_bytes(content[: len(content) // 2])
    assert "bytes" in failures()[name]
    assert capsys.readouterr().out.count(" ok ") > 1


def test_a_missing_file_is_named(finished):
    (finished / f"data/tiny/finetuned/{RUN}/predictions.parquet").unlink()
    assert "files: is missing" in failures()[f"data/tiny/finetuned/{RUN}/predictions.parquet"]


def test_an_input_that_was_changed_after_its_results_is_found(finished):
    file = finished / "data/tiny/intersections.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    record_again(finished, file)
    reasons = failures()["data/tiny/intersections.csv"]
    assert "inputs: is not what data/tiny/" in reasons
    assert "classification: differs from the image lists" in reasons


def edit(file: Path, change) -> None:
    write_table(change(read_table(file)), file)


def better(table: pd.DataFrame) -> pd.DataFrame:
    chosen = table.index[table["metric"] == "relevance_rank_accuracy"][0]
    table.loc[chosen, "value"] += 0.01
    return table


def other_chance(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table["metric"] == "relevance_rank_accuracy", "chance"] *= 0.9
    return table


def other_label(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[3, "label"] = 1 - table.loc[3, "label"]
    return table


def other_logits(table: pd.DataFrame) -> pd.DataFrame:
    test = table["split"] == "test"
    table.loc[test, "logit_1"] = table.loc[test, "logit_0"] + np.linspace(-1, 1, test.sum()).astype("float32")
    return table.assign(predicted=(table["logit_1"] > table["logit_0"]).astype(table["predicted"].dtype))


@pytest.mark.parametrize(
    ("name", "change", "check", "blamed"),
    [
        (f"scores/{RUN}.parquet", better, "scores", None),
        (f"scores/{RUN}.parquet", other_chance, "scores", None),
        (f"scores/{RUN}.parquet", lambda table: table.drop(index=7), "scores", None),
        (f"finetuned/{RUN}/predictions.parquet", other_logits, "classification", "classification.csv"),
        (f"finetuned/{RUN}/predictions.parquet", other_label, "predictions", None),
        ("classification.csv", lambda table: table.assign(auroc=0.99), "classification", None),
        ("dataset/test/images.csv", lambda table: table.assign(label=1), "dataset", None),
        ("dataset/audit.csv", lambda table: table.assign(passed=False), "dataset", None),
    ],
)
def test_an_edited_table_is_found_even_with_its_digest_made_to_fit(finished, name, change, check, blamed):
    file = finished / "data/tiny" / name
    edit(file, change)
    record_again(finished, file)
    assert f"{check}: " in failures()[f"data/tiny/{blamed or name}"]


def test_an_empty_mask_is_found(finished):
    file = finished / "data/tiny/dataset/test/strength.npy"
    strength = np.load(file)
    strength[5] = 0
    np.save(file, strength)
    record_again(finished, file)
    assert (
        "dataset: has no lesion, or one that should not be, in image 5"
        in failures()["data/tiny/dataset/test/strength.npy"]
    )


def test_scores_that_only_a_new_explanation_can_refute_are_refuted(finished):
    """Two methods exchanged: all counts and ranges hold."""
    file = finished / f"data/tiny/scores/{RUN}.parquet"
    names = {"saliency": "guided_backprop", "guided_backprop": "saliency"}
    edit(file, lambda table: table.assign(method=table["method"].replace(names)))
    record_again(finished, file)
    assert "recomputed: differs by" in failures(n_images=2)[f"data/tiny/scores/{RUN}.parquet"]


def test_a_record_that_is_no_record_is_named(finished):
    (finished / "data/tiny/intersections.csv.json").write_text("[]")
    assert "can't be read as a record" in failures()["data/tiny/intersections.csv.json"]


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is not installed")
def test_the_digests_are_read_by_sha256sum(finished):
    for sums in Paths("tiny").executed.rglob("*.sha256"):
        subprocess.run(
            ["sha256sum", "--check", "--quiet", "--strict", "--ignore-missing", sums], cwd=finished, check=True
        )


def test_an_unknown_study_is_one_line(root, capsys):
    assert main(["tinny"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
