"""The ranking and the conclusions under other settings, against slow loops and studies that flip by construction."""

import dataclasses
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.drawing.heat_tables import LETTERS, flip_letters, sensitivity_figure
from pretrain_xai.errors import UserError
from pretrain_xai.ground_truths import GroundTruths
from pretrain_xai.localization import score_masked
from pretrain_xai.localization.comparison_maps import LUMINANCE, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.paths import Paths
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.running.prerequisites import check_attribution
from pretrain_xai.setting_scores import Setting, SettingScores, empty_scores, score_comparison_maps, score_ground_truths
from pretrain_xai.settings.sections import Attribution, Sensitivity
from pretrain_xai.statistics import sensitivity
from pretrain_xai.statistics.effects import effect_table
from pretrain_xai.statistics.findings import survival_sentences
from pretrain_xai.statistics.intervals import by_images
from pretrain_xai.statistics.power import Spread
from pretrain_xai.statistics.sensitivity import CORRECT, FEWEST_IMAGES, INCORRECT, SAME_DEPTHS, SETTING
from pretrain_xai.study import StudyError, load_study
from pretrain_xai.tables import read_scores, read_table
from scipy import stats
from sentence_numbers import check_findings, save
from simulated_studies import Size, as_skills, simulate_scores

RNG = np.random.default_rng(3)
SETTINGS = Sensitivity(mask_thresholds=[0.0, 0.75])
DEFAULT = Setting("sum_abs", 0.5, "relevance_rank_accuracy")


# scores under settings


def plain_score(heatmap: np.ndarray, mask: np.ndarray, score: str) -> tuple[float, float]:
    """Return score and chance of one image, which oracles of the scores are tested against elsewhere."""
    return tuple(float(found[0]) for found in score_masked(MaskedMaps(heatmap[None], mask[None]), [score])[score])


def plain_reduction(attribution: np.ndarray, how: str, sign: str) -> np.ndarray:
    """Return the map of one image, pixel by pixel."""
    part = {"unsigned": abs, "positive": lambda value: max(value, 0), "negative": lambda value: max(-value, 0)}[sign]
    found = np.zeros(attribution.shape[1:])
    weights = LUMINANCE if how == "luminance" else (1, 1, 1)
    for place in np.ndindex(found.shape):
        channels = attribution[:, *place]
        weighted = sum(weight * part(value) for weight, value in zip(weights, channels, strict=True))
        found[place] = part(sum(channels)) if how == "sum_abs" else weighted
    return found


def plain_mask(truth: str, threshold: float, strength: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """Return the mask of a ground truth of one image, pixel by pixel."""

    def lesion(strength, y, x):
        return strength[y, x] >= threshold if threshold else strength[y, x] > 0

    found = np.zeros(strength.shape, dtype=bool)
    for y, x in np.ndindex(found.shape):
        found[y, x] = lesion(strength, y, x) or (truth == "union" and lesion(twin, y, x))
        if truth == "boundary":
            around = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            near = {bool(lesion(strength, *place)) for place in around if all(0 <= one < 12 for one in place)}
            found[y, x] = len(near) == 2
    return found


def plain_graded(heatmap: np.ndarray, truth: np.ndarray, k: int) -> tuple[float, float]:
    """Return how much of a truth the k strongest pixels hold, by the most; ties count by their mean."""
    most, held, left = sum(sorted(truth.ravel())[-k:]), 0.0, k
    for value in sorted(set(heatmap.ravel()), reverse=True):
        tied = truth[heatmap == value]
        held += sum(tied) * min(left / len(tied), 1)
        left -= min(left, len(tied))
    return held / most, k * truth.mean() / most


def truths_of(truths: GroundTruths, places) -> GroundTruths:
    """Return the ground truths of the images at some places."""
    return GroundTruths(truths.strength[places], truths.twin_strength[places], truths.difference[places])


@pytest.fixture(scope="module")
def scored() -> SimpleNamespace:
    """Return attributions of two methods on images 2, 5 and 9, what their ground truths are made of, and the scores."""
    lesions = [RNG.random((3, 12, 12)).astype(np.float32) * (RNG.random((3, 12, 12)) < 0.3) for _ in range(3)]
    for strength in lesions[:2]:
        strength[1] = np.minimum(strength[1], 0.7)  # nothing is left of its lesions at the highest threshold
    image_index, truths = np.array([2, 5, 9]), GroundTruths(*lesions)
    attributions = {name: RNG.standard_normal((3, 3, 12, 12)) for name in ("one", "two")}
    attributions["two"][:, :, 3:] = np.abs(attributions["two"][:, :, 3:])  # by negative values there are many ties
    axes = SETTINGS.channel_reductions, [0.0, 0.5, 0.75], SETTINGS.scores, SETTINGS.ground_truths, SETTINGS.signs
    every = list(map(Setting._make, product(*axes)))
    values = np.full((3, len(every), 3), np.nan)
    found = SettingScores(image_index, ["one", "two"], every, values[:2], values[2])
    for name, maps in attributions.items():
        for chunk in ([0, 1], [2]):
            found.add(name, maps[chunk], truths_of(truths, chunk), image_index[chunk])
    return SimpleNamespace(scores=found, attributions=attributions, truths=truths)


def test_every_setting_is_scored_as_by_the_plain_loop(scored):
    """On every ground truth, by every score and sign; the difference of twins has one score."""
    found, truths, missing = scored.scores, scored.truths, 0
    for (m, method), i, (place, setting) in product(enumerate(found.methods), range(3), enumerate(found.settings)):
        how, threshold, score, truth, sign = setting
        value, chance = found.values[m, place, i], found.chance[place, i]
        mask = plain_mask(truth, threshold, truths.strength[i], truths.twin_strength[i])
        graded = truth == "difference"
        if not mask.any() or (graded and score != "relevance_rank_accuracy"):
            assert np.isnan([value, chance]).all()
            missing += not mask.any()
            continue
        heatmap = plain_reduction(scored.attributions[method][i], how, sign)
        plain = plain_graded(heatmap, truths.difference[i], mask.sum()) if graded else plain_score(heatmap, mask, score)
        assert (value, chance) == pytest.approx(plain, rel=1e-5), (method, setting)
    assert missing == 2 * 3 * 5 * 4 * 3, "the one image whose lesions are weaker than the threshold"


def test_ground_truths_and_signs_vary_around_the_studys_own_way_and_need_twins():
    usual = empty_scores([0], [], SETTINGS, CORRECTED, with_twins=False)
    assert len(usual.settings) == len(set(usual.settings)) == 3 * 3 * 5 + 2 * 3 - 1
    assert {0.0, 0.5, 0.75} == {setting.mask_threshold for setting in usual.settings}, "the study's own is among them"
    every = empty_scores([0], [], SETTINGS, CORRECTED, with_twins=True).settings
    more = [one for one in every if one not in usual.settings]
    assert {one.ground_truth for one in more} == {"union", "difference"} and len(more) == 2 * 3
    assert {one[:3] for one in more} == {DEFAULT[:3]}


def test_ground_truths_score_1_as_maps_on_themselves_and_a_constant_map_scores_chance(scored):
    truths, split = scored.truths, Split(np.zeros((3, 12, 12)), None, LesionMasks(scored.truths.strength, 0.5), None)
    split = dataclasses.replace(split, twins=truths.difference, twin_strength=truths.twin_strength)
    found = score_ground_truths(split, np.arange(3), SETTINGS, CORRECTED)
    assert found.methods == SETTINGS.ground_truths
    constant = empty_scores(np.arange(3), ["flat"], SETTINGS, CORRECTED, with_twins=True)
    constant.add("flat", np.ones((3, 12, 12)), split.ground_truths(np.arange(3)), np.arange(3))
    for place, setting in enumerate(found.settings):
        if setting[:2] == DEFAULT[:2]:
            own = found.of(setting.ground_truth).values[0, place]
            np.testing.assert_allclose(own, 1, rtol=1e-12, err_msg=str(setting))
            if setting.score != "average_precision":
                np.testing.assert_allclose(constant.values[0, place], constant.chance[place], rtol=1e-12)
    alone = score_ground_truths(dataclasses.replace(split, twins=None), np.arange(3), SETTINGS, CORRECTED)
    assert alone.settings == empty_scores([0], [], SETTINGS, CORRECTED, with_twins=False).settings


def test_chance_is_what_random_maps_score(scored):
    every, n = [Setting(*DEFAULT[:3], truth) for truth in SETTINGS.ground_truths], 4000
    values = np.full((2, len(every), n), np.nan)
    found = SettingScores(np.arange(n), ["random"], every, values[:1], values[1])
    found.add("random", RNG.random((n, 12, 12)), truths_of(scored.truths, [0] * n), np.arange(n))
    error = np.abs(values[0].mean(axis=1) - values[1, :, 0])
    assert (error < 4 * values[0].std(axis=1) / np.sqrt(n)).all()


def test_all_values_are_the_positive_and_the_negative_ones_and_maps_without_sign_score_chance_by_the_negative(scored):
    attributions = scored.attributions["one"]
    for how in SETTINGS.channel_reductions:
        parts = [reduce_channels(attributions, how, sign) for sign in ("positive", "negative")]
        np.testing.assert_allclose(sum(parts), reduce_channels(attributions, how))
    found = empty_scores([0, 1, 2], ["one"], SETTINGS, CORRECTED, with_twins=True)
    found.add("one", np.abs(attributions), scored.truths, np.arange(3))
    for truth in SETTINGS.ground_truths:
        places = [found.settings.index(Setting(*DEFAULT[:3], truth, sign)) for sign in SETTINGS.signs]
        np.testing.assert_array_equal(found.values[:, places[0]], found.values[:, places[1]])
        np.testing.assert_allclose(found.values[0, places[2]], found.chance[places[2]])


def test_scores_are_read_as_they_were_written(scored, tmp_path):
    found = scored.scores
    found.write(tmp_path / "scores.npz")
    again = SettingScores.read(tmp_path / "scores.npz")
    for field in dataclasses.fields(SettingScores):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))


def test_skill_is_of_the_images_asked_for(scored):
    found, place = scored.scores, 40
    skill = found.skill_at(found.settings[place], [9, 3, 2])
    assert np.isnan(skill[:, 1]).all(), "image 3 is not scored"
    for column, image in ((0, 2), (2, 0)):
        chance = found.chance[place, image]
        np.testing.assert_allclose(skill[:, column], (found.values[:, place, image] - chance) / (1 - chance))


def test_comparison_maps_are_the_same_for_all_reductions_and_signs(scored):
    strength, images = scored.truths.strength, RNG.random((3, 12, 12)).astype(np.float32)
    split = Split(images, np.zeros(3, int), LesionMasks(strength, 0.5), None)
    settings = Attribution(methods=["saliency"], sensitivity=SETTINGS)
    _, found = score_comparison_maps(split, np.arange(3), settings, CORRECTED)
    expected = [plain_score(*both, "relevance_rank_accuracy")[0] for both in zip(images, strength >= 0.5, strict=True)]
    alike = [place for place, one in enumerate(found.settings) if one[1:4] == (*DEFAULT[1:3], "lesion")]
    assert len(alike) == 3 + 2
    for place in alike:
        np.testing.assert_allclose(found.of("intensity").values[0, place], expected)


REFUSED = [("sparseness", "no chance level"), ("pixel_aurok", "did you mean"), ("quantus:AUC", "no chance")]


@pytest.mark.parametrize(("score", "found"), REFUSED)
def test_scores_without_chance_are_refused_in_one_line(score, found):
    study = load_study("tiny")
    settings = study.attribution.sensitivity.model_copy(update={"scores": [score]})
    attribution = study.attribution.model_copy(update={"sensitivity": settings})
    with pytest.raises(StudyError, match=rf"attribution: .*{found}"):
        check_attribution(study.model_copy(update={"attribution": attribution}))


# populations


def simulated(n_seeds: int = 1, n_images: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    """Return networks and their skills (n_networks, n_methods, n_images): mri is better, method3 is best."""
    size, spread = Size(n_seeds, 3, 4, n_images), Spread(network=0.01, network_method=0.003)
    scores = simulate_scores(1, size, spread, np.random.default_rng(1), corpus_effect=0.1, depth_effect=0.1)
    skills = as_skills(scores[0])
    return skills.networks, skills.values


def as_scores(values: np.ndarray) -> SettingScores:
    """Return one network's scores, (n_methods, n_images), the same under 2 reductions x 2 scores and 2 x 2 truths x signs."""
    methods = [f"method{number}" for number in range(len(values))]
    settings = [Setting(*one) for one in product(["sum_abs", "luminance"], [0.5], [DEFAULT.score, "pixel_auroc"])]
    others = ("lesion", "positive"), ("difference", "unsigned"), ("difference", "positive")
    settings += [Setting(*DEFAULT[:3], *one) for one in others]
    n_images = values.shape[-1]
    every = np.tile(values[:, None], (1, len(settings), 1))
    return SettingScores(np.arange(n_images), methods, settings, every, np.zeros((len(settings), n_images)))


def found_populations(networks, values, incorrect=None, references=None):
    n_images = values.shape[-1]
    about = pd.DataFrame({"subject": [f"s{i // 3}" for i in range(n_images)], "label": np.arange(n_images) % 2})
    correct = np.arange(n_images // 2)
    wrong = incorrect or [np.arange(n_images // 2, n_images)] * len(values)
    scored = [as_scores(network) for network in values]
    return sensitivity.populations(networks, scored, correct, wrong, references or {}, about)


def test_depths_with_few_misclassified_images_are_left_out_for_all():
    (networks, values), wrong = simulated(), [np.arange(30, 60)] * 6
    wrong[4] = np.arange(30, 30 + FEWEST_IMAGES - 1)  # mri at depth 2
    found = found_populations(networks, values, wrong)
    assert [population.name for population in found] == [CORRECT, SAME_DEPTHS, INCORRECT]
    for population in found[1:]:
        assert population.networks["finetune_depth"].tolist() == [1, 3, 1, 3]
    assert [population.seen.sum() for population in found] == [180, 120, 120]
    wrong[4] = np.arange(30, 30 + FEWEST_IMAGES)
    assert [population.name for population in found_populations(networks, values, wrong)] == [CORRECT, INCORRECT]
    assert [p.name for p in found_populations(networks, values, [np.arange(30, 33)] * 6)] == [CORRECT]


@given(st.integers(0, 10_000))
def test_common_images_keep_means_and_have_the_variance_of_a_ratio(seed):
    rng = np.random.default_rng(seed)
    values, seen = rng.random((3, 2, 12)), rng.random((3, 12)) < 0.5
    seen[:, 0] = True
    values[~np.repeat(seen[:, None], 2, axis=1)] = np.nan
    common = sensitivity.common_images(values)
    np.testing.assert_allclose(common.mean(-1), np.nanmean(values, -1))
    np.testing.assert_array_equal(sensitivity.common_images(common), common, "where nothing is missing nothing changes")
    clusters = np.arange(12) // 3
    interval = by_images(common[:, 0], clusters)

    def part(cluster: int, own: np.ndarray, of_network: np.ndarray) -> float:
        return (own[(clusters == cluster) & of_network] - np.nanmean(own)).sum() / of_network.sum()

    parts = [sum(part(cluster, values[network, 0], seen[network]) for network in range(3)) for cluster in range(4)]
    assert interval.se == pytest.approx(np.sqrt(sum(np.square(parts)) * 4 / 3))


# ranks


def test_mean_ranks_are_those_of_the_plain_loop():
    networks, values = simulated(n_seeds=2, n_images=15)
    values[1, :, 3:] = np.nan  # one network saw three images
    images = RNG.integers(0, 3, (15, 8)).astype(float)
    images[:3, 4] = 0  # and has none of them in a resample
    draws = sensitivity.network_draws(networks, np.random.default_rng(0), 7)
    found = sensitivity.mean_ranks(values, images, draws)
    for resample in range(8):
        rows, weights = [], []
        for network in range(len(values)):
            seen = ~np.isnan(values[network, 0])
            repeated = [i for i in np.flatnonzero(seen) for _ in range(int(images[i, resample]))]
            if repeated:
                rows.append(stats.rankdata([-values[network, method, repeated].mean() for method in range(4)]))
                weights.append(draws[network, resample])
        np.testing.assert_allclose(found[:, resample], np.average(rows, axis=0, weights=weights))


def test_seeds_are_drawn_within_cells_and_the_same_in_all_if_their_numbers_are():
    networks, _ = simulated(n_seeds=3)
    draws = sensitivity.network_draws(networks, np.random.default_rng(0), 50)
    assert (draws[:, 0] == 1).all()
    assert (pd.DataFrame(draws).groupby(networks["seed"]).nunique() == 1).all(axis=None)
    other = networks.assign(seed=networks["seed"] + 10 * (networks["pretraining"] == "mri"))
    apart = pd.DataFrame(sensitivity.network_draws(other, np.random.default_rng(0), 50))
    assert (apart.groupby([other["pretraining"], other["finetune_depth"]]).sum() == 3).all(axis=None)
    assert (apart.iloc[:3].to_numpy() != apart.iloc[-3:].to_numpy()).any()
    assert (sensitivity.network_draws(networks[networks["seed"] == 0], np.random.default_rng(0), 9) == 1).all()


# conclusions


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("shift", [0, 10])
def test_conclusions_are_those_of_the_effect_table(n_seeds, shift):
    """Computed family by family they equal what the statistics say, also where cells have other seed numbers."""
    networks, values = simulated(n_seeds)
    networks = networks.assign(seed=networks["seed"] + shift * (networks["pretraining"] == "mri"))
    skills = as_skills(values.reshape(2, 3, n_seeds, 4, -1), n_subjects=20)
    references = {"sobel": np.full((4, 60), 0.33), "untrained": values[0] - 0.05}
    skills = dataclasses.replace(skills, networks=networks, references=references)
    table = effect_table(skills).query("way == 't'").rename(columns={"family": "conclusion"})
    table = table.set_index(["conclusion", "contrast"])
    found = sensitivity.judge(skills)
    assert set(found.index.get_level_values(0)) == {"corpus", "depth", "methods", "sobel", "untrained"}
    table = table.loc[found.index]
    for name in ("estimate", "low", "high"):
        np.testing.assert_allclose(found[name], table[name], atol=1e-12)
    single = found.index.get_level_values(0).isin(["corpus", "depth"])
    clear = np.where(single, (table["low"] > 0) | (table["high"] < 0), table["clear"])
    assert (found["verdict"] == np.sign(table["estimate"]) * clear).all()
    assert found["verdict"].abs().sum() > 5


def test_two_methods_with_equal_scores_are_not_told_apart_by_rounding():
    values = RNG.uniform(0.25, 1, (1, 2, 9))
    values[:, 1] = np.nextafter(values[:, 0], 2)
    found = sensitivity.judge(as_skills(values.reshape(1, 1, 1, 2, 9)))
    assert found.loc[("methods", "method0 - method1"), "verdict"] == 0


@pytest.fixture(scope="module", params=[1, 3])
def flipped(request) -> dict[str, pd.DataFrame]:
    """Return the tables of a study in which luminance turns the order of methods and corpora round, on correct images.

    So do positive values on the difference of twins.

    Pixel AUROC is noise there, and on the misclassified images all is as by default.
    """
    networks, values = simulated(request.param)
    found = found_populations(networks, values, references={"sobel": [as_scores(np.full((1, 60), 0.6))]})
    noise = np.random.default_rng(2)
    for place, scored in enumerate(found[0].scored):
        mirror = values[(place + len(values) // 2) % len(values), ::-1]  # the other corpus, methods reversed
        scored.values[:, 2, :30] = scored.values[:, 6, :30] = mirror[:, :30]
        scored.values[:, 1:4:2, :30] = noise.random((4, 2, 30))
    truths = dataclasses.replace(as_scores(np.tile([[0.875], [0.5]], 60)), methods=["lesion", "difference"])
    found = [dataclasses.replace(population, truths=truths) for population in found]
    return sensitivity.sensitivity_tables(found, DEFAULT)


def test_the_default_agrees_with_itself(flipped):
    row = flipped["sensitivity"].query("is_default")
    assert row[SETTING].to_numpy().tolist() == [[CORRECT, *DEFAULT]]
    assert row[["tau", "tau_low", "tau_high"]].to_numpy().tolist() == [[1, 1, 1]]
    assert flip_letters(row.to_dict("records")[0]) == ""


def test_what_was_turned_round_is_reversed(flipped):
    rows = flipped["sensitivity"].query("ground_truth == 'lesion' and sign == 'unsigned'")
    rows = rows.set_index(["population", "channel_reduction", "score"])
    turned = rows.loc[(CORRECT, "luminance", "relevance_rank_accuracy")]
    assert turned[["tau", "tau_high", "first", "methods_reversed"]].tolist() == [-1, -1, "method0", 6]
    assert flip_letters(turned) == "FCM"
    plain = "population == 'correct' and score == 'relevance_rank_accuracy' and sign == 'unsigned'"
    flips = flipped["flips"].query(plain)
    corpus = flips.query("conclusion == 'corpus'").iloc[0]
    assert corpus[["default", "found", "change"]].tolist() == ["above", "below", "reversed"]
    assert corpus["low"] < corpus["estimate"] < corpus["high"] < 0
    assert set(flipped["survival"].query("population == 'incorrect'")["reversed"]) == {0}
    assert "depth" not in set(flips["conclusion"]), "depth is as by default"


def test_what_became_noise_is_lost(flipped):
    rows = flipped["flips"].query("population == 'correct' and score == 'pixel_auroc' and conclusion == 'methods'")
    assert set(rows["change"]) == {"lost"}
    assert len(rows) == 12, "six pairs in two reductions"


def test_on_misclassified_images_all_is_kept(flipped):
    assert (flipped["sensitivity"].query("population == 'incorrect'")["tau"] == 1).all()
    survival = flipped["survival"].query("ground_truth == 'lesion' and sign == 'unsigned'")
    survival = survival.set_index(["population", "conclusion", "contrast"])
    for conclusion in (("corpus", "mri - natural"), ("depth", "3 - 1"), ("first", "ranks first")):
        assert survival.loc[(INCORRECT, *conclusion), ["settings", "kept"]].tolist() == [4, 4]
    assert survival.loc[(CORRECT, "corpus", "mri - natural"), ["settings", "kept", "reversed"]].tolist()[0::2] == [4, 1]


def test_counts_add_up(flipped):
    survival = flipped["survival"]
    assert (survival[["kept", "reversed", "lost", "gained"]].sum(axis=1) == survival["settings"]).all()
    assert len(flipped["flips"]) == survival[["reversed", "lost", "gained"]].sum().sum()
    kinds = [f"{kind}_{change}" for kind in LETTERS for change in ("reversed", "lost", "gained")]
    assert len(flipped["flips"]) == flipped["sensitivity"].reindex(columns=kinds).sum().sum()


def test_sentences_say_what_flips_and_their_numbers_stand_in_the_tables(flipped, tmp_path):
    sentences = list(survival_sentences(flipped))
    assert [sentence.table for sentence in sentences] == ["sensitivity", "survival"] * 2 + ["ground_truths", "flips"]
    order, conclusions = sentences[0].text, sentences[1].text
    assert "tau of -1.00" in order and "method0" in order
    assert "method3 ranks first (" in conclusions and "MRI (sex) above photographs (" in conclusions
    assert "Nothing turns round" in sentences[3].text
    assert "image's own lesions (chance 0.000); a map of the lesions' mask scores 0.875 on |image" in sentences[4].text
    assert "method0 ranks first by positive values on |image − twin|" in sentences[5].text
    assert "MRI (sex) above photographs is turned round by positive values on |image − twin| (-0." in sentences[5].text
    assert list(survival_sentences(save(flipped, tmp_path))) == sentences, "the report reads what the notebook wrote"
    assert check_findings(sentences, tmp_path) > 10
    assert list(survival_sentences({})) == []


def test_one_method_alone_has_no_order():
    networks, values = simulated(3)
    tables = sensitivity.sensitivity_tables(found_populations(networks, values[..., :1, :]), DEFAULT)
    assert tables["sensitivity"]["tau"].isna().all()
    assert {finding.table for finding in survival_sentences(tables)} == {"survival", "flips"}
    texts = [text for ax in sensitivity_figure(tables["sensitivity"]).axes for text in ax.texts]
    assert all("nan" not in text.get_text() and text.get_color() == "black" for text in texts)


def test_a_default_that_was_not_scored_is_named(flipped):
    found = found_populations(*simulated(1))
    with pytest.raises(UserError, match=r"sum_abs, 0.5, tpr is not among .*relevance_rank_accuracy"):
        sensitivity.sensitivity_tables(found, ("sum_abs", 0.5, "tpr"))


def test_the_figure_has_a_cell_with_tau_and_letters_for_every_setting(flipped):
    figure = sensitivity_figure(flipped["sensitivity"])
    panels = [ax for ax in figure.axes if ax.texts]
    shown = [text.get_text() for ax in panels for text in ax.texts]
    texts = [f"{row['tau']:.2f}\n{flip_letters(row)}".strip() for row in flipped["sensitivity"].to_dict("records")]
    # the study's own and that of the other population stand twice
    assert sorted(shown) == sorted([*texts, "1.00", "1.00"])
    assert sum(patch.get_linewidth() > 1 for ax in panels for patch in ax.patches) == 2, "framed"
    labels = [text.get_text() for text in panels[2].get_yticklabels()]
    assert labels == ["lesions\n(0.00, 0.50)", "|image − twin|\n(0.00, 0.50)"]
    plt.close(figure)


# the tiny study, through notebooks and report


def test_the_default_setting_holds_the_scores_and_the_conclusions_of_the_study(tiny):
    study = load_study(tiny)
    run = next(study.runs())
    found = SettingScores.read(Paths(tiny).setting_scores / f"{run.name}.npz")
    scores = read_scores(tiny).query("metric == 'relevance_rank_accuracy' and pretraining == @run.pretraining")
    mine = (scores["finetune_depth"] == run.finetune_depth) & (scores["selection"] == run.selection)
    scores = scores[mine].set_index(["method", "image_index"])["value"]
    for values, method in zip(found.at(DEFAULT, found.image_index)[0], found.methods, strict=True):
        np.testing.assert_array_equal(values, scores.loc[method].loc[found.image_index])
    truths = read_table(Paths(tiny).statistics / "ground_truths.csv").set_index("ground_truth")
    assert truths.index.tolist() == SETTINGS.ground_truths and (truths["ceiling"] == 1).all()
    assert truths.loc["difference", "twin_map"] == 1 > truths.loc["difference", "lesion_map"]
    table = read_table(Paths(tiny).statistics / "sensitivity.csv").query("is_default")
    ranks = read_table(Paths(tiny).statistics / "ranks.csv")
    assert table["first"].iloc[0] in set(ranks.loc[ranks["mean_rank"] == ranks["mean_rank"].min(), "method"])
    assert table["tau"].iloc[0] == pytest.approx(1)
