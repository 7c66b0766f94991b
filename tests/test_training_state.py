"""A training that was interrupted goes on with the same result to the bit, also after a kill."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_xai.networks import training
from pretrain_xai.networks.checkpoints import Checkpoints
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import Course, state_file, train
from pretrain_xai.settings.sections import Cache, Network, Training
from small_nets import noise, same
from torch import nn

SGD = {"optimizer": "sgd", "schedule": "step"}
ADAMW = {"optimizer": "adamw", "schedule": "one_cycle", "clip_norm": 1.0}


def network_of(architecture: str = "vgg11") -> nn.Module:
    network = build_network(Network(architecture=architecture, width=1 / 16), 2, seed=0)
    freeze_below(network, 2)
    return network


def trained(network: nn.Module, folder: Path, given: dict, *, epochs: int = 5, stop_after: int = 99, seed: int = 3):
    """Train with a state file in the folder, with an error after some epochs; return weights, history, epochs trained."""
    keep, epochs_kept = Course.keep, []

    def keep_and_fail(course, *given):
        course._took = 0.0  # every epoch is kept
        keep(course, *given)
        epochs_kept.append(len(course.history))
        if len(epochs_kept) == stop_after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Course, "keep", keep_and_fail)
        checkpoints = Checkpoints(folder / "checkpoints.csv", per_epoch=2)
        history = train(
            *(network, noise(20), noise(12, 1), Training(epochs=epochs, batch_size=8, **given)),
            **{"learning_rate": 0.02, "seed": seed, "cache": Cache(), "checkpoints": checkpoints},
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
    expected, history, _ = trained(network_of(architecture), tmp_path / "whole", given)
    for stop_after in (2, 1):  # epochs 0 and 1, then epoch 2
        with pytest.raises(KeyboardInterrupt):
            trained(network_of(architecture), tmp_path / "cut", given, stop_after=stop_after)
    torch.manual_seed(99)
    found, other, epochs = trained(network_of(architecture), tmp_path / "cut", given)
    assert epochs == [4, 5], "the first three epochs were not trained again"
    assert same(found, expected) and history.equals(other)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_the_best_checkpoint_survives_though_it_is_not_the_last_epoch(tmp_path, monkeypatch):
    def validate(_, data, dropout_active, seed):
        return {"validation_loss": 0.0, "validation_accuracy": [0.5, 0.9, 0.6, 0.7][seed - 3]}

    monkeypatch.setattr(training, "_validate", validate)
    expected, history, _ = trained(network_of(), tmp_path / "whole", SGD, epochs=4)
    assert history["checkpoint"].tolist() == [True, True, False, False]
    with pytest.raises(KeyboardInterrupt):
        trained(network_of(), tmp_path / "cut", SGD, epochs=4, stop_after=3)
    found, other, _ = trained(network_of(), tmp_path / "cut", SGD, epochs=4)
    assert same(found, expected) and history.equals(other)


def test_a_finished_training_is_not_trained_again_before_its_results_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", lambda _: None)
    expected, history, _ = trained(network_of(), tmp_path, SGD)
    monkeypatch.setattr(training, "behind_frozen_prefix", None)  # not even the frozen layers are run
    found, other, epochs = trained(network_of(), tmp_path, SGD)
    assert epochs == [] and history.equals(other) and same(found, expected)


@pytest.mark.parametrize("changed", ["settings", "seed", "weights", "data", "code", "damaged", "checkpoints"])
def test_a_state_of_another_training_is_not_taken_up(changed, tmp_path, monkeypatch, caplog):
    with pytest.raises(KeyboardInterrupt):
        trained(network_of(), tmp_path, SGD, stop_after=1)
    file, network, given, seed = state_file(tmp_path / "weights.safetensors"), network_of(), dict(SGD), 3
    if changed == "settings":
        given["clip_norm"] = 100.0
    elif changed == "seed":
        seed = 4
    elif changed == "weights":
        network.features[0].bias.data += 1e-3
    elif changed == "data":
        monkeypatch.setattr(np.random, "default_rng", lambda seed: np.random.Generator(np.random.PCG64(seed + 7)))
    elif changed == "code":
        monkeypatch.setattr(training, "CODE", training.CODE[1:])
    elif changed == "checkpoints":
        next((tmp_path / ".checkpoints").iterdir()).unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    _, history, epochs = trained(network, tmp_path, given, seed=seed)
    assert epochs == [1, 2, 3, 4, 5] and history["epoch"].tolist() == list(range(5))
    assert "begins anew" in caplog.text


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """A write of 2 s is followed by none for a minute, but for the last."""
    now, written = [0.0], []

    def save(*_):
        now[0] += 2
        written.append(now[0])

    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(training.torch, "save", save)
    course = Course(nn.Linear(1, 1), Training(epochs=1), 1.0, 0, 1)
    for _ in range(20):
        now[0] += 10
        course.keep(tmp_path / "state.pt", "key")
    assert written == [12, 74, 136, 198]
    course.history = [{}]
    course.keep(tmp_path / "state.pt", "key")
    assert len(written) == 5, "the training is over"


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training_state import SGD, Course, network_of, trained
keep = Course.keep
def keep_then_die(self, path, key):
    keep(self, path, key)
    if len(self.history) == 3:
        path.with_name(f".{{path.stem}}-half.pt").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
Course.keep = keep_then_die
trained(network_of(), Path({folder!r}), SGD)
"""


def test_a_killed_training_goes_on_in_another_process(tmp_path):
    expected, history, _ = trained(network_of(), tmp_path / "whole", SGD)
    folder = tmp_path / "killed"
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert {file.name for file in folder.iterdir()} == {
        ".weights.training.pt",
        "..weights.training-half.pt",
        ".checkpoints",
    }
    found, other, epochs = trained(network_of(), folder, SGD)
    assert epochs == [4, 5] and same(found, expected) and history.equals(other)
    assert files(folder) == files(tmp_path / "whole")
