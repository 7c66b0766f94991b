"""What a study takes, before anything starts: `python -m pretrain_xai.plan STUDY`.

The jobs are those of Snakemake's dry run, so that what is finished already does not count; what a job costs is measured
here and now on a few made-up images: seconds of processor time per thread, so that other work on the machine does not count.
Lesions, slices and images are not measured: even of large studies they take minutes. Data and weights need not be there:
what is missing is listed. What a job of a cluster is to ask for goes to
`data/<study>/plan.json`.
"""

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pretrain_xai import paths
from pretrain_xai.batch import snakemake
from pretrain_xai.errors import UserError
from pretrain_xai.provenance import write_text
from pretrain_xai.study import UNTRAINED, Study, StudyError, load_study
from pretrain_xai.tables import read_table

GIB = 2**30
#: of the test images, the share that all models of a study classify correctly, as published (3,681 of 8,539), and the share
#: that one model classifies wrongly, about as published
RIGHT_FOR_ALL, WRONG = 0.43, 0.15
#: the rules that run the network, and the part of `measure` from which their memory is known
PART_OF_RULE = {
    **dict.fromkeys(("pretrain", "finetune"), "training"),
    **dict.fromkeys(("match_accuracy", "explanation_metrics", "sanity_checks", "score_switches"), "attribution"),
}
#: images of the sanity check
SANITY_IMAGES = 16
#: bytes of a score table per image, method and metric, as seen in the demo, and metrics beside the study's scores
SCORE_BYTES, FURTHER_METRICS = 4.0, 7
#: what a job of a cluster asks for beside what was measured: MB for Python, torch and three snakemakes; minutes; and how
#: many times what was measured
BASE_MB, BASE_MINUTES, MARGIN = 3_000, 10, 3
#: images of a small part: a pass of more costs hardly less per image
FEW = 16
#: seconds that a few images may take: more images are used where they are fast
ENOUGH = 1.0
#: what the process that runs a notebook imports, and the kernel of one that runs a network
IMPORTS = (
    "import papermill, pretrain_xai.run_notebook",
    "import ipykernel.kernelapp, matplotlib.pyplot, pandas, pretrain_xai.explain, pretrain_xai.report",
)


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
    result = _run("the dry run", snakemake(study_name, ["--dry-run", "--quiet", "host"]))
    parts = re.split(r"^(?:local)?rule (\w+):$", result.stdout + result.stderr, flags=re.MULTILINE)
    jobs = []
    for rule, block in zip(parts[1::2], parts[2::2], strict=True):
        wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        jobs.append(Job(rule, dict(re.findall(r"(\w+)=([^,]*)", wildcards[1] if wildcards else ""))))
    return [job for job in jobs if job.rule != "all"]


def _run(what: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StudyError(f"{what} failed: {' '.join((result.stderr + result.stdout).split())[-300:]}")
    return result


def image_counts(study: Study) -> dict[str, int]:
    """Return the images of each split: of slices that are made already, or of those that the study file tells."""
    made, slices = study.paths.slices / "slices.csv", study.expected_slices
    if made.is_file():
        slices = read_table(made)["split"].value_counts().to_dict()
    elif (source := study.slices).source == "template":
        slices = {split: source.slices_per_subject * count for split, count in source.subjects.items()}
    if not slices:
        raise StudyError(f"slices of the source {source.source} can't be counted yet: set expected_slices, by split")
    return study.images_of(slices)


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
        rules = each.groupby("rule", sort=False)["seconds"]
        table = pd.DataFrame({"jobs": rules.size(), "seconds": rules.sum(skipna=False)})
        memory = [self.measured.get(PART_OF_RULE.get(rule), {}).get("memory", math.nan) for rule in table.index]
        return table.assign(memory=memory)

    def requests(self) -> dict[str, dict[str, int]]:
        """Return what a job of each rule asks a cluster for: `mem_mb`, and `runtime` in minutes where it was measured."""
        asked = {}
        for rule, row in self.costs().dropna(subset="memory").iterrows():
            asked[str(rule)] = {"mem_mb": BASE_MB + round(MARGIN / 2 * row["memory"] * GIB / 1e6)}
            if not math.isnan(row["seconds"]):
                asked[str(rule)]["runtime"] = BASE_MINUTES + round(MARGIN * row["seconds"] / row["jobs"] / 60)
        return asked

    def explained(self, selection: Any, *, wrong: bool = True) -> int:
        """Return how many images of one model are explained: right for all models, and (`wrong`) wrong for this one."""
        limits, n_test = self.study.image_limits[selection], self.counts["test"]
        most = limits["max_images"] or n_test
        n_wrong = min(most, WRONG * n_test) if wrong and limits["misclassified"] else 0
        return round(min(most, RIGHT_FOR_ALL * n_test) + n_wrong)

    def disk(self) -> dict[str, float]:
        """Return what the files of the planned jobs take when all is done, GiB."""
        number, own = Counter(job.rule for job in self.jobs), self.study.attribution
        side, weights = self.study.dataset.image_size, self.measured["training"]["bytes"]
        rows = self.explained(self.study.main_selection) * len(own.methods) * (len(own.scores) + FURTHER_METRICS)
        maps = 4 * side**2 * len(own.methods) * 2 * own.example_images
        images = sum(self.counts[split] for split in self.study.dataset.seed_bases)
        sizes = {
            "dataset": number["build_dataset"] * 8 * side**2 * images,
            "pretrained": (number["pretrain"] + number["take_weights"]) * weights,
            "finetuned": number["finetune"] * weights,
            "scores": number["explanation_metrics"] * SCORE_BYTES * rows,
            "example maps": number["explanation_metrics"] * maps,
        }
        return {name: size / GIB for name, size in sizes.items()}

    def _seconds(self, job: Job) -> float:
        if self.on_card and job.rule in PART_OF_RULE:
            return math.nan
        predicted = self.counts["validation"] + self.counts["test"]
        prediction, image = self.measured["training"]["prediction"], self.measured["attribution"]["image"]
        wildcards, layers = job.wildcards, self.measured["attribution"]["layers"]

        def explained() -> int:  # by the untrained network what is right for all models
            wrong = wildcards["pretraining"] != UNTRAINED
            return self.explained(wildcards["selection"], wrong=wrong) + 2 * self.study.attribution.example_images

        work: dict[str, Callable[[], float]] = {
            "pretrain": lambda: self._pretraining(wildcards["pretraining"]),
            "finetune": lambda: self._finetuning(int(wildcards["finetune_depth"])) + predicted * prediction,
            "match_accuracy": lambda: len(list(self.study.checkpoint_runs())) * predicted * prediction,
            "explanation_metrics": lambda: explained() * image,
            "sanity_checks": lambda: SANITY_IMAGES * (layers + 1 + 2 * len(self.study.pretraining.corpora)) * image,
        }
        return self.measured["notebook"]["start"] + work.get(job.rule, lambda: 0.0)()

    def _pretraining(self, corpus: str) -> float:
        from pretrain_xai.networks.corpora import PHOTOGRAPHS

        settings, counts = self.study.pretraining, self.counts
        assert settings.training is not None  # or nothing is pre-trained
        n_images = len(PHOTOGRAPHS) * settings.crops_per_photograph * 1.25  # a quarter more are for validation
        if corpus == "mri":
            n_images = counts["pretraining"] + counts["pretraining_validation"]
        deepest = self.measured["training"]["by_depth"][str(max(self.study.finetuning.depths))]
        return n_images * (deepest["before"] + settings.training.epochs * deepest["epoch"])

    def _finetuning(self, depth: int) -> float:
        measured, settings = self.measured["training"], self.study.finetuning
        cost, validated = measured["by_depth"][str(depth)], self.counts["validation"]
        images = self.counts["train"] + validated
        # an epoch's cost holds one validation; checkpoints on the way take more
        more = settings.matching.checkpoints_per_epoch - 1 if settings.matching else 0
        epoch = images * cost["epoch"] + more * validated * measured["prediction"]
        return images * cost["before"] + settings.training.epochs * epoch


def requested(study: Study, rule: str) -> dict[str, int]:
    """Return what the last plan of a study asks a cluster for, for a job of a rule; nothing where there is none."""
    file = study.paths.data / "plan.json"
    asked = json.loads(file.read_text(encoding="utf-8")).get(rule, {}) if file.is_file() else {}
    return asked | ({"gpu": 1} if study.device == "cuda" and rule in PART_OF_RULE else {})


def missing(study: Study) -> list[str]:
    """Return in words what a study needs and has not: data, weights, its network, methods that can explain it."""
    from pretrain_xai.running.prerequisites import unmet, weights_to_download

    return [str(error) for error in unmet(study)] + weights_to_download(study)


def _report(plan: Plan, lacking: Sequence[str]) -> Iterator[str]:
    study, costs = plan.study, plan.costs()
    cores = os.cpu_count() or 1
    side_by_side = max(1, cores // study.threads)
    yield f"plan of {study.name}: {len(plan.jobs)} jobs, {costs['jobs'].get('finetune', 0)} networks to fine-tune"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    yield f"measured on this machine, on the CPU: {cores} cores, {memory:.0f} GiB; threads of a job: {study.threads}"
    minutes = {"minutes a job": costs["seconds"] / costs["jobs"] / 60, "memory, GiB": costs["memory"]}
    shown = costs[["jobs"]].assign(hours=costs["seconds"] / 3600, **minutes).rename_axis("stage").reset_index()
    yield "\n" + shown.to_string(index=False, float_format="%.2f", na_rep="unknown")
    unknown = "; without the graphics card, which is not measured here" if costs["seconds"].isna().any() else ""
    hours = costs["seconds"].sum() / 3600 / side_by_side
    unit, size = ("minutes", 1 / 60) if hours < 1.5 else ("hours", 1) if hours < 48 else ("days", 24)
    yield f"\n{hours / size:.1f} {unit} with {side_by_side} jobs side by side, if all epochs are run{unknown}"
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.counts.items())
    yield f"images: {counts}; a model explains about {plan.explained(study.main_selection):,} images"
    disk = plan.disk()
    parts = ", ".join(f"{name} {size:.1f}" for name, size in disk.items())
    free = shutil.disk_usage(paths.root()).free / GIB
    yield f"disk: {sum(disk.values()):.1f} GiB of {free:.0f} that are free ({parts})"
    yield "\nmissing: " + ("nothing" if not lacking else "")
    yield from (f"- {line}" for line in lacking)


def measure(study_name: str) -> dict[str, dict[str, Any]]:
    """Return what each part of PARTS found, measured in a process of its own, with its largest resident set, GiB.

    Raises
    ------
    StudyError
        A part can't be run on this machine.
    """
    results = {}
    for part in PARTS:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pretrain_xai.plan", study_name, "--measure", part]
        results[part] = json.loads(_run(f"measuring {part}", command).stdout)
    return results


def peak_memory() -> int:
    """Return the largest resident set of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts in `ru_maxrss` what the process that started this one had
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _notebook(study: Study) -> dict[str, Any]:
    """Seconds of a notebook that only imports."""
    return {"start": _seconds(lambda: [subprocess.run([sys.executable, "-c", code], check=True) for code in IMPORTS])}


def _training(study: Study) -> dict[str, Any]:
    """Seconds per image of an epoch with its validation, and of what comes before the first one, by depth.

    The deepest one trains on a whole batch, from which its memory is known; so does the whole network, as in pre-training.
    """
    from pretrain_xai.dataset import LabelledImages
    from pretrain_xai.networks.models import N_CLASSES, freeze_below
    from pretrain_xai.networks.training import configure_torch, predict, train

    configure_torch(study.threads)
    network, images, settings = _network(study), _images(study, 256), study.finetuning
    predict(network, images[:2])  # the first pass sets up what later ones use
    prediction = _seconds(lambda: predict(network, images[:FEW]), study.threads) / FEW
    count = int(np.clip(ENOUGH / prediction, FEW, len(images)))

    def seconds(count: int, epochs: int) -> float:
        # validated on as few as the study has for each training image
        few = max(1, count // 4)
        data, validation = (LabelledImages(images[:n], np.arange(n) % N_CLASSES) for n in (count, few))
        changed = settings.training.model_copy(update={"epochs": epochs, "stop_value": None})
        one = partial(
            train, network, data, validation, changed, learning_rate=1e-6, seed=0, cache_gib=settings.cache_gib
        )
        return _seconds(one, study.threads) / (count + few)

    by_depth = {}
    for depth in settings.depths:
        freeze_below(network, depth)
        used = max(count, settings.training.batch_size) if depth == max(settings.depths) else count
        one, two = seconds(used, 1), seconds(used, 2)
        by_depth[depth] = {"epoch": max(two - one, 0.0), "before": max(2 * one - two, 0.0)}
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return {"by_depth": by_depth, "prediction": prediction, "bytes": size}


def _attribution(study: Study) -> dict[str, Any]:
    """Seconds per image of all methods and scores, and the number of layers that the sanity check makes random."""
    from pretrain_xai.dataset import LesionMasks, Split
    from pretrain_xai.explain import Explainer
    from pretrain_xai.methods.passes import micro_batch_rows
    from pretrain_xai.networks.models import N_CLASSES
    from pretrain_xai.networks.training import configure_torch
    from pretrain_xai.sanity import weight_layers

    configure_torch(study.threads)
    network, side, settings = _network(study), study.dataset.image_size, study.attribution
    count = settings.micro_batch or micro_batch_rows(side, side)
    images, strength = _images(study, count), np.zeros((count, side, side), np.float32)
    strength[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    masks, labels = LesionMasks(strength, study.protocol.mask_threshold), np.arange(count) % N_CLASSES
    split = Split(images, labels, masks, None, images[::-1], strength)  # scored against twins, too
    explainer = Explainer(network, split, settings, study.protocol)
    seconds = _seconds(lambda: explainer.scores(np.arange(count), settings.methods), study.threads)
    return {"image": seconds / count, "layers": len(weight_layers(network))}


#: what is measured; each function gives numbers by name
PARTS = {"notebook": _notebook, "training": _training, "attribution": _attribution}


def _network(study: Study) -> Any:
    """Return the study's network on the processor: what a graphics card takes is not measured."""
    from pretrain_xai.networks.models import N_CLASSES, build_network, place

    network = build_network(study.network, N_CLASSES, seed=0)
    return place(network, study.model_copy(update={"device": "cpu"}))


def _images(study: Study, count: int) -> np.ndarray:
    """Return noise inside a disc on black, float32 (count, size, size): brains have a black background, too."""
    side = study.dataset.image_size
    place = np.arange(side) - side / 2
    disc = place[:, None] ** 2 + place**2 < (0.4 * side) ** 2
    return np.random.default_rng(0).random((count, side, side), dtype=np.float32) * disc


def _seconds(function: Callable[[], object], threads: int = 1) -> float:
    before = _processor_time()
    function()
    return (_processor_time() - before) / threads


def _processor_time() -> float:
    """Return the seconds that this process and those that it waited for have used."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system  # `os.times` itself counts in ticks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml")
    parser.add_argument("--measure", choices=PARTS, help="measure one part alone, and print what was found as JSON")
    options = parser.parse_args(arguments)
    try:
        study = load_study(options.study)
        if options.measure:
            print(json.dumps(PARTS[options.measure](study) | {"memory": peak_memory() / GIB}))
            return 0
        from pretrain_xai.networks.models import on_card  # torch: not in what is measured without it

        counts, lacking, jobs = image_counts(study), missing(study), planned_jobs(study.name)
        plan = Plan(study, jobs, counts, measure(study.name), on_card=on_card(study))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(_report(plan, lacking)))
    if jobs:
        write_text(study.paths.data / "plan.json", json.dumps(plan.requests(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
