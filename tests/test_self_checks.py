"""Scientific self-checks: a fault of each sort, put in where it would arise, stops the run with one line that names it."""

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
import torch
from pretrain_xai import explain as explanation
from pretrain_xai import localization, setting_scores
from pretrain_xai.attribution import METHODS
from pretrain_xai.audit import BALANCE_LEVEL, fair_coin
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.errors import SelfCheckError
from pretrain_xai.explain import Explainer
from pretrain_xai.localization import SCORES, ConfusionCounts
from pretrain_xai.networks.models import build_network
from pretrain_xai.networks.training import predict
from pretrain_xai.protocol import CORRECTED
from pretrain_xai.self_checks import check_completeness, check_scores
from pretrain_xai.setting_scores import score_comparison_maps
from pretrain_xai.settings.sections import Attribution, Network
from torch import nn

NAMES = ["integrated_gradients", "deep_lift", "saliency"]
SCORE_NAMES = ["relevance_rank_accuracy", "pixel_auroc", "earth_mover_score"]
SETTINGS = Attribution(methods=NAMES, scores=SCORE_NAMES, options={"integrated_gradients": {"n_steps": 3}})
IMAGES = np.array([1, 3, 4])


@pytest.fixture(scope="module")
def network():
    return build_network(Network(architecture="vgg11", width=0.0625), n_classes=2, seed=1)


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    strength = np.maximum(0, rng.random((6, 32, 32)) - 0.8).astype(np.float32) * 5
    images = rng.random((6, 32, 32)).astype(np.float32)
    return Split(images, np.array([0, 1, 0, 1, 1, 0]), LesionMasks(strength, 0.5), pd.DataFrame())


@pytest.fixture(scope="module")
def scores(network, split) -> pd.DataFrame:
    return explain_and_score(network, split, NAMES)


def explain_and_score(network: nn.Module, split: Split, methods: list[str]) -> pd.DataFrame:
    return Explainer(network, split, SETTINGS, CORRECTED).scores(IMAGES, methods)[0]


def stopped(table: pd.DataFrame, split: Split) -> str:
    """Return the one line with which a table stops the run."""
    with pytest.raises(SelfCheckError) as error:
        check_scores(table, split, IMAGES, NAMES, SETTINGS.scores)
    assert "\n" not in str(error.value) and "deep_lift, integrated_gradients, saliency" in str(error.value)
    return str(error.value)


def changed(table: pd.DataFrame, metric: str, column: str, change) -> pd.DataFrame:
    """Return the scores with one of them changed: the first of that metric."""
    place = table.index[table["metric"] == metric][0]
    table = table.copy()
    table.loc[place, column] = change(table.loc[place, column])
    return table


def test_scores_that_hold_pass_as_they_are(scores, split):
    assert check_scores(scores, split, IMAGES, NAMES, SETTINGS.scores) is scores
    mixed = scores.sample(frac=1, random_state=0)
    check_scores(mixed, split, IMAGES[::-1], NAMES, SETTINGS.scores)


# ---------------------------------------------------------------- rows, ranges, counts, chance, labels


#: from a whole table to one that is none
ROWS = {
    "a row less": lambda table: table.drop(index=1),
    "a row twice": lambda table: pd.concat([table, table[7:8]]),
    "one less and one twice": lambda table: pd.concat([table.drop(index=1), table[7:8]]),
    "a delta less": lambda table: table.drop(index=table.index[table["metric"] == "completeness_delta"][2]),
    "another image": lambda table: table.assign(image_index=table["image_index"].replace(3, 2)),
    "another method": lambda table: table.assign(method=table["method"].replace("saliency", "lrp")),
    "no k": lambda table: table[table["metric"] != "k"],
}


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
def test_rows_that_are_not_the_product_of_the_grid(scores, split, change):
    assert "rows, 81 are expected: method x image_index x metric, each once" in stopped(change(scores), split)


IMPOSSIBLE = [
    ("pixel_auroc", lambda value: 1.0001, "outside of [0, 1]"),
    ("pixel_auroc", lambda value: -0.0001, "outside of [0, 1]"),
    ("true_positives", lambda value: value + 1, "do not belong together"),
    ("true_negatives", lambda value: -value, "do not belong together"),
    ("k", lambda value: value + 1, "do not belong together"),
    ("relevance_rank_accuracy", lambda value: np.nan, "do not belong together"),
]


@pytest.mark.parametrize(("metric", "change", "words"), IMPOSSIBLE)
def test_values_that_can_not_be(scores, split, metric, change, words):
    assert words in stopped(changed(scores, metric, "value", change), split)


def test_a_score_without_a_range_may_leave_it(scores, split):
    check_scores(changed(scores, "earth_mover_score", "value", lambda _: -3.0), split, IMAGES, NAMES, SETTINGS.scores)


def test_chance_and_labels_that_are_not_those_of_the_images(scores, split):
    table = changed(scores, "relevance_rank_accuracy", "chance", lambda level: level + 1e-6)
    assert "another level of chance than the masks" in stopped(table, split)
    table = changed(scores, "relevance_rank_accuracy", "label", lambda label: 1 - label)
    assert "other labels than the images" in stopped(table, split)
    other = Split(split.images, split.labels, LesionMasks(split.masks.strength, 0.6), split.table)
    assert "another level of chance" in stopped(scores, other)


# ---------------------------------------------------------------- faults where the scores are made


def one_pixel_less(maps, masks=None, ties="expected"):
    counts = TRUE_COUNTS(maps, masks, ties)
    return ConfusionCounts(counts.true_positives - 1, *counts[1:])


TRUE_COUNTS = localization.confusion_counts


SCORING_FAULTS = {
    "a wrong count": ("confusion_counts", one_pixel_less, "do not belong together"),
    "an image forgotten": ("chunks", lambda indices: [indices[:-1]], "rows, .* are expected"),
    "an image twice": ("chunks", lambda indices: [indices, indices[:1]], "rows, .* are expected"),
}


@pytest.mark.parametrize(("name", "fault", "words"), SCORING_FAULTS.values(), ids=SCORING_FAULTS)
def test_a_fault_in_the_scoring_stops_the_run(network, split, monkeypatch, name, fault, words):
    for module in (setting_scores, explanation):
        monkeypatch.setattr(module, name, fault, raising=False)
    with pytest.raises(SelfCheckError, match=words):
        explain_and_score(network, split, ["saliency"])
    with pytest.raises(SelfCheckError, match=words):
        score_comparison_maps(split, IMAGES, SETTINGS, CORRECTED)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"function": lambda maps, masks=None: np.full(len(maps), 1.5)}, "outside of"),
        ({"function": lambda maps, masks=None, ties="": np.full(len(maps), 0.5)}, "do not belong together"),
        ({"chance": lambda masks: np.full(len(masks), 0.05)}, "another level of chance than the masks"),
    ],
    ids=["out of range", "not from the counts", "another chance"],
)
def test_a_fault_in_a_score_stops_the_run(network, split, monkeypatch, fault, words):
    name = "pixel_auroc" if words == "outside of" else "relevance_rank_accuracy"
    faulty = dataclasses.replace(SCORES[name], **fault)
    monkeypatch.setattr(localization, "SCORES", {**SCORES, name: faulty})
    with pytest.raises(SelfCheckError, match=words):
        explain_and_score(network, split, ["saliency"])


def test_an_empty_mask_stops_the_run(network, split):
    strength = split.masks.strength.copy()
    strength[3] = 0
    empty = Split(split.images, split.labels, LesionMasks(strength, 0.5), split.table)
    with pytest.raises(ValueError, match="masks of images 3 are empty"):
        explain_and_score(network, empty, ["saliency"])


class AlwaysOn(nn.Dropout):
    """Dropout of one who wants its uncertainty and forgets it."""

    def train(self, mode: bool = True) -> "AlwaysOn":
        return super().train(True)


def test_a_layer_that_stays_in_training_mode_stops_the_run(network, split):
    alive = nn.Sequential(AlwaysOn(), network).eval()
    modes = [module.training for module in alive.modules()]
    for run in (lambda: predict(alive, split.images), lambda: explain_and_score(alive, split, ["saliency"])):
        with pytest.raises(SelfCheckError, match=r"in training mode though eval\(\) was called: 0$"):
            run()
        assert [module.training for module in alive.modules()] == modes


class Hidden(nn.Module):
    """Dropout that no mode tells of."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


def test_a_network_that_is_random_in_evaluation_mode_stops_the_run(network, split):
    with pytest.raises(SelfCheckError, match="random in evaluation mode, such as by a dropout that is always on"):
        predict(nn.Sequential(Hidden(), network), split.images)
    assert len(predict(network, split.images, dropout_active=True)) == 6


# ---------------------------------------------------------------- completeness


MAP_FAULTS = [lambda maps: -maps, lambda maps: 3 * maps + 1, lambda maps: maps.roll(1, 0) * 50 - 1]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.tolerance is not None])
@pytest.mark.parametrize("fault", MAP_FAULTS, ids=["the sign", "the scale", "another image"])
def test_maps_that_break_their_promise_stop_the_run(network, split, monkeypatch, method, fault):
    right = METHODS[method]
    compute = functools.wraps(right.compute)(lambda block, **options: fault(right.compute(block, **options)))
    wrong = dataclasses.replace(right, compute=compute)
    louder = nn.Sequential(network, nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        louder[1].weight.copy_(torch.eye(2) * 1e4)  # logits of an untrained network are near 0
    monkeypatch.setattr("pretrain_xai.attribution.METHODS", {**METHODS, method: wrong})
    monkeypatch.setattr(explanation, "METHODS", {**METHODS, method: wrong})
    with pytest.raises(SelfCheckError, match=f"the maps of {method} miss the logit's difference to a black image by"):
        explain_and_score(louder, split, [method])


def test_what_a_method_may_miss():
    """Two images whose logits differ by 9 from the black image's, in the mean."""
    difference = np.array([8.0, -10.0])
    check_completeness("exact", np.array([0.01, -0.009]), difference, 1e-3)
    with pytest.raises(SelfCheckError, match=r"miss .* by 0\.02 in the mean, 0\.01 at most is expected"):
        check_completeness("exact", np.array([0.02, 0.02]), difference, 1e-3)
    check_completeness("approximate", -difference, difference, 1.0)
    with pytest.raises(SelfCheckError):
        check_completeness("approximate", -1.2 * difference, difference, 1.0)
    with pytest.raises(SelfCheckError, match="by nan in the mean"):
        check_completeness("broken", np.array([np.nan, 0]), difference, 1.0)


def test_completeness_is_that_of_all_images_whatever_the_chunks(network, split, monkeypatch):
    """An image that misses by much, alone in its chunk, stops nothing where the mean holds."""
    calls: list[np.ndarray] = []
    monkeypatch.setattr(setting_scores, "CHUNK", 2)
    monkeypatch.setattr(explanation, "check_completeness", lambda method, deltas, *_: calls.append(deltas))
    explain_and_score(network, split, ["deep_lift"])
    assert [deltas.shape for deltas in calls] == [(3,)]


def test_unbalanced_labels_stop_the_run_before_a_network_sees_them():
    """The audit's bound: 130 of 200 are no fair coin, whichever class has them."""
    some = pd.Series(np.arange(200) % 2)
    assert fair_coin(some) == pytest.approx(1)
    some[:60] = 1
    assert fair_coin(some) == pytest.approx(fair_coin(1 - some)) and fair_coin(some) < BALANCE_LEVEL
