"""How many different methods there are: correlations of their scores and of their maps."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from pretrain_xai.arrays import Floats
from pretrain_xai.skill import Skills

#: above this correlation two methods are named as one
SAME = 0.99


def score_correlation(skills: Skills) -> pd.DataFrame:
    """Return Spearman's correlation of methods' skills over images, mean over networks; (n_methods, n_methods).

    Within each network, so that methods do not correlate because some networks are better than others.
    """
    return pd.DataFrame(spearman(skills.values).mean(0), skills.methods, skills.methods)


def map_correlation(maps: Iterable[Mapping[str, np.ndarray]], methods: Sequence[str]) -> pd.DataFrame:
    """Return Spearman's correlation of methods' maps over pixels, mean over networks and images; (n_methods, n_methods).

    Parameters
    ----------
    maps : of each network the arrays of shape (n_images, height, width) by method
    """
    stacks = (np.stack([network[method] for method in methods], axis=1) for network in maps)
    matrices = [spearman(stack.reshape(*stack.shape[:2], -1)) for stack in stacks]
    return pd.DataFrame(np.concatenate(matrices).mean(0), methods, methods)


def spearman(values: ArrayLike) -> Floats:
    """Return rank correlations of rows: (..., n_rows, n) gives (..., n_rows, n_rows); a constant row correlates by 0."""
    ranks = rankdata(np.asarray(values), axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    length = np.sqrt((ranks**2).sum(-1, keepdims=True))
    unit = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    matrix = unit @ np.swapaxes(unit, -1, -2)
    n = matrix.shape[-1]
    matrix[..., np.arange(n), np.arange(n)] = 1
    return np.clip(matrix, -1, 1)


def effective_number(correlation: ArrayLike) -> dict[str, float]:
    """Return how many independent methods would be as diverse: between 1 and n_methods.

    Returns
    -------
    dict with `participation_ratio`, (sum of eigenvalues)² / sum of their squares, and `entropy`, exp of the entropy of the
    eigenvalues' shares (Roy and Vetterli 2007).
    """
    eigenvalues = np.clip(np.linalg.eigvalsh(np.asarray(correlation, dtype=np.float64)), 0, None)
    shares = eigenvalues / eigenvalues.sum()
    positive = shares[shares > 0]
    entropy = float(np.exp(-(positive * np.log(positive)).sum()))
    return {"participation_ratio": float(1 / (shares**2).sum()), "entropy": entropy}


def effective_numbers(correlations: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the effective numbers of methods by kind of correlation: `of`, `n_methods`, `participation_ratio`, `entropy`."""
    rows = [{"of": kind, "n_methods": len(matrix)} | effective_number(matrix) for kind, matrix in correlations.items()]
    return pd.DataFrame(rows)


def redundancy_table(correlations: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per pair of methods, most alike first: `method`, `other`, a column per kind of correlation, `same`.

    `same` says that every kind of correlation is above SAME.

    Parameters
    ----------
    correlations : dict such as {"scores": matrix, "maps": matrix}
    """
    methods = next(iter(correlations.values())).index
    first, second = np.triu_indices(len(methods), 1)
    kinds = {kind: matrix.to_numpy()[first, second] for kind, matrix in correlations.items()}
    table = pd.DataFrame({"method": methods[first], "other": methods[second]} | kinds)
    table["same"] = (table[list(kinds)] > SAME).all(axis=1)
    return table.sort_values([*kinds, "method"], ascending=False, ignore_index=True)
