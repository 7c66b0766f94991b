"""The pre-training corpora: classes, ranges, and validation images that share nothing with the training."""

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.networks import corpora
from pretrain_xai.networks.corpora import PHOTOGRAPHS, VALIDATION_SHARE, mri_corpus, natural_corpus
from pretrain_xai.paths import Paths
from pretrain_xai.slices.store import write_slices
from pretrain_xai.study import Study, load_study

SPLITS = {"pretraining": 3, "pretraining_validation": 2, "train": 2}


@pytest.fixture(scope="module")
def study() -> Study:
    study = load_study("tiny")
    dataset = study.dataset.model_copy(update={"image_size": 32})
    pretraining = study.pretraining.model_copy(update={"crops_per_photograph": 8})
    return study.model_copy(update={"dataset": dataset, "pretraining": pretraining})


@pytest.fixture
def slices_folder(root):
    """Write slices of 40 x 30 pixels: a square brain whose intensity numbers the subject; men in odd rows."""
    subjects = [(split, number) for split, count in SPLITS.items() for number in range(count)]

    def cohort():
        for row, (split, number) in enumerate(subjects):
            brain = np.zeros((1, 40, 30), np.float32)
            brain[:, 8:32, 6:24] = np.linspace(0.1, 1, 18, dtype=np.float32)
            brain[:, 8:20, 6:15] = (row + 1) / 10
            yield brain, pd.DataFrame({"subject": [f"{split}{number}"], "sex": ["FM"[row % 2]], "split": [split]})

    write_slices(Paths("tiny").slices, cohort())


def test_crops_of_every_photograph_are_a_class(study):
    training, validation = natural_corpus(study)
    for part, count in ((training, 8), (validation, 2)):
        assert part.images.shape == (16 * count, 32, 32, 3)
        assert part.images.dtype == np.uint8
        assert np.bincount(part.labels).tolist() == [count] * len(PHOTOGRAPHS)
        assert (np.ptp(part.images.reshape(len(part), -1), axis=1) > 0).mean() > 0.9
    pretraining = study.pretraining.model_copy(update={"seed": 1})
    other, _ = natural_corpus(study.model_copy(update={"pretraining": pretraining}))
    assert not np.array_equal(other.images, training.images)


@pytest.mark.parametrize("width", [200, 255])
def test_training_and_validation_crops_share_no_column(study, monkeypatch, width):
    """Photographs whose intensity is the number of the column."""
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None], (120, width, 3))
    monkeypatch.setattr(corpora, "_load_photograph", lambda name: columns)
    training, validation = natural_corpus(study)
    assert training.images.max() < round(width * (1 - VALIDATION_SHARE)) <= validation.images.min()
    assert training.images.min() < width * 0.1 and validation.images.max() > width * 0.9
    gradients = np.sign(training.images[:, 0, -1, 0].astype(int) - training.images[:, 0, 0, 0])
    assert set(gradients) == {-1, 1}, "half of the crops are mirrored"


def test_the_mri_corpus_has_the_subjects_set_aside_and_their_sex(study, slices_folder):
    training, validation = mri_corpus(study)
    assert training.images.shape == (3, 32, 32) and validation.images.shape == (2, 32, 32)
    assert training.images.dtype == np.float32
    assert training.labels.tolist() == [0, 1, 0] and validation.labels.tolist() == [1, 0]
    for images in (training.images, validation.images):
        assert images.min() == 0
        assert 0.9 * study.dataset.brain_intensity < images.max() <= study.dataset.brain_intensity + 1e-6
    first, second = (images[10, 10] for images in training.images[:2])
    assert first < second, "each subject's own slice"


def test_classes_are_the_values_of_the_target_in_the_order_of_their_names(study, root):
    """Numbers as well as words; here the classes are in both parts."""
    for values, labels in ((["b", "a", "c"], [1, 0, 2]), ([1, 0, 2], [1, 0, 2])):
        splits = ["pretraining"] * 3 + ["pretraining_validation"] * 3
        rows = pd.DataFrame({"subject": range(6), "site": values * 2, "split": splits})
        write_slices(Paths("tiny").slices, [(np.random.default_rng(0).random((6, 40, 30), np.float32), rows)])
        pretraining = study.pretraining.model_copy(update={"target": "site"})
        parts = mri_corpus(study.model_copy(update={"pretraining": pretraining}))
        assert [part.labels.tolist() for part in parts] == [labels, labels]
