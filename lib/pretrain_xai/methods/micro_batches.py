"""Pass images through a network in micro-batches of one fixed shape, so that neither batching nor order matters.

In float32 a network's gradient for an image changes with the shape of the batch: rounding decides ties of max pools in
the constant background. All passes here therefore have `micro_batch_rows` rows, padded with zeros; a row does not
influence the others, so maps are equal to the bit (on one machine, with one number of threads).

Path methods pass through the `lean` form of the network: what is affine before the first rectifier is done once per image.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai.methods.deep_lift import Reference, reference_inputs
from pretrain_xai.methods.lean import Lean, lean
from pretrain_xai.methods.model_guard import RowKey, dropout_per_row, guarded
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


class Span(NamedTuple):
    """Neighbouring rows of a pass that hold one step of neighbouring images."""

    step: int
    images: slice
    rows: slice


def step_spans(n_images: int, n_steps: int, n_rows: int) -> Iterator[list[Span]]:
    """Pack all steps of all images into passes of `n_rows`, step by step; only the last pass may be part empty."""
    for first in range(0, n_images * n_steps, n_rows):
        spans, place = [], first
        while place < min(first + n_rows, n_images * n_steps):
            step, image = divmod(place, n_images)
            end = min(n_images * (step + 1), first + n_rows)
            spans.append(Span(step, slice(image, image + end - place), slice(place - first, end - first)))
            place = end
        yield spans


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
    #: of `models.layers_of`
    layers: list[nn.Module] | None
    rows: int
    row_shape: tuple[int, ...]
    seed: int
    #: (image id, step) of the rows of the running pass, from which active dropout draws; None if there is none
    dropout_keys: list[RowKey] | None
    memory_format: torch.memory_format
    #: a forward hook that refuses logits which do not have all targets
    check_logits: Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]

    def formatted(self, images: Tensor) -> Tensor:
        """Return `images` in the memory format in which passes are fast."""
        return images.detach().contiguous(
            memory_format=self.memory_format if images.ndim == 4 else torch.contiguous_format
        )

    def name_rows(self, keys: Iterable[RowKey]) -> None:
        """Say which image and step the rows of the next pass are, for the draws of active dropout."""
        if self.dropout_keys is not None:
            self.dropout_keys[:] = keys

    @cached_property
    def black_inputs(self) -> Reference:
        """DeepLift's reference, one row, for all images."""
        parameter = next(self.model.parameters())
        black = self.formatted(parameter.new_zeros(self.rows, *self.row_shape))
        return {module: inputs[:1] for module, inputs in reference_inputs(self.model, black).items()}

    @cached_property
    def lean(self) -> Lean:
        """The network's beginning and rest."""
        if self.layers is None:
            return Lean(nn.Identity(), self.model)
        parts = lean(self.layers, next(self.model.parameters()).new_zeros(1, *self.row_shape))
        parts.rest.register_forward_hook(self.check_logits)
        return parts

    def padded(self, images: Tensor) -> Tensor:
        """Return at most `rows` images as the first rows of a pass."""
        rows = self.formatted(images.new_zeros(self.rows, *images.shape[1:]))
        rows[: len(images)] = images
        return rows

    @torch.no_grad()
    def begin(self, images: Tensor) -> Tensor:
        """Apply the affine beginning to at most `rows` images."""
        return self.formatted(self.lean.beginning(self.padded(images)))[: len(images)]

    @cached_property
    def black_begun(self) -> Tensor:
        """What the beginning makes of a black image, one row."""
        return self.begin(next(self.model.parameters()).new_zeros(1, *self.row_shape))

    @torch.enable_grad()
    def begin_transposed(self, gradients: Tensor) -> Tensor:
        """Take gradients with respect to what `begin` returns to gradients with respect to the images."""
        images = self.formatted(gradients.new_zeros(self.rows, *self.row_shape)).requires_grad_()
        begun = self.lean.beginning(images)
        return torch.autograd.grad(begun, images, self.padded(gradients))[0][: len(gradients)]


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
            self.network.name_rows((self.image_ids[image], step) for image, step in batch.pairs)
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
        total = torch.empty_like(self.images)
        for start in range(0, len(self.images), self.network.rows):
            part = slice(start, start + self.network.rows)
            total[part] = self._path_gradients(part, coefficients[part], weights)
        return total

    def _path_gradients(self, part: slice, coefficients: np.ndarray, weights: np.ndarray) -> Tensor:
        """As `path_gradients`, of at most as many images as a pass has rows."""
        network, targets, ids = self.network, self.targets[part], self.image_ids[part]
        black, begun = network.black_begun, network.begin(self.images[part])
        difference, total = begun - black, torch.zeros_like(begun)
        # from the image back to black, so that at the image itself no bit changes: rounding would decide ties of max pools
        scale = torch.as_tensor(coefficients, dtype=begun.dtype, device=begun.device) - 1
        n_images, n_steps = coefficients.shape
        scale = scale.reshape(n_images, n_steps, *[1] * (begun.ndim - 1))
        rows, row_targets = network.padded(begun[:0]), targets.new_zeros(network.rows, dtype=torch.long)
        for spans in step_spans(n_images, n_steps, network.rows):
            for span in spans:
                torch.addcmul(
                    begun[span.images], difference[span.images], scale[span.images, span.step], out=rows[span.rows]
                )
                row_targets[span.rows] = targets[span.images]
            network.name_rows((i, span.step) for span in spans for i in ids[span.images])
            gradients = input_gradients(network.lean.rest, rows, row_targets)
            for span in spans:
                total[span.images].add_(gradients[span.rows], alpha=float(weights[span.step]))
        return network.begin_transposed(total)

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
    check_logits = partial(_check_logits, int(targets.max()) if len(targets) else 0)
    with (
        guarded(model, allow_dropout=allow_dropout),
        dropout_per_row(model, seed) as keys,
        _weights_in(model, memory_format),
    ):
        rows = micro_batch or micro_batch_rows(*images.shape[2:])
        shape = tuple(images.shape[1:])
        network = Network(model, layers_of(model), rows, shape, seed, keys, memory_format, check_logits)
        handle = model.register_forward_hook(check_logits)
        try:
            yield network
        finally:
            handle.remove()


@contextmanager
def _weights_in(model: nn.Module, memory_format: torch.memory_format) -> Iterator[None]:
    """Lay out the weights of convolutions like the images, which else happens at every pass; put the old ones back."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    before = [kernel.data for kernel in kernels]
    try:
        for kernel in kernels:
            kernel.data = kernel.data.contiguous(memory_format=memory_format)
        yield
    finally:
        for kernel, data in zip(kernels, before, strict=True):
            kernel.data = data


def _check_logits(highest: int, module: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
    if logits.ndim != 2:
        raise ValueError(f"model gives shape {tuple(logits.shape)}, logits (n_images, n_classes) are expected")
    if highest >= logits.shape[1]:
        raise ValueError(f"a target is {highest}, but the model has classes 0 to {logits.shape[1] - 1} only")
