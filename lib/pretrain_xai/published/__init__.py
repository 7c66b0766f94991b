"""The result files that the authors released (GitHub `Marta54/Pretrain_XAI_gt`, MIT), read safely into tidy tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pretrain_xai import provenance
from pretrain_xai.files import safe_pickle
from pretrain_xai.files.safe_pickle import ReleaseError
from pretrain_xai.published.files import COUNTS, KINDS, METRICS, frame, parse_model_name, selection_of

__all__ = ["Release", "ReleaseError", "parse_model_name", "read_release"]

#: larger than any result file; slices, which may lie in the same folder, take 10 GB
MAX_RESULT_BYTES = 256 * 2**20

_MODEL_COLUMNS = ["model", "pretraining", "finetune_depth", "seed", "selection"]
_COLUMNS = {
    "predictions": [*_MODEL_COLUMNS, "image_index", "label", "predicted", "logit_0", "logit_1"],
    "stored_metrics": [*_MODEL_COLUMNS, *METRICS],
    "misclassified": [*_MODEL_COLUMNS, "position", "image_index"],
    "incorrect_ratios": [*_MODEL_COLUMNS, "method", "position", "value"],
    "confusion": ["source", "selection", "method", "position", *COUNTS, "pretraining", "finetune_depth", "seed"],
    "lesions": ["label", "position", "height", "width", "compactness"],
    "files": ["file", "kind", "selection", "n_rows", "sha256"],
    "problems": ["file", "what"],
}


@dataclass(frozen=True)
class Release:
    """The authors' result files as tidy tables; see `_COLUMNS` for the columns of each.

    Attributes
    ----------
    predictions : one row per model and test image
    stored_metrics : AUROC, AUPRC and accuracy as the files state them, one row per model
    misclassified : one row per model and misclassified image
    incorrect_ratios : the explanation performance on the misclassified images, rounded by the authors to 2 decimals
    confusion : counts of pixels per map and image; `source` is `untrained`, `sobel`, `laplace` or a model's name, and
        `position` counts the images that all models of the selection classify correctly
    lesions : one row per released patch; label 0 round, 1 irregular, -1 if the file's name does not tell
    files : one row per file that was read, with its kind
    problems : one row per file that could not be read
    """

    folder: Path
    predictions: pd.DataFrame
    stored_metrics: pd.DataFrame
    misclassified: pd.DataFrame
    incorrect_ratios: pd.DataFrame
    confusion: pd.DataFrame
    lesions: pd.DataFrame
    files: pd.DataFrame
    problems: pd.DataFrame


def read_release(folder: Path) -> Release:
    """Read every pickle below `folder`; what cannot be read becomes a row of `.problems`, and the rest is still read.

    Raises
    ------
    ReleaseError
        If there is no such folder, or no pickle in it.
    """
    paths = sorted(path for path in folder.rglob("*.pkl") if not _is_hidden(path.relative_to(folder)))
    if not paths:
        what = "holds no pickle" if folder.is_dir() else "is no folder"
        clone = "git clone https://github.com/Marta54/Pretrain_XAI_gt data/published"
        raise ReleaseError(f"{folder}: {what}; bring the authors' release there, for instance: {clone}")
    tables: dict[str, list[pd.DataFrame]] = {table: [] for table in _COLUMNS}
    seen: dict[tuple[Any, ...], str] = {}
    for path in paths:
        try:
            found = _read_file(path, path.relative_to(folder))
            _check_new(found, seen, path.relative_to(folder).as_posix())
        except ReleaseError as error:
            problem = {"file": path.relative_to(folder).as_posix(), "what": str(error).removeprefix(f"{path}: ")}
            found = {"problems": pd.DataFrame([problem])}
        for table, rows in found.items():
            tables[table].append(rows)
    return Release(folder, **{table: _joined(rows, _COLUMNS[table]) for table, rows in tables.items()})


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _joined(rows: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _check_new(found: dict[str, pd.DataFrame], seen: dict[tuple[Any, ...], str], file: str) -> None:
    """Keep the first of two files about the same models: both would count every image twice."""
    identities = {"lesions": ["label"], "confusion": ["source", "selection"]}
    keys = [
        (table, *key)
        for table, rows in found.items()
        if table != "files"
        for key in rows[identities.get(table, ["model", "selection"])].drop_duplicates().itertuples(index=False)
    ]
    if repeated := [key for key in keys if key in seen]:
        _, name, *_ = repeated[0]
        raise ReleaseError(f"about {name}, as is {seen[repeated[0]]}, which was taken; remove one of the two")
    seen.update(dict.fromkeys(keys, file))


def _read_file(path: Path, file: Path) -> dict[str, pd.DataFrame]:
    """Return the tables that a file holds, and its own row of the table `files`."""
    if path.exists() and path.stat().st_size > MAX_RESULT_BYTES:
        raise ReleaseError(f"skipped, as it is larger than any result file ({path.stat().st_size:,} bytes)")
    content = safe_pickle.load(path)
    kind = next((kind for kind, (matches, _) in KINDS.items() if matches(content)), None)
    if kind is None:
        what = f"holds a {type(content).__name__} of none of the known kinds ({', '.join(KINDS)})"
        raise ReleaseError(f"{what}; move it elsewhere if it is no file of the authors")
    blocks = KINDS[kind][1](content, file)
    tables = {table: frame(rows, path.stat().st_size) for table, rows in blocks.items()}
    about = {
        "file": file.as_posix(),
        "kind": kind,
        "selection": selection_of(file) or "",
        "sha256": provenance.sha256(path),
    }
    return tables | {"files": pd.DataFrame([about | {"n_rows": max(map(len, tables.values()))}])}
