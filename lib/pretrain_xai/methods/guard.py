"""What a model and its inputs must be before attribution, which works on a copy of the model: it stays as it was found.

Some methods change what single layers do, and so must know every layer of a pass. A rectifier called as a function, or a
sum of two branches, is no module that such a method could hook. Its maps would come out all the same, and be wrong. The
pass of a network is therefore traced (`torch.fx`) and compared with what a method knows.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pretrain_xai.errors import first_ten
from pretrain_xai.methods.deep_lift import LINEAR, RULES

#: sets the draws of dropout masks apart from other draws by the same seed and image id
DROPOUT_STREAM = 1
#: functions and methods of tensors that only move values
_MOVES = (torch.flatten, torch.reshape, operator.getitem, getattr, "flatten", "reshape", "view", "size", "contiguous")
#: functions and methods of tensors that are linear, so that the gradient is their rule
_LINEAR = (*_MOVES, operator.add, torch.add, "add", torch.cat, torch.mean, "mean")


def guarded(model: nn.Module, *, allow_dropout: bool = False) -> nn.Module:
    """Return a copy of `model`, without parameter gradients, that methods may hook and mark.

    Raises
    ------
    ValueError
        If a module is in training mode (but for `nn.Dropout` with `allow_dropout`) or works in place.
    """
    check_modules(model, allow_dropout=allow_dropout)
    return copy.deepcopy(model).requires_grad_(False)


def check_modules(model: nn.Module, *, allow_dropout: bool = False) -> None:
    """Raise the ValueError of `guarded` if the model is not ready."""
    named = [(name or "model", module) for name, module in model.named_modules()]
    if training := [n for n, module in named if module.training and not (allow_dropout and type(module) is nn.Dropout)]:
        raise ValueError(
            f"in training mode: {first_ten(training)}; call model.eval() first "
            "(with allow_dropout=True, nn.Dropout modules alone may be put back into training mode)"
        )
    if in_place := [name for name, module in named if getattr(module, "inplace", False)]:
        raise ValueError(f"work in place: {first_ten(in_place)}; set inplace=False, maps need what goes into a module")


def dropout_per_row(model: nn.Module, seed: int) -> list[tuple[int, int]] | None:
    """Draw the masks of active dropout per row, from (seed, image id, step), and not from torch's global generator.

    Of a copy of a user's model, whose dropout modules it hooks and switches off.

    Returns
    -------
    list that names the rows of the running pass by (image id, step), to be filled before each; None if no dropout is active
        Rows beyond the list are padding, or further copies of the same rows (Captum's DeepLift appends the references),
        which get other masks.
    """
    active = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.training]
    keys: list[tuple[int, int]] = []

    def drop(place: int, dropout: nn.Dropout, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        x, n = arguments[0], len(keys)
        seeds = [(seed, *keys[row % n], row // n, place, DROPOUT_STREAM) for row in range(len(x))]
        drawn = np.stack([np.random.default_rng(s).random(tuple(x.shape[1:]), dtype=np.float32) for s in seeds])
        return x * torch.as_tensor((drawn >= dropout.p) / ((1 - dropout.p) or 1), dtype=x.dtype, device=x.device)

    for place, dropout in enumerate(active):
        dropout.eval().register_forward_hook(partial(drop, place))
    return keys if active else None


def check_inputs(images: Tensor, targets: Tensor, image_ids: Tensor) -> None:
    """Raise a ValueError that says what was given and what is expected if shapes or values can't be explained."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, (n_images, 3, height, width) is expected")
    require_finite(images, torch.arange(len(images)), "image")
    for name, values in {"targets": targets, "image_ids": image_ids}.items():
        if values.shape != (len(images),) or values.is_floating_point():
            found = f"{values.dtype} of shape {tuple(values.shape)}"
            raise ValueError(f"{name} are {found}, integers of shape ({len(images)},) are expected, one per image")
    if (targets < 0).any():
        raise ValueError(f"targets contain {int(targets.min())}, integers from 0 are expected")


def require_finite(values: Tensor, ids: Tensor, what: str) -> None:
    """Raise a ValueError that names the ids of the entries along the first axis that are not finite."""
    bad = ~torch.isfinite(values).flatten(1).all(1)
    if bad.any():
        raise ValueError(f"not finite (NaN or infinite): {what} {first_ten(ids[bad.to(ids.device)].tolist())}")


def missing_rule(
    modules: Callable[[], tuple[type, ...]], functions: tuple[Any, ...], network: nn.Module, *, reuse: bool = False
) -> str | None:
    """Return in words the first step of the network's pass for which a method has no rule; None if there is none.

    Parameters
    ----------
    modules : function that returns the types of modules that the method knows
        It may import a library that takes seconds.
    functions : what may stand in between
    reuse : bool
        A module may be called twice in a pass.
    """
    try:
        nodes = list(fx.Tracer().trace(network).nodes)
    except Exception as error:  # tracing runs the user's code
        what = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        return f"its pass can't be traced by torch.fx ({what})"
    known, calls = modules(), Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        if node.op == "call_module":
            module, count = network.get_submodule(str(node.target)), calls[node.target]
            if not isinstance(module, known):
                return f"no rule for {type(module).__name__} ({node.target})"
            if count > 1 and not reuse:
                return f"{node.target} is called {count} times in a pass, give each place a module of its own"
        elif node.op in ("call_function", "call_method") and node.target not in functions:
            return f"no rule for the function {getattr(node.target, '__name__', node.target)} ({node.name})"
    return None


def _captum_layers() -> tuple[type, ...]:
    from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS

    return (*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS)


def _zennit_layers() -> tuple[type, ...]:
    from zennit.types import Activation, AvgPool, Linear  # takes seconds: it imports torchvision's models

    # relevance goes as the gradient to the maximum of a window, or to where a value came from
    return (nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, Linear, AvgPool, Activation)


DEEP_LIFT = partial(missing_rule, lambda: (*LINEAR, *RULES), _LINEAR)
#: only rectifiers are changed; others must be modules, too
RECTIFIERS = partial(DEEP_LIFT, reuse=True)
CAPTUM_LRP = partial(missing_rule, _captum_layers, _MOVES)
ZENNIT_LRP = partial(missing_rule, _zennit_layers, _MOVES)
