"""Effects: contrasts of built studies whose answers are known, and corrections."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.effects import ALL, WAYS, cell_table, contrasts, contributions, effect_table, holm
from pretrain_xai.statistics.simulated_studies import Size, Spread, as_skills, simulate_scores
from statsmodels.stats.multitest import multipletests

SPREAD = Spread(network=0.02)


def study(n_seeds: int = 4, **options) -> Skills:
    size = Size(n_seeds, n_depths=3, n_methods=3, n_images=24)
    return as_skills(simulate_scores(1, size, SPREAD, np.random.default_rng(2), **options)[0], n_subjects=8)


@pytest.fixture(scope="module")
def skills() -> Skills:
    one = study(corpus_effect=0.1, depth_effect=0.2)
    sobel = np.tile(np.linspace(0, 0.1, 24), (3, 1))
    return dataclasses.replace(one, references={"sobel": sobel})


@pytest.fixture(scope="module")
def effects(skills) -> pd.DataFrame:
    return effect_table(skills)


def estimate(effects: pd.DataFrame, family: str, **names) -> float:
    rows = effects[(effects["family"] == family) & (effects["way"] == "t")]
    for name, value in names.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows["estimate"].iloc[0]


def test_effects_are_differences_of_cell_means(skills, effects):
    means = skills.network_means().groupby(["pretraining", "finetune_depth", "method"])["skill"].mean()
    mri, natural = means["mri"], means["natural"]
    assert estimate(effects, "corpus") == pytest.approx(mri.mean() - natural.mean())
    by_method = mri.groupby("method").mean() - natural.groupby("method").mean()
    assert estimate(effects, "corpus_by_method", method="method1") == pytest.approx(by_method["method1"])
    assert estimate(effects, "corpus_by_depth", finetune_depth="2") == pytest.approx((mri[2] - natural[2]).mean())
    by_depth = means.groupby("finetune_depth").mean()
    assert estimate(effects, "depth") == pytest.approx(by_depth[3] - by_depth[1])
    assert estimate(effects, "depth_slope") == pytest.approx(np.polyfit([1, 2, 3], by_depth, 1)[0])
    assert estimate(effects, "corpus_x_depth") == pytest.approx((mri[3] - mri[1] - natural[3] + natural[1]).mean())
    methods = means.groupby("method").mean()
    expected = methods["method0"] - methods["method2"]
    assert estimate(effects, "methods", contrast="method0 - method2") == pytest.approx(expected)
    expected = methods["method2"] - skills.references["sobel"].mean()
    assert estimate(effects, "sobel", method="method2") == pytest.approx(expected)


def test_every_effect_is_made_in_every_way_with_seeds_as_units(effects):
    assert set(effects["unit"]) == {"seed"}
    ways = effects[effects["family"] != "sobel"].groupby(
        ["family", "contrast", "method", "finetune_depth", "pretraining"]
    )
    assert (ways["way"].agg(tuple).map(set) == set(WAYS)).all()
    assert (effects["low"] <= effects["estimate"]).mean() > 0.99


def test_all_ways_estimate_the_same(effects):
    corpus = effects[effects["family"] == "corpus"]
    np.testing.assert_allclose(corpus["estimate"], corpus["estimate"].iloc[0], rtol=1e-6)


def test_seeds_of_the_same_numbers_are_paired(skills):
    (corpus,) = (c for c in contrasts(skills) if c.family == "corpus")
    units, strata, sides = contributions(skills, corpus)
    assert units.shape == (4, 24)
    assert set(strata) == {0} and sides == 1
    by_seed = skills.network_means().pivot_table(index="seed", columns="pretraining", values="skill")
    np.testing.assert_allclose(4 * units.mean(1), by_seed["mri"] - by_seed["natural"])


def test_seeds_of_other_numbers_are_units_of_their_own(skills):
    """As in the paper, whose seeds differ between cells."""
    table = skills.networks.assign(seed=np.arange(len(skills.networks)))
    other = dataclasses.replace(skills, networks=table)
    (corpus,) = (c for c in contrasts(other) if c.family == "corpus")
    units, strata, sides = contributions(other, corpus)
    assert len(units) == 24
    assert np.bincount(strata).tolist() == [4] * 6 and sides == 2
    (pair,) = (c for c in contrasts(other) if c.contrast == "method0 - method1")
    assert contributions(other, pair)[2] == 1
    assert intervals.by_units(units, strata).estimate == pytest.approx(
        estimate(effect_table(skills, 0, ("t",)), "corpus")
    )


def test_one_seed_gives_intervals_over_subjects_only_and_says_so():
    one = study(n_seeds=1)
    table = effect_table(one)
    assert set(table["unit"]) == {"image"}
    assert set(table["way"]) == {"t"}
    assert set(table["n_units"]) == {8}
    cells = cell_table(one)
    assert set(cells["unit"]) == {"image"} and set(cells["df"]) == {7}


def test_cells_have_the_t_interval_of_their_seeds(skills):
    cells = cell_table(skills).set_index(["pretraining", "finetune_depth", "method"])
    table = skills.network_means()
    chosen = table[(table["pretraining"] == "mri") & (table["finetune_depth"] == 2) & (table["method"] == "method1")]
    row = cells.loc[("mri", 2, "method1")]
    assert row["estimate"] == pytest.approx(chosen["skill"].mean())
    assert row["high"] - row["estimate"] == pytest.approx(3.18244631 * chosen["skill"].std() / 2)
    assert row["chance"] == 0.03


def test_holm_by_hand():
    np.testing.assert_allclose(holm(pd.Series([0.01, 0.04, np.nan, 0.03])), [0.03, 0.06, np.nan, 0.06])


@pytest.mark.parametrize("count", [1, 2, 9])
def test_holm_is_statsmodels(count):
    p = np.random.default_rng(count).random(count) ** 2
    np.testing.assert_allclose(holm(pd.Series(p)), multipletests(p, method="holm")[1])


def test_p_values_are_corrected_within_their_family(effects):
    family = effects[(effects["family"] == "corpus_by_depth") & (effects["way"] == "t")]
    np.testing.assert_allclose(family["p_holm"], holm(family["p"]))
    assert effects.loc[effects["family"] == "corpus", "p_holm"].equals(effects.loc[effects["family"] == "corpus", "p"])
    assert (effects.loc[effects["family"] == "corpus", "method"] == ALL).all()
