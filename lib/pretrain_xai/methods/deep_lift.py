"""DeepLift's Rescale rule with a max-pool rule under which the attributions sum to the logit difference.

Captum 0.9.0's rule for max pools divides by an input difference that may be tiny while the window's output differs
through another pixel, and fills in the gradient of the first image there (captum issue 1276). Its attributions on VGG
therefore miss the logit difference. Here a window gives its whole output difference to one pixel, as SHAP's
`DeepExplainer` does: to the image's maximum where that is the larger one, else to the reference's maximum. The
multiplier then lies in [0, 1], and no tolerance is needed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: for these the multiplier is the gradient (dropout and batch normalisation in evaluation mode)
LINEAR = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.BatchNorm2d)


@contextmanager
def rescaled(model: nn.Module, reference: Tensor) -> Iterator[None]:
    """Let the gradient of `model` be DeepLift's multipliers with respect to `reference` inside the block.

    The outputs of all modules, and so the logits, stay the same to the bit; the multipliers times (image - reference
    image) sum to the difference of the logits (Shrikumar et al. 2017, Eq. 1). No module may be called twice in a pass.

    Parameters
    ----------
    reference : float tensor of the shape of the images
        Black in this study.
    """
    inputs: dict[nn.Module, Tensor] = {}

    def linearise(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        if module in inputs:
            return RULES[type(module)](module, arguments[0], output.detach(), inputs[module])
        inputs[module] = arguments[0].detach()  # of the first pass, that of the reference
        return output

    with ExitStack() as hooks:
        for module in model.modules():
            if type(module) in RULES:
                hooks.enter_context(module.register_forward_hook(linearise))
        with torch.no_grad():
            model(reference)
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
    pixel_reference = x_reference.flatten(2).gather(2, larger).view(output.shape)
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
