"""A small version of the benchmark: intervals hold the truth as often as they say, pooled images do not."""

import numpy as np
import pytest
from pretrain_xai.statistics.power import Spread, estimate_spread
from simulated_studies import Size, as_skills, coverage_table, simulate_scores

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


def test_the_spread_of_a_large_study_is_found_again():
    spread = Spread(shared=0.015, shared_corpus=0.012, image=0.06)
    study = simulate_scores(1, Size(100, 4, 4, 150), spread, np.random.default_rng(0), new_images=True)[0]
    assert vars(estimate_spread(as_skills(study))) == pytest.approx(vars(spread), rel=0.25)
