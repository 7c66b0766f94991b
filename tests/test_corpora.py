"""The pre-training corpora: classes, ranges, and validation images that share nothing with the training."""

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.networks import corpora
from pretrain_xai.networks.corpora import PHOTOGRAPHS, VALIDATION_SHARE, mri_corpus, natural_corpus
from pretrain_xai.paths import Paths
from pretrain_xai.study import Study, load_study
from pretrain_xai.tables import write_table


@pytest.fixture(scope="module")
def study() -> Study:
    study = load_study("tiny")
    dataset = study.dataset.model_copy(update={"image_size": 32})
    pretraining = study.pretraining.model_copy(update={"crops_per_photograph": 8})
    return study.model_copy(update={"dataset": dataset, "pretraining": pretraining})


def test_crops_of_every_photograph_are_a_class(study):
    training, validation = natural_corpus(study, seed=0)
    for part, count in ((training, 8), (validation, 2)):
        assert part.images.shape == (16 * count, 32, 32, 3)
        assert part.images.dtype == np.uint8
        assert np.bincount(part.labels).tolist() == [count] * len(PHOTOGRAPHS)
        assert (np.ptp(part.images.reshape(len(part), -1), axis=1) > 0).mean() > 0.9
    other, _ = natural_corpus(study, seed=1)
    assert not np.array_equal(other.images, training.images)


@pytest.mark.parametrize("width", [200, 255])
def test_training_and_validation_crops_share_no_column(study, monkeypatch, width):
    """Photographs whose intensity is the number of the column."""
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (120, width, 3))
    monkeypatch.setattr(corpora, "_load_photograph", lambda name: columns)
    training, validation = natural_corpus(study, seed=0)
    assert training.images.max() < round(width * (1 - VALIDATION_SHARE)) <= validation.images.min()
    assert training.images.min() < width * 0.1 and validation.images.max() > width * 0.9
    gradients = np.sign(training.images[:, 0, -1, 0].astype(int) - training.images[:, 0, 0, 0])
    assert set(gradients) == {-1, 1}, "half of the crops are mirrored"


@pytest.mark.parametrize("values", [["b", "a", "c"], [1, 0, 2]])
def test_the_mri_corpus_has_the_subjects_set_aside_and_classes_in_the_order_of_their_names(study, root, values):
    """Brains of squares, brighter from subject to subject; those of the last split are no part of it."""
    splits = ["pretraining"] * 3 + ["pretraining_validation"] * 3 + ["train"] * 3
    brains = np.zeros((9, 40, 30), np.float32)
    brains[:, 8:32, 6:24] = np.linspace(0.1, 1, 18, dtype=np.float32)
    brains[:, 8:20, 6:15] = np.linspace(0.1, 0.9, 9)[:, None, None]
    folder = Paths("tiny").slices
    write_table(pd.DataFrame({"subject": range(9), "site": values * 3, "split": splits}), folder / "slices.csv")
    np.save(folder / "slices.npy", brains)
    pretraining = study.pretraining.model_copy(update={"target": "site"})
    for part in mri_corpus(study.model_copy(update={"pretraining": pretraining}), seed=0):
        assert part.images.shape == (3, 32, 32) and part.images.dtype == np.float32 and part.images.min() == 0
        assert 0.9 * study.dataset.brain_intensity < part.images.max() <= study.dataset.brain_intensity + 1e-6
        assert part.labels.tolist() == [1, 0, 2]
        assert (np.diff(part.images[:, 10, 10]) > 0).all(), "each subject's own slice"
