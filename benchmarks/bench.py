"""Speed, side by side in one run: `make bench`. Ratios are what counts; absolute times depend on the machine."""

import time
import warnings
from collections.abc import Callable

import captum.attr
import numpy as np
import torch
from pretrain_xai.attribution import attribute_all
from pretrain_xai.lesions import generate_patches
from pretrain_xai.micro_batches import input_gradients, micro_batch_rows
from pretrain_xai.models import build_network
from pretrain_xai.overlay import overlay_lesions, to_model_resolution
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.slices import simulate_cohort, simulate_participants
from pretrain_xai.study import load_study
from skimage.transform import resize

STEPS = 50
CAPTUM = {
    "integrated_gradients": lambda model, x, y: captum.attr.IntegratedGradients(model).attribute(
        x, target=y, n_steps=STEPS
    ),
    "gradient_shap": lambda model, x, y: captum.attr.GradientShap(model).attribute(x, torch.zeros_like(x), target=y),
    "deep_lift": lambda model, x, y: captum.attr.DeepLift(model).attribute(x, target=y),
    "saliency": lambda model, x, y: captum.attr.Saliency(model).attribute(x, target=y, abs=False),
    "input_x_gradient": lambda model, x, y: captum.attr.InputXGradient(model).attribute(x, target=y),
    "guided_backprop": lambda model, x, y: captum.attr.GuidedBackprop(model).attribute(x, target=y),
    "deconvolution": lambda model, x, y: captum.attr.Deconvolution(model).attribute(x, target=y),
    "lrp": lambda model, x, y: captum.attr.LRP(model).attribute(x, target=y),
}
#: forward and backward passes that the eight methods need: IG's steps, 5 SHAP samples, and one each for DeepLift, the
#: gradient that Saliency and InputXGradient share, Guided Backprop, Deconvolution and LRP
PASSES = STEPS + 5 + 5


def seconds(function: Callable[[], object]) -> float:
    """Return the faster of two runs."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def bench_attribution() -> None:
    """Print the eight methods for the demo network: Captum one image at a time, ours, and the bound."""
    settings = load_study("demo")
    network = build_network(settings.network, n_classes=2, seed=0)
    images = torch.rand(48, 3, settings.dataset.image_size, settings.dataset.image_size)
    targets = torch.arange(48) % 2

    def loop(n_images: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i in range(n_images):
                for explain in CAPTUM.values():
                    explain(network, images[i : i + 1].clone().requires_grad_(), targets[i : i + 1])

    options = {"integrated_gradients": {"n_steps": STEPS}}
    plain = seconds(lambda: loop(8)) / 8
    ours = seconds(lambda: attribute_all(network, images, targets, list(CAPTUM), options=options)) / 48
    passes = {}
    network.requires_grad_(False)
    for rows in (micro_batch_rows(*images.shape[2:]), 32, 48):
        batch = images[:rows].contiguous(memory_format=torch.channels_last)
        passes[rows] = (
            seconds(lambda b=batch, t=targets[:rows]: [input_gradients(network, b, t) for _ in range(10)]) / 10 / rows
        )
    bound = PASSES * min(passes.values())
    print(f"attribution, demo network, 8 methods, {STEPS} IG steps, {torch.get_num_threads()} threads, ms per image:")
    print(f"  Captum, image by image {1e3 * plain:8.1f}")
    print(
        f"  ours                   {1e3 * ours:8.1f}   {plain / ours:.1f} times as fast, {ours / bound:.2f} times the bound"
    )
    print(f"  bound, {PASSES} passes       {1e3 * bound:8.1f}")


def bench_dataset() -> None:
    """Print overlay and resize of one slice: skimage's resize of three channels, as the released code does, and ours."""
    patches = generate_patches(10)
    people = simulate_participants({"train": 2}, np.random.default_rng(0))
    slices = np.concatenate([part for part, _ in simulate_cohort(people, 8, (0.0, 30.0), seed=0)])
    overlays = [overlay_lesions(slice_, patches, seed, CORRECTED) for seed, slice_ in enumerate(slices)]
    laid = seconds(lambda: [overlay_lesions(slice_, patches, seed, CORRECTED) for seed, slice_ in enumerate(slices)])
    plain = seconds(
        lambda: [
            (resize(np.repeat(o.image[..., None], 3, axis=2), (224, 224)), resize(o.ground_truth, (224, 224)))
            for o in overlays
        ]
    )
    ours = seconds(lambda: [to_model_resolution(o, 224) for o in overlays])
    n = len(slices)
    print(f"dataset, {slices.shape[1]} x {slices.shape[2]} to 224 px, ms per slice:")
    print(f"  overlay                {1e3 * laid / n:8.2f}")
    print(f"  resize, as released    {1e3 * plain / n:8.2f}")
    print(
        f"  resize, ours           {1e3 * ours / n:8.2f}   {plain / ours:.1f} times as fast (image, lesions, lesion-free slice)"
    )


if __name__ == "__main__":
    bench_attribution()
    bench_dataset()
