"""Batches whose jobs run on a Slurm cluster.

A driver that is killed leaves its jobs in the queue, where they go on. The next driver must not start them a second time:
jobs are named after their study, and it waits until none of that name is left.
"""

import hashlib
import re
import subprocess
import time
from pathlib import Path

from pretrain_xai import paths
from pretrain_xai.errors import UserError

#: seconds between two looks at the queue
LOOK_EVERY = 10
#: most characters that the executor allows before the name of a job
LONGEST_PREFIX = 50


class ClusterError(UserError):
    """There is no such profile, or Slurm does not answer."""


def profile_folder(name: str) -> Path:
    """Return the folder of a profile: one of `profiles/`, or any folder with a `config.yaml`.

    Raises
    ------
    ClusterError
        There is none.
    """
    for folder in (paths.REPOSITORY / "profiles" / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    known = sorted(file.parent.name for file in (paths.REPOSITORY / "profiles").glob("*/config.yaml"))
    raise ClusterError(f"there is no profile {name!r}: neither {' nor '.join(known)}, nor a folder with a config.yaml")


def uses_slurm(profile: Path) -> bool:
    """Return whether the jobs of a profile are sent to Slurm."""
    settings = (profile / "config.yaml").read_text(encoding="utf-8", errors="replace")  # Snakemake says what is wrong
    return re.search(r"^executor: *[\"']?slurm\b", settings, re.MULTILINE) is not None


def job_prefix(study: str) -> str:
    """Return how the names of the jobs of a study and its variants begin; studies of one name in two folders differ."""
    base, _ = paths.split_name(study)  # variants make files that the study shares with them
    root = hashlib.sha256(str(paths.root()).encode()).hexdigest()[:8]
    return f"{root}-{re.sub('[^A-Za-z0-9]', '-', base)}"[:LONGEST_PREFIX]


def queued_jobs(study: str) -> list[str]:
    """Return the numbers of this user's jobs of a study and its variants that wait or run.

    Raises
    ------
    ClusterError
        Slurm's `squeue` is not there or fails.
    """
    command = ["squeue", "--noheader", "--me", "--format", "%A %j"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " ".join((getattr(error, "stderr", "") or str(error)).split())
        raise ClusterError(
            f"Slurm does not answer to `squeue` ({reason}); start the batch where jobs are sent"
        ) from None
    jobs = (line.split(maxsplit=1) for line in printed.splitlines())
    # the executor adds an underscore and a number of its own
    return sorted({number for number, name in jobs if name.startswith(f"{job_prefix(study)}_")}, key=int)


def wait_for_earlier_jobs(study: str) -> None:
    """Wait until no job of an earlier driver is in the queue, and say how to end them instead."""
    if jobs := queued_jobs(study):
        print(f"waiting for {len(jobs)} jobs that an earlier batch left in the queue; what they make is kept")
        print(f"(or end them: scancel {' '.join(jobs)})", flush=True)
    while jobs and queued_jobs(study):
        time.sleep(LOOK_EVERY)
