"""How many seeds and images a study needs, from what varies in a finished one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.study import NETWORK

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

    def table(self) -> pd.DataFrame:
        """Return the standard deviations as a table of `source`, `deviation`."""
        return pd.DataFrame(asdict(self).items(), columns=["source", "deviation"])


def estimate_spread(skills: Skills) -> Spread:
    """Estimate the standard deviations of a finished study with several seeds, by moments; negative variances count as 0.

    What networks of one seed number share is told by their covariance, where all cells have the same numbers. What an
    image adds at one depth alone counts as `image_network`.

    Raises
    ------
    ValueError
        One seed per cell: seeds can't be told from cells.
    """
    if skills.n_seeds < 2:
        raise ValueError("one seed per cell: the variance between seeds is unknown")
    values = skills.values
    cells = skills.networks.groupby(NETWORK[:2]).ngroup().to_numpy()
    counts = np.bincount(cells)
    df, more_methods = (counts[counts > 1] - 1).sum(), max(values.shape[1] - 1, 1)
    n_methods, n_images, more_images = values.shape[1], values.shape[2], max(values.shape[2] - 1, 1)

    # single scores: what network x method, network x image and method x image of a cell leave
    inside = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + values.mean((1, 2), keepdims=True)
    residual = (_within(inside, cells) ** 2).sum() / (df * more_methods * more_images)
    by_method = _within(values.mean(2) - values.mean((1, 2))[:, None], cells)
    network_method = (by_method**2).sum() / (df * more_methods) - residual / n_images
    by_image = values.mean(1)
    level = _within(by_image.mean(1), cells)
    single = _within(by_image - by_image.mean(1, keepdims=True), cells)
    image_total = (single**2).sum() / (df * more_images)
    image, image_corpus = _image_variances(skills, image_total)
    network = (level**2).sum() / df - image_total / n_images - max(network_method, 0) / n_methods
    shared, shared_corpus = np.clip(_shared(skills, level), 0, None)
    room = min(1.0, max(network, 0.0) / (shared + shared_corpus)) if shared + shared_corpus else 1.0
    variances = {
        "network": network,
        "shared": shared * room,
        "shared_corpus": shared_corpus * room,
        "network_method": network_method,
        "image": image,
        "image_corpus": image_corpus,
        "image_network": image_total - residual / n_methods,
        "residual": residual,
    }
    return Spread(**{name: float(np.sqrt(max(variance, 0.0))) for name, variance in variances.items()})


def _within(values: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Subtract the mean over the networks of each cell."""
    return values - np.stack([values[cells == cell].mean(0) for cell in range(cells.max() + 1)])[cells]


def _image_variances(skills: Skills, image_total: float) -> tuple[float, float]:
    """Return the variances of images over all networks and of images with a corpus."""
    if skills.values.shape[2] < 2:
        return 0.0, 0.0
    of_corpus = skills.networks.groupby("pretraining", sort=False).indices.values()
    rows, n = [skills.values[places].mean(1) for places in of_corpus], len(of_corpus)
    noise = sum(image_total / len(of) / n for of in rows)
    table = np.cov(np.stack([of.mean(0) - of.mean() for of in rows])).reshape(n, -1)
    common = (table.sum() - np.trace(table)) / (n * (n - 1)) if n > 1 else 0.0
    return float(common), float(np.trace(table) / n - common - noise)


def _shared(skills: Skills, level: np.ndarray) -> tuple[float, float]:
    """Return the variances that networks of one seed number share: over all, and beyond it over those of one corpus."""
    wide = skills.networks.assign(level=level).pivot(index="seed", columns=NETWORK[:2], values="level")
    if wide.isna().any(axis=None):
        return 0.0, 0.0
    table = np.cov(wide.to_numpy().T).reshape(wide.shape[1], -1)
    corpus = wide.columns.get_level_values("pretraining").to_numpy()
    same = corpus[:, None] == corpus
    over, within = table[~same], table[same & ~np.eye(len(corpus), dtype=bool)]
    shared = float(over.mean()) if over.size else 0.0
    return shared, (float(within.mean()) if within.size else 0.0) - shared


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
    return pd.DataFrame(rows, columns=COLUMNS)


def seeds_needed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fewest seeds tried whose power reaches POWER, by the other columns of `power_table`; NaN: none does."""
    enough = table.assign(seeds=table["n_seeds"].where(table["power"] >= POWER))
    return enough.groupby(["averaged", "difference", "n_images"], sort=False)["seeds"].min().reset_index()


def _deviation(spread: Spread, n_depths: int, n_methods: int, n_images: int) -> float:
    """Return the standard deviation, between seeds, of the difference of two corpora; what a seed shares cancels."""
    own = spread.network**2 - spread.shared**2 - spread.shared_corpus**2 + spread.network_method**2 / n_methods
    single = spread.image_network**2 + spread.residual**2 / n_methods
    return float(np.sqrt(2 * spread.shared_corpus**2 + 2 / n_depths * (own + single / n_images)))
