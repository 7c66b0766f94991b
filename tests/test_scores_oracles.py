"""Scores against independent implementations: Quantus, scikit-learn and literal loops, on 500 random cases."""

import dataclasses
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import quantus
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.localization import QUANTUS_METRICS, SCORES, average_precision_chance, find_score, score_masked
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.protocol import PUBLISHED
from pretrain_xai.setting_scores import CHUNK, score_comparison_maps
from pretrain_xai.settings.sections import Attribution
from sklearn.metrics import average_precision_score, roc_auc_score
from test_localization import expected_hits

FAST = [name for name, score in SCORES.items() if not score.is_slow]
#: pixels of a side
SIDE = 9


@pytest.fixture(scope="module")
def cases():
    """500 maps and masks: without ties, with few levels, sparse, constant, zero; small, large, full and missed masks."""
    rng = np.random.default_rng(4)
    maps = rng.random((500, SIDE, SIDE))
    masks = rng.random(maps.shape) < rng.uniform(0.02, 0.98, (500, 1, 1))
    masks[np.arange(500), rng.integers(0, SIDE, 500), rng.integers(0, SIDE, 500)] = True
    maps[100:250] = rng.integers(0, 4, (150, SIDE, SIDE))  # many ties
    maps[250:320] *= rng.random((70, SIDE, SIDE)) < 0.1  # most pixels are zero
    maps[320:330], maps[330:340] = 0, 0.7
    masks[340:380] = True
    maps[380:430][masks[380:430]] = 0  # nothing of the mask is found, until the rest is taken
    maps[430:470] = (maps[430:470] * 100).astype(np.float32)
    return maps, masks


@pytest.fixture(scope="module")
def scored(cases):
    return {name: values for name, (values, _) in score_masked(MaskedMaps(*cases), FAST).items()}


def each_case(cases, oracle):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, where a full mask has no negatives
        return [oracle(mask.ravel(), values.ravel()) for values, mask in zip(*cases, strict=True)]


@pytest.mark.parametrize(
    ("name", "oracle"), [("pixel_auroc", roc_auc_score), ("average_precision", average_precision_score)]
)
def test_equals_scikit_learn_on_all_cases(cases, scored, name, oracle):
    np.testing.assert_allclose(scored[name], each_case(cases, oracle), atol=1e-12)


def test_equals_literal_loops_on_all_cases(cases):
    loops = {
        "relevance_rank_accuracy": lambda i, v: expected_hits(v, i, i.sum()) / i.sum(),
        "true_negative_rate": lambda i, v: (
            (len(i) - 2 * i.sum() + expected_hits(v, i, i.sum())) / (~i).sum() if (~i).any() else np.nan
        ),
        "pointing_game": lambda i, v: expected_hits(v, i, 1),
        "relevance_mass_accuracy": lambda i, v: v[i].sum() / v.sum() if v.any() else i.mean(),
        "top_k_intersection_area": lambda i, v: np.mean([expected_hits(v, i, k) / k for k in range(1, i.sum() + 1)]),
        "sparseness": lambda _, v: np.abs(v[:, None] - v).mean() / (2 * v.mean()) if v.any() else 0,
    }
    assert set(loops) | {"pixel_auroc", "average_precision", "importance_mass_accuracy"} == set(FAST)
    for name, loop in loops.items():
        np.testing.assert_allclose(SCORES[name].function(*cases), each_case(cases, loop), atol=1e-12, err_msg=name)


QUANTUS = {
    "relevance_rank_accuracy": quantus.RelevanceRankAccuracy,
    "relevance_mass_accuracy": quantus.RelevanceMassAccuracy,
    "pointing_game": quantus.PointingGame,
    "pixel_auroc": quantus.AUC,
    "sparseness": quantus.Sparseness,
    "top_k": partial(quantus.TopKIntersection, k=11),
}


@pytest.mark.parametrize("name", QUANTUS)
@pytest.mark.filterwarnings("ignore")
def test_equals_quantus_on_all_cases_that_it_defines(cases, scored, name):
    """It breaks ties by position, so order needs maps without; it adds 1e-7 to maps for the Gini index."""
    maps, masks = cases
    usable = {
        "relevance_mass_accuracy": maps.any(axis=(1, 2)),
        "sparseness": maps.any(axis=(1, 2)),
        "pixel_auroc": ~masks.all(axis=(1, 2)),
    }.get(name, np.array([len(np.unique(values)) == SIDE**2 for values in maps]))
    assert usable.sum() > 150
    expected = QUANTUS[name](abs=False, normalise=False, disable_warnings=True)(
        model=None,
        x_batch=np.zeros((usable.sum(), 1, SIDE, SIDE)),
        y_batch=np.zeros(usable.sum(), dtype=int),
        a_batch=maps[usable][:, None] * 1e3,
        s_batch=masks[usable][:, None],
    )
    ours = (
        scored[name]
        if name in scored
        else np.array([each.expected_hits(11) / 11 for each in MaskedMaps(*cases).levels])
    )
    np.testing.assert_allclose(ours[usable], np.asarray(expected, dtype=float), atol=1e-6)


def test_chance_of_average_precision_is_the_mean_over_all_masks():
    """Every mask of 3 of 7 pixels is equally likely for a map without ties."""
    values = np.arange(7)
    masks = np.array([[i in chosen for i in values] for chosen in np.ndindex(7, 7, 7) if len(set(chosen)) == 3])
    found = [average_precision_score(mask, values) for mask in masks]
    np.testing.assert_allclose(average_precision_chance(masks[:1, None]), np.mean(found), rtol=1e-12)
    for n_pixels in (1, 2, 10):
        assert average_precision_chance(np.ones((1, 1, n_pixels), dtype=bool))[0] == pytest.approx(1, rel=1e-15)


def test_scoring_together_equals_scoring_alone(cases):
    for name, (values, level) in score_masked(MaskedMaps(*cases), FAST, ties="strict").items():
        np.testing.assert_array_equal(values, SCORES[name](*cases, ties="strict"))
        np.testing.assert_array_equal(level, SCORES[name].chance(cases[1]))


def test_scores_of_mass_take_absolute_values_and_scores_of_order_do_not(cases):
    maps, masks = cases[0][:30] - 0.5, cases[1][:30]
    signed, absolute = score_masked(MaskedMaps(maps, masks), FAST), score_masked(MaskedMaps(np.abs(maps), masks), FAST)
    for name, (values, _) in signed.items():
        of_mass = name in ("relevance_mass_accuracy", "importance_mass_accuracy", "sparseness")
        assert np.array_equal(values, absolute[name][0], equal_nan=True) == of_mass, name


def test_of_a_chunk_that_is_scored_no_memory_stays():
    def peak_of(n_chunks):
        tracemalloc.start()
        for chunk in range(n_chunks):
            drawn = np.random.default_rng(chunk).random((CHUNK, 64, 64), dtype=np.float32)
            score_masked(MaskedMaps(drawn - 0.5, drawn < 0.1), FAST)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = peak_of(2)
    assert peak_of(20) < 1.2 * few < 1.2 * 128 * 64 * 64 * 4 * 8, "the maps of one chunk, not a matrix of pairs"


def test_a_studys_scores_reach_its_table_and_the_ties_of_its_protocol_concern_counts_alone():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (3, 32, 32)).astype(np.float32)
    masks = LesionMasks(rng.random(images.shape), 0.9)
    split = Split(images, np.array([0, 1, 0]), masks, None)
    settings = Attribution(methods=["saliency"], scores=[*FAST, "quantus:Complexity"])
    protocol = dataclasses.replace(PUBLISHED, mask_threshold=0.9)
    table, _ = score_comparison_maps(split, np.arange(3), settings, protocol)
    counts = {"true_positives", "false_positives", "false_negatives", "true_negatives", "k", "all_zero"}
    assert set(table["metric"]) == {*FAST, "quantus:Complexity", *counts}
    assert (table.groupby(["method", "metric"]).size() == 3).all()
    levels = table.groupby("metric")["chance"]
    assert (levels.get_group("pixel_auroc") == 0.5).all()
    assert levels.get_group("sparseness").isna().all() and levels.get_group("k").isna().all()
    of_images = table[table["method"] == "intensity"].groupby("metric")["value"]
    for name in ("relevance_rank_accuracy", "pixel_auroc"):
        expected = SCORES[name](images, masks[:], ties="strict")
        np.testing.assert_array_equal(of_images.get_group(name), expected, err_msg=name)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("pixel_aurok", r"unknown score 'pixel_aurok' \(did you mean 'pixel_auroc'\?\)"),
        ("quantus:Sparsenes", r"\(did you mean 'quantus:Sparseness'\?\)"),
        ("quantus:AUC", r"needs Quantus: .venv/bin/pip install -e '.\[quantus\]'$"),
    ],
)
def test_scores_are_found_by_name(score, message, monkeypatch):
    assert all(find_score(name) is SCORES[name] for name in SCORES)
    assert all(callable(find_score(f"quantus:{metric}").function) for metric in QUANTUS_METRICS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        find_score(score)


@pytest.mark.parametrize("metric", [metric for metric in QUANTUS_METRICS if metric != "TopKIntersection"])
def test_metrics_of_quantus_are_computed_image_by_image(cases, metric):
    maps, masks = cases[0][:6], cases[1][:6]
    before = maps.copy()
    score = find_score(f"quantus:{metric}")
    values = score.function(maps, masks)
    assert (values.shape, values.dtype) == ((6,), np.float64) and np.isfinite(values).all()
    assert np.isnan(score.chance(masks)).all()
    np.testing.assert_array_equal(values[4:5], score.function(maps[4:5], masks[4:5]))
    np.testing.assert_array_equal(maps, before)
    if metric == "RelevanceRankAccuracy":
        np.testing.assert_allclose(values, SCORES["relevance_rank_accuracy"].function(maps, masks))


@pytest.mark.parametrize("name", ["relevance_mass_accuracy", "sparseness"])
def test_sums_over_single_precision_maps_are_in_double(name):
    rng = np.random.default_rng(0)
    maps, masks = rng.random((3, 64, 64)).astype(np.float32), rng.random((3, 64, 64)) < 0.3
    single, double = (SCORES[name].function(given, masks) for given in (maps, maps.astype(np.float64)))
    np.testing.assert_allclose(single, double, rtol=1e-12)


def test_what_quantus_refuses_names_the_metric_and_image(cases):
    score = find_score("quantus:TopKIntersection")  # its k of 1,000 is more than there are pixels
    with pytest.raises(ValueError, match="quantus:TopKIntersection can't score the map of image 0: "):
        score.function(cases[0][:2], cases[1][:2])
