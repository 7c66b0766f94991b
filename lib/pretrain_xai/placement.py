"""Where the lesions of a slice go: by their corners, as published, or by their centres, whatever their class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

#: corrected placement: begin the slice anew after so many rejected positions in a row
RESTART_AFTER = 200

Draw = Callable[[int, int], int]  # a whole number from low (included) to high (excluded)


class OverlayError(ValueError):
    """A slice that cannot carry the lesions, or settings that cannot be met."""


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
    raise _no_room(name, f"no room for {len(veils)} lesions within {max_attempts} attempts")


def place_centres(
    brain: np.ndarray, joint: Sequence[np.ndarray], largest: np.ndarray, draw: Draw, max_attempts: int, name: str
) -> Placement:
    """Place lesions by their centres, knowing nothing of the class.

    Candidates are the pixels around which the largest box of all (`largest`) lies in the brain. A centre is accepted
    if its `joint` shape, which covers a drawn patch of either class, meets no earlier one. So the centres would have
    been the same for the other class.

    Parameters
    ----------
    brain : bool array of shape (h, w)
    joint : bool arrays, one per lesion
        From `joint_shape`.
    largest : int array of shape (2,)
        Height and width of a box that covers every patch of both pools.
    """
    fits = ndimage.minimum_filter(brain.astype(np.uint8), size=tuple(largest), mode="constant", cval=0)
    candidates = np.flatnonzero(fits)
    if not len(candidates):
        raise _no_room(name, f"the largest lesion box, {largest[0]} x {largest[1]} px, fits nowhere in the brain")
    placed, rejected, taken = Placement(), 0, np.zeros(brain.shape, dtype=bool)
    for _ in range(max_attempts):
        shape = joint[len(placed.pixels)]
        rank = int(draw(0, len(candidates)))
        placed.drawn.append(rank)
        centre = divmod(int(candidates[rank]), brain.shape[1])
        place = window(tuple(np.array(centre) - np.array(shape.shape) // 2), shape.shape)
        if not (taken[place] & shape).any():
            rejected = 0
            taken[place] |= shape
            placed.pixels.append(centre)
            placed.accepted.append(rank)
            if len(placed.pixels) == len(joint):
                return placed
        elif (rejected := rejected + 1) == RESTART_AFTER:
            rejected = 0
            taken[:] = False
            placed.pixels.clear()
            placed.accepted.clear()
    raise _no_room(name, f"no room for {len(joint)} lesions within {max_attempts} attempts")


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


def _no_room(name: str, reason: str) -> OverlayError:
    return OverlayError(f"{name}: {reason}; leave this slice out, or use smaller lesions or larger slices")
