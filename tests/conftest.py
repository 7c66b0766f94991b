"""What tests share: the tiny study, run once in a folder of its own."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from pretrain_xai import paths

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """Return a root folder in which the batch ran the tiny study and its switches, as a user would.

    It runs once, in PRETRAIN_XAI_TINY if that is set, where the next session finds it done. Each process of pytest-xdist
    works on a copy of its own.
    """
    from pretrain_xai.batch import main

    shared = tmp_path_factory.getbasetemp().parent / "tiny"
    made = Path(os.environ.get("PRETRAIN_XAI_TINY") or shared)
    made.mkdir(parents=True, exist_ok=True)
    with FileLock(made / ".lock"), pytest.MonkeyPatch.context() as patch:
        shutil.copytree(REPOSITORY / "studies", made / "studies", dirs_exist_ok=True)
        patch.setenv("PRETRAIN_XAI_ROOT", str(made))
        assert main(["tiny", "--protocols", "rescored"]) == 0
    root = tmp_path_factory.mktemp("tiny")
    shutil.copytree(made, root, dirs_exist_ok=True)
    return root


@pytest.fixture
def tiny(tiny_root, monkeypatch) -> str:
    """Return the name of the finished tiny study, whose root is in use during the test."""
    monkeypatch.setenv("PRETRAIN_XAI_ROOT", str(tiny_root))
    return "tiny"


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Close the figures that a test drew."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Return an empty root folder with the study files, in use during the test."""
    shutil.copytree(REPOSITORY / "studies", tmp_path / "studies")
    monkeypatch.setenv("PRETRAIN_XAI_ROOT", str(tmp_path))
    return tmp_path


def pytest_configure() -> None:
    """Let every test use one thread, as the batch does, and take its time; a CI run draws the same cases every time."""
    no_check = [HealthCheck.function_scoped_fixture]  # files are written anew by every case
    settings.register_profile("project", deadline=None, derandomize="CI" in os.environ, suppress_health_check=no_check)
    settings.load_profile("project")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mpl.use("agg")  # no screen; not by the environment, which kernels of notebooks inherit
    assert paths.REPOSITORY == REPOSITORY
