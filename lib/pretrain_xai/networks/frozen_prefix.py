"""The frozen layers in front of the first trainable one: run once per image, not once per image and epoch.

What they give for an image never changes while the layers behind them are trained. So a network that applies one layer after
the other is split there, and the layers behind are trained on the kept activations. Any other network is trained whole.
"""

import itertools
import logging
import shutil
import tempfile
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.hardware import as_batch
from pretrain_xai.networks.models import layers_of
from pretrain_xai.settings.sections import Cache

#: images that pass through the frozen layers at once, filled up with black ones: float32 results depend on the shape of a
#: batch, so that with one shape an image's activations are the same to the bit whoever comes with it
PREFIX_BATCH = 16
#: with fewer frozen weights nothing is gained: a standardising layer has 12, VGG-16's first convolution 1,792
FEWEST_WEIGHTS = 1_000
GIB = 2**30


class Activations:
    """The activations of images, computed whenever they are indexed: the same bits as kept ones, without the memory."""

    def __init__(self, prefix: nn.Module, images: np.ndarray) -> None:
        self.prefix, self.images = prefix, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        images = self.images[chosen]
        black = np.zeros((-len(images) % PREFIX_BATCH, *images.shape[1:]), images.dtype)
        batches = np.concatenate([images, black]).reshape(-1, PREFIX_BATCH, *images.shape[1:])
        with torch.inference_mode():
            outputs = [self.prefix(as_batch(batch, self.prefix)).permute(0, 2, 3, 1).cpu().numpy() for batch in batches]
        return np.concatenate(outputs)[: len(images)]


def behind_frozen_prefix(
    network: nn.Module, data: Sequence[LabelledImages], budget: Cache | None
) -> tuple[nn.Module, list[LabelledImages]]:
    """Return the layers that are trained, and the data sets with the activations of the frozen layers in place of images.

    The budget decides only where the activations are: in memory, in a nameless file of the system's temporary folder
    (`TMPDIR`), or nowhere, computed anew for every batch. The results are the same to the bit.

    Parameters
    ----------
    network : module
        In the mode in which it is trained. It is returned as it is, with the data, if it can't be split, if too few weights
        are frozen, or if there is no budget.
    data : LabelledImages
    budget : Cache, optional

    Returns
    -------
    network : module
        Shares its layers with the network.
    data : list of LabelledImages
        `images` has the shape (n, height, width, channels).
    """
    layers = layers_of(network) or []
    frozen = list(itertools.takewhile(_is_fixed, layers))
    prefix, behind = nn.Sequential(*frozen), nn.Sequential(*layers[len(frozen) :])
    if budget is None or sum(parameter.numel() for parameter in prefix.parameters()) < FEWEST_WEIGHTS:
        return network, list(data)
    given = [Activations(prefix, part.images) for part in data]
    shape = given[0][:1].shape[1:]
    place = _place(4 * sum(map(len, data)) * int(np.prod(shape)), budget)
    # images are only indexed by batches, which activations can be, too
    kept = [each if place == "nowhere" else _kept(each, shape, on_disk=place == "disk") for each in given]
    return behind, [
        LabelledImages(cast("np.ndarray", each), part.labels) for each, part in zip(kept, data, strict=True)
    ]


def _is_fixed(layer: nn.Module) -> bool:
    """Return whether a layer gives the same for an image throughout the training, whichever images come with it."""
    is_known = type(layer) in (nn.Conv2d, nn.ReLU, nn.MaxPool2d) or (
        type(layer) is nn.BatchNorm2d and not layer.training
    )
    return is_known and not any(parameter.requires_grad for parameter in layer.parameters())


def _place(n_bytes: int, budget: Cache) -> str:
    """Return where the budget has room for all activations: memory, disk or nowhere."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes <= budget.memory_gib * GIB:
        return "memory"
    if n_bytes <= min(budget.disk_gib * GIB, free):
        return "disk"
    logging.getLogger(__name__).warning(
        "the activations of the frozen layers take %.1f GiB, more than finetuning.cache allows (%.1f GiB in memory, %.1f on "
        "disk, in %s, which has %.1f): they are computed anew for every batch",
        *(n_bytes / GIB, budget.memory_gib, budget.disk_gib, tempfile.gettempdir(), free / GIB),
    )
    return "nowhere"


def _kept(activations: Activations, shape: tuple[int, ...], *, on_disk: bool) -> np.ndarray:
    if on_disk:
        with tempfile.TemporaryFile(prefix="pretrain-xai-") as file:  # nameless: gone with the array, however all ends
            kept: np.ndarray = np.memmap(file, np.float32, "w+", shape=(len(activations), *shape))
    else:
        kept = np.empty((len(activations), *shape), np.float32)
    for start in tqdm(range(0, len(kept), PREFIX_BATCH), desc="frozen layers"):
        kept[start : start + PREFIX_BATCH] = activations[start : start + PREFIX_BATCH]
    return kept
