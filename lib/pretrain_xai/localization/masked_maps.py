"""Maps and masks, checked, with the one sort of each map that its scores share.

Everything that depends on the order of the pixels follows from where the values inside the mask stand among all: one
sort of the map, one of the values inside, and two searches. Pixels of equal value share their ranks: a count of hits
among the k strongest is its expectation under random order of those that tie.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Booleans, Floats, PerImage
from pretrain_xai.errors import first_ten


class Levels(NamedTuple):
    """The distinct values that one map has inside its mask, from the strongest; each float64 of shape (n_levels,).

    How many pixels of the whole map are stronger (`above`) or at least as strong (`reached`), and how many of those
    are hits, that is, inside the mask.
    """

    above: Floats
    reached: Floats
    hits_above: Floats
    hits_reached: Floats

    def expected_hits(self, sizes: np.ndarray | float) -> Floats:
        """Return how many of the strongest pixels, so many as `sizes` says, are hits: a line within each tie."""
        last = np.minimum(np.searchsorted(self.reached, sizes), len(self.reached) - 1)
        above, reached = self.above[last], self.reached[last]
        places = np.clip(sizes - above, 0, reached - above)
        return self.hits_above[last] + places * (self.hits_reached - self.hits_above)[last] / (reached - above)


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
    shape : (height, width)

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit, a map is not finite or a mask is empty; naming the images.
    """

    def __init__(self, maps: ArrayLike, masks: ArrayLike, image_ids: Sequence[int] | np.ndarray | None = None) -> None:
        maps, masks = np.asarray(maps), np.asarray(masks)
        if maps.ndim != 3 or maps.shape != masks.shape:
            raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be (n_images, height, width)")
        if masks.dtype != np.bool_:
            raise TypeError(f"masks are {masks.dtype}, bool is expected: binarise the ground truth first")
        if maps.dtype not in (np.float32, np.float64):
            maps = maps.astype(np.float64)
        self.shape: tuple[int, int] = maps.shape[1:]
        self.values, self.inside = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
        self.image_ids = range(len(maps)) if image_ids is None else image_ids
        self.require(np.isfinite(self.values).all(1), "maps", "are not finite (NaN or infinite)")
        self.require(
            np.any(self.inside, axis=1), "masks", "are empty: there is nothing to find, leave these images out"
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_pixels(self) -> int:
        """Pixels of a map."""
        return self.values.shape[1]

    @property
    def masks(self) -> Booleans:
        """The masks as they were given, (n_images, height, width)."""
        return self.inside.reshape(-1, *self.shape)

    @cached_property
    def k(self) -> PerImage:
        """Pixels of each mask."""
        return self.inside.sum(1).astype(np.float64)

    @cached_property
    def sorted_values(self) -> np.ndarray:
        """Each map's values from the weakest to the strongest, (n_images, n_pixels)."""
        return np.sort(self.values, axis=1)

    @cached_property
    def levels(self) -> list[Levels]:
        """The levels of each map."""
        return list(map(_levels, self.sorted_values, self.hit_values()))

    @property
    def magnitudes(self) -> "MaskedMaps":
        """The same with absolute values; itself if no map is signed."""
        return (
            self if self._absolute is None else self._absolute
        )  # itself is not cached: a cycle would keep a chunk in memory past its use

    @cached_property
    def _absolute(self) -> "MaskedMaps | None":
        if (self.values >= 0).all():
            return None
        return MaskedMaps(np.abs(self.values).reshape(-1, *self.shape), self.masks, self.image_ids)

    def with_masks(self, masks: ArrayLike) -> "MaskedMaps":
        """Return the same maps with other masks; what is sorted is not sorted again."""
        other = MaskedMaps(self.values.reshape(-1, *self.shape), masks, self.image_ids)
        other.sorted_values = self.sorted_values
        return other

    def hit_values(self) -> Iterator[np.ndarray]:
        """Yield each map's values inside its mask; their numbers differ."""
        return (values[inside] for values, inside in zip(self.values, self.inside, strict=True))

    def mass(self) -> np.ndarray:
        """Return the values as mass, (n_images, n_pixels); a map without any counts as one of evenly spread mass.

        Raises
        ------
        ValueError
            If a map has negative values, naming the images.
        """
        self.require(np.all(self.values >= 0, axis=1), "maps", "have negative values: take absolute values first")
        has_mass = self.values.any(1, keepdims=True)
        return self.values if has_mass.all() else np.where(has_mass, self.values, 1)

    def require(self, valid: Booleans, what: str, trouble: str) -> None:
        """Raise a ValueError that names the images whose entry in `valid` (n_images,) is False."""
        if bad := np.flatnonzero(~valid).tolist():
            raise ValueError(f"{what} of images {first_ten([self.image_ids[index] for index in bad])} {trouble}")


def masked_maps(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None) -> MaskedMaps:
    """Return `maps` if they have their masks already, else both checked."""
    return maps if isinstance(maps, MaskedMaps) else MaskedMaps(maps, np.asarray(masks))


def _levels(sorted_values: np.ndarray, hit_values: np.ndarray) -> Levels:
    levels, count = np.unique(hit_values, return_counts=True)
    hits_reached = np.cumsum(count[::-1])
    n_pixels = len(sorted_values)
    counts = (
        n_pixels - np.searchsorted(sorted_values, levels, side="right")[::-1],
        n_pixels - np.searchsorted(sorted_values, levels, side="left")[::-1],
        hits_reached - count[::-1],
        hits_reached,
    )
    return Levels(*(numbers.astype(np.float64) for numbers in counts))
