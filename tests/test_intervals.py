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


def test_one_stratum_is_the_paired_t_test():
    units = PAIRED.mean(1) * 7
    test = stats.ttest_1samp(units, 0)
    interval = intervals.by_units(PAIRED)
    assert interval.p == pytest.approx(test.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(test.confidence_interval()))


@pytest.mark.parametrize("equal", [False, True])
def test_two_strata_are_welchs_test_and_pooled_is_students_where_groups_are_as_large(equal):
    groups = GROUPS if not equal else np.repeat([0, 1], 6)
    values = UNPAIRED[: len(groups)]
    second = values[groups == 1].mean(1) * (groups == 1).sum()
    first = -values[groups == 0].mean(1) * (groups == 0).sum()
    test = stats.ttest_ind(second, first, equal_var=equal)
    interval = intervals.by_units(values, groups, pooled=equal)
    assert interval.estimate == pytest.approx(second.mean() - first.mean())
    assert interval.p == pytest.approx(test.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(test.confidence_interval()))


def test_images_alone_are_the_t_test_over_images():
    test = stats.ttest_1samp(PAIRED.sum(0), 0)
    interval = intervals.by_images(PAIRED)
    assert interval.p == pytest.approx(test.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(test.confidence_interval()))


def test_clustered_images_are_statsmodels_clustered_regression():
    fit = sm.OLS(PAIRED.sum(0), np.ones(30)).fit(cov_type="cluster", cov_kwds={"groups": CLUSTERS}, use_t=True)
    interval = intervals.by_images(PAIRED, CLUSTERS)
    assert interval.se == pytest.approx(fit.bse[0])
    assert interval.df == 10
    assert interval.p == pytest.approx(fit.pvalues[0])


def test_units_and_images_are_the_two_way_random_analysis_of_variance():
    table = 7 * PAIRED + RNG.normal(0, 0.2, (1, 30)) + RNG.normal(0, 0.2, (7, 1))
    n_units, n_images = table.shape
    mean = table.mean()
    of_units = n_images * ((table.mean(1) - mean) ** 2).sum() / (n_units - 1)
    of_images = n_units * ((table.mean(0) - mean) ** 2).sum() / (n_images - 1)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + mean
    of_rest = (rest**2).sum() / (n_units - 1) / (n_images - 1)
    interval = intervals.by_both(table / n_units)
    assert interval.se == pytest.approx(np.sqrt((of_units + of_images - of_rest) / table.size))
    assert interval.estimate == pytest.approx(mean)


def test_units_and_images_are_never_narrower_than_units():
    values = RNG.normal(0, 1, (50, 3, 20)) + RNG.normal(0, 1, (50, 3, 1))
    both, units = intervals.by_both(values), intervals.by_units(values)
    assert (both.high - both.low >= units.high - units.low - 1e-12).all()


def test_bootstrap_t_is_the_slow_loop():
    n_draws, units = 400, PAIRED.mean(1)
    fast = intervals.bootstrap_t(PAIRED, None, np.random.default_rng(3), n_draws)
    chosen = np.random.default_rng(3).choice(np.arange(7), (n_draws, 7))
    estimate, pivots = units.sum(), []
    for draw in chosen:
        sample = units[draw] * 7
        pivots.append((sample.mean() - estimate) / (sample.std(ddof=1) / np.sqrt(7)))
    low, high = np.quantile(pivots, [0.025, 0.975])
    se = (units * 7).std(ddof=1) / np.sqrt(7)
    assert (fast.low, fast.high) == pytest.approx((estimate - high * se, estimate - low * se))


def test_draws_of_one_unit_alone_do_not_make_the_bootstrap_t_infinite():
    interval = intervals.bootstrap_t(PAIRED[:3], None, np.random.default_rng(0), 500)
    assert np.isfinite([interval.low, interval.high, interval.p]).all()


def test_hierarchical_bootstrap_is_the_slow_loop():
    n_draws = 200
    fast = intervals.hierarchical_bootstrap(UNPAIRED, GROUPS, np.random.default_rng(4), CLUSTERS, n_draws)
    rng = np.random.default_rng(4)
    counts = [rng.multinomial(n, np.full(n, 1 / n), n_draws) for n in (5, 8)]
    subjects = rng.multinomial(11, np.full(11, 1 / 11), n_draws)
    drawn = []
    for draw in range(n_draws):
        units = np.repeat(np.arange(13), np.concatenate([counts[0][draw], counts[1][draw]]))
        images = np.concatenate([np.flatnonzero(c == CLUSTERS) for c in np.repeat(np.arange(11), subjects[draw])])
        drawn.append(UNPAIRED[np.ix_(units, images)].mean(1).sum())
    assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_pooling_is_the_test_over_all_images_as_if_independent():
    second = (UNPAIRED[GROUPS == 1] * 8).ravel()
    first = (-UNPAIRED[GROUPS == 0] * 5).ravel()
    test = stats.ttest_ind(second, first, equal_var=False)
    assert intervals.pooled_images(UNPAIRED, GROUPS).p == pytest.approx(test.pvalue)


def test_effect_size_is_cohens_d_with_hedges_correction():
    units = PAIRED.mean(1) * 7
    expected = units.mean() / units.std(ddof=1) * (1 - 3 / (4 * 6 - 1))
    assert intervals.effect_size(PAIRED) == pytest.approx(expected, rel=5e-3)
    groups, values = np.repeat([0, 1], 6), UNPAIRED[:12]
    second, first = values[groups == 1].mean(1) * 6, -values[groups == 0].mean(1) * 6
    pooled = np.sqrt((second.var(ddof=1) + first.var(ddof=1)) / 2)
    expected = (second.mean() - first.mean()) / pooled * (1 - 3 / (4 * 10 - 1))
    assert intervals.effect_size(values, groups, sides=2) == pytest.approx(expected, rel=5e-3)


def test_many_effects_at_once_are_each_alone():
    many = RNG.normal(0, 1, (4, 5, 12))
    rng = np.random.default_rng
    for way in (
        intervals.by_units,
        intervals.by_images,
        intervals.by_both,
        lambda x: intervals.bootstrap_t(x, None, rng(0), 99),
        lambda x: intervals.hierarchical_bootstrap(x, None, rng(0), None, 99),
    ):
        together = np.array(way(many))
        np.testing.assert_allclose(together, np.stack([way(one) for one in many], axis=-1))


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_intervals_move_and_stretch_with_the_scores(scale, shift):
    for way in (intervals.by_units, intervals.by_images, intervals.by_both):
        before, after = way(PAIRED), way(PAIRED * scale + shift / 7)
        for end in ("low", "high"):
            assert getattr(after, end) == pytest.approx(getattr(before, end) * scale + shift)


def test_one_unit_has_no_variance_and_says_so():
    with pytest.raises(ValueError, match="by_images"):
        intervals.by_units(PAIRED[:1])
    with pytest.raises(ValueError, match="by_images"):
        intervals.by_units(PAIRED[:3], [0, 0, 1])
