"""Scores side by side: one call per map and score, ours, Earth Mover's Distance, and memory of streams of images.

Run `python benchmarks/bench_scores.py`; it takes four minutes, and 4 GB for one distance at 224 px.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.localization import SCORES, earth_mover_distance, earth_mover_top_k, score_masked
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.setting_scores import CHUNK, score_comparison_maps
from pretrain_xai.settings.sections import Attribution
from sklearn.metrics import average_precision_score, roc_auc_score

SIDE = 224
#: all that take milliseconds; of two names for one number only one, or sharing would look better than it is
FAST = [name for name, score in SCORES.items() if not score.is_slow and name != "importance_mass_accuracy"]


class Drawn:
    """Maps or masks as many as asked for, drawn when they are sliced; masks are seven disks, 3.5 % of the image."""

    def __init__(self, n_images: int, side: int = SIDE, *, masks: bool = False) -> None:
        self.n_images, self.side, self.masks, self.shape = n_images, side, masks, (n_images, side, side)

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(self.n_images)[index]
        rng = np.random.default_rng(rows[0])
        shape = (len(rows), self.side, self.side)
        if not self.masks:
            # no two pixels tie, since a plain sort breaks ties by position
            even = np.linspace(0, 1, self.side**2, dtype=np.float32) ** 2
            return rng.permuted(np.tile(even, (len(rows), 1)), axis=1).reshape(shape)
        y, x, inside = *np.indices(shape[1:]), np.zeros(shape, dtype=bool)
        for _ in range(7):
            center = rng.uniform(0.2, 0.8, (2, len(rows), 1, 1)) * self.side
            inside |= np.hypot(y - center[0], x - center[1]) < 0.04 * self.side
        return inside


def strongest(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return which of the k strongest pixels are hits, by one sort."""
    return inside[np.argsort(-values)[: inside.sum()]]


def gini(values: np.ndarray) -> float:
    """Return the Gini index by one sort."""
    n = len(values)
    return (2 * np.arange(1, n + 1) - n - 1) @ np.sort(values.astype(np.float64)) / (n * values.sum(dtype=np.float64))


ONE_CALL: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "relevance_rank_accuracy": lambda values, inside: strongest(values, inside).mean(),
    "true_negative_rate": lambda values, inside: 1 - (~strongest(values, inside)).sum() / (~inside).sum(),
    "relevance_mass_accuracy": lambda values, inside: (
        values[inside].sum(dtype=np.float64) / values.sum(dtype=np.float64)
    ),
    "pointing_game": lambda values, inside: inside[np.argmax(values)],
    "pixel_auroc": lambda values, inside: roc_auc_score(inside, values),
    "average_precision": lambda values, inside: average_precision_score(inside, values),
    "top_k_intersection_area": lambda values, inside: (
        np.cumsum(strongest(values, inside)) / np.arange(1, inside.sum() + 1)
    ).mean(),
    "sparseness": lambda values, _: gini(values),
}


def bench_scores(n_images: int = 3000) -> None:
    """Print the seconds of all fast scores for `n_images` maps, one call per map and score against ours, and the ratio."""
    one_call, ours = dict.fromkeys(FAST, 0.0), 0.0
    for start in range(0, n_images, CHUNK):
        rows = slice(start, start + CHUNK)
        maps, masks = Drawn(n_images)[rows], Drawn(n_images, masks=True)[rows]
        started = time.perf_counter()
        found = score_masked(MaskedMaps(maps, masks), FAST)
        ours += time.perf_counter() - started
        for name in FAST:
            started = time.perf_counter()
            expected = [ONE_CALL[name](values.ravel(), mask.ravel()) for values, mask in zip(maps, masks, strict=True)]
            one_call[name] += time.perf_counter() - started
            np.testing.assert_allclose(found[name][0], expected, atol=1e-6, err_msg=name)
    total = sum(one_call.values())
    print(f"{len(FAST)} scores of {n_images} maps of {SIDE} x {SIDE} pixels, the same to 1e-6")
    for name, seconds in one_call.items():
        print(f"  one call a map  {name:<26} {seconds:7.2f} s")
    print(f"  one call a map  {'all':<26} {total:7.2f} s")
    print(f"  ours            {'all':<26} {ours:7.2f} s   {total / ours:.1f} times as fast", flush=True)


def bench_earth_mover(side: int, n_maps: int) -> None:
    """Print the seconds a map of both distances."""
    maps, masks = Drawn(n_maps, side)[:], Drawn(n_maps, side, masks=True)[:]
    for distance in (earth_mover_top_k, earth_mover_distance):
        distance(maps[:1, :8, :8], np.ones((1, 8, 8), dtype=bool))  # imports POT
        started = time.perf_counter()
        distance(maps, masks)
        seconds = (time.perf_counter() - started) / n_maps
        k = masks.sum() / n_maps
        print(f"  {distance.__name__:<22} {side} px, masks of {k:.0f} px: {seconds:8.2f} s a map", flush=True)


def score_stream(n_images: int) -> None:
    """Score the comparison maps of `n_images` images by all fast scores, as a study does."""
    images = Drawn(n_images)
    split = Split(
        images,
        np.zeros(n_images, dtype=int),
        LesionMasks(np.broadcast_to(Drawn(1, masks=True)[:], images.shape), 0.5),
        None,
    )
    settings = Attribution(methods=["saliency"], scores=FAST)
    table, _ = score_comparison_maps(split, np.arange(n_images), settings, CORRECTED)
    assert table["image_index"].nunique() == n_images


def memory_of(call: str) -> float:
    """Return the peak memory, in MB, of a process of its own that runs a call of this file."""
    code = f"import bench_scores; from pretrain_xai.plan import peak_memory; bench_scores.{call}; "
    code += "print('peak', peak_memory())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True)
    shown, _, peak = done.stdout.rpartition("peak ")
    print(shown, end="", flush=True)
    return int(peak) / 2**20


def main() -> None:
    """Print all."""
    bench_scores()
    print("Earth Mover's Distance, exact, by POT")
    for side, n_maps in ((96, 5), (224, 1)):
        peak = memory_of(f"bench_earth_mover({side}, {n_maps})")
        print(f"  peak memory at {side} px: {peak:.0f} MB")
    few, many = (memory_of(f"score_stream({n_images})") for n_images in (1000, 10_000))
    print(
        f"peak memory of scoring 1,000 images {few:.0f} MB, 10,000 images {many:.0f} MB: {many / few:.2f} times as much"
    )


if __name__ == "__main__":
    main()
