"""Intervals and tests of one effect, when a few networks were scored on the same images.

An effect is a sum of *contributions*, an array of shape (..., n_units, n_images): the effect is their sum over the units,
of their mean over the images. A unit is what another study would draw again: a seed with all its networks (paired), or a
single network. Units of one stratum are exchangeable; an effect paired by seed has one stratum, a difference of independent
groups has one per group. Leading axes are further effects or simulated studies.

`by_units` asks for networks of other seeds on the images tested; `by_images` for other images of the networks at hand,
all that one seed allows; `by_both` for other networks on other images.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy import special, stats

from pretrain_xai.arrays import Floats

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate, its 95 % interval and its test against 0; float arrays of the leading shape, NaN where there is none."""

    estimate: Floats
    low: Floats
    high: Floats
    se: Floats
    df: Floats
    p: Floats


def by_units(contributions: ArrayLike, strata: ArrayLike | None = None, *, pooled: bool = False) -> Interval:
    """Return the t interval on unit means: the paired t for one stratum, Welch's for several.

    Parameters
    ----------
    contributions : float array of shape (..., n_units, n_images)
    strata : int array of shape (n_units,), optional
        At least two units each.
    pooled : bool
        Take one variance for the units of all strata, each scaled by its stratum's weight; these weights must be the same but
        for their sign. With a unit per network and a stratum per cell this is what a linear mixed model with a random
        intercept per network gives for an effect between networks, in a balanced study.
    """
    means = np.asarray(contributions).mean(-1)
    variances, dfs = _unit_variances(means, _strata(strata, means.shape[-1]))
    total = variances.sum(-1)
    df = np.broadcast_to(dfs.sum(), total.shape) if pooled else _satterthwaite(variances, dfs, total)
    return t_interval(means.sum(-1), np.sqrt(total), df)


def by_images(contributions: ArrayLike, clusters: ArrayLike | None = None) -> Interval:
    """Return the interval over images alone, clustered by subject: t with one degree of freedom less than clusters.

    Parameters
    ----------
    contributions : float array of shape (..., n_units, n_images)
    clusters : int array of shape (n_images,), optional
        Number of each image's subject, from 0; each image by itself if not given.
    """
    per_image = np.asarray(contributions).sum(-2)
    member = _members(clusters, per_image.shape[-1])
    return t_interval(per_image.mean(-1), np.sqrt(_cluster_variance(per_image, member)), member.shape[1] - 1.0)


def by_both(contributions: ArrayLike, strata: ArrayLike | None = None, clusters: ArrayLike | None = None) -> Interval:
    """Return the interval over units and images, which are crossed: every network saw the same images.

    Two-way clustered variance (Cameron, Gelbach and Miller 2011, units + subjects - both), for balanced data that of a
    two-way random analysis of variance as for readers and cases in radiology (Dorfman, Berbaum and Metz 1992);
    Satterthwaite's degrees of freedom. With few units these may rise faster than the variance, so where `by_units` is
    wider its interval is given.
    """
    values = np.asarray(contributions)
    groups, member = _strata(strata, values.shape[-2]), _members(clusters, values.shape[-1])
    unit_variances, dfs = _unit_variances(values.mean(-1), groups)
    units, images = unit_variances.sum(-1), _cluster_variance(values.sum(-2), member)
    both = np.zeros_like(images)
    for group in np.unique(groups):
        part = values[..., groups == group, :]
        n = part.shape[-2]
        both += _cluster_variance(part - part.mean(-2, keepdims=True), member).sum(-1) * n / (n - 1)
    # both sources hold the noise of single scores; the difference must not fall below either
    total = np.maximum(units + images - both, np.maximum(units, images))
    sources = np.concatenate([unit_variances, images[..., None]], axis=-1)
    df = _satterthwaite(sources, np.append(dfs, member.shape[1] - 1.0), total)
    narrow = by_units(values, groups)
    wide = t_interval(narrow.estimate, np.sqrt(total), df)
    wider = wide.high - wide.low >= narrow.high - narrow.low
    return Interval(*np.where(wider, wide, narrow))


def hierarchical_bootstrap(
    contributions: ArrayLike,
    strata: ArrayLike | None,
    rng: Generator,
    clusters: ArrayLike | None = None,
    n_draws: int = 1999,
) -> Interval:
    """Return the percentile interval of a bootstrap that draws units, then subjects with their images.

    All units of a draw get the same images, as in the study. Percentile intervals of few units are too narrow: the
    benchmark says by how much.
    """
    values = np.asarray(contributions)
    groups, member = _strata(strata, values.shape[-2]), _members(clusters, values.shape[-1])
    units = np.empty((n_draws, values.shape[-2]))
    for group in np.unique(groups):
        units[:, groups == group] = _draw(rng, int((groups == group).sum()), n_draws)
    images = _draw(rng, member.shape[1], n_draws) @ member.T
    images = images / images.sum(1, keepdims=True)
    drawn = np.einsum("...bi,bi->...b", units @ values, images)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    tails = np.minimum((drawn >= 0).sum(-1), (drawn <= 0).sum(-1))
    p = np.minimum(2 * (tails + 1) / (n_draws + 1), 1)
    return Interval(values.mean(-1).sum(-1), low, high, drawn.std(-1, ddof=1), np.full(p.shape, np.nan), p)


def effect_size(contributions: ArrayLike, strata: ArrayLike | None = None, *, sides: int = 1) -> Floats:
    """Return Cohen's d over units with the small-sample correction (Hedges 1981, exact gamma form).

    Parameters
    ----------
    sides : int
        1: d_z, the effect in standard deviations of the units' differences. 2: a difference of independent groups, in
        standard deviations of one group (their mean variance).
    """
    means = np.asarray(contributions).mean(-1)
    variances, dfs = _unit_variances(means, _strata(strata, means.shape[-1]))
    deviation = np.sqrt((variances * (dfs + 1)).sum(-1) / sides)
    df = dfs.sum()
    correction = np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2) if df > 1 else np.nan
    return correction * (means.sum(-1) / np.where(deviation > 0, deviation, np.nan))


def t_interval(estimate: Floats, se: Floats, df: ArrayLike) -> Interval:
    """Return estimate ± t(df) se and the two-sided p of the estimate against 0; `df` infinite: the normal interval."""
    estimate, se, df = np.broadcast_arrays(estimate, se, df)
    half = stats.t.ppf((1 + LEVEL) / 2, df) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * np.asarray(stats.t.sf(np.abs(estimate / se), df))
    return Interval(estimate, estimate - half, estimate + half, se, df, p)


def _unit_variances(means: Floats, strata: np.ndarray) -> tuple[Floats, Floats]:
    """Return what each stratum adds to the variance of the sum of (..., n_units) means, and its degrees of freedom."""
    groups = [means[..., strata == group] for group in np.unique(strata)]
    counts = np.array([group.shape[-1] for group in groups], dtype=np.float64)
    if (counts < 2).any():
        raise ValueError("a stratum has one unit: there is no variance between units; use by_images")
    variances = [group.shape[-1] * group.var(-1, ddof=1) for group in groups]
    return np.stack(variances, axis=-1), counts - 1


def _cluster_variance(values: Floats, member: Floats) -> Floats:
    """Return the variance of the mean over the last axis, images, whose deviations are correlated within clusters."""
    n_images, n_clusters = member.shape
    if n_clusters < 2:
        return np.full(values.shape[:-1], np.nan)
    deviations = values - values.mean(-1, keepdims=True)
    return ((deviations @ member) ** 2).sum(-1) * n_clusters / (n_clusters - 1) / n_images**2


def _satterthwaite(variances: Floats, dfs: Floats, total: Floats) -> Floats:
    bottom = (variances**2 / dfs).sum(-1)
    return np.divide(total**2, bottom, out=np.broadcast_to(dfs.sum(), total.shape).copy(), where=bottom > 0)


def _draw(rng: Generator, n: int, n_draws: int) -> np.ndarray:
    """Return how often each of n is drawn, of n with replacement; shape (n_draws, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), n_draws)


def _members(clusters: ArrayLike | None, n_images: int) -> Floats:
    numbers = np.arange(n_images) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.eye(numbers.max() + 1)[numbers]


def _strata(strata: ArrayLike | None, n_units: int) -> np.ndarray:
    return np.zeros(n_units) if strata is None else np.asarray(strata)
