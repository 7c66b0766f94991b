"""Scores of a model's explanations, against the plain loop over images."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from pretrain_xai.attribution import attribute
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.explain import (
    example_maps,
    explain_and_score,
    score_comparison_maps,
    score_under_switches,
)
from pretrain_xai.networks.models import build_network
from pretrain_xai.networks.training import as_batch, predict
from pretrain_xai.protocol import CORRECTED, RESCORED, switched_protocols
from pretrain_xai.settings.sections import Attribution, Network

METHODS = ["integrated_gradients", "deep_lift", "saliency"]
SETTINGS = Attribution(methods=METHODS, options={"integrated_gradients": {"n_steps": 3}})


@pytest.fixture(scope="module")
def network():
    return build_network(Network(architecture="vgg11", width=0.0625), n_classes=2, seed=1)


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    images = rng.random((70, 32, 32)).astype(np.float32)
    strength = np.maximum(0, rng.random((70, 32, 32)) - 0.8).astype(np.float32) * 5  # a tenth is above half
    return Split(images, rng.integers(0, 2, 70), LesionMasks(strength, 0.5), pd.DataFrame())


def value(scores, method, metric, image) -> float:
    chosen = scores.query("method == @method and metric == @metric and image_index == @image")
    assert len(chosen) == 1
    return chosen["value"].item()


def test_scores_equal_the_plain_loop(network, split):
    indices = np.arange(1, 70)  # more than one chunk
    scores, _ = explain_and_score(network, split, indices, METHODS, SETTINGS, CORRECTED)
    assert len(scores) == len(indices) * (8 * len(METHODS) + 2)
    for image in (1, 40, 69):
        inputs, target = as_batch(split.images[[image]], network), torch.tensor([split.labels[image]])
        for method in METHODS:
            heatmap = (
                attribute(network, inputs, target, method, **SETTINGS.options.get(method, {})).sum(1).abs()[0].numpy()
            )
            mask = split.masks[image]
            k = mask.sum()
            strongest = np.argsort(heatmap.ravel())[::-1][:k]
            hits = mask.ravel()[strongest].sum()
            assert value(scores, method, "relevance_rank_accuracy", image) == pytest.approx(hits / k)
            assert value(scores, method, "true_positives", image) == pytest.approx(hits)
            assert value(scores, method, "true_negative_rate", image) == pytest.approx(
                (32 * 32 - 2 * k + hits) / (32 * 32 - k)
            )
            assert value(scores, method, "k", image) == k


def test_labels_predictions_and_chance_belong_to_the_images(network, split):
    scores, _ = explain_and_score(network, split, np.array([3, 5, 60]), METHODS, SETTINGS, CORRECTED)
    rows = scores[(scores["metric"] == "relevance_rank_accuracy") & (scores["method"] == "saliency")].set_index(
        "image_index"
    )
    predicted = predict(network, split.images).argmax(axis=1)
    for image in (3, 5, 60):
        assert rows.loc[image, "label"] == split.labels[image]
        assert rows.loc[image, "predicted"] == predicted[image]
        assert rows.loc[image, "chance"] == pytest.approx(split.masks[image].mean())


def test_only_complete_methods_have_a_delta_and_deep_lift_keeps_its_promise(network, split):
    scores, _ = explain_and_score(network, split, np.arange(5), METHODS, SETTINGS, CORRECTED)
    deltas = scores[scores["metric"] == "completeness_delta"].groupby("method")["value"]
    assert set(deltas.groups) == {"integrated_gradients", "deep_lift"}
    assert deltas.get_group("deep_lift").abs().max() < 1e-4


def test_maps_that_say_nothing_are_flagged_and_score_chance(network, split):
    dead = copy.deepcopy(network)
    torch.nn.init.zeros_(dead.classifier[-1].weight)
    for model, flag in ((network, 0), (dead, 1)):
        scores, _ = explain_and_score(model, split, np.arange(3), ["saliency"], SETTINGS, CORRECTED)
        assert (scores.loc[scores["metric"] == "all_zero", "value"] == flag).all()
    accuracy = scores[scores["metric"] == "relevance_rank_accuracy"]
    np.testing.assert_allclose(accuracy["value"], accuracy["chance"])


def test_a_score_does_not_depend_on_the_other_images(network, split):
    few, rows = explain_and_score(network, split, np.array([8]), METHODS, SETTINGS, CORRECTED)
    assert rows == 32
    many, _ = explain_and_score(network, split, np.arange(69), METHODS, SETTINGS, CORRECTED)
    pd.testing.assert_frame_equal(few, many[many["image_index"] == 8].reset_index(drop=True))


def test_switches_reach_the_scores(network, split):
    indices = np.arange(4)
    corrected, _ = explain_and_score(network, split, indices, METHODS, SETTINGS, CORRECTED)
    for switch, chosen in {"channel_reduction": "luminance", "captum_deep_lift": True, "dropout_active": True}.items():
        protocol = dataclasses.replace(CORRECTED, **{switch: chosen})
        changed, _ = explain_and_score(network, split, indices, METHODS, SETTINGS, protocol)
        assert not changed["value"].equals(corrected["value"]), switch
        assert set(changed["method"]) == set(METHODS)


def test_captums_deep_lift_runs_where_deterministic_algorithms_are_asked_for(network, split):
    """As in every notebook, which calls `configure_torch`; and the setting is as before afterwards."""
    protocol = dataclasses.replace(CORRECTED, captum_deep_lift=True)
    torch.use_deterministic_algorithms(True)
    try:
        scores, _ = explain_and_score(network, split, np.arange(2), ["deep_lift"], SETTINGS, protocol)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert scores["value"].notna().any()


def test_every_switch_is_scored_as_if_the_study_had_it(network, split):
    """Rescoring equals the scores of a study whose protocol has the switch."""
    indices = np.arange(6)
    rescored, _ = score_under_switches(network, split, indices, METHODS, SETTINGS, CORRECTED)
    assert set(rescored["switch"]) == {"none", *RESCORED} - {"signed_edges", "gradient_shap_unseeded"}
    for switch, protocol in switched_protocols(CORRECTED).items():
        rows = rescored[rescored["switch"] == switch].set_index(["method", "image_index"])["value"]
        masks = LesionMasks(split.masks.strength, protocol.mask_threshold)
        study = Split(split.images, split.labels, masks, split.table)
        whole, _ = explain_and_score(network, study, indices, METHODS, SETTINGS, protocol)
        whole = whole[whole["metric"] == "relevance_rank_accuracy"].set_index(["method", "image_index"])["value"]
        np.testing.assert_allclose(rows, whole[rows.index])


def test_ties_reach_the_scores_of_comparison_maps(split):
    flat = Split(np.zeros((2, 32, 32), np.float32), split.labels[:2], split.masks, pd.DataFrame())
    expected = score_comparison_maps(flat, np.arange(2), SETTINGS, CORRECTED)
    strict = score_comparison_maps(flat, np.arange(2), SETTINGS, dataclasses.replace(CORRECTED, ties="strict"))
    rra = expected[expected["metric"] == "relevance_rank_accuracy"]
    np.testing.assert_allclose(rra["value"], rra["chance"])
    assert (strict.loc[strict["metric"] == "relevance_rank_accuracy", "value"] == 0).all()
    assert set(expected["method"]) == {"sobel", "laplace", "intensity"}


def test_example_maps_are_the_reduced_attributions(network, split):
    maps = example_maps(network, split, np.array([7, 2]), ["saliency"], SETTINGS, CORRECTED)["saliency"]
    gradient = attribute(
        network, as_batch(split.images[[7, 2]], network), torch.from_numpy(split.labels[[7, 2]]), "saliency"
    )
    np.testing.assert_array_equal(maps, gradient.sum(1).abs().numpy())
