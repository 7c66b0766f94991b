"""Which slices can carry lesions, and how slices of different shapes get one shape."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

#: more of a slice's border than this is not background: the skull is not stripped
MAX_BORDER_SHARE = 0.5


class BadFileError(Exception):
    """A file can't be used; the message says why, without the file's name."""


@dataclass(frozen=True)
class Cut:
    """The slices of one file.

    Attributes
    ----------
    slices : float32 array of shape (n, height, width), range [0, 1]
        Background 0; the largest value is 1. One factor for all of a file, nothing is cut off.
    z : float array of shape (n,)
        Their heights in mm, or their numbers where heights are not known.
    rejected : dict from the z of a slice that can't be used to the reason
    """

    slices: np.ndarray
    z: np.ndarray
    rejected: dict[float, str]


@dataclass(frozen=True)
class Frame:
    """The one shape of all slices of a study.

    Where slices have several shapes, or another shape is asked for, every brain is put into the middle: by the box around
    all brain pixels of its file, to the pixel. Pixels around it are background, and no brain is cut. Else nothing moves.
    """

    shape: tuple[int, int]
    moves: bool

    @classmethod
    def of(cls, shapes: Set[tuple[int, int]], wanted: list[int] | None) -> "Frame":
        """Return the frame for slices of these shapes: `wanted`, or their largest height and width."""
        largest = max(height for height, _ in shapes), max(width for _, width in shapes)
        shape = (wanted[0], wanted[1]) if wanted else largest
        return cls(shape, shapes != {shape})

    def fit(self, slices: np.ndarray) -> np.ndarray:
        """Return slices of shape (n, height, width) with background 0 in the shape of the frame.

        Raises
        ------
        BadFileError
            The brain is larger than the frame.
        """
        if not self.moves:
            return slices
        brain = slices.any(axis=0)
        top, bottom = np.flatnonzero(brain.any(axis=1))[[0, -1]]
        left, right = np.flatnonzero(brain.any(axis=0))[[0, -1]]
        box = slices[:, top : bottom + 1, left : right + 1]
        room = np.array(self.shape) - box.shape[1:]
        if room.min() < 0:
            raise BadFileError("its brain of {1} x {2} pixels does not fit into slices.shape".format(*box.shape))
        framed = np.zeros((len(slices), *self.shape), slices.dtype)
        row, column = room // 2
        framed[:, row : row + box.shape[1], column : column + box.shape[2]] = box
        return framed


def slice_problem(image: np.ndarray, min_brain_share: float) -> str | None:
    """Return why a slice can't carry lesions, or None if it can.

    Parameters
    ----------
    image : array of shape (height, width)
        Pixels above 0 are brain.
    min_brain_share : float
        The least share of pixels that must be brain; there must be some in any case.
    """
    if not np.isfinite(image).all():
        return f"{np.count_nonzero(~np.isfinite(image)):,} of {image.size:,} pixels are not finite"
    brain = image > 0
    share = brain.mean()
    if share < min_brain_share or share == 0:
        return f"brain share {share:.3f}, at least {max(min_brain_share, 1 / image.size):.2g} is expected"
    values = image[brain]
    if values.min() == values.max():
        return f"all its brain has the value {values[0]:g}"
    border = np.concatenate([brain[[0, -1]].ravel(), brain[:, [0, -1]].ravel()]).mean()
    if border > MAX_BORDER_SHARE:
        return f"{border:.0%} of its border is above 0: not skull-stripped, or without a background of 0"
    return None


def good_slices(images: np.ndarray, z: np.ndarray, min_brain_share: float) -> tuple[np.ndarray, dict[float, str]]:
    """Return the places of the slices that can carry lesions, and why the others can't, by their z.

    Raises
    ------
    BadFileError
        No slice can.
    """
    if not len(images):
        raise BadFileError("it has no slices")
    problems = [slice_problem(image, min_brain_share) for image in images]
    good = np.array([place for place, problem in enumerate(problems) if problem is None], dtype=int)
    rejected = {float(z[place]): problem for place, problem in enumerate(problems) if problem}
    if not len(good):
        few = f"none of its {len(images)} slices can be used, in the middle: " if len(images) > 1 else ""
        raise BadFileError(few + list(rejected.values())[len(rejected) // 2])
    return good, rejected


def unit_range(slices: np.ndarray) -> np.ndarray:
    """Return slices as float32 in [0, 1]: values below 0 are background, the largest becomes 1."""
    slices = np.maximum(np.asarray(slices, dtype=np.float64), 0)
    return (slices / slices.max()).astype(np.float32)
