"""How much training again with another seed changes a number, from a few seeds of the same study."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from pretrain_xai.statistics.resampling import kendall_tau

#: share of the differences by retraining alone that lie inside the floor
LEVEL = 0.95


@dataclass(frozen=True)
class NoiseFloor:
    """Standard deviation between the seeds of a cell, by quantity, pooled over the cells; NaN with one seed."""

    deviation: pd.Series
    n_seeds: int
    n_cells: int

    @classmethod
    def between(cls, numbers: pd.DataFrame) -> "NoiseFloor":
        """Estimate the floor from one number per cell and quantity (rows; an index level `quantity`) and seed (columns)."""
        variance = numbers.var(axis=1, ddof=1).groupby("quantity").mean()
        return cls(np.sqrt(variance), numbers.shape[1], len(numbers.index.droplevel("quantity").unique()))

    def half_width(self, quantities: pd.Series, shares: pd.Series, n_other: int | None = 1) -> np.ndarray:
        """Return the half width within which a difference lies by retraining alone.

        Parameters
        ----------
        quantities : Series of the quantities of the differences
        shares : float Series of the same length
            Sum of the squared coefficients with which cells enter the difference: 1 for a cell, 1 / n for a mean of n cells.
        n_other : int or None
            Seeds of what the mean over the seeds is compared with; None: a constant.
        """
        if self.n_seeds < 2:
            return np.full(len(quantities), np.nan)
        quantile = stats.t.ppf((1 + LEVEL) / 2, self.n_cells * (self.n_seeds - 1))
        variance = 1 / self.n_seeds + (1 / n_other if n_other else 0)
        return quantile * self.deviation.reindex(quantities).to_numpy() * np.sqrt(variance * shares.to_numpy())


def order_floor(numbers: np.ndarray, seed: int, n_draws: int = 4000) -> float:
    """Return how much of Kendall's tau the order of methods loses by retraining alone, at most 95 times in 100.

    Orders are simulated: one set of seeds and the mean over all of them are drawn around the means of the methods. The noise
    has the covariance of the methods between sets of seeds, pooled over the cells, with the heavier tails of a t
    distribution, as the covariance is estimated. Neighbours whose means differ by less than the standard error of their
    difference are drawn as tied: centred on means that differ by chance, draws would keep their order too often.

    Parameters
    ----------
    numbers : float array of shape (n_seeds, n_cells, n_methods)

    Returns
    -------
    float, range [0, 2]: the 95 % quantile of 1 - tau; NaN with one set of seeds.
    """
    n_seeds, n_cells, n_methods = numbers.shape
    if n_seeds < 2:
        return np.nan
    freedom, rng = n_cells * (n_seeds - 1), np.random.default_rng(seed)
    residuals = (numbers - numbers.mean(axis=0)).reshape(-1, n_methods)
    centres = _ties_joined(numbers.mean(axis=(0, 1)), residuals, variance_of=freedom * n_cells * n_seeds)
    width = np.sqrt(freedom / rng.chisquare(freedom, (n_draws, 1)) / (freedom * n_cells))
    one, mean = (width * (rng.normal(size=(n_draws, len(residuals))) @ residuals) for _ in range(2))
    lost = 1 - kendall_tau((centres + one).T, (centres + mean / np.sqrt(n_seeds)).T)
    return float(np.quantile(lost, LEVEL, method="higher"))


def _ties_joined(means: np.ndarray, residuals: np.ndarray, variance_of: int) -> np.ndarray:
    """Return the means of the methods, without gaps between neighbours that are smaller than their standard error."""
    order = np.argsort(means)
    gaps, variance = np.diff(means[order]), (np.diff(residuals[:, order], axis=1) ** 2).sum(axis=0) / variance_of
    joined = np.empty_like(means)
    joined[order] = np.concatenate([[0], np.cumsum(np.where(gaps**2 > variance, gaps, 0))])
    return joined
