"""One training loop for pre-training and fine-tuning, which goes on after an interruption, and a network's predictions.

What the frozen layers in front of the first trainable one give for an image never changes. So a network that applies one
layer after the other is split there: they are run once per image, and the layers behind are trained on the kept activations.
Any other network is trained whole.
"""

import itertools
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.optim import lr_scheduler
from tqdm.auto import tqdm

from pretrain_xai import paths
from pretrain_xai.arrays import keep_freed_memory
from pretrain_xai.classification import classification_metrics
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.errors import SelfCheckError, UserError
from pretrain_xai.networks import models
from pretrain_xai.networks.checkpoints import Checkpoints
from pretrain_xai.networks.matching import RATE
from pretrain_xai.provenance import atomic_path
from pretrain_xai.settings.sections import Training

#: images that are predicted at once; fixed, because float32 results depend on the shape of a batch
PREDICTION_BATCH = 64
#: images that pass through the frozen layers at once, filled up with black ones: float32 results depend on the shape of a
#: batch, so that with one shape an image's activations are the same to the bit whoever comes with it
PREFIX_BATCH = 16
#: with fewer frozen weights nothing is gained: a standardising layer has 12, VGG-16's first convolution 1,792
FEWEST_WEIGHTS = 1_000
GIB = 2**30
#: an unfinished training is written so often, seconds: a large one takes some seconds to write
STATE_EVERY = 60.0
#: the code that decides a training's result; after a change no old state is taken up
CODE = sorted(Path(__file__).parent.glob("*.py"))


def configure_torch(threads: int) -> None:
    """Use `threads` threads and only deterministic algorithms, so that one seed gives one result.

    A graphics card has none for a few steps (the gradient of adaptive pooling is one), which torch warns of there; products
    are in full single precision.
    """
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products on a card are not deterministic
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # a check that costs 6 % of an epoch
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at run time
    keep_freed_memory()


def state_file(weights: Path) -> Path:
    """Return the hidden file beside weights-to-be in which `train` keeps their unfinished training."""
    return weights.with_name(f".{weights.stem}.training.pt")


def predict(
    network: nn.Module, images: np.ndarray | Tensor, *, dropout_active: bool = False, seed: int = 0
) -> np.ndarray:
    """Return the logits, float32 array of shape (n, n_classes).

    The network is in evaluation mode; with `dropout_active` its dropout layers stay alive and draw from `seed`.

    Raises
    ------
    SelfCheckError
        It does not say the same of an image twice, though nothing in it should be random.
    """
    starts, cards = range(0, len(images), PREDICTION_BATCH), range(torch.cuda.device_count())
    awake = models.evaluation_mode(network, dropout_active=dropout_active)
    with awake, torch.inference_mode(), torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        if len(images) and not dropout_active:
            first, again = (network(models.as_batch(images[:1], network)) for _ in range(2))
            if not torch.allclose(first, again, rtol=1e-3, atol=1e-3, equal_nan=True):
                raise SelfCheckError("the network is random in evaluation mode, such as by a dropout that is always on")
        logits = [network(models.as_batch(images[start : start + PREDICTION_BATCH], network)) for start in starts]
    return torch.cat(logits).cpu().numpy()


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

    def __init__(self, network: nn.Module, settings: Training, learning_rate: float, seed: int, n_batches: int) -> None:
        self.network, self.settings, self.rng = network, settings, np.random.default_rng(seed)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer: optim.Optimizer = optim.AdamW(parameters, lr=learning_rate)
        if settings.optimizer == "sgd":
            self.optimizer = optim.SGD(parameters, lr=learning_rate, momentum=settings.momentum)
        self.schedule: lr_scheduler.LRScheduler = lr_scheduler.StepLR(self.optimizer, 7 * n_batches, gamma=0.1)
        if settings.schedule == "one_cycle":
            self.schedule = lr_scheduler.OneCycleLR(self.optimizer, learning_rate, n_batches * settings.epochs)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.validated: list[dict[str, Any]] = []
        self._written = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or the published rule has ended the training."""
        return len(self.history) >= self.settings.epochs or has_settled(self.history, self.settings.stop_value)

    def take_up(self, path: Path, key: str) -> None:
        """Go on where a training with the same key was interrupted, torch's global generators too, if its state is here."""
        for left in path.parent.glob(f".{path.stem}-*"):  # half-written, by a killed training
            left.unlink()
        if not path.is_file():
            return
        try:
            found, learnt, generators, results = torch.load(path, weights_only=True, map_location="cpu")
        except Exception:  # torch raises nearly anything for a damaged file
            found = None
        if found != key:
            return logging.getLogger(__name__).warning("%s is damaged or of another training, which begins anew", path)
        self.network.load_state_dict(learnt[0], strict=False)
        self.optimizer.load_state_dict(learnt[1])
        self.schedule.load_state_dict(learnt[2])
        self.rng.bit_generator.state, processor, cards = generators
        torch.set_rng_state(processor)
        torch.cuda.set_rng_state_all(cards)
        self.history, self.best, self.validated = results
        logging.getLogger(__name__).warning("the training goes on after epoch %d, from %s", len(self.history) - 1, path)

    def keep(self, path: Path, key: str) -> None:
        """Write the state if it is time, or the training is over."""
        if not self.is_over and time.monotonic() - self._written < STATE_EVERY:
            return
        learnt = (models.trained_tensors(self.network), self.optimizer.state_dict(), self.schedule.state_dict())
        generators = (self.rng.bit_generator.state, torch.get_rng_state(), torch.cuda.get_rng_state_all())
        with atomic_path(path) as temporary:
            torch.save((key, learnt, generators, (self.history, self.best, self.validated)), temporary)
        self._written = time.monotonic()


def train(
    network: nn.Module,
    training_set: LabelledImages,
    validation_set: LabelledImages,
    settings: Training,
    *,
    learning_rate: float,
    seed: int,
    dropout_active: bool = False,
    checkpoints: Checkpoints | None = None,
    cache_gib: float | None = None,
    state: Path | None = None,
) -> pd.DataFrame:
    """Train the network's trainable parameters; leave the weights of the best checkpoint in it.

    Undecided images are learnt as equally likely of all classes, and count neither in accuracies nor in validation.

    The first epoch is always a checkpoint; a later one if its validation accuracy, rounded to 4 digits, beats the best and
    differs from the training accuracy by at most `settings.acc_dif`. The training accuracy is the running mean over
    batches. `settings.stop_value` ends the training after three successive smaller changes of the validation accuracy,
    each with the validation below the training accuracy (the published rule).

    Parameters
    ----------
    seed : int
        Of the order of the images and of dropout.
    dropout_active : bool
        Validate with dropout alive, as the released code does.
    checkpoints : Checkpoints, optional
        Gets the network with its validation several times per epoch. Changes nothing in the training.
    cache_gib : float, optional
        Run frozen layers once per image, in batches of their own, and keep what they give; see `behind_frozen_prefix`. How
        much may be kept changes no bit; without it float32 rounds differently. None: the whole network, batch by batch.
    state : Path, optional
        File in which the training is kept after its epochs, to go on after an interruption with the same result to the bit;
        remove it when the results are saved.

    Returns
    -------
    DataFrame with one row per epoch: `epoch`, `learning_rate`, `train_loss`, `train_accuracy`, `validation_loss`,
    `validation_accuracy`, `checkpoint`; with `checkpoints` also what these note.

    Raises
    ------
    UserError
        The loss of an epoch is no number.
    """
    data = [training_set, validation_set]
    models.training_mode(network)  # the mode in which the frozen layers are found
    n_batches = math.ceil(len(training_set) / settings.batch_size)
    course = Course(network, settings, learning_rate, seed, n_batches)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        if state is not None:
            kept = checkpoints and (checkpoints.per_epoch, checkpoints.lowest_rate)
            key = training_key(
                network, data, (settings, learning_rate, seed, dropout_active, cache_gib is not None, kept)
            )
            course.take_up(state, key)
        if checkpoints is not None:
            checkpoints.take_up(course.validated)
        if not course.is_over:
            trained, data = behind_frozen_prefix(network, data, cache_gib)
        epochs = tqdm(range(len(course.history), settings.epochs), desc="epochs")
        for epoch in itertools.takewhile(lambda _: not course.is_over, epochs):
            results = []
            row: dict[str, Any] = {"epoch": epoch, "learning_rate": course.schedule.get_last_lr()[0]}
            for batch, result in enumerate(_steps(trained, data[0], course), start=1):
                results.append(result)
                if batch == n_batches or (checkpoints is not None and checkpoints.is_due(batch, n_batches)):
                    validated = _validate(trained, data[1], dropout_active, seed + epoch, checkpoints is not None)
                    if checkpoints is not None:
                        checkpoints.offer(epoch * n_batches + batch, network, validated)
            losses, accuracies = zip(*results, strict=True)
            row |= {"train_loss": float(np.mean(losses)), "train_accuracy": float(np.nanmean(accuracies))} | validated
            if not math.isfinite(row["train_loss"]):
                what = f"the training diverged in epoch {epoch + 1}"
                raise UserError(f"{what}: lower the learning rate ({learning_rate:g}) or set training.clip_norm")
            row["checkpoint"] = is_checkpoint(row, course.history, settings.acc_dif)
            course.history.append(row)
            if row["checkpoint"]:
                course.best = {name: tensor.clone() for name, tensor in models.trained_tensors(network).items()}
            if state is not None:
                course.keep(state, key)
    network.load_state_dict(course.best, strict=False)
    network.eval()
    return pd.DataFrame(course.history)


def training_key(network: nn.Module, data: list[LabelledImages], settings: object) -> str:
    """Return a digest of what decides a training's result: weights, data, settings, code, device, version of torch."""
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    given = (torch.__version__, models.device_name(network), settings, trainable, network)
    code = [file.read_bytes() for file in (*CODE, paths.source_file(type(network).__module__)) if file]
    weights = [tensor.detach().cpu().numpy() for tensor in network.state_dict().values()]
    return str(joblib.hash([repr(given), code, weights, [(part.images, part.labels, part.undecided) for part in data]]))


def _steps(network: nn.Module, data: LabelledImages, course: Course) -> Iterator[tuple[float, float]]:
    """Take the steps of an epoch, each image once in a random order; yield each one's loss and accuracy."""
    models.training_mode(network)
    settings, order = course.settings, course.rng.permutation(len(data))
    for start in range(0, len(data), settings.batch_size):
        chosen = np.sort(order[start : start + settings.batch_size])  # sorted: a memory-mapped file is read forwards
        images = models.as_batch(data.images[chosen], network)
        labels = torch.from_numpy(data.labels[chosen].astype(np.int64)).to(images.device)
        logits, targets, decided = network(images), labels, torch.ones_like(labels, dtype=torch.bool)
        if data.undecided is not None:
            decided = torch.from_numpy(~data.undecided[chosen]).to(images.device)
            targets = functional.one_hot(labels, logits.shape[1]).to(logits)
            targets[~decided] = 1 / logits.shape[1]
        loss = functional.cross_entropy(logits, targets)
        course.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        course.optimizer.step()
        course.schedule.step()
        yield loss.item(), (logits.argmax(1) == labels)[decided].float().mean().item()


def _validate(
    network: nn.Module, data: LabelledImages, dropout_active: bool, seed: int, of_two_classes: bool
) -> dict[str, float]:
    decided = slice(None) if data.undecided is None else ~data.undecided
    logits = torch.from_numpy(predict(network, data.images, dropout_active=dropout_active, seed=seed)[decided])
    labels = torch.from_numpy(data.labels[decided].astype(np.int64))
    validated = {
        "validation_loss": functional.cross_entropy(logits, labels).item(),
        "validation_accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }
    if of_two_classes:
        # of a training that diverges, which ends with its epoch, nothing is noted that is no number
        scores = np.nan_to_num(logits.double().numpy(), posinf=0.0, neginf=0.0)
        table = pd.DataFrame(scores, columns=["logit_0", "logit_1"])
        found = classification_metrics(table.assign(label=labels.numpy(), predicted=scores.argmax(axis=1)))
        validated |= {f"validation_{name}": found[name] for name in ("sensitivity", "specificity", "auroc")}
        validated[RATE] = min(found["sensitivity"], found["specificity"])
    return validated


def is_checkpoint(row: dict[str, float], history: list[dict[str, float]], acc_dif: float | None) -> bool:
    """Return whether the newest epoch counts as the best, by the published rule (see `train`)."""
    best = max((round(past["validation_accuracy"], 4) for past in history if past["checkpoint"]), default=0)
    near = acc_dif is None or abs(row["validation_accuracy"] - row["train_accuracy"]) <= acc_dif
    return not history or (near and round(row["validation_accuracy"], 4) > best)


def has_settled(history: list[dict[str, float]], stop_value: float | None) -> bool:
    """Return whether the training ends by the published rule (see `train`)."""
    if stop_value is None or len(history) < 4:
        return False
    changes = np.abs(np.diff([row["validation_accuracy"] for row in history[-4:]]))
    return max(changes) < stop_value and all(row["validation_accuracy"] < row["train_accuracy"] for row in history[-3:])


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
            outputs = [self.prefix(models.as_batch(batch, self.prefix)) for batch in batches]
        return torch.cat(outputs).permute(0, 2, 3, 1).cpu().numpy()[: len(images)]


def behind_frozen_prefix(
    network: nn.Module, data: list[LabelledImages], budget: float | None
) -> tuple[nn.Module, list[LabelledImages]]:
    """Return the layers that are trained, and the data sets with the activations of the frozen layers in place of images.

    The budget decides only where the activations are: in a nameless file of the system's temporary folder (`TMPDIR`), which
    is kept in memory as far as there is room, or nowhere, computed anew for every batch. The results are the same to the bit.

    Parameters
    ----------
    network : module
        In the mode in which it is trained. It is returned as it is, with the data, if it can't be split, if too few weights
        are frozen, or if there is no budget.
    data : LabelledImages
    budget : float, optional
        GiB.

    Returns
    -------
    network : module
        Shares its layers with the network.
    data : list of LabelledImages
        `images` has the shape (n, height, width, channels).
    """
    layers = models.layers_of(network) or []
    frozen = list(itertools.takewhile(_is_fixed, layers))
    prefix, behind = nn.Sequential(*frozen), nn.Sequential(*layers[len(frozen) :])
    if budget is None or sum(parameter.numel() for parameter in prefix.parameters()) < FEWEST_WEIGHTS:
        return network, data
    given = [Activations(prefix, part.images) for part in data]
    kept = _kept(given, given[0][:1].shape[1:], budget)
    parts = zip(kept, data, strict=True)
    return behind, [LabelledImages(images, part.labels, undecided=part.undecided) for images, part in parts]


def _is_fixed(layer: nn.Module) -> bool:
    """Return whether a layer gives the same for an image throughout the training, whichever images come with it."""
    kinds = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, *(() if layer.training else (nn.BatchNorm2d,)))
    return type(layer) in kinds and not any(parameter.requires_grad for parameter in layer.parameters())


def _kept(given: list[Activations], shape: tuple[int, ...], budget: float) -> list[Any]:
    """Return activations of this shape per image, in a file if the budget and the disk have room for all."""
    needed = 4 * sum(map(len, given)) * math.prod(shape) / GIB
    if needed > min(budget, shutil.disk_usage(tempfile.gettempdir()).free / GIB):
        why = "more than finetuning.cache_gib allows or TMPDIR has: they are computed anew for every batch"
        logging.getLogger(__name__).warning("the activations of the frozen layers take %.1f GiB, %s", needed, why)
        return given  # only indexed by batches, as arrays are
    kept = []
    for each in given:
        with tempfile.TemporaryFile() as file:  # nameless: gone with the array, however all ends
            kept.append(np.memmap(file, np.float32, "w+", shape=(len(each), *shape)))
        for start in tqdm(range(0, len(each), PREFIX_BATCH), desc="frozen layers"):
            kept[-1][start : start + PREFIX_BATCH] = each[start : start + PREFIX_BATCH]
    return kept
