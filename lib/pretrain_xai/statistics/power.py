"""How many seeds and images a study needs, from the spread of a finished one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.simulated_studies import Spread

POWER = 0.8
SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30)
IMAGES = (25, 50, 100, 200, 400, 1000)
DIFFERENCES = (0.01, 0.02, 0.05, 0.1)


def power_table(
    spread: Spread,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    differences: Sequence[float] = DIFFERENCES,
    seeds: Sequence[int] = SEEDS,
    images: Sequence[int] = IMAGES,
    n_studies: int = 2000,
) -> pd.DataFrame:
    """Simulate how often a true difference between two corpora is seen, p < .05 in the t test paired by seed.

    The test is about other seeds on the images tested. Its noise is that of the networks, and that of single scores,
    which more images average out.

    Parameters
    ----------
    spread : Spread
        From `simulated_studies.estimate_spread`.
    shape : (n_depths, n_methods)
        Of the study, over which the difference is a mean.

    Returns
    -------
    DataFrame with `averaged` ("all depths and methods" or "one depth and method"), `difference` (of skill), `n_seeds`,
    `n_images`, `power`.
    """
    rows = []
    for averaged, (n_depths, n_methods) in (("all depths and methods", shape), ("one depth and method", (1, 1))):
        for n_seeds in seeds:
            noise = rng.standard_normal((n_studies, n_seeds))
            for n_images in images:
                units = noise * _deviation(spread, n_depths, n_methods, n_images)
                for difference in differences:
                    p = intervals.by_units(((units + difference) / n_seeds)[..., None]).p
                    rows.append((averaged, difference, n_seeds, n_images, float((p < 0.05).mean())))
    return pd.DataFrame(rows, columns=["averaged", "difference", "n_seeds", "n_images", "power"])


def seeds_needed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fewest seeds tried whose power reaches POWER, by the other columns of `power_table`; NaN: none does."""
    enough = table[table["power"] >= POWER]
    keys = ["averaged", "difference", "n_images"]
    fewest = enough.groupby(keys)["n_seeds"].min()
    every = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    return fewest.reindex(every).rename("seeds").reset_index()


def _deviation(spread: Spread, n_depths: int, n_methods: int, n_images: int) -> float:
    """Return the standard deviation, between seeds, of the difference of two corpora; what a seed shares cancels."""
    own = spread.network**2 - spread.shared**2 - spread.shared_corpus**2 + spread.network_method**2 / n_methods
    single = spread.image_network**2 + spread.residual**2 / n_methods
    return float(np.sqrt(2 * spread.shared_corpus**2 + 2 / n_depths * (own + single / n_images)))
