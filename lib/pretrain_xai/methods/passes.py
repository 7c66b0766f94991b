"""Pass images through a network in micro-batches of one fixed shape, so that neither batching nor order matters.

In float32 a network's gradient for an image changes with the shape of the batch: rounding decides ties of max pools in
the constant background. All passes here therefore have `micro_batch_rows` rows, padded with zeros; a row does not
influence the others, so maps are equal to the bit (on one machine, with one number of threads).

Path methods, which take gradients at many multiples of an image, pass through the `lean` form of the network: what is affine
before the first rectifier is applied once per image, and its transpose once to the sum of the gradients.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.methods.deep_lift import LINEAR
from pretrain_xai.methods.guard import check_inputs, dropout_per_row, guarded
from pretrain_xai.networks.models import is_hooked, layers_of


def micro_batch_rows(height: int, width: int) -> int:
    """Return the number of rows of every pass for images of this size; it depends on nothing else.

    A power of two: of other numbers matrix products compute the last rows in another way, so that the last digits of an
    image's map would depend on its place (seen with 5 rows of VGG-16 at 224 px).
    """
    # 32 rows at 96 px and 4 at 224 px: a pass over more pixels costs hardly less per row on a CPU
    most = min(32, max(1, 32 * 96 * 96 // (height * width)))
    return 1 << (most.bit_length() - 1)


def input_gradients(model: nn.Module, rows: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of each row's target logit with respect to the row, of the shape of `rows`."""
    rows = rows.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(rows).gather(1, targets[:, None])
    return torch.autograd.grad(logits.sum(), rows)[0]


def lean(model: nn.Module, image: Tensor) -> tuple[nn.Module, nn.Module]:
    """Return the network as an affine beginning and a rest with less work in a pass; all of it is the rest if in doubt.

    In the rest two exact identities save work: relu then max pool = max pool then relu (also the gradient, to the bit: where
    the maximum is positive both choose the same pixel, else both give 0), and pooling then a linear layer = one linear layer.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode but for dropout; modes of its layers, and hooks where there are any, stay in force.
    image : float tensor of shape (1, 3, height, width)
        Of the size, dtype and device of the images; its values do not matter.

    Returns
    -------
    Modules whose logits and gradients, one after the other, equal those of the model but for rounding.
    """
    layers = layers_of(model) or [model]
    affine = [isinstance(layer, LINEAR) and not isinstance(layer, nn.Dropout) for layer in layers]
    n_affine = 0 if all(affine) else affine.index(False)
    beginning, rest = nn.Sequential(*layers[:n_affine]), list[nn.Module]()
    for layer in layers[n_affine:]:
        pair = [*rest[-1:], layer]
        swapped = [type(part) for part in pair] == [nn.ReLU, nn.MaxPool2d] and not any(map(is_hooked, pair))
        rest.insert(len(rest) - swapped, layer)
    with torch.no_grad():
        return beginning, nn.Sequential(*_merged_pooling(rest, beginning(image)))


def _merged_pooling(layers: list[nn.Module], x: Tensor) -> list[nn.Module]:
    """Replace adaptive average pooling, flattening and a linear layer by one linear layer, if that makes it smaller.

    `x` is one input of the first layer. At 224 px VGG's pooling is the identity; of smaller images it repeats pixels.
    """
    for i, (pool, flatten, linear) in enumerate(zip(layers, layers[1:], layers[2:], strict=False)):
        if isinstance(pool, nn.Dropout):  # what it draws is for the rows of a pass
            break
        if type(linear) is nn.Linear and (type(pool), type(flatten)) == (nn.AdaptiveAvgPool2d, nn.Flatten):
            if x.numel() >= pool(x).numel() or any(map(is_hooked, (pool, flatten, linear))):
                break
            with torch.enable_grad():
                inputs = x.new_zeros(linear.out_features, *x.shape[1:], requires_grad=True)
                pooled = pool(inputs)
            weight = linear.weight.detach().reshape(pooled.shape)
            merged = nn.utils.skip_init(nn.Linear, x.numel(), linear.out_features, dtype=x.dtype, device=x.device)
            weight = torch.autograd.grad(pooled, inputs, weight)[0].flatten(1)
            merged.weight, merged.bias = nn.Parameter(weight, requires_grad=False), linear.bias
            return [*layers[:i], nn.Flatten(), merged, *layers[i + 3 :]]
        x = layers[i](x)
    return layers


#: images, steps and targets of one pass: row r is image `images[r]` at step `steps[r]`, beyond these lists padding
MicroBatch = tuple[list[int], list[int], Tensor]


class Network:
    """A `guarded` model, and the one shape of its passes.

    Attributes
    ----------
    rows : int
        Of every pass.
    black : tensor of shape (1, 3, height, width)
    beginning, rest : nn.Module
        Of `lean`.
    dropout_keys : list of (image id, step), or None
        Of `guard.dropout_per_row`.
    """

    def __init__(self, model: nn.Module, images: Tensor, seed: int, micro_batch: int | None) -> None:
        self.model, self.seed = model, seed
        self.rows = micro_batch or micro_batch_rows(*images.shape[2:])
        self.black = images.new_zeros(1, *images.shape[1:])
        self.dropout_keys = dropout_per_row(model, seed)
        # channels-last halves a pass on a CPU; in double precision it has no fast path
        fast = images.device.type == "cpu" and images.dtype == torch.float32
        self._memory_format = torch.channels_last if fast else torch.contiguous_format
        for parameter in model.parameters():  # laid out like the images, which else happens at every pass
            parameter.data = self.formatted(parameter.data)
        self.beginning, self.rest = lean(model, self.black)

    def formatted(self, tensor: Tensor) -> Tensor:
        """Return `tensor` in the memory format in which passes are fast."""
        fits = tensor.ndim == 4
        return tensor.detach().contiguous(memory_format=self._memory_format if fits else torch.contiguous_format)

    def padded(self, images: Tensor, n_rows: int | None = None) -> Tensor:
        """Return at most `rows` images as the first rows of a pass."""
        padding = images.new_zeros((n_rows or self.rows) - len(images), *images.shape[1:])
        return self.formatted(torch.cat([images, padding]) if len(padding) else images)


@dataclass
class Block:
    """At most as many images as a pass has rows, explained together: what a method is given."""

    network: Network
    images: Tensor
    targets: Tensor
    image_ids: list[int]

    def micro_batches(self, n_steps: int = 1, n_rows: int | None = None) -> Iterator[MicroBatch]:
        """Pack every image at `n_steps` steps into passes of one shape, step by step; only the last may be part empty."""
        n_images, n_rows = len(self.images), n_rows or self.network.rows
        for start in range(0, n_images * n_steps, n_rows):
            places = range(start, min(start + n_rows, n_images * n_steps))
            steps, images = map(list, zip(*(divmod(place, n_images) for place in places), strict=True))
            if self.network.dropout_keys is not None:
                self.network.dropout_keys[:] = [(self.image_ids[i], s) for i, s in zip(images, steps, strict=True)]
            yield images, steps, self.network.padded(self.targets[images], n_rows)

    @torch.enable_grad()
    def path_gradients(self, coefficients: np.ndarray, weights: np.ndarray) -> Tensor:
        """Return the sum over steps s, in their order, of weights[s] * gradient at coefficients[:, s] * images."""
        network, inputs = self.network, self.network.padded(self.images).requires_grad_()
        beginning = network.beginning(inputs)
        begun = network.formatted(beginning)[: len(self.images)]
        black = network.formatted(network.beginning(network.padded(network.black)))[:1]
        difference, total = begun - black, torch.zeros_like(begun)
        # from the image back to black, so that at the image itself no bit changes: rounding would decide ties of max pools
        scale = torch.as_tensor(coefficients, dtype=begun.dtype, device=begun.device) - 1
        scale = scale.reshape(*coefficients.shape, *[1] * (begun.ndim - 1))
        for images, steps, targets in self.micro_batches(len(weights)):
            at = images if len(begun) < network.rows else slice(None)  # all in their order: no copies
            rows = network.padded(torch.addcmul(begun[at], difference[at], scale[images, steps]))
            gradients = input_gradients(network.rest, rows, targets)
            for image, step, gradient in zip(images, steps, gradients, strict=False):  # without the padding
                total[image].add_(gradient, alpha=float(weights[step]))
        return torch.autograd.grad(beginning, inputs, network.padded(total))[0][: len(total)]

    def per_row(self, explain: Callable[[Tensor, Tensor], Tensor], n_rows: int | None = None) -> Tensor:
        """Return explain(rows, targets) of every image."""
        maps = torch.empty_like(self.images)
        for images, _, targets in self.micro_batches(n_rows=n_rows):
            maps[images] = explain(self.network.padded(self.images[images], n_rows), targets)[: len(images)].detach()
        return maps

    @torch.no_grad()
    def logits(self, n_steps: int, change: Callable[[Tensor, int], object]) -> Tensor:
        """Return the target's logits of the images, shape (n_images, n_steps), after change(image, step) wrote to each."""
        logits = self.images.new_zeros(len(self.images), n_steps)
        for images, steps, targets in self.micro_batches(n_steps):
            rows = self.network.padded(self.images[images])
            for row, step in zip(rows, steps, strict=False):  # without the padding
                change(row, step)
            logits[images, steps] = self.network.model(rows).gather(1, targets[:, None])[: len(images), 0]
        return logits

    @cached_property
    def difference(self) -> Tensor:
        """The target's logit of each image less that of a black one, float64 (n_images,)."""
        logits = self.logits(1, lambda row, step: row).double() - self.logits(1, lambda row, step: row.zero_()).double()
        return logits[:, 0]

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient at the images, which Saliency and InputXGradient share."""
        return self.path_gradients(np.ones((len(self.images), 1)), np.ones(1))


def guarded_blocks(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    image_ids: Tensor | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    allow_dropout: bool = False,
) -> Iterator[tuple[slice, Block]]:
    """Yield the images in parts for a `guarded` model, each with its place.

    Parameters are those of `attribution.attribute`, which says what is checked.
    """
    ids = torch.arange(len(images)) if image_ids is None else image_ids
    check_inputs(images, targets, ids)
    network = Network(guarded(model, allow_dropout=allow_dropout), images, seed, micro_batch)
    size = min(network.rows if batch_size is None else batch_size, network.rows)
    if size < 1:
        raise ValueError(f"whole numbers from 1 are expected, batch_size is {batch_size}, micro_batch is {micro_batch}")
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield part, Block(network, network.formatted(images[part]), targets[part].long(), ids[part].tolist())
