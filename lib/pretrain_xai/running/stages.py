"""What each notebook's results depend on: settings, switches of the protocol, and code.

The batch runs a notebook again when one of these changes, and only then. Code is compared by what it does: comments,
docstrings, prose and file times do not count.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pretrain_xai import paths
from pretrain_xai.protocol import DATASET_SWITCHES
from pretrain_xai.settings.own_code import source_file
from pretrain_xai.slices.files import SourceError, source_state
from pretrain_xai.study import Study


@dataclass(frozen=True)
class Stage:
    """What a notebook makes (one of `paths.ARTEFACTS`) and what its results depend on.

    `settings` are dotted names of a study file, `switches` fields of the protocol. `draws` says that the results are
    figures; else drawing code does not count, so that a changed style trains no network again.
    """

    artefact: str
    settings: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    draws: bool = False


#: settings that notebooks use and no result depends on: how fast, and with how much memory
WITHOUT_EFFECT = ("finetuning.cache", "workers")
#: modules and packages that only draw
_DRAWING = ("drawing", "names")


#: how networks run: results are the same to the bit only for the same
_RUNNING = ("threads", "device", "channels_last")
_SCORING = ("channel_reduction", "mask_threshold", "ties", "signed_edges", "captum_deep_lift", "gradient_shap_unseeded")

STAGES = {
    "01_make_lesions": Stage("lesions", ("lesions",)),
    "02_make_slices": Stage("slices", ("slices", "pretraining.target")),
    "03_build_dataset": Stage("dataset", ("lesions", "slices.seed", "dataset"), DATASET_SWITCHES),
    "04_pretrain": Stage(
        "pretrained", ("pretraining", "network", "dataset.image_size", "dataset.brain_intensity", *_RUNNING)
    ),
    "04b_take_weights": Stage("pretrained", ("pretraining.weights", "network")),
    "05_finetune": Stage(
        "finetuned",
        ("finetuning.training", "network", *_RUNNING, "kept_checkpoints"),
        ("dropout_active", "first_conv_frozen", "head_kept"),
    ),
    "05b_match_accuracy": Stage(
        "finetuned",
        ("finetuning.matching", "main_selection", "network", *_RUNNING, "pretraining.corpora", "pretraining.target"),
        ("dropout_active",),
        draws=True,
    ),
    "06_classification_metrics": Stage(
        "classification",
        ("pretraining.corpora", "pretraining.target", "main_selection"),
        ("swapped_rates",),
        draws=True,
    ),
    "07_find_intersections": Stage("intersections", ("finetuning.matching",)),
    "08_explanation_metrics": Stage(
        "scores", ("attribution", "image_limits", "network", *_RUNNING, "protocol_name"), ("dropout_active", *_SCORING)
    ),
    "09_heatmaps": Stage(
        "scores",
        ("attribution", "pretraining.corpora", "pretraining.target", "main_selection"),
        ("mask_threshold", "ties"),
        draws=True,
    ),
    "10_boxplots": Stage(
        "scores",
        ("attribution.methods", "pretraining.corpora", "pretraining.target", "main_selection", "finetuning.matching"),
        draws=True,
    ),
    "11_boxplots_incorrect": Stage(
        "scores", ("attribution.methods", "pretraining.corpora", "pretraining.target", "main_selection"), draws=True
    ),
    "11b_score_switches": Stage("scores", ("attribution", "network", *_RUNNING), ("dropout_active", *_SCORING)),
    "12_compare_protocols": Stage(
        "scores",
        ("attribution", "compared_depths", "main_selection", "protocols", "reseeds", "base_protocol", "switches"),
        draws=True,
    ),
    "13_statistics": Stage(
        "scores",
        ("attribution.methods", "pretraining.corpora", "pretraining.target", "main_selection"),
        ("mask_threshold",),
        draws=True,
    ),
    "13b_equal_accuracy": Stage(
        "scores",
        ("attribution.methods", "pretraining.corpora", "pretraining.target", "main_selection", "finetuning.matching"),
        draws=True,
    ),
    "13c_sensitivity": Stage(
        "scores",
        ("attribution", "pretraining.corpora", "pretraining.target", "main_selection"),
        ("channel_reduction", "mask_threshold", "ties", "signed_edges"),
        draws=True,
    ),
    "15_sanity_checks": Stage(
        "scores",
        ("attribution", "network", *_RUNNING),
        ("dropout_active", "channel_reduction", "mask_threshold", "ties", "captum_deep_lift", "gradient_shap_unseeded"),
        draws=True,
    ),
}


def fingerprint(study: Study, notebook: str) -> dict[str, Any]:
    """Return what the results of `notebook` (a key of STAGES) depend on, besides files that other notebooks write.

    The slices depend on the files that a study brings: on their names, sizes and times of change.
    """
    stage = STAGES[notebook]
    own = source_file(study.network.module) if "network" in stage.settings and study.network.module else None
    return {
        **({"source": _source_state(study)} if notebook == "02_make_slices" else {}),
        "code": code_digest(paths.NOTEBOOKS / f"{notebook}.py", () if stage.draws else _DRAWING),
        **({"own network": code_digest(own)} if own else {}),
        **{name: _setting(study, name) for name in stage.settings},
        **{name: getattr(study.protocol, name) for name in stage.switches},
    }


@cache
def code_digest(path: Path, without: tuple[str, ...] = ()) -> str:
    """Return a digest of what a Python file or percent notebook does, with all that it imports of this library.

    `without` names modules and packages of the library that do not count.
    """
    digest = hashlib.sha256()
    for source in sorted({path, *library_files(path, without)}):
        digest.update(_meaning(source).encode())
    return digest.hexdigest()[:16]


def library_files(path: Path, without: tuple[str, ...] = ()) -> set[Path]:
    """Return the files of this library that a Python file or percent notebook imports, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        new = {file for file in _imported(waiting.pop()) if _top(file) not in without} - found
        found |= new
        waiting += new
    return found


def _top(file: Path) -> str:
    """Return the name of the module, or of the package that it lies in."""
    return Path(file.relative_to(paths.LIBRARY).parts[0]).stem


def _source_state(study: Study) -> Any:
    try:
        return source_state(study.slices)
    except SourceError:  # a plan is made without the data; the batch refuses to start
        return "missing"


def _setting(study: Study, name: str) -> Any:
    value = reduce(getattr, name.split("."), study)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Return the files of this library that a Python file or percent notebook, whose prose is comments, imports itself."""
    modules: list[str] = []
    for node in ast.walk(_code(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pretrain_xai":
            modules += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return tuple(_existing(modules))


def _existing(modules: Iterable[str]) -> Iterator[Path]:
    for module in modules:
        path = paths.LIBRARY.parent.joinpath(*module.split(".")).with_suffix(".py")
        if module.startswith("pretrain_xai.") and path.is_file():
            yield path


@cache
def _meaning(path: Path) -> str:
    """Return the syntax tree of a Python file or percent notebook as text, without docstrings."""
    tree = _code(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and body
            and ast.get_docstring(node) is not None
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _code(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
