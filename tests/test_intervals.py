"""Intervals against scipy, statsmodels and slow loops."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.statistics import intervals
from scipy import stats

RNG = np.random.default_rng(1)
PAIRED = RNG.normal(0.05, 0.1, (7, 30)) / 7
GROUPS = np.repeat([0, 1], [5, 8])
#: a difference of two groups: the means of 5 units with a minus, of 8 with a plus
UNPAIRED = RNG.normal(0.3, 0.1, (13, 30)) * np.where(GROUPS == 0, -1 / 5, 1 / 8)[:, None]
CLUSTERS = np.arange(30) % 11


def is_test(interval: intervals.Interval, test, estimate: float) -> None:
    """Check every number of an interval against a test of scipy."""
    low, high = test.confidence_interval()
    found = (interval.estimate, interval.low, interval.high, interval.p, interval.df, interval.se)
    assert found == pytest.approx((estimate, low, high, test.pvalue, test.df, estimate / test.statistic))


def two_groups(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit means of both groups, the second first."""
    return tuple(sign * values[groups == g].mean(1) * (groups == g).sum() for sign, g in ((1, 1), (-1, 0)))


def test_one_stratum_is_the_paired_t_test():
    units = PAIRED.mean(1) * 7
    is_test(intervals.by_units(PAIRED), stats.ttest_1samp(units, 0), units.mean())


@pytest.mark.parametrize(("equal", "groups"), [(False, GROUPS), (True, np.repeat([0, 1], 6))])
def test_two_strata_are_welchs_test_and_pooled_is_students_where_groups_are_as_large(equal, groups):
    values = UNPAIRED[: len(groups)]
    second, first = two_groups(values, groups)
    test = stats.ttest_ind(second, first, equal_var=equal)
    is_test(intervals.by_units(values, groups, pooled=equal), test, second.mean() - first.mean())


@pytest.mark.parametrize("n_images", [30, 2])
def test_images_alone_are_the_t_test_over_images(n_images):
    values = PAIRED[:, :n_images]
    is_test(intervals.by_images(values), stats.ttest_1samp(values.sum(0), 0), values.sum(0).mean())


def test_clustered_images_are_statsmodels_clustered_regression():
    fit = sm.OLS(PAIRED.sum(0), np.ones(30)).fit(cov_type="cluster", cov_kwds={"groups": CLUSTERS}, use_t=True)
    interval = intervals.by_images(PAIRED, CLUSTERS + 3)
    assert (interval.se, interval.df, interval.p) == pytest.approx((fit.bse[0], 10, fit.pvalues[0]))
    assert (interval.low, interval.high) == pytest.approx(tuple(fit.conf_int()[0]))


@pytest.mark.parametrize("clusters", [None, np.repeat(range(15), 2)])
def test_units_and_images_are_the_two_way_random_analysis_of_variance(clusters):
    noise = np.random.default_rng(4).normal
    table = noise(0, 0.2, (7, 1)) + np.repeat(7 * PAIRED[:, ::2] + noise(0, 0.2, (1, 15)), 2, axis=1)
    interval = intervals.by_both((table if clusters is not None else table[:, ::2]) / 7, None, clusters)
    table = table[:, ::2]  # a subject's images are alike: its mean is the unit of analysis
    (n_units, n_images), mean = table.shape, table.mean()
    of_units = n_images * ((table.mean(1) - mean) ** 2).sum() / (n_units - 1) / table.size
    of_images = n_units * ((table.mean(0) - mean) ** 2).sum() / (n_images - 1) / table.size
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + mean
    of_rest = (rest**2).sum() / (n_units - 1) / (n_images - 1) / table.size
    variance = of_units + of_images - of_rest
    df = variance**2 / (of_units**2 / 6 + of_images**2 / 14)
    np.testing.assert_allclose(interval, intervals.t_interval(mean, np.sqrt(variance), df))


def test_units_and_images_of_two_strata_add_their_variances():
    """As each stratum's own analysis; with differences that differ little, so that no source is larger than the sum."""
    noise = np.random.default_rng(2).normal
    values = UNPAIRED + noise(0, 0.02, (13, 1)) + noise(0, 0.02, 30)
    parts = [values[GROUPS == 0], values[GROUPS == 1]]
    centred = [p - p.mean(1, keepdims=True) - p.mean(0) + p.mean() for p in parts]
    images = values.sum(0).var(ddof=1) / 30
    both = sum((c.T @ c).trace() / 30 / 29 * len(c) / (len(c) - 1) for c in centred)
    units = sum(len(p) * p.mean(1).var(ddof=1) for p in parts)
    assert intervals.by_both(values, GROUPS).se == pytest.approx(np.sqrt(units + images - both))


def test_units_and_images_are_never_narrower_than_units_or_less_than_either_source():
    noise = np.random.default_rng(3).normal
    values = noise(0, 1, (50, 3, 20)) + noise(0, 0.3, (50, 3, 1))
    both, units, images = (way(values) for way in (intervals.by_both, intervals.by_units, intervals.by_images))
    assert (both.high - both.low >= units.high - units.low - 1e-12).all()
    wider = both.se != units.se
    assert (both.se >= np.maximum(units.se, images.se) - 1e-12)[wider].all() and 0 < wider.sum() < 50


def test_hierarchical_bootstrap_is_the_slow_loop():
    n_draws = 200
    fast = intervals.hierarchical_bootstrap(UNPAIRED, GROUPS, np.random.default_rng(4), CLUSTERS, n_draws)
    rng = np.random.default_rng(4)
    counts = np.hstack([rng.multinomial(n, np.full(n, 1 / n), n_draws) for n in (5, 8)])
    subjects = rng.multinomial(11, np.full(11, 1 / 11), n_draws)
    drawn = []
    for draw in range(n_draws):
        images = np.concatenate([np.flatnonzero(c == CLUSTERS) for c in np.repeat(np.arange(11), subjects[draw])])
        drawn.append(UNPAIRED[np.ix_(np.repeat(np.arange(13), counts[draw]), images)].mean(1).sum())
    expected = UNPAIRED.mean(1).sum(), *np.quantile(drawn, [0.025, 0.975]), np.std(drawn, ddof=1)
    assert (fast.estimate, fast.low, fast.high, fast.se) == pytest.approx(expected)
    tail = min(np.sum(np.array(drawn) >= 0), np.sum(np.array(drawn) <= 0))
    assert np.isnan(fast.df) and fast.p == pytest.approx(min(1, 2 * (tail + 1) / (n_draws + 1)))


def test_the_bootstraps_p_is_at_most_one_and_as_small_as_its_draws_allow():
    p = [intervals.hierarchical_bootstrap(x, None, np.random.default_rng(0)).p for x in (0 * PAIRED, PAIRED**2)]
    assert p == pytest.approx([1, 2 / 2000])


def test_effect_size_is_cohens_d_with_hedges_correction():
    def correction(df: int) -> float:
        return stats.chi(df).mean() ** -1 * np.sqrt(df) * (df - 1) / df  # by the mean of a chi distribution

    units = PAIRED.mean(1) * 7
    assert intervals.effect_size(PAIRED) == pytest.approx(units.mean() / units.std(ddof=1) * correction(6))
    groups = np.repeat([0, 1], 6)
    second, first = two_groups(UNPAIRED[:12], groups)
    pooled = np.sqrt((second.var(ddof=1) + first.var(ddof=1)) / 2)
    expected = (second.mean() - first.mean()) / pooled * correction(10)
    assert intervals.effect_size(UNPAIRED[:12], groups, sides=2) == pytest.approx(expected)
    assert np.isnan(intervals.effect_size(PAIRED[:2])) and np.isnan(intervals.effect_size(np.ones((4, 3))))


def test_many_effects_at_once_are_each_alone():
    many = np.random.default_rng(5).normal(0, 1, (2, 2, 5, 12)) + np.array([[-1, -0.3], [0.3, 1]])[..., None, None]

    def hierarchical(values: np.ndarray) -> intervals.Interval:
        return intervals.hierarchical_bootstrap(values, None, np.random.default_rng(0), None, 99)

    for way in (intervals.by_units, intervals.by_images, intervals.by_both, hierarchical, intervals.effect_size):
        for values in (many, many[..., :1]):  # one image has no variance over images
            alone = [[way(one) for one in pair] for pair in values]
            np.testing.assert_allclose(way(values), np.moveaxis(alone, (0, 1), (-2, -1)))


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_intervals_move_and_stretch_with_the_scores(scale, shift):
    for way in (intervals.by_units, intervals.by_images, intervals.by_both):
        before, after = way(PAIRED), way(PAIRED * scale + shift / 7)
        for end in ("low", "high"):
            assert getattr(after, end) == pytest.approx(getattr(before, end) * scale + shift)


@pytest.mark.filterwarnings("error")
def test_without_spread_there_is_a_width_of_nothing_and_without_units_a_reason():
    for way, df in ((intervals.by_units, 3), (intervals.by_images, 5), (intervals.by_both, 3 + 5)):
        np.testing.assert_equal(way(np.ones((4, 6))), (4, 4, 4, 0, df, 0))
        np.testing.assert_equal(way(np.zeros((4, 6))), (0, 0, 0, 0, df, np.nan))
    assert np.isnan(intervals.by_images(PAIRED[:, :1]).se)
    assert np.isfinite(intervals.effect_size(PAIRED[:3]))
    for values, strata in ((PAIRED[:1], None), (PAIRED[:3], [0, 0, 1])):
        with pytest.raises(ValueError, match=r"^a stratum has one unit.*; use by_images$"):
            intervals.by_units(values, strata)
