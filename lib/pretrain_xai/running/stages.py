"""What each notebook's results depend on: settings, switches of the protocol, and code.

The batch runs a notebook again when one of these changes, and only then. Code is compared by what it does: comments,
docstrings, prose and file times do not count.
"""

import ast
import hashlib
from contextlib import suppress
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from pretrain_xai import paths
from pretrain_xai.protocol import DATASET_SWITCHES
from pretrain_xai.slices.files import SourceError, source_state
from pretrain_xai.study import Study


class Stage(NamedTuple):
    """What a notebook's results depend on, and what it makes (one of `paths.ARTEFACTS`).

    `settings` are dotted names of a study file, `switches` fields of the protocol. `draws` says that the results are
    figures; else drawing code does not count, so that a changed style trains no network again.
    """

    settings: tuple[str, ...]
    switches: tuple[str, ...] = ()
    artefact: str = "scores"
    draws: bool = False


#: modules and packages that only draw
_DRAWING = ("drawing", "names")
#: networks and how they run: results are the same to the bit only for the same
_NETWORK = ("network", "threads", "device")
#: what tables and figures name
_NAMED = ("main_selection", "pretraining.corpora", "pretraining.target")
_PIXELS = ("dataset.image_size", "dataset.brain_intensity")
_MAPS = ("channel_reduction", "mask_threshold", "ties")
_TRAINING = ("dropout_active", "first_conv_frozen", "head_kept")
_METHODS = ("captum_deep_lift", "gradient_shap_unseeded")
_SCORING = ("dropout_active", *_MAPS, "signed_edges", *_METHODS)
_SUMMARY = Stage(("attribution.methods", *_NAMED), draws=True)
_OF_SELECTIONS = Stage((*_SUMMARY.settings, "finetuning.matching"), draws=True)
_COMPARED = ("compared_depths", "protocols", "reseeds", "base_protocol", "switches")

#: what depends on no setting here: how fast, with how much memory and disk (`finetuning.cache_gib`, `workers`); the models
#: and their learning rates, which the Snakefile watches
STAGES = {
    "01_make_lesions": Stage(("lesions",), artefact="lesions"),
    "02_make_slices": Stage(("slices", "pretraining.target"), artefact="slices"),
    "03_build_dataset": Stage(("lesions", "slices.seed", "dataset"), DATASET_SWITCHES, "dataset"),
    "04_pretrain": Stage(("pretraining", *_PIXELS, *_NETWORK), artefact="pretrained"),
    "05_finetune": Stage(("finetuning.training", "kept_checkpoints", *_NETWORK), _TRAINING, "finetuned"),
    # the checkpoints that it reads are made anew for it, so that its figure does not count
    "12_match_accuracy": Stage(("finetuning.matching", "main_selection", *_NETWORK), ("dropout_active",), "finetuned"),
    "06_classification_metrics": Stage(_NAMED, ("swapped_rates",), "classification", draws=True),
    "07_find_intersections": Stage(("finetuning.matching", "attribution.depths"), artefact="intersections"),
    "08_explanation_metrics": Stage(("attribution", "image_limits", "protocol_name", *_NETWORK), _SCORING),
    "09_heatmaps": Stage(("attribution", *_NAMED), ("mask_threshold", "ties"), draws=True),
    "10_boxplots": _OF_SELECTIONS,
    "11_boxplots_incorrect": _SUMMARY,
    "17_score_switches": Stage(("attribution", *_NETWORK), _SCORING),
    "18_compare_protocols": Stage(("attribution", "main_selection", *_COMPARED), draws=True),
    "13_statistics": Stage(_SUMMARY.settings, ("mask_threshold",), draws=True),
    "14_equal_accuracy": _OF_SELECTIONS,
    "15_sensitivity": Stage(("attribution", *_NAMED), (*_MAPS, "signed_edges"), draws=True),
    "16_sanity_checks": Stage(("attribution", *_NETWORK), ("dropout_active", *_MAPS, *_METHODS), draws=True),
}


def fingerprint(study: Study, notebook: str) -> dict[str, Any]:
    """Return what the results of `notebook` (a key of STAGES) depend on, besides files that other notebooks write.

    The slices depend on the files that a study brings: on their names, sizes and times of change.
    """
    stage = STAGES[notebook]
    found: dict[str, Any] = {"code": code_digest(paths.NOTEBOOKS / f"{notebook}.py", () if stage.draws else _DRAWING)}
    if "network" in stage.settings and study.network.module:
        found["own network"] = code_digest(paths.source_file(study.network.module))
    if notebook == "02_make_slices":
        found["source"] = "missing"
        with suppress(SourceError):  # a plan is made without the data; the batch refuses to start
            found["source"] = source_state(study.slices)
    for name in stage.settings:
        value = reduce(getattr, name.split("."), study)
        found[name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return found | {name: getattr(study.protocol, name) for name in stage.switches}


@cache
def code_digest(path: Path, without: tuple[str, ...] = ()) -> str:
    """Return a digest of what a Python file or percent notebook does, with all that it imports of this library.

    `without` names modules and packages of the library that do not count.
    """
    found: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        found[file], imported = _read(file.read_text(encoding="utf-8"))
        for module in imported:
            other = paths.LIBRARY.parent.joinpath(*module.split(".")).with_suffix(".py")
            if module.split(".")[1] not in without and other not in found and other.is_file():
                waiting.append(other)
    return hashlib.sha256("".join(found[file] for file in sorted(found)).encode()).hexdigest()[:16]


@cache
def _read(code: str) -> tuple[str, list[str]]:
    """Return a digest of what code does, without docstrings, and the modules of this library that it may import."""
    tree, imported = ast.parse(code), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return digest, [module for module in imported if module.startswith("pretrain_xai.")]
