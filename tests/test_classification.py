"""Classification metrics, from confusions whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pretrain_xai import classification
from pretrain_xai.classification import LESION_FREE, classification_metrics, lesion_dependence, prediction_table
from pretrain_xai.study import Run
from sklearn.metrics import accuracy_score, average_precision_score, recall_score, roc_auc_score

RUN = Run("best", "mri", 2, 7)


def logits_of(scores) -> np.ndarray:
    """Return logits whose difference is the score, and which differ from image to image besides."""
    scores = np.asarray(scores, dtype=float)
    return np.stack([np.arange(len(scores)), np.arange(len(scores)) + scores], axis=1)


def table_of(labels, scores, run: Run = RUN) -> pd.DataFrame:
    return prediction_table(run, "test", np.asarray(labels), logits_of(scores))


def test_the_prediction_table_says_model_split_and_image():
    table = prediction_table(RUN, "validation", np.array([0, 1]), np.array([[2.0, 1.0], [0.5, 3.0]]))
    known = {"selection": "best", "pretraining": "mri", "finetune_depth": 2, "seed": 7, "split": "validation"}
    names = ["image_index", "label", "predicted", "logit_0", "logit_1"]
    rows = [(0, 0, 0, 2.0, 1.0), (1, 1, 1, 0.5, 3.0)]
    assert table.to_dict("records") == [known | dict(zip(names, row, strict=True)) for row in rows]


def test_metrics_of_a_confusion_counted_by_hand():
    """3 TP, 1 FN, 4 TN, 2 FP; of the 24 pairs of an irregular and a round image, 18 are in order."""
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    scores = [4, 3, 1, -2, 2, 3.5, -1, -3, -4, -5]
    metrics = classification_metrics(table_of(labels, scores))
    assert [metrics[rate] for rate in ("sensitivity", "specificity", "accuracy")] == [3 / 4, 4 / 6, 7 / 10]
    assert sum(one > other for one in scores[:4] for other in scores[4:]) == 18
    assert metrics["auroc"] == pytest.approx(18 / 24)
    # precision at each irregular image, in the order of the scores
    assert metrics["auprc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 5 + 4 / 7) / 4)


def test_swapped_rates_swaps_the_two_rates_and_nothing_else():
    table = table_of([1, 1, 1, 1, 0, 0], [1, 1, 1, -1, 1, -1])
    right, swapped = classification_metrics(table), classification_metrics(table, swapped_rates=True)
    assert (right["sensitivity"], right["specificity"]) == (0.75, 0.5)
    assert (swapped["sensitivity"], swapped["specificity"]) == (0.5, 0.75)
    assert all(right[name] == swapped[name] for name in classification.METRICS[:3])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=30))
def test_metrics_equal_scikit_learns(images):
    labels, scores = np.array(images).T
    assume(len(set(labels)) == 2)
    table = table_of(labels, scores)
    predicted = table["predicted"]
    areas = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    rates = [recall_score(labels, predicted, pos_label=positive) for positive in (1, 0)]
    expected = [*areas, accuracy_score(labels, predicted), *rates]
    assert classification_metrics(table) == pytest.approx(dict(zip(classification.METRICS, expected, strict=True)))


def test_the_table_has_one_row_per_model_and_means_are_over_seeds():
    labels = [1, 0, 1, 0]
    perfect, half = [1, -1, 1, -1], [1, 1, -1, -1]
    models = {("best", "mri", 1, 0): perfect, ("best", "mri", 1, 1): half, ("matched", "mri", 1, 0): half}
    predictions = [table_of(labels, scores, Run(*model)) for model, scores in models.items()]
    table = classification.classification_table(pd.concat(predictions))
    accuracy = table.set_index(["selection", "pretraining", "finetune_depth", "seed"])["accuracy"].to_dict()
    assert accuracy == {model: 1.0 if scores is perfect else 0.5 for model, scores in models.items()}
    means = classification.mean_over_seeds(table).set_index("selection")
    assert means.loc[["best", "matched"], ["accuracy", "n_seeds"]].to_numpy().tolist() == [[0.75, 2], [0.5, 1]]


def both(run: Run, labels, scores, without) -> pd.DataFrame:
    """Return the predictions of images with these scores, which are `without` where the lesions are taken away."""
    lesion_free = prediction_table(run, LESION_FREE, np.asarray(labels), logits_of(without))
    return pd.concat([table_of(labels, scores, run), lesion_free])


def test_what_becomes_of_decisions_without_lesions_counted_by_hand():
    """Of four round images three are right, of which one is called irregular without; of two irregular ones both flip."""
    labels, scores, without = [0, 0, 0, 0, 1, 1], [-1, -2, -4, 3, 2, 5], [-0.5, 1, -1, 1, -1, -2]
    table = lesion_dependence(both(RUN, labels, scores, without))
    # the log-odds of round rise by .5, which leaves half of them, and by 3 and 3; those of irregular by 3 and 7
    names = ["label", "n_correct", "owed", "flips", "log_odds_change", "called_irregular", "default"]
    rows = [(0, 3, 2 / 3, 1 / 3, 3.0, 1 / 3, "none"), (1, 2, 1.0, 1.0, 5.0, 1 / 3, "none")]
    found = table.drop(columns=["selection", "pretraining", "finetune_depth", "seed"]).to_dict("records")
    assert found == [dict(zip(names, row, strict=True)) for row in rows]


def test_a_detector_of_one_class_is_told_from_one_of_both():
    rng, labels = np.random.default_rng(0), np.arange(200) % 2
    coin = rng.normal(size=200)
    networks = {
        "round": (6 * labels - 1.0, np.full(200, -1.0)),  # sees irregular lesions only
        "irregular": (6 * labels - 5.0, np.full(200, 1.0)),  # sees round ones only
        "none": (12 * labels - 6 + coin, coin),
    }
    tables = [both(Run("best", "mri", 1, seed), labels, *scores) for seed, scores in enumerate(networks.values())]
    found = lesion_dependence(pd.concat(tables).sample(frac=1, random_state=0))
    assert found.drop_duplicates("seed")["default"].tolist() == list(networks)
    flips, owed = (found.pivot(index="seed", columns="label", values=name) for name in ("flips", "owed"))
    assert flips.loc[[0, 1]].to_numpy().tolist() == [[0, 1], [1, 0]]
    assert flips.loc[2].between(0.4, 0.6).all()
    assert owed.to_numpy().tolist() == [[0, 1], [1, 0], [1, 1]]


def test_a_network_of_even_odds_has_no_default_whatever_it_calls_slices_without_lesions():
    labels = np.arange(200) % 2
    found = lesion_dependence(both(RUN, labels, 12 * labels - 6.0, np.full(200, -0.1)))
    assert found["called_irregular"].tolist() == [0, 0] and found["default"].tolist() == ["none", "none"]
    assert found["flips"].tolist() == [0, 1] and found["owed"].tolist() == [1, 1]


def test_decisions_owed_to_lesions_stand_at_their_network_and_image():
    """Those of the plain loop, whatever the order of rows, networks and images."""
    networks = pd.DataFrame({"pretraining": "mri", "finetune_depth": 1, "seed": [2, 0, 1]})
    rng = np.random.default_rng(0)
    parts = [both(Run("best", "mri", 1, seed), [0, 1] * 5, *rng.normal(size=(2, 10))) for seed in range(3)]
    predictions = pd.concat(parts).sample(frac=1, random_state=0)
    found = classification.owed_to_lesions(predictions, networks, [7, 3, 4])
    for row, seed in enumerate(networks["seed"]):
        for column, image in enumerate([7, 3, 4]):
            one = predictions[(predictions["seed"] == seed) & (predictions["image_index"] == image)]
            odds, without = ((one["logit_1"] - one["logit_0"])[one["split"] == s].item() for s in ("test", LESION_FREE))
            assert found[row, column] == (without * np.sign(odds) < abs(odds) / 2)


def test_a_class_without_right_decisions_has_no_flips():
    table = lesion_dependence(both(RUN, [0, 1], [1, 1], [1, 1]))
    assert table["n_correct"].tolist() == [0, 1]
    assert table["flips"].isna().tolist() == table["log_odds_change"].isna().tolist() == [True, False]
