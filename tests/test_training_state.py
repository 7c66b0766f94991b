"""A training that was interrupted goes on with the same result to the bit, also after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import PCG64, Generator
from pretrain_xai.networks import training
from pretrain_xai.networks.checkpoints import Checkpoints
from pretrain_xai.networks.training import Course, state_file, train
from pretrain_xai.settings.sections import Training
from small_nets import noise, same, vgg
from torch import nn

SGD = {"optimizer": "sgd", "schedule": "step"}
ADAMW = {"optimizer": "adamw", "schedule": "one_cycle", "clip_norm": 1.0}


def trained(network: nn.Module, folder: Path, given: dict, *, epochs: int = 5, stop_after: int = 99, seed: int = 3):
    """Train with a state file in the folder, with an error after some epochs; return weights, history, epochs trained."""
    keep, epochs_kept = Course.keep, []

    def keep_and_fail(course, *given):
        keep(course, *given)
        epochs_kept.append(len(course.history))
        if len(epochs_kept) == stop_after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STATE_EVERY", 0)  # every epoch is kept
        patch.setattr(Course, "keep", keep_and_fail)
        checkpoints = Checkpoints(folder / "checkpoints.csv", per_epoch=2)
        history = train(
            *(network, noise(20), noise(12, 1), Training(epochs=epochs, batch_size=8, **given)),
            **{"learning_rate": 0.02, "seed": seed, "cache_gib": 1.0, "checkpoints": checkpoints},
            state=state_file(folder / "weights.safetensors"),
        )
    checkpoints.save()
    return network.state_dict(), history, epochs_kept


def files(folder: Path) -> dict[str, bytes]:
    """Return what is kept in the end but for the state, whose bytes are not those of a plain run."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt"}


@pytest.mark.parametrize("architecture", ["vgg11", "vgg11_bn"])
@pytest.mark.parametrize("given", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_an_interrupted_training_has_the_same_result_and_checkpoints(given, architecture, tmp_path):
    expected, history, _ = trained(vgg(2, architecture=architecture), tmp_path / "whole", given)
    for stop_after in (2, 1):  # epochs 0 and 1, then epoch 2
        with pytest.raises(KeyboardInterrupt):
            trained(vgg(2, architecture=architecture), tmp_path / "cut", given, stop_after=stop_after)
    torch.manual_seed(99)
    found, other, epochs = trained(vgg(2, architecture=architecture), tmp_path / "cut", given)
    assert epochs == [4, 5], "the first three epochs were not trained again"
    assert same(found, expected) and history.equals(other)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_training_is_not_trained_again_before_its_results_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", lambda _: None)
    expected, history, _ = trained(vgg(2), tmp_path, SGD)
    monkeypatch.setattr(training, "behind_frozen_prefix", None)  # not even the frozen layers are run
    found, other, epochs = trained(vgg(2), tmp_path, SGD)
    assert epochs == [] and history.equals(other) and same(found, expected)


CHANGES = {
    "settings": lambda patch, folder: patch.setitem(SGD, "clip_norm", 100.0),
    "data": lambda patch, folder: patch.setattr(np.random, "default_rng", lambda seed: Generator(PCG64(seed + 7))),
    "code": lambda patch, folder: patch.setattr(training, "CODE", training.CODE[1:]),
    "damaged": lambda patch, folder: os.truncate(state_file(folder / "weights.safetensors"), 10_000),
}


@pytest.mark.parametrize("changed", [*CHANGES, "seed", "weights"])
def test_a_state_of_another_training_is_not_taken_up(changed, tmp_path, monkeypatch, caplog):
    with pytest.raises(KeyboardInterrupt):
        trained(vgg(2), tmp_path, SGD, stop_after=1)
    if changed in CHANGES:
        CHANGES[changed](monkeypatch, tmp_path)
    _, history, epochs = trained(vgg(2, seed=int(changed == "weights")), tmp_path, SGD, seed=3 + (changed == "seed"))
    assert epochs == [1, 2, 3, 4, 5] and history["epoch"].tolist() == list(range(5))
    assert "begins anew" in caplog.text


def test_a_state_is_written_every_minute_and_at_the_end(tmp_path, monkeypatch):
    now, path = [0.0], tmp_path / "state.pt"
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    course, written = Course(nn.Linear(1, 1), Training(epochs=1), 1.0, 0, 1), []
    for now[0] in range(0, 200, 10):
        course.keep(path, "key")
        if path.exists():
            written.append(now[0])
            path.unlink()
    assert written == [60, 120, 180]
    course.history = [{}]
    course.keep(path, "key")
    assert path.exists(), "the training is over"


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training_state import SGD, Course, trained, vgg
keep = Course.keep
def keep_then_die(self, path, key):
    keep(self, path, key)
    if len(self.history) == 3:
        path.with_name(f".{{path.stem}}-half.pt").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
Course.keep = keep_then_die
trained(vgg(2), Path({folder!r}), SGD)
"""


def test_a_killed_training_goes_on_in_another_process(tmp_path):
    expected, history, _ = trained(vgg(2), tmp_path / "whole", SGD)
    folder = tmp_path / "killed"
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 3, "the state, a half-written one and the checkpoints"
    found, other, epochs = trained(vgg(2), folder, SGD)
    assert epochs == [4, 5] and same(found, expected) and history.equals(other)
    assert files(folder) == files(tmp_path / "whole")
