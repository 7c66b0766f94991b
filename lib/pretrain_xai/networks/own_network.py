"""A network of your own in a study: any `torch.nn.Module`, by its import path and the names of its blocks.

A study file says, for instance, `network: {module: my_package.nets:build, blocks: [stem, layer1, layer2], classifier: fc}`.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from pretrain_xai import paths
from pretrain_xai.errors import UserError, did_you_mean, first_ten
from pretrain_xai.settings.own_code import studies_on_path
from pretrain_xai.settings.sections import Network


class NetworkError(UserError):
    """The network of a study file can't be built, or is not what the file says."""


class OwnParts(NamedTuple):
    """Names of parts of a network: those of each block, from the first, and the classifier."""

    blocks: list[list[str]]
    classifier: str


def build_own(settings: Network, n_classes: int, seed: int) -> nn.Module:
    """Build the network that `settings.module` names, in evaluation mode; it draws its weights from `seed`.

    Raises
    ------
    NetworkError
        It can't be imported or built, is no module, or its blocks and classifier do not hold each parameter once.
    """
    build = _builder(settings)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(n_classes=n_classes)
    except Exception as error:  # the user's code may raise anything
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise NetworkError(f"network.module: {settings.module}(n_classes={n_classes}) failed: {what}") from None
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"network.module: {settings.module} gives {type(network).__name__}, an nn.Module is expected"
        )
    blocks = [[block] if isinstance(block, str) else block for block in settings.blocks]
    parts = OwnParts(blocks, settings.classifier)
    _check_parts(network, parts, settings)
    network.own_parts = parts  # type: ignore[assignment]  # torch knows tensors and modules as attributes only
    network.requires_grad_(True)  # what is trained is decided by depth, not by the function that builds it
    return network.eval()


def own_parts(network: nn.Module) -> OwnParts | None:
    """Return what `build_own` was told of the network; None for other networks."""
    return getattr(network, "own_parts", None)


def _builder(settings: Network) -> Callable[..., nn.Module]:
    place, _, name = (settings.module or "").partition(":")
    with studies_on_path():
        try:
            module = importlib.import_module(place)
        except Exception as error:  # the user's code may raise anything
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise NetworkError(
                f"network.module: {place} can't be imported ({what}); install it, set PYTHONPATH, or put {place}.py "
                f"into {paths.root() / 'studies'}"
            ) from None
    build = getattr(module, name, None)
    if not callable(build):
        raise NetworkError(f"network.module: {place} has no function {name!r}{did_you_mean(name, dir(module))}")
    return build


def _check_parts(network: nn.Module, parts: OwnParts, settings: Network) -> None:
    known = dict(network.named_modules())
    names = [name for block in parts.blocks for name in block] + [parts.classifier]
    for name in names:
        if name not in known or not name:
            top = [child for child, _ in network.named_children()]
            raise NetworkError(
                f"network: {settings.module} has no part {name!r}{did_you_mean(name, known)}; it has {first_ten(top)}"
            )
    if not any(isinstance(layer, nn.Linear) for layer in known[parts.classifier].modules()):
        raise NetworkError(f"network.classifier: {parts.classifier} of {settings.module} has no nn.Linear")
    for parameter, _ in network.named_parameters():
        holders = [name for name in names if f"{parameter}.".startswith(f"{name}.")]
        if len(holders) != 1:
            found = f"in {' and '.join(holders)}" if holders else "in no block"
            raise NetworkError(
                f"network: {parameter} of {settings.module} is {found}; blocks and classifier must hold each once"
            )
