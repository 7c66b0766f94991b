"""Place lesions on a slice and lay them over it, as published or corrected, and bring both to model resolution.

As published a lesion is placed by its top-left corner, and as corrected by its centre, whatever its class.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage, sparse
from skimage import transform

from pretrain_xai.errors import UserError
from pretrain_xai.lesions import Patches
from pretrain_xai.protocol import Protocol
from pretrain_xai.study import CLASSES

#: lesions per slice, smallest and largest number
FEWEST, MOST = 3, 5
#: corrected placement: other patches are drawn after so many rejected positions in a row
STUCK_AFTER = 200
#: positions to draw before giving up
MAX_ATTEMPTS = 100_000

_NO_ROOM = "leave this slice out, or use smaller lesions or larger slices"
Draw = Callable[..., int]  # a whole number from low (included; 0 if not given) to high (excluded)
Order = Callable[[int], np.ndarray]  # of so many patches


class OverlayError(UserError):
    """A slice that cannot carry the lesions, or settings that cannot be met."""


class NoRoomError(OverlayError):
    """A slice on which the lesions find no place."""


@dataclass(frozen=True, eq=False)
class LesionSlice:
    """A slice with lesions, and where each came from.

    Attributes
    ----------
    image : float64 array of shape (h, w), range [0, 1]
        The slice with its lesions.
    clean : float64 array of shape (h, w), range [0, brain_intensity]
        The same slice without any lesion.
    label : int
        0 round, 1 irregular.
    corners : int array of shape (n_lesions, 2)
        Row and column of the top-left pixel of each box, in order of placement.
    weights : list of n_lesions float arrays of shape (box height, box width)
        The patches laid, in order of placement.
    patch_indices : int array of shape (n_lesions,)
        Their positions in the pool of their class.
    drawn_indices : int array of shape (n_attempts,)
        The row-major ranks of all positions drawn among the candidate positions, the rejected ones too.
    twin : LesionSlice or None
        The same slice with as many lesions of the other class at the same centres; none if placed by corners.
    """

    image: np.ndarray
    clean: np.ndarray
    label: int
    corners: np.ndarray
    weights: Sequence[np.ndarray]
    patch_indices: np.ndarray
    drawn_indices: np.ndarray
    twin: "LesionSlice | None" = None

    @property
    def n_lesions(self) -> int:
        """Number of lesions."""
        return len(self.weights)

    @property
    def centres(self) -> np.ndarray:
        """Row and column of the middle pixel of each box, int array of shape (n_lesions, 2)."""
        return self.corners + np.reshape([patch.shape for patch in self.weights], (-1, 2)).astype(int) // 2

    @property
    def without_lesions(self) -> "LesionSlice":
        """The same slice and class, but no lesion is laid over it."""
        none = self.patch_indices[:0]
        return replace(self, image=self.clean, corners=self.corners[:0], weights=[], patch_indices=none, twin=None)

    @property
    def ground_truth(self) -> np.ndarray:
        """Sum of the patches' weights, as generated (no floor, no intensity), float64 array of shape (h, w)."""
        return _sum_of(self.weights, self.corners, self.image.shape)


def overlay_lesions(
    slice_: np.ndarray,
    patches: Patches,
    seed: int,
    protocol: Protocol,
    *,
    lesion_intensity: float = 0.5,
    brain_intensity: float = 0.7,
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

    Raises
    ------
    NoRoomError
        No room was found for the lesions within `MAX_ATTEMPTS` positions.
    OverlayError
        The slice, the pools or the intensities cannot be used.

    References
    ----------
    Oliveira et al. (2024), equation for the overlay; under `protocol.PUBLISHED` the result is that of the released
    evaluation code, whose patch lightens by `lesion_floor` already where it is 0. (That code leaves a pixel as it was
    where a lesion would make it fully white, at a `lesion_intensity` of 1, which it never uses; we make it white.)
    """
    slice_ = _checked_slice(slice_)
    sizes, floor = {pool: len(patches[pool]) for pool in CLASSES}, protocol.lesion_floor
    if min(sizes.values()) < MOST:
        raise OverlayError(f"at least {MOST} patches of each class are needed, there are {sizes}")
    if not (0 <= floor < lesion_intensity <= 1 and 0 < brain_intensity <= 1):
        rule = "0 <= lesion_floor < lesion_intensity <= 1 and 0 < brain_intensity <= 1"
        raise OverlayError(f"{rule} must hold, not {floor}, {lesion_intensity} and {brain_intensity}")
    (draw_number, draw_label, draw_position), draw_orders = _streams(seed, protocol)
    n_lesions, label = int(draw_number(FEWEST, MOST + 1)), int(draw_label(0, 2))
    pools = CLASSES[label], CLASSES[1 - label]
    brain, by_corner = slice_ > 0, protocol.corner_placement
    candidates = np.flatnonzero(brain if by_corner else _fits_largest(brain, patches))
    drawn: list[int] = []
    accepted: list[int] = []
    # the largest patches may not fit together: then others are drawn, of both classes alike
    while len(accepted) < n_lesions:
        # of both pools, so that positions can be made independent of the class; its own comes first
        orders = {pool: draw_orders[pool](len(patches[pool]))[:n_lesions] for pool in pools}
        weights, others = ([patches[pool][k].weights for k in order] for pool, order in orders.items())
        veils = [_rescale(patch, floor, lesion_intensity) for patch in weights if by_corner]
        shapes = [1 - veil != 1 for veil in veils] or list(map(_joint_shape, weights, others))
        accepted = _find_places(brain, candidates, shapes, draw_position, drawn, by_corner=by_corner)
    anchors = np.stack(np.unravel_index(candidates[accepted], brain.shape), axis=1)
    clean = _rescale(slice_, 0.0, brain_intensity)

    def laid(label: int, weights: list[np.ndarray]) -> LesionSlice:
        corners = anchors if by_corner else anchors - np.array([patch.shape for patch in weights]) // 2
        veils = [_rescale(patch, floor, lesion_intensity) for patch in weights]
        image = np.where(brain, 1 - (1 - clean) * (1 - _sum_of(veils, corners, brain.shape)), clean)
        return LesionSlice(image, clean, label, corners, weights, orders[CLASSES[label]], np.array(drawn))

    # each place has room for the patches of both classes
    return laid(label, weights) if by_corner else replace(laid(label, weights), twin=laid(1 - label, others))


def _find_places(
    brain: np.ndarray, places: np.ndarray, shapes: list[np.ndarray], draw: Draw, drawn: list[int], *, by_corner: bool
) -> list[int]:
    """Draw positions until each lesion has one, and return the ranks of the accepted ones among `places`.

    They are fewer than the lesions if STUCK_AFTER positions in a row were rejected (not `by_corner`).

    Parameters
    ----------
    brain : bool array of shape (h, w)
    places : int array
        Positions in the flattened slice.
    shapes : bool arrays, one per lesion
        The pixels that it takes.
    drawn : list of int
        The ranks that were drawn, which are added to it.
    by_corner : bool
        The positions are those of top-left pixels, not of middles, and a lesion's whole box must be free, not just the
        pixels that it takes. A box that the image border cuts, where the released code fails, does not fit.
    """
    occupied, accepted, last = ~brain, list[int](), len(drawn)
    while len(accepted) < len(shapes) and (by_corner or len(drawn) - last < STUCK_AFTER):
        if len(drawn) >= MAX_ATTEMPTS:
            raise NoRoomError(f"no room for {len(shapes)} lesions within {MAX_ATTEMPTS} attempts; {_NO_ROOM}")
        shape = shapes[len(accepted)]
        rank = int(draw(len(places)))
        drawn.append(rank)
        corner = np.array(divmod(int(places[rank]), brain.shape[1])) - (0 if by_corner else np.array(shape.shape) // 2)
        box = occupied[_window(corner, shape.shape)]
        if box.shape == shape.shape and not (box if by_corner else box & shape).any():
            box |= shape
            accepted.append(rank)
            last = len(drawn)
    return accepted


def _fits_largest(brain: np.ndarray, patches: Patches) -> np.ndarray:
    """Return the pixels around which a box that covers every patch of both classes lies in the brain, bool (h, w)."""
    height, width = np.max([patch.weights.shape for pool in CLASSES for patch in patches[pool]], axis=0)
    fits = ndimage.minimum_filter(brain, size=(height, width), mode="constant")
    if not fits.any():
        raise NoRoomError(f"the largest lesion box, {height} x {width} px, fits nowhere in the brain; {_NO_ROOM}")
    return fits


def _joint_shape(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the pixels that either of two patches covers when both have the same centre, bool array."""
    sides = np.maximum(one.shape, other.shape)
    joint = np.zeros(sides, dtype=bool)
    for patch in (one, other):
        joint[_window(sides // 2 - np.array(patch.shape) // 2, patch.shape)] |= patch > 0
    return joint


def _streams(seed: int, protocol: Protocol) -> tuple[list[Draw], dict[str, Order]]:
    """Return where number, class, positions and the order of each pool are drawn from.

    As released, one legacy stream that is seeded again before the positions; as corrected, five independent ones.
    """
    if protocol.shared_seed:
        # legacy `choice(np.arange(n))` is `randint(0, n)`, and `shuffle(list)` is `permutation(len(list))`
        one, again = np.random.RandomState(seed), np.random.RandomState(seed)
        draws: list[Draw] = [one.randint, one.randint, again.randint]
        orders: dict[str, Order] = dict.fromkeys(CLASSES, one.permutation)
    else:
        *streams, round_, irregular = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(5))
        draws = [stream.integers for stream in streams]
        orders = {"round": round_.permutation, "irregular": irregular.permutation}
    if protocol.round_never_shuffled:
        orders["round"] = np.arange
    return draws, orders


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
    """

    def weights_of(start: int, length: int, whole: int) -> tuple[np.ndarray, np.ndarray]:
        weights = _resize_matrix(whole, size)[0][:, start : start + length]
        return (reached := np.flatnonzero(weights.any(axis=1))), weights[reached]  # where the box then lies

    strength = np.zeros((size, size))
    for corner, patch in zip(overlay.corners, overlay.weights, strict=True):
        (rows, down), (columns, across) = map(weights_of, corner, patch.shape, overlay.image.shape)
        place = np.ix_(rows, columns)
        strength[place] = np.maximum(strength[place], down @ (patch / patch.max()) @ across.T)
    image, clean = (_resize(array, size) for array in (overlay.image, overlay.clean))
    return image, strength.astype(np.float32), clean, strength > 0


def clean_at_model_resolution(slice_: np.ndarray, size: int, brain_intensity: float) -> np.ndarray:
    """Return a slice without lesions as a network sees it: float32 array (size, size), range [0, brain_intensity].

    It equals the `clean` of `to_model_resolution` for the same slice. Raises OverlayError if there is no brain in it.
    """
    return _resize(_rescale(_checked_slice(slice_), 0.0, brain_intensity), size)


def lesion_masks(strength: np.ndarray, mask_threshold: float) -> np.ndarray:
    """Return the pixels where a lesion reaches `mask_threshold` of its patch's maximum, bool array of the same shape.

    At a threshold of 0, as published, those where the resized ground truth is above 0.
    """
    if not 0 <= mask_threshold < 1:
        raise OverlayError(f"mask_threshold must be in [0, 1), not {mask_threshold}")
    return strength >= np.float32(mask_threshold) if mask_threshold > 0 else strength > 0


def _resize(array: np.ndarray, size: int) -> np.ndarray:
    """Return what `skimage.transform.resize(array, (size, size))` returns, as float32 and some ten times as fast."""
    rows, columns = (_resize_matrix(length, size)[1] for length in array.shape)
    return (columns @ (rows @ array).T).T.astype(np.float32)


@lru_cache(maxsize=16)
def _resize_matrix(length: int, size: int) -> tuple[np.ndarray, sparse.csr_array]:
    """Return the (size, length) matrix of skimage's resize along one axis, dense and sparse.

    With its defaults `resize` is linear and separable, so that resizing all unit vectors tells everything about it.
    Its clipping to the input's range does nothing, because the rows hold weights >= 0 that sum to 1.
    """
    dense = transform.resize(np.eye(length), (size, length))
    return dense, sparse.csr_array(dense)


def _sum_of(patches: Sequence[np.ndarray], corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Add the patches up on an empty image."""
    total = np.zeros(shape)
    for patch, corner in zip(patches, corners, strict=True):
        total[_window(corner, patch.shape)] += patch
    return total


def _window(corner: Iterable[int], shape: Iterable[int]) -> tuple[slice, slice]:
    """Return the index of the box of `shape` whose top-left pixel is `corner`."""
    (row, column), (height, width) = corner, shape
    return np.s_[row : row + height, column : column + width]


def _rescale(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [min, max] to [low, high]."""
    least, most = array.min(), array.max()
    return (array - least) / (most - least) * (high - low) + low


def _checked_slice(slice_: np.ndarray) -> np.ndarray:
    """Return the slice as float64 if it is a finite 2-D array with a brain in it."""
    slice_ = np.asarray(slice_, dtype=np.float64)
    if slice_.ndim != 2 or not np.isfinite(slice_).all():
        raise OverlayError(f"a slice must have the shape (h, w), not {slice_.shape}, and only finite pixels")
    if not (slice_ > 0).any() or slice_.min() == slice_.max():
        raise OverlayError("a slice must hold a brain, above a background of 0")
    return slice_
