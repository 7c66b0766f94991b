"""Arrays: their types in signatures, and the memory that they are made in.

Docstrings give shapes, units and ranges. An array of any type is `np.ndarray`.
"""

import ctypes
import sys

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
PerImage = NDArray[np.float64]  # one number per image, shape (n_images,)

#: glibc's numbers of the parameters of `mallopt`
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next array; else it gets every large one anew from the system.

    Elsewhere than on Linux nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_MMAP_THRESHOLD, 1 << 25)  # the most that glibc accepts
