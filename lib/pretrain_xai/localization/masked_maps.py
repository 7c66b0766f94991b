"""Maps and masks, checked, with the one sort of each map that its scores share.

Everything that depends on the order of the pixels follows from where the values inside the mask stand among all: one
sort of the map, one of the values inside, and two searches. Pixels of equal value share their ranks: a count of hits
among the k strongest is its expectation under random order of those that tie.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Booleans, Floats, PerImage
from pretrain_xai.errors import first_ten


class Levels(NamedTuple):
    """The distinct values that one map has inside its mask, from the strongest; each float64 of shape (n_levels,).

    How many pixels of the whole map are stronger (`above`) or as strong (`tied`), and how many of those are hits, that
    is, inside the mask (`hits_above`, `hits`).
    """

    above: Floats
    tied: Floats
    hits_above: Floats
    hits: Floats

    def expected_hits(self, sizes: np.ndarray | float) -> Floats:
        """Return how many of the strongest pixels, so many as `sizes` says, are hits: a line within each tie."""
        last = np.minimum(np.searchsorted(self.above + self.tied, sizes), len(self.tied) - 1)
        places = np.clip(sizes - self.above[last], 0, self.tied[last])
        return self.hits_above[last] + places * self.hits[last] / self.tied[last]


class MaskedMaps:
    """Maps of some images with the masks in which they should be strong; every score takes it in place of the maps.

    Parameters
    ----------
    maps : float array of shape (n_images, height, width), finite
        Larger is stronger. float32 stays float32; sums are float64.
    masks : bool array of shape (n_images, height, width)
        True inside the lesions, at least once in every image.
    image_ids : int sequence of length n_images, optional
        What errors call the images; 0 .. n_images - 1 if none.

    Attributes
    ----------
    values : float array of shape (n_images, n_pixels)
    inside : bool array of shape (n_images, n_pixels)
    k : float64 array of shape (n_images,)
        Pixels of each mask.
    shape : (height, width)

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit, a map is not finite or a mask is empty; naming the images.
    """

    def __init__(
        self,
        maps: ArrayLike,
        masks: ArrayLike,
        image_ids: Sequence[int] | np.ndarray | None = None,
        *,
        known_finite: bool = False,
    ) -> None:
        maps, self.masks = np.asarray(maps), np.asarray(masks)
        if maps.ndim != 3 or maps.shape != self.masks.shape:
            raise ValueError(f"maps {maps.shape} and masks {self.masks.shape} must both be (n_images, height, width)")
        if self.masks.dtype != np.bool_:
            raise TypeError(f"masks are {self.masks.dtype}, bool is expected: binarise the ground truth first")
        if maps.dtype not in (np.float32, np.float64):
            maps = maps.astype(np.float64)
        self.maps, self.image_ids = maps, range(len(maps)) if image_ids is None else image_ids
        self.shape: tuple[int, int] = maps.shape[1:]
        self.values, self.inside = (array.reshape(len(maps), -1) for array in (maps, self.masks))
        self.n_pixels = self.values.shape[1]
        self.k: PerImage = self.inside.sum(1).astype(np.float64)
        if not known_finite:
            self.require(np.isfinite(self.values).all(1), "maps", "are not finite (NaN or infinite)")
        self.require(self.k > 0, "masks", "are empty: there is nothing to find, leave these images out")

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def sorted_values(self) -> np.ndarray:
        """Each map's values from the weakest to the strongest, (n_images, n_pixels)."""
        return np.sort(self.values, axis=1)

    @cached_property
    def levels(self) -> list[Levels]:
        """The levels of each map."""
        return list(map(_levels, self.sorted_values, self.values, self.inside))

    def with_masks(self, masks: ArrayLike) -> "MaskedMaps":
        """Return the same maps with other masks; what is sorted is not sorted again."""
        other = MaskedMaps(self.maps, masks, self.image_ids, known_finite=True)
        other.sorted_values = self.sorted_values
        return other

    def in_top_k(self, weights: np.ndarray) -> PerImage:
        """Return the sum of weights, (n_images, n_pixels), over the k strongest pixels; ties for the last by expectation."""
        last = np.take_along_axis(self.sorted_values, self.n_pixels - self.k.astype(int)[:, None], axis=1)
        chosen = np.flatnonzero(self.values >= last)  # few of all
        images, held = chosen // self.n_pixels, weights.ravel()[chosen].astype(np.float64)
        ties = self.values.ravel()[chosen] == last[images, 0]
        n_above, n_tied = (np.bincount(images[some], minlength=len(self)) for some in (~ties, ties))
        above, tied = (np.bincount(images[some], held[some], minlength=len(self)) for some in (~ties, ties))
        return above + (self.k - n_above) * tied / n_tied

    def mass(self) -> np.ndarray:
        """Return the absolute values, (n_images, n_pixels); a map without any counts as one of evenly spread mass."""
        return np.where(self.values.any(1, keepdims=True), np.abs(self.values), 1)

    def require(self, valid: Booleans, what: str, trouble: str) -> None:
        """Raise a ValueError that names the images whose entry in `valid` (n_images,) is False."""
        if bad := np.flatnonzero(~valid).tolist():
            raise ValueError(f"{what} of images {first_ten([self.image_ids[index] for index in bad])} {trouble}")


def masked_maps(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None) -> MaskedMaps:
    """Return `maps` if they have their masks already, else both checked."""
    return maps if isinstance(maps, MaskedMaps) else MaskedMaps(maps, np.asarray(masks))


def _levels(sorted_values: np.ndarray, values: np.ndarray, inside: Booleans) -> Levels:
    levels, hits = np.unique(values[inside], return_counts=True)
    # ascending levels are looked up fastest
    weaker, at_most = (np.searchsorted(sorted_values, levels, side)[::-1] for side in ("left", "right"))
    hits = hits[::-1]
    counts = len(sorted_values) - at_most, at_most - weaker, np.cumsum(hits) - hits, hits
    return Levels(*(numbers.astype(np.float64) for numbers in counts))
