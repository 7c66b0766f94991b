"""Edge filters and the image itself as maps that know nothing of any network, to compare explanations with."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage


def comparison_maps(images: ArrayLike, name: str, *, signed_edges: bool = False) -> np.ndarray:
    """Return a map of each image that does not depend on a network.

    Parameters
    ----------
    images : float array of shape (n_images, height, width), range [0, 1]
        Grey images: one of the three equal channels.
    name : str
        A key of `COMPARISON_MAPS`.
    signed_edges : bool
        As the released code has it: Sobel along the rows only, and signed; the Laplacian signed.

    Returns
    -------
    float array of shape (n_images, height, width)
        >= 0, unless `signed_edges`.

    Raises
    ------
    ValueError
        If the shape is another, a value is negative or not finite, or `name` is unknown.
    """
    images = np.asarray(images)
    images = images if np.issubdtype(images.dtype, np.floating) else images.astype(np.float64)
    if name not in COMPARISON_MAPS:
        raise ValueError(f"unknown comparison map {name!r}; known are {', '.join(COMPARISON_MAPS)}")
    if images.ndim != 3:
        raise ValueError(f"images have shape {images.shape}, (n_images, height, width) is expected: give one channel")
    bad = np.flatnonzero(~((images >= 0) & np.isfinite(images)).all(axis=(1, 2)))
    if len(bad):
        raise ValueError(f"images {', '.join(map(str, bad[:10]))} have negative, NaN or infinite values")
    maps = [COMPARISON_MAPS[name](image, signed_edges) for image in images]
    return np.stack(maps) if maps else images


def _sobel(image: np.ndarray, signed_edges: bool) -> np.ndarray:
    """Gradient magnitude, or the derivative along the rows.

    The released code filters a copy in three equal channels, which only multiplies this by 4: no score changes.
    """
    along_rows = ndimage.sobel(image, axis=-1)
    return along_rows if signed_edges else np.hypot(along_rows, ndimage.sobel(image, axis=-2))


def _laplace(image: np.ndarray, signed_edges: bool) -> np.ndarray:
    """Absolute Laplacian, or signed; its term across three equal channels, as in the released code, is 0."""
    laplacian = ndimage.laplace(image)
    return laplacian if signed_edges else np.abs(laplacian)


def _intensity(image: np.ndarray, signed_edges: bool) -> np.ndarray:
    return image


#: each takes one image (height, width) and whether edges are signed
COMPARISON_MAPS: Mapping[str, Callable[[np.ndarray, bool], np.ndarray]] = {
    "sobel": _sobel,
    "laplace": _laplace,
    "intensity": _intensity,
}
