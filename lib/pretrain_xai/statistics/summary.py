"""All statistics of a study as tables, under the names of their files."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import cell_table, effect_table
from pretrain_xai.statistics.power import power_table
from pretrain_xai.statistics.ranks import rank_methods
from pretrain_xai.statistics.redundancy import effective_numbers, map_correlation, redundancy_table, score_correlation
from pretrain_xai.statistics.simulated_studies import estimate_spread, spread_table


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
    ranks = rank_methods(means)
    correlations = {"scores": score_correlation(skills)}
    if maps:
        correlations["maps"] = map_correlation(maps, skills.methods)
    spread = power = None
    if skills.n_seeds > 1:
        spread = estimate_spread(skills)
        power = power_table(spread, (len(skills.depths), len(skills.methods)), np.random.default_rng(seed))
    return {
        "images": skills.images,
        "network_means": means,
        "cells": cell_table(skills),
        "effects": effect_table(skills, seed),
        "ranks": ranks.table,
        "nemenyi": ranks.pairs.stack().rename("p").reset_index(),
        "redundancy": redundancy_table(correlations),
        "effective_methods": effective_numbers(correlations),
        "spread": pd.DataFrame(columns=["source", "deviation"]) if spread is None else spread_table(spread),
        "power": pd.DataFrame(columns=["averaged", "difference", "n_seeds", "n_images", "power"])
        if power is None
        else power,
    }
