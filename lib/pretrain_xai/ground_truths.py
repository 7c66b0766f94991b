"""What maps are scored against: the lesions, or what else of an image can tell its class.

An image's exact *twin* is the same slice with as many lesions of the other class at the same centres. A network that tells
the classes apart has no other image to tell it from, so that a map may rightly point beyond the lesions' own pixels.

- `lesion`: the mask of the image's lesions, as published. At 1 the k strongest pixels of a map are the k of the mask.
- `union`: the masks of image and twin together, where either class would show. At 1 the strongest pixels are both.
- `boundary`: the pixels next to the outline of the lesions' mask, BAND on either side, where the classes differ in form. At 1
  the strongest pixels are this band.
- `difference`: |image - twin|, all that tells the two apart, and graded. At 1 the k strongest pixels hold as much of it as k
  pixels can; k is that of `lesion`. Only Relevance Rank Accuracy is defined for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import ndimage

from pretrain_xai.arrays import Booleans, Floats, PerImage
from pretrain_xai.localization import score_masked
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.overlay import lesion_masks
from pretrain_xai.protocol import GroundTruth, Ties

#: pixels on either side of a mask's outline, along rows, columns and diagonals
BAND = 1
#: the ground truths that need twins
OF_TWINS: tuple[GroundTruth, ...] = ("union", "difference")


@dataclass(frozen=True, eq=False)
class GroundTruths:
    """The ground truths of some images; what was made once is kept.

    Attributes
    ----------
    strength : float array of shape (n, height, width), range [0, 1]
        Of the lesions, from which masks are made.
    twin_strength : float array of shape (n, height, width), range [0, 1], optional
        Of the lesions of the twins.
    difference : float array of shape (n, height, width), range [0, 1], optional
        |image - twin|.
    """

    strength: np.ndarray
    twin_strength: np.ndarray | None = None
    difference: np.ndarray | None = None
    _made: dict[tuple[GroundTruth, float], Booleans] = field(default_factory=dict, init=False, repr=False)

    def masks(self, name: GroundTruth, threshold: float) -> Booleans:
        """Return the masks of a ground truth, (n, height, width); of `difference` those that say how many pixels count."""
        if (name, threshold) not in self._made:
            self._made[name, threshold] = self._masks(name, threshold)
        return self._made[name, threshold]

    def as_maps(self, name: GroundTruth, threshold: float) -> np.ndarray:
        """Return a ground truth as maps, float32 (n, height, width): no map can score more on it."""
        return np.asarray(self.difference if name == "difference" else self.masks(name, threshold), dtype=np.float32)

    def score(
        self, name: GroundTruth, given: MaskedMaps, scores: Sequence[str], ties: Ties
    ) -> dict[str, tuple[PerImage, PerImage]]:
        """Return what maps, given with the masks of a ground truth, score on it; as `score_masked`.

        On `difference` Relevance Rank Accuracy is how much of it the k strongest pixels hold, as a share of the most that k
        pixels can: of a mask that is the share of k. A constant map gives exactly chance, k times the mean by the most; ties
        for the last places always count by their expectation. The other scores, and images equal to their twins, are NaN.
        """
        if name != "difference":
            return score_masked(given, scores, ties=ties)
        undefined = np.full(len(given), np.nan)
        most = np.take_along_axis(self._most, given.k.astype(int)[:, None] - 1, axis=1)[:, 0]
        most = np.where(most > 0, most, np.nan)
        graded = given.in_top_k(np.asarray(self.difference)) / most, given.k * self._most[:, -1] / given.n_pixels / most
        return {score: graded if score == "relevance_rank_accuracy" else (undefined, undefined) for score in scores}

    @cached_property
    def _most(self) -> Floats:
        """The most that 1, 2, ... pixels hold of the difference, float64 (n, n_pixels)."""
        flat = np.asarray(self.difference).reshape(len(self.strength), -1)
        return np.cumsum(np.sort(flat, axis=1)[:, ::-1], axis=1, dtype=np.float64)

    def _masks(self, name: GroundTruth, threshold: float) -> Booleans:
        own = lesion_masks(self.strength, threshold)
        if name == "union":
            return own | lesion_masks(np.asarray(self.twin_strength), threshold)
        if name == "boundary":
            sides = (1, 2 * BAND + 1, 2 * BAND + 1)
            return ndimage.maximum_filter(own, sides) & ~ndimage.minimum_filter(own, sides)
        return own
