"""Lay lesions over a slice, as published or corrected, and bring slice and lesions to model resolution."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse
from skimage import transform

from pretrain_xai.lesions import CLASSES, LesionPatch
from pretrain_xai.overlays.placement import (
    Draw,
    OverlayError,
    Placement,
    centre_candidates,
    joint_shape,
    no_room,
    place_centres,
    place_corners,
    window,
)
from pretrain_xai.protocol import Protocol

#: lesions per slice, smallest and largest number
FEWEST, MOST = 3, 5


@dataclass(frozen=True, eq=False)
class LesionSlice:
    """A slice with lesions, and where each came from.

    Attributes
    ----------
    image : float64 array of shape (h, w), range [0, 1]
        The slice with its lesions.
    clean : float64 array of shape (h, w), range [0, brain_intensity]
        The same slice without any lesion.
    ground_truth : float64 array of shape (h, w)
        Sum of the patches' weights, as generated (no floor, no intensity).
    label : int
        0 round, 1 irregular.
    corners : int array of shape (n_lesions, 2)
        Row and column of the top-left pixel of each box, in order of placement.
    weights : tuple of n_lesions float arrays of shape (box height, box width)
        The patches laid, in order of placement.
    patch_indices : int array of shape (n_lesions,)
        Their positions in the pool of their class.
    candidate_indices : int array of shape (n_lesions,)
        Row-major rank of each accepted position among the candidate positions it was drawn from.
    drawn_indices : int array of shape (n_attempts,)
        The ranks of all positions drawn, the rejected ones too.
    name : str
        What errors call the slice.
    """

    image: np.ndarray
    clean: np.ndarray
    ground_truth: np.ndarray
    label: int
    corners: np.ndarray
    weights: tuple[np.ndarray, ...]
    patch_indices: np.ndarray
    candidate_indices: np.ndarray
    drawn_indices: np.ndarray
    name: str

    @property
    def n_lesions(self) -> int:
        """Number of lesions."""
        return len(self.weights)

    @property
    def boxes(self) -> np.ndarray:
        """Height and width of each patch, int array of shape (n_lesions, 2)."""
        return _shapes(self.weights)

    @property
    def centres(self) -> np.ndarray:
        """Row and column of the middle pixel of each box, int array of shape (n_lesions, 2)."""
        return self.corners + self.boxes // 2


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
    slice_ = _checked_slice(slice_, name)
    _check_settings(patches, protocol, lesion_intensity, brain_intensity, name)
    streams = _Streams.of(seed, protocol)
    n_lesions, label = streams.number(FEWEST, MOST + 1), streams.label(0, 2)
    brain = slice_ > 0
    if protocol.corner_placement:
        orders = _patch_orders(streams, label, patches, protocol)
        weights = _weights(patches[CLASSES[label]], orders[CLASSES[label]][:n_lesions])
        veils = [_rescale(patch, protocol.lesion_floor, lesion_intensity) for patch in weights]
        placed = place_corners(brain, veils, streams.position, max_attempts, name)
        corners = np.array(placed.pixels)
    else:
        largest = np.array([max(sides) for sides in zip(*_patch_shapes(patches), strict=True)])
        candidates = centre_candidates(brain, largest, name)
        placed = Placement()
        # the largest patches may not fit together: then others are drawn, of both classes alike
        while len(placed.pixels) < n_lesions:
            orders = _patch_orders(streams, label, patches, protocol)
            drawn = [_weights(patches[pool], orders[pool][:n_lesions]) for pool in CLASSES]
            joint = [joint_shape(*pair) for pair in zip(*drawn, strict=True)]
            placed = place_centres(brain.shape, candidates, joint, streams.position, placed.drawn)
            if len(placed.drawn) > max_attempts:
                raise no_room(name, f"no room for {n_lesions} lesions within {max_attempts} attempts")
        weights = drawn[label]
        veils = [_rescale(patch, protocol.lesion_floor, lesion_intensity) for patch in weights]
        corners = np.array(placed.pixels) - _shapes(weights) // 2

    clean = _rescale(slice_, 0.0, brain_intensity)
    return LesionSlice(
        image=_lighten(clean, brain, _sum_of(veils, corners, slice_.shape)),
        clean=clean,
        ground_truth=_sum_of(weights, corners, slice_.shape),
        label=int(label),
        corners=corners,
        weights=tuple(weights),
        patch_indices=orders[CLASSES[label]][:n_lesions],
        candidate_indices=np.array(placed.accepted),
        drawn_indices=np.array(placed.drawn),
        name=name,
    )


def draw_label(seed: int, protocol: Protocol) -> int:
    """Return the label, 0 round or 1 irregular, that `overlay_lesions` gives to every slice with this seed."""
    streams = _Streams.of(seed, protocol)
    streams.number(FEWEST, MOST + 1)  # comes first in the shared stream
    return int(streams.label(0, 2))


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
        columns = _dense_resize_matrix(whole, size)[:, start : start + length]
        touched = np.flatnonzero(columns.any(axis=1))
        reach.append(slice(touched[0], touched[-1] + 1) if len(touched) else slice(0, 0))
        weights.append(columns[reach[-1]])
    return (reach[0], reach[1]), weights[0] @ box @ weights[1].T


def clean_at_model_resolution(slice_: np.ndarray, size: int, brain_intensity: float) -> np.ndarray:
    """Return a slice without lesions as a network sees it: float32 array (size, size), range [0, brain_intensity].

    It equals the `clean` of `to_model_resolution` for the same slice. Raises OverlayError if there is no brain in it.
    """
    return _resize(_rescale(_checked_slice(slice_, "slice"), 0.0, brain_intensity), size).astype(np.float32)


@lru_cache(maxsize=16)
def _resize_matrix(length: int, size: int) -> sparse.csr_array:
    """Return the (size, length) matrix of skimage's resize along one axis.

    With its defaults `resize` is linear and separable, so that resizing all unit vectors tells everything about it.
    Its clipping to the input's range does nothing, because the rows hold weights >= 0 that sum to 1.
    """
    return sparse.csr_array(transform.resize(np.eye(length), (size, length)))


@lru_cache(maxsize=16)
def _dense_resize_matrix(length: int, size: int) -> np.ndarray:
    return _resize_matrix(length, size).toarray()


@dataclass(frozen=True)
class _Streams:
    """Where number, class, order of the patches and positions are drawn from."""

    number: Draw
    label: Draw
    orders: Mapping[str, Callable[[int], np.ndarray]]
    position: Draw

    @classmethod
    def of(cls, seed: int, protocol: Protocol) -> "_Streams":
        """Return one re-seeded legacy stream, as released, or five independent ones."""
        if protocol.shared_seed:
            # legacy `choice(np.arange(n))` is `randint(0, n)`, and `shuffle(list)` is `permutation(len(list))`
            one, again = np.random.RandomState(seed), np.random.RandomState(seed)
            return cls(one.randint, one.randint, dict.fromkeys(CLASSES, one.permutation), again.randint)
        number, label, position, *orders = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(5))
        permutations = {pool: stream.permutation for pool, stream in zip(CLASSES, orders, strict=True)}
        return cls(number.integers, label.integers, permutations, position.integers)


def _patch_orders(
    streams: _Streams, label: int, patches: Mapping[str, list[LesionPatch]], protocol: Protocol
) -> dict[str, np.ndarray]:
    """Draw the order in which each pool is used; both, so that positions can be made independent of the class."""
    orders = {}
    for pool in (CLASSES[label], CLASSES[1 - label]):  # the slice's own class first, as in the shared stream
        fixed = pool == "round" and protocol.round_never_shuffled
        n_patches = len(patches[pool])
        orders[pool] = np.arange(n_patches) if fixed else streams.orders[pool](n_patches)
    return orders


def _weights(pool: list[LesionPatch], chosen: np.ndarray) -> list[np.ndarray]:
    return [pool[k].weights for k in chosen]


def _patch_shapes(patches: Mapping[str, list[LesionPatch]]) -> list[tuple[int, ...]]:
    return [patch.weights.shape for pool in CLASSES for patch in patches[pool]]


def _sum_of(patches: Sequence[np.ndarray], corners: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Add the patches up on an empty image."""
    total = np.zeros(shape)
    for patch, corner in zip(patches, corners, strict=True):
        total[window(corner, patch.shape)] += patch
    return total


def _shapes(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([array.shape for array in arrays])


def _lighten(clean: np.ndarray, brain: np.ndarray, veil: np.ndarray) -> np.ndarray:
    """Return 1 - (1 - clean) (1 - veil) in the brain, step by step in place: new arrays cost more than the sums."""
    transmission = np.subtract(1, veil, out=veil)
    image = 1 - clean
    image *= transmission
    np.subtract(1, image, out=image)
    np.copyto(image, clean, where=~brain)
    return image


def _rescale(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [min, max] to [low, high]."""
    least, most = array.min(), array.max()
    result = array - least
    result /= most - least
    result *= high - low
    result += low
    return result


def _checked_slice(slice_: np.ndarray, name: str) -> np.ndarray:
    slice_ = np.asarray(slice_, dtype=np.float64)
    if slice_.ndim != 2:
        raise OverlayError(f"{name}: a slice must have the shape (h, w), not {slice_.shape}; pass one at a time")
    least, most = (slice_.min(), slice_.max()) if slice_.size else (0.0, 0.0)  # both are NaN if a pixel is
    if not (np.isfinite(least) and np.isfinite(most)):
        raise OverlayError(f"{name}: {np.count_nonzero(~np.isfinite(slice_))} pixels are not finite; repair the slice")
    if most <= 0:
        raise OverlayError(f"{name}: no pixel is above 0, so there is no brain; the background must be 0")
    if least == most:
        raise OverlayError(f"{name}: all pixels are {slice_.flat[0]}; a slice of a brain is needed")
    return slice_


def _check_settings(
    patches: Mapping[str, list[LesionPatch]], protocol: Protocol, lesion: float, brain: float, name: str
) -> None:
    sizes = {pool: len(patches.get(pool, ())) for pool in CLASSES}
    if min(sizes.values()) < MOST:
        raise OverlayError(f"{name}: at least {MOST} patches of each class are needed, there are {sizes}")
    if not (0 <= protocol.lesion_floor < lesion <= 1 and 0 < brain <= 1):
        raise OverlayError(
            f"{name}: 0 <= lesion_floor < lesion_intensity <= 1 and 0 < brain_intensity <= 1 must hold, "
            f"not {protocol.lesion_floor}, {lesion} and {brain}"
        )
