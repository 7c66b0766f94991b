"""How much training again with another seed changes a number, from a few seeds of the same study."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

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
