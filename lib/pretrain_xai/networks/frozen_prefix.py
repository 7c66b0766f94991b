"""The frozen layers in front of the first trainable one: run once per image, not once per image and epoch.

What they give for an image never changes while the layers behind them are trained. So a network is split there, and the
layers behind are trained on the kept activations. A network that can't be split is trained whole.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from tqdm.auto import tqdm

from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.batches import as_batch
from pretrain_xai.networks.models import evaluation_mode
from pretrain_xai.settings.sections import Cache

#: images that pass through the frozen layers at once, filled up with black ones: float32 results depend on the shape of a
#: batch, so that with one shape an image's activations are the same to the bit whoever comes with it
PREFIX_BATCH = 16
#: with fewer frozen weights nothing is gained: a standardising layer has 12, VGG-16's first convolution 1,792
FEWEST_WEIGHTS = 1_000
GIB = 2**30


class Split(NamedTuple):
    """A network in two parts that share its layers: `behind(prefix(images))` are its logits."""

    prefix: nn.Module
    behind: nn.Module


class Activations:
    """The activations of images, computed whenever they are indexed: the same bits as kept ones, without the memory."""

    def __init__(self, prefix: nn.Module, images: np.ndarray) -> None:
        self.prefix, self.images = prefix, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        return np.concatenate(list(_activations(self.prefix, self.images[chosen])))


def behind_frozen_prefix(
    network: nn.Module, data: Sequence[LabelledImages], budget: Cache | None
) -> tuple[nn.Module, list[LabelledImages]]:
    """Return the layers that are trained, and the data sets with the activations of the frozen layers in place of images.

    The budget decides only where the activations are: in memory, in a nameless file of the system's temporary folder
    (`TMPDIR`), or nowhere, computed anew for every batch. The results are the same to the bit.

    Parameters
    ----------
    network : module
        In the mode in which it is trained. It is returned as it is, with the data, if it can't be split (see
        `split_network`), if what its frozen layers give for an image depends on other images or on chance, or if there is no
        budget.
    data : LabelledImages
    budget : Cache, optional

    Returns
    -------
    network : module
        Shares its layers with the network.
    data : list of LabelledImages
        `images` has the shape (n, height, width, channels).
    """
    split = split_network(network) if budget is not None else None
    if budget is None or split is None or not _each_image_alone(split.prefix, data[0].images):
        return network, list(data)
    shape = next(_activations(split.prefix, data[0].images[:1])).shape[1:]
    n_bytes = 4 * sum(map(len, data)) * int(np.prod(shape))
    empty = _room(n_bytes, budget)
    if empty is None:
        return split.behind, [LabelledImages(Activations(split.prefix, part.images), part.labels) for part in data]
    return split.behind, [_kept(split.prefix, part, empty((len(part), *shape))) for part in data]


def split_network(network: nn.Module) -> Split | None:
    """Split a network before its first layer that training changes, or that draws or looks at the batch.

    Layers without weights behind the last frozen one (ReLU, pooling) belong to the prefix: its output is then the smallest.
    Where a skip connection leads over that place, the cut is in front of it.

    Returns
    -------
    None if too few weights are frozen, or if torch.fx can't follow the network's forward pass, which may depend on the images
    or on the mode.
    """
    graph = _traced(network)
    if graph is None:
        return None
    fixed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "output" and fixed.issuperset(node.all_input_nodes) and _is_fixed(node, network):
            fixed.add(node)
    cut, before = _last_cut(graph, fixed)
    prefix = _part(network, (node for node in graph.nodes if node in before), end=cut)
    behind = _part(network, (node for node in graph.nodes if not before.issuperset([node, *node.users])), start=cut)
    enough = sum(parameter.numel() for parameter in prefix.parameters()) >= FEWEST_WEIGHTS
    return Split(prefix, behind) if enough else None


def _traced(network: nn.Module) -> fx.Graph | None:
    """Return what the forward pass does, if it is the same in training and evaluation mode."""
    try:
        graph = fx.Tracer().trace(network)
        with evaluation_mode(network):
            return graph if str(fx.Tracer().trace(network)) == str(graph) else None
    except Exception as error:  # torch.fx lets through whatever the forward pass raises
        logging.getLogger(__name__).info("the network is trained whole: torch.fx can't follow it (%s)", error)
        return None


def _is_fixed(node: fx.Node, network: nn.Module) -> bool:
    """Return whether a step gives the same for the same input throughout the training."""
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return not getattr(network.get_submodule(owner), name).requires_grad
    if node.op != "call_module":
        return True
    module = network.get_submodule(str(node.target))
    changing = (layer.training and isinstance(layer, _BatchNorm | _DropoutNd) for layer in module.modules())
    return not any(parameter.requires_grad for parameter in module.parameters()) and not any(changing)


def _last_cut(graph: fx.Graph, fixed: set[fx.Node]) -> tuple[fx.Node, set[fx.Node]]:
    """Return the last fixed step through which everything behind it follows from the images, and what leads up to it."""
    for cut in reversed([node for node in graph.nodes if node in fixed and node.op != "get_attr"]):
        before, waiting = {cut}, [cut]
        while waiting:
            new = set(waiting.pop().all_input_nodes) - before
            before |= new
            waiting += new
        inside = (node for node in before if node is not cut and node.op != "get_attr")
        images = (node for node in graph.nodes if node.op == "placeholder")
        if before.issuperset(images) and all(before.issuperset(node.users) for node in inside):
            return cut, before
    raise ValueError("the network takes no images")


def _part(
    network: nn.Module, nodes: Iterable[fx.Node], *, start: fx.Node | None = None, end: fx.Node | None = None
) -> fx.GraphModule:
    """Return a module of some steps of the network: from the activations `start`, or to `end`."""
    graph = fx.Graph()
    copies = {} if start is None else {start: graph.placeholder("activations")}
    for node in nodes:
        if node is not start:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    if end is not None:
        graph.output(copies[end])
    return fx.GraphModule(network, graph)


def _activations(prefix: nn.Module, images: np.ndarray) -> Iterable[np.ndarray]:
    """Yield the activations of PREFIX_BATCH images at a time, float32 arrays of shape (n, height, width, channels)."""
    for start in range(0, len(images), PREFIX_BATCH):
        part = np.asarray(images[start : start + PREFIX_BATCH])
        yield _pass(prefix, part)[: len(part)].permute(0, 2, 3, 1).contiguous().numpy()


def _pass(prefix: nn.Module, images: np.ndarray) -> Tensor:
    black = np.zeros((PREFIX_BATCH - len(images), *images.shape[1:]), images.dtype)
    with torch.inference_mode():
        return prefix(as_batch(np.concatenate([images, black])))


def _each_image_alone(prefix: nn.Module, images: np.ndarray) -> bool:
    """Try whether the first image's activations are the same to the bit without the others, and with other draws."""
    outputs = []
    with torch.random.fork_rng(devices=[]):
        for seed, count in enumerate((1, PREFIX_BATCH)):
            torch.manual_seed(seed)
            outputs.append(_pass(prefix, np.asarray(images[:count]))[0])
    return outputs[0].ndim == 3 and torch.equal(*outputs)


def _room(n_bytes: int, budget: Cache) -> Callable[[tuple[int, ...]], np.ndarray] | None:
    """Return what makes an empty array where the budget has room for all activations; None if nowhere."""
    if n_bytes <= budget.memory_gib * GIB:
        return lambda shape: np.empty(shape, np.float32)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes <= min(budget.disk_gib * GIB, free):
        return _on_disk
    logging.getLogger(__name__).warning(
        "the activations of the frozen layers take %.1f GiB, more than finetuning.cache allows (%.1f GiB in memory, %.1f on "
        "disk, in %s, which has %.1f): they are computed anew for every batch",
        *(n_bytes / GIB, budget.memory_gib, budget.disk_gib, tempfile.gettempdir(), free / GIB),
    )
    return None


def _on_disk(shape: tuple[int, ...]) -> np.ndarray:
    with tempfile.TemporaryFile(
        prefix="pretrain-xai-"
    ) as file:  # nameless: gone with the array, however the program ends
        return np.memmap(file, np.float32, "w+", shape=shape)


def _kept(prefix: nn.Module, part: LabelledImages, kept: np.ndarray) -> LabelledImages:
    start = 0
    with tqdm(total=len(part), desc="frozen layers", unit="image") as progress:
        for activations in _activations(prefix, part.images):
            kept[start : start + len(activations)] = activations
            start += len(activations)
            progress.update(len(activations))
    return LabelledImages(kept, part.labels)
