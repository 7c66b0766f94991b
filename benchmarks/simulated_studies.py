"""Studies whose effects are known, and how often intervals hold the truth in them: what `make bench-statistics` needs.

Two ways to make intervals stand here and not in the library, since they fail: the bootstrap-t covers .81 at three seeds,
and pooled images, as in the released code, take every image of every network for an independent case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pretrain_xai.arrays import Floats
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.intervals import LEVEL, Interval
from pretrain_xai.statistics.power import Spread

CORPORA = ("natural", "mri")
#: studies simulated at once: bounds memory
CHUNK = 100


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
    pretraining: float = 0.0,
    pretraining_depth: float = 0.0,
    own_pretrainings: bool = True,
) -> Floats:
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
    pretraining : float
        Standard deviation of pre-trainings on one corpus, which the networks that start from one share.
    pretraining_depth : float
        The same of what only those of one depth share.
    own_pretrainings : bool
        Each seed of a corpus has its own, or all seeds have one.

    Returns
    -------
    float array of shape (n_studies, n_corpora, n_depths, n_seeds, n_methods, n_images)
    """
    studies, corpora = n_studies, len(CORPORA)
    depths, seeds, methods, images = size.n_depths, size.n_seeds, size.n_methods, size.n_images

    def noise(deviation: float, *shape: int) -> Floats:
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
    origins = seeds if own_pretrainings else 1
    if pretraining:
        networks = networks + noise(pretraining, corpora, 1, origins, 1, 1)
    if pretraining_depth:
        networks = networks + noise(pretraining_depth, corpora, depths, origins, 1, 1)
    of_images = by_image + noise(spread.image, 1, 1, 1, 1, images)
    singles = noise(spread.image_network, corpora, depths, seeds, 1, images)
    return (
        level + steps + ladder + networks + of_images + singles
        + noise(spread.residual, corpora, depths, seeds, methods, images)
    )  # fmt: skip


def as_skills(study: Floats, *, n_subjects: int | None = None, own_pretrainings: bool = False) -> Skills:
    """Return one simulated study, of shape (n_corpora, n_depths, n_seeds, n_methods, n_images), as `Skills`.

    Parameters
    ----------
    n_subjects : int, optional
        Images are given to so many subjects in turn; their classes alternate.
    own_pretrainings : bool
        As that of `Skills`.
    """
    corpora, depths, seeds, methods, images = study.shape
    names = list(CORPORA) if corpora == len(CORPORA) else [f"corpus{number}" for number in range(corpora)]
    index = pd.MultiIndex.from_product(
        [names, range(1, depths + 1), range(seeds)], names=["pretraining", "finetune_depth", "seed"]
    )
    table = pd.DataFrame({"image_index": np.arange(images), "label": np.arange(images) % 2, "chance": 0.03})
    if n_subjects:
        table["subject"] = np.arange(images) % n_subjects
    of_methods = [f"method{number}" for number in range(methods)]
    return Skills(
        study.reshape(-1, methods, images), index.to_frame(index=False), of_methods, table, {}, own_pretrainings
    )


def coverage_table(
    n_studies: int,
    size: Size,
    spread: Spread,
    rng: np.random.Generator,
    *,
    corpus_effect: float = 0.03,
    n_draws: int = 999,
    **options: Any,
) -> pd.DataFrame:
    """Simulate studies without and with an effect of the corpus, and return how each way to make intervals does.

    Parameters
    ----------
    corpus_effect : float
        True difference of mean skill of two corpora in the studies that have one.
    **options
        `new_images`, `pretraining` and `own_pretrainings` of `simulate_scores`.

    Returns
    -------
    DataFrame with `way`, `coverage` (share of 95 % intervals that hold the truth, both kinds of studies), `type_one`
    (share of studies without an effect whose p is below .05), `power` (the same with the effect) and `width` (median of
    the intervals).
    """
    parts = []
    for effect in (0.0, corpus_effect):
        for start in range(0, n_studies, CHUNK):
            number = min(CHUNK, n_studies - start)
            scores = simulate_scores(number, size, spread, rng, corpus_effect=effect, **options)
            for way, interval in corpus_intervals(scores, rng, n_draws):
                held = (interval.low <= effect) & (effect <= interval.high)
                facts = {"held": held, "seen": interval.p < 0.05, "width": interval.high - interval.low}
                parts.append(pd.DataFrame({"way": way, "effect": effect} | facts))
    return _rates(pd.concat(parts, ignore_index=True))


def corpus_intervals(scores: Floats, rng: np.random.Generator, n_draws: int) -> Iterator[tuple[str, Interval]]:
    """Yield the interval of the corpus effect, mean over depths and methods, in every way.

    Parameters
    ----------
    scores : float array of shape (n_studies, 2, n_depths, n_seeds, n_methods, n_images)
    """
    studies, corpora, depths, seeds, _, images = scores.shape
    sign = np.array([-1.0, 1.0])[:, None, None, None]
    each = scores.mean(4) * sign / (depths * seeds)
    paired = each.sum((1, 2))
    by_corpus = each.sum(2).reshape(studies, corpora * seeds, images)
    networks = each.reshape(studies, -1, images)
    of_corpus, of_cell = np.repeat(np.arange(corpora), seeds), np.repeat(np.arange(corpora * depths), seeds)
    yield "t, paired by seed", intervals.by_units(paired)
    yield "t, Welch, seeds of each corpus", intervals.by_units(by_corpus, of_corpus)
    yield "t, Welch, every network", intervals.by_units(networks, of_cell)
    yield "bootstrap-t, paired", bootstrap_t(paired, rng, n_draws)
    hierarchical = intervals.hierarchical_bootstrap(paired, None, rng, None, n_draws)
    yield "hierarchical percentile bootstrap, paired", hierarchical
    yield "t over seeds and images, paired", intervals.by_both(paired)
    mixed = intervals.by_units(networks, of_cell, pooled=True)
    yield "mixed model, t", mixed
    yield "mixed model, normal", intervals.t_interval(mixed.estimate, mixed.se, np.inf)
    yield "images pooled as released", pooled_images(networks, of_cell)


def design_intervals(scores: Floats, *, own_pretrainings: bool) -> Iterator[tuple[str, str, Interval]]:
    """Yield the main effects, corpus and depth, each in the ways `t` and `t_both` with the units that the library takes.

    For many studies at once what `effects.effect_table` has for one.

    Parameters
    ----------
    scores : float array of shape (n_studies, 2, n_depths, n_seeds, n_methods, n_images)
    own_pretrainings : bool
        Units are pre-trainings, in a stratum per corpus; if not, seeds of fine-tuning, paired.

    Yields
    ------
    effect, way, interval
    """
    (corpora, depths, seeds), means = scores.shape[1:4], scores.mean(4)
    ends = np.eye(depths)[-1] - np.eye(depths)[0]
    of_effects = {
        "corpus": (means * np.array([-1.0, 1.0])[:, None, None, None]).mean(2) / seeds,
        "depth": np.einsum("ncdsi,d->ncsi", means, ends) / (corpora * seeds),
    }
    for effect, each in of_effects.items():
        units = each.reshape(len(each), corpora * seeds, -1) if own_pretrainings else each.sum(1)
        strata = np.repeat(np.arange(corpora), seeds) if own_pretrainings else None
        yield effect, "t", intervals.by_units(units, strata)
        yield effect, "t_both", intervals.by_both(units, strata)


def bootstrap_t(contributions: ArrayLike, rng: np.random.Generator, n_draws: int = 1999) -> Interval:
    """Return the bootstrap-t interval on the means of paired units (Efron and Tibshirani 1993, chapter 12).

    Draws whose units are all the same have no standard error and are left out: with three seeds one of nine. With two
    seeds the others are all the sample itself, so that there is no interval.
    """
    means = np.asarray(contributions, dtype=np.float64).mean(-1)
    n = means.shape[-1]
    observed = intervals.by_units(means[..., None])
    drawn = means[..., rng.choice(n, (n_draws, n))]
    error = np.sqrt(n) * drawn.std(-1, ddof=1)
    usable = error > 1e-9 * observed.se[..., None]
    pivots = np.full(error.shape, np.nan)
    np.divide(drawn.sum(-1) - observed.estimate[..., None], error, out=pivots, where=usable)
    low, high = np.nanquantile(pivots, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    t = (observed.estimate / observed.se)[..., None]
    tails = np.minimum((pivots >= t).sum(-1), (pivots <= t).sum(-1))
    p = np.minimum(2 * (tails + 1) / (usable.sum(-1) + 1), 1)
    ends = {"low": observed.estimate - high * observed.se, "high": observed.estimate - low * observed.se}
    return observed._replace(**ends, p=p, df=np.full_like(p, np.nan))


def pooled_images(contributions: ArrayLike, strata: ArrayLike) -> Interval:
    """Return the interval that takes every image of every network for an independent case, as the released code pools them.

    Here to show what it does; see the benchmark. As `by_units` with each image of each unit a unit of its own.
    """
    values = np.asarray(contributions, dtype=np.float64)
    n_images = values.shape[-1]
    flat = values.reshape(*values.shape[:-2], -1, 1) / n_images
    return intervals.by_units(flat, np.repeat(np.asarray(strata), n_images))


def _rates(results: pd.DataFrame) -> pd.DataFrame:
    without = results["effect"] == 0
    groups = {name: part.groupby("way", sort=False) for name, part in results.groupby(without)}
    every = results.groupby("way", sort=False)
    return pd.DataFrame(
        {
            "coverage": every["held"].mean(),
            "type_one": groups[True]["seen"].mean(),
            "power": groups[False]["seen"].mean(),
            "width": every["width"].median(),
        }
    ).reset_index()
