"""Which lesions a slice carries and where: by their corners, as published, or by their centres, whatever their class."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pretrain_xai.errors import UserError
from pretrain_xai.lesions import CLASSES, LesionPatch
from pretrain_xai.protocol import Protocol

#: lesions per slice, smallest and largest number
FEWEST, MOST = 3, 5
#: corrected placement: other patches are drawn after so many rejected positions in a row
STUCK_AFTER = 200

Draw = Callable[[int, int], int]  # a whole number from low (included) to high (excluded)


class OverlayError(UserError):
    """A slice that cannot carry the lesions, or settings that cannot be met."""


class NoRoomError(OverlayError):
    """A slice on which the lesions find no place."""


@dataclass
class Placement:
    """Positions that were drawn and accepted."""

    pixels: list[tuple[int, int]] = field(default_factory=list)  # where the lesions go
    accepted: list[int] = field(default_factory=list)  # the ranks of these among the candidates
    drawn: list[int] = field(default_factory=list)  # all ranks drawn


@dataclass(frozen=True, eq=False, kw_only=True)
class PlacedLesions:
    """The lesions of a slice, and where each came from.

    Attributes
    ----------
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
        return box_shapes(self.weights)

    @property
    def centres(self) -> np.ndarray:
        """Row and column of the middle pixel of each box, int array of shape (n_lesions, 2)."""
        return self.corners + self.boxes // 2


def place_lesions(
    brain: np.ndarray,
    patches: Mapping[str, list[LesionPatch]],
    seed: int,
    protocol: Protocol,
    *,
    lesion_intensity: float = 0.5,
    max_attempts: int = 100_000,
    name: str = "slice",
) -> PlacedLesions:
    """Draw the lesions of a slice and find a place for each; parameters and errors are those of `overlay_lesions`.

    Parameters
    ----------
    brain : bool array of shape (h, w)
        The pixels above 0.
    """
    _check_settings(patches, protocol, lesion_intensity, name)
    streams = _Streams.of(seed, protocol)
    n_lesions, label = streams.number(FEWEST, MOST + 1), streams.label(0, 2)
    if protocol.corner_placement:
        chosen = _patch_orders(streams, label, patches, protocol)[CLASSES[label]][:n_lesions]
        weights = _weights(patches[CLASSES[label]], chosen)
        veiled = veils(weights, protocol, lesion_intensity)
        placed = place_corners(brain, veiled, streams.position, max_attempts, name)
        corners = np.array(placed.pixels)
    else:
        placed, chosen = _place_either(brain, patches, streams, (n_lesions, label), protocol, max_attempts, name)
        weights = _weights(patches[CLASSES[label]], chosen)
        corners = np.array(placed.pixels) - box_shapes(weights) // 2
    return PlacedLesions(
        label=int(label),
        corners=corners,
        weights=tuple(weights),
        patch_indices=chosen,
        candidate_indices=np.array(placed.accepted),
        drawn_indices=np.array(placed.drawn),
        name=name,
    )


def _place_either(
    brain: np.ndarray,
    patches: Mapping[str, list[LesionPatch]],
    streams: "_Streams",
    drawn: tuple[int, int],
    protocol: Protocol,
    max_attempts: int,
    name: str,
) -> tuple[Placement, np.ndarray]:
    """Place lesions where those of either class would lie; `drawn` are their number and their label."""
    n_lesions, label = drawn
    largest = np.array([max(sides) for sides in zip(*_patch_shapes(patches), strict=True)])
    candidates = centre_candidates(brain, largest, name)
    placed = Placement()
    # the largest patches may not fit together: then others are drawn, of both classes alike
    while len(placed.pixels) < n_lesions:
        orders = _patch_orders(streams, label, patches, protocol)
        pairs = zip(*(_weights(patches[pool], orders[pool][:n_lesions]) for pool in CLASSES), strict=True)
        joint = [joint_shape(*pair) for pair in pairs]
        placed = place_centres(brain.shape, candidates, joint, streams.position, placed.drawn)
        if len(placed.drawn) > max_attempts:
            raise no_room(name, f"no room for {n_lesions} lesions within {max_attempts} attempts")
    return placed, orders[CLASSES[label]][:n_lesions]


def draw_label(seed: int, protocol: Protocol) -> int:
    """Return the label, 0 round or 1 irregular, that `overlay_lesions` gives to every slice with this seed."""
    streams = _Streams.of(seed, protocol)
    streams.number(FEWEST, MOST + 1)  # comes first in the shared stream
    return int(streams.label(0, 2))


def place_corners(brain: np.ndarray, veils: list[np.ndarray], draw: Draw, max_attempts: int, name: str) -> Placement:
    """Place each patch by its top-left pixel, wherever nothing has been lightened in its box yet.

    A box that the image border cuts, where the released code fails, does not fit.
    """
    untouched = brain.astype(float)
    candidates = np.flatnonzero(brain)
    placed = Placement()
    for _ in range(max_attempts):
        veil = veils[len(placed.pixels)]
        rank = int(draw(0, len(candidates)))
        placed.drawn.append(rank)
        corner = divmod(int(candidates[rank]), brain.shape[1])
        box = untouched[window(corner, veil.shape)]
        if box.shape == veil.shape and (box == 1).all():
            box -= veil
            placed.pixels.append(corner)
            placed.accepted.append(rank)
            if len(placed.pixels) == len(veils):
                return placed
    raise no_room(name, f"no room for {len(veils)} lesions within {max_attempts} attempts")


def centre_candidates(brain: np.ndarray, largest: np.ndarray, name: str) -> np.ndarray:
    """Return the pixels (row-major) around which the largest box of both pools lies in the brain.

    Parameters
    ----------
    brain : bool array of shape (h, w)
    largest : int array of shape (2,)
        Height and width of a box that covers every patch of both classes.
    """
    fits = np.zeros(brain.shape, dtype=bool)
    height, width = (int(length) for length in largest)
    if height <= brain.shape[0] and width <= brain.shape[1]:
        inside = _all_of_next(_all_of_next(brain, height).T, width).T
        fits[window((height // 2, width // 2), inside.shape)] = inside
    candidates = np.flatnonzero(fits)
    if not len(candidates):
        raise no_room(name, f"the largest lesion box, {largest[0]} x {largest[1]} px, fits nowhere in the brain")
    return candidates


def _all_of_next(flags: np.ndarray, count: int) -> np.ndarray:
    """Return where a row and those below, `count` in all, are true; the rows are doubled until they are so many."""
    reached = 1
    while reached < count:
        step = min(reached, count - reached)
        flags = flags[step:] & flags[:-step]
        reached += step
    return flags


def place_centres(
    shape: tuple[int, int], candidates: np.ndarray, joint: Sequence[np.ndarray], draw: Draw, drawn: Sequence[int] = ()
) -> Placement:
    """Place lesions by their centres, knowing nothing of the class.

    A centre is accepted if its joint shape, which covers a drawn patch of either class, meets no earlier one. So the
    centres would have been the same for the other class.

    Parameters
    ----------
    shape : (h, w)
        Of the slice.
    candidates : int array
        From `centre_candidates`.
    joint : bool arrays, one per lesion
        From `joint_shape`.
    drawn : sequence of int
        The ranks drawn before, if this is not the first try.

    Returns
    -------
    Placement
        With fewer pixels than lesions if STUCK_AFTER positions in a row were rejected.
    """
    placed, rejected, taken = Placement(drawn=list(drawn)), 0, np.zeros(shape, dtype=bool)
    while len(placed.pixels) < len(joint) and rejected < STUCK_AFTER:
        covered = joint[len(placed.pixels)]
        rank = int(draw(0, len(candidates)))
        placed.drawn.append(rank)
        centre = divmod(int(candidates[rank]), shape[1])
        place = window((centre[0] - covered.shape[0] // 2, centre[1] - covered.shape[1] // 2), covered.shape)
        if (taken[place] & covered).any():
            rejected += 1
            continue
        rejected = 0
        taken[place] |= covered
        placed.pixels.append(centre)
        placed.accepted.append(rank)
    return placed


def joint_shape(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the pixels that either of two patches covers when both have the same centre, bool array."""
    height, width = map(max, one.shape, other.shape)
    joint = np.zeros((height, width), dtype=bool)
    for patch in (one, other):
        corner = height // 2 - patch.shape[0] // 2, width // 2 - patch.shape[1] // 2
        joint[window(corner, patch.shape)] |= patch > 0
    return joint


def window(corner: Iterable[int], shape: Iterable[int]) -> tuple[slice, slice]:
    """Return the index of the box of `shape` whose top-left pixel is `corner`."""
    (top, left), (height, width) = corner, shape
    return slice(top, top + height), slice(left, left + width)


class _Legacy(threading.local):
    """Two legacy generators, seeded anew for each slice: making one takes longer than all that is drawn from it."""

    def __init__(self) -> None:
        self.pair = np.random.RandomState(0), np.random.RandomState(0)


_LEGACY = _Legacy()


@dataclass(frozen=True)
class _Streams:
    """Where number, class, order of the patches and positions are drawn from; with one seed, until the next slice."""

    number: Draw
    label: Draw
    orders: Mapping[str, Callable[[int], np.ndarray]]
    position: Draw

    @classmethod
    def of(cls, seed: int, protocol: Protocol) -> "_Streams":
        """Return one re-seeded legacy stream, as released, or five independent ones."""
        if protocol.shared_seed:
            # legacy `choice(np.arange(n))` is `randint(0, n)`, and `shuffle(list)` is `permutation(len(list))`
            one, again = _LEGACY.pair
            one.seed(seed)
            again.seed(seed)
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


def veils(weights: Sequence[np.ndarray], protocol: Protocol, lesion_intensity: float) -> list[np.ndarray]:
    """Return how much each patch lightens each of its pixels."""
    return [rescale(patch, protocol.lesion_floor, lesion_intensity) for patch in weights]


def rescale(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [min, max] to [low, high]."""
    least, most = array.min(), array.max()
    result = array - least
    result /= most - least
    result *= high - low
    result += low
    return result


def box_shapes(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return height and width of each array, int array of shape (n_arrays, 2)."""
    return np.array([array.shape for array in arrays])


def _check_settings(patches: Mapping[str, list[LesionPatch]], protocol: Protocol, intensity: float, name: str) -> None:
    sizes = {pool: len(patches.get(pool, ())) for pool in CLASSES}
    if min(sizes.values()) < MOST:
        raise OverlayError(f"{name}: at least {MOST} patches of each class are needed, there are {sizes}")
    if not 0 <= protocol.lesion_floor < intensity <= 1:
        raise OverlayError(
            f"{name}: 0 <= lesion_floor < lesion_intensity <= 1 must hold, not {protocol.lesion_floor} and {intensity}"
        )


def no_room(name: str, reason: str) -> NoRoomError:
    """Return the error for a slice that can't hold its lesions."""
    return NoRoomError(f"{name}: {reason}; leave this slice out, or use smaller lesions or larger slices")
