"""VGG networks of torchvision's family at any width, and the blocks that fine-tuning changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import vgg

from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.provenance import atomic_path
from pretrain_xai.settings import Network, Standardise
from pretrain_xai.study import UNTRAINED, Run, Study

#: round or irregular lesions
N_CLASSES = 2
#: torchvision's letters of the configurations without batch normalisation
CONFIGURATIONS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


class WeightsError(UserError):
    """A weight file is missing, broken or does not fit the network."""


class VGG(vgg.VGG):
    """torchvision's VGG at any width, with an optional fixed standardising layer in front.

    Inputs are images of shape (n, 3, height, width) in [0, 1]; outputs are logits of shape (n, n_classes). The standardising
    layer is a 1x1 convolution, because every Captum method has a rule for one, so that maps refer to the image and a
    black baseline stays black.
    """

    def __init__(self, features: nn.Module, classifier: nn.Module, standardise: nn.Module | None) -> None:
        with torch.device("meta"):  # torchvision's own classifier, 119 million weights at any width, is replaced
            super().__init__(features, init_weights=False)
        self.classifier = classifier
        self.standardise = standardise

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return super().forward(x if self.standardise is None else self.standardise(x))


def build_network(settings: Network, n_classes: int, seed: int) -> VGG:
    """Build an untrained network in evaluation mode.

    Parameters
    ----------
    settings : Network
        Architecture, width relative to torchvision's and the standardising layer.
    seed : int
        Of the weights: He initialisation (He et al. 2015) with zero biases. torchvision does the same for convolutions, but
        draws linear weights with SD 0.01 at any width, too small for a narrow network.
    """
    configuration = [
        layer if layer == "M" else max(1, round(layer * settings.width))
        for layer in vgg.cfgs[CONFIGURATIONS[settings.architecture]]
    ]
    hidden = max(1, round(4096 * settings.width))
    channels = next(layer for layer in reversed(configuration) if layer != "M")
    # explicit dropout and ReLU modules, as in torchvision: explanation methods hook them
    classifier = nn.Sequential(
        nn.Linear(channels * 7 * 7, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, n_classes),
    )
    standardise = None if settings.standardise is None else _standardising_layer(settings.standardise)
    network = VGG(vgg.make_layers(configuration), classifier, standardise)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # attribution hooks need the activations that go in
    _initialise(network, torch.Generator().manual_seed(seed))
    return network.eval()


def replace_head(network: VGG, n_classes: int, seed: int) -> VGG:
    """Give the network a freshly initialised last layer with `n_classes` outputs, and return it."""
    head = nn.Linear(network.classifier[-1].in_features, n_classes)
    _initialise_linear(head, torch.Generator().manual_seed(seed))
    network.classifier[-1] = head
    return network


def blocks(network: VGG) -> list[list[nn.Module]]:
    """Return the layers of the five convolutional blocks, each up to and with its max pooling."""
    result: list[list[nn.Module]] = [[]]
    for layer in network.features:
        result[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            result.append([])
    return result[:-1]


def freeze_below(network: VGG, finetune_depth: int, *, first_conv_frozen: bool = False) -> None:
    """Leave only the classifier and the last `finetune_depth` convolutional blocks trainable.

    With `first_conv_frozen` the first convolution of the lowest trainable block stays frozen at depths 1 to 4, as in the
    released code.
    """
    all_blocks = blocks(network)
    if not 1 <= finetune_depth <= len(all_blocks):
        raise ValueError(f"finetune_depth must be 1 to {len(all_blocks)}, found {finetune_depth}")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    layers = [layer for block in all_blocks[-finetune_depth:] for layer in block]
    if first_conv_frozen and finetune_depth < len(all_blocks):
        layers = layers[1:]
    for module in [*layers, network.classifier]:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def save_weights(path: Path, network: nn.Module) -> None:
    """Write the network's weights as safetensors, atomically."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, network: nn.Module) -> None:
    """Fill the network from a safetensors file.

    Raises
    ------
    WeightsError
        The file is missing or broken, or names and shapes differ from the network's; the first of them are named.
    """
    _check_exists(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from None
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    differing = [
        f"{name}: {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise WeightsError(f"{path} does not fit this network: {'; '.join(differing[:3])} ({len(differing)} differ)")
    network.load_state_dict(state)


def load_pretrained(study_name: str, study: Study, run: Run) -> VGG:
    """Return the network that was pre-trained on the run's corpus, with a last layer for two classes.

    The last layer is new, unless the protocol says `head_kept` and the corpus is MRI, whose head has two classes already.
    """
    path = paths.pretrained(study_name, run.pretraining)
    network = build_network(study.network, _n_classes(path), seed=run.seed)
    load_weights(path, network)
    if study.switched.head_kept and run.pretraining == "mri":
        return network
    return replace_head(network, N_CLASSES, seed=run.seed)


def load_finetuned(study_name: str, study: Study, run: Run) -> VGG:
    """Return the fine-tuned network of a run, or the untrained network if its corpus is "none"."""
    network = build_network(study.network, N_CLASSES, seed=run.seed)
    if run.pretraining != UNTRAINED:
        load_weights(paths.finetuned(study_name, run.name) / "weights.safetensors", network)
    return network


@contextmanager
def evaluation_mode(network: nn.Module, *, dropout_active: bool = False) -> Iterator[nn.Module]:
    """Switch the network to evaluation mode, or to that with dropout alive, and back to what it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    for module in network.modules():
        if dropout_active and isinstance(module, nn.Dropout):
            module.train()
    try:
        yield network
    finally:
        for module, training in modes.items():
            module.training = training


def _n_classes(path: Path) -> int:
    """Return the number of outputs of the network in a weight file."""
    _check_exists(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice("classifier.6.bias").get_shape()[0]
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} holds no weights of a VGG: {error}") from None


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing: make it first (`make demo`, or the notebook that writes it)")


def _standardising_layer(settings: Standardise) -> nn.Conv2d:
    layer = nn.Conv2d(3, 3, kernel_size=1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1) / settings.std)
        layer.bias.fill_(-settings.mean / settings.std)
    return layer.requires_grad_(False)


def _initialise(network: VGG, generator: torch.Generator) -> None:
    for module in network.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.bias)
    for module in network.classifier:
        if isinstance(module, nn.Linear):
            _initialise_linear(module, generator)


def _initialise_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
