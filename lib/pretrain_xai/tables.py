"""Tables as files: written whole, read as folders, checked when read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import write_array_header_1_0

from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import atomic_path
from pretrain_xai.study import MODEL_COLUMNS, Run, Study, load_study

#: a row of scores: one number of one map, how it was made, and what a random map is expected to score
SCORE_COLUMNS = [
    *("study", "protocol", *MODEL_COLUMNS, "method", "channel_reduction", "mask_threshold"),
    *("image_index", "label", "predicted", "metric", "value", "chance"),
]
CLASSIFICATION_COLUMNS = [*MODEL_COLUMNS, "auroc", "auprc", "accuracy", "sensitivity", "specificity"]
#: score columns that repeat few values: stored and held as categories
_CATEGORIES = ["study", "protocol", "selection", "pretraining", "method", "channel_reduction", "metric"]


class TableError(UserError):
    """A table is missing, broken or not what it should be; the message says what to run."""


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically as CSV or Parquet, by the ending of `path`; equal tables give equal bytes."""
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote.

    Raises
    ------
    TableError
        The file is missing or can't be read.
    """
    if path.suffix == ".parquet":
        return _read(path, "a table", pd.read_parquet)
    # only an empty field is missing: "none" and "NA" are words
    return _read(path, "a table", partial(pd.read_csv, keep_default_na=False, na_values=[""]))


def read_runs(folder: Path, runs: Iterable[Run]) -> pd.DataFrame:
    """Read the tables of `runs` in a folder with one Parquet file per run, as one, in the order of their names.

    Files of other runs may lie beside them, such as of seeds that the study had before.

    Raises
    ------
    TableError
        The table of a run is missing.
    """
    tables = [read_table(folder / f"{name}.parquet") for name in sorted(run.name for run in runs)]
    return pd.concat(tables, ignore_index=True)


def write_scores(scores: pd.DataFrame, study: Study, run: Run) -> Path:
    """Write the scores of a model as score rows, which say of which study, protocol and model they are; return the path."""
    protocol, path = study.protocol, study.paths.scores / f"{run.name}.parquet"
    scored = {name: getattr(protocol, name) for name in ("channel_reduction", "mask_threshold")}
    named = scores.assign(study=study.name, protocol=study.protocol_name, **vars(run), **scored)
    write_table(named[SCORE_COLUMNS], path)
    return path


def read_scores(study: str) -> pd.DataFrame:
    """Return the tidy score table of a finished study or variant, one row per model, method, image and metric.

    `value` is NaN where a map has no such score, `chance` where a metric has no chance level.
    """
    settings = load_study(study)
    table = read_runs(Paths(study).scores, settings.scored_runs())
    return table.astype({name: "category" for name in _CATEGORIES})


def true_negative_rates(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the true negative rate, TN / (TN + FP), from the counts, which every study writes.

    Parameters
    ----------
    scores : DataFrame
        Score rows with the metrics `true_negatives`, `false_positives` and `k` of each model, method and image.

    Returns
    -------
    DataFrame with the columns of `scores`
        `chance` is 1 - k / pixels; where the mask is the whole image `value` is NaN.
    """
    row = [*MODEL_COLUMNS, "method", "image_index"]
    counts = {name: rows.set_index(row) for name, rows in scores.groupby("metric", observed=True)}
    rest = counts["true_negatives"]["value"] + counts["false_positives"]["value"]
    rates = counts["true_negatives"].assign(metric="true_negative_rate")
    rates = rates.assign(value=rates["value"] / rest, chance=1 - counts["k"]["value"] / (counts["k"]["value"] + rest))
    return rates.reset_index()[scores.columns]


def read_classification(study: str) -> pd.DataFrame:
    """Return the classification metrics of a finished study, one row per fine-tuned model, on its test images."""
    return read_table(Paths(study).classification)[CLASSIFICATION_COLUMNS]


def read_predictions(study: str, runs: Iterable[Run]) -> pd.DataFrame:
    """Return the predictions of all `runs`, one row per model, split and image; a missing model is a TableError."""
    tables = [read_table(Paths(study).finetuned(run.name) / "predictions.parquet") for run in runs]
    return pd.concat(tables, ignore_index=True)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write named arrays as one `.npz` atomically; equal arrays give equal bytes."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays that `write_arrays` wrote.

    Raises
    ------
    TableError
        The file is missing or broken.
    """
    return _read(path, "arrays", lambda file: dict(np.load(file, allow_pickle=False)))


def _read(path: Path, kind: str, read: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        data = paths.root() / "data"
        study = path.relative_to(data).parts[0] if path.is_relative_to(data) else "demo"
        target = "switches" if path.parent == Paths(study).switch_scores else "study"
        command = "make demo" if (study, target) == ("demo", "study") else f"make {target} STUDY={study}"
        raise TableError(f"{path} is missing: run `{command}` first")
    try:
        return read(path)
    except Exception as error:  # pandas, Arrow, numpy, zipfile and zlib raise nearly anything for a damaged file
        raise TableError(f"{path} can't be read as {kind}: {' '.join(str(error).split())}") from None


def read_with_arrays(path: Path, *names: str) -> Any:
    """Read the arrays `NAME.npy` beside a table, memory-mapped, and last the table; all have as many rows.

    Raises
    ------
    TableError
        A file is missing or broken, or has another number of rows.
    """
    arrays, table = list[np.ndarray](), read_table(path)
    for name in names:
        file = path.with_name(f"{name}.npy")
        arrays.append(_read(file, "array", partial(np.load, mmap_mode="r", allow_pickle=False)))
        if len(arrays[-1]) != len(table):
            raise TableError(f"{file} has {len(arrays[-1])} rows, {path.name} {len(table)}; make both again")
    return *arrays, table


@contextmanager
def growing_array(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that adds float32 rows to a `.npy` file, which is written whole or not at all.

    Memory does not grow with the number of rows.
    """
    shapes: list[tuple[int, ...]] = []

    def add(rows: np.ndarray) -> None:
        file.write(np.ascontiguousarray(rows, dtype="<f4").data)
        shapes.append(rows.shape)

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.seek(128)  # as long as the header is for any number of rows
        yield add
        file.seek(0)
        shape = (sum(n_rows for n_rows, *_ in shapes), *shapes[0][1:])
        write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
