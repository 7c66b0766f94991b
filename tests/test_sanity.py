"""The model randomisation check, with maps whose similarity is known and networks whose layers are."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from pretrain_xai import sanity, setting_scores
from pretrain_xai.dataset import LesionMasks, Split, read_split
from pretrain_xai.drawing.statistics_plots import sanity_figure
from pretrain_xai.explain import Explainer
from pretrain_xai.localization import relevance_rank_accuracy
from pretrain_xai.networks.models import build_network
from pretrain_xai.paths import Paths
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.settings.sections import Attribution, Network, Standardise
from pretrain_xai.statistics.findings import sanity_findings
from pretrain_xai.study import load_study
from scipy import stats
from sentence_numbers import check_findings, save
from skimage.metrics import structural_similarity

SETTINGS = Network(architecture="vgg11", width=0.0625, standardise=Standardise(mean=0.3, std=0.3))
METHODS = ["input_x_gradient", "random", "guided_backprop"]
SHOWN = ["input_x_gradient", "guided_backprop"]
INDICES = np.array([4, 1, 3])
LAYERS = ["fc3", "fc2", "fc1", *(f"conv{number}" for number in range(8, 0, -1))]


def maps(seed: int, n: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 24, 20))


# ------------------------------------------------------------------------------------------------ similarities


@pytest.mark.parametrize("similarity", [sanity.rank_correlation, sanity.map_similarity])
def test_equal_maps_have_similarity_1_whatever_their_sign_and_scale(similarity):
    np.testing.assert_allclose(similarity(maps(0), maps(0)), 1)
    np.testing.assert_allclose(similarity(maps(0), -3 * maps(0)), 1)


def test_rank_correlation_equals_scipys_with_ties_and_inside_masks():
    one, other = np.round(maps(0), 1), np.round(maps(0) + maps(1), 1)
    inside = maps(2) > 0.3
    found, found_inside = sanity.rank_correlation(one, other), sanity.rank_correlation(one, other, inside)
    for i in range(len(one)):
        a, b = np.abs(one[i]), np.abs(other[i])
        assert found[i] == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
        assert found_inside[i] == pytest.approx(stats.spearmanr(a[inside[i]], b[inside[i]]).statistic)


def test_constant_maps_have_no_rank_correlation_and_no_warning():
    assert np.isnan(sanity.rank_correlation(np.zeros((2, 24, 20)), maps(0, 2))).all()
    assert np.isfinite(sanity.map_similarity(np.zeros((2, 24, 20)), maps(0, 2))).all()


def test_map_similarity_equals_scikit_image_on_scaled_absolute_maps():
    one, other = maps(0), maps(0) + 0.5 * maps(1)
    for i, found in enumerate(sanity.map_similarity(one, other)):
        a, b = (np.abs(m[i]) / np.abs(m[i]).max() for m in (one, other))
        assert found == pytest.approx(structural_similarity(a, b, data_range=1))


# ------------------------------------------------------------------------------------------------ the cascade


@pytest.fixture(scope="module")
def network():
    return build_network(SETTINGS, n_classes=2, seed=0)


@pytest.fixture(scope="module")
def random_network():
    network = build_network(SETTINGS, n_classes=2, seed=1)
    for layer in sanity.weight_layers(network).values():
        torch.nn.init.constant_(layer.bias, 0.01)
    return network


def test_layers_become_random_one_by_one_from_the_last_to_the_first(network, random_network):
    before = copy.deepcopy(network.state_dict())
    names = []
    for name, changed in sanity.cascade(network, random_network):
        names.append(name)
        for layer_name, layer in sanity.weight_layers(changed).items():
            source = random_network if layer_name in names else network
            expected = sanity.weight_layers(source)[layer_name]
            assert torch.equal(layer.weight, expected.weight) and torch.equal(layer.bias, expected.bias)
        assert torch.equal(changed.standardise.weight, network.standardise.weight)
    assert names == LAYERS
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(changed(images), random_network(images))
        assert not torch.equal(changed(images), network(images))


# ------------------------------------------------------------------------------------------------ the table


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    images = np.zeros((6, 32, 32), np.float32)
    images[:, 6:26, 6:26] = rng.uniform(0.2, 0.9, (6, 20, 20))
    strength = np.maximum(0, rng.random((6, 32, 32)) - 0.8).astype(np.float32) * 5
    return Split(images, rng.integers(0, 2, 6), LesionMasks(strength, 0.5), pd.DataFrame())


@pytest.fixture(scope="module")
def table(network, random_network, split) -> pd.DataFrame:
    explainer = Explainer(network, split, Attribution(methods=METHODS), CORRECTED)
    return sanity.compare_with_random(explainer, random_network, INDICES, METHODS)


def test_table_has_every_layer_method_image_and_measure_once(table):
    assert list(dict.fromkeys(table["layer"])) == [sanity.TRAINED, *LAYERS, sanity.RANDOM_MAP]
    assert not table.duplicated(["method", "layer", "image_index", "measure"]).any()
    assert len(table) == 13 * 2 * 3 * 4
    assert set(table["method"]) == set(SHOWN), "a random map is the floor, no method"
    trained = table[table["layer"] == sanity.TRAINED].groupby("measure")["value"]
    np.testing.assert_allclose(trained.min(), trained.max())
    expected = {name: float("correlation" in name or "similarity" in name) for name in table["measure"].unique()}
    assert trained.max().to_dict() == pytest.approx(expected)
    assert list(table.drop_duplicates("layer")["n_random"].fillna(-1)) == [*range(12), -1]


def test_values_are_those_of_maps_made_by_hand(table, network, random_network, split):
    made, settings = {}, Attribution(methods=METHODS)
    for name, changed in itertools.chain([(sanity.TRAINED, network)], sanity.cascade(network, random_network)):
        if name in (sanity.TRAINED, "conv4"):
            made[name] = Explainer(changed, split, settings, CORRECTED).example_maps(INDICES, METHODS)
    for method in SHOWN:
        one, other = made[sanity.TRAINED][method], made["conv4"][method]
        rows = table[(table["method"] == method) & (table["layer"] == "conv4")].set_index(["measure", "image_index"])
        masks = split.masks[INDICES]
        change = relevance_rank_accuracy(other, masks) - relevance_rank_accuracy(one, masks)
        brains = split.images[INDICES] > 0
        for i, image in enumerate(INDICES):
            assert rows.loc[("rank_accuracy_change", image), "value"] == pytest.approx(change[i])
            inside = stats.spearmanr(one[i][brains[i]], other[i][brains[i]]).statistic
            assert rows.loc[("rank_correlation_in_brain", image), "value"] == pytest.approx(inside)


def test_the_change_of_the_score_follows_the_rule_for_ties():
    """A map of which one pixel is not 0, in a lesion of two: strictly one hit, else half of the other by chance."""
    mask, one = np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8))
    mask[0, 0, :2], one[0, 0, 0] = True, 1.0
    for ties in ("strict", "expected"):
        expected = relevance_rank_accuracy(one, mask, ties) - 1
        found = sanity.measures(mask.astype(float), one, mask, np.ones_like(mask), ties)
        assert found["rank_accuracy_change"] == pytest.approx(expected)
    assert relevance_rank_accuracy(one, mask, "strict") != relevance_rank_accuracy(one, mask, "expected")


def test_heatmaps_have_the_score_by_the_rule_for_ties_of_the_study(tiny, monkeypatch):
    study, rules = load_study(tiny), set()
    strict = study.model_copy(update={"switches": {"ties": "strict"}})
    monkeypatch.setattr(
        setting_scores, "relevance_rank_accuracy", lambda maps, masks, ties: rules.add(ties) or np.zeros(len(maps))
    )
    setting_scores.read_examples(strict, "best", read_split(Paths(tiny).dataset / "test", 0.5))
    assert rules == {"strict"}


def table_of(values, layers, measure, shifts) -> pd.DataFrame:
    """Return the values of each method's trained, randomised and random maps, of as many images as there are shifts."""
    layers = (sanity.TRAINED, *layers, sanity.RANDOM_MAP)
    cells = [(method, *cell) for method in values for cell in zip(layers, values[method], strict=True)]
    rows = [(*cell[:2], image, measure, cell[2] + shift) for cell in cells for image, shift in enumerate(shifts)]
    return pd.DataFrame(rows, columns=["method", "layer", "image_index", "measure", "value"])


def test_retained_is_1_for_equal_maps_and_0_for_random_ones():
    table = table_of({"a": (1.0, 0.6, 0.2), "b": (1.0, 0.0, 0.0)}, ("fc1",), "m", [0])
    found = sanity.retained(table, "m")
    assert found.loc["a"].to_dict() == pytest.approx({sanity.TRAINED: 1, "fc1": 0.5})
    assert found.loc["b"].to_dict() == pytest.approx({sanity.TRAINED: 1, "fc1": 0})


def test_figure_draws_the_means(table):
    means = sanity.mean_similarity(table)
    figure = sanity_figure(means, SHOWN)
    measures = means["measure"].unique()
    assert [ax.get_title() for ax in figure.axes] == [measure.replace("_", " ") for measure in measures]
    for ax, measure in zip(figure.axes, measures, strict=True):
        rows = means[means["measure"] == measure].set_index(["method", "layer"])["mean"]
        lines = [line for line in ax.lines if line.get_marker() not in ("None", "")]
        for method, line, point in zip(SHOWN, lines[::2], lines[1::2], strict=True):
            np.testing.assert_allclose(line.get_ydata(), rows[method][[sanity.TRAINED, *LAYERS]])
            np.testing.assert_allclose(point.get_ydata(), rows[method][[sanity.RANDOM_MAP]])


def test_what_a_random_classifier_leaves_is_said_with_its_numbers(tmp_path):
    """Method a keeps .3 of .4 above a random map, b nothing of .2; c is no better than a random map."""
    change = {"a": (0, -0.1, -0.35, -0.4), "b": (0, -0.2, -0.2, -0.2), "c": (0, 0.05, 0.0, 0.01)}
    table = table_of(change, ("fc1", "conv1"), "rank_accuracy_change", (-0.02, 0.02))
    left = sanity.score_left(sanity.mean_similarity(table.assign(n_random=0)))
    by = left.pivot(index="method", columns="layer", values="mean")
    assert by.loc["a"].to_dict() == pytest.approx({sanity.TRAINED: 1, "fc1": 0.75, "conv1": 0.125})
    assert by.loc["b", "fc1"] == pytest.approx(0) and by.loc["c"].isna().all()
    assert by.loc["all methods", "fc1"] == pytest.approx(1 - 0.25 / 0.59)
    (finding,) = sanity_findings(save({"sanity_checks": left}, tmp_path)["sanity_checks"])
    assert finding.short and check_findings([finding], tmp_path) == 4
    for told in ("maps keep 0.58 of what they score", "0.00 by b to 0.75 by a", "2 images", "most of the score"):
        assert told in finding.text
    assert list(sanity_findings(left.assign(mean=np.nan))) == []
