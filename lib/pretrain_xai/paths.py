"""Every path of the project, from one place.

Notebooks run from different folders (JupyterLab from `notebooks/`, papermill from the caller's), so no other
module or notebook spells out a path.
"""

import os
from pathlib import Path

#: the checkout: notebooks, library, Snakefile
REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
LIBRARY = Path(__file__).resolve().parent


def root() -> Path:
    """Return the folder that holds `studies/`, `data/`, `figures/` and `papermill_runs/`.

    It is the checkout, unless the environment variable `PRETRAIN_XAI_ROOT` names another folder
    (tests and shared machines keep their results elsewhere).
    """
    return Path(os.environ.get("PRETRAIN_XAI_ROOT", REPOSITORY)).resolve()


def study_file(study: str) -> Path:
    """Return the file that describes `study`."""
    return root() / "studies" / f"{study}.yaml"


def data(study: str) -> Path:
    """Return the folder of everything that `study` computes."""
    return root() / "data" / study


def figures(study: str) -> Path:
    """Return the folder of the figures and of the report of `study`."""
    return root() / "figures" / study


def executed(study: str) -> Path:
    """Return the folder of the executed notebooks of `study`."""
    return root() / "papermill_runs" / study


def lesions(study: str) -> Path:
    """Return the file of the lesion patches."""
    return data(study) / "lesions.npz"


def slices(study: str) -> Path:
    """Return the folder with `slices.npy`, its table `slices.csv` and `participants.tsv`."""
    return data(study) / "slices"


def dataset(study: str) -> Path:
    """Return the folder with one sub-folder of images, masks and labels per split, and the audit."""
    return data(study) / "dataset"


def pretrained(study: str, pretraining: str) -> Path:
    """Return the weight file of a network that was pre-trained on the corpus `pretraining`."""
    return data(study) / "pretrained" / f"{pretraining}.safetensors"


def finetuned(study: str, run: str) -> Path:
    """Return the folder with the weights, the history and the predictions of one fine-tuned model."""
    return data(study) / "finetuned" / run


def classification(study: str) -> Path:
    """Return the table with one row of classification metrics per model."""
    return data(study) / "classification.csv"


def intersections(study: str) -> Path:
    """Return the table of the image lists: right for all models, wrong for one, wrong for all."""
    return data(study) / "intersections.csv"


def scores(study: str) -> Path:
    """Return the folder with one file of explanation scores per model."""
    return data(study) / "scores"


def example_maps(study: str) -> Path:
    """Return the folder with one file of example attribution maps per model."""
    return data(study) / "example_maps"
