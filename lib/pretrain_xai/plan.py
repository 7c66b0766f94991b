"""What a study takes, before anything starts: `python -m pretrain_xai.plan STUDY`.

The jobs are those of Snakemake's dry run, so that what is finished already does not count; what a job costs is measured
here and now on a few images (`measure`). Data and weights need not be there: what is missing is listed. What a job of a
cluster is to ask for goes to `data/<study>/plan.json`.
"""

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import pandas as pd

from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.measure import measure
from pretrain_xai.provenance import write_text
from pretrain_xai.settings.sections import Selection
from pretrain_xai.study import UNTRAINED, Study, StudyError, load_study
from pretrain_xai.tables import read_table

GIB = 2**30
#: of the test images, the share that all models of a study classify correctly, as published (3,681 of 8,539), and the share
#: that one model classifies wrongly, about as published
RIGHT_FOR_ALL, WRONG = 0.43, 0.15
#: the part of `measure` from which the memory of a rule is known; the network runs in those of training and attribution
PART_OF_RULE = {
    **dict.fromkeys(("pretrain", "finetune"), "training"),
    **dict.fromkeys(("match_accuracy", "explanation_metrics", "sanity_checks", "score_switches"), "attribution"),
    **dict.fromkeys(("make_slices", "build_dataset"), "slices"),
}
#: images of the sanity check
SANITY_IMAGES = 16
#: bytes of a score table per image, method and metric, as seen in the demo, and metrics beside the study's scores
SCORE_BYTES, FURTHER_METRICS = 4.0, 7
#: what a job of a cluster asks for beside what was measured: MB for Python, torch and three snakemakes; minutes; and how
#: many times what was measured
BASE_MB, BASE_MINUTES, MARGIN = 3_000, 10, 3


class Job(NamedTuple):
    """A job of the dry run."""

    rule: str
    wildcards: Mapping[str, str]


def planned_jobs(study_name: str) -> list[Job]:
    """Return the jobs that the batch would run, by a dry run.

    Raises
    ------
    StudyError
        Snakemake's message.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.REPOSITORY / "Snakefile"), "--dry-run"]
    command += ["--profile", str(paths.REPOSITORY / "profiles" / "local"), "--directory", str(paths.root())]
    command += ["--nolock", "--quiet", "host", "--config", f"study={study_name}"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StudyError(f"the dry run failed: {' '.join((result.stderr + result.stdout).split())[-300:]}")
    return list(_jobs_of(result.stdout + result.stderr))


def _jobs_of(printed: str) -> Iterator[Job]:
    for block in re.split(r"\n(?=(?:local)?rule \w+:)", printed):
        if (match := re.match(r"(?:local)?rule (\w+):", block)) and match[1] != "all":
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            pairs = wildcards[1].split(", ") if wildcards else []
            yield Job(match[1], dict(pair.split("=", 1) for pair in pairs))


def image_counts(study: Study) -> dict[str, int]:
    """Return the images of each split: of slices that are made already, or of those that the study file tells."""
    table = study.paths.slices / "slices.csv"
    if table.is_file():
        return study.images_of(read_table(table)["split"].value_counts().to_dict())
    if study.slices.source == "template":
        n_slices = study.slices.slices_per_subject
        return study.images_of({split: n_slices * count for split, count in study.slices.subjects.items()})
    if study.expected_slices:
        return study.images_of(study.expected_slices)
    raise StudyError(f"slices of the source {study.slices.source} can't be counted yet: set expected_slices, by split")


class Plan:
    """The costs of a study's jobs.

    Parameters
    ----------
    counts : dict
        Images of each split.
    measured : dict
        Of `measure.measure`, on the processor.
    on_card : bool
        Networks run on a graphics card: how long, was not measured.
    """

    def __init__(
        self, study: Study, jobs: Sequence[Job], counts: Mapping[str, int], measured: Any, *, on_card: bool = False
    ) -> None:
        self.study, self.jobs, self.counts, self.measured, self.on_card = study, jobs, counts, measured, on_card

    def costs(self) -> pd.DataFrame:
        """Return `jobs`, `seconds` of all of them and `memory` of one (GiB) by rule; NaN where it was not measured."""
        each = pd.DataFrame({"rule": [job.rule for job in self.jobs], "seconds": [self._seconds(j) for j in self.jobs]})
        table = each.groupby("rule", sort=False)["seconds"].agg(["size", lambda seconds: seconds.sum(skipna=False)])
        table.columns = pd.Index(["jobs", "seconds"])
        parts = table.index.map(lambda rule: self.measured.get(PART_OF_RULE.get(rule), {}).get("memory", math.nan))
        return table.assign(memory=parts)

    def requests(self) -> dict[str, dict[str, int]]:
        """Return what a job of each rule asks a cluster for: `mem_mb`, and `runtime` in minutes where it was measured."""
        asked = {}
        for rule, row in self.costs().dropna(subset="memory").iterrows():
            asked[str(rule)] = {"mem_mb": BASE_MB + round(MARGIN / 2 * row["memory"] * GIB / 1e6)}
            if not math.isnan(row["seconds"]):
                asked[str(rule)]["runtime"] = BASE_MINUTES + round(MARGIN * row["seconds"] / row["jobs"] / 60)
        return asked

    def explained(self, selection: Selection, *, wrong: bool = True) -> int:
        """Return how many images of one model are explained: right for all models, and (`wrong`) wrong for this one."""
        limits, n_test = self.study.image_limits[selection], self.counts["test"]
        most = limits["max_images"] or n_test
        n_wrong = min(most, WRONG * n_test) if wrong and limits["misclassified"] else 0
        return round(min(most, RIGHT_FOR_ALL * n_test) + n_wrong)

    def disk(self) -> dict[str, float]:
        """Return what the files of the planned jobs take when all is done, GiB."""
        number, own = self.costs()["jobs"].rename({"take_weights": "pretrain"}), self.study.attribution
        number = number.groupby(level=0).sum()
        side, weights = self.study.dataset.image_size, self.measured["training"]["bytes"]
        rows = self.explained(self.study.main_selection) * len(own.methods) * (len(own.scores) + FURTHER_METRICS)
        of_one = {
            "dataset": ("build_dataset", 8 * side**2 * self._of_splits()),
            "pretrained": ("pretrain", weights),
            "finetuned": ("finetune", weights),
            "scores": ("explanation_metrics", SCORE_BYTES * rows),
            "example maps": ("explanation_metrics", 4 * side**2 * len(own.methods) * 2 * own.example_images),
        }
        return {name: int(number.get(rule, 0)) * size / GIB for name, (rule, size) in of_one.items()}

    def _seconds(self, job: Job) -> float:
        if self.on_card and PART_OF_RULE.get(job.rule) in ("training", "attribution"):
            return math.nan
        slices, training, image = (self.measured[part] for part in ("slices", "training", "attribution"))
        patches, source = self.study.lesions.patches, self.study.slices
        # reading files is bound by the disk
        simulated = sum(source.subjects.values()) if source.source == "template" else 0
        predicted = self.counts["validation"] + self.counts["test"]
        work: dict[str, Callable[[], float]] = {
            "make_lesions": lambda: sum(patches.values()) * slices["patch"],
            "make_slices": lambda: simulated * slices["subject"],
            "build_dataset": lambda: self._of_splits() * slices["slice"],
            "pretrain": lambda: self._pretraining(job.wildcards["pretraining"]),
            "finetune": lambda: self._finetuning(int(job.wildcards["finetune_depth"]), predicted),
            "match_accuracy": lambda: len(list(self.study.checkpoint_runs())) * predicted * training["prediction"],
            "explanation_metrics": lambda: self._explanation(job) * image["image"],
            "sanity_checks": lambda: SANITY_IMAGES * (image["layers"] + 1) * image["image"],
        }
        return self.measured["notebook"]["start"] + work.get(job.rule, lambda: 0.0)()

    def _of_splits(self) -> int:
        return sum(self.counts[split] for split in self.study.dataset.seed_bases)

    def _pretraining(self, corpus: str) -> float:
        from pretrain_xai.networks.corpora import PHOTOGRAPHS

        settings = self.study.pretraining
        if settings.training is None or corpus in settings.weights:
            return 0.0
        n_images = len(PHOTOGRAPHS) * settings.crops_per_photograph * 1.25  # a quarter more are for validation
        if corpus == "mri":
            n_images = self.counts["pretraining"] + self.counts["pretraining_validation"]
        deepest = self.measured["training"]["by_depth"][str(max(self.study.finetuning.depths))]
        return n_images * (deepest["before"] + settings.training.epochs * deepest["epoch"])

    def _finetuning(self, depth: int, predicted: int) -> float:
        cost, settings = self.measured["training"]["by_depth"][str(depth)], self.study.finetuning
        trained, epochs = self.counts["train"] + self.counts["validation"], settings.training.epochs
        # an epoch's cost holds one validation; checkpoints on the way take more
        more = settings.matching.checkpoints_per_epoch - 1 if settings.matching else 0
        passes = epochs * more * self.counts["validation"] + predicted
        return trained * (cost["before"] + epochs * cost["epoch"]) + passes * self.measured["training"]["prediction"]

    def _explanation(self, job: Job) -> int:
        """Return the images of one model, with those whose maps are kept."""
        # the untrained network explains what is right for all models
        selection = cast("Selection", job.wildcards["selection"])
        found = self.explained(selection, wrong=job.wildcards["pretraining"] != UNTRAINED)
        return found + 2 * self.study.attribution.example_images


def requested(study: Study, rule: str) -> dict[str, int]:
    """Return what the last plan of a study asks a cluster for, for a job of a rule; nothing where there is none."""
    asked: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        asked = json.loads((study.paths.data / "plan.json").read_text(encoding="utf-8")).get(rule, {})
    runs_network = PART_OF_RULE.get(rule) in ("training", "attribution")
    return asked | ({"gpu": 1} if study.device == "cuda" and runs_network else {})


def missing(study: Study) -> list[str]:
    """Return in words what a study needs and has not: data, weights, its network, methods that can explain it."""
    from pretrain_xai.running import prerequisites
    from pretrain_xai.slices.files import source_state

    checks = (prerequisites.check_weights, prerequisites.check_network, prerequisites.check_device)
    found = []
    for check in (lambda study: source_state(study.slices), *checks):
        try:
            check(study)
        except UserError as error:
            found.append(str(error))
    return found + prerequisites.weights_to_download(study)


def _report(plan: Plan, lacking: Sequence[str]) -> Iterator[str]:
    study, costs = plan.study, plan.costs()
    cores = os.cpu_count() or 1
    side_by_side = max(1, cores // study.threads)
    yield f"plan of {study.name}: {len(plan.jobs)} jobs, {costs['jobs'].get('finetune', 0)} networks to fine-tune"
    yield f"measured on this machine, on the CPU: {cores} cores, threads of a job: {study.threads}"
    shown = costs.assign(hours=costs["seconds"] / 3600, minutes=costs["seconds"] / costs["jobs"] / 60)
    shown = shown.rename(columns={"minutes": "minutes a job", "memory": "memory, GiB"}).rename_axis("stage")
    columns = ["jobs", "hours", "minutes a job", "memory, GiB"]
    yield "\n" + shown.reset_index()[["stage", *columns]].to_string(index=False, float_format="%.2f", na_rep="unknown")
    unknown = "; without what runs on a graphics card (`device`), which is not measured here"
    unknown = unknown if costs["seconds"].isna().any() else ""
    hours = _duration(costs["seconds"].sum() / 3600 / side_by_side)
    yield f"\n{hours} with {side_by_side} jobs side by side, if all epochs are run{unknown}"
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.counts.items())
    yield f"images: {counts}; a model explains about {plan.explained(study.main_selection):,} images"
    disk = plan.disk()
    yield f"disk: {sum(disk.values()):.1f} GiB ({', '.join(f'{name} {size:.1f}' for name, size in disk.items())})"
    if (free := shutil.disk_usage(paths.root()).free / GIB) < sum(disk.values()):
        yield f"too little disk: {free:.0f} GiB are free"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if memory < (needed := side_by_side * costs["memory"].max()):
        yield f"too little memory for {side_by_side} jobs side by side: {needed:.0f} GiB of {memory:.0f}; run with --cores"
    yield "\nmissing: " + ("nothing" if not lacking else "")
    yield from (f"- {line}" for line in lacking)


def _duration(hours: float) -> str:
    unit, size = ("minutes", 1 / 60) if hours < 1.5 else ("hours", 1) if hours < 48 else ("days", 24)
    return f"{hours / size:.1f} {unit}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line that says what is wrong."""
    from pretrain_xai.networks.models import on_card

    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml")
    name = parser.parse_args(arguments).study
    try:
        study = load_study(name)
        counts, lacking = image_counts(study), missing(study)
        plan = Plan(study, planned_jobs(name), counts, measure(name), on_card=on_card(study))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(_report(plan, lacking)))
    if plan.jobs:
        write_text(study.paths.data / "plan.json", json.dumps(plan.requests(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
