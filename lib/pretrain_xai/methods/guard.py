"""Check a model and its inputs before attribution, and leave the model as it was found, also after an exception."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.errors import first_ten

#: sets the draws of dropout masks apart from other draws by the same seed and image id
DROPOUT_STREAM = 1
#: identifies a row of a pass: (image id, step)
RowKey = tuple[int, int]


@contextmanager
def guarded(model: nn.Module, *, allow_dropout: bool = False) -> Iterator[None]:
    """Let methods hook and mark `model` inside the block, without parameter gradients, and undo all of it afterwards.

    Restored are the attributes, hooks and modes of every module, and the memory and requires_grad flag of every parameter.

    Raises
    ------
    ValueError
        If a module is in training mode (but for `nn.Dropout` with `allow_dropout`), works in place, or sits at two
        places of the model.
    """
    check_modules(model, allow_dropout=allow_dropout)
    modules = [(vars(module), dict(vars(module))) for module in model.modules()]
    hooks = [(table, dict(table)) for found, _ in modules for name, table in found.items() if "_hooks" in name]
    parameters = [(parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for table, before in [*modules, *hooks]:  # in place: handles that the caller holds refer to this very table
            table.clear()
            table.update(before)
        for parameter, data, flag in parameters:
            parameter.data = data
            parameter.requires_grad_(flag)


def check_modules(model: nn.Module, *, allow_dropout: bool = False) -> None:
    """Raise the ValueError of `guarded` if the model is not ready."""
    named = [(name or "model", module) for name, module in model.named_modules(remove_duplicate=False)]
    if training := [n for n, module in named if module.training and not (allow_dropout and type(module) is nn.Dropout)]:
        raise ValueError(
            f"in training mode: {first_ten(training)}; call model.eval() first "
            "(with allow_dropout=True, nn.Dropout modules alone may be put back into training mode)"
        )
    if in_place := [name for name, module in named if getattr(module, "inplace", False)]:
        raise ValueError(f"work in place: {first_ten(in_place)}; set inplace=False, maps need what goes into a module")
    leaves = [(name, module) for name, module in named if is_leaf(module)]
    first = {module: name for name, module in reversed(leaves)}
    if reused := [f"{name} is {first[module]}" for name, module in leaves if first[module] != name]:
        raise ValueError(f"modules used at two places: {first_ten(reused)}; give each place a module of its own")


def is_leaf(module: nn.Module) -> bool:
    """Say whether a module has no parts."""
    return next(module.children(), None) is None


def dropout_per_row(model: nn.Module, seed: int) -> list[RowKey] | None:
    """Draw the masks of active dropout per row, from (seed, image id, step), and not from torch's global generator.

    Only inside `guarded`, which undoes it.

    Returns
    -------
    list that names the rows of the running pass, to be filled before each pass; None if no dropout is active
        Rows beyond the list are padding, or further copies of the same rows (Captum's DeepLift appends the references),
        which get other masks.
    """
    active = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.training]
    keys: list[RowKey] = []

    def hook(place: int, p: float) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def drop(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            x = arguments[0]
            masks = [_mask((seed, *keys[r % len(keys)], r // len(keys), place), p, x[0]) for r in range(len(x))]
            return x * torch.as_tensor(np.stack(masks), dtype=x.dtype, device=x.device)

        return drop

    for place, dropout in enumerate(active):
        dropout.eval().register_forward_hook(hook(place, dropout.p))
    return keys if active else None


def _mask(entropy: tuple[int, ...], p: float, row: Tensor) -> np.ndarray:
    """Return 0 with probability p and 1 / (1 - p) else, of the shape of `row`."""
    kept = np.random.default_rng((*entropy, DROPOUT_STREAM)).random(tuple(row.shape), dtype=np.float32) >= p
    return kept / (1 - p) if p < 1 else np.zeros(tuple(row.shape))


def check_inputs(model: nn.Module, images: Tensor, targets: Tensor, image_ids: Tensor, **counts: Any) -> None:
    """Check shapes, dtypes, devices and values of what is to be explained, and that `counts` are whole numbers.

    Raises
    ------
    TypeError, ValueError
        Saying what was given and what is expected; for values also for which images.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, (n_images, 3, height, width) is expected")
    expected = next(model.parameters(), images)
    if not images.is_floating_point() or (images.dtype, images.device) != (expected.dtype, expected.device):
        raise TypeError(
            f"images are {images.dtype} on {images.device}, the model is {expected.dtype} on {expected.device}"
        )
    require_finite(images, torch.arange(len(images)), "image")
    for name, values in {"targets": targets, "image_ids": image_ids}.items():
        if values.shape != (len(images),):
            raise ValueError(f"{name} have shape {tuple(values.shape)}, ({len(images)},) is expected, one per image")
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"{name} are {values.dtype}, integers are expected")
        if len(values) and values.min() < 0:
            raise ValueError(f"{name} contain {int(values.min())}, integers from 0 are expected")
    for name, count in counts.items():
        least = 0 if name == "seed" else 1
        if count is not None and (type(count) is not int or count < least):
            raise ValueError(f"{name} is {count!r}, a whole number from {least} is expected")


def require_finite(values: Tensor, ids: Tensor, what: str) -> None:
    """Raise a ValueError that names the ids of the entries along the first axis that are not finite."""
    bad = ~torch.isfinite(values).flatten(1).all(1)
    if bad.any():
        raise ValueError(f"not finite (NaN or infinite): {what} {first_ten(ids[bad.to(ids.device)].tolist())}")
