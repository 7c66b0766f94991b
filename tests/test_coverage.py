"""A small version of the benchmark: intervals hold the truth as often as they say, pooled images do not."""

import numpy as np
import pytest
from pretrain_xai.statistics.power import Spread, estimate_spread
from scipy import stats
from simulated_studies import Size, as_skills, bootstrap_t, coverage_table, pooled_images, simulate_scores

#: four standard errors of a share of .95 among 600, and of .05 among 300
COVERED, SEEN = (0.914, 0.986), 0.1


def table(n_seeds: int, new_images: bool = False, n_studies: int = 300, **spread):
    size, rng = Size(n_seeds, 2, 2, 20), np.random.default_rng(n_seeds)
    one = coverage_table(n_studies, size, Spread(**spread), rng, new_images=new_images, n_draws=199)
    return one.set_index("way")


def test_with_ten_seeds_the_intervals_hold_and_pooling_does_not():
    of = table(10)
    for way in ("t, paired by seed", "t, Welch, every network", "bootstrap-t, paired", "mixed model, t"):
        assert COVERED[0] < of.loc[way, "coverage"] < COVERED[1], way
        assert of.loc[way, "type_one"] < SEEN and of.loc[way, "power"] > 0.5, way
    assert of.loc["images pooled as released", "type_one"] > 0.15


def test_with_three_seeds_bootstraps_cover_too_little_and_t_does_not():
    """Why the bootstrap-t is not among the ways of the effects."""
    of = table(3)
    assert COVERED[0] < of.loc["t, paired by seed", "coverage"] < COVERED[1]
    assert of.loc["bootstrap-t, paired", "coverage"] < 0.9


def test_only_intervals_over_images_too_hold_on_other_images():
    of = table(10, new_images=True, image_corpus=0.06)
    assert COVERED[0] < of.loc["t over seeds and images, paired", "coverage"] < COVERED[1]
    assert of.loc["t, paired by seed", "coverage"] < 0.85


def test_pairing_by_seed_holds_whatever_seeds_share():
    of = table(10, shared_corpus=0.028)
    assert COVERED[0] < of.loc["t, paired by seed", "coverage"] < COVERED[1]
    assert of.loc["t, Welch, every network", "coverage"] < COVERED[0]


def test_bootstrap_t_is_the_slow_loop():
    units = np.random.default_rng(1).normal(0.05, 0.1, 7)
    fast = bootstrap_t(units[:, None] / 7, np.random.default_rng(3), 400)
    samples = units[np.random.default_rng(3).choice(7, (400, 7))]
    pivots = [(sample.mean() - units.mean()) / stats.sem(sample) for sample in samples]
    low, high = units.mean() - np.quantile(pivots, [0.975, 0.025]) * stats.sem(units)
    assert (fast.low, fast.high) == pytest.approx((low, high))
    assert np.isfinite(bootstrap_t(units[:3, None], np.random.default_rng(0), 500)[:3]).all()


def test_pooling_is_the_test_over_all_images_as_if_independent():
    first, second = np.random.default_rng(1).normal(0.3, 0.1, (2, 5, 30))
    pooled = pooled_images(np.concatenate([-first, second]) / 5, np.repeat([0, 1], 5))
    assert pooled.p == pytest.approx(stats.ttest_ind(second.ravel(), first.ravel(), equal_var=False).pvalue)


def test_the_spread_of_a_large_study_is_found_again_and_one_seed_has_none():
    spread = Spread(shared=0.015, shared_corpus=0.012, image=0.06)
    study = simulate_scores(1, Size(100, 4, 4, 150), spread, np.random.default_rng(0), new_images=True)[0]
    assert vars(estimate_spread(as_skills(study))) == pytest.approx(vars(spread), rel=0.25)
    with pytest.raises(ValueError, match="one seed"):
        estimate_spread(as_skills(study[:, :, :1]))
