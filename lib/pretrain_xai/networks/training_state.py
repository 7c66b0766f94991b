"""What a training must know to go on after an interruption, kept in a hidden file until its results are saved."""

import contextlib
import hashlib
import inspect
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.checkpoints import Checkpoints
from pretrain_xai.networks.hardware import device_name, generators_of
from pretrain_xai.networks.models import trained_tensors
from pretrain_xai.provenance import atomic_path

#: a state is written when so many times the duration of the last write have passed since: at most 3 % of the time is spent
SPARING = 30
#: the code that decides a training's result; after a change no old state is taken up
CODE = sorted(Path(__file__).parent.glob("*.py"))


@dataclass
class Course:
    """Everything that changes while a network is trained.

    Attributes
    ----------
    history : list of dict
        One row per finished epoch.
    best : dict from name to Tensor
        The trained tensors of the last checkpoint.
    validated : list of dict
        The rows of `checkpoints.Checkpoints`, where the study keeps more checkpoints on the way.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    rng: np.random.Generator
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    validated: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return all of it, and the state of torch's global generators, as plain values and tensors."""
        return {
            "network": trained_tensors(self.network),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "cards": [torch.cuda.get_rng_state(card) for card in generators_of(self.network)],
            "history": self.history,
            "best": self.best,
            "validated": self.validated,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` returned; torch's global generators too."""
        self.network.load_state_dict(state["network"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        for card, generator in zip(generators_of(self.network), state["cards"], strict=True):
            torch.cuda.set_rng_state(generator, card)
        self.history, self.best, self.validated = state["history"], state["best"], state["validated"]


class StateFile:
    """The state of one training in a hidden file beside the weights that it is to make."""

    def __init__(self, weights: Path) -> None:
        self.path = weights.with_name(f".{weights.stem}.training.pt")
        self._key, self._written, self._took = "", 0.0, 0.0

    def take_up(self, course: Course, key: str, checkpoints: Checkpoints | None = None) -> None:
        """Let the course go on where an earlier one with the same key was interrupted; without one nothing changes."""
        self._key, log = key, logging.getLogger(__name__)
        for left in self.path.parent.glob(f".{self.path.stem}-*"):  # half-written, by a killed training
            left.unlink()
        if not self.path.is_file():
            return
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
            if state.pop("key") != key:
                raise ValueError("it is of a training with other data, settings or code")
            if checkpoints is not None and not checkpoints.take_up(state["validated"]):
                raise ValueError("its checkpoints are gone")
        except Exception as error:  # torch raises nearly anything for a damaged file
            log.warning("the training begins anew: %s can't be used: %s", self.path, " ".join(str(error).split())[:200])
            return
        course.restore(state)
        log.warning("the training goes on after epoch %d, from %s", course.history[-1]["epoch"], self.path)

    def keep(self, course: Course, *, now: bool) -> None:
        """Write the state if it is worth its time, or `now`."""
        started = time.monotonic()
        if now or started - self._written >= SPARING * self._took:
            with atomic_path(self.path) as temporary:
                torch.save({"key": self._key, **course.state()}, temporary)
            self._written = time.monotonic()
            self._took = self._written - started

    def remove(self) -> None:
        """Forget the training; call it when its results are saved."""
        self.path.unlink(missing_ok=True)


def training_key(network: nn.Module, data: Sequence[LabelledImages], settings: object) -> str:
    """Return a digest of what decides a training's result: weights, data, settings, code, device, version of torch."""
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    given = (torch.__version__, device_name(network), settings, trainable, network)
    digest = hashlib.sha256(repr(given).encode())
    with contextlib.suppress(OSError, TypeError):  # made in a notebook
        digest.update(inspect.getsource(type(network)).encode())
    for file in CODE:
        digest.update(file.read_bytes())
    arrays = [tensor.detach().cpu().numpy() for tensor in network.state_dict().values()]
    for array in [*arrays, *(array for part in data for array in (part.images, part.labels))]:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
