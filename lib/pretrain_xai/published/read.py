"""Read the authors' result files into tidy tables.

A file is known by what it holds, never by its name. Only what no file holds is read off its path: the selection, and
which edge filter it is about; files of lesion patches, `*lesions.pkl`, hold no results. Every number is checked before it
is taken.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from pretrain_xai import provenance, safe_pickle
from pretrain_xai.safe_pickle import ReleaseError

#: their word -> ours, in lower case; the two notebooks of the authors spell some methods differently
METHODS = {"gradient": "integrated_gradients", "gradshap": "gradient_shap", "gradientshap": "gradient_shap"}
METHODS |= {"deeplift": "deep_lift", "saliency": "saliency", "inputxgrad": "input_x_gradient"}
METHODS |= {
    "inputxgradient": "input_x_gradient",
    "backprop": "guided_backprop",
    "deconv": "deconvolution",
    "lrp": "lrp",
}
SELECTIONS = {"best": "best", "same": "matched"}
EDGE_FILTERS = ("sobel", "laplace")
COUNTS = ["tp", "fp", "fn", "tn"]
METRICS = {"auroc": "AUROC", "auprc": "AUPRC", "accuracy": "ACC"}
_MODEL_NAME = re.compile(
    r".{0,99}?finetuning_(?P<blocks>[1-4]conv|all)_[\d.]+_(?P<corpus>img|MRI)(_new)?_\d+_[\d.]+_(?P<seed>\d{1,18})"
)
_MODEL_COLUMNS = ["model", "pretraining", "finetune_depth", "seed", "selection"]
_COLUMNS = {
    "predictions": [*_MODEL_COLUMNS, "image_index", "label", "predicted", "logit_0", "logit_1"],
    "stored_metrics": [*_MODEL_COLUMNS, *METRICS],
    "misclassified": [*_MODEL_COLUMNS, "position", "image_index"],
    "incorrect_ratios": [*_MODEL_COLUMNS, "method", "position", "value"],
    "confusion": ["source", "selection", "method", "position", *COUNTS, "pretraining", "finetune_depth", "seed"],
    "files": ["file", "kind", "selection", "sha256"],
    "problems": ["file", "what"],
}
#: column -> smallest and largest value allowed; whole numbers if both are
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("label", "predicted"), (0, 1)),
    **dict.fromkeys(("image_index", *COUNTS), (0, 10**9)),
    **dict.fromkeys(("value", *METRICS), (0.0, 1.0)),
    **dict.fromkeys(("logit_0", "logit_1"), (-1e30, 1e30)),
}


class Release(SimpleNamespace):
    """The authors' result files as tidy tables; see `_COLUMNS` for the columns of each.

    Attributes
    ----------
    predictions : one row per model and test image
    stored_metrics : AUROC, AUPRC and accuracy as the files state them, one row per model
    misclassified : one row per model and misclassified image
    incorrect_ratios : the explanation performance on the misclassified images, rounded by the authors to 2 decimals
    confusion : counts of pixels per map and image; `source` is `untrained`, `sobel`, `laplace` or a model's name, and
        `position` counts the images that all models of the selection classify correctly
    files : one row per file that was read, with its kind
    problems : one row per file that could not be read
    """


def read_release(folder: Path) -> Release:
    """Read every pickle below `folder`; what cannot be read becomes a row of `.problems`, and the rest is still read.

    Raises
    ------
    ReleaseError
        If there is no such folder, or no pickle of results in it.
    """
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*.pkl"))]
    files = [file for file in files if not re.search(r"(^|/)\.|lesions\.pkl$", file.as_posix())]
    if not files:
        raise ReleaseError(f"{folder}: no pickle there; git clone https://github.com/Marta54/Pretrain_XAI_gt into it")
    tables: dict[str, list[pd.DataFrame]] = {table: [] for table in _COLUMNS}
    taken: dict[tuple[Any, ...], Path] = {}
    for file in files:
        try:
            found = _read_file(folder / file, file)
            # of two files about the same models the first: both would count every image twice
            if repeated := [key for key in found if key in taken]:
                raise ReleaseError(f"about {repeated[0][1]}, as is {taken[repeated[0]]}, which was taken; remove one")
            taken |= dict.fromkeys(found, file)
        except Exception as error:  # a file may hold anything
            what = str(error) if isinstance(error, ReleaseError) else f"not as the authors' files are ({error!r:.100})"
            what = what.removeprefix(f"{folder / file}: ")
            found = {("problems",): pd.DataFrame([{"file": file.as_posix(), "what": what}])}
        for (table, *_), rows in found.items():
            tables[table].append(rows)
    whole = {table: pd.concat(rows, ignore_index=True) for table, rows in tables.items() if rows}
    return Release(**{table: whole.get(table, pd.DataFrame(columns=names))[names] for table, names in _COLUMNS.items()})


def model_columns(name: str) -> dict[str, Any]:
    """Return what the name of one of the authors' models says, with or without `.pt`, `zz_` or Jupyter's `-Copy1`.

    Raises
    ------
    ReleaseError
        If the name does not follow `..finetuning_<blocks>_<momentum>_<corpus>_<slices>_<learning rate>_<seed>`.
    """
    model = name.removesuffix(".pt")
    if not (match := _MODEL_NAME.fullmatch(re.sub(r"-Copy\d+", "", model[:200]))):
        expected = "..finetuning_<1conv to 4conv or all>_<momentum>_<img or MRI>_<slices>_<learning rate>_<seed>"
        raise ReleaseError(f"{name[:120]!r} is no model name of the authors; expected {expected}")
    corpus, depth = "mri" if match["corpus"] == "MRI" else "imagenet", int(match["blocks"].replace("all", "5")[0])
    return {"model": model, "pretraining": corpus, "finetune_depth": depth, "seed": int(match["seed"])}


def selection_of(path: Path) -> str | None:
    """Return what the file's name, else its innermost folder, says: `best`, or `same`, which is `matched` here."""
    for part in (path.stem, *reversed(path.parent.parts)):
        said = set(re.split(r"[^a-z]+", part.lower())) & set(SELECTIONS)
        if len(said) == 1:
            return SELECTIONS[said.pop()]
    return None


def _read_file(path: Path, file: Path) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Return the parts of tables that a file holds, by table and what they are about, with its own row of `files`."""
    content, selection = safe_pickle.load(path), selection_of(file)
    found: dict[tuple[Any, ...], pd.DataFrame] = {}
    row: dict[str, Any] = {"file": file.as_posix(), "selection": selection}
    for row["kind"], table, about, columns in _blocks(content, file.stem):
        about["selection"] = selection
        rows = {name: _numbers(values, name) for name, values in columns.items()}
        found[table, *about.values()] = pd.DataFrame(about | rows).reset_index(names="position")
    if not found:
        raise ReleaseError(f"holds a {type(content).__name__} of none of the known kinds; move it elsewhere")
    if not selection:
        raise ReleaseError("neither its name nor a folder says `best` or `same`; put it into a folder of that name")
    return found | {("files", file): pd.DataFrame([row | {"sha256": provenance.sha256(path)}])}


def _blocks(content: Any, stem: str) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Yield what a file holds: its kind, a table, values of all its rows, and columns as the file has them."""
    match content:
        case {"TP": _}:
            named = [name for name in EDGE_FILTERS if name in stem.lower()]
            if len(named) != 1:
                raise ReleaseError("holds counts of one edge filter; name the file sobel or laplace")
            yield "edge filter", "confusion", _map(named[0], named[0]), _counts(content)
        case [{"logits": _}, *_]:
            for entry in content:
                rows = {"label": entry["real_labels"], "predicted": entry["pred_labels"]}
                rows |= dict(zip(("logit_0", "logit_1"), entry["logits"].T, strict=True))
                rows["image_index"] = np.arange(len(rows["label"]))
                yield "predictions", "predictions", model_columns(entry["model"]), rows
                stored = {ours: [float(entry[theirs])] for ours, theirs in METRICS.items()}
                yield "predictions", "stored_metrics", model_columns(entry["model"]), stored
        case dict():
            for name, value in content.items():
                match value:
                    case {"TP": _}:
                        yield "untrained network", "confusion", _map("untrained", _method(name)), _counts(value)
                    case np.ndarray() | [int() | np.number(), *_] | []:
                        yield "misclassified", "misclassified", model_columns(name), {"image_index": value}
                    # the second of a pair, for earth mover's distances, was never filled
                    case (dict() as methods, dict()) | (dict() as methods):
                        for method, values in methods.items():
                            constants = model_columns(name) | {"method": _method(method)}
                            if isinstance(values, dict):
                                yield "models", "confusion", constants | {"source": constants["model"]}, _counts(values)
                            else:
                                yield "ratios", "incorrect_ratios", constants, {"value": values}


def _map(source: str, method: str) -> dict[str, Any]:
    """Return the columns of a comparison map: no model that was trained."""
    return {"source": source, "pretraining": "none", "finetune_depth": 0, "seed": -1, "method": method}


def _method(name: str) -> str:
    if name.lower() not in METHODS:
        raise ReleaseError(f"{name[:80]!r} is no XAI method of the study; expected one of {', '.join(METHODS)}")
    return METHODS[name.lower()]


def _counts(counts: dict[str, Any]) -> dict[str, Any]:
    return {name: counts[name.upper()] for name in COUNTS}


def _numbers(values: Any, name: str) -> np.ndarray:
    """Return a column of a file as a checked array of shape (n,)."""
    low, high = _RANGES[name]
    whole = type(low) is int
    column = pd.Series(
        [value if isinstance(value, int | float | np.number) else np.nan for value in values], dtype=float
    )
    if not column.between(low, high).all() or (whole and (column % 1).any()):  # NaN is not between
        raise ReleaseError(
            f"column {name}: expected a row of {'whole ' * whole}numbers from {low} to {high}, found others"
        )
    return column.to_numpy(np.int64 if whole else np.float64)
