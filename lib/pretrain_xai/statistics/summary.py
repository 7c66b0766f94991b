"""All statistics of a study as tables, under the names of their files."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pretrain_xai.skill import Skills
from pretrain_xai.statistics import power, ranks
from pretrain_xai.statistics.effects import cell_table, effect_table


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
    spread, needed = power.Spread().table()[:0], pd.DataFrame(columns=power.COLUMNS)
    if skills.n_seeds > 1:
        found, shape = power.estimate_spread(skills), (len(skills.depths), len(skills.methods))
        spread, needed = found.table(), power.power_table(found, shape, np.random.default_rng(seed))
    tables = {"images": skills.images, "network_means": means, "cells": cell_table(skills)}
    tables |= {
        "effects": effect_table(skills, seed),
        "ranks": by_rank,
        "nemenyi": pairs.stack().rename("p").reset_index(),
    }
    tables |= {"redundancy": ranks.redundancy_table(correlations)}
    tables |= {"effective_methods": ranks.effective_numbers(correlations)}
    return tables | {"spread": spread, "power": needed}
