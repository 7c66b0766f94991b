"""One map of an attribution's three channels."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Reduction = Literal["sum_abs", "abs_sum", "luminance"]

#: weights of red, green and blue (ITU-R BT.601), as in the released code; their sum is 0.9999
LUMINANCE = (0.2989, 0.5870, 0.1140)


def reduce_channels(attributions: ArrayLike, how: Reduction = "sum_abs") -> np.ndarray:
    """Make one nonnegative map of the three channels of signed attributions.

    Parameters
    ----------
    attributions : float array of shape (n_images, 3, height, width)
    how : "sum_abs", "abs_sum" or "luminance"
        Absolute value of the sum (the channels are copies of one grey image, whose attribution is the sum); sum of the
        absolute values; or sum of the absolute values times `LUMINANCE` (as published).

    Returns
    -------
    float array of shape (n_images, height, width), >= 0

    Raises
    ------
    ValueError
        If the shape is another or `how` is unknown.
    """
    attributions = np.asarray(attributions)
    if attributions.ndim != 4 or attributions.shape[1] != 3:
        raise ValueError(f"attributions have shape {attributions.shape}, (n_images, 3, height, width) is expected")
    if how not in REDUCTIONS:
        raise ValueError(f"unknown channel reduction {how!r}; known are {', '.join(REDUCTIONS)}")
    return REDUCTIONS[how](attributions)


REDUCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum_abs": lambda attributions: np.abs(attributions.sum(1)),
    "abs_sum": lambda attributions: np.abs(attributions).sum(1),
    "luminance": lambda attributions: np.einsum(
        "nchw,c->nhw", np.abs(attributions), np.asarray(LUMINANCE, dtype=attributions.dtype)
    ),
}
