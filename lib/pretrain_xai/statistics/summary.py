"""All statistics of a study as tables, under the names of their files."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pretrain_xai.skill import Skills
from pretrain_xai.statistics import power, redundancy
from pretrain_xai.statistics.effects import cell_table, effect_table
from pretrain_xai.statistics.ranks import rank_methods


def study_statistics(
    skills: Skills, maps: Sequence[Mapping[str, np.ndarray]] = (), seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Compute every table; those that need several seeds have no rows where there is one.

    Parameters
    ----------
    maps : sequence of dict
        The example maps of each network, by method, as `redundancy.map_correlation` takes them.
    seed : int
        Of the bootstraps and of the simulation of power.

    Returns
    -------
    dict of DataFrame, keys `table_names.STATISTICS`
    """
    means = skills.network_means()
    ranks, pairs = rank_methods(means)
    correlations = {"scores": redundancy.score_correlation(skills)}
    if maps:
        correlations["maps"] = redundancy.map_correlation(maps, skills.methods)
    spread, needed = power.Spread().table()[:0], pd.DataFrame(columns=power.COLUMNS)
    if skills.n_seeds > 1:
        found = power.estimate_spread(skills)
        shape = len(skills.depths), len(skills.methods)
        spread, needed = found.table(), power.power_table(found, shape, np.random.default_rng(seed))
    return {
        "images": skills.images,
        "network_means": means,
        "cells": cell_table(skills),
        "effects": effect_table(skills, seed),
        "ranks": ranks,
        "nemenyi": pairs.stack().rename("p").reset_index(),
        "redundancy": redundancy.redundancy_table(correlations),
        "effective_methods": redundancy.effective_numbers(correlations),
        "spread": spread,
        "power": needed,
    }
