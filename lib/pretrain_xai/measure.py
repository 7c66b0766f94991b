"""Measure on this machine what the parts of a study cost, on a few made-up images: seconds and memory, for `make plan`.

Seconds are processor time per thread, so that other work on the machine does not count.

`python -m pretrain_xai.measure PART STUDY` measures one part in a process of its own, whose largest resident set is what a
job of that part will need.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from pretrain_xai.errors import UserError
from pretrain_xai.study import Study, load_study

#: images of a small part: a pass of more costs hardly less per image
FEW = 16
#: seconds that a few images may take: more images are used where they are fast
ENOUGH = 1.0
#: what a notebook that runs a network imports
IMPORTS = "import matplotlib.pyplot, pandas\nfrom pretrain_xai import explain, report\nstudy"


class MeasurementError(UserError):
    """A part of the study can't be run on this machine."""


def measure(study_name: str) -> dict[str, dict[str, Any]]:
    """Return what each part of PARTS found, with its largest resident set as `memory`, GiB.

    Raises
    ------
    MeasurementError
        A part failed.
    """
    results = {}
    for part in PARTS:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pretrain_xai.measure", part, study_name]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise MeasurementError(f"measuring {part} failed: {' '.join(result.stderr.split())[-300:]}")
        results[part] = json.loads(result.stdout)
    return results


def peak_memory() -> int:
    """Return the largest resident set of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts in `ru_maxrss` what the process that started this one had
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _notebook(study: Study) -> dict[str, Any]:
    """Seconds of a notebook that only imports."""
    cells = [nbformat.v4.new_code_cell('study: str = "demo"', metadata={"tags": ["parameters"]})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(IMPORTS)], metadata=kernel)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "imports.ipynb")
        nbformat.write(notebook, path)
        command = [sys.executable, "-m", "pretrain_xai.run_notebook", str(path), str(path.with_name("run.ipynb"))]
        return {"start": _seconds(lambda: subprocess.run(command, check=True, capture_output=True))}


def _slices(study: Study) -> dict[str, Any]:
    """Seconds of a lesion patch of each class, a simulated subject, and a slice with lesions at the size of the study."""
    from pretrain_xai.lesions import generate_patches
    from pretrain_xai.overlay import overlay_lesions, to_model_resolution
    from pretrain_xai.slices.template import simulate_cohort, simulate_participants

    def simulate(n_subjects: int) -> list[np.ndarray]:
        people = simulate_participants({"train": n_subjects}, np.random.default_rng(0))
        return [part for part, _ in simulate_cohort(people, FEW // 2, (0.0, 30.0), seed=0)]

    slices, most = np.concatenate(simulate(2)), max(study.lesions.patches.values())
    simulated = (_seconds(lambda: simulate(8)) - _seconds(lambda: simulate(2))) / 6  # each reads the template first
    searched = _seconds(lambda: generate_patches(most)) / most
    patches = generate_patches(most)

    def build() -> None:
        for seed, slice_ in enumerate(slices):
            to_model_resolution(overlay_lesions(slice_, patches, seed, study.protocol), study.dataset.image_size)

    return {"patch": searched, "subject": max(simulated, 0.0), "slice": _seconds(build) / len(slices)}


def _training(study: Study) -> dict[str, Any]:
    """Seconds per image of an epoch with its validation, and of what comes before the first one, by depth.

    The deepest one trains on a whole batch, from which its memory is known; so does the whole network, as in pre-training.
    """
    from pretrain_xai.dataset import LabelledImages
    from pretrain_xai.networks.models import N_CLASSES, freeze_below
    from pretrain_xai.networks.training import configure_torch, predict, train

    configure_torch(study.threads)
    network, images, settings = _network(study), _images(study, 256), study.finetuning
    predict(network, images[:2])  # the first pass sets up what later ones use
    prediction = _seconds(lambda: predict(network, images[:FEW]), study.threads) / FEW
    count = int(np.clip(ENOUGH / prediction, FEW, len(images)))

    def seconds(count: int, epochs: int) -> float:
        # validated on as few as the study has for each training image
        few = max(1, count // 4)
        data, validation = (LabelledImages(images[:n], np.arange(n) % N_CLASSES) for n in (count, few))
        changed = settings.training.model_copy(update={"epochs": epochs, "stop_value": None})
        options: dict[str, Any] = {"learning_rate": 1e-6, "seed": 0, "cache_gib": settings.cache_gib}
        return _seconds(lambda: train(network, data, validation, changed, **options), study.threads) / (count + few)

    by_depth = {}
    for depth in settings.depths:
        freeze_below(network, depth)
        used = max(count, settings.training.batch_size) if depth == max(settings.depths) else count
        one, two = seconds(used, 1), seconds(used, 2)
        by_depth[depth] = {"epoch": max(two - one, 0.0), "before": max(2 * one - two, 0.0)}
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return {"by_depth": by_depth, "prediction": prediction, "bytes": size}


def _attribution(study: Study) -> dict[str, Any]:
    """Seconds per image of all methods and scores, and the number of layers that the sanity check makes random."""
    from pretrain_xai.dataset import LesionMasks, Split
    from pretrain_xai.explain import Explainer
    from pretrain_xai.methods.passes import micro_batch_rows
    from pretrain_xai.networks.models import N_CLASSES
    from pretrain_xai.networks.training import configure_torch
    from pretrain_xai.sanity import weight_layers

    configure_torch(study.threads)
    network, side, settings = _network(study), study.dataset.image_size, study.attribution
    count = settings.micro_batch or micro_batch_rows(side, side)
    images, strength = _images(study, count), np.zeros((count, side, side), np.float32)
    strength[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    masks, labels = LesionMasks(strength, study.protocol.mask_threshold), np.arange(count) % N_CLASSES
    split = Split(images, labels, masks, None)
    explainer = Explainer(network, split, settings, study.protocol)
    seconds = _seconds(lambda: explainer.scores(np.arange(count), settings.methods), study.threads)
    return {"image": seconds / count, "layers": len(weight_layers(network))}


PARTS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "notebook": _notebook,
    "slices": _slices,
    "training": _training,
    "attribution": _attribution,
}


def _network(study: Study) -> Any:
    """Return the study's network on the processor: what a graphics card takes is not measured."""
    from pretrain_xai.networks.models import N_CLASSES, build_network, place

    network = build_network(study.network, N_CLASSES, seed=0)
    return place(network, study.model_copy(update={"device": "cpu"}))


def _images(study: Study, count: int) -> np.ndarray:
    """Return noise inside a disc on black, float32 (count, size, size): brains have a black background, too."""
    side = study.dataset.image_size
    place = np.arange(side) - side / 2
    disc = place[:, None] ** 2 + place**2 < (0.4 * side) ** 2
    return np.random.default_rng(0).random((count, side, side), dtype=np.float32) * disc


def _seconds(function: Callable[[], object], threads: int = 1) -> float:
    before = _processor_time()
    function()
    return (_processor_time() - before) / threads


def _processor_time() -> float:
    """Return the seconds that this process and those that it waited for have used."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system  # `os.times` itself counts in ticks


if __name__ == "__main__":
    found = PARTS[sys.argv[1]](load_study(sys.argv[2]))
    print(json.dumps(found | {"memory": peak_memory() / 2**30}))
