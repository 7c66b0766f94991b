"""The tiny study gives the same bytes whatever its surroundings are; `make soak PART=determinism` tries each by itself."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conditions import SHUFFLED, all_at_once, change, foreign_locale, largest_difference, run
from faults import digests
from pretrain_xai import paths
from pretrain_xai.study import load_study
from pretrain_xai.tables import write_table


def test_folders_are_listed_in_random_order(tmp_path):
    """Else the tests below would say nothing."""
    for number in range(30):
        (tmp_path / f"{number:02}").touch()
    code = "import glob, os, pathlib, sys; d = sys.argv[1]; print(os.listdir(d), [f.name for f in os.scandir(d)], "
    code += "glob.glob('*', root_dir=d), [f.name for f in pathlib.Path(d).iterdir()], next(os.walk(d))[2])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(SHUFFLED)}
    printed = [subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(2)]
    assert printed[0] != printed[1]
    for listing in printed[0].decode().split("] [")[:-1]:
        assert listing.count(",") == 29


def test_settings_are_changed_by_dotted_names(root):
    change(
        paths.study_file("tiny"), {"finetuning.cache": {"memory_gib": 0.0}, "attribution.micro_batch": 4, "threads": 2}
    )
    study = load_study("tiny")
    assert (study.finetuning.cache.memory_gib, study.attribution.micro_batch, study.threads) == (0.0, 4, 2)


def test_a_difference_of_scores_is_seen(tmp_path):
    table = pd.DataFrame({"method": ["lrp", "saliency", "lrp"], "image_index": [0, 0, 1], "value": [0.5, 0.25, np.nan]})
    table["metric"] = "relevance_rank_accuracy"
    changes = {"same": table, "other": table.assign(value=[0.5, 0.375, np.nan]), "fewer": table[:1]}
    for name, content in changes.items():
        write_table(content, tmp_path / name / "data" / "tiny" / "scores" / "a.parquet")
    found = {name: largest_difference(tmp_path / "same", tmp_path / name) for name in changes}
    assert found == {"same": 0.0, "other": 0.125, "fewer": np.inf}


@pytest.mark.system
def test_surroundings_change_no_byte(tiny_root, tmp_path):
    """Other jobs side by side, order of files, language, time zone, hash seeds and folder, all at once."""
    result = run(tmp_path / "elsewhere", all_at_once(foreign_locale(tmp_path / "locales", "de_DE")))
    assert result.returncode == 0, result.stderr[-2000:]
    assert digests(tmp_path / "elsewhere") == digests(tiny_root)
    assert largest_difference(tiny_root, tmp_path / "elsewhere") == 0
