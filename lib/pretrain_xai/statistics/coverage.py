"""How often intervals hold the truth and tests see an effect that is not there, over simulated studies."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.intervals import Interval
from pretrain_xai.statistics.simulated_studies import Size, Spread, simulate_scores

#: studies simulated at once: bounds memory
CHUNK = 100


def coverage_table(
    n_studies: int,
    size: Size,
    spread: Spread,
    rng: np.random.Generator,
    *,
    corpus_effect: float = 0.03,
    new_images: bool = False,
    n_draws: int = 999,
) -> pd.DataFrame:
    """Simulate studies without and with an effect of the corpus, and return how each way to make intervals does.

    Parameters
    ----------
    corpus_effect : float
        True difference of mean skill of two corpora in the studies that have one.
    new_images : bool
        Whether the truth is the effect on all images, of which the study's are a sample, or that on the study's own.

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
            scores = simulate_scores(number, size, spread, rng, corpus_effect=effect, new_images=new_images)
            for way, interval in corpus_intervals(scores, rng, n_draws):
                parts.append(
                    pd.DataFrame(
                        {
                            "way": way,
                            "effect": effect,
                            "held": (interval.low <= effect) & (effect <= interval.high),
                            "seen": interval.p < 0.05,
                            "width": interval.high - interval.low,
                        }
                    )
                )
    return _rates(pd.concat(parts, ignore_index=True))


def corpus_intervals(
    scores: NDArray[np.float64], rng: np.random.Generator, n_draws: int
) -> Iterator[tuple[str, Interval]]:
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
    yield "bootstrap-t, paired", intervals.bootstrap_t(paired, None, rng, n_draws)
    yield (
        "hierarchical percentile bootstrap, paired",
        intervals.hierarchical_bootstrap(paired, None, rng, None, n_draws),
    )
    yield "t over seeds and images, paired", intervals.by_both(paired)
    mixed = intervals.by_units(networks, of_cell, pooled=True)
    yield "mixed model, t", mixed
    yield "mixed model, normal", intervals.t_interval(mixed.estimate, mixed.se, np.inf)
    yield "images pooled as released", intervals.pooled_images(networks, of_cell)


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
