"""The linear mixed model of a study: skill ~ corpus * depth * method, with a random intercept per network.

It is fitted to seed x cell means (one row per network and method) by REML, as lme4's `lmer(skill ~ corpus * depth * method +
(1 | network))`, in the coding of cell means, in which every effect is a weighted sum of coefficients.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from pretrain_xai.statistics.intervals import Interval, t_interval
from pretrain_xai.study import CELL, NETWORK

LEVELS = [*CELL, "method"]


@dataclass(frozen=True)
class MixedModel:
    """A fitted model.

    Attributes
    ----------
    means : Series indexed by corpus, depth and method
        The coefficients, one per cell.
    covariance : DataFrame, both axes indexed as `means`
    network_variance, residual_variance : float
    n_networks : int
    """

    means: pd.Series
    covariance: pd.DataFrame
    network_variance: float
    residual_variance: float
    n_networks: int

    def interval(self, weights: pd.Series) -> Interval:
        """Return the effect with these weights of the cells and its t interval.

        Degrees of freedom are those of the stratum that holds the effect (containment): an effect within networks, whose
        weights sum to 0 over methods in every network, has those of the residual; any other those between networks.
        statsmodels itself takes the normal distribution, which for few networks is too narrow.

        Parameters
        ----------
        weights : Series indexed by corpus, depth and method
        """
        aligned = weights.reindex(self.means.index, fill_value=0.0)
        of_networks = aligned.groupby(level=[0, 1]).sum()
        df = self.n_networks - len(of_networks)
        if np.abs(of_networks).max() <= 1e-12:
            df *= len(self.means) // len(of_networks) - 1
        se = np.sqrt(aligned @ self.covariance @ aligned)
        return t_interval(np.asarray(aligned @ self.means), np.asarray(se), df)


def fit_mixed_model(table: pd.DataFrame) -> MixedModel:
    """Fit the model to seed x cell means.

    The random intercept is that of a network, a corpus x depth x seed; networks of one seed number are taken to be
    independent. The residual is taken to be equally large for all methods, which it is not quite: trust pairs of methods
    to the paired t interval first.

    Parameters
    ----------
    table : DataFrame with `pretraining`, `finetune_depth`, `seed`, `method`, `skill`
        Every method of every network; at least one corpus and depth with several seeds.
    """
    rows = table.sort_values([*LEVELS, "seed"], ignore_index=True)
    cells = pd.MultiIndex.from_frame(rows[LEVELS].drop_duplicates())
    n, number = len(cells), cells.get_indexer(pd.MultiIndex.from_frame(rows[LEVELS]))
    network = rows.groupby(NETWORK).ngroup().to_numpy()
    # in units of the scores' spread: the optimiser's tolerances are absolute
    scale = float(rows["skill"].std()) or 1.0
    model = MixedLM(rows["skill"].to_numpy() / scale, np.eye(n)[number], groups=network)
    with warnings.catch_warnings():
        # no variance between networks is an answer, not a failure
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        # there is one variance to find; the methods with gradients, statsmodels' default, fail where it is near 0
        result = model.fit(reml=True, method=["powell"])
    covariance = pd.DataFrame(np.asarray(result.cov_params())[:n, :n] * scale**2, cells, cells)
    variances = float(np.asarray(result.cov_re)[0, 0] * scale**2), float(result.scale * scale**2)
    return MixedModel(pd.Series(result.fe_params * scale, cells), covariance, *variances, int(network.max() + 1))
