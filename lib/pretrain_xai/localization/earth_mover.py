"""Earth Mover's Distance between maps and masks: exact, by the linear program of POT, and slow.

Two variants: the mass of the whole map against the mask's even mass at Euclidean cost, as in XAI-TRIS (Clark et al.
2024), and the k strongest pixels against the mask's pixels at squared Euclidean cost, as the study's released code meant
to (its call never ran). `benchmarks/bench_scores.py` measured, on one slow core and with dense maps, 0.6 s a map for the
former at 96 x 96 pixels, and 37 s and 4 GB at 224 x 224; the latter takes 0.01 and 0.3 s.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pretrain_xai.arrays import Floats, PerImage
from pretrain_xai.localization.masked_maps import MaskedMaps, masked_maps

Mass = Floats
Metric = Literal["euclidean", "sqeuclidean"]
#: POT stops after so many pivots; a map of 224 x 224 pixels takes some millions, its default of 100,000 is too few
_MOST_PIVOTS = 10**9


def earth_mover_distance(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None = None) -> PerImage:
    """Return how far the map's mass must move to lie evenly in the mask: mean Euclidean distance, in pixels.

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite, >= 0; or MaskedMaps
        Normalised to a mass of 1; an all-zero map counts as evenly spread.
    masks : bool array of shape (n_images, height, width)

    Returns
    -------
    float64 array of shape (n_images,), range [0, the image's diagonal]
        Lower is better.

    Raises
    ------
    ValueError
        If a map has negative values, naming the images, or POT finds no optimum.
    """
    given = masked_maps(maps, masks)
    mass = given.mass()
    return _each_map(given, lambda row: _moved(_share(mass[row]), _share(given.inside[row]), given.shape))


def earth_mover_score(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None = None) -> PerImage:
    """Return 1 - d / d_max of the Euclidean `earth_mover_distance` d (XAI-TRIS); range [0, 1], higher is better.

    d_max is the greatest distance of two pixels, sqrt((height - 1)^2 + (width - 1)^2), as XAI-TRIS describe it; their
    released code divides by sqrt(height^2 + width^2), the diagonal between the outer corners.
    """
    given = masked_maps(maps, masks)
    height, width = given.shape
    return 1 - earth_mover_distance(given) / max(np.hypot(height - 1, width - 1), 1)


def earth_mover_top_k(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None = None) -> PerImage:
    """Return the distance between the map's k strongest pixels and the mask's k: mean squared distance, in pixels^2.

    Pixels that tie for the last places share them evenly, as in every score. Lower is better; 0 where the mask is found
    whole.
    """
    given = masked_maps(maps, masks)
    return _each_map(given, lambda row: _squared(_top_k(given, row), _share(given.inside[row]), given.shape))


def _each_map(given: MaskedMaps, distance: Callable[[int], float]) -> PerImage:
    rows = tqdm(range(len(given)), desc="earth mover", unit="map", leave=False)
    return np.array([distance(row) for row in rows], dtype=np.float64)


def _top_k(given: MaskedMaps, row: int) -> Mass:
    """Return each pixel's share of the k places of a map, (n_pixels,)."""
    values, k = given.values[row], int(given.k[row])
    weakest = given.sorted_values[row, -k]
    above, tied = values > weakest, values == weakest
    return (above + tied * ((k - above.sum()) / tied.sum())) / k


def _share(mass: np.ndarray) -> Mass:
    mass = mass.astype(np.float64)
    return mass / mass.sum()


def _moved(sources: Mass, targets: Mass, shape: tuple[int, int]) -> float:
    """Solve for a cost that is a metric: mass that both have at a pixel can stay there, and the rest is smaller."""
    common = np.minimum(sources, targets)
    return _transport(sources - common, targets - common, shape, "euclidean")


def _squared(sources: Mass, targets: Mass, shape: tuple[int, int]) -> float:
    """Solve for squared distances, for which two short moves may be cheaper than a long one and none that stays."""
    return _transport(sources, targets, shape, "sqeuclidean")


def _transport(sources: Mass, targets: Mass, shape: tuple[int, int], metric: Metric) -> float:
    """Return the least cost of moving `sources` to `targets`, (n_pixels,) each and of equal sum; empty pixels drop out.

    Raises
    ------
    ValueError
        If POT finds no optimum.
    """
    # POT imports torch, for which a notebook that only draws need not wait
    from ot import emd2
    from scipy.spatial.distance import cdist

    start, end = np.flatnonzero(sources), np.flatnonzero(targets)
    amount = sources[start].sum()
    if not len(start) or not len(end):
        return 0.0
    places, goals = (np.stack(np.unravel_index(pixels, shape), axis=1) for pixels in (start, end))
    cost = cdist(places, goals, metric)
    share, wanted = sources[start] / amount, targets[end] / targets[end].sum()
    found, log = emd2(share, wanted, cost, numItermax=_MOST_PIVOTS, log=True, return_matrix=False)
    if log["warning"] is not None:
        raise ValueError(f"POT found no optimal transport: {log['warning']}")
    return float(found * amount)
