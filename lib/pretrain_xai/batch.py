"""Run a whole study: `python -m pretrain_xai.batch STUDY [snakemake options]`.

Checks everything that can be checked before the first notebook starts, lets Snakemake run what is missing or out of date,
and says how long each stage took. Whether results were changed after they were made is not looked at: `make verify` does.
"""

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.paths import Paths
from pretrain_xai.running.cluster import job_prefix, profile_folder, uses_slurm, wait_for_earlier_jobs
from pretrain_xai.running.pairs import check_pairs
from pretrain_xai.running.stages import STAGES
from pretrain_xai.running.variants import retrained_variants, variant_name, variant_states
from pretrain_xai.slices.files import source_state
from pretrain_xai.study import Study, StudyError, load_study


class BatchError(UserError):
    """The batch can't start."""


def check_methods(study: Study) -> None:
    """Check the explanation methods of a study and their options against the registry and the image size.

    Raises
    ------
    StudyError
        A method or option is unknown, and the known ones are named; or an option does not fit to the images.
    """
    from pretrain_xai.attribution import check_options

    for method in {*study.attribution.methods, *study.attribution.options}:
        try:
            check_options(method, study.attribution.options.get(method, {}), study.dataset.image_size)
        except (ValueError, TypeError) as error:
            raise StudyError(f"attribution: {error}") from None


def check_scores(study: Study) -> None:
    """Check the scores of a study against the registry.

    Raises
    ------
    StudyError
        A score is unknown, or its package is not installed; the known ones are named. Or one of the sensitivity table has
        no chance level.
    """
    from pretrain_xai.localization import SCORES, find_score, no_chance

    compared = study.attribution.sensitivity.scores
    with_chance = [name for name, score in SCORES.items() if score.chance is not no_chance]
    for place, scores in (("scores", study.attribution.scores), ("sensitivity.scores", compared)):
        for score in scores:
            try:
                if find_score(score).chance is no_chance and scores is compared:
                    raise ValueError(f"{score!r} has no chance level, so no skill; {', '.join(with_chance)} have one")
            except ValueError as error:
                raise StudyError(f"attribution.{place}: {error}") from None


def check_files_and_network(study: Study, profile: str = "local") -> None:
    """Check that the weights that a study reads are there, its device too, and that its methods can explain its network."""
    from pretrain_xai.running.prerequisites import check_device, check_network, check_weights

    if not uses_slurm(profile_folder(profile)):  # on a cluster jobs have what the driver may lack
        check_device(study)
    check_weights(study)
    check_network(study)


@contextmanager
def only_batch(study: str) -> Iterator[int]:
    """Hold the study's lock and give its file descriptor; the system frees it when the last holder dies, even by a kill.

    A study and its variants have one lock, as they share files.

    Raises
    ------
    BatchError
        Another batch holds it, or the folder can't be written.
    """
    base, _ = paths.split_name(study)
    path = Paths(base).data / ".batch.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise BatchError(f"can't write to {path.parent}: {error.strerror}; results of a study go there") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchError(
                f"another batch is running the study {base!r}; wait for it or stop it (lock: {path})"
            ) from None
        except OSError as error:
            raise BatchError(f"can't lock {path}: {error.strerror}; results need a file system with locks") from None
        yield file.fileno()


def run_batch(study: str, options: Sequence[str], profile: str = "local") -> int:
    """Run Snakemake on the study with one of the `profiles/` and return its exit status."""
    folder = profile_folder(profile)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.REPOSITORY / "Snakefile"), "--nolock"]
    command += ["--profile", str(folder), "--directory", str(paths.root()), *options]
    with only_batch(study) as lock:
        if uses_slurm(folder) and not _is_dry(options):
            command += ["--slurm-jobname-prefix", job_prefix(study)]
            wait_for_earlier_jobs(study)
        environment = {"PYTHONHASHSEED": "0"} | os.environ  # any other gives the same
        # the driver inherits the lock, so that it stays locked if only this process is killed
        command += ["--config", f"study={study}"]
        return subprocess.run(command, env=environment, pass_fds=[lock], check=False).returncode


def run_protocols(study: str, options: Sequence[str], *, retrain: bool, profile: str = "local") -> int:
    """Run the variants of a study and compare those that finish with it; return the largest exit status."""
    statuses = {}
    for variant in retrained_variants(load_study(study)) if retrain else ():
        print(f"\n{study} {'as published' if variant == 'published' else f'with {variant}'}", flush=True)
        statuses[variant] = run_batch(variant_name(study, variant), options, profile)
    states = variant_states(load_study(study))
    if outdated := [variant for variant, state in states.items() if state == "out of date"]:
        print(
            f"out of date and not compared: {', '.join(outdated)}; run `make protocols STUDY={study}`", file=sys.stderr
        )
    compared = run_batch(study, ["compare_protocols", *options], profile)
    if failed := [variant for variant, status in statuses.items() if status]:
        print(f"error: these variants failed and are not compared: {', '.join(failed)}", file=sys.stderr)
    return max(compared, *statuses.values(), 0)


def stage_times(study: Study) -> dict[str, list[float]]:
    """Return the seconds that each executed notebook of the study took, by stage."""
    times: dict[str, list[float]] = {}
    for path in sorted(study.paths.executed.glob("*/[!.]*.ipynb")):
        if path.stat().st_size:  # Snakemake makes an empty log for a job that was killed before it wrote one
            notebook = json.loads(path.read_text(encoding="utf-8"))
            duration = notebook["metadata"].get("papermill", {}).get("duration")
            times.setdefault(path.parent.name, []).append(duration or 0.0)
    return times


def _finish(study: Study, wall: float) -> None:
    """Say how long a study took; if it is finished, remove its slices, which whoever needs them makes again."""
    print(f"\n{'stage':<28} {'runs':>4} {'minutes':>8}")
    for stage, seconds in stage_times(study).items():
        print(f"{stage:<28} {len(seconds):>4} {sum(seconds) / 60:>8.1f}")
    print(
        f"this batch took {wall / 60:.1f} minutes; notebooks ran side by side, and some of those above in earlier batches"
    )
    report = study.paths.figures / "report.html"
    if report.is_file():
        (study.paths.slices / "slices.npy").unlink(missing_ok=True)
        print(f"next: open {os.path.relpath(report)} in a browser, then the notebooks with `make lab`")


def _is_dry(options: Sequence[str]) -> bool:
    return any(option in ("--dry-run", "--dryrun") or re.fullmatch("-[kpqF]*n[kpqF]*", option) for option in options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or another status after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.batch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml")
    parser.add_argument(
        "--protocols",
        choices=["rescored", "all"],
        help="compare with the study as published: the switches that need no training, or all",
    )
    parser.add_argument("--profile", default="local", help="where jobs run: a folder in profiles/, or one of your own")
    options, snakemake_options = parser.parse_known_args(arguments)
    started = time.monotonic()
    try:
        settings = load_study(options.study)
        check_methods(settings)
        check_scores(settings)
        check_files_and_network(settings, options.profile)
        source_state(settings.slices)
        check_pairs(paths.NOTEBOOKS, STAGES)
        status = run_batch(options.study, snakemake_options, options.profile)
        if status == 0 and options.protocols:
            retrain = options.protocols == "all"
            status = run_protocols(options.study, snakemake_options, retrain=retrain, profile=options.profile)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if status == 0 and not _is_dry(snakemake_options):
        _finish(load_study(options.study), time.monotonic() - started)
    return status


if __name__ == "__main__":
    sys.exit(main())
