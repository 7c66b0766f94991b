"""Metrics of Quantus as scores: `quantus:<class>` in a study file. Quantus is an extra, imported when it is named."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from pretrain_xai.arrays import PerImage
from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.localization.masked_maps import MaskedMaps, masked_maps

#: what a study file writes before the name of a metric
PREFIX = "quantus:"
#: the metrics that need maps and masks alone; the others need the network
METRICS = (
    *("AttributionLocalisation", "AUC", "PointingGame", "RelevanceMassAccuracy", "RelevanceRankAccuracy"),
    *("TopKIntersection", "Complexity", "EffectiveComplexity", "Sparseness"),
)


def quantus_score(name: str) -> Callable[..., PerImage]:
    """Return the score of `quantus:<class>` as a function of `(maps, masks)`.

    It computes the metric at Quantus' own defaults, one image at a time: some of its batches normalise over all images.

    Raises
    ------
    UserError
        If Quantus has no such metric that needs maps and masks alone, or is not installed.
    """
    metric = name.removeprefix(PREFIX)
    if metric not in METRICS:
        known = f"the metrics of Quantus that need maps and masks alone are {', '.join(METRICS)}"
        raise UserError(f"{name!r}: no metric {metric!r}{did_you_mean(metric, METRICS)}; {known}")
    if importlib.util.find_spec("quantus") is None:
        raise UserError(f"the score {name!r} needs Quantus: .venv/bin/pip install -e '.[quantus]'")

    def score(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None = None) -> PerImage:
        import quantus

        given, found = masked_maps(maps, masks), []
        compute = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False)
        shape = (1, 1, *given.shape)
        unused = {"model": None, "x_batch": np.zeros(shape), "y_batch": np.zeros(1, dtype=int)}
        for image, values, inside in zip(given.image_ids, given.values, given.inside, strict=True):
            map_ = values.astype(np.float64).reshape(shape)  # a copy: Quantus writes into it
            try:
                with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
                    found += compute(**unused, a_batch=map_, s_batch=inside.reshape(shape))
            except (AssertionError, ValueError) as error:
                raise UserError(f"{name} can't score the map of image {image}: {error}") from None
        return np.array(found, dtype=np.float64)

    return score
