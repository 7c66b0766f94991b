"""Skill: chance is 0, the best is 1, and scores become arrays on the same images."""

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.errors import UserError
from pretrain_xai.localization import chance, relevance_rank_accuracy
from pretrain_xai.skill import brain_chance, collect_skills, skill

RNG = np.random.default_rng(0)


def score_rows(seeds=(0, 1), images=(3, 5, 8)) -> pd.DataFrame:
    """Return score rows whose value says where it belongs."""
    rows = [
        (corpus, depth, seed, method, image, depth / 10 + seed / 100 + image / 1000 + (method == "lrp") / 2)
        for corpus in ("mri", "natural")
        for depth in (1, 2)
        for seed in seeds
        for method in ("saliency", "lrp")
        for image in images
    ]
    rows += [("none", 0, 0, method, image, image / 100) for method in ("saliency", "lrp", "sobel") for image in images]
    columns = ["pretraining", "finetune_depth", "seed", "method", "image_index", "value"]
    return pd.DataFrame(rows, columns=columns).assign(metric="relevance_rank_accuracy", chance=0.0)


def test_a_constant_map_has_no_skill_and_a_perfect_one_has_all():
    masks = RNG.random((6, 8, 8)) < 0.3
    for maps, expected in ((np.ones(masks.shape), 0), (masks.astype(float), 1)):
        np.testing.assert_allclose(skill(relevance_rank_accuracy(maps, masks), chance(masks)), expected, atol=1e-12)
    assert np.isnan(skill(1.0, 1.0)), "nothing can be better than a chance of 1"


def test_chance_of_the_brain_is_what_a_random_map_within_it_scores():
    images = np.zeros((2, 10, 10))
    images[:, 2:8, 2:8] = 0.5
    masks = np.zeros((2, 10, 10), bool)
    masks[:, 3:6, 3:5] = True
    np.testing.assert_allclose(brain_chance(images, masks, [0, 1]), 6 / 36)
    random = (images > 0) * (1 + RNG.random((2000, 10, 10)))[:, None]
    scores = [relevance_rank_accuracy(maps, masks) for maps in random]
    assert np.mean(scores) == pytest.approx(6 / 36, abs=0.01)


def test_scores_stand_at_their_network_method_and_image():
    skills = collect_skills(score_rows().sample(frac=1, random_state=0), ["saliency", "lrp"], ["natural", "mri"])
    assert skills.values.shape == (8, 2, 3)
    assert skills.corpora == ["natural", "mri"]
    for row, network in enumerate(skills.networks.itertuples()):
        expected = network.finetune_depth / 10 + network.seed / 100 + np.array([3, 5, 8]) / 1000
        np.testing.assert_allclose(skills.values[row, 0], expected)
        np.testing.assert_allclose(skills.values[row, 1], expected + 0.5)
    assert set(skills.references) == {"sobel", "untrained"}
    np.testing.assert_allclose(skills.references["sobel"], np.tile([0.03, 0.05, 0.08], (2, 1)))
    assert skills.n_seeds == 2
    means = skills.network_means().set_index(["pretraining", "finetune_depth", "seed", "method"])["skill"]
    assert means["mri", 2, 1, "lrp"] == pytest.approx(0.2 + 0.01 + 16 / 3000 + 0.5)


def test_an_image_without_a_value_is_left_out_for_all():
    rows = score_rows()
    rows.loc[(rows["image_index"] == 5) & (rows["seed"] == 1) & (rows["method"] == "lrp"), "value"] = np.nan
    skills = collect_skills(rows, ["saliency", "lrp"], ["natural", "mri"])
    assert skills.images["image_index"].tolist() == [3, 8]


def test_images_of_one_subject_are_one_cluster():
    images = pd.DataFrame({"image_index": [3, 5, 8], "subject": ["b", "a", "b"]})
    assert collect_skills(score_rows(), ["lrp"], ["natural", "mri"], images).clusters.tolist() == [0, 1, 0]
    assert collect_skills(score_rows(), ["lrp"], ["natural", "mri"]).clusters.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda rows: rows.assign(metric=np.where(rows["seed"] == 0, "a", "b")), "one metric"),
        (lambda rows: rows.assign(chance=np.nan), "chance level"),
        (lambda rows: rows.drop(rows.index[0]), "different images"),
    ],
)
def test_scores_that_cannot_be_compared_are_named(spoil, word):
    with pytest.raises(UserError, match=word):
        collect_skills(spoil(score_rows()), ["saliency", "lrp"], ["natural", "mri"])
