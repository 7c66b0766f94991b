"""The same network with less work in a pass: an affine beginning, and a rest in which rectifiers work behind max pools.

Path methods take gradients at many multiples of an image. What is affine in front of the first rectifier need then be
applied once per image, and its transpose once to the sum of the gradients: a VGG's widest images pass no other layer.
In the rest two exact identities save work: relu then max pool = max pool then relu (also the gradient, to the bit: where the
maximum is positive both choose the same pixel, else both give 0), and pooling then a linear layer = one linear layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pretrain_xai.methods.deep_lift import LINEAR
from pretrain_xai.networks.models import is_hooked


class Lean(NamedTuple):
    """A network as `rest(beginning(images))`, where `beginning` is affine."""

    beginning: nn.Module
    rest: nn.Module


def lean(layers: Sequence[nn.Module], image: Tensor) -> Lean:
    """Split what `layers_of` gives; modes of the layers, and hooks where there are any, stay in force.

    Parameters
    ----------
    layers : sequence of nn.Module
        In evaluation mode but for dropout.
    image : float tensor of shape (1, 3, height, width)
        Of the size, dtype and device of the images; its values do not matter.

    Returns
    -------
    Lean
        Logits and gradients equal those of the layers but for rounding.
    """
    affine = [isinstance(layer, LINEAR) and not isinstance(layer, nn.Dropout) for layer in layers]
    n_affine = 0 if all(affine) else affine.index(False)
    beginning, rest = nn.Sequential(*layers[:n_affine]), _pools_first(layers[n_affine:])
    with torch.no_grad():
        rest = _merged_pooling(rest, beginning(image))
    return Lean(beginning, nn.Sequential(*rest))


def _pools_first(layers: Sequence[nn.Module]) -> list[nn.Module]:
    result: list[nn.Module] = []
    for layer in layers:
        pair = [*result[-1:], layer]
        swapped = [type(part) for part in pair] == [nn.ReLU, nn.MaxPool2d] and not any(map(is_hooked, pair))
        result.insert(len(result) - swapped, layer)
    return result


def _merged_pooling(layers: list[nn.Module], x: Tensor) -> list[nn.Module]:
    """Replace adaptive average pooling, flattening and a linear layer by one linear layer, if that makes it smaller.

    `x` is one input of the first layer. At 224 px VGG's pooling is the identity; of smaller images it repeats pixels.
    """
    for i, (pool, flatten, linear) in enumerate(zip(layers, layers[1:], layers[2:], strict=False)):
        if isinstance(pool, nn.Dropout):  # what it draws is for the rows of a pass
            return layers
        if type(linear) is nn.Linear and (type(pool), type(flatten)) == (nn.AdaptiveAvgPool2d, nn.Flatten):
            if x.numel() >= pool(x).numel() or any(map(is_hooked, (pool, flatten, linear))):
                return layers
            merged = nn.utils.skip_init(nn.Linear, x.numel(), linear.out_features, dtype=x.dtype, device=x.device)
            merged.weight = nn.Parameter(_transposed_pooling(pool, linear.weight, x), requires_grad=False)
            merged.bias = linear.bias
            return [*layers[:i], nn.Flatten(), merged, *layers[i + 3 :]]
        x = layers[i](x)
    return layers


@torch.enable_grad()
def _transposed_pooling(pool: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return the weights, shape (n_outputs, n_inputs), of pooling inputs like `x` and then weighting by `weight`."""
    inputs = x.new_zeros(len(weight), *x.shape[1:], requires_grad=True)
    pooled = pool(inputs)
    return torch.autograd.grad(pooled, inputs, weight.detach().reshape(pooled.shape))[0].flatten(1)
