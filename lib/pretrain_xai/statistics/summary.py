"""All statistics of a study as tables; how the methods compare: which rank before which, and how many different there are."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pretrain_xai.arrays import Booleans, Floats
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import power
from pretrain_xai.statistics.dependence import dependence_table
from pretrain_xai.statistics.effects import cell_table, effect_table
from pretrain_xai.statistics.table_names import STATISTICS
from pretrain_xai.study import NETWORK

#: above this correlation two methods are named as one
SAME = 0.99


def study_statistics(
    skills: Skills,
    maps: Sequence[Mapping[str, np.ndarray]] = (),
    seed: int = 0,
    *,
    owed: Booleans | None = None,
) -> dict[str, pd.DataFrame]:
    """Compute every table; those that need several seeds have no rows where there is one.

    Parameters
    ----------
    maps : sequence of dict
        The example maps of each network, by method, as `map_correlation` takes them.
    seed : int
        Of the bootstraps and of the simulation of power.
    owed : bool array of shape (n_networks, n_images), optional
        As `dependence.dependence_table` takes it.

    Returns
    -------
    dict of DataFrame, keys `table_names.STATISTICS`
    """
    means, correlations = skills.network_means(), {"scores": score_correlation(skills)}
    effects = effect_table(skills, seed)
    if maps:
        correlations["maps"] = map_correlation(maps, skills.methods)
    spread, needed = {}, pd.DataFrame(columns=power.COLUMNS)
    if skills.n_seeds > 1:
        found, shape = power.estimate_spread(skills), (len(skills.depths), len(skills.methods))
        spread, needed = (
            vars(found),
            power.power_table(found, shape, np.random.default_rng(seed), own_pretrainings=skills.own_pretrainings),
        )
    tables = [skills.images, means, cell_table(skills), effects, dependence_table(skills, owed)]
    tables += [rank_methods(means, effects), redundancy_table(correlations)]
    tables += [effective_numbers(correlations), pd.DataFrame(spread.items(), columns=["source", "deviation"])]
    return dict(zip(STATISTICS, [*tables, needed], strict=True))


def rank_methods(network_means: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Rank the methods by mean skill within every network.

    Parameters
    ----------
    network_means : DataFrame with `pretraining`, `finetune_depth`, `seed`, `method`, `skill`
    effects : DataFrame
        From `effects.effect_table`: its pairs of methods decide which can't be told from the first.

    Returns
    -------
    DataFrame with `method`, `mean_rank` (1 is best), `mean_skill`, `n_networks`, `tied` (another than the first, and
    not clearly different from it); best first
    """
    wide = network_means.pivot(index=NETWORK, columns="method", values="skill")
    means = pd.DataFrame({"mean_rank": wide.rank(axis=1, ascending=False).mean(), "mean_skill": wide.mean()})
    table = means.assign(n_networks=len(wide)).reset_index().sort_values("mean_rank", ignore_index=True)
    pairs = effects[(effects["family"] == "methods") & (effects["way"] == "t")]
    unclear, first = set(pairs.loc[~pairs["clear"].astype(bool), "contrast"]), table["method"].iloc[0]
    return table.assign(
        tied=[not unclear.isdisjoint((f"{first} - {one}", f"{one} - {first}")) for one in table["method"]]
    )


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
    ranks = stats.rankdata(np.asarray(values), axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    length = np.sqrt((ranks**2).sum(-1, keepdims=True))
    unit = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    matrix = unit @ np.swapaxes(unit, -1, -2)
    n = matrix.shape[-1]
    matrix[..., np.arange(n), np.arange(n)] = 1
    return np.clip(matrix, -1, 1)


def effective_numbers(correlations: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Return how many independent methods would be as diverse, between 1 and n_methods, by kind of correlation.

    Returns
    -------
    DataFrame with `of`, `n_methods`, `participation_ratio`, (sum of eigenvalues)² / sum of their squares, and `entropy`, exp
    of the entropy of the eigenvalues' shares (Roy and Vetterli 2007).
    """
    rows = []
    for kind, matrix in correlations.items():
        eigenvalues = np.clip(np.linalg.eigvalsh(np.asarray(matrix, dtype=np.float64)), 0, None)
        shares = eigenvalues / eigenvalues.sum()
        positive = shares[shares > 0]
        entropy = -(positive * np.log(positive)).sum()
        rows.append((kind, len(shares), 1 / (shares**2).sum(), np.exp(entropy)))
    return pd.DataFrame(rows, columns=["of", "n_methods", "participation_ratio", "entropy"])


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
