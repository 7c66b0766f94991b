"""What a job asks of a cluster: memory, time and GPU, computed from the study before anything runs.

A scheduler kills a job that takes more than it asked for, so these are generous upper bounds, not predictions. A job that
fails is tried once more with twice the memory and the time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pretrain_xai.settings.sections import Network
from pretrain_xai.study import Study

#: convolutions of each block of torchvision's VGG networks, and the channels that they give
CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
#: outputs of the first two linear layers, and side of what reaches them
HIDDEN, POOLED_SIDE = 4096, 7

#: images of a split that is not known before the files are read: more than the paper's 8,539
ASSUMED_IMAGES = 10_000
#: passes of one image, forward and backward, by method: the option that says how many, and its default; else 2
PASSES = {"integrated_gradients": ("n_steps", 50), "gradient_shap": ("n_samples", 5), "smooth_grad": ("n_samples", 25)}
#: side and distance of the squares of `occlusion`, pixels, where the study does not say
WINDOW, STRIDE = 16, 8
#: layers of the sanity check whose weights become random, one after another
CHECKED_LAYERS, CHECKED_IMAGES = 16, 16

MB = 1e6
#: of Python with torch, papermill and a job's three snakemakes, bytes: Slurm counts what they share for each (2.4e9 seen)
BASE = 3_000 * MB
#: floats that are alive per activation of one pass (torch's own buffers included), when training and when explaining
ALIVE_IN_TRAINING, ALIVE_IN_EXPLANATION = 1, 6
#: copies of the weights that are alive: the network, gradients, two of the optimiser, the best checkpoint
WEIGHT_COPIES = 5
#: images predicted at once (`training.PREDICTION_BATCH`), and most pixels of a pass that explains (`micro_batches`)
PREDICTED, EXPLAINED_PIXELS, MOST_ROWS = 64, 32 * 96 * 96, 32
#: images whose maps and masks are in memory at once (`explanation.CHUNK`)
CHUNK = 64
#: bytes of one row of all score tables together while they are read and summed up
ROW_BYTES = 250
#: rows per image and method beside its scores: the confusion counts, k, all_zero, completeness
COUNTED = 7

#: multiply-adds a second of one thread and of a card: a fifth of what explaining took in the demo, and of what the paper's
#: cost (0.645 s per image on a GTX 1080 Ti) implies
CPU_SPEED, GPU_SPEED = 8e9, 8e11
#: of every job, minutes
START = 10


@dataclass(frozen=True)
class Needs:
    """What one job asks for: memory (MB), time (minutes) and graphics cards."""

    mem_mb: int
    runtime: int
    gpu: int = 0


@dataclass(frozen=True)
class NetworkSize:
    """Counts of a network: its weights, and for one image the activations, those of the largest layer, and multiply-adds."""

    weights: int
    activations: int
    largest: int
    multiply_adds: int


def network_size(network: Network, image_size: int) -> NetworkSize:
    """Return the size of a network for square images; a network of your own counts as a VGG-16.

    Activations are the outputs of all convolutions, batch normalisations, rectifiers and pools, linear layers left out.
    """
    per_convolution = 3 if network.architecture.endswith("_bn") else 2
    weights = activations = largest = multiply_adds = 0
    previous, side = 3, image_size
    for n_convolutions, full_width in zip(CONVOLUTIONS[network.architecture[:5]], CHANNELS, strict=True):
        channels = max(1, round(full_width * network.width))
        for _ in range(n_convolutions):
            weights += channels * (9 * previous + 1)
            multiply_adds += side**2 * channels * 9 * previous
            activations += per_convolution * side**2 * channels
            largest = max(largest, side**2 * channels)
            previous = channels
        side //= 2
        activations += side**2 * channels
    hidden = max(1, round(HIDDEN * network.width))
    linear = POOLED_SIDE**2 * previous * hidden + hidden**2 + 2 * hidden
    return NetworkSize(weights + linear + 2 * hidden + 2, activations, largest, multiply_adds + linear)


def count_images(study: Study, slices: Path | None) -> Mapping[str, int]:
    """Return the images of each split; `slices` is the table of slices, read if it is there.

    For brains that come from files, ASSUMED_IMAGES before they are read, or if the table is damaged: the batch makes it
    again.
    """
    splits = [*study.dataset.seed_bases, "pretraining", "pretraining_validation"]
    if study.slices.source == "template":
        counts = {split: count * study.slices.slices_per_subject for split, count in study.slices.subjects.items()}
    else:
        found = _rows_by_split(slices)
        counts = {split: ASSUMED_IMAGES if found is None else found.get(split, 0) for split in splits}
    return study.images_of(counts)


def _rows_by_split(slices: Path | None) -> dict[str, int] | None:
    if slices is None or not slices.is_file():
        return None
    try:
        found = pd.read_csv(slices, usecols=["split"])["split"].value_counts()
    except (OSError, ValueError):
        return None
    return {str(split): int(count) for split, count in found.items()}


def needs(study: Study, stage: str, images: Mapping[str, int]) -> Needs:
    """Return what one job of a notebook (a key of `stages.STAGES`) asks for; `images` are those of `count_images`."""
    uses_network = stage in NETWORK_STAGES
    memory, multiply_adds = (
        NETWORK_STAGES[stage](study, images) if uses_network else (_table_memory(study, images, stage), 0)
    )
    gpu = uses_network and study.device == "cuda"  # auto takes what there is and asks for none
    speed = GPU_SPEED if gpu else CPU_SPEED * study.threads
    return Needs(mem_mb=round((BASE + memory) / MB), runtime=START + round(multiply_adds / speed / 60), gpu=int(gpu))


def passes_per_image(study: Study) -> int:
    """Return the passes through the network that explain one image by all methods of the study."""
    return sum(_passes(study, method) for method in study.attribution.methods)


def _passes(study: Study, method: str) -> int:
    options = study.attribution.options.get(method, {})
    if method == "occlusion":
        stride = options.get("stride", STRIDE)
        return (-(-(study.dataset.image_size - options.get("window", WINDOW)) // stride) + 1) ** 2
    option, default = PASSES.get(method, ("", 2))
    return options.get(option, default)


def explained_images(study: Study, images: Mapping[str, int]) -> int:
    """Return how many test images of one model are explained at most: those right for all models and its own mistakes."""
    most = study.attribution.max_images
    return images["test"] if most is None else min(images["test"], most * (1 + study.attribution.misclassified))


def _train(study: Study, corpus_images: int, epochs: int, batch: int, seen_per_epoch: int) -> tuple[float, float]:
    size = _size(study)
    alive = max(ALIVE_IN_TRAINING * batch * size.activations, 4 * PREDICTED * size.largest)
    memory = 4 * (alive + WEIGHT_COPIES * size.weights) + 4 * corpus_images * study.dataset.image_size**2
    return memory, 3 * epochs * seen_per_epoch * size.multiply_adds


def _pretrain(study: Study, images: Mapping[str, int]) -> tuple[float, float]:
    from pretrain_xai.networks.corpora import PHOTOGRAPHS

    training = study.pretraining.training
    photographs = len(PHOTOGRAPHS) * study.pretraining.crops_per_photograph * 5 // 4  # with those for validation
    # colour photographs are kept whole, brain slices are read as they are needed
    seen = max(photographs, images.get("pretraining", 0)) + images.get("pretraining_validation", 0)
    return _train(study, 3 * photographs, training.epochs, training.batch_size, seen) if training else (0, 0)


def _finetune(study: Study, images: Mapping[str, int]) -> tuple[float, float]:
    training = study.finetuning.training
    memory, operations = _train(
        study, 0, training.epochs, training.batch_size, images["train"] + images.get("validation", 0)
    )
    cache = getattr(study.finetuning, "cache", None)  # of what the frozen layers give
    n_floats = (images["train"] + images.get("validation", 0)) * _size(study).largest
    kept = min(cache.memory_gib * 2**30, 4 * n_floats) if cache else 0
    return memory + kept, operations + images["test"] * _size(study).multiply_adds


def _explain(study: Study, images: Mapping[str, int], passes: int = 1) -> tuple[float, float]:
    size, pixels = _size(study), study.dataset.image_size**2
    rows = study.attribution.micro_batch or min(MOST_ROWS, max(1, EXPLAINED_PIXELS // pixels))
    alive = max(ALIVE_IN_EXPLANATION * rows * size.activations, 4 * PREDICTED * size.largest)
    maps = CHUNK * pixels * 3 * (len(study.attribution.methods) + 2)
    multiply_adds = 3 * passes * passes_per_image(study) * explained_images(study, images) * size.multiply_adds
    return 4 * (alive + 2 * size.weights + maps), multiply_adds


def _check_sanity(study: Study, images: Mapping[str, int]) -> tuple[float, float]:
    memory, multiply_adds = _explain(study, images)
    share = CHECKED_LAYERS * CHECKED_IMAGES / max(1, explained_images(study, images))
    return memory, share * multiply_adds


def _table_memory(study: Study, images: Mapping[str, int], stage: str) -> float:
    """Return the bytes of a job without a network: those that read all scores grow with the study."""
    if stage not in READ_SCORES:
        return 0
    n_models = sum(1 for _ in study.runs()) + sum(1 for _ in study.untrained_runs())
    per_image = len(study.attribution.methods) * (len(study.attribution.scores) + COUNTED)
    return n_models * explained_images(study, images) * per_image * ROW_BYTES


def _size(study: Study) -> NetworkSize:
    return network_size(study.network, study.dataset.image_size)


READ_SCORES = (
    "10_boxplots",
    "11_boxplots_incorrect",
    "12_compare_protocols",
    "13_statistics",
    "13b_equal_accuracy",
    "13c_sensitivity",
    "report",
)
NETWORK_STAGES: Mapping[str, Callable[[Study, Mapping[str, int]], tuple[float, float]]] = {
    "04_pretrain": _pretrain,
    "05_finetune": _finetune,
    "05b_match_accuracy": _explain,  # it predicts, which is less
    "08_explanation_metrics": _explain,
    "11b_score_switches": lambda study, images: _explain(study, images, passes=3),
    "15_sanity_checks": _check_sanity,
}
