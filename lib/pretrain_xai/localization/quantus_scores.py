"""Metrics of Quantus as scores: `quantus:<class>` in a study file. Quantus is an extra, imported when it is named."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from pretrain_xai.arrays import PerImage
from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.localization.masked_maps import MaskedMaps, masked_maps

#: what a study file writes before the name of a metric
PREFIX = "quantus:"
#: the metrics that need maps and masks alone, and whether higher is better; the others need the network
METRICS = {
    "AttributionLocalisation": True,
    "AUC": True,
    "PointingGame": True,
    "RelevanceMassAccuracy": True,
    "RelevanceRankAccuracy": True,
    "TopKIntersection": True,
    "Complexity": False,
    "EffectiveComplexity": False,
    "Sparseness": True,
}


class QuantusError(UserError):
    """A metric of Quantus can't be computed."""


def quantus_score(name: str) -> tuple[Callable[..., PerImage], bool]:
    """Return the score of `quantus:<class>` as a function of `(maps, masks)`, and whether higher is better.

    Raises
    ------
    QuantusError
        If Quantus has no such metric that needs maps and masks alone, or is not installed.
    """
    metric = name.removeprefix(PREFIX)
    if metric not in METRICS:
        raise QuantusError(
            f"{name!r}: no metric {metric!r}{did_you_mean(metric, METRICS)}; "
            f"the metrics of Quantus that need maps and masks alone are {', '.join(METRICS)}"
        )
    if importlib.util.find_spec("quantus") is None:
        raise QuantusError(f"the score {name!r} needs Quantus: .venv/bin/pip install -e '.[quantus]'")
    return partial(_computed, metric=metric), METRICS[metric]


def _computed(maps: ArrayLike | MaskedMaps, masks: ArrayLike | None = None, *, metric: str) -> PerImage:
    """Compute a metric at Quantus' own defaults, one image at a time: some of its batches normalise over all images."""
    import quantus

    given = masked_maps(maps, masks)
    compute = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False)
    return np.array([_of_one(compute, given, row) for row in range(len(given))], dtype=np.float64)


def _of_one(compute: Callable[..., Sequence[float]], given: MaskedMaps, row: int) -> float:
    shape = (1, 1, *given.shape)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            (value,) = compute(
                model=None,
                x_batch=np.zeros(shape),
                y_batch=np.zeros(1, dtype=int),
                a_batch=given.values[row].astype(np.float64).reshape(shape),  # a copy: Quantus writes into it
                s_batch=given.inside[row].reshape(shape),
            )
    except (AssertionError, ValueError) as error:
        image, name = given.image_ids[row], type(compute).__name__
        raise QuantusError(f"quantus:{name} can't score the map of image {image}: {error}") from None
    return float(value)
