"""VGG networks of torchvision's family at any width or networks of your own, and the blocks that fine-tuning changes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import vgg

from pretrain_xai import paths
from pretrain_xai.errors import SelfCheckError, first_ten
from pretrain_xai.networks.hardware import place
from pretrain_xai.networks.own_network import build_own, own_parts
from pretrain_xai.networks.weight_files import WeightsError, fitting, read_state, torchvision_state
from pretrain_xai.provenance import atomic_path
from pretrain_xai.settings.sections import Network, Standardise
from pretrain_xai.study import UNTRAINED, Run, Study

#: round or irregular lesions
N_CLASSES = 2
#: of weights that are read; more would be a damaged file
MOST_CLASSES = 100_000
#: torchvision's letters of the configurations; each has a twin with batch normalisation, such as vgg11_bn
CONFIGURATIONS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
#: what a VGG calls its linear layers, and its fixed first layer, which torchvision's has not
CLASSIFIER, STANDARDISE = "classifier", "standardise"


class VGG(vgg.VGG):
    """torchvision's VGG at any width, with an optional fixed standardising layer in front.

    Inputs are images of shape (n, 3, height, width) in [0, 1]; outputs are logits of shape (n, n_classes). The standardising
    layer is a 1x1 convolution, because every Captum method has a rule for one, so that maps refer to the image and a
    black baseline stays black.
    """

    features: nn.Sequential
    classifier: nn.Sequential

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, standardise: nn.Module | None) -> None:
        with torch.device("meta"):  # torchvision's own classifier, 119 million weights at any width, is replaced
            super().__init__(features, init_weights=False)
        self.classifier = classifier
        self.standardise = standardise

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return super().forward(x if self.standardise is None else self.standardise(x))


def build_network(settings: Network, n_classes: int, seed: int) -> nn.Module:
    """Build an untrained network in evaluation mode.

    Parameters
    ----------
    settings : Network
        Architecture, width relative to torchvision's and the standardising layer; or the module of your own network,
        which is built by its own function and draws its weights as that says.
    seed : int
        Of the weights: He initialisation (He et al. 2015) with zero biases. torchvision does the same for convolutions, but
        draws linear weights with SD 0.01 at any width, too small for a narrow network.
    """
    if settings.module is not None:
        return build_own(settings, n_classes, seed)
    configuration = [
        layer if isinstance(layer, str) else max(1, round(layer * settings.width))
        for layer in vgg.cfgs[CONFIGURATIONS[settings.architecture.removesuffix("_bn")]]
    ]
    hidden = max(1, round(4096 * settings.width))
    channels = next(layer for layer in reversed(configuration) if isinstance(layer, int))
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
    features = vgg.make_layers(configuration, batch_norm=settings.architecture.endswith("_bn"))
    network = VGG(features, classifier, standardise)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # attribution hooks need the activations that go in
    _initialise(network, torch.Generator().manual_seed(seed))
    return network.eval()


def replace_head(network: nn.Module, n_classes: int, seed: int) -> nn.Module:
    """Give the network a freshly initialised last layer with `n_classes` outputs, and return it."""
    place, _, name = head_name(network).rpartition(".")
    old = cast("nn.Linear", network.get_submodule(f"{place}.{name}".removeprefix(".")))
    head = nn.Linear(old.in_features, n_classes, bias=old.bias is not None)
    _initialise_linear(head, torch.Generator().manual_seed(seed))
    setattr(network.get_submodule(place), name, head)
    return network


def head_name(network: nn.Module) -> str:
    """Return the name of the layer that gives the logits: the classifier's last linear one."""
    name = classifier_name(network)
    layers = network.get_submodule(name).named_modules(prefix=name)
    return [layer_name for layer_name, layer in layers if isinstance(layer, nn.Linear)][-1]


def classifier_name(network: nn.Module) -> str:
    """Return the name of the part that is trained at every fine-tuning depth."""
    own = own_parts(network)
    return own.classifier if own else CLASSIFIER


def blocks(network: nn.Module) -> list[list[nn.Module]]:
    """Return the parts of each block from the first; of a VGG its five, each up to and with its max pooling."""
    if own := own_parts(network):
        return [[network.get_submodule(name) for name in names] for names in own.blocks]
    result: list[list[nn.Module]] = [[]]
    for layer in network.get_submodule("features").children():
        result[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            result.append([])
    return result[:-1]


def freeze_below(network: nn.Module, finetune_depth: int, *, first_conv_frozen: bool = False) -> None:
    """Leave only the classifier and the last `finetune_depth` blocks trainable.

    With `first_conv_frozen` the first convolution of the lowest trainable block stays frozen unless all blocks are
    trainable, as in the released code.
    """
    all_blocks = blocks(network)
    if not 1 <= finetune_depth <= len(all_blocks):
        raise ValueError(f"finetune_depth must be 1 to {len(all_blocks)}, found {finetune_depth}")
    network.requires_grad_(False)
    layers = [layer for block in all_blocks[-finetune_depth:] for layer in block]
    for part in [*layers, network.get_submodule(classifier_name(network))]:
        part.requires_grad_(True)
    if first_conv_frozen and finetune_depth < len(all_blocks):
        leaves = (leaf for layer in layers for leaf in layer.modules())
        next(leaf for leaf in leaves if isinstance(leaf, nn.Conv2d)).requires_grad_(False)


def training_mode(network: nn.Module) -> None:
    """Switch the network to training mode, but for batch normalisation whose weights are frozen.

    Its running means would follow the new images, though fine-tuning is to leave the layer as pre-training left it.
    """
    network.train()
    for layer in network.modules():
        frozen = not any(parameter.requires_grad for parameter in layer.parameters())
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and frozen:
            layer.eval()


def trained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes, by name: trainable parameters and running statistics."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in network.state_dict().items() if name not in frozen}


def save_weights(path: Path, network: nn.Module) -> None:
    """Write the network's weights as safetensors, atomically."""
    save_state(path, network.state_dict())


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by their names as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)


def load_weights(path: Path, network: nn.Module) -> None:
    """Fill the network from a weight file that the study has made.

    Raises
    ------
    WeightsError
        The file is missing or broken, or names and shapes differ from the network's; the first of them are named.
    """
    _check_exists(path)
    network.load_state_dict(fitting(read_state(path), network.state_dict(), path))


def pretrained_state(settings: Network, source: str) -> dict[str, Tensor]:
    """Return weights that others have trained, checked against the network: all of it, or all but the classifier.

    Parameters
    ----------
    source : str
        torchvision's name, such as IMAGENET1K_V1, or a local file; a relative path starts at the folder of `studies/`.

    Raises
    ------
    WeightsError
        As `weight_files.read_state`, `weight_files.torchvision_state` and `weight_files.fitting` say.
    """
    if local := paths.weights_file(source):
        state = read_state(local)
    elif settings.module is None:
        state = torchvision_state(source, settings.architecture)
    else:
        raise WeightsError(
            f"pretraining.weights: torchvision has no weights {source!r} of {settings.module}, give a file"
        )
    device = "meta" if settings.module is None else "cpu"
    with torch.device(device):
        network = build_network(settings, N_CLASSES, seed=0)
        _with_head_of(network, state, local or source)
    expected = network.state_dict()
    return fitting(state, expected, local or source, may_lack=(classifier_name(network), STANDARDISE))


def load_pretrained(study: Study, run: Run) -> nn.Module:
    """Return the network that was pre-trained on the run's corpus, with a last layer for two classes; placed.

    The last layer is new, unless the protocol says `head_kept` and the corpus is MRI, whose head has two classes already.
    The whole classifier is new if the weights have none.
    """
    path = study.paths.pretrained(run.pretraining)
    _check_exists(path)
    network, state = build_network(study.network, N_CLASSES, seed=run.seed), read_state(path)
    n_classes = _with_head_of(network, state, path)
    may_lack = (classifier_name(network), STANDARDISE)
    network.load_state_dict(fitting(state, network.state_dict(), path, may_lack), strict=False)
    if n_classes is None:
        return place(network, study)
    if study.protocol.head_kept and run.pretraining == "mri":
        if n_classes != N_CLASSES:
            raise WeightsError(f"{path}: head_kept needs a last layer of {N_CLASSES} outputs, it has {n_classes}")
        return place(network, study)
    return place(replace_head(network, N_CLASSES, seed=run.seed), study)


def load_finetuned(study: Study, run: Run) -> nn.Module:
    """Return the fine-tuned network of a run, or the untrained network if its corpus is "none"; placed as the study says."""
    network = build_network(study.network, N_CLASSES, seed=run.seed)
    if run.pretraining != UNTRAINED:
        load_weights(study.paths.finetuned(run.name) / "weights.safetensors", network)
    return place(network, study)


@contextmanager
def evaluation_mode(network: nn.Module, *, dropout_active: bool = False) -> Iterator[nn.Module]:
    """Switch the network to evaluation mode, or to that with dropout alive, and back to what it was.

    Raises
    ------
    SelfCheckError
        A module does not follow: it stays in training mode.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        if still := [name or "all of it" for name, module in network.named_modules() if module.training]:
            raise SelfCheckError(f"the network is in training mode though eval() was called: {first_ten(still)}")
        for module in network.modules():
            if dropout_active and isinstance(module, nn.Dropout):
                module.train()
        yield network
    finally:
        for module, training in modes.items():
            module.training = training


def _with_head_of(network: nn.Module, state: Mapping[str, Tensor], source: object) -> int | None:
    """Give the network as many outputs as the weights have, and return their number; None if they have no classifier."""
    if not any(name.startswith(f"{classifier_name(network)}.") for name in state):
        return None
    head = state.get(f"{head_name(network)}.weight")
    if head is None or head.ndim != 2 or not 0 < len(head) <= MOST_CLASSES:
        raise WeightsError(f"{source} does not fit this network: no {head_name(network)}.weight of a last linear layer")
    if len(head) != N_CLASSES:
        replace_head(network, len(head), seed=0)
    return len(head)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing: make it first (`make demo`, or the notebook that writes it)")


def _standardising_layer(settings: Standardise) -> nn.Conv2d:
    layer = nn.Conv2d(3, 3, kernel_size=1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1) / settings.std)
        cast("Tensor", layer.bias).fill_(-settings.mean / settings.std)
    return layer.requires_grad_(False)


def _initialise(network: VGG, generator: torch.Generator) -> None:
    for module in network.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            nn.init.zeros_(cast("Tensor", module.bias))
    for module in network.classifier:
        if isinstance(module, nn.Linear):
            _initialise_linear(module, generator)


def _initialise_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
