"""Maps to score: one of an attribution's three channels, and of an image alone, which knows nothing of any network."""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.ndimage import laplace, sobel

from pretrain_xai.protocol import ChannelReduction, Sign

#: weights of red, green and blue (ITU-R BT.601), as in the released code; their sum is 0.9999
LUMINANCE = (0.2989, 0.5870, 0.1140)
#: what counts of signed values
_PARTS: Mapping[Sign, Callable[[np.ndarray], np.ndarray]] = {
    "unsigned": np.abs,
    "positive": lambda values: np.maximum(values, 0),
    "negative": lambda values: np.maximum(-values, 0),
}

#: each takes one image (height, width) and whether edges are signed: gradient magnitude or the derivative along the rows,
#: and the absolute or signed Laplacian. The released code filters a copy in three equal channels, which only multiplies
#: the Sobel filter by 4: no score changes.
COMPARISON_MAPS: Mapping[str, Callable[[np.ndarray, bool], np.ndarray]] = {
    "sobel": lambda image, signed: sobel(image, -1) if signed else np.hypot(sobel(image, -1), sobel(image, -2)),
    "laplace": lambda image, signed: laplace(image) if signed else np.abs(laplace(image)),
    "intensity": lambda image, signed: image,
}


def reduce_channels(attributions: np.ndarray, how: ChannelReduction = "sum_abs", sign: Sign = "unsigned") -> np.ndarray:
    """Make one nonnegative map of the three channels of signed attributions.

    Parameters
    ----------
    attributions : float array of shape (n_images, 3, height, width)
    how : "sum_abs", "abs_sum" or "luminance"
        Absolute value of the sum (the channels are copies of one grey image, whose attribution is the sum); sum of the
        absolute values; or sum of the absolute values times `LUMINANCE` (as published).
    sign : "unsigned", "positive" or "negative"
        The absolute value, or in its place the part above or below 0: what speaks for the class, or against it. The unsigned
        map is the sum of the other two. A map without negative values, such as Grad-CAM's, is the same unsigned and
        positive, and 0 everywhere by its negative values, which score chance.

    Returns
    -------
    float array of shape (n_images, height, width), >= 0

    Raises
    ------
    ValueError
        If `how` is unknown.
    """
    if how == "sum_abs":
        return _PARTS[sign](attributions.sum(1))
    if how == "abs_sum":
        return _PARTS[sign](attributions).sum(1)
    if how == "luminance":
        return np.einsum("nchw,c->nhw", _PARTS[sign](attributions), np.asarray(LUMINANCE, dtype=attributions.dtype))
    raise ValueError(f"unknown channel reduction {how!r}; known are sum_abs, abs_sum, luminance")


def comparison_maps(images: np.ndarray, name: str, *, signed_edges: bool = False) -> np.ndarray:
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
    """
    return np.array([COMPARISON_MAPS[name](image, signed_edges) for image in images])
