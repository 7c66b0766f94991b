"""Batches on a cluster: the jobs of a real Slurm give what a local batch gives, also when their driver is killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from faults import digests, finish
from pretrain_xai import paths
from pretrain_xai.batch import main
from pretrain_xai.running import cluster
from slurm_node import missing, one_node

#: the tiny study as few jobs, one after another, and quick looks at the queue
QUICKLY = """
groups: {pretrain: prepare}
group-components: {finetune: 2, explain: 5}
slurm-init-seconds-before-status-checks: 3
"""
#: the groups of the profile: Slurm gets their name with those of the rules, abbreviated if there are many
GROUPS = ("prepare", "finetune", "select", "explain", "report")
#: how many jobs of each group or rule the tiny study is, so that each notebook runs once; what no other needs is on its own
JOBS = {"prepare": 2, "finetune": 2, "select": 1, "explain": 2, "sanity_checks": 1, "report": 1}


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page on Slurm."""
    text = (paths.REPOSITORY / "docs" / "slurm.md").read_text()
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def profile_with(folder: Path, *changes: str) -> Path:
    """Write a profile like that of the repository with the YAML of `changes` in it, and return its folder."""
    settings = yaml.safe_load((cluster.profile_folder("slurm") / "config.yaml").read_text())
    for name, value in (item for change in changes for item in yaml.safe_load(change).items()):
        settings[name] = settings.get(name, {}) | value if isinstance(value, dict) else value
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Run a Slurm of one node during the test, in whose environment the test is."""
    if absent := missing():
        pytest.skip(f"Slurm is not installed: no {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client)")
    with one_node(tmp_path / "slurm") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


def jobs(state: str = "all", form: str = "%k") -> list[str]:
    """Return what Slurm says of its jobs: which group or rule they are, or in another of squeue's formats."""
    command = ["squeue", "--noheader", "--states", state, "--format", form]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    names = (line.removeprefix("rule_") for line in printed)
    return [next((group for group in GROUPS if name.startswith(f"{group}_")), name) for name in names]


def wait_until(happens, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain; jobs: {jobs(form='%k:%T')}"
        time.sleep(0.5)


@pytest.mark.system
def test_a_killed_driver_on_slurm_resumes_and_ends_with_the_bytes_of_a_local_batch(slurm, tiny_root, tmp_path):
    """Its jobs go on without it; the next driver waits for them and runs the rest, nothing twice."""
    root = tmp_path / "root"
    shutil.copytree(paths.REPOSITORY / "studies", root / "studies")
    profile = str(profile_with(tmp_path / "profile", QUICKLY))
    command = [sys.executable, "-m", "pretrain_xai.batch", "tiny", "--profile", profile]
    log = (tmp_path / "driver.log").open("w")
    driver = subprocess.Popen(
        command, env=os.environ | {"PRETRAIN_XAI_ROOT": str(root)}, start_new_session=True, stdout=log, stderr=log
    )
    try:
        wait_until(lambda: driver.poll() is not None or "finetune" in jobs("RUNNING"), 900)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert "finetune" in jobs("RUNNING"), (tmp_path / "driver.log").read_text()

    result = finish(root, "--profile", profile)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"waiting for [12] jobs that an earlier batch left in the queue", result.stdout)
    assert digests(root) == digests(tiny_root)
    assert Counter(jobs()) == JOBS
    assert set(jobs(form="%T")) == {"COMPLETED"}, "none took more memory or time than it asked for"
    assert set(jobs(form="%C")) == {"1"}, "each job has the threads of its rule, which are the study's"
    plain = [sys.executable, "-m", "snakemake", "--profile", profile, "--config", "study=tiny"]
    environment = os.environ | {"PRETRAIN_XAI_ROOT": str(root)}
    again = subprocess.run(plain, cwd=paths.REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.system
def test_the_page_on_slurm_says_what_works(root, tmp_path):
    profile = profile_with(tmp_path / "profile", *blocks("yaml"))
    result = finish(root, "--profile", str(profile), "--dry-run", "--quiet", "host")
    assert result.returncode == 0, result.stderr
    asked = dict(
        re.findall(r"^ *rule (\w+):$.*?^ *resources: (.*?)$", result.stdout + result.stderr, re.DOTALL | re.MULTILINE)
    )
    wanted = ("runtime=600", "slurm_partition=long", "slurm_account=mine", "slurm_extra=--constraint=a100")
    assert [part for part in wanted if part not in asked["finetune"]] == []
    for line in "".join(blocks("bash")).splitlines():
        printed = subprocess.run(
            f"{line} READY= --dry-run", shell=True, cwd=paths.REPOSITORY, capture_output=True, check=True
        )
        assert b"-m pretrain_xai.batch demo" in printed.stdout


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Put a `squeue` on the path that prints what the test writes into a file, and empties the file."""
    (tmp_path / "bin").mkdir()
    program, listed = tmp_path / "bin" / "squeue", tmp_path / "listed"
    program.write_text(f"#!/bin/sh\ncat {listed}\n: > {listed}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return listed


def test_jobs_of_other_studies_and_folders_are_not_waited_for(queue, root, monkeypatch):
    mine, longer = cluster.job_prefix("tiny"), cluster.job_prefix("tiny2")
    assert cluster.job_prefix("tiny+ties") == mine, "a variant makes files that it shares with the study"
    monkeypatch.setenv("PRETRAIN_XAI_ROOT", str(root / "elsewhere"))
    elsewhere = cluster.job_prefix("tiny")
    monkeypatch.setenv("PRETRAIN_XAI_ROOT", str(root))
    queue.write_text(f"12 {mine}_1a-2b\n7 {mine}_1a-2b\n8 {longer}_3c\n9 {elsewhere}_1a\n10 interactive\n")
    assert cluster.queued_jobs("tiny") == ["7", "12"]


def test_a_driver_waits_until_the_queue_is_empty_and_says_how_to_end_the_jobs(queue, root, monkeypatch, capsys):
    monkeypatch.setattr("pretrain_xai.running.cluster.LOOK_EVERY", 0)
    queue.write_text(f"12 {cluster.job_prefix('tiny')}_1a\n13 {cluster.job_prefix('tiny')}_1a\n")
    cluster.wait_for_earlier_jobs("tiny")
    assert "waiting for 2 jobs" in (printed := capsys.readouterr().out)
    assert "scancel 12 13" in printed


@pytest.mark.parametrize("study", ["tiny", "a_" * 50, "demo+lesion_floor"])
def test_names_of_jobs_are_what_the_executor_accepts(study):
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,50}", cluster.job_prefix(study))


def test_without_slurm_the_batch_says_so(root, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(cluster.ClusterError, match="`squeue`"):
        cluster.queued_jobs("tiny")
    assert main(["tiny", "--profile", "slurm"]) == 2
    assert "Slurm does not answer" in capsys.readouterr().err


def test_an_unknown_profile_is_one_line_with_the_known_ones(root, capsys):
    assert main(["tiny", "--profile", "slrum"]) == 2
    assert "there is no profile 'slrum': neither local nor slurm" in capsys.readouterr().err
