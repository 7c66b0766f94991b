"""How many seeds and images a study needs, from what varies in a finished one."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from pretrain_xai.arrays import Floats
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.study import CELL

POWER = 0.8
SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30)
IMAGES = (25, 50, 100, 200, 400, 1000)
DIFFERENCES = (0.01, 0.02, 0.05, 0.1)
COLUMNS = ["averaged", "difference", "n_seeds", "n_images", "power"]


@dataclass(frozen=True)
class Spread:
    """Standard deviations of skill, from what varies in a study.

    Attributes
    ----------
    network : float
        Between networks of one corpus and depth: another seed.
    shared : float
        Of it, common to all networks of one seed number.
    shared_corpus : float
        Of it, common to the networks of one seed number and corpus.
    network_method : float
        Of a method within a network, beside the network's own level.
    image : float
        Between images, common to all networks: cancels between corpora.
    image_corpus : float
        Of an image with one corpus, common to its networks.
    image_network : float
        Of an image with one network, common to its methods.
    residual : float
        Of single scores.
    """

    network: float = 0.03
    shared: float = 0.0
    shared_corpus: float = 0.0
    network_method: float = 0.01
    image: float = 0.02
    image_corpus: float = 0.03
    image_network: float = 0.08
    residual: float = 0.06


def estimate_spread(skills: Skills) -> Spread:
    """Estimate the standard deviations of a finished study with several seeds, by moments; negative variances count as 0.

    What networks of one seed number share is told by their covariance, where all cells have the same numbers. What an
    image adds at one depth alone counts as `image_network`.
    """
    values, networks = skills.values, skills.networks
    n_methods, n_images = values.shape[1:]
    cells = networks.groupby(CELL).ngroup().to_numpy()
    inside = values - np.stack([values[cells == cell].mean(0) for cell in range(cells.max() + 1)])[cells]
    df, more_methods, more_images = len(cells) - cells.max() - 1, max(n_methods - 1, 1), max(n_images - 1, 1)

    level = inside.mean((1, 2), keepdims=True)
    by_method, by_image = inside.mean(2, keepdims=True) - level, inside.mean(1, keepdims=True) - level
    residual = ((inside - level - by_method - by_image) ** 2).sum() / (df * more_methods * more_images)
    network_method = (by_method**2).sum() / (df * more_methods) - residual / n_images
    image_total = (by_image**2).sum() / (df * more_images)
    network = (level**2).sum() / df - image_total / n_images - max(network_method, 0) / n_methods

    image, image_corpus = 0.0, 0.0
    if n_images > 1:
        of_corpus = [values[places].mean((0, 1)) for places in networks.groupby("pretraining").indices.values()]
        covariances, other = np.cov(of_corpus).reshape(len(of_corpus), -1), ~np.eye(len(of_corpus), dtype=bool)
        image = _mean(covariances[other])
        noise = image_total * (1 / networks["pretraining"].value_counts()).mean()
        image_corpus = covariances.diagonal().mean() - image - noise
    shared, shared_corpus = 0.0, 0.0
    wide = networks.assign(level=level.ravel()).pivot(index="seed", columns=CELL, values="level")
    if wide.notna().all(axis=None):
        covariances, corpus = np.cov(wide.to_numpy().T).reshape(wide.shape[1], -1), wide.columns.get_level_values(0)
        same, other = corpus.to_numpy()[:, None] == corpus.to_numpy(), ~np.eye(len(corpus), dtype=bool)
        shared = _mean(covariances[~same])
        shared, shared_corpus = max(shared, 0), max(_mean(covariances[same & other]) - shared, 0)
    room = min(1.0, max(network, 0.0) / (shared + shared_corpus)) if shared + shared_corpus else 1.0
    variances = [network, shared * room, shared_corpus * room, network_method]
    variances += [image, image_corpus, image_total - residual / n_methods, residual]
    return Spread(*np.sqrt(np.maximum(variances, 0)).tolist())  # in the order of its fields


def _mean(covariances: Floats) -> float:
    return float(covariances.mean()) if covariances.size else 0.0


def power_table(
    spread: Spread,
    shape: tuple[int, int],
    rng: np.random.Generator,
    n_studies: int = 2000,
    *,
    own_pretrainings: bool = False,
) -> pd.DataFrame:
    """Simulate how often a true difference between two corpora is seen, p < .05 in the t test paired by seed.

    With pre-trainings of their own in Welch's, with so many pre-trainings of each corpus. The test is about other seeds, or
    pre-trainings, on the images tested. Its noise is that of the networks, and that of single scores,
    which more images average out.

    Parameters
    ----------
    shape : (n_depths, n_methods)
        Of the study, over which the difference is a mean.

    Returns
    -------
    DataFrame with `averaged` ("all depths and methods" or "one depth and method"), `difference` (of skill), `n_seeds`,
    `n_images`, `power`.
    """
    rows = []
    for averaged, (n_depths, n_methods) in (("all depths and methods", shape), ("one depth and method", (1, 1))):
        # of the difference of two corpora; what a seed shares cancels
        own = spread.network**2 - spread.shared**2 - spread.shared_corpus**2 + spread.network_method**2 / n_methods
        single = spread.image_network**2 + spread.residual**2 / n_methods
        for n_seeds in SEEDS:
            noise = rng.standard_normal((n_studies, n_seeds * (1 + own_pretrainings)))
            side = np.arange(noise.shape[1]) // n_seeds  # which corpus, where its units are its own
            for n_images, difference in product(IMAGES, DIFFERENCES):
                variance = 2 * spread.shared_corpus**2 + 2 / n_depths * (own + single / n_images)
                share = 1 + own_pretrainings
                units = (noise * np.sqrt(variance / share) + difference / share) / n_seeds
                power = float((intervals.by_units(units[..., None], side).p < 0.05).mean())
                rows.append((averaged, difference, n_seeds, n_images, power))
    return pd.DataFrame(rows, columns=COLUMNS)


def seeds_needed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fewest seeds tried whose power reaches POWER, by the other columns of `power_table`; NaN: none does."""
    enough = table.assign(seeds=table["n_seeds"].where(table["power"] >= POWER))
    return enough.groupby(["averaged", "difference", "n_images"], sort=False)["seeds"].min().reset_index()
