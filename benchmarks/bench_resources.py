"""Memory that jobs of VGG-16 at 224 px take, beside what they ask a cluster for: `python benchmarks/bench_resources.py`."""

import subprocess
import sys

import numpy as np
from bench_attribution import memory_of_vgg16
from pretrain_xai.dataset import LabelledImages
from pretrain_xai.networks.models import build_network, freeze_below
from pretrain_xai.networks.training import configure_torch, train
from pretrain_xai.running.peak_memory import peak_memory
from pretrain_xai.running.resources import count_images, needs
from pretrain_xai.settings.sections import Network, Training
from pretrain_xai.study import Study, load_study

SIDE, BATCH = 224, 32


def vgg16() -> Study:
    """Return the demo with the network of the paper."""
    demo = load_study("demo")
    return demo.model_copy(
        update={"network": Network(), "dataset": demo.dataset.model_copy(update={"image_size": SIDE})}
    )


def train_vgg16(depth: int) -> None:
    """Train on one batch and print the process' largest resident set, GiB."""
    configure_torch(1)
    network = build_network(Network(), 2, seed=0)
    freeze_below(network, depth)
    rng = np.random.default_rng(0)
    images = LabelledImages(rng.random((BATCH, SIDE, SIDE), dtype=np.float32), rng.integers(0, 2, BATCH))
    train(network, images, images, Training(epochs=1, batch_size=BATCH), learning_rate=0.001, seed=0)
    print(peak_memory() / 2**30)


def measured(depth: int) -> float:
    """Return the memory, GiB, of a process of its own that trains."""
    command = [sys.executable, __file__, str(depth)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout)


def main() -> None:
    """Print one row per kind of job."""
    study = vgg16()
    images = count_images(study, slices=None)
    print(f"{'VGG-16 at 224 px':<34}{'taken, GiB':>12}{'asked, GiB':>12}{'asked / taken':>15}")
    for name, stage, taken in (
        ("explain by eight methods", "08_explanation_metrics", memory_of_vgg16),
        (f"train at depth 5, batches of {BATCH}", "05_finetune", lambda: measured(5)),
        (f"train at depth 1, batches of {BATCH}", "05_finetune", lambda: measured(1)),
    ):
        asked, gibibytes = needs(study, stage, images).mem_mb * 1e6 / 2**30, taken()
        print(f"{name:<34}{gibibytes:>12.1f}{asked:>12.1f}{asked / gibibytes:>15.1f}", flush=True)


if __name__ == "__main__":
    train_vgg16(int(sys.argv[1])) if len(sys.argv) > 1 else main()
