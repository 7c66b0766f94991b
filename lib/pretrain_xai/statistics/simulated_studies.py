"""Studies whose effects are known: what intervals and tests are held against."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pretrain_xai.skill import Skills

CORPORA = ("natural", "mri")


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


@dataclass(frozen=True)
class Size:
    """How large a simulated study is."""

    n_seeds: int
    n_depths: int = 3
    n_methods: int = 4
    n_images: int = 40


def simulate_scores(
    n_studies: int,
    size: Size,
    spread: Spread,
    rng: np.random.Generator,
    *,
    corpus_effect: float = 0.0,
    depth_effect: float = 0.0,
    new_images: bool = False,
) -> NDArray[np.float64]:
    """Simulate skills of studies with two corpora.

    Parameters
    ----------
    corpus_effect : float
        True difference mri - natural at every depth and method.
    depth_effect : float
        True rise from the shallowest to the deepest, in even steps.
    new_images : bool
        Whether the images are a sample, so that the effect on them is not quite that on all images; if not, the true
        effect is that on the images tested.

    Returns
    -------
    float array of shape (n_studies, n_corpora, n_depths, n_seeds, n_methods, n_images)
    """
    studies, corpora = n_studies, len(CORPORA)
    depths, seeds, methods, images = size.n_depths, size.n_seeds, size.n_methods, size.n_images

    def noise(deviation: float, *shape: int) -> NDArray[np.float64]:
        return deviation * rng.standard_normal((studies, *shape))

    by_image = noise(spread.image_corpus, corpora, 1, 1, 1, images)
    if not new_images:
        by_image -= by_image.mean(-1, keepdims=True)
    own = np.sqrt(max(spread.network**2 - spread.shared**2 - spread.shared_corpus**2, 0.0))
    level = 0.3 + corpus_effect * (np.arange(corpora) - (corpora - 1) / 2)[:, None, None, None, None]
    steps = depth_effect * (np.arange(depths) / max(depths - 1, 1) - 0.5)[:, None, None, None]
    ladder = 0.05 * (np.arange(methods) - (methods - 1) / 2)[:, None]
    networks = noise(own, corpora, depths, seeds, 1, 1) + noise(spread.shared, 1, 1, seeds, 1, 1)
    networks = networks + noise(spread.shared_corpus, corpora, 1, seeds, 1, 1)
    networks = networks + noise(spread.network_method, corpora, depths, seeds, methods, 1)
    of_images = by_image + noise(spread.image, 1, 1, 1, 1, images)
    singles = noise(spread.image_network, corpora, depths, seeds, 1, images)
    return (
        level + steps + ladder + networks + of_images + singles
        + noise(spread.residual, corpora, depths, seeds, methods, images)
    )  # fmt: skip


def as_skills(study: NDArray[np.float64], *, n_subjects: int | None = None) -> Skills:
    """Return one simulated study, of shape (n_corpora, n_depths, n_seeds, n_methods, n_images), as `Skills`.

    Parameters
    ----------
    n_subjects : int, optional
        Images are given to so many subjects in turn.
    """
    corpora, depths, seeds, methods, images = study.shape
    names = list(CORPORA) if corpora == len(CORPORA) else [f"corpus{number}" for number in range(corpora)]
    index = pd.MultiIndex.from_product(
        [names, range(1, depths + 1), range(seeds)], names=["pretraining", "finetune_depth", "seed"]
    )
    table = pd.DataFrame({"image_index": np.arange(images), "chance": 0.03})
    if n_subjects:
        table["subject"] = np.arange(images) % n_subjects
    return Skills(
        study.reshape(-1, methods, images),
        index.to_frame(index=False),
        [f"method{number}" for number in range(methods)],
        table,
        {},
    )


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
    values, n_methods = skills.values, len(skills.methods)
    n_images = values.shape[2]
    cells = skills.networks.groupby(["pretraining", "finetune_depth"]).ngroup().to_numpy()
    counts = np.bincount(cells)
    df = (counts[counts > 1] - 1).sum()

    # single scores: what network x method, network x image and method x image of a cell leave
    inside = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + values.mean((1, 2), keepdims=True)
    residual = (_within(inside, cells) ** 2).sum() / (df * max(n_methods - 1, 1) * max(n_images - 1, 1))
    by_method = _within(values.mean(2) - values.mean((1, 2))[:, None], cells)
    network_method = (by_method**2).sum() / (df * max(n_methods - 1, 1)) - residual / n_images
    by_image = values.mean(1)
    level = _within(by_image.mean(1), cells)
    network_total = (level**2).sum() / df
    single = _within(by_image - by_image.mean(1, keepdims=True), cells)
    image_total = (single**2).sum() / (df * max(n_images - 1, 1))
    corpus = _corpus_images(skills, image_total)
    network = network_total - image_total / n_images - max(network_method, 0) / n_methods
    shared, shared_corpus = np.clip(_shared(skills, level), 0, None)
    room = min(1.0, max(network, 0.0) / (shared + shared_corpus)) if shared + shared_corpus else 1.0
    variances = {
        "network": network,
        "shared": shared * room,
        "shared_corpus": shared_corpus * room,
        "network_method": network_method,
        "image": corpus[0],
        "image_corpus": corpus[1],
        "image_network": image_total - residual / n_methods,
        "residual": residual,
    }
    return Spread(**{name: float(np.sqrt(max(variance, 0.0))) for name, variance in variances.items()})


def _within(values: NDArray, cells: NDArray) -> NDArray:
    """Subtract the mean over the networks of each cell."""
    centred = values.copy()
    for cell in np.unique(cells):
        centred[cells == cell] -= centred[cells == cell].mean(0)
    return centred


def _corpus_images(skills: Skills, image_total: float) -> tuple[float, float]:
    """Return the variances of images over all networks and of images with a corpus."""
    if skills.values.shape[2] < 2:
        return 0.0, 0.0
    per_corpus, noise = [], 0.0
    for corpus in skills.corpora:
        rows = skills.values[(skills.networks["pretraining"] == corpus).to_numpy()].mean(1)
        per_corpus.append(rows.mean(0) - rows.mean())
        noise += image_total / len(rows) / len(skills.corpora)
    table = np.cov(np.stack(per_corpus)).reshape(len(per_corpus), -1)
    n = len(per_corpus)
    common = (table.sum() - np.trace(table)) / (n * (n - 1)) if n > 1 else 0.0
    return float(common), float(np.trace(table) / n - common - noise)


def _shared(skills: Skills, level: NDArray) -> tuple[float, float]:
    """Return the variances that networks of one seed number share: over all, and beyond it over those of one corpus."""
    cells = ["pretraining", "finetune_depth"]
    wide = skills.networks.assign(level=level).pivot(index="seed", columns=cells, values="level")
    if wide.isna().any(axis=None):
        return 0.0, 0.0
    table = np.cov(wide.to_numpy().T).reshape(wide.shape[1], -1)
    corpus = wide.columns.get_level_values("pretraining").to_numpy()
    same, one = corpus[:, None] == corpus, np.eye(len(corpus), dtype=bool)
    over, within = table[~same], table[same & ~one]
    shared = float(over.mean()) if over.size else 0.0
    return shared, (float(within.mean()) if within.size else 0.0) - shared


def spread_table(spread: Spread) -> pd.DataFrame:
    """Return the standard deviations as a table of `source`, `deviation`."""
    return pd.DataFrame(list(asdict(spread).items()), columns=["source", "deviation"])
