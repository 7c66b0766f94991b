"""Run a whole study: `python -m pretrain_xai.batch STUDY [snakemake options]`.

Checks everything that can be checked before the first notebook starts, lets Snakemake run what is missing or out of date,
and says how long each stage took. Whether results were changed after they were made is not looked at: `make verify` does.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.paths import Paths
from pretrain_xai.running.cluster import job_prefix, profile_folder, uses_slurm, wait_for_earlier_jobs
from pretrain_xai.running.stages import STAGES
from pretrain_xai.running.variants import retrained_variants, variant_name, variant_states
from pretrain_xai.study import Study, load_study


class BatchError(UserError):
    """The batch can't start."""


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
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held = f"another batch is running the study {base!r}; wait for it or stop it (lock: {path})"
        raise BatchError(held) from None
    except OSError as error:
        raise BatchError(f"can't lock {path}: {error.strerror}; results of a study go to this folder") from None
    with file:
        yield file.fileno()


def snakemake(study: str, options: Sequence[str], profile: Path = paths.REPOSITORY / "profiles" / "local") -> list[str]:
    """Return the command that runs Snakemake on a study."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.REPOSITORY / "Snakefile"), "--nolock"]
    command += ["--profile", str(profile), "--directory", str(paths.root()), *options]
    return [*command, "--config", f"study={study}"]


def run_batch(study: str, options: Sequence[str], profile: str = "local") -> int:
    """Run Snakemake on the study with one of the `profiles/` and return its exit status."""
    folder = profile_folder(profile)
    with only_batch(study) as lock:
        if uses_slurm(folder) and not _is_dry(options):
            wait_for_earlier_jobs(study)
            options = [*options, "--slurm-jobname-prefix", job_prefix(study)]
        # the driver inherits the lock, so that it stays locked if only this process is killed
        return subprocess.run(snakemake(study, options, folder), pass_fds=[lock], check=False).returncode


def run_protocols(study: str, options: Sequence[str], profile: str = "local", *, retrain: bool) -> int:
    """Run the variants of a study and compare those that finish with it; return the largest exit status."""
    statuses = [0]
    for variant in retrained_variants(load_study(study)) if retrain else ():
        print(f"\n{study} {'as published' if variant == 'published' else f'with {variant}'}", flush=True)
        statuses.append(run_batch(variant_name(study, variant), options, profile))
    if apart := [
        f"{name} ({state})" for name, state in variant_states(load_study(study)).items() if state != "finished"
    ]:
        print(f"not compared: {', '.join(apart)}; `make protocols STUDY={study}` makes them", file=sys.stderr)
    return max(run_batch(study, ["compare_protocols", *options], profile), *statuses)


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
    print(f"this batch took {wall / 60:.1f} minutes; notebooks ran side by side, some of them in earlier batches")
    report = study.paths.figures / "report.html"
    if report.is_file():
        (study.paths.slices / "slices.npy").unlink(missing_ok=True)
        print(f"next: open {os.path.relpath(report)} in a browser, then the notebooks with `make lab`")


def _is_dry(options: Sequence[str]) -> bool:
    return not {"-n", "--dry-run", "--dryrun"}.isdisjoint(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or another status after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.batch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml")
    about = "compare with the study as published: the switches that need no training, or all"
    parser.add_argument("--protocols", choices=["rescored", "all"], help=about)
    parser.add_argument("--profile", default="local", help="where jobs run: a folder in profiles/, or one of your own")
    options, snakemake_options = parser.parse_known_args(arguments)
    from pretrain_xai.running.prerequisites import check_pairs, unmet

    started = time.monotonic()
    try:
        for error in unmet(load_study(options.study), on_cluster=uses_slurm(profile_folder(options.profile))):
            raise error
        check_pairs(paths.NOTEBOOKS, STAGES)
        status = run_batch(options.study, snakemake_options, options.profile)
        if status == 0 and options.protocols:
            retrain = options.protocols == "all"
            status = run_protocols(options.study, snakemake_options, options.profile, retrain=retrain)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if status == 0 and not _is_dry(snakemake_options):
        _finish(load_study(options.study), time.monotonic() - started)
    return status


if __name__ == "__main__":
    sys.exit(main())
