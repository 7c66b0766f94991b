"""Scores of a model's explanations, against the plain loop over images."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from pretrain_xai.attribution import attribute
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.errors import UserError
from pretrain_xai.explain import Explainer, within_memory
from pretrain_xai.networks.models import as_batch, build_network
from pretrain_xai.networks.training import predict
from pretrain_xai.protocol import CORRECTED, RESCORED, Protocol, switched_protocols
from pretrain_xai.setting_scores import score_comparison_maps
from pretrain_xai.settings.sections import Attribution, Network

METHODS = ["integrated_gradients", "deep_lift", "saliency"]
SETTINGS = Attribution(methods=METHODS, options={"integrated_gradients": {"n_steps": 3}})
NETWORK = build_network(Network(architecture="vgg11", width=0.0625), n_classes=2, seed=1)
RANK_ACCURACY = "metric == 'relevance_rank_accuracy'"


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    images = rng.random((70, 32, 32)).astype(np.float32)
    strength = np.maximum(0, rng.random((70, 32, 32)) - 0.8).astype(np.float32) * 5  # a tenth is above half
    return Split(images, rng.integers(0, 2, 70), LesionMasks(strength, 0.5), pd.DataFrame())


def scores(split, indices, methods=METHODS, protocol: Protocol = CORRECTED, network=NETWORK) -> pd.DataFrame:
    masks = LesionMasks(split.masks.strength, protocol.mask_threshold)
    return Explainer(network, dataclasses.replace(split, masks=masks), SETTINGS, protocol).scores(indices, methods)[0]


def test_scores_equal_the_plain_loop(split):
    indices = np.arange(1, 70)  # more than one chunk
    table = scores(split, indices)
    assert len(table) == len(indices) * (8 * len(METHODS) + 2)
    predicted = predict(NETWORK, split.images).argmax(axis=1)
    for image in (1, 40, 69):
        inputs, target = as_batch(split.images[[image]], NETWORK), torch.tensor([split.labels[image]])
        mask = split.masks[image]
        k = mask.sum()
        for method in METHODS:
            signed = attribute(NETWORK, inputs, target, method, **SETTINGS.options.get(method, {}))
            strongest = np.argsort(signed.sum(1).abs()[0].numpy().ravel())[::-1][:k]
            hits = mask.ravel()[strongest].sum()
            rows = table.query("method == @method and image_index == @image").set_index("metric")
            assert (rows["label"] == split.labels[image]).all() and (rows["predicted"] == predicted[image]).all()
            expected = {"relevance_rank_accuracy": hits / k, "true_positives": hits, "k": k}
            expected["true_negative_rate"] = (32 * 32 - 2 * k + hits) / (32 * 32 - k)
            assert rows.loc[list(expected), "value"].to_dict() == pytest.approx(expected)
            assert rows.loc["relevance_rank_accuracy", "chance"] == pytest.approx(mask.mean())


def test_only_complete_methods_have_a_delta_and_deep_lift_keeps_its_promise(split):
    deltas = scores(split, np.arange(5)).query("metric == 'completeness_delta'").groupby("method")["value"]
    assert set(deltas.groups) == {"integrated_gradients", "deep_lift"}
    assert deltas.get_group("deep_lift").abs().max() < 1e-4


def test_maps_that_say_nothing_are_flagged_and_score_chance(split):
    dead = copy.deepcopy(NETWORK)
    torch.nn.init.zeros_(dead.classifier[-1].weight)
    for model, flag in ((NETWORK, 0), (dead, 1)):
        table = scores(split, np.arange(3), ["saliency"], network=model)
        assert (table.loc[table["metric"] == "all_zero", "value"] == flag).all()
    accuracy = table.query(RANK_ACCURACY)
    np.testing.assert_allclose(accuracy["value"], accuracy["chance"])


def test_a_score_does_not_depend_on_the_other_images(split):
    few, many = scores(split, np.array([8])), scores(split, np.arange(69))
    pd.testing.assert_frame_equal(few, many[many["image_index"] == 8].reset_index(drop=True))


def test_every_switch_changes_scores_and_is_scored_as_if_the_study_had_it(split):
    indices = np.arange(6)
    rescored = Explainer(NETWORK, split, SETTINGS, CORRECTED).switch_scores(indices, METHODS)
    assert set(rescored["switch"]) == {"none", *RESCORED} - {"signed_edges", "gradient_shap_unseeded"}
    values = {name: rows.set_index(["method", "image_index"])["value"] for name, rows in rescored.groupby("switch")}
    for switch, protocol in switched_protocols(CORRECTED).items():
        if switch in values:
            whole = scores(split, indices, protocol=protocol).query(RANK_ACCURACY)
            whole = whole.set_index(["method", "image_index"])["value"]
            np.testing.assert_allclose(values[switch], whole[values[switch].index])
            changes = switch not in ("none", "ties", "captum_deep_lift")  # few images, and maps without ties
            assert changes != np.allclose(values[switch], values["none"][values[switch].index]), switch


def test_ties_reach_the_scores_of_comparison_maps(split):
    flat = Split(np.zeros((2, 32, 32), np.float32), split.labels[:2], split.masks, pd.DataFrame())
    expected, _ = score_comparison_maps(flat, np.arange(2), SETTINGS, CORRECTED)
    strict, _ = score_comparison_maps(flat, np.arange(2), SETTINGS, dataclasses.replace(CORRECTED, ties="strict"))
    accuracy = expected.query(RANK_ACCURACY)
    np.testing.assert_allclose(accuracy["value"], accuracy["chance"])
    assert (strict.query(RANK_ACCURACY)["value"] == 0).all()
    assert set(expected["method"]) == {"sobel", "laplace", "intensity"}


def test_example_maps_are_the_reduced_attributions(split):
    maps = Explainer(NETWORK, split, SETTINGS, CORRECTED).example_maps(np.array([7, 2]), ["saliency"])["saliency"]
    targets = torch.from_numpy(split.labels[[7, 2]])
    gradient = attribute(NETWORK, as_batch(split.images[[7, 2]], NETWORK), targets, "saliency")
    np.testing.assert_array_equal(maps, gradient.sum(1).abs().numpy())


# ---------------------------------------------------------------- a model that does not fit into memory


def attempts(fitting: int, error: Exception, micro_batch: int | None = None, size: int = 96):
    """Explain nothing, with an error for more than `fitting` rows; return the outcome and the rows that were tried."""
    tried = []

    @within_memory
    def attempt(explainer: Explainer, answer: str) -> str:
        tried.append(explainer.micro_batch)
        if explainer.micro_batch > fitting:
            raise error
        return answer

    images = Split(np.zeros((1, size, size)), np.zeros(1), None, None)
    settings = SETTINGS.model_copy(update={"micro_batch": micro_batch})
    try:
        return attempt(Explainer(None, images, settings, CORRECTED), "scores"), tried
    except Exception as raised:
        return raised, tried


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_starts_again_with_half_the_rows(error, caplog):
    assert attempts(5, error) == ("scores", [32, 16, 8, 4])
    assert "again with 4" in caplog.text
    assert attempts(99, error, micro_batch=7) == ("scores", [7]), "the study decides on the first attempt"


def test_one_image_that_does_not_fit_is_an_error_and_others_are_not_caught():
    error, tried = attempts(0, MemoryError(), size=224)
    assert isinstance(error, UserError) and tried == [4, 2, 1]
    assert "images of 224 x 224 px" in str(error) and "--cores 1" in str(error)
    error, tried = attempts(0, RuntimeError("shapes do not fit"))
    assert "shapes" in str(error) and tried == [32]
