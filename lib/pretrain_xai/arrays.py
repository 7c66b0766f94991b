"""The types of arrays in signatures; docstrings give shapes, units and ranges. An array of any type is `np.ndarray`."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
PerImage = NDArray[np.float64]  # one number per image, shape (n_images,)
