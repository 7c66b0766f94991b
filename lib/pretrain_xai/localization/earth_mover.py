"""Earth Mover's Distance between maps and masks: exact, by the linear program of POT, and slow.

Two variants: the mass of the whole map against the mask's even mass at Euclidean cost, as in XAI-TRIS (Clark et al.
2024), and the k strongest pixels against the mask's pixels at squared Euclidean cost, as the study's released code meant
to (its call never ran). `benchmarks/bench_scores.py` measured, on one slow core and with dense maps, 0.6 s a map for the
former at 96 x 96 pixels, and 37 s and 4 GB at 224 x 224; the latter takes 0.01 and 0.3 s.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pretrain_xai.arrays import Floats, PerImage
from pretrain_xai.localization.masked_maps import MaskedMaps, masked_maps

Metric = Literal["euclidean", "sqeuclidean"]
#: POT stops after so many pivots; a map of 224 x 224 pixels takes some millions, its default of 100,000 is too few
_MOST_PIVOTS = 10**9


def earth_mover_distance(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None = None) -> PerImage:
    """Return how far the map's mass must move to lie evenly in the mask: mean Euclidean distance, in pixels.

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite; or MaskedMaps
        Its absolute values are normalised to a mass of 1; an all-zero map counts as evenly spread.
    masks : bool array of shape (n_images, height, width)

    Returns
    -------
    float64 array of shape (n_images,), range [0, the image's diagonal]
        Lower is better.

    Raises
    ------
    ValueError
        If POT finds no optimum.
    """
    given = masked_maps(maps, masks)
    # the cost is a metric: mass that both have at a pixel can stay there, and the rest is smaller
    pairs = zip(map(_share, given.mass()), map(_share, given.inside), strict=True)
    moved = ((mass - np.minimum(mass, even), even - np.minimum(mass, even)) for mass, even in pairs)
    return _transports(given, moved, "euclidean")


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

    Pixels that tie for the last places share them evenly, as in every score. Two short moves may be cheaper than a long
    one and none, so that nothing is known to stay. Lower is better; 0 where the mask is found whole.
    """
    given = masked_maps(maps, masks)
    return _transports(given, zip(_top_k(given), map(_share, given.inside), strict=True), "sqeuclidean")


def _top_k(given: MaskedMaps) -> Iterator[Floats]:
    """Yield each pixel's share of the k places of a map, (n_pixels,)."""
    for values, ascending, k in zip(given.values, given.sorted_values, given.k.astype(int), strict=True):
        above, tied = values > ascending[-k], values == ascending[-k]
        yield (above + tied * ((k - above.sum()) / tied.sum())) / k


def _share(mass: np.ndarray) -> Floats:
    mass = mass.astype(np.float64)
    return mass / mass.sum()


def _transports(given: MaskedMaps, pairs: Iterable[tuple[Floats, Floats]], metric: Metric) -> PerImage:
    """Return the least cost of moving the first mass of each pair to the second, (n_pixels,) each and of equal sum."""
    # POT imports torch, for which a notebook that only draws need not wait
    from ot import emd2
    from scipy.spatial.distance import cdist

    places, costs = np.argwhere(np.ones(given.shape)), []
    for sources, targets in tqdm(pairs, "earth mover", len(given), leave=False, unit="map"):
        start, end = np.flatnonzero(sources), np.flatnonzero(targets)  # empty pixels drop out
        amount = sources[start].sum()
        if not len(start) or not len(end):
            costs.append(0.0)
            continue
        share, wanted = sources[start] / amount, targets[end] / targets[end].sum()
        cost = cdist(places[start], places[end], metric)
        found, log = emd2(share, wanted, cost, numItermax=_MOST_PIVOTS, log=True, return_matrix=False)
        if log["warning"] is not None:
            raise ValueError(f"POT found no optimal transport: {log['warning']}")
        costs.append(found * amount)
    return np.array(costs, dtype=np.float64)
