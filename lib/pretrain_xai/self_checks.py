"""What the scores of a network must be whatever the network: a table that breaks this stops the run that makes it.

A broken layer, a mask of another image or a map of another class leaves numbers behind that look like any others. The
checks recompute what they compare with, from masks and counts alone; `verify` runs them again on a finished study.
"""

import math
from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Integers
from pretrain_xai.dataset import Split
from pretrain_xai.errors import SelfCheckError, first_ten
from pretrain_xai.localization import SCORES, ConfusionCounts

#: metrics beside the scores of a study; completeness only of methods that promise it
COUNTED = (*ConfusionCounts._fields, "k", "all_zero")
DELTA = "completeness_delta"
#: scores that may leave [0, 1]
_UNBOUNDED = ("earth_mover_score", "earth_mover_top_k")
#: rounding of a quotient
ROUNDING = 1e-12


def check_scores(
    table: pd.DataFrame, split: Split, image_indices: Integers, methods: Collection[str], scores: Collection[str]
) -> pd.DataFrame:
    """Return the scores of one network if they can be right.

    Parameters
    ----------
    table : DataFrame with `method`, `image_index`, `label`, `metric`, `value`, `chance`
    split : Split
        Where the images are from; masks are counted anew.
    image_indices : int array of shape (n_images,)
        The images that were explained.
    scores : names of the study's scores

    Raises
    ------
    SelfCheckError
        One line: what does not hold.
    """
    # the share of an image that its lesion mask covers is the level of chance
    levels = pd.Series([split.masks[image].mean() for image in image_indices], index=image_indices, dtype=np.float64)
    reasons = [
        *wrong_rows(table, image_indices, methods, scores),
        *wrong_values(table, scores, n_pixels=int(np.prod(split.images.shape[1:3]))),
        *wrong_chance(table, levels, pd.Series(split.labels[image_indices], image_indices)),
    ]
    if reasons:
        raise SelfCheckError(f"the scores of {first_ten(sorted(methods))} can't be right: each {'; '.join(reasons)}")
    return table


def wrong_rows(
    table: pd.DataFrame, image_indices: Integers, methods: Collection[str], scores: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong if there is not exactly one row per method, image and metric."""
    columns = {"method": set(methods), "image_index": set(image_indices.tolist()), "metric": {*scores, *COUNTED}}
    rows, expected = table[table["metric"] != DELTA], math.prod(map(len, columns.values()))
    deltas = table.loc[table["metric"] == DELTA, "method"].astype(str).value_counts()
    right = len(rows) == expected and all(set(rows[name]) == values for name, values in columns.items())
    if not right or any(deltas != len(image_indices)) or table.duplicated([*columns]).any():
        yield f"has {len(rows)} rows, {expected} are expected: {' x '.join(columns)}, each once"


def wrong_values(table: pd.DataFrame, scores: Collection[str], n_pixels: int) -> Iterator[str]:
    """Yield what is wrong if scores leave their range or do not follow from the counts of pixels."""
    values = table.pivot_table(index=["method", "image_index"], columns="metric", values="value", aggfunc="first")
    bounded = [score for score in scores if score in SCORES and score not in _UNBOUNDED and score in values]
    if ((values[bounded] < -ROUNDING) | (values[bounded] > 1 + ROUNDING)).any(axis=None):
        yield "has scores outside of [0, 1]"
    counts = values.reindex(columns=[*ConfusionCounts._fields, "k", "relevance_rank_accuracy"])
    whole = counts[list(ConfusionCounts._fields)]
    inside = counts["true_positives"] + counts["false_negatives"]
    fits = np.isclose(whole.sum(axis=1), n_pixels) & (whole >= -ROUNDING).all(axis=1) & np.isclose(inside, counts["k"])
    if not (fits & np.isclose(counts["true_positives"] / inside, counts["relevance_rank_accuracy"])).all():
        yield "has counts of pixels and scores that do not belong together"


def wrong_chance(table: pd.DataFrame, shares: pd.Series, labels: pd.Series) -> Iterator[str]:
    """Yield what is wrong if the level of chance is not the masks' share, or a label not that of its image."""
    rows = table[table["metric"] == "relevance_rank_accuracy"]
    if not np.allclose(rows["chance"], rows["image_index"].map(shares), rtol=0, atol=ROUNDING):
        yield "has another level of chance than the masks"
    if not np.array_equal(rows["label"], rows["image_index"].map(labels)):
        yield "has other labels than the images"


def check_completeness(method: str, deltas: ArrayLike, difference: ArrayLike, tolerance: float | None) -> None:
    """Check that maps sum to the logit's difference to the black image, as their method promises.

    In the mean over all images of a network: a single map may miss more, where a quadrature of few steps is coarse.

    Parameters
    ----------
    deltas, difference : float arrays of shape (n_images,)
        By how much the maps' sums miss the difference, and the difference, in units of the logit.
    tolerance : float, optional
        The share of the difference, and of 1, that they may miss in the mean; at 1 a map of zeros would be nearer. None: any.

    Raises
    ------
    SelfCheckError
        They do not.
    """
    missed, allowed = np.abs(deltas).mean(), (tolerance or math.inf) * (1 + np.abs(difference).mean())
    if not missed <= allowed:  # neither if it is NaN
        what = f"the maps of {method} miss the logit's difference to a black image by {missed:.3g} in the mean"
        raise SelfCheckError(f"{what}, {allowed:.3g} at most is expected: not complete here, or too few steps")
