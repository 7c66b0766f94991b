"""The frozen layers in front of the first trainable one: run once per image, not once per image and epoch.

What they give for an image never changes while the layers behind them are trained. So a network that applies one layer after
the other is split there, and the layers behind are trained on the kept activations. Any other network is trained whole.
"""

import itertools
import logging
import math
import shutil
import tempfile
from typing import Any

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
    network: nn.Module, data: list[LabelledImages], budget: Cache | None
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
        return network, data
    given = [Activations(prefix, part.images) for part in data]
    kept = _kept(given, given[0][:1].shape[1:], budget)
    return behind, [LabelledImages(images, part.labels) for images, part in zip(kept, data, strict=True)]


def _is_fixed(layer: nn.Module) -> bool:
    """Return whether a layer gives the same for an image throughout the training, whichever images come with it."""
    kinds = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, *(() if layer.training else (nn.BatchNorm2d,)))
    return type(layer) in kinds and not any(parameter.requires_grad for parameter in layer.parameters())


def _kept(given: list[Activations], shape: tuple[int, ...], budget: Cache) -> list[Any]:
    """Return activations of this shape per image where the budget has room for all: in memory, on the disk or nowhere."""
    needed, folder = 4 * sum(map(len, given)) * math.prod(shape) / GIB, tempfile.gettempdir()
    if needed > max(budget.memory_gib, min(budget.disk_gib, shutil.disk_usage(folder).free / GIB)):
        logging.getLogger(__name__).warning(
            "the activations of the frozen layers take %.1f GiB, more than finetuning.cache allows or %s has: they are "
            "computed anew for every batch",
            needed,
            folder,
        )
        return given  # only indexed by batches, as arrays are
    kept: list[np.ndarray] = []
    for each in given:
        if needed <= budget.memory_gib:
            kept.append(np.empty((len(each), *shape), np.float32))
        else:
            with tempfile.TemporaryFile() as file:  # nameless: gone with the array, however all ends
                kept.append(np.memmap(file, np.float32, "w+", shape=(len(each), *shape)))
        for start in tqdm(range(0, len(each), PREFIX_BATCH), desc="frozen layers"):
            kept[-1][start : start + PREFIX_BATCH] = each[start : start + PREFIX_BATCH]
    return kept
