"""A training that was interrupted goes on with the same result to the bit, also after a kill."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks import training, training_state
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import train
from pretrain_xai.networks.training_state import StateFile
from pretrain_xai.settings.sections import Cache, Network, Training
from torch import nn

SGD = {"optimizer": "sgd", "schedule": "step"}
ADAMW = {"optimizer": "adamw", "schedule": "one_cycle", "clip_norm": 1.0}


def noise(n_images: int, seed: int) -> LabelledImages:
    images = np.random.default_rng(seed).random((n_images, 32, 32), dtype=np.float32)
    return LabelledImages(images, np.arange(n_images) % 2)


def network_of(depth: int = 2, batch_norm: bool = False) -> nn.Module:
    network = build_network(Network(architecture="vgg11", width=1 / 16), 2, seed=0)
    if batch_norm:
        network.features[-1] = nn.Sequential(nn.BatchNorm2d(32), nn.MaxPool2d(2))
    freeze_below(network, depth) if not batch_norm else network.requires_grad_(True)
    return network


def trained(network: nn.Module, folder: Path, given: dict, *, epochs: int = 5, stop_after: int = 99, seed: int = 3):
    """Train with a state file in the folder, with an error after some epochs; return the weights and the history."""
    state = StateFile(folder / "weights.safetensors")
    keep, calls = state.keep, []

    def keep_and_fail(course, *, now):
        keep(course, now=True)
        calls.append(len(course.history))
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    state.keep = keep_and_fail
    settings = Training(epochs=epochs, batch_size=8, **given)
    data = noise(20, 0), noise(12, 1)
    history = train(network, *data, settings, learning_rate=0.02, seed=seed, cache=Cache(), state=state)
    return network.state_dict(), history, calls


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("given", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_an_interrupted_training_has_the_same_result(given, batch_norm, tmp_path):
    expected, history, _ = trained(network_of(batch_norm=batch_norm), tmp_path / "whole", given)
    for stop_after in (2, 1):  # epochs 0 and 1, then epoch 2
        with pytest.raises(KeyboardInterrupt):
            trained(network_of(batch_norm=batch_norm), tmp_path / "cut", given, stop_after=stop_after)
    torch.manual_seed(99)
    found, other, calls = trained(network_of(batch_norm=batch_norm), tmp_path / "cut", given)
    assert calls == [4, 5], "the first three epochs were not trained again"
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert history.equals(other)


def test_the_best_checkpoint_survives_though_it_is_not_the_last_epoch(tmp_path, monkeypatch):
    accuracies = [0.5, 0.9, 0.6, 0.7]

    def script(monkeypatch):
        left = iter(accuracies)
        monkeypatch.setattr(
            training, "_validate", lambda *_: {"validation_loss": 0.0, "validation_accuracy": next(left)}
        )

    script(monkeypatch)
    expected, history, _ = trained(network_of(), tmp_path / "whole", SGD, epochs=4)
    assert history["checkpoint"].tolist() == [True, True, False, False]
    script(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trained(network_of(), tmp_path / "cut", SGD, epochs=4, stop_after=3)
    found, other, _ = trained(network_of(), tmp_path / "cut", SGD, epochs=4)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert history.equals(other)


def test_a_finished_training_is_not_trained_again_before_its_results_are_saved(tmp_path, monkeypatch):
    expected, history, _ = trained(network_of(), tmp_path, SGD)
    monkeypatch.setattr(training, "behind_frozen_prefix", None)  # not even the frozen layers are run
    found, other, calls = trained(network_of(), tmp_path, SGD)
    assert calls == [] and history.equals(other)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    StateFile(tmp_path / "weights.safetensors").remove()
    assert not list(tmp_path.iterdir())
    StateFile(tmp_path / "weights.safetensors").remove()


@pytest.mark.parametrize("changed", ["settings", "seed", "weights", "data", "code", "damaged"])
def test_a_state_of_another_training_is_not_taken_up(changed, tmp_path, monkeypatch, caplog):
    with pytest.raises(KeyboardInterrupt):
        trained(network_of(), tmp_path, SGD, stop_after=1)
    (file,) = tmp_path.iterdir()
    network, given, seed = network_of(), dict(SGD), 3
    if changed == "settings":
        given["clip_norm"] = 100.0
    elif changed == "seed":
        seed = 4
    elif changed == "weights":
        network.features[0].bias.data += 1e-3
    elif changed == "data":
        monkeypatch.setattr(np.random, "default_rng", lambda seed: np.random.Generator(np.random.PCG64(seed + 7)))
    elif changed == "code":
        monkeypatch.setattr(training_state, "CODE", training_state.CODE[1:])
    else:
        file.write_bytes(file.read_bytes()[:-100])
    _, history, calls = trained(network, tmp_path, given, seed=seed)
    assert calls == [1, 2, 3, 4, 5] and history["epoch"].tolist() == list(range(5))
    assert "begins anew" in caplog.text


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """A write of 2 s is followed by none for a minute, but for the last."""
    now, written = [0.0], []

    def save(*_):
        now[0] += 2
        written.append(now[0])

    monkeypatch.setattr(training_state.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(training_state.torch, "save", save)
    sgd = torch.optim.SGD([torch.zeros(1)], lr=1)
    course = training_state.Course(nn.Linear(1, 1), sgd, sgd, np.random.default_rng(0))
    course.history = [{"checkpoint": True}]
    state = StateFile(tmp_path / "weights.safetensors")
    for _ in range(20):
        now[0] += 10
        state.keep(course, now=False)
    assert written == [12, 74, 136, 198]
    now[0] += 1
    state.keep(course, now=True)
    assert len(written) == 5


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training_state import SGD, network_of, trained
from pretrain_xai.networks.training_state import StateFile
keep = StateFile.keep
def keep_then_die(self, course, *, now):
    keep(self, course, now=now)
    if len(course.history) == 3:
        self.path.with_name(f".{{self.path.stem}}-half.pt").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
StateFile.keep = keep_then_die
trained(network_of(), Path({folder!r}), SGD)
"""


def test_a_killed_training_goes_on_in_another_process(tmp_path):
    expected, history, _ = trained(network_of(), tmp_path / "whole", SGD)
    folder = tmp_path / "killed"
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 2
    found, other, calls = trained(network_of(), folder, SGD)
    assert calls == [4, 5]
    assert [file.name for file in folder.iterdir()] == [".weights.training.pt"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert history.equals(other)
