"""VGG networks of torchvision's family at any width or networks of your own, and the blocks that fine-tuning changes.

A study file names a network of your own as, for instance,
`network: {module: my_package.nets:build, blocks: [stem, layer1, layer2], classifier: fc}`.
"""

import importlib
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pretrain_xai import paths
from pretrain_xai.errors import SelfCheckError, UserError, did_you_mean, first_ten
from pretrain_xai.networks.hardware import place
from pretrain_xai.networks.weight_files import fitting, read_state, torchvision_state
from pretrain_xai.settings.own_code import studies_on_path
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import UNTRAINED, Run, Study

#: round or irregular lesions
N_CLASSES = 2
#: convolutions of each block (Simonyan and Zisserman 2015); each network has a twin with batch normalisation, as vgg11_bn
CONFIGURATIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
#: channels of each block, and units of each hidden linear layer, at width 1
CHANNELS, HIDDEN = (64, 128, 256, 512, 512), 4096
#: what a VGG calls its linear layers, and its fixed first layer, which torchvision's has not
CLASSIFIER, STANDARDISE = "classifier", "standardise"


class VGG(nn.Module):
    """VGG at any width, its parts named as torchvision's, with an optional fixed standardising layer in front.

    Inputs are images of shape (n, 3, height, width) in [0, 1]; outputs are logits of shape (n, n_classes). The standardising
    layer is a 1x1 convolution, because every Captum method has a rule for one, so that maps refer to the image and a
    black baseline stays black.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, standardise: nn.Module | None) -> None:
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d((7, 7)), classifier
        self.standardise = standardise

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = x if self.standardise is None else self.standardise(x)
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


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

    Raises
    ------
    UserError
        Your own network can't be imported or built, is no module, or its blocks and classifier do not hold each parameter
        once.
    """
    build = _vgg if settings.module is None else _own_network
    network, block_names, classifier = build(settings, n_classes, seed)
    network.block_names, network.classifier_name = block_names, classifier  # type: ignore[assignment]  # no modules
    return network.eval()


def layers_of(model: nn.Module) -> list[nn.Module] | None:
    """Return the modules that `model` applies one after the other, or None if it may do anything else.

    Known are torchvision's VGG, the study's, and `nn.Sequential`, unless they have hooks; parts of another kind, or with
    hooks, are layers as a whole.
    """
    forward = type(model).forward
    if is_hooked(model):
        return None
    if forward is nn.Sequential.forward:
        parts = list(model.children())
    elif forward.__qualname__ == "VGG.forward" and forward.__module__ in (__name__, "torchvision.models.vgg"):
        known = dict(model.named_children())
        parts = [known[name] for name in (STANDARDISE, "features", "avgpool") if name in known]
        parts += [nn.Flatten(), known[CLASSIFIER]]
    else:
        return None
    return [layer for part in parts for layer in (layers_of(part) or [part])]


def is_hooked(module: nn.Module) -> bool:
    """Return whether anything listens to what goes into or comes out of a module."""
    return any(table for name, table in vars(module).items() if name.endswith("_hooks") and "state_dict" not in name)


def replace_head(network: nn.Module, n_classes: int, seed: int) -> nn.Module:
    """Give the network a freshly initialised last layer with `n_classes` outputs, and return it."""
    parent, _, name = head_name(network).rpartition(".")
    old = cast("nn.Linear", network.get_submodule(head_name(network)))
    head = nn.Linear(old.in_features, n_classes, bias=old.bias is not None)
    _initialise(head, torch.Generator().manual_seed(seed))
    setattr(network.get_submodule(parent), name, head)
    return network


def head_name(network: nn.Module) -> str:
    """Return the name of the layer that gives the logits: the classifier's last linear one."""
    name = str(network.classifier_name)
    layers = network.get_submodule(name).named_modules(prefix=name)
    return [name for name, layer in layers if isinstance(layer, nn.Linear)][-1]


def blocks(network: nn.Module) -> list[list[nn.Module]]:
    """Return the parts of each block from the first; of a VGG its five, each up to and with its max pooling."""
    return [[network.get_submodule(name) for name in block] for block in vars(network)["block_names"]]


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
    for part in [*layers, network.get_submodule(str(network.classifier_name))]:
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


def trained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes, by name: trainable parameters and running statistics."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in network.state_dict().items() if name not in frozen}


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
    local = paths.weights_file(source)
    state = read_state(local) if local else torchvision_state(source, settings.architecture)
    with torch.device("meta" if settings.module is None else "cpu"):
        network = _with_classes_of(state, build_network(settings, N_CLASSES, seed=0))
    return fitting(state, network.state_dict(), local or source, (str(network.classifier_name), STANDARDISE))


def load_pretrained(study: Study, run: Run) -> nn.Module:
    """Return the network that was pre-trained on the run's corpus, with a last layer for two classes; placed.

    The last layer is new, unless the protocol says `head_kept` and the corpus is MRI, whose head has two classes already.
    The whole classifier is new if the weights have none.
    """
    path = study.paths.pretrained(run.pretraining)
    network, state = build_network(study.network, N_CLASSES, seed=run.seed), read_state(path)
    head_kept = study.protocol.head_kept and run.pretraining == "mri"
    if not head_kept:
        _with_classes_of(state, network)
    state = fitting(state, network.state_dict(), path, (str(network.classifier_name), STANDARDISE))
    network.load_state_dict(state, strict=False)
    if not head_kept and f"{head_name(network)}.weight" in state:
        replace_head(network, N_CLASSES, seed=run.seed)
    return place(network, study)


def load_finetuned(study: Study, run: Run) -> nn.Module:
    """Return the fine-tuned network of a run, or the untrained network if its corpus is "none"; placed as the study says."""
    network = build_network(study.network, N_CLASSES, seed=run.seed)
    if run.pretraining != UNTRAINED:
        path = study.paths.finetuned(run.name) / "weights.safetensors"
        network.load_state_dict(fitting(read_state(path), network.state_dict(), path))
    return place(network, study)


def _with_classes_of(state: Mapping[str, Tensor], network: nn.Module) -> nn.Module:
    """Return the network, with as many outputs as these weights have if they are of such a network."""
    head = f"{head_name(network)}.weight"
    fits = head in state and state[head].shape[1:] == network.get_parameter(head).shape[1:]
    return replace_head(network, len(state[head]), seed=0) if fits else network


def _vgg(settings: Network, n_classes: int, seed: int) -> tuple[nn.Module, list[list[str]], str]:
    architecture, _, batch_norm = settings.architecture.partition("_")
    layers: list[nn.Module] = []
    names, n_in = [], 3
    *channels, hidden = (max(1, round(count * settings.width)) for count in (*CHANNELS, HIDDEN))
    for n_convolutions, n_out in zip(CONFIGURATIONS[architecture], channels, strict=True):
        first = len(layers)
        for _ in range(n_convolutions):
            normalised = [nn.BatchNorm2d(n_out)] if batch_norm else []
            layers += [nn.Conv2d(n_in, n_out, kernel_size=3, padding=1), *normalised, nn.ReLU()]
            n_in = n_out
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        names.append([f"features.{number}" for number in range(first, len(layers))])
    classifier = nn.Sequential()  # explicit dropout and ReLU modules, as in torchvision: explanation methods hook them
    for n_inputs in (n_in * 7 * 7, hidden):
        classifier.extend([nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Dropout()])
    classifier.append(nn.Linear(hidden, n_classes))
    generator = torch.Generator().manual_seed(seed)
    for layer in [*layers, *classifier]:
        _initialise(layer, generator)
    standardise = None
    if fixed := settings.standardise:
        standardise = nn.Conv2d(3, 3, kernel_size=1).requires_grad_(False)
        weight, bias = standardise.parameters()
        weight.copy_(torch.eye(3).reshape(3, 3, 1, 1) / fixed.std)
        bias.fill_(-fixed.mean / fixed.std)
    return VGG(nn.Sequential(*layers), classifier, standardise), names, CLASSIFIER


def _initialise(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        mode: Literal["fan_in", "fan_out"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _own_network(settings: Network, n_classes: int, seed: int) -> tuple[nn.Module, list[list[str]], str]:
    file, _, name = (settings.module or "").partition(":")
    block_names = [[part] if isinstance(part, str) else part for part in settings.blocks]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            studies_on_path()
            network = getattr(importlib.import_module(file), name)(n_classes=n_classes)
        known = dict(network.named_modules())
    except Exception as error:  # the user's code may raise anything
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"network.module: {settings.module} can't be imported or called ({what}); mend it, install it, or put {file}.py "
            f"into {paths.root() / 'studies'}"
        ) from None
    parts = [*itertools.chain(*block_names), settings.classifier]
    if unknown := [name for name in parts if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise UserError(f"network: there is no part {unknown[0]!r}{near}, only {first_ten([*known][1:])}")
    if not any(isinstance(layer, nn.Linear) for layer in known[settings.classifier].modules()):
        raise UserError(f"network.classifier: {settings.classifier} has no nn.Linear")
    for parameter, _ in network.named_parameters():
        holders = [name for name in parts if parameter.startswith(f"{name}.")]
        if len(holders) != 1:
            raise UserError(f"network: blocks and classifier must hold {parameter} once, found it in {holders}")
    return network.requires_grad_(True), block_names, settings.classifier  # what is trained is decided by depth alone
