"""Weighted numbers of all resamples at once, beside those of images repeated one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_xai.statistics import resampling
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score

SAMPLES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-3, 3), min_size=n, max_size=n),
        st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=n, max_size=n),
    )
)


@settings(max_examples=100)
@given(SAMPLES)
def test_weights_repeat_images(sample):
    values, weights = np.array(sample[0], float), np.array(sample[1], float)
    medians, means = resampling.weighted_median(values, weights), resampling.weighted_mean(values, weights)
    for column, counts in enumerate(weights.T):
        repeated = np.repeat(values, counts.astype(int))
        if len(repeated):
            assert medians[column] == np.median(repeated)
            assert means[column] == pytest.approx(repeated.mean())
        else:
            assert np.isnan(medians[column]) and np.isnan(means[column])


def test_column_0_is_the_sample_and_the_others_draw_as_many_subjects():
    weights = resampling.subject_weights(["b", "a", "b", "c"], 500, seed=1)
    assert list(weights.index) == ["a", "b", "c"]
    assert (weights[0] == 1).all()
    assert (weights.sum() == 3).all()
    assert weights.loc[:, 1:].to_numpy().mean() == 1
    assert 0.55 < weights.loc[:, 1:].to_numpy().var() < 0.78  # multinomial: 3 * 1/3 * 2/3
    assert weights.equals(resampling.subject_weights(["c", "b", "a"], 500, seed=1))
    assert not weights.equals(resampling.subject_weights(["c", "b", "a"], 500, seed=2))


@pytest.mark.parametrize("decimals", [0, 8])
def test_classification_metrics_are_those_of_scikit_learn(decimals):
    rng = np.random.default_rng(decimals)
    label, score = np.arange(40) % 2, rng.normal(size=40).round(decimals)
    predicted = (score + rng.normal(size=40) > 0).astype(int)
    weights = rng.integers(0, 4, (40, 6)).astype(float)
    metrics = resampling.weighted_classification(label, predicted, score, weights)
    for column, weight in enumerate(weights.T):
        repeated = np.repeat(np.arange(40), weight.astype(int))
        y, p, s = label[repeated], predicted[repeated], score[repeated]
        assert metrics["auroc"][column] == pytest.approx(roc_auc_score(y, s))
        assert metrics["auprc"][column] == pytest.approx(average_precision_score(y, s))
        assert metrics["accuracy"][column] == pytest.approx(np.mean(y == p))
        assert metrics["sensitivity"][column] == pytest.approx(np.mean(p[y == 1]))
        assert metrics["specificity"][column] == pytest.approx(1 - np.mean(p[y == 0]))


@pytest.mark.parametrize("high", [3, 1000])
def test_kendall_tau_is_scipys(high):
    first, second = np.random.default_rng(high).integers(0, high, (2, 8, 5)).astype(float)
    expected = [kendalltau(a, b).statistic for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(resampling.kendall_tau(first, second), expected)


def test_a_pair_of_constants_has_no_ranking():
    assert np.isnan(resampling.kendall_tau(np.ones((4, 1)), np.arange(4.0)[:, None]))
