"""DeepLift's Rescale rule with a max-pool rule under which the attributions sum to the logit difference.

Captum 0.9.0's rule for max pools divides by an input difference that may be tiny while the window's output differs
through another pixel, and fills in the gradient of the first image there (captum issue 1276). Its attributions on VGG
therefore miss the logit difference. Here a window gives its whole output difference to one pixel, as SHAP's
`DeepExplainer` does: to the image's maximum where that is the larger one, else to the reference's maximum. The
multiplier then lies in [0, 1], and no tolerance is needed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain_xai.methods.guard import is_leaf

#: what each non-linear module was given for the reference image; the first axis is 1 or that of the images
Reference = Mapping[nn.Module, Tensor]

#: for these the multiplier is the gradient (dropout and batch normalisation in evaluation mode)
LINEAR = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.BatchNorm2d)


def reference_inputs(model: nn.Module, rows: Tensor) -> dict[nn.Module, Tensor]:
    """Return what each rectifier and max pool of `model` is given when `rows` pass through the model.

    Parameters
    ----------
    rows : float tensor of shape (n_rows, 3, height, width)
        The reference input, black in this study.

    Raises
    ------
    TypeError
        If a module is neither linear nor one that DeepLift has a rule for here.
    RuntimeError
        If a rectifier or max pool is used twice in one forward pass.
    """
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        if module in inputs:
            raise RuntimeError(f"{module} is used twice in one forward pass: give each place a module of its own")
        inputs[module] = arguments[0].detach()

    with torch.no_grad(), _forward_hooks(model, keep):
        model(rows)
    return inputs


@contextmanager
def rescaled(model: nn.Module, reference: Reference) -> Iterator[None]:
    """Let the gradient of `model` be DeepLift's multipliers with respect to `reference` inside the block.

    The outputs of all modules, and so the logits, stay the same to the bit; the multipliers times (image - reference
    image) sum to the difference of the logits (Shrikumar et al. 2017, Eq. 1). Works for any number of rows if the
    reference holds one row.
    """

    def linearise(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        return RULES[type(module)](module, arguments[0], output.detach(), reference[module])

    with _forward_hooks(model, linearise):
        yield


def _rescale_relu(relu: nn.ReLU, x: Tensor, output: Tensor, x_reference: Tensor) -> Tensor:
    """Rescale rule: output difference over input difference as the multiplier; the gradient where both are 0."""
    difference = x.detach() - x_reference
    multiplier = (output - functional.relu(x_reference)) / difference
    return _linear(x, output, torch.where(difference == 0, (x_reference > 0).to(x.dtype), multiplier))


def _rescale_max_pool(pool: nn.MaxPool2d, x: Tensor, output: Tensor, x_reference: Tensor) -> Tensor:
    """Give a window's output difference to the pixel that holds the larger of its two maxima."""
    _, index = _max_pool(pool, x.detach())
    output_reference, index_reference = _max_pool(pool, x_reference)
    larger = torch.where(output >= output_reference, index, index_reference).flatten(2)
    pixel = x.flatten(2).gather(2, larger).view(output.shape)
    pixel_reference = x_reference.flatten(2).expand(len(x), -1, -1).gather(2, larger).view(output.shape)
    difference = pixel.detach() - pixel_reference
    # no difference at the larger maximum means none in the output either: any multiplier is complete, 1 the gradient
    multiplier = torch.where(difference == 0, 1.0, (output - output_reference) / difference)
    return _linear(pixel, output, multiplier)


def _max_pool(pool: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, Tensor]:
    return functional.max_pool2d(
        x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True
    )


def _linear(x: Tensor, output: Tensor, multiplier: Tensor) -> Tensor:
    """Return `output` to the bit, with `multiplier` as its derivative with respect to `x`."""
    return output + multiplier * (x - x.detach())


RULES: Mapping[type[nn.Module], Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    nn.ReLU: _rescale_relu,
    nn.MaxPool2d: _rescale_max_pool,
}


@contextmanager
def _forward_hooks(model: nn.Module, hook: Callable[..., Tensor | None]) -> Iterator[None]:
    """Call `hook` after each module that has a rule, inside the block."""
    handles = []
    try:
        for name, module in model.named_modules():
            if type(module) in RULES:
                handles.append(module.register_forward_hook(hook))
            elif is_leaf(module) and not isinstance(module, LINEAR):
                rules = ", ".join(rule.__name__ for rule in RULES)
                raise TypeError(f"deep_lift has no rule for {name or 'the model'} ({module}), only for {rules}")
        yield
    finally:
        for handle in handles:
            handle.remove()
