"""Ranks, redundancy, power, and sentences whose numbers stand in the tables."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai import paths
from pretrain_xai.drawing import statistics_plots as plots
from pretrain_xai.drawing.heat_tables import redundancy_figure
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import summary
from pretrain_xai.statistics.effects import effect_table
from pretrain_xai.statistics.findings import findings
from pretrain_xai.statistics.power import Spread, power_table, seeds_needed
from pretrain_xai.statistics.table_names import STATISTICS
from pretrain_xai.tables import read_table
from scipy import stats
from sentence_numbers import check_findings, save
from simulated_studies import Size, as_skills, simulate_scores
from statsmodels.stats.power import TTestPower

RNG = np.random.default_rng(0)
SPREAD = Spread(network=0.02)
#: correlations of methods, and of how many these are worth
MATRICES = [(np.eye(5), 5), (np.ones((5, 5)), 1), (np.kron(np.eye(3), np.ones((2, 2))), 3)]
#: corpora, depths, seeds, methods, images
SMALL = [(1, 1, 1, 1, 5), (1, 1, 2, 2, 5), (2, 1, 2, 1, 5), (1, 2, 1, 3, 5), (2, 2, 2, 2, 1), (2, 1, 1, 3, 1)]


def skills(n_seeds: int, corpus_effect: float) -> Skills:
    size, rng = Size(n_seeds, n_depths=3, n_methods=4, n_images=30), np.random.default_rng(5)
    scores = simulate_scores(1, size, SPREAD, rng, corpus_effect=corpus_effect, depth_effect=0.1)
    return dataclasses.replace(as_skills(scores[0], n_subjects=10), references={"sobel": np.full((4, 30), 0.25)})


@pytest.fixture(scope="module")
def studies() -> dict[str, dict[str, pd.DataFrame]]:
    """Return the tables of four studies: an effect of the corpus, none, the reverse, and one seed."""
    made = {"effect": (4, 0.08), "none": (4, 0.0), "reversed": (4, -0.08), "one seed": (1, 0.08)}
    return {name: summary.study_statistics(skills(*how)) for name, how in made.items()}


def test_methods_are_ranked_within_networks_best_first():
    one = skills(3, 0.0)
    table = summary.rank_methods(one.network_means(), effect_table(one))
    assert table["method"].tolist() == ["method3", "method2", "method1", "method0"]
    assert table["mean_rank"].iloc[0] == pytest.approx(1, abs=0.3)
    assert set(table["n_networks"]) == {18}


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_one_rule_decides_which_methods_are_told_from_the_first(n_seeds):
    """Table, sentence and figure say what the effects of the pairs of methods say, whichever is written first."""
    one = skills(n_seeds, 0.0)
    values = one.values.copy()
    values[:, 1] = values[:, 3] + np.random.default_rng(0).normal(0, 0.02, values[:, 3].shape)  # as good as the first
    tables = summary.study_statistics(dataclasses.replace(one, values=values))
    ranks, effects = tables["ranks"], tables["effects"].query("way == 't' and family == 'methods'")
    first = ranks["method"].iloc[0]
    unclear = {frozenset(pair.split(" - ")) for pair in effects.loc[~effects["clear"], "contrast"]}
    assert ranks["tied"].tolist() == [frozenset((first, one)) in unclear for one in ranks["method"]]
    tied = ranks.loc[ranks["tied"], "method"].tolist()
    assert tied == [{"method1": "method3", "method3": "method1"}[first]]
    assert any(f"; {tied[0]} can't be told from the first" in finding.text for finding in findings(tables))
    (ax,) = plots.ranks_figure(ranks).axes
    (points,) = [part for part in ax.collections if len(part.get_facecolors()) == len(ranks)]
    assert (points.get_facecolors()[:, 0] == 0).tolist() == [True, True, False, False]
    assert not {"p", "critical_difference"} & set(ranks)


def test_no_p_value_where_only_images_can_be_drawn_again(studies):
    for table in studies["one seed"].values():
        assert table.filter(regex="^p(_|$)").isna().all(axis=None)
    assert studies["effect"]["effects"]["p"].notna().any()


def test_the_bootstrap_t_is_no_way_of_the_library():
    """It covers .81 at three units (test_coverage): the benchmark alone has it, to show that."""
    assert not any("bootstrap_t" in file.read_text() for file in paths.LIBRARY.rglob("*.py"))


def test_spearman_is_scipys():
    values = np.round(RNG.random((4, 20)), 1)  # with ties
    np.testing.assert_allclose(summary.spearman(values), stats.spearmanr(values, axis=1).statistic)


@pytest.mark.parametrize(("matrix", "number"), MATRICES)
def test_effective_numbers_of_known_matrices(matrix, number):
    found = summary.effective_numbers({"maps": matrix})
    assert found.iloc[0].tolist() == ["maps", len(matrix), pytest.approx(number), pytest.approx(number)]


def test_a_method_that_repeats_another_is_found_and_two_whose_maps_differ_are_two():
    one = skills(2, 0.0)
    values = one.values.copy()
    values[:, 2] = values[:, 1] ** 3  # the same order of images
    scores = summary.score_correlation(dataclasses.replace(one, values=values))
    maps = [{method: RNG.random((2, 6, 6)) for method in one.methods} for _ in range(3)]
    for network in maps:
        network["method2"] = np.exp(network["method1"])
    for expected in (["method1", "method2"], None):
        table = summary.redundancy_table({"scores": scores, "maps": summary.map_correlation(maps, one.methods)})
        assert table.loc[table["same"], ["method", "other"]].to_numpy().tolist() == ([expected] if expected else [])
        maps[0]["method2"] = RNG.random((2, 6, 6))


def test_lrp_is_found_to_be_input_times_gradient(tiny):
    same = read_table(paths.Paths(tiny).statistics / "redundancy.csv").query("same")
    assert ["input_x_gradient", "lrp"] in same[["method", "other"]].to_numpy().tolist()


def test_power_is_that_of_the_t_test():
    table = power_table(SPREAD, (3, 4), np.random.default_rng(0), n_studies=4000)
    assert len(table) == 2 * 10 * 6 * 4
    table = table[table["n_images"] == 50]
    single = SPREAD.image_network**2 + SPREAD.residual**2 / 4
    deviation = np.sqrt(2 / 3 * (SPREAD.network**2 + SPREAD.network_method**2 / 4 + single / 50))
    # statsmodels' power is NaN where it is nearly 1
    for row in table[(table["averaged"] == "all depths and methods") & (table["power"] < 0.999)].itertuples():
        expected = TTestPower().power(row.difference / deviation, row.n_seeds, 0.05)
        assert row.power == pytest.approx(expected, abs=0.035)


def test_the_spread_that_the_power_takes_is_that_of_simulated_studies():
    """Simulated in full: the t test sees the effect as often as the table says."""
    spread = Spread(network=0.03, shared=0.02, shared_corpus=0.01)
    scores = simulate_scores(600, Size(5, 3, 4, 50), spread, np.random.default_rng(1), corpus_effect=0.05)
    by_seed = scores.mean((2, 4, 5))
    seen = stats.ttest_1samp(by_seed[:, 1] - by_seed[:, 0], 0, axis=1).pvalue < 0.05
    table = power_table(spread, (3, 4), np.random.default_rng(0))
    table = table.query("difference == 0.05 and n_seeds == 5 and n_images == 50")
    assert table["power"].iloc[0] == pytest.approx(seen.mean(), abs=0.07)


def test_the_fewest_seeds_are_named_and_none_where_none_suffice():
    table = pd.DataFrame({"averaged": "x", "difference": [0.1, 0.1, 0.1, 0.2], "n_images": 9, "n_seeds": [2, 3, 5, 2]})
    assert seeds_needed(table.assign(power=[0.5, 0.8, 0.9, 0.1]))["seeds"].fillna(-1).tolist() == [3, -1]


def test_every_table_is_made_and_one_seed_leaves_two_without_rows(studies):
    for name, tables in studies.items():
        assert tuple(tables) == STATISTICS
        empty = {key for key, table in tables.items() if not len(table)}
        assert empty == {"skill_by_dependence"} | ({"spread", "power"} if name == "one seed" else set())


def test_four_studies_give_four_texts(studies):
    texts = {name: " ".join(finding.text for finding in findings(tables)) for name, tables in studies.items()}
    said = "pre-trained on {} show more of the lesions than those of these networks pre-trained on {}"
    assert said.format("MRI (sex)", "photographs") in texts["effect"]
    assert said.format("photographs", "MRI (sex)") in texts["reversed"]
    assert "makes no clear difference" in texts["none"]
    assert "not retraining" in texts["one seed"] and "tested networks" in texts["one seed"]
    assert "seeds" not in texts["one seed"]


def test_numbers_of_the_sentences_stand_in_their_tables_and_files_say_the_same(studies, tmp_path):
    for tables in studies.values():
        found = list(findings(tables))
        assert list(findings(save(tables, tmp_path))) == found
        assert check_findings(found, tmp_path) > 15


def test_ways_that_come_to_another_answer_are_named(studies):
    effects = studies["effect"]["effects"].copy()
    effects.loc[(effects["family"] == "corpus") & (effects["way"] == "mixed_model"), "low"] = -1
    texts = [finding.text for finding in findings(studies["effect"] | {"effects": effects})]
    assert sum("the interval of the mixed model holds 0" in text for text in texts) == 1
    assert sum("agree." in text for text in texts) == 1


@pytest.mark.parametrize(("corpora", "depths", "n_seeds", "methods", "images"), SMALL)
def test_the_smallest_studies_have_their_statistics(corpora, depths, n_seeds, methods, images):
    scores = simulate_scores(1, Size(n_seeds, depths, methods, images), SPREAD, np.random.default_rng(0))[0]
    one = as_skills(scores[:corpora])
    tables = summary.study_statistics(one, [{method: RNG.random((1, 4, 4)) for method in one.methods}])
    text = " ".join(finding.text for finding in findings(tables))
    assert text and "nan" not in text
    plots.ranks_figure(tables["ranks"])
    redundancy_figure(tables["redundancy"], one.methods)
    plots.cells_figure(tables["cells"], one.methods, one.corpora)


def test_with_three_corpora_sentences_name_the_two_that_are_compared():
    size, rng = Size(3, 2, 2, 20), np.random.default_rng(0)
    scores = [simulate_scores(1, size, SPREAD, rng, corpus_effect=effect)[0] for effect in (0.2, 0.0)]
    found = list(findings(summary.study_statistics(as_skills(np.concatenate(scores)[:3], n_subjects=10))))
    for pair in ("corpus0 and corpus1", "corpus0 and corpus2", "corpus1 and corpus2"):
        (one,) = [finding for finding in found if f"{pair} differ" in finding.text]
        assert one.figure == "effect_" + "_".join(reversed(pair.split(" and ")))


def test_cells_are_drawn_with_their_intervals_and_chance(studies):
    cells = studies["effect"]["cells"].assign(chance_brain=0.1)
    (ax,) = plots.cells_figure(cells, ["method1"], ["natural", "mri"]).axes
    drawn = np.concatenate([container.lines[0].get_ydata().astype(float) for container in ax.containers])
    order = cells.query("method == 'method1'").set_index("pretraining").loc[["natural", "mri"]]
    np.testing.assert_allclose(drawn, order["estimate"])
    ends = np.concatenate([s[:, 1] for container in ax.containers for s in container.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends.reshape(-1, 2), order[["low", "high"]])
    levels = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "--"]
    assert levels == pytest.approx([0, (0.1 - 0.03) / 0.97])


def test_ranks_and_power_are_drawn_at_their_values(studies):
    tables = studies["effect"]
    (ax,) = plots.ranks_figure(tables["ranks"]).axes
    np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], tables["ranks"]["mean_rank"])
    rows = tables["power"].query("averaged == 'one depth and method' and n_images == 50")
    lines = {line.get_label(): line for line in plots.power_figure(tables["power"], 3, 50).axes[2].lines}
    np.testing.assert_allclose(lines["0.05"].get_ydata(), rows.loc[rows["difference"] == 0.05, "power"])
