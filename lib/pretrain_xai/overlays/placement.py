"""Where the lesions of a slice go: by their corners, as published, or by their centres, whatever their class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pretrain_xai.errors import UserError

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
        pixels = np.zeros((brain.shape[0] + 1, brain.shape[1] + 1), dtype=np.int32)  # above and left of each corner
        brain.cumsum(axis=0, out=pixels[1:, 1:]).cumsum(axis=1, out=pixels[1:, 1:])
        bands = pixels[height:] - pixels[:-height]
        inside = bands[:, width:] - bands[:, :-width] == height * width
        fits[window((height // 2, width // 2), inside.shape)] = inside
    candidates = np.flatnonzero(fits)
    if not len(candidates):
        raise no_room(name, f"the largest lesion box, {largest[0]} x {largest[1]} px, fits nowhere in the brain")
    return candidates


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
    height, width = np.maximum(one.shape, other.shape)
    joint = np.zeros((height, width), dtype=bool)
    for patch in (one, other):
        corner = np.array(joint.shape) // 2 - np.array(patch.shape) // 2
        joint[window(tuple(corner), patch.shape)] |= patch > 0
    return joint


def window(corner: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the index of the box of `shape` whose top-left pixel is `corner`."""
    (top, left), (height, width) = corner, shape
    return slice(top, top + height), slice(left, left + width)


def no_room(name: str, reason: str) -> NoRoomError:
    """Return the error for a slice that can't hold its lesions."""
    return NoRoomError(f"{name}: {reason}; leave this slice out, or use smaller lesions or larger slices")
