"""A small network that was trained on made-up brains, and what explaining must leave of it as it was."""

import functools

import numpy as np
import torch
from pretrain_xai.networks.models import build_network
from pretrain_xai.settings.sections import Network, Standardise
from torch import nn

SIZE = 64


def brains(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy discs on black, the class a brighter spot on the left or on the right."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    targets = rng.integers(2, size=n)
    spots = (x - (2 * targets - 1)[:, None, None] * 0.3) ** 2 + (y - rng.uniform(-0.3, 0.3, (n, 1, 1))) ** 2 < 0.02
    images = (x**2 + y**2 < 0.6) * (rng.uniform(0.2, 0.6, (n, SIZE, SIZE)) + 0.4 * spots)
    return torch.tensor(images, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1), torch.tensor(targets)


@functools.cache
def trained_network() -> nn.Module:
    """VGG-11 at an eighth of the width with a standardising layer, as in the demo study; copy it before a change."""
    settings = Network(architecture="vgg11", width=0.125, standardise=Standardise(mean=0.3, std=0.3))
    network = build_network(settings, n_classes=2, seed=0)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    for step in range(25):
        images, targets = brains(16, 100 + step)
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(images), targets).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return network


def state(model):
    """Return everything that attribution must leave as it was."""
    modules = [
        {k: dict(v) if isinstance(v, dict) else v for k, v in vars(m).items() if k != "_parameters"}
        for m in model.modules()
    ]
    return modules, [(p, p.requires_grad, p.grad, p.stride(), p.detach().clone()) for p in model.parameters()]


def assert_same_state(before, after):
    assert before[0] == after[0]
    for old, new in zip(before[1], after[1], strict=True):
        assert old[0] is new[0] and old[1:4] == new[1:4] and torch.equal(old[4], new[4])


def active_dropout(network: nn.Module) -> nn.Module:
    """Switch the dropout of a network on, and return it."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    return network
