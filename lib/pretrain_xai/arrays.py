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


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next array; else it gets every large one anew from the system.

    Elsewhere than on Linux nothing is done.
    """
    if sys.platform == "linux":
        for parameter, most in ((-1, 1 << 30), (-3, 1 << 25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, most)
