"""A small version of the benchmark: intervals hold the truth as often as they say, pooled images do not."""

import numpy as np
import pytest
from pretrain_xai.statistics.effects import effect_table
from pretrain_xai.statistics.power import Spread, estimate_spread
from simulated_studies import Size, as_skills, coverage_table, design_intervals, simulate_scores

#: four standard errors of a share of .95 among 600, and of .05 among 300
COVERED, SEEN = (0.914, 0.986), 0.1


def table(n_seeds: int, new_images: bool = False, n_studies: int = 300, **spread):
    size, rng = Size(n_seeds, 2, 2, 20), np.random.default_rng(n_seeds)
    return coverage_table(n_studies, size, Spread(**spread), rng, new_images=new_images, n_draws=199).set_index("way")


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


def test_the_spread_of_a_large_study_is_found_again():
    spread = Spread(shared=0.015, shared_corpus=0.012, image=0.06)
    study = simulate_scores(1, Size(100, 4, 4, 150), spread, np.random.default_rng(0), new_images=True)[0]
    assert vars(estimate_spread(as_skills(study))) == pytest.approx(vars(spread), rel=0.25)


@pytest.mark.parametrize("own", [True, False])
def test_the_intervals_that_the_benchmark_counts_are_those_of_the_effects(own):
    scores = simulate_scores(3, Size(4, 3, 2, 16), Spread(), np.random.default_rng(0), pretraining=0.03)
    effects = effect_table(as_skills(scores[1], own_pretrainings=own)).set_index(["family", "way"])
    names = ["estimate", "low", "high", "df", "p"]
    for effect, way, interval in design_intervals(scores, own_pretrainings=own):
        expected = effects.loc[(effect, way), names].to_numpy(dtype=float)
        np.testing.assert_allclose([getattr(interval, name)[1] for name in names], expected)


@pytest.mark.parametrize("n", [3, 5])
def test_pre_trainings_as_units_hold_and_seeds_of_one_do_not(n):
    size, spread, rng = Size(n, 2, 2, 10), Spread(), np.random.default_rng(n)
    for own in (True, False):
        options = {"pretraining": 0.03, "pretraining_depth": 0.015, "own_pretrainings": own}
        scores = simulate_scores(600, size, spread, rng, **options)
        for effect, way, interval in design_intervals(scores, own_pretrainings=own):
            if way == "t":
                covered = ((interval.low <= 0) & (interval.high >= 0)).mean()
                assert COVERED[0] < covered < COVERED[1] if own else covered < 0.95, (effect, own)
