"""VGG networks of torchvision's family at any width or networks of your own: their blocks, weights and device.

A study file names a network of your own as, for instance,
`network: {module: my_package.nets:build, blocks: [stem, layer1, layer2], classifier: fc}`.

A network is placed once on the processor or a graphics card; the batches that it gets follow it.
"""

import copy
import itertools
import pkgutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pretrain_xai import paths
from pretrain_xai.errors import SelfCheckError, UserError, did_you_mean, first_ten
from pretrain_xai.networks.weight_files import fitting, read_state, torchvision_state
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import UNTRAINED, Run, Study

#: round or irregular lesions
N_CLASSES = 2
#: the letters of Simonyan and Zisserman (2015), as in torchvision; each has a twin with batch normalisation, as vgg11_bn
CONFIGURATIONS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
#: units of each hidden linear layer at width 1
HIDDEN = 4096
#: what a VGG calls its linear layers, and its fixed first layer, which torchvision's has not
CLASSIFIER, STANDARDISE = "classifier", "standardise"


class VGG(nn.Sequential):
    """VGG at any width, its parts named as torchvision's, with an optional fixed standardising layer in front.

    Inputs are images of shape (n, 3, height, width) in [0, 1]; outputs are logits of shape (n, n_classes). The standardising
    layer is a 1x1 convolution, because every Captum method has a rule for one, so that maps refer to the image and a
    black baseline stays black.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        for name, part in self.named_children():  # Captum's LRP has no rule for a module that flattens
            x = part(x.flatten(1) if name == CLASSIFIER else x)
        return x


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

    Known are the study's VGG and `nn.Sequential`, unless they have hooks; parts of another kind, or with hooks, are layers
    as a whole.
    """
    if is_hooked(model) or type(model).forward not in (VGG.forward, nn.Sequential.forward):
        return None
    parts = list(model.children())
    if isinstance(model, VGG):
        parts.insert(-1, nn.Flatten())
    return [layer for part in parts for layer in (layers_of(part) or [part])]


def is_hooked(module: nn.Module) -> bool:
    """Return whether anything listens to what goes into or comes out of a module."""
    return any(table for name, table in vars(module).items() if name.endswith("_hooks") and "state_dict" not in name)


def replace_head(network: nn.Module, n_classes: int, seed: int) -> nn.Module:
    """Give the network a freshly initialised last layer with `n_classes` outputs, and return it."""
    name = head_name(network)
    old = network.get_submodule(name)
    head = nn.Linear(network.get_parameter(f"{name}.weight").shape[1], n_classes, bias=old.bias is not None)
    _initialise(head, torch.Generator().manual_seed(seed))
    network.set_submodule(name, head)
    return network


def head_name(network: nn.Module) -> str:
    """Return the name of the layer that gives the logits: the classifier's last linear one."""
    name = str(network.classifier_name)
    layers = network.get_submodule(name).named_modules(prefix=name)
    return [name for name, layer in layers if isinstance(layer, nn.Linear)][-1]


def difference_network(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of the network that gives each class's logit less the mean of the other classes' logits.

    The last linear layer takes the difference in, so that the copy is a network like any other, and every method that
    explains its logit of a class explains the difference, by its own rules and exactly.

    Parameters
    ----------
    images : float tensor of shape (n_images, 3, height, width), range [0, 1]
        On which the copy is checked.

    Raises
    ------
    UserError
        The network's logits do not come out of its last linear layer as they are, or there are fewer than two.
    """
    why = (
        "attribution.explained: difference needs two or more logits, and an nn.Linear of the classifier that gives them"
    )
    copied = copy.deepcopy(network)
    try:
        head = copied.get_submodule(head_name(copied))
    except (AttributeError, IndexError):
        raise UserError(why) from None
    for parameter in head.parameters():
        parameter.data = _less_others(parameter.data, dim=0)
    with evaluation_mode(network), evaluation_mode(copied), torch.no_grad():
        wanted, found = _less_others(network(images), dim=1), copied(images)
    if (found - wanted).abs().max() <= 1e-3 * wanted.abs().max():  # no: of one logit all are NaN
        return copied
    raise UserError(why)


def _less_others(values: Tensor, dim: int) -> Tensor:
    """Return each value less the mean of the others along a dimension, rounded once."""
    n, exact = values.shape[dim], values.double()
    return ((n * exact - exact.sum(dim, keepdim=True)) / (n - 1)).to(values.dtype)


def blocks(network: nn.Module) -> list[list[nn.Module]]:
    """Return the parts of each block from the first; of a VGG its five, each up to and with its max pooling."""
    return [[network.get_submodule(name) for name in block] for block in vars(network)["block_names"]]


def freeze_below(network: nn.Module, finetune_depth: int, *, first_conv_frozen: bool = False) -> None:
    """Leave only the classifier and the last `finetune_depth` blocks trainable.

    With `first_conv_frozen` the first convolution of the lowest trainable block stays frozen unless all blocks are
    trainable, as in the released code.
    """
    network.requires_grad_(False)
    layers = [layer for block in blocks(network)[-finetune_depth:] for layer in block]
    for part in [*layers, network.get_submodule(str(network.classifier_name))]:
        part.requires_grad_(True)
    if first_conv_frozen and finetune_depth < len(blocks(network)):
        convolutions = (part for layer in layers for part in layer.modules() if isinstance(part, nn.Conv2d))
        next(convolutions).requires_grad_(False)


def training_mode(network: nn.Module) -> None:
    """Switch the network to training mode, but for batch normalisation whose weights are frozen.

    Its running means would follow the new images, though fine-tuning is to leave the layer as pre-training left it.
    """
    for layer in network.train().modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train(any(parameter.requires_grad for parameter in layer.parameters()))


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
        if still := [name or "all of it" for name, module in network.eval().named_modules() if module.training]:
            raise SelfCheckError(f"the network is in training mode though eval() was called: {first_ten(still)}")
        for module in network.modules():
            module.training = dropout_active and isinstance(module, nn.Dropout)
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
    network = build_network(settings, N_CLASSES, seed=0)
    heads = {name: tensor.float() for name, tensor in state.items() if name.startswith(f"{head_name(network)}.")}
    expected = network.state_dict() | heads  # of any number of classes
    return fitting(state, expected, local or source, (str(network.classifier_name), STANDARDISE))


def load_pretrained(study: Study, run: Run) -> nn.Module:
    """Return the network that was pre-trained on the run's corpus, with a last layer for two classes; placed.

    The last layer is new, unless the protocol says `head_kept` and the corpus is MRI, whose head has two classes already.
    The whole classifier is new if the weights have none.
    """
    path = study.paths.pretrained(run.pretraining, study.pretraining_seed(run))
    network, state = build_network(study.network, N_CLASSES, seed=run.seed), read_state(path)
    head, head_kept = head_name(network), study.protocol.head_kept and run.pretraining == "mri"
    if not head_kept and f"{head}.weight" in state:
        replace_head(network, N_CLASSES, seed=run.seed)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
    state = fitting(state, network.state_dict(), path, (str(network.classifier_name), STANDARDISE, head))
    network.load_state_dict(state, strict=False)
    return place(network, study)


def load_finetuned(study: Study, run: Run) -> nn.Module:
    """Return the fine-tuned network of a run, or the untrained network if its corpus is "none"; placed as the study says."""
    network = build_network(study.network, N_CLASSES, seed=run.seed)
    if run.pretraining != UNTRAINED:
        path = study.paths.finetuned(run.name) / "weights.safetensors"
        network.load_state_dict(fitting(read_state(path), network.state_dict(), path))
    return place(network, study)


def find_device(setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of a study; `auto` is a graphics card if there is one.

    Raises
    ------
    UserError
        A graphics card is asked for, and torch finds none.
    """
    there = torch.cuda.is_available()
    if setting == "cuda" and not there:
        raise UserError("device: cuda, but torch finds no graphics card; set device: auto or cpu in the study file")
    return torch.device("cuda" if there and setting != "cpu" else "cpu")


def on_card(study: Study) -> bool:
    """Return whether networks run on a graphics card: one that is here, or that the jobs of a cluster are to have."""
    return study.device == "cuda" or find_device(study.device).type == "cuda"


def place(network: nn.Module, study: Study) -> nn.Module:
    """Move the network to the study's device and its weights to channels last, faster on most processors; return it."""
    return network.to(find_device(study.device)).to(memory_format=torch.channels_last)


def as_batch(images: np.ndarray | Tensor, network: nn.Module) -> Tensor:
    """Return images as a float32 tensor of shape (n, 3, height, width) in [0, 1]; grey becomes three copies.

    It is on the network's device, channels last. Activations, float32 of shape (n, height, width, channels), keep
    their channels and values.
    """
    if isinstance(images, Tensor):  # is one
        return images
    tensor = torch.from_numpy(np.array(images)).to(device_of(network))  # a copy: memory-mapped files are read-only
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
    tensor = tensor[..., None].expand(*tensor.shape, 3) if tensor.ndim == 3 else tensor
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the network's weights; the processor if it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def device_name(network: nn.Module) -> str:
    """Return what provenance calls the network's device, such as `cpu` or `cuda (NVIDIA H100)`."""
    device = device_of(network)
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _vgg(settings: Network, n_classes: int, seed: int) -> tuple[nn.Module, list[list[str]], str]:
    from torchvision.models.vgg import cfgs, make_layers  # a second to import

    architecture, _, batch_norm = settings.architecture.partition("_")
    channels, hidden = cfgs[CONFIGURATIONS[architecture]], max(1, round(HIDDEN * settings.width))
    plan = [part if isinstance(part, str) else max(1, round(part * settings.width)) for part in channels]
    features, classifier = make_layers(plan, bool(batch_norm)), nn.Sequential()
    for n_inputs in (int(plan[-2]) * 7 * 7, hidden):
        classifier.extend([nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Dropout(settings.dropout)])
    classifier.append(nn.Linear(hidden, n_classes))
    generator = torch.Generator().manual_seed(seed)
    for layer in [*features, *classifier]:
        _initialise(layer, generator)
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # explanation methods need what goes into a module
    parts = {"features": features, "avgpool": nn.AdaptiveAvgPool2d((7, 7)), CLASSIFIER: classifier}
    if fixed := settings.standardise:
        layer = nn.Conv2d(3, 3, kernel_size=1).requires_grad_(False)
        weight, bias = layer.parameters()
        weight.copy_(torch.eye(3).reshape(3, 3, 1, 1) / fixed.std)
        bias.fill_(-fixed.mean / fixed.std)
        parts = {STANDARDISE: layer} | parts
    ends = [number for number, layer in enumerate(features, start=1) if isinstance(layer, nn.MaxPool2d)]
    names = [[f"features.{number}" for number in range(*block)] for block in itertools.pairwise([0, *ends])]
    return VGG(OrderedDict(parts)), names, CLASSIFIER


def _initialise(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        mode: Literal["fan_in", "fan_out"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _own_network(settings: Network, n_classes: int, seed: int) -> tuple[nn.Module, list[list[str]], str]:
    block_names = [[part] if isinstance(part, str) else part for part in settings.blocks]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            paths.studies_on_path()
            network = pkgutil.resolve_name(str(settings.module))(n_classes=n_classes)
        known = dict(network.named_modules())
    except Exception as error:  # the user's code may raise anything
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"network.module: {settings.module} can't be imported or called ({what}); install it, or put it into studies/"
        ) from None
    parts = [*itertools.chain(*block_names), settings.classifier]
    if unknown := [name for name in parts if name not in known]:
        raise UserError(f"network: there is no part {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    if not any(isinstance(layer, nn.Linear) for layer in known[settings.classifier].modules()):
        raise UserError(f"network.classifier: {settings.classifier} has no nn.Linear")
    for parameter, _ in network.named_parameters():
        holders = [name for name in parts if parameter.startswith(f"{name}.")]
        if len(holders) != 1:
            raise UserError(f"network: blocks and classifier must hold {parameter} once, found it in {holders}")
    return network.requires_grad_(True), block_names, settings.classifier  # what is trained is decided by depth alone
