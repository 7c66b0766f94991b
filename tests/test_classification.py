"""Classification metrics, from confusions whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pretrain_xai import classification
from pretrain_xai.classification import METRICS, classification_metrics, prediction_table
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
    rows = [
        {"image_index": 0, "label": 0, "predicted": 0, "logit_0": 2.0, "logit_1": 1.0},
        {"image_index": 1, "label": 1, "predicted": 1, "logit_0": 0.5, "logit_1": 3.0},
    ]
    assert table.to_dict("records") == [known | row for row in rows]


def test_metrics_of_a_confusion_counted_by_hand():
    """3 TP, 1 FN, 4 TN, 2 FP; of the 24 pairs of an irregular and a round image, 18 are in order."""
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    scores = [4, 3, 1, -2, 2, 3.5, -1, -3, -4, -5]
    metrics = classification_metrics(table_of(labels, scores))
    assert metrics["sensitivity"] == 3 / 4
    assert metrics["specificity"] == 4 / 6
    assert metrics["accuracy"] == 7 / 10
    in_order = sum(one > other for one in scores[:4] for other in scores[4:])
    assert in_order == 18
    assert metrics["auroc"] == pytest.approx(18 / 24)
    # precision at each irregular image, in the order of the scores
    assert metrics["auprc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 5 + 4 / 7) / 4)


def test_swapped_rates_swaps_the_two_rates_and_nothing_else():
    table = table_of([1, 1, 1, 1, 0, 0], [1, 1, 1, -1, 1, -1])
    right, swapped = classification_metrics(table), classification_metrics(table, swapped_rates=True)
    assert (right["sensitivity"], right["specificity"]) == (0.75, 0.5)
    assert (swapped["sensitivity"], swapped["specificity"]) == (0.5, 0.75)
    assert {name: right[name] for name in METRICS[:3]} == {name: swapped[name] for name in METRICS[:3]}


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=30))
def test_metrics_equal_scikit_learns(images):
    labels, scores = np.array(images).T
    assume(len(set(labels)) == 2)
    table = table_of(labels, scores)
    predicted = table["predicted"]
    areas = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    rates = [recall_score(labels, predicted, pos_label=positive) for positive in (1, 0)]
    expected = [*areas, accuracy_score(labels, predicted), *rates]
    assert classification_metrics(table) == pytest.approx(dict(zip(METRICS, expected, strict=True)))


def test_the_table_has_one_row_per_model_and_means_are_over_seeds():
    labels = [1, 0, 1, 0]
    perfect, half = [1, -1, 1, -1], [1, 1, -1, -1]
    models = {("best", "mri", 1, 0): perfect, ("best", "mri", 1, 1): half, ("matched", "mri", 1, 0): half}
    predictions = [table_of(labels, scores, Run(*model)) for model, scores in models.items()]
    table = classification.classification_table(pd.concat(predictions))
    accuracy = table.set_index(["selection", "pretraining", "finetune_depth", "seed"])["accuracy"].to_dict()
    assert accuracy == {model: 1.0 if scores is perfect else 0.5 for model, scores in models.items()}
    means = classification.mean_over_seeds(table).set_index("selection")
    assert means.loc["best", ["accuracy", "n_seeds"]].tolist() == [0.75, 2]
    assert means.loc["matched", ["accuracy", "n_seeds"]].tolist() == [0.5, 1]
