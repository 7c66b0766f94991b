"""Every path of the project, from one place.

Notebooks run from different folders (JupyterLab from `notebooks/`, papermill from the caller's), so no other
module or notebook spells out a path.

A study may have variants, `<study>+<switch>`: the study with one switch of its protocol as published (or all of them,
`<study>+published`), or the study itself with other seeds (`<study>+reseed1`, ...). A variant's files lie in a folder of
its own; what it does not change is shared with the study.
"""

import importlib.util
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_xai.errors import UserError
from pretrain_xai.protocol import DATASET_SWITCHES

#: the checkout: notebooks, library, Snakefile
REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
LIBRARY = Path(__file__).resolve().parent

#: between the name of a study and that of its variant
VARIANT_MARK = "+"
#: what a study computes, in this order
ARTEFACTS = ("lesions", "slices", "pretrained", "dataset", "finetuned", "classification", "intersections", "scores")
#: the first of these that a switch of the protocol changes; of the others it is the scores
FIRST_CHANGED = {
    **dict.fromkeys((*DATASET_SWITCHES, "published"), "dataset"),
    **dict.fromkeys(("first_conv_frozen", "head_kept", "dropout_active"), "finetuned"),
    **{"swapped_rates": "classification", "": "lesions"},
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
#: the variant `reseed<n>` is the study itself, fine-tuned with the n-th set of further seeds
RESEED = "reseed"


def root() -> Path:
    """Return the folder that holds `studies/`, `data/`, `figures/` and `papermill_runs/`.

    It is the checkout, unless the environment variable `PRETRAIN_XAI_ROOT` names another folder
    (tests and shared machines keep their results elsewhere).
    """
    return Path(os.environ.get("PRETRAIN_XAI_ROOT", REPOSITORY)).resolve()


def split_name(study: str) -> tuple[str, str]:
    """Return the name of the study file and of the variant, "" if there is none.

    Raises
    ------
    UserError
        It is no name of a study, which is part of paths and of commands.
    """
    base, _, variant = study.partition(VARIANT_MARK)
    if not (_NAME.fullmatch(base) and _NAME.fullmatch(variant or "none")):
        raise UserError(f"{study[:80]!r} is no name of a study, which has letters, digits, hyphens and underscores")
    return base, variant


def reseed_number(variant: str) -> int:
    """Return n of the variant `reseed<n>`, 0 of any other."""
    match = re.fullmatch(rf"{RESEED}([1-9][0-9]{{0,3}})", variant)
    return int(match[1]) if match else 0


def owner(study: str, artefact: str) -> str:
    """Return whose `artefact` the study uses: its own, or that of the study whose variant it is."""
    base, variant = split_name(study)
    first = "finetuned" if reseed_number(variant) else FIRST_CHANGED.get(variant, "scores")
    return study if ARTEFACTS.index(artefact) >= ARTEFACTS.index(first) else base


def study_file(study: str) -> Path:
    """Return the file that describes `study`."""
    return root() / "studies" / f"{split_name(study)[0]}.yaml"


def weights_file(source: str) -> Path | None:
    """Return the local file that a setting of `pretraining.weights` names; None for a name of torchvision's.

    A relative path starts at the folder that holds `studies/`.
    """
    is_path = "/" in source or source.endswith((".pt", ".pth", ".safetensors"))
    return root() / Path(source).expanduser() if is_path else None


def studies_on_path() -> None:
    """Let modules be imported that lie beside the study files."""
    if (folder := str(root() / "studies")) not in sys.path:
        sys.path.append(folder)


def source_file(module: str) -> Path | None:
    """Return the file of a study's own code `package.module:function`, without importing it; None if there is none."""
    studies_on_path()
    with suppress(ImportError, ValueError):  # the module of a notebook has no file
        found = importlib.util.find_spec(module.partition(":")[0])
        return Path(found.origin) if found and found.origin else None
    return None


def _of(artefact: str, *parts: str) -> Any:
    """Return a property of `Paths`: a place in the folder of whoever owns the artefact."""
    return property(lambda self: Paths(owner(self.study, artefact)).data.joinpath(*parts))


@dataclass(frozen=True)
class Paths:
    """Where everything of one study or variant lies; a variant shares what its switch does not change."""

    study: str

    #: the file of the lesion patches
    lesions = _of("lesions", "lesions.npz")
    #: the folder with `slices.npy`, its table `slices.csv` and `participants.csv`
    slices = _of("slices", "slices")
    #: the folder with one sub-folder of images, lesions and labels per split, and the audit
    dataset = _of("dataset", "dataset")
    #: the table of the matched models: which checkpoints, and how far from the common accuracy
    matching = _of("finetuned", "matching.csv")
    #: the table with one row of classification metrics per model
    classification = _of("classification", "classification.csv")
    #: the table of what becomes of its decisions without lesions
    lesion_dependence = _of("classification", "lesion_dependence.csv")
    #: the table of the image lists: right for all models, wrong for one, wrong for all
    intersections = _of("intersections", "intersections.csv")
    #: folders with one file per model: explanation scores; a few maps; what its maps score under every setting of the
    #: sensitivity table, and under each switch that needs no training; and its predictions with dropout alive
    scores, example_maps = _of("scores", "scores"), _of("scores", "example_maps")
    setting_scores, switch_scores = _of("scores", "setting_scores"), _of("scores", "switch_scores")
    switch_predictions = _of("scores", "switch_predictions")
    #: the folder of the tables of intervals, effects, ranks, redundancy and power
    statistics = _of("scores", "statistics")
    #: of everything that the study computes; of its figures and report; of its executed notebooks
    data = property(lambda self: root() / "data" / self._folder)
    figures = property(lambda self: root() / "figures" / self._folder)
    executed = property(lambda self: root() / "papermill_runs" / self._folder)
    #: the mark of a variant all of whose results are made, which says with what code and settings
    finished = property(lambda self: self.data / "finished.json")

    @property
    def _folder(self) -> Path:
        base, variant = split_name(self.study)
        return Path(base, "protocols", variant) if variant else Path(base)

    def pretrained(self, pretraining: str, seed: int | str = 0) -> Path:
        """Return the weight file of a network that was pre-trained on the corpus `pretraining`."""
        return Paths(owner(self.study, "pretrained")).data / "pretrained" / f"{pretraining}-seed{seed}.safetensors"

    def finetuned(self, run: str) -> Path:
        """Return the folder with the weights, the history and the predictions of one fine-tuned model."""
        return Paths(owner(self.study, "finetuned")).data / "finetuned" / run

    def checkpoints(self, run: str) -> Path:
        """Return the table of the checkpoints of one fine-tuning; their weights lie in the folder of the same name."""
        return self.finetuned(run) / "checkpoints.csv"
