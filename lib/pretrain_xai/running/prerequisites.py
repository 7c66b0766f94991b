"""What a study needs before its first notebook starts: files that are brought, and a network that its methods can explain."""

import torch

from pretrain_xai import paths
from pretrain_xai.attribution import METHODS
from pretrain_xai.methods.guard import check_modules
from pretrain_xai.networks.models import N_CLASSES, blocks, build_network, find_device
from pretrain_xai.networks.weight_files import cached_file, torchvision_weights
from pretrain_xai.study import Study, StudyError


def check_network(study: Study) -> None:
    """Check that the network can be built, has as many blocks as the deepest fine-tuning, and can be explained.

    Raises
    ------
    UserError, StudyError
        One line: what is wrong, and the methods that can explain the network.
    """
    settings = study.network
    with torch.device("meta" if settings.module is None else "cpu"):
        network = build_network(settings, N_CLASSES, seed=0)
    deepest, count = max(study.finetuning.depths), len(blocks(network))
    if count < deepest:
        raise StudyError(f"finetuning.depths: {deepest} is too deep, {settings.name} has {count} blocks")
    if settings.module is not None:
        _check_pass(network, settings.name, study.dataset.image_size)
    unknown = {name: rules.unknown(network) for name, method in METHODS.items() if (rules := method.rules)}
    for method in study.attribution.methods:
        if unknown.get(method):
            able = ", ".join(name for name in METHODS if not unknown.get(name))
            raise StudyError(
                f"attribution.methods: {method} can't explain {settings.name}: {unknown[method]}; those that can: {able}"
            )


def check_device(study: Study) -> None:
    """Check that the device that the study names is here.

    Raises
    ------
    UserError
        It is not, and what to do.
    """
    find_device(study.device)


def check_weights(study: Study) -> None:
    """Check that weights that the study does not train are there, or can be downloaded by torchvision.

    Raises
    ------
    WeightsError, StudyError
        Naming the corpus and the file.
    """
    for corpus, source in study.pretraining.weights.items():
        path, setting = paths.weights_file(source), f"pretraining.weights.{corpus}"
        if path and not path.is_file():
            raise StudyError(f"{setting}: no such file: {path}; bring it there, or change the path")
        if not path and study.network.module is not None:
            raise StudyError(f"{setting}: {source!r} is torchvision's, {study.network.name} needs a file")
        if not path:
            cached_file(source, study.network.architecture)


def weights_to_download(study: Study) -> list[str]:
    """Return in words which of torchvision's weights are not in its cache yet."""
    architecture, found = study.network.architecture, []
    for name in study.pretraining.weights.values() if study.network.module is None else ():
        if paths.weights_file(name) is None and not (file := cached_file(name, architecture)).is_file():
            size = torchvision_weights(name, architecture).meta["_file_size"]
            found.append(
                f"{name} of {architecture} is not in torchvision's cache: {file} "
                f"({size:.0f} MB, downloaded when it is needed)"
            )
    return found


def _check_pass(network: torch.nn.Module, name: str, side: int) -> None:
    try:
        check_modules(network)
        with torch.no_grad():
            logits = network(torch.zeros(2, 3, side, side))
    except Exception as error:  # the user's code may raise anything
        raise StudyError(f"network: {name} can't be used: {' '.join(str(error).split())[:300]}") from None
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (2, N_CLASSES):
        raise StudyError(f"network: {name} gives {found} for two images, logits of shape (2, {N_CLASSES}) are expected")
