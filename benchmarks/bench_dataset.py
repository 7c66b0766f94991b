"""Dataset: overlay and resize of a slice, as the released code does it and ours, side by side in one run."""

import time
from collections.abc import Callable

import numpy as np
from pretrain_xai.lesions import generate_patches
from pretrain_xai.overlay import overlay_lesions, to_model_resolution
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.slices import simulate_cohort, simulate_participants
from skimage.transform import resize


def seconds(function: Callable[[], object]) -> float:
    """Return the faster of two runs."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
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
    print(f"  resize, ours           {1e3 * ours / n:8.2f}   {plain / ours:.1f} times as fast (with lesion-free slice)")


if __name__ == "__main__":
    main()
