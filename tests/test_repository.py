"""The repository as a newcomer finds it."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pretrain_xai import paths
from pretrain_xai.protocol import Protocol

ROOT = paths.REPOSITORY


def git_files(*arguments: str) -> list[str]:
    result = subprocess.run(["git", "ls-files", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return result.stdout.splitlines()


def pins(lines: list[str]) -> dict[str, str]:
    matches = (re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line.strip()) for line in lines)
    return {match[1].lower().replace("_", "-"): match[2] for match in matches if match}


def test_pinned_sets_agree():
    """pyproject.toml, environment.yml and requirements.txt name the same versions."""
    full = pins((ROOT / "requirements.txt").read_text().splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = pins(project["dependencies"])
    tests = pins(project["optional-dependencies"]["test"])
    (pip,) = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1].values()
    assert len(used) == len(project["dependencies"]), "every dependency is pinned"
    assert pins(pip) == used
    assert "-e ." in pip
    assert (used | tests).items() <= full.items()
    wanted = "jupyterlab jupytext papermill torch torchvision captum nibabel numpy pandas seaborn"
    assert set(wanted.split()) <= used.keys()


def test_no_committed_file_names_a_download_address_of_packages():
    for name in ("requirements.txt", "environment.yml", "pyproject.toml", "Makefile", ".ci/run"):
        assert "://" not in (ROOT / name).read_text(), name


def test_git_tracks_the_library_and_no_result():
    assert git_files("lib")
    for folder in ("data", "figures", "papermill_runs"):
        assert git_files(folder) == [f"{folder}/README.md"]


def test_light_modules_do_not_import_torch():
    """A notebook that only draws starts fast."""
    light = "lesions, localization, published, dataset, tables, selection, statistics.summary, drawing.boxplots"
    light = f"{light}, drawing.statistics_plots, explorer.view".replace(", ", ", pretrain_xai.")
    code = f"import sys, pretrain_xai.{light}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def lint(*command: str) -> None:
    """Run a checker of `make lint` on this checkout's library."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
def test_types_of_the_library_hold():
    """Without the cache that `make lint` and earlier runs leave, mypy takes 20 s."""
    lint(sys.executable, "-m", "mypy")


def test_imports_go_only_down():
    """The layers stand in pyproject.toml; a module that is not among them is refused, too."""
    lint(str(Path(sys.executable).with_name("lint-imports")))


def test_differences_name_every_switch_and_tests_that_exist():
    text = (ROOT / "docs" / "differences.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(field.name for field in dataclasses.fields(Protocol))
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
    assert all("`test_" in check for _, check in rows)


def test_commit_hooks_are_local_and_pass():
    """`pre-commit` is optional: whoever uses it fetches nothing, and finds the checkout in order."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "system"
        program, *arguments = shlex.split(hook["entry"])
        if not (ROOT / program).is_file():
            pytest.skip(f"{program} is not there: make it by `make test`")
        lint(str(ROOT / program), *arguments)
