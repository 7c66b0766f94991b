"""Which methods rank before which: Friedman's test and Nemenyi's critical difference over networks (Demšar 2006)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scikit_posthocs
from scipy import stats

from pretrain_xai.study import NETWORK

ALPHA = 0.05


@dataclass(frozen=True)
class Ranks:
    """The ranking of methods over networks.

    Attributes
    ----------
    table : DataFrame with `method`, `mean_rank` (1 is best), `mean_skill`, and the same in every row: `n_networks`,
    `statistic`, `p`
        (Friedman), `critical_difference`; best first.
    pairs : DataFrame of shape (n_methods, n_methods)
        Nemenyi's p values, indexed by method.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame


def rank_methods(network_means: pd.DataFrame) -> Ranks:
    """Rank the methods by mean skill within every network.

    The networks of a study are not a sample of one population: they are cells and seeds. The test asks whether methods keep
    their order over them.

    Parameters
    ----------
    network_means : DataFrame with `pretraining`, `finetune_depth`, `seed`, `method`, `skill`
        Fewer than three methods have no Friedman test (`p` is NaN), one has no critical difference.
    """
    wide = network_means.pivot(index=NETWORK, columns="method", values="skill")
    n_networks, n_methods = wide.shape
    mean_ranks = wide.rank(axis=1, ascending=False).mean()
    columns = [wide[method] for method in wide]
    statistic, p = stats.friedmanchisquare(*columns) if n_methods > 2 else (np.nan, np.nan)
    quantile = stats.studentized_range.ppf(1 - ALPHA, n_methods, np.inf) / np.sqrt(2) if n_methods > 1 else np.nan
    table = pd.DataFrame(
        {
            "method": wide.columns,
            "mean_rank": mean_ranks.to_numpy(),
            "mean_skill": wide.mean().to_numpy(),
            "n_networks": n_networks,
            "statistic": statistic,
            "p": p,
            "critical_difference": quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_networks)),
        }
    ).sort_values("mean_rank", ignore_index=True)
    p_values = scikit_posthocs.posthoc_nemenyi_friedman(wide.to_numpy()) if n_methods > 1 else np.ones((1, 1))
    pairs = pd.DataFrame(np.asarray(p_values), wide.columns, wide.columns)
    order = table["method"]
    return Ranks(table, pairs.loc[order, order].rename_axis(index="method", columns="other"))
