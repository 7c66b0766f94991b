"""Numbers of a sample beside those of its resamples, all in one step.

Subjects are drawn with replacement, and all images of a subject with it (the cluster bootstrap), since images of one
subject are alike. A resample is a weight per image: how often its subject was drawn. Column 0 of all
weights and results is the sample itself, with weight 1 for every image, so that whatever is computed from a result holds
its own resamples.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def subject_weights(subjects: Iterable[str], n_resamples: int, seed: int) -> pd.DataFrame:
    """Return how often each subject is drawn in the sample itself (column 0: once) and in each resample.

    Returns
    -------
    DataFrame of float, shape (n_subjects, 1 + n_resamples), a row per subject, sorted.
    """
    names = sorted(set(subjects))
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    return pd.DataFrame(np.vstack([np.ones(len(names)), drawn]).T, index=names)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the median of `values` repeated as often as `weights` say, for every column of weights.

    Parameters
    ----------
    values : float array of shape (n,)
    weights : float array of shape (n, r), whole numbers

    Returns
    -------
    float array of shape (r,); NaN where all weights are 0.
    """
    order = np.argsort(values, kind="stable")
    ordered, reached = values[order], np.cumsum(weights[order], axis=0)
    half = reached[-1] / 2
    lower = ordered[np.minimum((reached < half).sum(axis=0), len(values) - 1)]
    upper = ordered[np.minimum((reached <= half).sum(axis=0), len(values) - 1)]
    return np.where(half > 0, (lower + upper) / 2, np.nan)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of `values` (n,) for every column of `weights` (n, r); NaN where all weights are 0."""
    with np.errstate(invalid="ignore"):
        return values @ weights / weights.sum(axis=0)


def weighted_classification(
    label: np.ndarray, predicted: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each classification metric for every column of weights; as `classification.classification_metrics`.

    Parameters
    ----------
    label, predicted : int array of shape (n,), 0 or 1
    score : float array of shape (n,)
        Larger means class 1.
    weights : float array of shape (n, r)

    Returns
    -------
    dict of float arrays of shape (r,); NaN where a class has no weight.
    """
    right, positive = (label == predicted).astype(np.float64), label == 1
    _, level = np.unique(-score, return_inverse=True)
    counts = np.zeros((2, level.max() + 1, weights.shape[1]))  # at each score, the highest first
    np.add.at(counts, (positive.astype(int), level), weights)
    misses, hits = counts
    found, taken = np.cumsum(hits, axis=0), np.cumsum(hits + misses, axis=0)
    above = found - hits / 2  # positives above each negative, a tie counts half
    with np.errstate(invalid="ignore"):
        return {
            "auroc": (misses * above).sum(axis=0) / (found[-1] * misses.sum(axis=0)),
            "auprc": (hits * np.nan_to_num(found / taken)).sum(axis=0) / found[-1],
            "accuracy": weighted_mean(right, weights),
            "sensitivity": weighted_mean(right[positive], weights[positive]),
            "specificity": weighted_mean(right[~positive], weights[~positive]),
        }


def kendall_tau(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b between the columns of two float arrays of shape (n, r)."""
    one, other = np.triu_indices(len(first), k=1)
    signs = [np.sign(values[one] - values[other]) for values in (first, second)]
    untied = [np.abs(sign).sum(axis=0) for sign in signs]
    with np.errstate(invalid="ignore"):
        return (signs[0] * signs[1]).sum(axis=0) / np.sqrt(untied[0] * untied[1])
