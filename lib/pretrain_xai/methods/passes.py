"""Pass images through a network in micro-batches of one fixed shape, so that neither batching nor order matters.

In float32 a network's gradient for an image changes with the shape of the batch: rounding decides ties of max pools in
the constant background. All passes here therefore have `micro_batch_rows` rows, padded with zeros; a row does not
influence the others, so maps are equal to the bit (on one machine, with one number of threads).

Path methods pass through the `lean` form of the network: what is affine before the first rectifier is done once per image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.methods.deep_lift import reference_inputs
from pretrain_xai.methods.guard import check_inputs, dropout_per_row, guarded
from pretrain_xai.methods.lean import Lean, lean
from pretrain_xai.networks.models import layers_of

#: most pixels of a micro-batch, 32 rows at 96 px and 4 at 224 px: a pass over more costs hardly less per row on a CPU
PIXEL_BUDGET = 32 * 96 * 96
MAXIMUM_ROWS = 32


def micro_batch_rows(height: int, width: int) -> int:
    """Return the number of rows of every pass for images of this size; it depends on nothing else.

    A power of two: of other numbers matrix products compute the last rows in another way, so that the last digits of an
    image's map would depend on its place (seen with 5 rows of VGG-16 at 224 px).
    """
    most = min(MAXIMUM_ROWS, max(1, PIXEL_BUDGET // (height * width)))
    return 1 << (most.bit_length() - 1)


def input_gradients(model: nn.Module, rows: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of each row's target logit with respect to the row, of the shape of `rows`."""
    rows = rows.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(rows).gather(1, targets[:, None])
    return torch.autograd.grad(logits.sum(), rows)[0]


class MicroBatch(NamedTuple):
    """Rows of one pass: `rows[r]` is image `images[r]` at step `steps[r]`, and padding beyond these lists."""

    images: list[int]
    steps: list[int]
    rows: Tensor
    targets: Tensor


class Network:
    """A model inside `guarded`, and the one shape of its passes.

    Attributes
    ----------
    rows : int
        Of every pass.
    black : tensor of shape (1, 3, height, width)
    dropout_keys : list of (image id, step), or None
        Of `guard.dropout_per_row`.

    Raises
    ------
    ValueError
        At the first pass, if the model does not give logits (n_images, n_classes) that have all targets.
    """

    def __init__(self, model: nn.Module, images: Tensor, targets: Tensor, seed: int, micro_batch: int | None) -> None:
        self.model, self.seed = model, seed
        self.rows = micro_batch or micro_batch_rows(*images.shape[2:])
        self.black = images.new_zeros(1, *images.shape[1:])
        self.dropout_keys = dropout_per_row(model, seed)
        # channels-last halves a pass on a CPU; in double precision it has no fast path
        fast = images.device.type == "cpu" and images.dtype == torch.float32
        self._memory_format = torch.channels_last if fast else torch.contiguous_format
        for parameter in model.parameters():  # laid out like the images, which else happens at every pass
            parameter.data = self.formatted(parameter.data)
        self._layers, self._highest_target = layers_of(model), max(targets.tolist(), default=0)
        model.register_forward_hook(self._check_logits)

    def _check_logits(self, module: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        if logits.ndim != 2:
            raise ValueError(f"model gives shape {tuple(logits.shape)}, logits (n_images, n_classes) are expected")
        if self._highest_target >= logits.shape[1]:
            raise ValueError(
                f"a target is {self._highest_target}, but the model has classes 0 to {logits.shape[1] - 1} only"
            )

    def formatted(self, tensor: Tensor) -> Tensor:
        """Return `tensor` in the memory format in which passes are fast."""
        fits = tensor.ndim == 4
        return tensor.detach().contiguous(memory_format=self._memory_format if fits else torch.contiguous_format)

    def padded(self, images: Tensor, n_rows: int | None = None) -> Tensor:
        """Return at most `rows` images as the first rows of a pass."""
        rows = self.formatted(images.new_zeros(n_rows or self.rows, *images.shape[1:]))
        rows[: len(images)] = images
        return rows

    @cached_property
    def black_inputs(self) -> dict[nn.Module, Tensor]:
        """DeepLift's reference, one row, for all images."""
        return {module: x[:1] for module, x in reference_inputs(self.model, self.padded(self.black)).items()}

    @cached_property
    def lean(self) -> Lean:
        """The network's beginning and rest."""
        if self._layers is None:
            return Lean(nn.Identity(), self.model)
        parts = lean(self._layers, self.black)
        parts.rest.register_forward_hook(self._check_logits)
        return parts

    @torch.no_grad()
    def begin(self, images: Tensor) -> Tensor:
        """Apply the affine beginning to at most `rows` images."""
        return self.formatted(self.lean.beginning(self.padded(images)))[: len(images)]

    @cached_property
    def black_begun(self) -> Tensor:
        """What the beginning makes of a black image, one row."""
        return self.begin(self.black)

    @torch.enable_grad()
    def begin_transposed(self, gradients: Tensor) -> Tensor:
        """Take gradients with respect to what `begin` returns to gradients with respect to the images."""
        images = self.padded(self.black).requires_grad_()
        begun = self.lean.beginning(images)
        return torch.autograd.grad(begun, images, self.padded(gradients))[0][: len(gradients)]


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
            rows, targets = (self.network.padded(part[images], n_rows) for part in (self.images, self.targets))
            yield MicroBatch(images, steps, rows, targets)

    def path_gradients(self, coefficients: np.ndarray, weights: np.ndarray) -> Tensor:
        """Return the sum over steps s, in their order, of weights[s] * gradient at coefficients[:, s] * images."""
        black, begun = self.network.black_begun, self.network.begin(self.images)
        difference, total = begun - black, torch.zeros_like(begun)
        # from the image back to black, so that at the image itself no bit changes: rounding would decide ties of max pools
        scale = torch.as_tensor(coefficients, dtype=begun.dtype, device=begun.device) - 1
        scale = scale.reshape(*coefficients.shape, *[1] * (begun.ndim - 1))
        for images, steps, _, targets in self.micro_batches(len(weights)):
            rows = torch.addcmul(begun[images], difference[images], scale[images, steps])
            gradients = input_gradients(self.network.lean.rest, self.network.padded(rows), targets)
            for image, step, gradient in zip(images, steps, gradients, strict=False):  # without the padding
                total[image].add_(gradient, alpha=float(weights[step]))
        return self.network.begin_transposed(total)

    def per_row(self, explain: Callable[[Tensor, Tensor], Tensor], n_rows: int | None = None) -> Tensor:
        """Return explain(rows, targets) of every image."""
        maps = torch.empty_like(self.images)
        for batch in self.micro_batches(n_rows=n_rows):
            maps[batch.images] = explain(batch.rows, batch.targets)[: len(batch.images)].detach()
        return maps

    @torch.no_grad()
    def logits(self, n_steps: int, change: Callable[[Tensor, int], object]) -> Tensor:
        """Return the target's logits of the images, shape (n_images, n_steps), after change(image, step) wrote to each."""
        logits = self.images.new_zeros(len(self.images), n_steps)
        for batch in self.micro_batches(n_steps):
            for row, step in zip(batch.rows, batch.steps, strict=False):  # without the padding
                change(row, step)
            values = self.network.model(batch.rows).gather(1, batch.targets[:, None])
            logits[batch.images, batch.steps] = values[: len(batch.images), 0]
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


@contextmanager
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
) -> Iterator[Iterator[tuple[slice, Block]]]:
    """Guard `model` inside the block and give the images in parts, each with its place.

    Parameters are those of `attribution.attribute`, which says what is checked.
    """
    ids = torch.arange(len(images)) if image_ids is None else image_ids
    check_inputs(model, images, targets, ids, batch_size=batch_size, micro_batch=micro_batch, seed=seed)
    with guarded(model, allow_dropout=allow_dropout):
        network = Network(model, images, targets, seed, micro_batch)
        size = min(batch_size or network.rows, network.rows)
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        yield ((p, Block(network, network.formatted(images[p]), targets[p].long(), ids[p].tolist())) for p in parts)
