"""Tables and arrays as files: the same bytes for the same content, one clear error for a damaged file."""

import re
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
from damage import DAMAGE, damaged
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai import tables
from pretrain_xai.localization import confusion_counts, score_masked
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.paths import Paths
from pretrain_xai.study import Run, load_study

TABLE = pd.DataFrame({"name": ["none", "NA", "nan", "null", 'a "quoted", word', "ünï"], "count": [1, 2, 3, 4, 5, 6]})
TABLE["value"], TABLE["correct"] = [0.1, 1 / 3, np.nan, 1e-17, -2.5, 1e300], [True, False, True, True, False, False]
ARRAYS = {"maps": np.random.default_rng(0).random((2, 3, 4)), "image_index": np.array([5, 6])}
ARRAYS |= {"mask": np.eye(3, dtype=bool)}


def write_scores(study: str, run: Run, values: list[float]) -> None:
    rows = pd.DataFrame({"method": "saliency", "image_index": range(len(values)), "label": 0, "predicted": 0})
    rows = rows.assign(metric="relevance_rank_accuracy", value=values, chance=0.05)
    assert tables.write_scores(rows, load_study(study), run) == Paths(study).scores / f"{run.name}.parquet"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_survives_its_file(tmp_path, ending):
    tables.write_table(TABLE, tmp_path / f"table.{ending}")
    pd.testing.assert_frame_equal(tables.read_table(tmp_path / f"table.{ending}"), TABLE, check_exact=True)


def test_arrays_survive_their_file(tmp_path):
    tables.write_arrays(tmp_path / "arrays.npz", **ARRAYS)
    read = tables.read_arrays(tmp_path / "arrays.npz")
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_equal_content_gives_equal_bytes_at_any_time(tmp_path, ending, monkeypatch):
    files = [tmp_path / f"{name}.{ending}" for name in ("one", "other")]
    for file in files:
        if ending == "npz":
            tables.write_arrays(file, **ARRAYS)
        else:
            tables.write_table(TABLE, file)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now: now + 1e6)
    assert files[0].read_bytes() == files[1].read_bytes()
    if ending == "npz":
        assert {member.date_time[0] for member in zipfile.ZipFile(files[0]).infolist()} == {1980}


@pytest.mark.parametrize(("name", "reader"), [("a.parquet", tables.read_table), ("a.npz", tables.read_arrays)])
@given(damage=DAMAGE, kept=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_an_error_that_names_it_and_a_damaged_one_that_or_read(tmp_path, name, reader, damage, kept):
    path = tmp_path / name
    tables.write_table(TABLE, path) if name == "a.parquet" else tables.write_arrays(path, **ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(tables.TableError, match=re.escape(str(path))):
        reader(path)
    path.write_bytes(damaged(content, damage))
    try:
        reader(path)
    except tables.TableError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1,2\n', b"a,b\n1,2\n1,2,3\n"])
def test_a_csv_file_that_is_none_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(tables.TableError, match=r"table\.csv can't be read as a table") as error:
        tables.read_table(path)
    assert "\n" not in str(error.value)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "arrays.npz", object=np.array([{"a": 1}], dtype=object))
    with pytest.raises(tables.TableError, match=r"arrays\.npz"):
        tables.read_arrays(tmp_path / "arrays.npz")


def test_what_is_missing_says_which_study_to_run(root):
    for reader, path in (
        (tables.read_table, Paths("mine").data / "no.csv"),
        (tables.read_arrays, Paths("mine").data / "no.npz"),
        (lambda folder: tables.read_runs(folder, [Run("best", "mri", 1, 0)]), Paths("mine").data / "none"),
    ):
        with pytest.raises(tables.TableError, match=r"is missing: run `make study STUDY=mine` first"):
            reader(path)
    with pytest.raises(tables.TableError, match=r"is missing: run `make switches STUDY=mine` first"):
        tables.read_table(Paths("mine").switch_scores / "no.parquet")


def test_the_tables_of_runs_are_read_in_the_order_of_names_and_no_others(tmp_path):
    runs = [Run("best", "mri", depth, 0) for depth in (2, 1)]
    for run in [*runs, Run("best", "mri", 1, 7)]:
        tables.write_table(pd.DataFrame({"value": [run.finetune_depth + run.seed]}), tmp_path / f"{run.name}.parquet")
    (tmp_path / ".best-unfinished.parquet").write_bytes(b"PAR1 half of")
    assert tables.read_runs(tmp_path, runs)["value"].tolist() == [1, 2]


@pytest.fixture
def scored(root) -> str:
    """Return the tiny study, with two scores of each of its runs: 0.5 and the place of the run."""
    study = load_study("tiny")
    for number, run in enumerate([*study.runs(), *study.untrained_runs()]):
        write_scores("tiny", run, [0.5, number])
    return "tiny"


def test_scores_have_their_columns_and_come_back_by_study(scored):
    scores = tables.read_scores(scored)
    assert scores.columns.tolist() == tables.SCORE_COLUMNS
    assert scores["value"].tolist()[1::2] == [2, 3, 0, 1, 8, 6, 7, 4, 5, 9]
    assert scores["selection"].tolist() == ["best"] * 10 + ["matched"] * 10
    assert scores["pretraining"].tolist() == [*["mri"] * 4, *["natural"] * 4, "none", "none"] * 2
    for name in ("study", "protocol", "selection", "pretraining", "method", "metric"):
        assert scores[name].dtype == "category"
    named = scores[["study", "protocol", "channel_reduction", "mask_threshold"]].drop_duplicates()
    assert named.to_numpy().tolist() == [["tiny", "corrected", "sum_abs", 0.5]]


def test_true_negative_rates_from_the_counts_are_the_scores():
    """Of two methods whose rows are mixed, with ties and a full mask, and no prediction as comparison maps have it."""
    rng = np.random.default_rng(0)
    masks = rng.random((30, 6, 6)) < 0.3
    masks[0], masks[:, 0, 0] = True, True
    parts, expected = [], []
    model = {"selection": "best", "pretraining": "none", "finetune_depth": 0, "seed": 0, "predicted": pd.NA}
    for method in ("a", "b"):
        given = MaskedMaps(rng.integers(0, 9, masks.shape), masks)
        values, chance = score_masked(given, ["true_negative_rate"])["true_negative_rate"]
        row = {**model, "method": method, "image_index": np.arange(30)}
        expected.append(pd.DataFrame({**row, "metric": "true_negative_rate", "value": values, "chance": chance}))
        for name, counts in {**confusion_counts(given)._asdict(), "k": given.k}.items():
            parts.append(pd.DataFrame({**row, "metric": name, "value": counts, "chance": np.nan}))
    scores = pd.concat(parts).sample(frac=1, random_state=0)
    order = ["method", "image_index"]
    found = tables.true_negative_rates(scores.astype({"metric": "category"}))
    found = found.sort_values(order, ignore_index=True).astype({"metric": str})
    pd.testing.assert_frame_equal(found, pd.concat(expected).sort_values(order, ignore_index=True), check_dtype=False)
    assert found["value"].isna().sum() == 2, "of the full mask"


def test_predictions_of_all_runs_or_an_error(root):
    runs = [Run("best", "mri", depth, 0) for depth in (1, 2)]
    path = Paths("tiny").finetuned(runs[0].name) / "predictions.parquet"
    tables.write_table(pd.DataFrame({"depth": [1]}), path)
    assert tables.read_predictions("tiny", runs[:1])["depth"].tolist() == [1]
    with pytest.raises(tables.TableError, match=r"best-mri-depth2-seed0/predictions\.parquet is missing"):
        tables.read_predictions("tiny", runs)
