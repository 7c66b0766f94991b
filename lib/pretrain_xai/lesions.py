"""Make lesion patches, round and irregular, of equal area and nearly equal mass, from thresholded smooth noise."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage, optimize
from skimage import filters, measure, transform
from tqdm.auto import tqdm

from pretrain_xai.errors import UserError
from pretrain_xai.study import CLASSES
from pretrain_xai.tables import read_arrays, write_arrays

Patches = dict[str, list["LesionPatch"]]

NOISE_SHAPE = (256, 256)
NOISE_SIGMA = 2  # px
AREA = 70  # px, of a component before it is blurred and enlarged
ROUND_ABOVE, IRREGULAR_BELOW = 0.8, 0.4  # compactness
MARGIN = 2  # px around a component, for the blur
EDGE_SIGMA = 0.75  # px
#: blurred values below this become 0: irregular shapes have more edge, so they may keep more of it
FADE_BELOW = {"round": 0.20, "irregular": 0.15}
#: the mass of a blurred component, so that the sum over a lesion does not tell its class
MASS = AREA - AREA * 0.05 * 0.75
MASS_TOLERANCE = 1.0
ENLARGEMENT = 2


class LesionError(UserError):
    """Lesion patches that cannot be used, or a file that does not hold any."""


@dataclass(frozen=True, eq=False)
class LesionPatch:
    """One lesion.

    Attributes
    ----------
    weights : float array of shape (h, w), range [0, 1]
        How strongly each pixel is lightened; 0 outside the lesion.
    compactness : float
        4 pi area / perimeter^2 of the binary shape, rounded to 3 digits; near 1 for a disc.
    """

    weights: np.ndarray
    compactness: float

    def __post_init__(self) -> None:
        w = self.weights
        if w.ndim != 2 or not w.size or not 0 <= w.min() < w.max() < np.inf:
            raise LesionError(f"a lesion patch must be 2-D, finite, >= 0 and not constant; found {w.shape} {w}")


def generate_patches(n_per_class: int, *, progress: bool = False) -> Patches:
    """Generate the first `n_per_class` round and irregular lesion patches of the published recipe.

    Uniform noise (one legacy numpy seed 0, 1, 2, ... per field) is smoothed, thresholded (Otsu) and eroded; the
    4-connected components of 70 px become patches if they are clearly round or clearly not. There is no choice of a
    seed: a longer list begins with the shorter one.

    Parameters
    ----------
    n_per_class : int
        Patches per class. About 15 fields of noise are searched per round patch.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict
        Keys `round` and `irregular`, each with a list of `n_per_class` patches.

    References
    ----------
    Oliveira et al. (2024), "Lesion generation"; `generate_patches(30)` equals the pickles of their release.
    """
    patches: Patches = {name: [] for name in CLASSES}
    candidates = _candidates()
    with tqdm(total=len(CLASSES) * n_per_class, unit="patch", disable=not progress) as bar:
        while min(map(len, patches.values())) < n_per_class:
            name, patch = next(candidates)
            if len(patches[name]) < n_per_class:
                patches[name].append(patch)
                bar.update()
    return patches


def match_patches(patches: Mapping[str, list[LesionPatch]], n_per_class: int) -> Patches:
    """Choose round and irregular patches in pairs of nearly equal area, all scaled to the mass of the lightest.

    The area is the number of pixels of at least half the patch's own maximum, those that a mask shows. The pairs with the
    smallest differences are taken, in the order of their round patches, so that no split gets the better ones.

    Parameters
    ----------
    patches : mapping from class to list of LesionPatch
        Equally many of both classes, more than `n_per_class`.
    n_per_class : int

    Raises
    ------
    LesionError
        If there are too few.
    """
    fewest = min(map(len, patches.values()))
    if fewest < n_per_class:
        raise LesionError(f"{n_per_class} patches of a class can't be chosen among {fewest}: raise lesions.candidates")
    areas = [np.array([np.count_nonzero(p.weights >= p.weights.max() / 2) for p in patches[name]]) for name in CLASSES]
    gaps = np.abs(np.subtract.outer(*areas))
    pairs = np.stack(optimize.linear_sum_assignment(gaps), axis=1)
    pairs = pairs[np.sort(np.argsort(gaps[tuple(pairs.T)], kind="stable")[:n_per_class])]
    chosen = {name: [patches[name][place] for place in pairs[:, column]] for column, name in enumerate(CLASSES)}
    lightest = min(patch.weights.sum() for pool in chosen.values() for patch in pool)
    return {
        name: [replace(p, weights=p.weights * (lightest / p.weights.sum())) for p in pool]
        for name, pool in chosen.items()
    }


def split_patches(patches: Mapping[str, list[LesionPatch]], shares: Mapping[str, int]) -> dict[str, Patches]:
    """Deal patches out to disjoint pools: the first `n` of each class to the first split, the next to the second, ...

    Parameters
    ----------
    patches : mapping from class to list of LesionPatch
    shares : mapping from split to int
        Patches per class for each split.

    Raises
    ------
    LesionError
        If a class has too few patches.
    """
    fewest, needed = min(map(len, patches.values())), sum(shares.values())
    if fewest < needed:
        raise LesionError(f"{fewest} patches of a class are too few for {dict(shares)}: generate {needed}")
    pools, start = {}, 0
    for split, share in shares.items():
        pools[split] = {name: pool[start : start + share] for name, pool in patches.items()}
        start += share
    return pools


def save_patches(path: Path, patches: Mapping[str, list[LesionPatch]]) -> None:
    """Write patches to one .npz file, whole or not at all; equal patches give equal bytes."""
    arrays = {}
    for name, pool in patches.items():
        arrays[f"{name}_shapes"] = np.array([patch.weights.shape for patch in pool], dtype=np.int64)
        arrays[f"{name}_weights"] = np.concatenate([patch.weights.ravel() for patch in pool])
        arrays[f"{name}_compactness"] = np.array([patch.compactness for patch in pool], dtype=np.float64)
    write_arrays(path, **arrays)


def load_patches(path: Path) -> Patches:
    """Read patches that `save_patches` wrote.

    Raises
    ------
    TableError
        The file is missing, cut off or damaged.
    LesionError
        It holds something other than lesion patches.
    """
    arrays, patches = read_arrays(path), {}
    try:
        for name in CLASSES:
            shapes, weights, compactness = (arrays[f"{name}_{part}"] for part in ("shapes", "weights", "compactness"))
            parts = np.split(weights, np.cumsum(shapes.prod(axis=1))[:-1])
            shaped = zip(parts, shapes, compactness.tolist(), strict=True)
            patches[name] = [LesionPatch(part.reshape(shape), value) for part, shape, value in shaped]
    except (KeyError, ValueError) as error:
        raise LesionError(f"{path} is not a file of lesion patches ({error}); run 01_make_lesions again") from None
    return patches


def _candidates() -> Iterator[tuple[str, LesionPatch]]:
    """Yield (class, patch) for ever, in the order of the seeds."""
    for seed in itertools.count():
        # the released recipe is defined by numpy's legacy generator; the global one is left alone
        noise = np.random.RandomState(seed).uniform(size=NOISE_SHAPE)
        for component in _components(noise):
            compactness = 4 * np.pi * AREA / measure.perimeter_crofton(component) ** 2
            if IRREGULAR_BELOW <= compactness <= ROUND_ABOVE:
                continue
            name = "round" if compactness > ROUND_ABOVE else "irregular"
            weights = _soften(component, FADE_BELOW[name])
            if weights is not None:
                yield name, LesionPatch(weights, round(float(compactness), 3))


def _components(noise: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the 4-connected components of 70 px as cropped masks, stage by stage, in row-major order."""
    smooth = ndimage.gaussian_filter(noise, NOISE_SIGMA)
    # an erosion, then an opening, which begins with another erosion: two in one call are faster
    eroded_twice = ndimage.binary_erosion(smooth > filters.threshold_otsu(smooth), iterations=2)
    opened = ndimage.binary_dilation(eroded_twice)
    for stage in (opened, ndimage.binary_erosion(opened)):
        labels, _ = ndimage.label(stage)
        for label in np.flatnonzero(np.bincount(labels.ravel()) == AREA):
            (box,) = ndimage.find_objects((labels == label).view(np.uint8))
            yield labels[box] == label


def _soften(component: np.ndarray, fade_below: float) -> np.ndarray | None:
    """Blur the edge and enlarge; None if the blurred mass is off."""
    blurred = ndimage.gaussian_filter(np.pad(component.astype(float), MARGIN), EDGE_SIGMA)
    blurred[blurred < fade_below] = 0
    if abs(round(float(blurred.sum()), 2) - MASS) > MASS_TOLERANCE:
        return None
    height, width = blurred.shape
    return transform.resize(blurred, (ENLARGEMENT * height, ENLARGEMENT * width))
