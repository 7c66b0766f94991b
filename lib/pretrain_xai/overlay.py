"""Lay lesions over a slice, as published or corrected, and bring slice and lesions to model resolution."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse
from skimage import transform

from pretrain_xai.lesions import LesionPatch
from pretrain_xai.placement import OverlayError, PlacedLesions, place_lesions, rescale, veils, window
from pretrain_xai.protocol import Protocol


@dataclass(frozen=True, eq=False, kw_only=True)
class LesionSlice(PlacedLesions):
    """A slice with lesions.

    Attributes
    ----------
    image : float64 array of shape (h, w), range [0, 1]
        The slice with its lesions.
    clean : float64 array of shape (h, w), range [0, brain_intensity]
        The same slice without any lesion.
    """

    image: np.ndarray
    clean: np.ndarray

    @property
    def ground_truth(self) -> np.ndarray:
        """Sum of the patches' weights, as generated (no floor, no intensity), float64 array of shape (h, w)."""
        return _sum_of(self.weights, self.corners, self.image.shape)


def overlay_lesions(
    slice_: np.ndarray,
    patches: Mapping[str, list[LesionPatch]],
    seed: int,
    protocol: Protocol,
    *,
    lesion_intensity: float = 0.5,
    brain_intensity: float = 0.7,
    max_attempts: int = 100_000,
    name: str = "slice",
) -> LesionSlice:
    """Lay 3 to 5 lesions of one class over a slice: I' = 1 - (1 - I)(1 - w L) inside the brain.

    Parameters
    ----------
    slice_ : float array of shape (h, w)
        A skull-stripped slice; pixels above 0 are brain.
    patches : mapping from class to list of LesionPatch
        Keys `round` and `irregular`, at least 5 patches each.
    seed : int
        Decides everything that is drawn.
    protocol : Protocol
        Its fields `lesion_floor`, `round_never_shuffled`, `corner_placement` and `shared_seed` count here.
    lesion_intensity : float in (0, 1]
        w: how much a lesion lightens where it is strongest (0.5 as published).
    brain_intensity : float in (0, 1]
        The slice is rescaled from [min, max] to [0, brain_intensity] first (0.7 as published).
    max_attempts : int
        Positions to draw before giving up.
    name : str
        What errors call the slice.

    Raises
    ------
    OverlayError
        If the slice, the pools or the intensities cannot be used, or no room was found for the lesions.

    References
    ----------
    Oliveira et al. (2024), equation for the overlay; under `protocol.PUBLISHED` the result is that of the released
    evaluation code, whose patch lightens by `lesion_floor` already where it is 0. (That code leaves a pixel as it was
    where a lesion would make it fully white, at a `lesion_intensity` of 1, which it never uses; we make it white.)
    """
    slice_ = checked_slice(slice_, name)
    if not 0 < brain_intensity <= 1:
        raise OverlayError(f"{name}: 0 < brain_intensity <= 1 must hold, not {brain_intensity}")
    brain = slice_ > 0
    lesions = place_lesions(
        brain, patches, seed, protocol, lesion_intensity=lesion_intensity, max_attempts=max_attempts, name=name
    )
    clean = rescale(slice_, 0.0, brain_intensity)
    veil = _sum_of(veils(lesions.weights, protocol, lesion_intensity), lesions.corners, brain.shape)
    return LesionSlice(**vars(lesions), image=_lighten(clean, brain, veil), clean=clean)


def to_model_resolution(overlay: LesionSlice, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Resize a slice and its lesions to `size` x `size`, as `skimage.transform.resize` does by default.

    Parameters
    ----------
    overlay : LesionSlice
    size : int
        Side of the model's input in pixels.

    Returns
    -------
    image : float32 array of shape (size, size), range [0, 1]
    strength : float32 array of shape (size, size), range [0, 1]
        What the strongest lesion at a pixel reaches, as a share of its patch's own maximum; see `lesion_masks`.
    clean : float32 array of shape (size, size), range [0, 1]
        The slice without lesions.
    support : bool array of shape (size, size)
        Every pixel that a patch's weights above 0 can have changed. With `lesion_floor` 0, image equals clean
        outside; the box that a floor lightens sticks out.

    Raises
    ------
    OverlayError
        If `size` is out of range.
    """
    if size < 1:
        raise OverlayError(f"size must be at least 1, not {size}")
    strength = np.zeros((size, size))
    for corner, patch in zip(overlay.corners, overlay.weights, strict=True):
        place, alone = _resized_box(patch / patch.max(), corner, overlay.image.shape, size)
        np.maximum(strength[place], alone, out=strength[place])
    image, clean = (_resize(array, size).astype(np.float32) for array in (overlay.image, overlay.clean))
    return image, strength.astype(np.float32), clean, strength > 0


def lesion_masks(strength: np.ndarray, mask_threshold: float) -> np.ndarray:
    """Return the pixels where a lesion reaches `mask_threshold` of its patch's maximum, bool array of the same shape.

    At a threshold of 0, as published, those where the resized ground truth is above 0.
    """
    if not 0 <= mask_threshold < 1:
        raise OverlayError(f"mask_threshold must be in [0, 1), not {mask_threshold}")
    return strength >= np.float32(mask_threshold) if mask_threshold > 0 else strength > 0


def _resize(array: np.ndarray, size: int) -> np.ndarray:
    """Return what `skimage.transform.resize(array, (size, size))` returns, some ten times as fast."""
    rows, columns = (_resize_matrix(length, size) for length in array.shape)
    return (columns @ (rows @ array).T).T


def _resized_box(
    box: np.ndarray, corner: np.ndarray, shape: tuple[int, int], size: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Resize a box on an empty slice: return where it then lies, and what is there; all else stays 0."""
    reach, weights = [], []
    for start, length, whole in zip(corner, box.shape, shape, strict=True):
        matrix, first, last = _dense_resize_matrix(whole, size)
        reach.append(slice(np.searchsorted(last, start), np.searchsorted(first, start + length)))
        weights.append(matrix[reach[-1], start : start + length])
    return (reach[0], reach[1]), weights[0] @ box @ weights[1].T


def clean_at_model_resolution(slice_: np.ndarray, size: int, brain_intensity: float) -> np.ndarray:
    """Return a slice without lesions as a network sees it: float32 array (size, size), range [0, brain_intensity].

    It equals the `clean` of `to_model_resolution` for the same slice. Raises OverlayError if there is no brain in it.
    """
    return _resize(rescale(checked_slice(slice_, "slice"), 0.0, brain_intensity), size).astype(np.float32)


@lru_cache(maxsize=16)
def _resize_matrix(length: int, size: int) -> sparse.csr_array:
    """Return the (size, length) matrix of skimage's resize along one axis.

    With its defaults `resize` is linear and separable, so that resizing all unit vectors tells everything about it.
    Its clipping to the input's range does nothing, because the rows hold weights >= 0 that sum to 1.
    """
    return sparse.csr_array(transform.resize(np.eye(length), (size, length)))


@lru_cache(maxsize=16)
def _dense_resize_matrix(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrix with its zeros, and the first and last pixel that each of its rows takes, which both ascend."""
    matrix = _resize_matrix(length, size).toarray()
    taken = matrix > 0
    return matrix, taken.argmax(axis=1), length - 1 - taken[:, ::-1].argmax(axis=1)


def _sum_of(patches: Sequence[np.ndarray], corners: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Add the patches up on an empty image."""
    total = np.zeros(shape)
    for patch, corner in zip(patches, corners, strict=True):
        total[window(corner, patch.shape)] += patch
    return total


def _lighten(clean: np.ndarray, brain: np.ndarray, veil: np.ndarray) -> np.ndarray:
    """Return 1 - (1 - clean) (1 - veil) in the brain, step by step in place: new arrays cost more than the sums."""
    transmission = np.subtract(1, veil, out=veil)
    image = 1 - clean
    image *= transmission
    np.subtract(1, image, out=image)
    np.copyto(image, clean, where=~brain)
    return image


def checked_slice(slice_: np.ndarray, name: str) -> np.ndarray:
    """Return the slice as float64.

    Raises
    ------
    OverlayError
        It is no finite 2-D array with a brain in it.
    """
    slice_ = np.asarray(slice_)
    if slice_.ndim != 2:
        raise OverlayError(f"{name}: a slice must have the shape (h, w), not {slice_.shape}; pass one at a time")
    least, most = (slice_.min(), slice_.max()) if slice_.size else (0.0, 0.0)  # both are NaN if a pixel is
    if not (np.isfinite(least) and np.isfinite(most)):
        raise OverlayError(f"{name}: {np.count_nonzero(~np.isfinite(slice_))} pixels are not finite; repair the slice")
    if most <= 0:
        raise OverlayError(f"{name}: no pixel is above 0, so there is no brain; the background must be 0")
    if least == most:
        raise OverlayError(f"{name}: all pixels are {slice_.flat[0]}; a slice of a brain is needed")
    return slice_.astype(np.float64, copy=False)
