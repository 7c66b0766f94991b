"""All statistics of a study as tables, under the names of their files."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pretrain_xai.skill import Skills
from pretrain_xai.statistics import power, ranks
from pretrain_xai.statistics.effects import cell_table, effect_table
from pretrain_xai.statistics.table_names import STATISTICS


def study_statistics(
    skills: Skills, maps: Sequence[Mapping[str, np.ndarray]] = (), seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Compute every table; those that need several seeds have no rows where there is one.

    Parameters
    ----------
    maps : sequence of dict
        The example maps of each network, by method, as `ranks.map_correlation` takes them.
    seed : int
        Of the bootstraps and of the simulation of power.

    Returns
    -------
    dict of DataFrame, keys `table_names.STATISTICS`
    """
    means, correlations = skills.network_means(), {"scores": ranks.score_correlation(skills)}
    by_rank, pairs = ranks.rank_methods(means)
    if maps:
        correlations["maps"] = ranks.map_correlation(maps, skills.methods)
    spread, needed = {}, pd.DataFrame(columns=power.COLUMNS)
    if skills.n_seeds > 1:
        found, shape = power.estimate_spread(skills), (len(skills.depths), len(skills.methods))
        spread, needed = vars(found), power.power_table(found, shape, np.random.default_rng(seed))
    tables = [skills.images, means, cell_table(skills), effect_table(skills, seed), by_rank]
    tables += [pairs.stack().rename("p").reset_index(), ranks.redundancy_table(correlations)]
    tables += [ranks.effective_numbers(correlations), pd.DataFrame(spread.items(), columns=["source", "deviation"])]
    return dict(zip(STATISTICS, [*tables, needed], strict=True))
