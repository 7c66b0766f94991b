"""The image lists: right for all models, wrong for one, wrong for all, against literal sets."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_xai import selection as lists
from pretrain_xai.errors import UserError
from pretrain_xai.selection import CORRECT_FOR_ALL, WRONG_FOR_ALL, explained_images, find_intersections, image_list
from pretrain_xai.study import MODEL_COLUMNS, Run
from pretrain_xai.tables import read_table, write_table

RUNS = [Run("best", "mri", 1, 0), Run("best", "mri", 5, 0), Run("best", "natural", 1, 116560000)]


def predictions_of(wrong: dict[Run, set[int]], n_images: int) -> pd.DataFrame:
    """Return predictions of images labelled 0, 1, 0, 1 ..., wrong where it says."""
    rows = [
        (*dataclasses.astuple(run), image, image % 2, (image + (image in images)) % 2)
        for run, images in wrong.items()
        for image in range(n_images)
    ]
    return pd.DataFrame(rows, columns=[*MODEL_COLUMNS, "image_index", "label", "predicted"])


@pytest.fixture
def three_models() -> pd.DataFrame:
    """Of 8 images: 0, 3, 4, 7 right for all; 6 wrong for all."""
    return find_intersections(predictions_of(dict(zip(RUNS, [{1, 6}, {1, 2, 6}, {5, 6}], strict=True)), 8))


def test_the_lists_survive_a_csv_file(three_models, tmp_path):
    write_table(three_models, tmp_path / "intersections.csv")
    read = read_table(tmp_path / "intersections.csv")
    assert image_list(read, "best", WRONG_FOR_ALL).tolist() == [6]
    for run in RUNS:
        assert explained_images(read, run, None, 0).tolist() == explained_images(three_models, run, None, 0).tolist()


def test_selections_do_not_mix():
    """Tables hold selections as categories, of which some may have no rows."""
    predictions = predictions_of({RUNS[0]: {0}, Run("matched", "mri", 1, 0): {1}}, 3)
    table = find_intersections(predictions.astype({"selection": pd.CategoricalDtype(["best", "matched", "other"])}))
    found = [image_list(table, selection, CORRECT_FOR_ALL).tolist() for selection in ("best", "matched", "other")]
    assert found == [[1, 2], [0, 2], []]


def test_models_that_saw_different_images_can_not_be_intersected():
    # an image twice for one model and never for another: each has as many predictions as there are models
    predictions = predictions_of({RUNS[0]: set(), RUNS[1]: {0}}, 3)
    twice = predictions.drop(index=3)  # image 0 of the second model
    twice = pd.concat([twice, twice[:1].assign(predicted=1)], ignore_index=True)
    assert (twice.groupby("image_index").size() == 2).all()
    for table in (predictions[:-1], twice):
        with pytest.raises(ValueError, match=r"'best'.*predicted different images"):
            find_intersections(table)


def test_the_lists_of_an_empty_file_are_whole_numbers_too(tmp_path):
    """They become indices of arrays; pandas reads a column without values as one of objects."""
    table = find_intersections(predictions_of({RUNS[0]: set()}, 3))
    write_table(table[:0], tmp_path / "empty.csv")
    images = image_list(read_table(tmp_path / "empty.csv"), "best", CORRECT_FOR_ALL)
    assert images.dtype == np.int64 and np.arange(3)[images].tolist() == []


@settings(max_examples=40)
@given(st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_intersections_are_those_of_sets(wrong, random):
    runs = [Run("best", "mri", depth, 0) for depth in range(1, len(wrong) + 1)]
    predictions = predictions_of(dict(zip(runs, wrong, strict=True)), 10)
    rows = list(range(len(predictions)))
    random.shuffle(rows)
    table = find_intersections(predictions.iloc[rows])
    assert set(image_list(table, "best", CORRECT_FOR_ALL)) == set(range(10)) - set.union(*wrong)
    assert set(image_list(table, "best", WRONG_FOR_ALL)) == set.intersection(*wrong)
    for run, images in zip(runs, wrong, strict=True):
        assert image_list(table, "best", lists.WRONG_FOR_ONE, run).tolist() == sorted(images)
    pd.testing.assert_frame_equal(table, find_intersections(predictions))
    assert table.index.tolist() == list(range(len(table)))


def test_scores_are_kept_for_the_images_of_a_list(three_models):
    scores = pd.DataFrame({"image_index": [7, 6, 0, 1, 7], "value": range(5)})
    assert lists.scored_on(scores, three_models, "best", CORRECT_FOR_ALL)["value"].tolist() == [0, 2, 4]


def test_explained_images_are_the_common_ones_and_the_models_own_errors(three_models):
    assert explained_images(three_models, RUNS[1], None, 0).tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert explained_images(three_models, Run("best", "none", 0, 0), None, 0).tolist() == [0, 3, 4, 7]
    assert explained_images(three_models, RUNS[1], None, 0, misclassified=False).tolist() == [0, 3, 4, 7]


@settings(max_examples=40)
@given(max_images=st.integers(1, 25), seed=st.integers(0, 5))
def test_the_sample_of_common_images_is_the_same_for_all_models(max_images, seed):
    wrong = dict(zip(RUNS, [set(range(20, 24)), set(range(20, 40)), {39}], strict=True))
    table = find_intersections(predictions_of(wrong, 40))
    samples = []
    for run in [*RUNS, Run("best", "none", 0, 0)]:
        images = explained_images(table, run, max_images, seed)
        assert images.tolist() == sorted(set(images.tolist()))
        samples.append([image for image in images if image < 20])
        own = [image for image in images if image >= 20]
        assert set(own) <= wrong.get(run, set())
        assert len(own) == min(max_images, len(wrong.get(run, set())))
    assert all(sample == samples[0] for sample in samples)
    assert len(samples[0]) == min(max_images, 20)


def test_lists_that_overlap_give_samples_that_overlap():
    """A study and its variant, whose models get other images wrong, are compared on the images that both sampled."""
    one, other = (find_intersections(predictions_of({RUNS[0]: wrong}, 100)) for wrong in ({0, 5, 7}, {3, 5, 90}))
    samples = [
        set(explained_images(of, RUNS[0], 60, s, misclassified=False)) for of, s in ((one, 0), (other, 0), (other, 1))
    ]
    assert len(samples[0] & samples[1]) >= 57
    assert samples[1] != samples[2], "another seed, another sample"


@pytest.mark.parametrize("seed", range(5))
def test_example_images_alternate_however_the_classes_lie_and_are_drawn(seed):
    labels = np.array([0] * 10 + [1] * 3)
    table = find_intersections(predictions_of({RUNS[0]: {11}}, 13))
    examples = lists.example_images(table, "best", labels, count=9, seed=seed)
    right = examples.loc[examples["correct"], "image_index"].to_numpy()
    assert labels[right].tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0], "of a class until it has no more"
    assert len(set(right)) == 9
    assert examples.index.tolist() == list(range(10))
    pd.testing.assert_frame_equal(examples, lists.example_images(table, "best", labels, count=9, seed=seed))
    assert not examples.equals(lists.example_images(table, "best", labels, count=9, seed=seed + 1))


def test_example_images_that_models_get_wrong_are_those_that_most_get_wrong(three_models):
    examples = lists.example_images(three_models, "best", np.arange(8) % 2, count=3, seed=0)
    assert examples.columns.tolist() == ["image_index", "n_wrong", "correct"]
    wrong = examples[~examples["correct"]]
    assert wrong["image_index"].tolist() == [6, 1, 2]
    assert examples["n_wrong"].tolist() == [0, 0, 0, 3, 2, 1]
    assert set(examples.loc[examples["correct"], "image_index"]) < {0, 3, 4, 7}
    perfect = find_intersections(predictions_of({RUNS[0]: set()}, 4))
    assert lists.example_images(perfect, "best", np.arange(4) % 2, count=2, seed=1)["correct"].tolist() == [True, True]


def test_without_an_image_that_all_get_right_nothing_is_explained():
    table = find_intersections(predictions_of({RUNS[0]: {0, 1}, RUNS[1]: {2, 3}}, 4))
    with pytest.raises(UserError, match="selection 'best': no image"):
        explained_images(table, RUNS[0], None, 0)
    with pytest.raises(UserError, match="selection 'best': no image"):
        lists.example_images(table, "best", np.arange(4) % 2, count=2, seed=0)


def test_an_example_image_is_of_one_kind():
    """An image that all matched models get right may be wrong for one that is apart."""
    table = find_intersections(predictions_of({RUNS[0]: {1}, RUNS[1]: {2, 3}}, 8), apart=[RUNS[1]])
    examples = lists.example_images(table, "best", np.arange(8) % 2, count=8, seed=0)
    assert examples["image_index"].is_unique
    assert set(examples.loc[examples["correct"], "image_index"]) == {0, 2, 3, 4, 5, 6, 7}
    assert examples.loc[~examples["correct"], "image_index"].tolist() == [1]


def test_models_apart_do_not_count_for_the_common_lists_but_keep_their_own(three_models):
    wrong = dict(zip(RUNS, [{1, 6}, {1, 2, 6}, {0, 5, 6}], strict=True))
    table = find_intersections(predictions_of(wrong, 8), apart=[RUNS[2]])
    assert image_list(table, "best", CORRECT_FOR_ALL).tolist() == [0, 3, 4, 5, 7]
    assert image_list(table, "best", WRONG_FOR_ALL).tolist() == [1, 6]
    assert image_list(table, "best", lists.WRONG_FOR_ONE, RUNS[2]).tolist() == [0, 5, 6]
    assert explained_images(table, RUNS[2], None, 0).tolist() == [0, 3, 4, 5, 6, 7], "each once"
    for seed in range(5):
        explained = [set(explained_images(table, run, 2, seed)) & {0, 3, 4, 5, 7} for run in RUNS]
        assert explained[0] == explained[1] == explained[2], "all are scored on the same common images"
    everyone = find_intersections(predictions_of({RUNS[0]: {0}, RUNS[1]: {0, 1}}, 3), apart=RUNS)
    assert image_list(everyone, "best", CORRECT_FOR_ALL).tolist() == [0, 1, 2]
    assert image_list(everyone, "best", WRONG_FOR_ALL).tolist() == []
