"""What each kind of the authors' result files holds, and how its content becomes rows of a table.

A file is known by what it holds, never by its name. Only what no file holds is read off its path: the selection, and
which edge filter or which class of lesions it is about. Every number is checked before it is taken.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pretrain_xai.files.safe_pickle import ReleaseError

#: their word -> ours, in lower case; the two notebooks of the authors spell some methods differently
METHODS = {
    "gradient": "integrated_gradients",
    "gradshap": "gradient_shap",
    "gradientshap": "gradient_shap",
    "deeplift": "deep_lift",
    "saliency": "saliency",
    "inputxgrad": "input_x_gradient",
    "inputxgradient": "input_x_gradient",
    "backprop": "guided_backprop",
    "deconv": "deconvolution",
    "lrp": "lrp",
}
SELECTIONS = {"best": "best", "same": "matched"}
EDGE_FILTERS = ("sobel", "laplace")
METRICS = ("auroc", "auprc", "accuracy")
COUNTS = {"tp": "TP", "fp": "FP", "fn": "FN", "tn": "TN"}
_MODEL_NAME = re.compile(
    r"(?P<prefix>.*?)finetuning_(?P<blocks>[1-4]conv|all)_(?P<momentum>\d+(?:\.\d+)?)_(?P<corpus>img|MRI)(?:_new)?"
    r"_(?P<n_slices>\d{1,9})_(?P<learning_rate>\d+(?:\.\d+)?)_(?P<seed>\d{1,18})"
)
#: longer than any name in the release; names are repeated in every row
MAX_NAME = 200
#: column -> smallest and largest value allowed; whole numbers if both are
_RANGES = {
    "label": (0, 1),
    "predicted": (0, 1),
    "image_index": (0, 10**9),
    "logit_0": (-1e30, 1e30),
    "logit_1": (-1e30, 1e30),
    "value": (0.0, 1.0),
    "height": (1, 10**4),
    "width": (1, 10**4),
    "compactness": (0.0, 2.0),
    **dict.fromkeys(METRICS, (0.0, 1.0)),
    **dict.fromkeys(COUNTS, (0, 10**9)),
}


@dataclass(frozen=True)
class ModelName:
    """What the authors wrote into the name of a model."""

    model: str
    pretraining: str
    finetune_depth: int
    learning_rate: float
    momentum: float
    n_slices: int
    seed: int
    #: the authors renamed the model (`zz_...`) to keep it out of their lists
    set_aside: bool


def parse_model_name(name: str) -> ModelName:
    """Return what the name of one of the authors' models says, with or without `.pt`, `zz_` or Jupyter's `-Copy1`.

    Raises
    ------
    ReleaseError
        If the name does not follow `..finetuning_<blocks>_<momentum>_<corpus>_<slices>_<learning rate>_<seed>`.
    """
    model = name.removesuffix(".pt")
    match = _MODEL_NAME.fullmatch(re.sub(r"-Copy\d+", "", model)) if len(name) <= MAX_NAME else None
    if not match:
        expected = "..finetuning_<1conv to 4conv or all>_<momentum>_<img or MRI>_<slices>_<learning rate>_<seed>"
        raise ReleaseError(f"{name[:120]!r} is no model name of the authors; expected {expected}")
    return ModelName(
        model=model,
        pretraining={"img": "imagenet", "MRI": "mri"}[match["corpus"]],
        finetune_depth=5 if match["blocks"] == "all" else int(match["blocks"][0]),
        learning_rate=float(match["learning_rate"]),
        momentum=float(match["momentum"]),
        n_slices=int(match["n_slices"]),
        seed=int(match["seed"]),
        set_aside=match["prefix"].startswith("zz"),
    )


def selection_of(path: Path) -> str | None:
    """Return what the file's name, else its innermost folder, says: `best`, or `same`, which is `matched` here."""
    for part in (path.stem, *reversed(path.parent.parts)):
        said = set(re.split(r"[^a-z]+", part.lower())) & set(SELECTIONS)
        if len(said) == 1:
            return SELECTIONS[said.pop()]
    return None


# Each reader gives, per table, blocks of (values that hold for all rows, columns as the file has them).

Blocks = Iterator[tuple[dict[str, Any], dict[str, Any]]]


def frame(blocks: Blocks, limit: int) -> pd.DataFrame:
    """Join blocks to a table of at most `limit` rows: each row takes a byte at least, so more of them are a trick."""
    constants, columns, lengths, total = [], [], [], 0
    for constant, block in blocks:
        sizes = sorted({len(values) for values in block.values()})
        if len(sizes) != 1:
            name = next(iter(constant.values()))
            raise ReleaseError(f"{name}: columns of unequal length {sizes[:4]}; fetch the file again")
        total += sizes[0]
        if total > limit:
            raise ReleaseError(f"announces more rows than its {limit:,} bytes can hold; fetch the file again")
        lengths.append(sizes[0])
        constants.append(constant)
        columns.append({name: _numbers(values, name) for name, values in block.items()})
    if not constants:
        raise ReleaseError("holds no models or images; fetch the file again")
    fixed = {name: np.array([constant[name] for constant in constants], dtype=object) for name in constants[0]}
    table: dict[str, Any] = {name: np.repeat(values, lengths).tolist() for name, values in fixed.items()}
    table["position"] = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame(table | {name: np.concatenate([block[name] for block in columns]) for name in columns[0]})


def _numbers(values: Any, name: str) -> np.ndarray:
    """Return a column of a file as a checked array of shape (n,)."""
    low, high = _RANGES[name]
    whole = type(low) is int
    if isinstance(values, list) and not all(isinstance(value, (int, float, np.number)) for value in values):
        raise ReleaseError(f"column {name}: holds something else than numbers; fetch the file again")
    array = np.asarray(values) if len(values) else np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in ("iu" if whole else "iuf"):
        expected = "whole numbers" if whole else "numbers"
        raise ReleaseError(f"column {name}: expected a row of {expected}, found {array.ndim}-d {array.dtype}")
    if not np.all((array >= low) & (array <= high)):  # false for NaN as well
        raise ReleaseError(f"column {name}: values outside {low} to {high}; fetch the file again")
    return array.astype(np.int64 if whole else np.float64)


def _columns(values: Any, *names: str) -> list[Any]:
    """Return items of a dictionary that must be rows of numbers."""
    found = [values.get(name) if isinstance(values, dict) else None for name in names]
    if not all(isinstance(column, list) or (isinstance(column, np.ndarray) and column.ndim) for column in found):
        raise ReleaseError(f"lacks some of the rows of numbers {', '.join(names)}; fetch the file again")
    return found


def _model(name: Any, file: Path) -> dict[str, Any]:
    parsed = parse_model_name(name if isinstance(name, str) else type(name).__name__)
    return {
        "model": parsed.model,
        "pretraining": parsed.pretraining,
        "finetune_depth": parsed.finetune_depth,
        "seed": parsed.seed,
        "selection": _known_selection(file),
    }


def _known_selection(file: Path) -> str:
    selection = selection_of(file)
    if selection is None:
        raise ReleaseError("neither its name nor a folder says `best` or `same`; put it into a folder of that name")
    return selection


def _method(name: str) -> str:
    if name.lower() not in METHODS:
        raise ReleaseError(f"{name[:80]!r} is no XAI method of the study; expected one of {', '.join(METHODS)}")
    return METHODS[name.lower()]


def _items(content: Any) -> list[tuple[str, Any]]:
    if not isinstance(content, dict):
        raise ReleaseError(f"holds a {type(content).__name__} in place of a dictionary; fetch the file again")
    return list(content.items())


def _first(content: Any) -> Any:
    """Return the first value of a dictionary or item of a list, which tells what kind of file it is."""
    if isinstance(content, dict):
        return next(iter(content.values()), None)
    return content[0] if isinstance(content, (list, tuple)) and content else None


def _is_counts(content: Any) -> bool:
    return isinstance(content, dict) and set(COUNTS.values()) <= set(content)


def _is_predictions(content: Any) -> bool:
    return isinstance(content, list) and isinstance(_first(content), dict) and "logits" in content[0]


def _is_lesions(content: Any) -> bool:
    pairs = isinstance(content, list) and all(isinstance(item, (list, tuple)) and len(item) == 2 for item in content)
    return pairs and bool(content)


def _read_predictions(content: list[Any], file: Path) -> dict[str, Blocks]:
    def predictions() -> Blocks:
        for entry in content:
            labels, predicted, logits = _columns(entry, "real_labels", "pred_labels", "logits")
            if not isinstance(logits, np.ndarray) or logits.ndim != 2 or logits.shape[1] != 2:
                raise ReleaseError("logits: expected an array of shape (images, 2); fetch the file again")
            rows = {"label": labels, "predicted": predicted, "logit_0": logits[:, 0], "logit_1": logits[:, 1]}
            yield _model(entry.get("model"), file), {"image_index": np.arange(len(labels)), **rows}

    def stored() -> Blocks:
        for entry in content:
            names = {"auroc": "AUROC", "auprc": "AUPRC", "accuracy": "ACC"}
            values = {ours: _single(entry.get(theirs)) for ours, theirs in names.items()}
            yield _model(entry.get("model"), file), values

    return {"predictions": predictions(), "stored_metrics": stored()}


def _single(value: Any) -> list[Any] | np.ndarray:
    """Return one number, be it a Python number or a tensor without axes, as a column."""
    return value.reshape(-1) if isinstance(value, np.ndarray) else [value]


def _read_misclassified(content: dict[str, Any], file: Path) -> dict[str, Blocks]:
    blocks = (
        (_model(name, file), {"image_index": _columns({"images": images}, "images")[0]})
        for name, images in content.items()
    )
    return {"misclassified": blocks}


def _read_ratios(content: dict[str, Any], file: Path) -> dict[str, Blocks]:
    """Read the first dictionary of each pair; the second, for earth mover's distances, was never filled."""
    blocks = (
        (_model(name, file) | {"method": _method(method)}, {"value": _columns({method: ratios}, method)[0]})
        for name, pair in content.items()
        for method, ratios in _items(_first(pair) if isinstance(pair, tuple) else pair)
    )
    return {"incorrect_ratios": blocks}


def _counts(source: dict[str, Any], method: str, counts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    columns = _columns(counts, *COUNTS.values())
    return {"source": source["model"], **source, "method": method}, dict(zip(COUNTS, columns, strict=True))


def _map(name: str, file: Path) -> dict[str, Any]:
    """Return the source of a comparison map: no model that was trained."""
    return {"model": name, "pretraining": "none", "finetune_depth": 0, "seed": -1, "selection": _known_selection(file)}


def _read_models(content: dict[str, Any], file: Path) -> dict[str, Blocks]:
    blocks = (
        _counts(_model(name, file), _method(method), counts)
        for name, methods in content.items()
        for method, counts in _items(methods)
    )
    return {"confusion": blocks}


def _read_untrained(content: dict[str, Any], file: Path) -> dict[str, Blocks]:
    source = _map("untrained", file)
    return {"confusion": (_counts(source, _method(method), counts) for method, counts in content.items())}


def _read_edge_filter(content: dict[str, Any], file: Path) -> dict[str, Blocks]:
    named = [name for name in EDGE_FILTERS if name in file.stem.lower()]
    if len(named) != 1:
        raise ReleaseError("holds counts of one edge filter, but its name does not say which; name it sobel or laplace")
    return {"confusion": iter([_counts(_map(named[0], file), named[0], content)])}


def _read_lesions(content: list[Any], file: Path) -> dict[str, Blocks]:
    label = 1 if "not_round" in file.stem else 0 if "round" in file.stem else -1
    patches = [patch for patch, _ in content]
    if not all(isinstance(patch, np.ndarray) and patch.ndim == 2 and patch.dtype.kind == "f" for patch in patches):
        raise ReleaseError("holds a lesion that is no 2-d array of floats; fetch the file again")
    heights, widths = ([patch.shape[axis] for patch in patches] for axis in (0, 1))
    rows = {"height": heights, "width": widths, "compactness": [compactness for _, compactness in content]}
    return {"lesions": iter([({"label": label}, rows)])}


#: kind -> (does the content look like it, its reader); the first that matches is taken
KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Path], dict[str, Blocks]]]] = {
    "edge filter": (_is_counts, _read_edge_filter),
    "untrained network": (lambda x: isinstance(x, dict) and _is_counts(_first(x)), _read_untrained),
    "models": (lambda x: isinstance(x, dict) and _is_counts(_first(_first(x))), _read_models),
    "predictions": (_is_predictions, _read_predictions),
    "ratios": (lambda x: isinstance(x, dict) and isinstance(_first(x), (tuple, dict)), _read_ratios),
    "misclassified": (lambda x: isinstance(x, dict) and isinstance(_first(x), (np.ndarray, list)), _read_misclassified),
    "lesions": (_is_lesions, _read_lesions),
}
