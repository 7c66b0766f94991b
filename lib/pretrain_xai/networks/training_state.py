"""What a training must know to go on after an interruption, kept in a hidden file until its results are saved."""

import hashlib
import inspect
import json
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
from pretrain_xai.networks.hardware import generators_of
from pretrain_xai.networks.models import trained_tensors
from pretrain_xai.provenance import atomic_path

#: a state is written when so many times the duration of the last write have passed since: at most 3 % of the time is spent
SPARING = 30
#: the code that decides a training's result; after a change no old state is taken up
CODE = (
    "batches.py",
    "checkpoints.py",
    "frozen_prefix.py",
    "hardware.py",
    "models.py",
    "training.py",
    "training_state.py",
)


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

    def mark_best(self) -> None:
        """Remember the network as the best so far."""
        self.best = {name: tensor.clone() for name, tensor in trained_tensors(self.network).items()}

    def state(self) -> dict[str, Any]:
        """Return all of it as plain values and tensors."""
        return {
            "network": trained_tensors(self.network),
            "best": None if self.history[-1]["checkpoint"] else self.best,  # None: the network is it
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "numpy": json.dumps(self.rng.bit_generator.state),
            "torch": torch.get_rng_state(),
            "cards": [torch.cuda.get_rng_state(card) for card in generators_of(self.network)],
            "history": self.history,
            "validated": self.validated,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` returned; torch's global generators too."""
        self.network.load_state_dict(state["network"], strict=False)
        self.best = state["best"] if state["best"] is not None else state["network"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.bit_generator.state = json.loads(state["numpy"])
        torch.set_rng_state(state["torch"])
        for card, drawn in zip(generators_of(self.network), state["cards"], strict=True):
            torch.cuda.set_rng_state(drawn, card)
        self.history = state["history"]
        self.validated = state["validated"]


class StateFile:
    """The hidden file beside the weights-to-be that holds the state of their unfinished training.

    Parameters
    ----------
    weights : Path
        Where the trained network will be saved.
    """

    def __init__(self, weights: Path) -> None:
        self.path = weights.with_name(f".{weights.stem}.training.pt")
        self._key = ""
        self._written, self._took = 0.0, 0.0

    def take_up(self, course: Course, key: str) -> None:
        """Let the course go on where an earlier one with the same key was interrupted; without one nothing changes."""
        self._key = key
        for left in self.path.parent.glob(f".{self.path.stem}-*"):  # half-written, by a killed training
            left.unlink()
        if not self.path.is_file():
            return
        log = logging.getLogger(__name__)
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
            found = state.pop("key")
        except Exception as error:  # torch raises nearly anything for a damaged file
            log.warning(
                "%s can't be read (%s): the training begins anew", self.path, " ".join(str(error).split())[:200]
            )
            return
        if found != key:
            log.warning("%s is of a training with other data, settings or code: the training begins anew", self.path)
            return
        course.restore(state)
        log.warning("the training goes on after epoch %d, from %s", course.history[-1]["epoch"], self.path)

    def keep(self, course: Course, *, now: bool) -> None:
        """Write the state if it is worth its time, or `now`."""
        started = time.monotonic()
        if not now and started - self._written < SPARING * self._took:
            return
        with atomic_path(self.path) as temporary:
            torch.save({"key": self._key, **course.state()}, temporary)
        self._written = time.monotonic()
        self._took = self._written - started

    def remove(self) -> None:
        """Forget the training; call it when its results are saved."""
        self.path.unlink(missing_ok=True)


def training_key(network: nn.Module, data: Sequence[LabelledImages], settings: Any) -> str:
    """Return a digest of what decides a training's result: weights, data, settings (as JSON), code, version of torch."""
    digest = hashlib.sha256()
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    digest.update(json.dumps([torch.__version__, settings, trainable, str(network), _source(network)]).encode())
    for name in CODE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy())
    for part in data:
        digest.update(f"{part.images.shape} {part.images.dtype}".encode())
        for start in range(0, len(part), 64):  # a memory-mapped file is read piece by piece
            digest.update(np.ascontiguousarray(part.images[start : start + 64]).data)
        digest.update(np.ascontiguousarray(part.labels).data)
    return digest.hexdigest()


def _source(network: nn.Module) -> str:
    try:
        return inspect.getsource(type(network))
    except (OSError, TypeError):  # made in a notebook
        return ""
