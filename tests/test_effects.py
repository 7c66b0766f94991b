"""Effects: contrasts of built studies whose answers are known, and corrections."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.effects import ALL, cell_table, contrasts, contributions, effect_table, holm
from pretrain_xai.statistics.findings import WAY_NAMES
from pretrain_xai.statistics.power import Spread
from simulated_studies import Size, as_skills, simulate_scores
from statsmodels.stats.multitest import multipletests


def study(n_seeds: int = 4, **options) -> Skills:
    scores = simulate_scores(1, Size(n_seeds, 3, 3, 24), Spread(network=0.02), np.random.default_rng(2), **options)
    return as_skills(scores[0], n_subjects=8)


@pytest.fixture(scope="module")
def skills() -> Skills:
    one = study(corpus_effect=0.1, depth_effect=0.2)
    return dataclasses.replace(one, references={"sobel": np.tile(np.linspace(0, 0.1, 24), (3, 1))})


@pytest.fixture(scope="module")
def effects(skills) -> pd.DataFrame:
    return effect_table(skills)


def estimate(effects: pd.DataFrame, family: str, **names) -> float:
    wanted = pd.Series({"family": family, "way": "t"} | names)
    (found,) = effects.loc[(effects[wanted.index] == wanted).all(axis=1), "estimate"]
    return found


def test_effects_are_differences_of_cell_means(skills, effects):
    means = skills.network_means().groupby(["pretraining", "finetune_depth", "method"])["skill"].mean()
    mri, natural = means["mri"], means["natural"]
    by_method = mri.groupby("method").mean() - natural.groupby("method").mean()
    by_depth, methods = means.groupby("finetune_depth").mean(), means.groupby("method").mean()
    of_class = [skills.values[..., skills.images["label"] == label] for label in (0, 1)]

    def by_class(column: str, value) -> np.ndarray:
        return np.array([part[skills.networks[column] == value].mean() for part in of_class])

    mri_less_natural = by_class("pretraining", "mri") - by_class("pretraining", "natural")
    rise = by_class("finetune_depth", 3) - by_class("finetune_depth", 1)
    expected = {
        ("corpus", "method", ALL): mri.mean() - natural.mean(),
        ("corpus_by_method", "method", "method1"): by_method["method1"],
        ("corpus_by_depth", "finetune_depth", "2"): (mri[2] - natural[2]).mean(),
        ("corpus_x_depth", "method", ALL): (mri[3] - mri[1] - natural[3] + natural[1]).mean(),
        ("depth", "method", ALL): by_depth[3] - by_depth[1],
        ("depth_slope", "method", ALL): np.polyfit([1, 2, 3], by_depth, 1)[0],
        ("depth_by_corpus", "pretraining", "mri"): (mri[3] - mri[1]).mean(),
        ("methods", "contrast", "method0 - method2"): methods["method0"] - methods["method2"],
        ("sobel", "method", "method2"): methods["method2"] - skills.references["sobel"].mean(),
        ("corpus_by_class", "lesions", "round"): mri_less_natural[0],
        ("corpus_x_class", "lesions", ALL): mri_less_natural[1] - mri_less_natural[0],
        ("depth_by_class", "lesions", "irregular"): rise[1],
        ("depth_x_class", "lesions", ALL): rise[1] - rise[0],
    }
    others = {"depth_by_corpus_by_class", "depth_by_corpus_x_class"}
    assert {family for family, *_ in expected} | others == set(effects["family"])
    for (family, column, name), value in expected.items():
        assert estimate(effects, family, **{column: name}) == pytest.approx(value), family


def test_every_effect_has_every_way_with_seeds_as_units_and_all_ways_estimate_the_same(effects):
    assert set(effects["unit"]) == {"seed"}
    own = effects[effects["family"] != "sobel"]
    by_effect = own.groupby(["family", "contrast", "method", "finetune_depth", "pretraining", "lesions"])
    ways = by_effect["way"].agg(tuple)
    of_class = ways.index.get_level_values("family").str.contains("class")  # the model is of means of both classes
    assert (ways[~of_class] == tuple(WAY_NAMES)[:4]).all() and (ways[of_class] == tuple(WAY_NAMES)[:3]).all()
    assert (by_effect["estimate"].agg(np.ptp) < 1e-6).all()
    assert (effects["low"] <= effects["estimate"]).mean() > 0.99


def test_seeds_of_the_same_numbers_are_paired(skills):
    (corpus,) = (c for c in contrasts(skills) if c.family == "corpus")
    units, strata, sides = contributions(skills, corpus.weights)
    assert units.shape == (4, 24) and set(strata) == {0} and sides == 1
    by_seed = skills.network_means().pivot_table(index="seed", columns="pretraining", values="skill")
    np.testing.assert_allclose(4 * units.mean(1), by_seed["mri"] - by_seed["natural"])


def test_seeds_of_other_numbers_are_units_of_their_own(skills):
    """As in the paper, whose seeds differ between cells."""
    other = dataclasses.replace(skills, networks=skills.networks.assign(seed=np.arange(len(skills.networks))))
    of = {contrast.family: contributions(other, contrast.weights) for contrast in contrasts(other)}
    units, strata, sides = of["corpus"]
    assert units.shape == (24, 24) and np.bincount(strata).tolist() == [4] * 6
    assert (sides, of["methods"][2]) == (2, 1)
    assert intervals.by_units(units, strata).estimate == pytest.approx(estimate(effect_table(other), "corpus"))


def test_one_seed_gives_intervals_over_subjects_only_and_says_so():
    one = study(n_seeds=1)
    assert effect_table(one)[["unit", "way", "n_units"]].drop_duplicates().to_numpy().tolist() == [["image", "t", 8]]
    assert cell_table(one)[["unit", "df"]].drop_duplicates().to_numpy().tolist() == [["image", 7]]


def test_cells_have_the_t_interval_of_their_seeds(skills):
    row = cell_table(skills).set_index(["pretraining", "finetune_depth", "method"]).loc[("mri", 2, "method1")]
    chosen = skills.network_means().query("pretraining == 'mri' and finetune_depth == 2 and method == 'method1'")
    assert row["estimate"] == pytest.approx(chosen["skill"].mean())
    assert row["high"] - row["estimate"] == pytest.approx(3.18244631 * chosen["skill"].std() / 2)
    assert row["chance"] == 0.03


@pytest.mark.parametrize("count", [1, 2, 9])
def test_holm_is_statsmodels_and_passes_over_what_is_missing(count):
    p = np.random.default_rng(count).random(count) ** 2
    expected = [*multipletests(p, method="holm")[1], np.nan]
    np.testing.assert_allclose(holm([*p, np.nan]), expected)


def test_p_values_are_corrected_within_their_family_and_way(effects):
    for _, rows in effects.groupby(["family", "way"]):
        np.testing.assert_allclose(rows["p_holm"], holm(rows["p"]))
