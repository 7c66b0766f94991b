"""Fine-tuning of VGG-16 at 224 px on the kept activations of its frozen layers, and as a plain loop, in turn in one run.

Ratios are those of processor time, which other work on the machine changes little; time on the clock is printed beside it.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from claims import verdict
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import behind_frozen_prefix, configure_torch, train
from pretrain_xai.settings.sections import Network, Training
from torch import nn

CORES = int(os.environ.get("OMP_NUM_THREADS", "2"))
#: images of the training set, and of the validation set
N_IMAGES = 64
EPOCHS = 2
#: by depth, how many times as fast an epoch with its validation is to be
TARGETS = {1: 4.0, 2: 1.5}
REPEATS = {1: 2, 2: 1}
#: by how much a weight may differ after two epochs
TOLERANCE = 1e-5
#: optimiser, batches and schedule as published
SETTINGS = Training(epochs=EPOCHS, batch_size=32)


class Seconds(NamedTuple):
    """Processor time, of all threads, and time on the clock."""

    processor: float
    clock: float

    def __str__(self) -> str:
        """Both, as text."""
        return f"{self.processor:6.1f} s ({self.clock:6.1f} s on the clock)"


class Measured(NamedTuple):
    """Seconds of all epochs with their validation, seconds of filling the cache, and the weights after the epochs."""

    training: Seconds
    filling: Seconds
    weights: dict[str, torch.Tensor]


def noise(seed: int) -> LabelledImages:
    """Return noise of 224 px on black, whose brightness tells the class a little."""
    labels = np.arange(N_IMAGES) % 2
    images = np.random.default_rng(seed).random((N_IMAGES, 224, 224), dtype=np.float32)
    images *= (0.6 + 0.1 * labels[:, None, None]).astype(np.float32)
    images[:, :40], images[..., :40] = 0, 0
    return LabelledImages(images, labels)


def vgg16(depth: int) -> nn.Module:
    """Return VGG-16 at full width as it is before it is fine-tuned to a depth."""
    network = build_network(Network(), n_classes=2, seed=0).to(memory_format=torch.channels_last)
    freeze_below(network, depth)
    return network.train()


def seconds(function: Callable[[], object]) -> Seconds:
    """Return how long the function takes."""
    started = time.process_time(), time.perf_counter()
    function()
    return Seconds(time.process_time() - started[0], time.perf_counter() - started[1])


def measure(depth: int, cache: float | None) -> Measured:
    """Fine-tune for some epochs as the notebook does."""
    network, parts = vgg16(depth), [noise(0), noise(1)]
    result = []
    filling = seconds(lambda: result.append(behind_frozen_prefix(network, parts, cache)))
    ((trained, parts),) = result
    taken = seconds(lambda: train(trained, *parts, SETTINGS, learning_rate=0.02, seed=0))
    return Measured(taken, filling, network.state_dict())


def compare(depth: int) -> None:
    """Print both ways in turn, their ratio, and by how much the weights differ."""
    ratios, differences = [], []
    before = vgg16(depth).state_dict()
    for _ in range(REPEATS[depth]):
        plain, kept = measure(depth, None), measure(depth, 20.0)
        print(f"  {EPOCHS} epochs with their validation, plain  {plain.training}")
        print(
            f"  the same on kept activations          {kept.training}, and to keep them, once {kept.filling}",
            flush=True,
        )
        ratios.append(plain.training.processor / kept.training.processor)
        differences.append(largest_difference(plain.weights, kept.weights))
    print(verdict(f"depth {depth}: times as fast, median", statistics.median(ratios), TARGETS[depth], at_most=False))
    print(
        verdict(
            f"depth {depth}: largest difference of a weight after {EPOCHS} epochs",
            max(differences),
            TOLERANCE,
            at_most=True,
        )
    )
    print(f"  (trained by up to {largest_difference(before, kept.weights):.1e})")


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return by how much two networks' weights differ at most."""
    return max(float((one[name] - tensor).abs().max()) for name, tensor in other.items())


def main() -> None:
    """Print depth 1 and 2."""
    configure_torch(CORES)
    print(f"{CORES} threads on {os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f}")
    for depth in TARGETS:
        print(f"\nVGG-16 at 224 px, fine-tuning depth {depth}, {N_IMAGES} training and {N_IMAGES} validation images")
        compare(depth)


if __name__ == "__main__":
    main()
