"""What a study needs before its first notebook starts.

Data and weights that are brought, methods and scores that there are, a network that they can explain, and notebooks whose two
files, the `.py`, which is the source, and the `.ipynb`, which runs, agree.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jupytext
import torch

from pretrain_xai import paths
from pretrain_xai.attribution import METHODS, check_options
from pretrain_xai.errors import UserError
from pretrain_xai.localization import SCORES, find_score, no_chance
from pretrain_xai.methods.guard import check_modules
from pretrain_xai.networks.models import N_CLASSES, blocks, build_network, difference_network, find_device
from pretrain_xai.networks.weight_files import cached_file, torchvision_weights
from pretrain_xai.slices.files import source_state
from pretrain_xai.study import Study, StudyError


def unmet(study: Study, *, on_cluster: bool = False) -> Iterator[UserError]:
    """Yield what a study needs and has not; the jobs of a cluster may have a device that is not here."""
    device = "auto" if on_cluster else study.device
    checks: list[Callable[[], object]] = [partial(source_state, study.slices), partial(find_device, device)]
    checks += [partial(check, study) for check in (check_attribution, check_weights, check_network)]
    for check in checks:
        try:
            check()
        except UserError as error:
            yield error


def check_attribution(study: Study) -> None:
    """Check the explanation methods of a study, their options and its scores against the registries and the image size.

    Raises
    ------
    StudyError
        One is unknown, and the known ones are named; an option does not fit to the images; the package of a score is not
        installed; or one of the sensitivity table has no chance level.
    """
    own, with_chance = study.attribution, [name for name, score in SCORES.items() if score.chance is not no_chance]
    try:
        for method in {*own.methods, *own.options}:
            check_options(method, own.options.get(method, {}), study.dataset.image_size)
        for score in (*own.scores, *own.sensitivity.scores):
            if find_score(score).chance is no_chance and score in own.sensitivity.scores:
                raise ValueError(f"sensitivity.scores: {score!r} has no chance level; {', '.join(with_chance)} have")
    except (ValueError, TypeError) as error:
        raise StudyError(f"attribution: {error}") from None


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
        if study.attribution.explained == "difference":
            shape = 2, 3, study.dataset.image_size, study.dataset.image_size
            difference_network(network, torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    unknown = {name: rules(network) for name, method in METHODS.items() if (rules := method.rules)}
    for method in study.attribution.methods:
        if unknown.get(method):
            able = ", ".join(name for name in METHODS if not unknown.get(name))
            reason = f"{method} can't explain {settings.name}: {unknown[method]}"
            raise StudyError(f"attribution.methods: {reason}; those that can: {able}")


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
            cached = f"{file} ({size:.0f} MB, downloaded when it is needed)"
            found.append(f"{name} of {architecture} is not in torchvision's cache: {cached}")
    return found


def _check_pass(network: torch.nn.Module, name: str, side: int) -> None:
    try:
        check_modules(network)
        with torch.no_grad():
            found = tuple(network(torch.zeros(2, 3, side, side)).shape)
        if found != (2, N_CLASSES):
            raise ValueError(f"it gives {found} for two images, logits of shape (2, {N_CLASSES}) are expected")
    except Exception as error:  # the user's code may raise anything
        raise StudyError(f"network: {name} can't be used: {' '.join(str(error).split())[:300]}") from None


def check_pairs(folder: Path, names: Iterable[str]) -> None:
    """Check that the code of notebooks is that of their sources: a batch runs the one and records the digest of the other.

    Raises
    ------
    UserError
        Naming the notebook.
    """
    for name in names:
        source, twin = folder / f"{name}.py", folder / f"{name}.ipynb"
        try:
            agree = _code(jupytext.read(twin)) == _code(jupytext.read(source))
        except Exception:  # jupytext raises nearly anything for JSON that is no notebook
            agree = False
        if not agree:
            keep = f"to keep what the .ipynb says run `.venv/bin/jupytext --to py:percent {twin}` first"
            render = "`make notebooks` renders it from the .py"
            raise UserError(f"{twin} does not hold the code of {source.name}: {render}; {keep}")


def _code(notebook: Any) -> list[str]:
    # as they come out of the other format, so that lines which look like its marks count alike
    notebook = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent")
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
