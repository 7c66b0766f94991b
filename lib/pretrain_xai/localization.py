"""Scores of how well maps find the pixels of a mask, one number per image.

A score takes `(maps, masks)`: maps of shape (n_images, height, width), of which only the order or the mass of the
values counts, and boolean masks of the same shape, True inside the lesions; k is a mask's number of pixels. Pixels of
equal value share a rank and are counted by their expectation under random order, so that a constant map scores exactly
what chance scores. `SCORES` holds them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Reduction = Literal["sum_abs", "abs_sum", "luminance"]
Ties = Literal["expected", "strict"]
PerImage = NDArray[np.float64]

#: weights of red, green and blue (ITU-R BT.601), as in the released code; their sum is 0.9999
LUMINANCE = (0.2989, 0.5870, 0.1140)


def reduce_channels(attributions: ArrayLike, how: Reduction = "sum_abs") -> NDArray:
    """Make one nonnegative map of the three channels of signed attributions.

    Parameters
    ----------
    attributions : float array of shape (n_images, 3, height, width)
    how : "sum_abs", "abs_sum" or "luminance"
        Absolute value of the sum (the channels are copies of one grey image, whose attribution is the sum); sum of the
        absolute values; or sum of the absolute values times `LUMINANCE` (as published).

    Returns
    -------
    float array of shape (n_images, height, width), >= 0

    Raises
    ------
    ValueError
        If the shape is another or `how` is unknown.
    """
    attributions = np.asarray(attributions)
    if attributions.ndim != 4 or attributions.shape[1] != 3:
        raise ValueError(f"attributions have shape {attributions.shape}, (n_images, 3, height, width) is expected")
    if how not in REDUCTIONS:
        raise ValueError(f"unknown channel reduction {how!r}; known are {', '.join(REDUCTIONS)}")
    return REDUCTIONS[how](attributions)


REDUCTIONS: Mapping[str, Callable[[NDArray], NDArray]] = {
    "sum_abs": lambda attributions: np.abs(attributions.sum(1)),
    "abs_sum": lambda attributions: np.abs(attributions).sum(1),
    "luminance": lambda attributions: np.einsum(
        "nchw,c->nhw", np.abs(attributions), np.asarray(LUMINANCE, dtype=attributions.dtype)
    ),
}


class ConfusionCounts(NamedTuple):
    """Pixels selected and not selected, inside and outside the mask; each float64 of shape (n_images,)."""

    true_positives: PerImage
    false_positives: PerImage
    false_negatives: PerImage
    true_negatives: PerImage


def confusion_counts(maps: ArrayLike, masks: ArrayLike, ties: Ties = "expected") -> ConfusionCounts:
    """Count where the k strongest pixels of each map lie.

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite
        Larger is stronger.
    masks : bool array of shape (n_images, height, width)
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
    values, inside = _flat(maps, masks)
    k, n_pixels = inside.sum(1), values.shape[1]
    kth, next_value = _kth_largest(values, k)
    # float counts, since those of ties are fractions
    if ties == "strict":
        hits, selected = _counts(values > next_value[:, None], inside)
    else:
        hits, above = _counts(values > kth[:, None], inside)
        tied_hits, tied = _counts(values == kth[:, None], inside)
        hits, selected = hits + (k - above) * tied_hits / tied, k.astype(np.float64)
    return ConfusionCounts(hits, selected - hits, k - hits, n_pixels - k - (selected - hits))


def true_positive_rate(maps: ArrayLike, masks: ArrayLike, ties: Ties = "expected") -> PerImage:
    """Return TP / (TP + FN), the share of the mask that the k strongest pixels find; float64 (n_images,) in [0, 1].

    The study's "explanation performance"; it depends on the order of the pixels alone. Higher is better.
    """
    counts = confusion_counts(maps, masks, ties)
    return counts.true_positives / (counts.true_positives + counts.false_negatives)


def relevance_rank_accuracy(maps: ArrayLike, masks: ArrayLike) -> PerImage:
    """Return the share of the k strongest pixels that lie in the mask (Arras et al. 2022, Eq. 5).

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite
        Larger is stronger; only the order of the pixels counts.
    masks : bool array of shape (n_images, height, width)

    Returns
    -------
    float64 array of shape (n_images,), range [0, 1]
        Higher is better; a constant map gives exactly chance, k / n_pixels.
    """
    return true_positive_rate(maps, masks)


def true_negative_rate(maps: ArrayLike, masks: ArrayLike, ties: Ties = "expected") -> PerImage:
    """Return TN / (TN + FP), the share of the rest of the image that is not selected; NaN for a full mask.

    Higher is better. With exactly k pixels selected FP = FN, and it equals `negative_predictive_value`.
    """
    counts = confusion_counts(maps, masks, ties)
    return _ratio(counts.true_negatives, counts.true_negatives + counts.false_positives)


def negative_predictive_value(maps: ArrayLike, masks: ArrayLike, ties: Ties = "expected") -> PerImage:
    """Return TN / (TN + FN), which the released notebook calls TNR; NaN where every pixel is selected."""
    counts = confusion_counts(maps, masks, ties)
    return _ratio(counts.true_negatives, counts.true_negatives + counts.false_negatives)


def relevance_mass_accuracy(maps: ArrayLike, masks: ArrayLike) -> PerImage:
    """Return the share of the map's mass that lies in the mask (Arras et al. 2022, Eq. 4); maps must not be negative.

    Higher is better; an all-zero map has no mass and gives chance, like every constant map.
    """
    values, inside = _flat(maps, masks)
    _require((values >= 0).all(1), "maps", "have negative values: take absolute values first")
    # a map without mass counts as one whose mass is spread evenly
    values = np.where(values.any(1, keepdims=True), values, 1)
    return np.einsum("np,np->n", values, inside, dtype=np.float64) / values.sum(1, dtype=np.float64)


def pointing_game(maps: ArrayLike, masks: ArrayLike) -> PerImage:
    """Return 1 if the strongest pixel lies in the mask, else 0, and the share of hits where several tie.

    Zhang et al. 2018, without their tolerance of 15 px. Higher is better.
    """
    values, inside = _flat(maps, masks)
    hits, strongest = _counts(values == values.max(1, initial=-np.inf, keepdims=True), inside)
    return hits / strongest


def chance(masks: ArrayLike) -> PerImage:
    """Return k / n_pixels, what a random or constant map scores in expectation; float64 (n_images,)."""
    masks = np.asarray(masks)
    return masks.mean(axis=(1, 2), dtype=np.float64)


@dataclass(frozen=True)
class Score:
    """A per-image score: `function(maps, masks)` and, by `chance(masks)`, what a random map scores in expectation."""

    function: Callable[[ArrayLike, ArrayLike], PerImage]
    higher_is_better: bool = True
    chance: Callable[[ArrayLike], PerImage] = chance


SCORES: Mapping[str, Score] = {
    "relevance_rank_accuracy": Score(relevance_rank_accuracy),
    "true_positive_rate": Score(true_positive_rate),
    "true_negative_rate": Score(true_negative_rate, chance=lambda masks: 1 - chance(masks)),
    "relevance_mass_accuracy": Score(relevance_mass_accuracy),
    "pointing_game": Score(pointing_game),
}


def _kth_largest(values: NDArray, k: NDArray) -> tuple[NDArray, NDArray]:
    """Return each row's k-th and (k+1)-th largest value; the latter is -inf where the row has only k."""
    n_images, n_pixels = values.shape
    kth, following = np.empty(n_images, values.dtype), np.full(n_images, -np.inf, values.dtype)
    for row, size in enumerate(k):  # the rank differs between rows: one partition a row beats sorting all of them
        rank = n_pixels - size
        parted = np.partition(values[row], rank)
        kth[row] = parted[rank]
        if rank:
            following[row] = parted[:rank].max()
    return kth, following


def _counts(selected: NDArray, inside: NDArray) -> tuple[PerImage, PerImage]:
    """Return how many selected pixels are in the mask, and how many there are."""
    return (selected & inside).sum(1).astype(np.float64), selected.sum(1).astype(np.float64)


def _ratio(part: PerImage, whole: PerImage) -> PerImage:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _flat(maps: ArrayLike, masks: ArrayLike) -> tuple[NDArray, NDArray[np.bool_]]:
    """Check maps and masks and return both as (n_images, n_pixels)."""
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be (n_images, height, width)")
    if masks.dtype != np.bool_:
        raise TypeError(f"masks are {masks.dtype}, bool is expected: binarise the ground truth first")
    values, inside = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    _require(np.isfinite(values).all(1), "maps", "are not finite (NaN or infinite)")
    _require(inside.any(1), "masks", "are empty: there is nothing to find, leave these images out")
    return values, inside


def _require(valid: NDArray[np.bool_], what: str, trouble: str) -> None:
    bad = np.flatnonzero(~valid)
    if len(bad):
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(f"{what} of images {', '.join(map(str, bad[:10]))}{more} {trouble}")
