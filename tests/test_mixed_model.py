"""The mixed model against R's lme4, run once on tests/data/network_means.csv by tests/data/network_means.R.

Its call: lmer(skill ~ pretraining * finetune_depth * method + (1 | network), REML = TRUE), contrasts that sum to 0, R
4.2.2 (2022-11-10 r83330), lme4 1.1.31. One network is missing, so that the data are not balanced.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.effects import MixedModel
from pretrain_xai.statistics.power import Spread
from simulated_studies import Size, as_skills, simulate_scores

TABLE = Path(__file__).parent / "data" / "network_means.csv"
#: estimates by corpus (mri against the mean) and depth (1), of the mean of all methods, of method 0 and of 1
ESTIMATES = {
    ("", ""): (0.2951885694444, -0.0453581944444, -0.0047495277778),
    ("mri", ""): (0.0165356250000, 0.0037935833333, -0.0003830833333),
    ("", "1"): (-0.0463519027778, -0.0016951388889, 0.0044678611111),
    ("mri", "1"): (-0.0102997361111, -0.0010451388889, 0.0039288611111),
}
#: standard errors of terms by their method
ERRORS = {"": 0.01405029000, "method0": 0.00396960224, "method1": 0.00396960224}
LME4 = {(*at, name): (row[i], ERRORS[name]) for at, row in ESTIMATES.items() for i, name in enumerate(ERRORS)}
#: of networks and the residual
VARIANCES = 0.0020216722999, 0.0002521238711


def weights(*term: str) -> pd.Series:
    """Return a coefficient that sums to 0 as weights of cell means: of corpus, depth and method."""
    levels = (["mri", "natural"], ["1", "2"], ["method0", "method1", "method2"])
    single = [
        {name: (name == chosen) - 1 / len(names) if chosen else 1 / len(names) for name in names}
        for chosen, names in zip(term, levels, strict=True)
    ]
    return pd.Series({(c, int(d), m): single[0][c] * single[1][d] * single[2][m] for c, d, m in product(*levels)})


@pytest.fixture(scope="module")
def model():
    return MixedModel(pd.read_csv(TABLE))


@pytest.mark.parametrize("term", LME4, ids=lambda term: ":".join(filter(None, term)) or "intercept")
def test_fixed_effects_and_standard_errors_are_lme4s(model, term):
    interval = model.interval(weights(*term))
    assert (interval.estimate, interval.se) == pytest.approx(LME4[term], rel=1e-4, abs=1e-9)


def test_variances_are_lme4s_and_degrees_of_freedom_those_of_the_stratum_that_holds_the_effect(model):
    assert (model.network_variance, model.residual_variance) == pytest.approx(VARIANCES, rel=1e-3)
    assert model.interval(weights("mri", "", "")).df == 11 - 4
    assert model.interval(weights("", "", "method0")).df == (11 - 4) * 2


@pytest.mark.parametrize("n_seeds", [3, 10])
def test_in_a_balanced_study_it_is_the_pooled_t_interval_of_networks(n_seeds):
    """The closed form that the benchmark uses for a thousand studies."""
    skills = as_skills(simulate_scores(1, Size(n_seeds, 2, 3, 20), Spread(), np.random.default_rng(n_seeds))[0])
    fitted = MixedModel(skills.network_means()).interval(weights("mri", "", "") * 2)
    sign = np.repeat([-1, 1], 2 * n_seeds) / (2 * n_seeds)
    closed = intervals.by_units(sign[:, None] * skills.values.mean(1), np.repeat(np.arange(4), n_seeds), pooled=True)
    np.testing.assert_allclose(fitted, closed, rtol=1e-3)


def test_networks_that_do_not_differ_have_no_variance():
    scores = simulate_scores(1, Size(3, 2, 3, 20), Spread(network=0, image_network=0), np.random.default_rng(0))[0]
    table = as_skills(scores).network_means()
    table["skill"] -= table.groupby(["pretraining", "finetune_depth", "seed"])["skill"].transform("mean")
    assert MixedModel(table).network_variance < 1e-6
