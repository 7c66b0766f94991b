"""The corpus effect at equal accuracy: studies whose answer is known, a regression as oracle, and what is said of them."""

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.drawing.statistics_plots import accuracy_figure, equality_figure, matching_figure
from pretrain_xai.networks.matching import NOTED, match_checkpoints
from pretrain_xai.settings.sections import Matching
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import equal_accuracy
from pretrain_xai.statistics.equal_accuracy import adjusted_weights, correlation_table, equal_accuracy_tables
from pretrain_xai.statistics.findings import equality_findings
from pretrain_xai.study import NETWORK
from scipy import stats
from sentence_numbers import check_findings, save
from statsmodels.formula.api import ols

CORPORA = ["natural", "mri"]
Tables = dict[str, pd.DataFrame]


def networks_of(n_seeds: int = 3, n_depths: int = 5) -> pd.DataFrame:
    """Return networks whose accuracy rises with the depth, is higher for MRI, and varies."""
    every = [CORPORA, range(1, n_depths + 1), range(n_seeds)]
    table = pd.MultiIndex.from_product(every, names=NETWORK).to_frame(index=False)
    noise = np.random.default_rng(0).normal(0, 0.015, len(table))
    rate = 0.7 + 0.04 * table["finetune_depth"] + 0.03 * (table["pretraining"] == "mri") + noise
    return table.assign(accuracy=rate, sensitivity=rate + 0.01, specificity=rate - 0.01, auroc=rate + 0.05)


def study(networks: pd.DataFrame, corpus_effect: float, slope: float) -> Skills:
    """Return a study in which skill is made of corpus, depth and accuracy, with the noise of a network."""
    rng = np.random.default_rng(1)
    own = 0.1 + 0.02 * networks["finetune_depth"] + slope * networks["accuracy"]
    own = (own + corpus_effect * (networks["pretraining"] == "mri") + rng.normal(0, 0.004, len(networks))).to_numpy()
    values = own[:, None, None] + rng.normal(0, 0.02, (2, 1)) + rng.normal(0, 0.03, 40)
    images = pd.DataFrame({"image_index": range(40), "subject": np.arange(40) // 4, "chance": 0.03})
    return Skills(values, networks[NETWORK], ["saliency", "lrp"], images, {})


def matching_of(networks: pd.DataFrame, unmatched: tuple[int, ...] = (1,)) -> pd.DataFrame:
    """Return a matching at .9, of whose depths some are not matched."""
    matched = ~networks["finetune_depth"].isin(unmatched)
    steps = networks[NETWORK].assign(step=10, target=0.9, validation_lower_rate=0.9 + 0.005 * matched - 0.2 * ~matched)
    return steps.assign(gap=steps["validation_lower_rate"] - 0.9, matched=matched)


def tables_of(corpus_effect: float, slope: float, unmatched=(1,), n_seeds: int = 3, shift: float = 0.0) -> Tables:
    """Return the tables of a study; matched networks have accuracy .9 and the effect of the corpus, or `shift` more."""
    networks = networks_of(n_seeds)
    equal = networks.assign(accuracy=0.9 + np.random.default_rng(2).normal(0, 0.002, len(networks)))
    skills = {"best": study(networks, corpus_effect, slope), "matched": study(equal, corpus_effect + shift, slope)}
    classification = pd.concat([networks.assign(selection="best"), equal.assign(selection="matched")])
    return equal_accuracy_tables(skills, classification, matching_of(networks, unmatched))


def unmatched_tables(networks: pd.DataFrame, corpus_effect: float = 0.02) -> Tables:
    """Return the tables of a study without a matched selection, whose skill rises with accuracy."""
    return equal_accuracy_tables({"best": study(networks, corpus_effect, 1.0)}, networks.assign(selection="best"))


def row(tables: Tables, answer: str, way: str = "t", corpus: str = "all") -> pd.Series:
    (found,) = tables["equal_accuracy"].query("answer == @answer and way == @way and pretraining == @corpus").iloc
    return found


def texts_of(tables: Tables) -> str:
    return "\n".join(finding.text for finding in equality_findings(tables))


PHOTOGRAPHS = "maps of these networks pre-trained on photographs"
AGREED = [(0.0, 0.06, "there is no clear difference"), (-0.06, 0.0, f"{PHOTOGRAPHS} show more of the lesions")]


@pytest.mark.parametrize(("effect", "unadjusted", "said"), AGREED)
def test_at_equal_accuracy_the_effect_of_the_corpus_alone_is_found_both_ways(effect, unadjusted, said):
    """MRI classifies .03 better, and skill is 2 x accuracy: unadjusted that looks like an effect, or hides one."""
    tables = tables_of(effect, slope=2.0)
    found = row(tables, "unadjusted")
    assert found["estimate"] == pytest.approx(unadjusted, abs=0.02) and (found["low"] > 0.03) == (unadjusted > 0)
    assert found["accuracy_difference"] == pytest.approx(0.03, abs=0.01)
    for answer in ("matched", "adjusted"):
        found = row(tables, answer)
        assert found["estimate"] == pytest.approx(effect, abs=0.015)
        assert found["low"] < effect < found["high"] and (found["high"] < 0) == (effect < 0)
    assert row(tables, "matched")["depths"] == row(tables, "same_depths")["depths"] == "2 3 4 5"
    assert f"both ways agree: {said}" in texts_of(tables) and "8 of 10 cells" in texts_of(tables)


def test_ways_that_differ_are_said_to_differ():
    text = texts_of(tables_of(corpus_effect=0.0, slope=2.0, shift=0.2))
    assert "do not agree: by matching maps of these networks pre-trained on MRI (sex) show more of the lesions" in text
    assert "do not overlap" in text


@pytest.mark.parametrize(("unmatched", "cells"), [((1, 2, 3), 4), ((1, 2, 3, 4, 5), 0)])
def test_failed_matching_is_said_and_not_used(unmatched, cells):
    tables = tables_of(corpus_effect=0.0, slope=2.0, unmatched=unmatched)
    text = texts_of(tables)
    assert text.startswith(f"Matching failed: only {cells} of 10 cells")
    assert "on matched networks" not in text and "no answer by the matching" in text
    assert ("matched" in set(tables["equal_accuracy"]["answer"])) == (cells > 0)


def test_the_adjusted_effect_is_that_of_statsmodels_formula():
    networks = networks_of()
    table = equal_accuracy.network_table("best", study(networks, 0.02, 1.0), networks.assign(selection="best"))
    formula, name = "skill ~ C(finetune_depth) + C(pretraining, Treatment('natural')) + accuracy", "natural'))[T.mri]"
    fit = ols(formula, table).fit().params.filter(like=name)
    weights = adjusted_weights(table, "natural", "mri")
    assert weights @ table["skill"] == pytest.approx(fit.iloc[0])
    assert weights @ table["accuracy"] == pytest.approx(0, abs=1e-9), "accuracy is held equal"
    blocks = ols(f"{formula} + C(seed)", table).fit()
    place = list(blocks.params.index.str.endswith(name)).index(True)
    expected = blocks.params.iloc[place], *blocks.conf_int().iloc[place], blocks.pvalues.iloc[place]
    found = equal_accuracy.regression(table, "natural", "mri", accuracy=True)
    assert (found.estimate, found.low, found.high, found.p) == pytest.approx(expected)


def test_seeds_are_units_of_the_adjusted_effect_one_analysis_each():
    tables = unmatched_tables(networks_of())
    parts = [part.reset_index(drop=True) for _, part in tables["accuracy_and_skill"].groupby("seed")]
    single = [adjusted_weights(one, "natural", "mri") @ one["skill"] for one in parts]
    found = row(tables, "adjusted")
    assert (found["unit"], found["n_units"]) == ("seed", 3)
    expected = np.mean(single), *stats.t.interval(0.95, 2, np.mean(single), stats.sem(single))
    assert tuple(found[["estimate", "low", "high"]]) == pytest.approx(expected)


def test_one_seed_has_intervals_over_subjects_and_the_regression_beside_them():
    tables = tables_of(corpus_effect=-0.06, slope=2.0, n_seeds=1)
    found = [row(tables, answer) for answer in ("unadjusted", "matched", "adjusted")]
    assert [(one["unit"], one["n_units"]) for one in found] == [("image", 10)] * 3
    assert row(tables, "adjusted", "regression")["df"] == 3
    assert PHOTOGRAPHS in texts_of(tables)


def test_networks_that_can_not_tell_accuracy_from_corpus_have_no_adjusted_effect():
    """At one depth with one seed the two networks differ in both at once."""
    tables = unmatched_tables(networks_of(n_seeds=1, n_depths=1))
    assert set(tables["equal_accuracy"]["answer"]) == {"unadjusted"}
    assert "can't compare the corpora" in texts_of(tables)


def test_seeds_of_other_numbers_leave_the_regression_which_is_of_other_networks_too():
    networks = networks_of()
    networks["seed"] += 100 * (networks["pretraining"] == "mri")
    tables = unmatched_tables(networks, corpus_effect=0.1)
    assert set(tables["equal_accuracy"].query("answer == 'adjusted'")["way"]) == {"regression"}
    assert "30 networks" in texts_of(tables) and "tested networks" not in texts_of(tables)


def test_one_corpus_has_a_correlation_and_no_effect():
    tables = unmatched_tables(networks_of().query("pretraining == 'mri'").reset_index(drop=True))
    assert not len(tables["equal_accuracy"])
    assert [finding.table for finding in equality_findings(tables)] == ["claims", "accuracy_correlations"]


def test_the_depth_is_compared_at_equal_accuracy_where_the_networks_of_the_corpus_are_matched():
    """Skill rises by .02 per block, and by 2 x the accuracy, of which matching leaves nothing."""
    networks = networks_of()
    skills = {"best": study(networks, 0.0, 2.0), "matched": study(networks.assign(accuracy=0.9), 0.0, 2.0)}
    classification = pd.concat([networks.assign(selection=name) for name in skills])
    matching = matching_of(networks)
    matching["matched"] |= matching["pretraining"] == "mri"  # depth 1, too
    tables = equal_accuracy_tables(skills, classification, matching)
    for corpus, ends, blocks in (("natural", "5 - 2", 3), ("mri", "5 - 1", 4)):
        after, before = (row(tables, answer, corpus=corpus) for answer in ("matched", "same_depths"))
        assert after["contrast"] == before["contrast"] == ends and after["n_networks"] == 3 * (blocks + 1)
        assert after["estimate"] == pytest.approx(0.02 * blocks, abs=0.01) and after["low"] > 0
        assert before["estimate"] == pytest.approx(0.02 * blocks + 2 * 0.04 * blocks, abs=0.06)
    assert "fine-tuning 5 blocks instead of 1 lets maps show more of the lesions" in texts_of(tables)
    whole = equal_accuracy_tables(skills, classification)  # matched by learning rates of their own: at all depths
    assert row(whole, "matched", corpus="natural")["contrast"] == "5 - 1"
    assert set(unmatched_tables(networks)["equal_accuracy"]["pretraining"]) == {"all"}


def test_the_spread_on_test_images_is_that_of_the_matched_networks():
    tables = tables_of(0.0, 2.0)
    networks = tables["accuracy_and_skill"].query("selection == 'matched' and matched")
    found = tables["test_spread"].set_index(["selection", "metric"])
    assert (found.loc["matched", "n_networks"] == 24).all() and (found.loc["best", "n_networks"] == 30).all()
    for metric in ("accuracy", "sensitivity", "specificity", "auroc"):
        ends = found.loc[("matched", metric), ["lowest", "highest"]].tolist()
        assert ends == [networks[metric].min(), networks[metric].max()]
    assert f"AUROC of {ends[0]:.3f} to {ends[1]:.3f}." in texts_of(tables)
    assert "matched networks have" not in texts_of(tables_of(0.0, 2.0, unmatched=(1, 2, 3, 4, 5)))


def test_correlations_are_scipys_and_the_partial_one_is_that_of_residuals():
    table = unmatched_tables(networks_of(), corpus_effect=0.0)["accuracy_and_skill"]
    found = correlation_table(table).set_index("of")
    assert found.at["all", "r"] == pytest.approx(stats.pearsonr(table["accuracy"], table["skill"]).statistic)
    rest = [ols(f"{name} ~ C(finetune_depth) + C(pretraining)", table).fit().resid for name in ("accuracy", "skill")]
    assert found.at["given corpus and depth", "r"] == pytest.approx(np.corrcoef(*rest)[0, 1])
    assert correlation_table(table.assign(accuracy=0.9))["r"].isna().all()
    assert set(found) == {"n_networks", "r"}, "no interval: networks of one pre-training are not independent"


def test_networks_that_are_not_matched_do_not_count_for_the_correlation():
    counts = tables_of(0.0, 2.0)["accuracy_correlations"].set_index(["selection", "of"])["n_networks"]
    assert counts["best", "all"] == 30 and counts["matched", "all"] == 24
    none = tables_of(0.0, 2.0, unmatched=(1, 2, 3, 4, 5))
    found = none["accuracy_correlations"].query("selection == 'matched'")
    assert found["of"].tolist() == ["all"] and found["r"].isna().all()
    accuracy_figure(none["accuracy_and_skill"], none["accuracy_correlations"], CORPORA)


def test_numbers_of_the_sentences_stand_in_their_tables_and_files_say_the_same(tmp_path):
    for made in (tables_of(-0.06, 2.0), tables_of(0, 2.0, n_seeds=1), tables_of(0, 2.0, unmatched=(1, 2, 3))):
        found = list(equality_findings(made))
        assert list(equality_findings(save(made, tmp_path))) == found
        assert check_findings(found, tmp_path) > 10


def test_matched_networks_without_checkpoints_all_count_and_one_depth_is_read_back(tmp_path):
    """A selection `matched` that was trained by itself, as published; of one depth, which files give as a number."""
    for n_depths in (5, 1):
        networks = networks_of(n_depths=n_depths)
        skills = study(networks, 0.02, 1.0)
        classification = pd.concat([networks.assign(selection=name) for name in ("best", "matched")])
        tables = equal_accuracy_tables({"best": skills, "matched": skills}, classification)
        assert row(tables, "matched")["n_networks"] == 6 * n_depths
        assert "on matched networks" in texts_of(tables)
    read = save(tables, tmp_path)
    assert texts_of(read) == texts_of(tables)
    equality_figure(read["equal_accuracy"], "mri - natural")


def test_figures_draw_every_network_and_answer_and_mark_what_is_not_matched():
    tables = tables_of(-0.06, 2.0)
    points = tables["accuracy_and_skill"]
    figure = accuracy_figure(points, tables["accuracy_correlations"], CORPORA)
    lines = [line for ax in figure.axes for line in ax.lines]
    np.testing.assert_allclose([line.get_xydata()[0] for line in lines], points[["accuracy", "skill"]])
    assert [line.get_markerfacecolor() == "white" for line in lines] == (~points["matched"]).tolist()
    figure = equality_figure(tables["equal_accuracy"], "mri - natural")
    of_corpora = tables["equal_accuracy"]["contrast"] == "mri - natural"
    assert sum(len(ax.get_yticklabels()) for ax in figure.axes) == of_corpora.sum()


def test_the_figure_of_the_matching_has_every_training_and_the_chosen_checkpoints():
    index = pd.MultiIndex.from_product([CORPORA, (1, 2), [0], (1, 2, 3, 4)], names=[*NETWORK, "step"])
    checkpoints = index.to_frame(index=False).assign(kept=True)
    rates = 0.5 + 0.1 * checkpoints["step"] * (checkpoints["finetune_depth"] > 1)
    checkpoints = checkpoints.assign(**dict.fromkeys(NOTED, rates))
    figure = matching_figure(checkpoints, match_checkpoints(checkpoints, Matching()), CORPORA, 0.02)
    assert [ax.get_title() for ax in figure.axes] == ["1 block", "2 blocks"]
    first, second = ([line for line in ax.lines if line.get_marker() in "os"] for ax in figure.axes)
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in second] == [(4, 0.9)] * 2
    assert {line.get_markerfacecolor() for line in first} == {"white"}
