"""Variants of a study, with one switch as published or with further seeds: which there are, and which are finished."""

from pathlib import Path

from pretrain_xai import paths
from pretrain_xai.protocol import DATASET_SWITCHES
from pretrain_xai.study import Study, load_study

#: switches for which networks must be fine-tuned anew, and all switches together
RETRAINED = ("first_conv_frozen", *DATASET_SWITCHES, "head_kept", "published")


def variant_name(study_name: str, variant: str) -> str:
    """Return the name under which a variant is run and read."""
    return f"{study_name}{paths.VARIANT_MARK}{variant}"


def reseeds(study: Study) -> list[str]:
    """Return the variants that are the study itself with further seeds."""
    return [f"{paths.RESEED}{number}" for number in range(1, study.protocols.reseeds + 1)]


def retrained_variants(study: Study) -> list[str]:
    """Return all variants whose networks are trained anew, in the order in which they are run."""
    return [*reseeds(study), *RETRAINED]


def finished_variants(study_name: str, study: Study) -> list[str]:
    """Return the retrained variants of a study all of whose results are there."""
    return [
        variant
        for variant in retrained_variants(study)
        if all(path.is_file() for path in variant_files(study_name, variant))
    ]


def variant_files(study_name: str, variant: str) -> list[Path]:
    """Return the tables of a variant from which it is compared with its study."""
    name = variant_name(study_name, variant)
    study = load_study(name)
    runs = list(study.runs())
    return [
        paths.dataset(name) / "test" / "images.csv",
        paths.intersections(name),
        *(paths.finetuned(name, run.name) / "predictions.parquet" for run in runs),
        *(paths.scores(name) / f"{run.name}.parquet" for run in [*runs, *study.untrained_runs()]),
    ]
