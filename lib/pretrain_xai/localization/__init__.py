"""Scores of how well maps find the pixels of a mask, one number per image.

A score takes `(maps, masks)`: maps of shape (n_images, height, width), of which only the order or the mass of the
values counts, and boolean masks of the same shape, True inside the lesions; k is a mask's number of pixels. Scores of one
`MaskedMaps`, as `score_masked` computes them, share one sort of each map. Pixels of equal value share a rank and are
counted by their expectation under random order, so that a constant map scores exactly what chance scores; average
precision alone counts them as scikit-learn does. `SCORES` holds them all.
"""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pretrain_xai.arrays import Floats, PerImage
from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.localization.masked_maps import MaskedMaps, masked_maps
from pretrain_xai.protocol import Ties

Maps = ArrayLike | MaskedMaps
#: what a study file writes before the name of a metric of Quantus, which is an extra, imported when it is named
PREFIX = "quantus:"
#: its metrics that need maps and masks alone; the others need the network
QUANTUS_METRICS = (
    *("AttributionLocalisation", "AUC", "PointingGame", "RelevanceMassAccuracy", "RelevanceRankAccuracy"),
    *("TopKIntersection", "Complexity", "EffectiveComplexity", "Sparseness"),
)


class ConfusionCounts(NamedTuple):
    """Pixels selected and not selected, inside and outside the mask; each float64 of shape (n_images,)."""

    true_positives: PerImage
    false_positives: PerImage
    false_negatives: PerImage
    true_negatives: PerImage


def confusion_counts(maps: Maps, masks: ArrayLike | None = None, ties: Ties = "expected") -> ConfusionCounts:
    """Count where the k strongest pixels of each map lie.

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite; or MaskedMaps
        Larger is stronger.
    masks : bool array of shape (n_images, height, width)
        Here and in every score: not needed with `MaskedMaps`, which has them.
    ties : "expected" or "strict"
        Exactly k pixels, of which those that tie for the last places count by their expectation; or the released rule:
        the pixels strictly above the (k+1)-th largest value, which may be fewer than k (all if the mask is full).

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit, a map is not finite or a mask is empty; naming the images.
    """
    if ties not in ("expected", "strict"):
        raise ValueError(f"unknown rule for ties {ties!r}; known are expected, strict")
    given = masked_maps(maps, masks)
    k = given.k
    # float counts, since those of ties are fractions
    if ties == "strict":  # all where the map has only k pixels
        ascending = np.insert(given.sorted_values, 0, -np.inf, axis=1)
        above = given.values > np.take_along_axis(ascending, given.n_pixels - k.astype(int)[:, None])
        hits, selected = (found.sum(1, dtype=np.float64) for found in (above & given.inside, above))
    else:
        hits, selected = given.in_top_k(given.inside), k
    return ConfusionCounts(hits, selected - hits, k - hits, given.n_pixels - k - (selected - hits))


def relevance_rank_accuracy(maps: Maps, masks: ArrayLike | None = None, ties: Ties = "expected") -> PerImage:
    """Return the share of the k strongest pixels that lie in the mask (Arras et al. 2022, Eq. 5).

    With k places that is TP / (TP + FN), the true positive rate: the study's "explanation performance".

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite
        Larger is stronger; only the order of the pixels counts.
    masks : bool array of shape (n_images, height, width)
    ties : "expected" or "strict"
        As in `confusion_counts`.

    Returns
    -------
    float64 array of shape (n_images,), range [0, 1]
        Higher is better; a constant map gives exactly chance, k / n_pixels.
    """
    counts = confusion_counts(maps, masks, ties)
    return counts.true_positives / (counts.true_positives + counts.false_negatives)


def true_negative_rate(maps: Maps, masks: ArrayLike | None = None, ties: Ties = "expected") -> PerImage:
    """Return TN / (TN + FP), the share of the rest of the image that is not selected; NaN for a full mask.

    Higher is better.
    """
    counts = confusion_counts(maps, masks, ties)
    return _ratio(counts.true_negatives, counts.true_negatives + counts.false_positives)


def pixel_auroc(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return how often a pixel of the mask is stronger than one outside, ties counted half; NaN for a full mask.

    The area under the receiver operating characteristic of the pixels, range [0, 1]. Higher is better.
    """
    given = masked_maps(maps, masks)
    pairs = given.k * (given.n_pixels - given.k)
    # of each level, with the misses above it and half of those that tie with it
    disordered = [each.hits @ (each.above - each.hits_above + (each.tied - each.hits) / 2) for each in given.levels]
    return 1 - _ratio(np.array(disordered), pairs)


def average_precision(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return the precision at each value's threshold, weighted by the recall that it adds; range (0, 1].

    Pixels of equal value pass the threshold together, as in scikit-learn's `average_precision_score`: not the
    expectation under random order. Hence a constant map gives k / n_pixels, a little less than a random map without ties,
    whose expectation is `average_precision_chance`. Higher is better.
    """
    given = masked_maps(maps, masks)
    added = [each.hits @ ((each.hits_above + each.hits) / (each.above + each.tied)) for each in given.levels]
    return np.array(added) / given.k


def average_precision_chance(masks: ArrayLike) -> PerImage:
    """Return the expected average precision of a random map without ties; float64 (n_images,).

    With n pixels, k of them hits, and H_n = 1 + 1/2 + ... + 1/n: the pixel at place i is a hit with probability k / n, and
    the precision there is then (1 + (i - 1) (k - 1) / (n - 1)) / i in expectation; the mean over i is
    (H_n + (n - H_n) (k - 1) / (n - 1)) / n.
    """
    share = chance(masks)
    n_pixels = float(np.prod(np.shape(masks)[1:]))
    harmonic = (1 / np.arange(1, n_pixels + 1)).sum()
    return (harmonic + (n_pixels - harmonic) * (share * n_pixels - 1) / max(n_pixels - 1, 1)) / n_pixels


def top_k_intersection_area(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return the mean of the top-k intersection over k from 1 to the mask's size; range [0, 1], 1 for the mask itself.

    The share of the k strongest pixels that lies in the mask (Theiner et al. 2022), from the pointing game at 1 to
    Relevance Rank Accuracy at the mask's size.
    Beyond the mask's size even the best map must fall, so the curve ends there. Higher is better.
    """
    levels = masked_maps(maps, masks).levels
    return np.array([(each.expected_hits(k := np.arange(1, each.hits.sum() + 1)) / k).mean() for each in levels])


def relevance_mass_accuracy(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return the share of the map's absolute values that lies in the mask (Arras et al. 2022, Eq. 4).

    XAI-TRIS and EXACT call it importance mass accuracy. Higher is better; an all-zero map has no mass and gives chance, like
    every constant map.
    """
    given = masked_maps(maps, masks)
    mass = given.mass()
    return np.einsum("np,np->n", mass, given.inside, dtype=np.float64) / mass.sum(1, dtype=np.float64)


def pointing_game(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return 1 if the strongest pixel lies in the mask, else 0, and the share of hits where several tie.

    Zhang et al. 2018, without their tolerance of 15 px. Higher is better.
    """
    return np.array([levels.expected_hits(1) for levels in masked_maps(maps, masks).levels])


def sparseness(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return the Gini index of the map's absolute values (Chalasani et al. 2020); range [0, 1), 0 for a constant map.

    It says how few pixels hold the mass, whether in the mask or not: higher is sparser, and there is no chance level.
    """
    given = masked_maps(maps, masks)
    magnitudes = np.sort(np.abs(given.sorted_values), axis=1)
    weights = 2 * np.arange(1, given.n_pixels + 1) - given.n_pixels - 1.0
    total = magnitudes.sum(1, dtype=np.float64) * given.n_pixels
    weighted = np.einsum("np,p->n", magnitudes, weights)  # in float64, as the weights are
    return np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)


def earth_mover_distance(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return how far the map's mass must move to lie evenly in the mask (Clark et al. 2024): mean distance, in pixels.

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
    return _transports(given, moved, squared=False)


def earth_mover_score(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return 1 - d / d_max of the Euclidean `earth_mover_distance` d (XAI-TRIS); range [0, 1], higher is better.

    d_max is the greatest distance of two pixels, sqrt((height - 1)^2 + (width - 1)^2), as XAI-TRIS describe it; their
    released code divides by sqrt(height^2 + width^2), the diagonal between the outer corners.
    """
    given = masked_maps(maps, masks)
    height, width = given.shape
    return 1 - earth_mover_distance(given) / max(np.hypot(height - 1, width - 1), 1)


def earth_mover_top_k(maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Return the distance between the map's k strongest pixels and the mask's k: mean squared distance, in pixels^2.

    As the study's released code meant to (its call never ran). Pixels that tie for the last places share them evenly, as in
    every score. Two short moves may be cheaper than a long one and none, so that nothing is known to stay. Lower is better; 0
    where the mask is found whole.
    """
    given = masked_maps(maps, masks)
    return _transports(given, zip(_top_k(given), map(_share, given.inside), strict=True), squared=True)


def _top_k(given: MaskedMaps) -> Iterator[Floats]:
    """Yield each pixel's share of the k places of a map, (n_pixels,)."""
    for values, ascending, k in zip(given.values, given.sorted_values, given.k.astype(int), strict=True):
        above, tied = values > ascending[-k], values == ascending[-k]
        yield (above + tied * ((k - above.sum()) / tied.sum())) / k


def _share(mass: np.ndarray) -> Floats:
    mass = mass.astype(np.float64)
    return mass / mass.sum()


def _transports(given: MaskedMaps, pairs: Iterable[tuple[Floats, Floats]], *, squared: bool) -> PerImage:
    """Return the least cost of moving the first mass of each pair to the second, (n_pixels,) each and of equal sum.

    Exact, by the linear program of POT, and slow: `benchmarks/bench_scores.py` measured, on one slow core with dense maps,
    0.6 s for the mass of a map at 96 x 96 pixels, and 37 s and 4 GB at 224 x 224; for the k strongest pixels 0.01 and 0.3 s.
    """
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
        cost = cdist(places[start], places[end], "sqeuclidean" if squared else "euclidean")
        found, log = emd2(
            share, wanted, cost, numItermax=10**9, log=True, return_matrix=False
        )  # 224 x 224 px take millions
        if log["warning"] is not None:
            raise ValueError(f"POT found no optimal transport: {log['warning']}")
        costs.append(found * amount)
    return np.array(costs, dtype=np.float64)


def chance(masks: ArrayLike) -> PerImage:
    """Return k / n_pixels, what a random or constant map scores in expectation; float64 (n_images,)."""
    return np.asarray(masks).mean(axis=(1, 2))


def no_chance(masks: ArrayLike) -> PerImage:
    """Return NaN for each mask: a random map's expectation is not known or means nothing."""
    return np.full(len(np.asarray(masks)), np.nan)


@dataclass(frozen=True)
class Score:
    """A per-image score, called with maps, masks and the rule for ties.

    Attributes
    ----------
    function : callable
        Takes maps and masks, or `MaskedMaps` alone.
    chance : callable
        Takes masks and returns what a random map scores in expectation.
    has_ties : bool
        The function takes `ties`, the switch of the protocol.
    is_slow : bool
        It takes a second a map, not milliseconds.
    """

    function: Callable[..., PerImage]
    chance: Callable[[ArrayLike], PerImage] = chance
    has_ties: bool = False
    is_slow: bool = False

    def __call__(self, maps: Maps, masks: ArrayLike | None = None, ties: Ties = "expected") -> PerImage:
        """Return the score of each map."""
        return self.function(maps, masks, **({"ties": ties} if self.has_ties else {}))


SCORES: Mapping[str, Score] = {
    "relevance_rank_accuracy": Score(relevance_rank_accuracy, has_ties=True),
    "true_negative_rate": Score(true_negative_rate, chance=lambda masks: 1 - chance(masks), has_ties=True),
    "relevance_mass_accuracy": Score(relevance_mass_accuracy),
    "importance_mass_accuracy": Score(relevance_mass_accuracy),  # XAI-TRIS's name for it
    "pointing_game": Score(pointing_game),
    "pixel_auroc": Score(pixel_auroc, chance=lambda masks: np.full(np.shape(masks)[0], 0.5)),
    "average_precision": Score(average_precision, chance=average_precision_chance),
    "top_k_intersection_area": Score(top_k_intersection_area),
    "sparseness": Score(sparseness, chance=no_chance),
    "earth_mover_score": Score(earth_mover_score, chance=no_chance, is_slow=True),
    "earth_mover_top_k": Score(earth_mover_top_k, chance=no_chance, is_slow=True),
}


def quantus_score(metric: str, maps: Maps, masks: ArrayLike | None = None) -> PerImage:
    """Compute a metric at Quantus' own defaults, one image at a time: some of its batches normalise over all images.

    Raises
    ------
    UserError
        Naming the image that the metric refuses.
    """
    import quantus

    given, found = masked_maps(maps, masks), []
    compute = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False)
    shape = (1, 1, *given.shape)
    unused = {"model": None, "x_batch": np.zeros(shape), "y_batch": np.zeros(1, dtype=int)}
    for image, values, inside in zip(given.image_ids, given.values, given.inside, strict=True):
        map_ = values.astype(np.float64).reshape(shape)  # a copy: Quantus writes into it
        try:
            with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
                found += compute(**unused, a_batch=map_, s_batch=inside.reshape(shape))
        except (AssertionError, ValueError) as error:
            raise UserError(f"{PREFIX}{metric} can't score the map of image {image}: {error}") from None
    return np.array(found, dtype=np.float64)


def find_score(name: str) -> Score:
    """Return the score of a name in `SCORES`, or of `quantus:<class of Quantus>`.

    Raises
    ------
    UserError
        If there is none, naming the closest and the known ones, or Quantus is not installed.
    """
    known = [*SCORES, *(f"{PREFIX}{metric}" for metric in QUANTUS_METRICS)]
    if name not in known:
        raise UserError(f"unknown score {name!r}{did_you_mean(name, known)}; scores are {', '.join(known)}")
    if name in SCORES:
        return SCORES[name]
    if importlib.util.find_spec("quantus") is None:
        raise UserError(f"the score {name!r} needs Quantus: .venv/bin/pip install -e '.[quantus]'")
    return Score(partial(quantus_score, name.removeprefix(PREFIX)), chance=no_chance)


def score_masked(
    given: MaskedMaps, scores: Sequence[str], *, ties: Ties = "expected"
) -> dict[str, tuple[PerImage, PerImage]]:
    """Compute many scores of the same maps with one sort of each map for all of them.

    Parameters
    ----------
    scores : names in `SCORES`, or `quantus:<metric>`
    ties : "expected" or "strict"
        For the scores of counts, as in `confusion_counts`.

    Returns
    -------
    dict from each name to its values and chance levels, float64 of shape (n_images,)
    """
    found = {name: find_score(name) for name in scores}
    return {name: (score(given, ties=ties), score.chance(given.masks)) for name, score in found.items()}


def _ratio(part: PerImage, whole: PerImage) -> PerImage:
    return part / np.where(whole > 0, whole, np.nan)
