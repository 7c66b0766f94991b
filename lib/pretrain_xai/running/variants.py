"""Variants of a study, with one switch as published or with further seeds: which there are, and which are finished.

`python -m pretrain_xai.running.variants VARIANT` marks one as finished, at the end of its batch.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pretrain_xai import paths
from pretrain_xai.protocol import ALL_TOGETHER, DATASET_SWITCHES, PUBLISHED, unpublished
from pretrain_xai.provenance import write_text
from pretrain_xai.running.stages import STAGES, fingerprint
from pretrain_xai.study import Study, load_study

#: switches for which networks must be fine-tuned anew, and all switches together
RETRAINED = ("first_conv_frozen", *DATASET_SWITCHES, "head_kept", ALL_TOGETHER)


def variant_name(study_name: str, variant: str) -> str:
    """Return the name under which a variant is run and read."""
    return f"{study_name}{paths.VARIANT_MARK}{variant}"


def retrained_variants(study: Study) -> list[str]:
    """Return all variants whose networks are trained anew, in the order in which they are run.

    Switches that the study has as published anyway are left out.
    """
    together = [ALL_TOGETHER] if study.protocol != PUBLISHED else []
    return [*study.reseeds, *unpublished(study.protocol, RETRAINED[:-1]), *together]


def variant_states(study: Study) -> dict[str, str]:
    """Return of each retrained variant of a study whether it is finished, missing or out of date.

    Out of date: there, but made with other settings or other code, or not known to be whole.
    """
    return {variant: _state(load_study(variant_name(study.name, variant))) for variant in retrained_variants(study)}


def finished_variants(study: Study) -> list[str]:
    """Return the retrained variants of a study whose results are there, made with the settings and the code of now."""
    return [variant for variant, state in variant_states(study).items() if state == "finished"]


def _state(variant: Study) -> str:
    *files, mark = _files(variant)
    if not all(path.is_file() for path in files):
        return "missing"
    # an older mark: a later batch broke off
    whole = mark.is_file() and mark.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in files)
    return "finished" if whole and mark.read_text(encoding="utf-8") == _mark(variant) else "out of date"


def made_from(variant: Study) -> dict[str, Any]:
    """Return what the results of a variant depend on: of each of its stages, shared ones too, and its learning rates."""
    made = [name for name, stage in STAGES.items() if not stage.draws and name != "17_score_switches"]
    rates = {run.name: variant.learning_rate(run) for run in variant.runs()}
    return {"stages": {name: fingerprint(variant, name) for name in made}, "learning_rates": rates}


def variant_files(study_name: str, variant: str) -> list[Path]:
    """Return the tables of a variant from which it is compared with its study, and its mark."""
    return _files(load_study(variant_name(study_name, variant)))


def _files(variant: Study) -> list[Path]:
    where, runs = variant.paths, list(variant.runs())
    tables = [where.finetuned(run.name) / "predictions.parquet" for run in runs]
    tables += [where.scores / f"{run.name}.parquet" for run in variant.scored_runs()]
    return [where.dataset / "test" / "images.csv", where.intersections, *tables, where.finished]


def _mark(variant: Study) -> str:
    return json.dumps(made_from(variant), indent=1)


def mark_finished(name: str) -> None:
    """Write the mark of a variant whose results are all made."""
    variant = load_study(name)
    variant.paths.finished.unlink(missing_ok=True)  # an equal file would keep its time
    write_text(variant.paths.finished, _mark(variant))


if __name__ == "__main__":
    mark_finished(sys.argv[1])
