"""What a study takes, before anything starts: `python -m pretrain_xai.plan STUDY`.

The jobs are those of Snakemake's dry run, so that what is finished already does not count; what a job costs is measured
here and now on a few images (`micro_benchmark`). Data and weights need not be there: what is missing is listed.
"""

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.running.micro_benchmark import measure
from pretrain_xai.settings.sections import Selection
from pretrain_xai.study import UNTRAINED, Study, StudyError, load_study
from pretrain_xai.tables import read_table

GIB = 2**30
#: of the test images, the share that all models of a study classify correctly, as published (3,681 of 8,539), and the share
#: that one model classifies wrongly, about as published
RIGHT_FOR_ALL, WRONG = 0.43, 0.15
#: rules whose notebooks import torch
TORCH_RULES = ("pretrain", "take_weights", "finetune", "match_accuracy", "explanation_metrics", "sanity_checks")
#: those in which the network runs
NETWORK_RULES = tuple(rule for rule in TORCH_RULES if rule != "take_weights")
#: images of the sanity check
SANITY_IMAGES = 16
#: bytes of a score table per image, method and metric, as seen in the demo
SCORE_BYTES = 4.0
#: metrics beside the study's scores: hits and misses, k, empty maps, completeness
FURTHER_METRICS = 7


@dataclass(frozen=True)
class Job:
    """A job of the dry run."""

    rule: str
    wildcards: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """What all jobs of a rule take together: seconds, and the memory of one, GiB; NaN where it was not measured."""

    seconds: float
    memory: float
    jobs: int


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
        if match := re.match(r"(?:local)?rule (\w+):", block):
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            pairs = wildcards[1].split(", ") if wildcards else []
            if match[1] != "all":
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
        Of `micro_benchmark.measure`, on the processor.
    on_card : bool
        Networks run on a graphics card: how long, was not measured.
    """

    def __init__(
        self,
        study: Study,
        jobs: Sequence[Job],
        counts: Mapping[str, int],
        measured: Mapping[str, Any],
        *,
        on_card: bool = False,
    ):
        self.study, self.jobs, self.counts, self.measured, self.on_card = study, jobs, counts, measured, on_card

    def costs(self) -> dict[str, Cost]:
        """Return the cost of the jobs of each rule, in the order of the dry run's rules."""
        numbers = Counter(job.rule for job in self.jobs)
        seconds = {rule: sum(self._seconds(job) for job in self.jobs if job.rule == rule) for rule in numbers}
        return {rule: Cost(seconds[rule], self._memory(rule), numbers[rule]) for rule in numbers}

    @property
    def n_explained(self) -> int:
        """The images that one model's maps are made of: right for all models, and wrong for this one."""
        return self._explained(self.study.main_selection, wrong=True)

    def _explained(self, selection: Selection, *, wrong: bool) -> int:
        limits, n_test = self.study.image_limits[selection], self.counts["test"]
        most = limits["max_images"] or n_test
        n_wrong = min(most, WRONG * n_test) if wrong and limits["misclassified"] else 0
        return round(min(most, RIGHT_FOR_ALL * n_test) + n_wrong)

    def disk(self) -> dict[str, float]:
        """Return what the files of the planned jobs take, GiB."""
        costs, study = self.costs(), self.study
        side, weights = study.dataset.image_size, self.measured["training"]["bytes"]
        n_images = sum(self.counts[split] for split in study.dataset.seed_bases)
        rows = self.n_explained * len(study.attribution.methods) * (len(study.attribution.scores) + FURTHER_METRICS)
        number = Counter({rule: cost.jobs for rule, cost in costs.items()})
        sizes = {
            "dataset": 8 * side**2 * n_images * number["build_dataset"],
            "pretrained": weights * (number["pretrain"] + number["take_weights"]),
            "finetuned": weights * number["finetune"],
            "scores": SCORE_BYTES * rows * number["explanation_metrics"],
            "example maps": 4 * side**2 * len(study.attribution.methods) * 3 * number["explanation_metrics"],
        }
        return {name: size / GIB for name, size in sizes.items()}

    def _seconds(self, job: Job) -> float:
        if self.on_card and job.rule in NETWORK_RULES:
            return math.nan
        notebooks, images = self.measured["notebooks"], self.measured["attribution"]["image"]
        needs_torch = job.rule in TORCH_RULES
        start = notebooks["torch" if needs_torch else "plain"]
        work: dict[str, Callable[[], float]] = {
            "make_lesions": lambda: sum(self.study.lesions.patches.values()) * self.measured["slices"]["patch"],
            "make_slices": self._slices,
            "build_dataset": lambda: self._of_images() * self.measured["slices"]["slice"],
            "pretrain": lambda: self._pretraining(job.wildcards["pretraining"]),
            "finetune": lambda: self._finetuning(int(job.wildcards["finetune_depth"])),
            "match_accuracy": self._matching,
            "explanation_metrics": lambda: self._explanation(job) * images,
            "sanity_checks": lambda: self._sanity() * images,
        }
        return start + work.get(job.rule, lambda: 0.0)()

    def _slices(self) -> float:
        if self.study.slices.source != "template":
            return 0.0  # reading is bound by the disk
        return sum(self.study.slices.subjects.values()) * self.measured["slices"]["subject"]

    def _of_images(self) -> int:
        return sum(self.counts[split] for split in self.study.dataset.seed_bases)

    def _pretraining(self, corpus: str) -> float:
        from pretrain_xai.networks.corpora import PHOTOGRAPHS

        settings = self.study.pretraining
        n_images = len(PHOTOGRAPHS) * settings.crops_per_photograph * 1.25  # a quarter as many for validation
        if corpus == "mri":
            n_images = self.counts["pretraining"] + self.counts["pretraining_validation"]
        deepest = self.measured["training"]["by_depth"][str(max(self.study.finetuning.depths))]
        epochs = settings.training.epochs if settings.training else 0
        return n_images * (deepest["before"] + epochs * deepest["epoch"])

    def _finetuning(self, depth: int) -> float:
        cost = self.measured["training"]["by_depth"][str(depth)]
        trained = self.counts["train"] + self.counts["validation"]
        epochs, matching = self.study.finetuning.training.epochs, self.study.finetuning.matching
        # an epoch's cost holds one validation; checkpoints on the way take more
        further = epochs * (matching.checkpoints_per_epoch - 1) * self.counts["validation"] if matching else 0
        predicted = (further + self._predicted()) * self.measured["training"]["prediction"]
        return trained * (cost["before"] + epochs * cost["epoch"]) + predicted

    def _matching(self) -> float:
        n_models = sum(1 for _ in self.study.checkpoint_runs())
        return n_models * self._predicted() * self.measured["training"]["prediction"]

    def _predicted(self) -> int:
        return self.counts["validation"] + self.counts["test"]

    def _explanation(self, job: Job) -> int:
        """Return the images of one model, with those whose maps are kept."""
        # the untrained network explains what is right for all models
        wrong = job.wildcards["pretraining"] != UNTRAINED
        selection = cast("Selection", job.wildcards["selection"])
        return self._explained(selection, wrong=wrong) + 2 * self.study.attribution.example_images

    def _sanity(self) -> int:
        n_images = min(SANITY_IMAGES, self.study.attribution.max_images or SANITY_IMAGES)
        return n_images * (self.measured["attribution"]["layers"] + 1)

    def _memory(self, rule: str) -> float:
        part = {"pretrain": "training", "finetune": "training", "make_slices": "slices", "build_dataset": "slices"}
        part |= {"explanation_metrics": "attribution", "sanity_checks": "attribution"}
        return self.measured[part[rule]]["memory"] if rule in part else math.nan


def missing(study: Study) -> list[str]:
    """Return in words what a study needs and has not: data, weights, its network, methods that can explain it."""
    from pretrain_xai.running.prerequisites import check_device, check_network, check_weights, weights_to_download
    from pretrain_xai.slices.files import source_state

    checks: list[Callable[[], object]] = [
        lambda: source_state(study.slices),
        lambda: check_weights(study),
        lambda: check_network(study),
        lambda: check_device(study),
    ]
    found = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return found + weights_to_download(study)


def _report(study_name: str, plan: Plan, lacking: Sequence[str]) -> Iterator[str]:
    study, costs = plan.study, plan.costs()
    cores = os.cpu_count() or 1
    side_by_side = max(1, cores // study.threads)
    networks = costs["finetune"].jobs if "finetune" in costs else 0
    yield f"plan of {study_name}: {len(plan.jobs)} jobs, {networks} networks to fine-tune"
    yield f"measured on this machine, on the CPU: {cores} cores, threads of a job: {study.threads}"
    yield f"\n{'stage':<28} {'jobs':>5} {'hours':>9} {'minutes a job':>14} {'memory, GiB':>12}"
    for rule, cost in costs.items():
        minutes = cost.seconds / 60
        memory = "" if math.isnan(cost.memory) else f"{cost.memory:.1f}"
        yield f"{rule:<28} {cost.jobs:>5} {_number(minutes / 60):>9} {_number(minutes / cost.jobs):>14} {memory:>12}"
    known = [cost for cost in costs.values() if not math.isnan(cost.seconds)]
    hours = sum(cost.seconds for cost in known) / 3600
    yield f"{'all' if len(known) == len(costs) else 'all that is known':<28} {len(plan.jobs):>5} {hours:>9.2f}"
    if len(known) < len(costs):
        yield "\nunknown: what runs on a graphics card (`device`), which is not measured here"
    yield f"\n{_duration(hours / side_by_side)} with {side_by_side} jobs side by side, if all epochs are run"
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.counts.items())
    yield f"images: {counts}; a model explains about {plan.n_explained:,} images"
    disk = plan.disk()
    yield f"disk: {sum(disk.values()):.1f} GiB ({', '.join(f'{name} {size:.1f}' for name, size in disk.items())})"
    yield from _limits(plan, sum(disk.values()), side_by_side)
    yield "\nmissing: " + ("nothing" if not lacking else "")
    yield from (f"- {line}" for line in lacking)


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2f}"


def _limits(plan: Plan, disk: float, side_by_side: int) -> Iterator[str]:
    free = shutil.disk_usage(paths.root()).free / GIB
    if free < disk:
        yield f"too little disk: {free:.0f} GiB are free"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    needed = side_by_side * max((c.memory for c in plan.costs().values() if not math.isnan(c.memory)), default=0.0)
    if memory < needed:
        yield f"too little memory for {side_by_side} jobs side by side: {needed:.0f} GiB of {memory:.0f}; run with --cores"


def _duration(hours: float) -> str:
    if hours < 1.5:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line that says what is wrong."""
    from pretrain_xai.networks.hardware import on_card

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
    print("\n".join(_report(name, plan, lacking)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
