"""Which methods rank before which: Friedman's test and Nemenyi's critical difference over networks (Demšar 2006)."""

import numpy as np
import pandas as pd
import scikit_posthocs
from scipy import stats

from pretrain_xai.study import NETWORK

ALPHA = 0.05


def rank_methods(network_means: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank the methods by mean skill within every network.

    The networks of a study are not a sample of one population: they are cells and seeds. The test asks whether methods keep
    their order over them.

    Parameters
    ----------
    network_means : DataFrame with `pretraining`, `finetune_depth`, `seed`, `method`, `skill`
        Fewer than three methods have no Friedman test (`p` is NaN), one has no critical difference.

    Returns
    -------
    DataFrame with `method`, `mean_rank` (1 is best), `mean_skill`, and the same in every row `n_networks`, `statistic` and
    `p` (Friedman), `critical_difference`; best first
    DataFrame of shape (n_methods, n_methods)
        Nemenyi's p values, indexed by method.
    """
    wide = network_means.pivot(index=NETWORK, columns="method", values="skill")
    n, k = wide.shape
    statistic, p = stats.friedmanchisquare(*wide.to_numpy().T) if k > 2 else (np.nan, np.nan)
    quantile = stats.studentized_range.ppf(1 - ALPHA, k, np.inf) / np.sqrt(2) if k > 1 else np.nan
    means = pd.DataFrame({"mean_rank": wide.rank(axis=1, ascending=False).mean(), "mean_skill": wide.mean()})
    test = {"statistic": statistic, "p": p, "critical_difference": quantile * np.sqrt(k * (k + 1) / (6 * n))}
    table = means.assign(n_networks=n, **test).reset_index().sort_values("mean_rank", ignore_index=True)
    p_values = scikit_posthocs.posthoc_nemenyi_friedman(wide.to_numpy()) if k > 1 else np.ones((1, 1))
    pairs = pd.DataFrame(np.asarray(p_values), wide.columns, wide.columns.rename("other"))
    return table, pairs.loc[table["method"], table["method"]]
