"""Pass images through a network in micro-batches of one fixed shape, so that neither batching nor order matters.

In float32 a network's gradient for an image changes with the shape of the batch: rounding decides ties of max pools in
the constant background. All passes here therefore have `micro_batch_rows` rows, padded with zeros; a row does not
influence the others, so maps are equal to the bit (on one machine, with one number of threads).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.deep_lift import Reference, reference_inputs
from pretrain_xai.model_guard import RowKey, dropout_per_row, guarded

#: pixels of a micro-batch, 24 rows at 96 px and 4 at 224 px: a pass over more costs no less per row on a CPU
PIXEL_BUDGET = 24 * 96 * 96
MAXIMUM_ROWS = 32


def micro_batch_rows(height: int, width: int) -> int:
    """Return the number of rows of every pass for images of this size; it depends on nothing else."""
    return min(MAXIMUM_ROWS, max(1, PIXEL_BUDGET // (height * width)))


def input_gradients(model: nn.Module, rows: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of each row's target logit with respect to the row, shape (n_rows, 3, height, width)."""
    rows = rows.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(rows).gather(1, targets[:, None])
    return torch.autograd.grad(logits.sum(), rows)[0]


class MicroBatch(NamedTuple):
    """Rows of one pass: `rows[r]` is image `pairs[r][0]` at step `pairs[r][1]`, and padding where there is no pair."""

    pairs: list[tuple[int, int]]
    rows: Tensor
    targets: Tensor

    @property
    def images(self) -> list[int]:
        """The image of each row that is not padding."""
        return [image for image, _ in self.pairs]


@dataclass
class Network:
    """A guarded model and the one shape of its passes."""

    model: nn.Module
    rows: int
    row_shape: tuple[int, ...]
    seed: int
    #: (image id, step) of the rows of the running pass, from which active dropout draws; None if there is none
    dropout_keys: list[RowKey] | None
    memory_format: torch.memory_format

    def formatted(self, images: Tensor) -> Tensor:
        """Return `images` in the memory format in which passes are fast."""
        return images.detach().contiguous(memory_format=self.memory_format)

    @cached_property
    def black_inputs(self) -> Reference:
        """DeepLift's reference, one row, for all images."""
        parameter = next(self.model.parameters())
        black = self.formatted(parameter.new_zeros(self.rows, *self.row_shape))
        return {module: inputs[:1] for module, inputs in reference_inputs(self.model, black).items()}


@dataclass
class Block:
    """Images that are explained together: what a method is given."""

    network: Network
    images: Tensor
    targets: Tensor
    image_ids: list[int]

    def micro_batches(self, coefficients: np.ndarray, n_rows: int | None = None) -> Iterator[MicroBatch]:
        """Give coefficients[i, s] * images[i] for all images i and steps s, packed into passes of one shape."""
        n_rows = n_rows or self.network.rows
        scale = torch.as_tensor(coefficients, dtype=self.images.dtype, device=self.images.device)
        n_images, n_steps = scale.shape
        pairs = [(image, step) for image in range(n_images) for step in range(n_steps)]
        for start in range(0, len(pairs), n_rows):
            batch = self._packed(pairs[start : start + n_rows], scale, n_rows)
            if self.network.dropout_keys is not None:
                self.network.dropout_keys[:] = [(self.image_ids[image], step) for image, step in batch.pairs]
            yield batch

    def _packed(self, pairs: list[tuple[int, int]], scale: Tensor, n_rows: int) -> MicroBatch:
        image, step = (list(index) for index in zip(*pairs, strict=True))
        rows = self.network.formatted(self.images.new_zeros(n_rows, *self.network.row_shape))
        rows[: len(pairs)] = self.images[image] * scale[image, step][:, None, None, None]
        targets = self.targets.new_zeros(n_rows, dtype=torch.long)
        targets[: len(pairs)] = self.targets[image]
        return MicroBatch(pairs, rows, targets)

    def path_gradients(self, coefficients: np.ndarray, weights: np.ndarray) -> Tensor:
        """Return the sum over steps s, in their order, of weights[s] * gradient at coefficients[:, s] * images."""
        total = torch.zeros_like(self.images)
        for batch in self.micro_batches(coefficients):
            gradients = input_gradients(self.network.model, batch.rows, batch.targets)
            for (image, step), gradient in zip(batch.pairs, gradients, strict=False):  # without the padding
                total[image].add_(gradient, alpha=float(weights[step]))
        return total

    def per_row(self, explain: Callable[[Tensor, Tensor], Tensor], n_rows: int | None = None) -> Tensor:
        """Return explain(rows, targets) of every image."""
        maps = torch.empty_like(self.images)
        for batch in self.micro_batches(self.once, n_rows):
            maps[batch.images] = explain(batch.rows, batch.targets)[: len(batch.pairs)].detach()
        return maps

    @torch.no_grad()
    def logits(self, brightness: float) -> Tensor:
        """Return the target's logit of brightness * images, float64 (n_images,)."""
        values = [
            self.network.model(b.rows).gather(1, b.targets[:, None])[: len(b.pairs), 0]
            for b in self.micro_batches(brightness * self.once)
        ]
        return torch.cat(values).double() if values else self.images.new_zeros(0).double()

    @property
    def once(self) -> np.ndarray:
        """Coefficients of `micro_batches` for the images as they are, in one step."""
        return np.ones((len(self.images), 1))

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient at the images, which Saliency and InputXGradient share."""
        return self.path_gradients(self.once, np.ones(1))


@contextmanager
def network_of(
    model: nn.Module, images: Tensor, targets: Tensor, *, seed: int, micro_batch: int | None, allow_dropout: bool
) -> Iterator[Network]:
    """Guard `model` inside the block and give it with the shape of its passes (`guarded` says what is checked).

    Raises
    ------
    ValueError
        At the first pass, if the model does not give logits (n_images, n_classes) that have all `targets`.
    """
    # channels-last halves a pass on a CPU; in double precision it has no fast path
    fast = images.device.type == "cpu" and images.dtype == torch.float32
    memory_format = torch.channels_last if fast else torch.contiguous_format
    highest = int(targets.max()) if len(targets) else 0
    with (
        guarded(model, allow_dropout=allow_dropout),
        dropout_per_row(model, seed) as keys,
        _checked_logits(model, highest),
    ):
        rows = micro_batch or micro_batch_rows(*images.shape[2:])
        yield Network(model, rows, tuple(images.shape[1:]), seed, keys, memory_format)


@contextmanager
def _checked_logits(model: nn.Module, highest: int) -> Iterator[None]:
    def check(module: nn.Module, arguments: tuple[Tensor], logits: Tensor) -> None:
        if logits.ndim != 2:
            raise ValueError(f"model gives shape {tuple(logits.shape)}, logits (n_images, n_classes) are expected")
        if highest >= logits.shape[1]:
            raise ValueError(f"a target is {highest}, but the model has classes 0 to {logits.shape[1] - 1} only")

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()
