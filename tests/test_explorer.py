"""The explorer: what it says of images and maps is what the study says."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgba
from pretrain_xai.errors import UserError
from pretrain_xai.explorer.data import IMAGES, ORDERS, RANK_ACCURACY, Choice, Explorer
from pretrain_xai.explorer.view import FALSE_ALARM, HIT, MISS, ExplorerControls, explorer_figure, hits_and_misses
from pretrain_xai.localization import confusion_counts
from pretrain_xai.paths import Paths
from pretrain_xai.study import MODEL_COLUMNS
from pretrain_xai.tables import read_arrays, read_predictions, read_scores

METHODS = ("integrated_gradients", "gradient_shap", "lrp")


@pytest.fixture
def explorer(tiny):
    return Explorer(tiny, "best")


def choice_of(explorer, methods=METHODS, image=None):
    runs = explorer.deepest
    return Choice(explorer.kept_images(runs)[0] if image is None else image, tuple(runs), tuple(methods))


def image_without_maps(explorer):
    kept = set(explorer.kept_images(choice_of(explorer).runs))
    return next(image for image in range(len(explorer.test)) if image not in kept)


small_maps = arrays(np.float64, (4, 5), elements=st.integers(0, 4).map(float))
small_masks = arrays(np.bool_, (4, 5)).filter(np.any)


@given(small_maps, small_masks)
def test_coloured_pixels_are_the_strict_counts(heatmap, mask):
    counts = confusion_counts(heatmap[None], mask[None], ties="strict")
    colours = hits_and_misses(heatmap, mask)
    shown = [(colours == to_rgba(colour)).all(axis=-1).sum() for colour in (HIT, FALSE_ALARM, MISS)]
    assert shown == [count[0] for count in counts[:3]]


def test_the_table_has_the_numbers_that_the_study_wrote(explorer, tiny):
    written = read_scores(tiny).query("metric == @RANK_ACCURACY").astype({"selection": str, "pretraining": str})
    images = explorer.images(choice_of(explorer).runs, METHODS, "scored", "image number")["image_index"]
    tables = pd.concat(explorer.table(choice_of(explorer, image=image)) for image in images)
    both = tables.merge(written, on=[*MODEL_COLUMNS, "method", "image_index"], suffixes=("", "_written"))
    assert len(both) > len(METHODS)
    np.testing.assert_allclose(both[RANK_ACCURACY], both["value"], atol=1e-12)
    np.testing.assert_allclose(both[f"{RANK_ACCURACY}_chance"], both["chance"])


def test_a_computed_map_equals_the_kept_one_to_the_bit_and_has_a_sign(explorer, tiny):
    choice = choice_of(explorer)
    kept = explorer.heatmaps(choice)
    assert explorer.missing(choice, signed=False) == []
    assert len(explorer.missing(choice, signed=True)) == len(kept)
    told = []
    explorer.compute(choice, signed=True, say=told.append)
    assert [words.rpartition(" of ")[2] for words in told] == list(map(explorer.run_name, explorer.deepest))
    for key, heatmap in explorer.heatmaps(choice).items():
        np.testing.assert_array_equal(heatmap.absolute, kept[key].absolute)
        np.testing.assert_array_equal(np.abs(heatmap.signed), heatmap.absolute)
        assert (heatmap.signed < 0).any()
    assert explorer.missing(choice, signed=True) == []


def test_maps_of_an_image_or_method_that_was_not_run_are_computed(explorer):
    choice = choice_of(explorer, methods=("saliency", "smooth_grad"), image=image_without_maps(explorer))
    assert len(explorer.missing(choice, signed=False)) == 4
    before = explorer.table(choice)
    assert before.loc[before["method"] == "smooth_grad", RANK_ACCURACY].isna().all()
    explorer.compute(choice, signed=False, say=lambda words: None)
    assert explorer.table(choice)[RANK_ACCURACY].between(0, 1).all()


@pytest.mark.parametrize("order", ORDERS)
def test_images_are_sorted_by_what_a_slow_loop_finds(explorer, tiny, order):
    runs = choice_of(explorer).runs
    table = explorer.images(runs, METHODS, "scored", order)
    for row in table.itertuples():
        known = [ranks for run in runs if row.image_index in (ranks := explorer.rank_accuracies(run)).index]
        means = [np.mean([ranks.loc[row.image_index, method] for ranks in known]) for method in METHODS]
        assert row.score == pytest.approx(np.mean(means))
        assert row.disagreement == pytest.approx(max(means) - min(means))
    column, ascending = ORDERS[order]
    assert table[column].is_monotonic_increasing if ascending else table[column].is_monotonic_decreasing
    assert table["image_index"].is_unique


def test_lists_of_images(explorer, tiny):
    runs = choice_of(explorer).runs
    lists = {listed: set(explorer.images(runs, METHODS, listed, "image number")["image_index"]) for listed in IMAGES}
    assert lists["whole test set"] == set(range(len(explorer.test)))
    kept = read_arrays(Paths(tiny).example_maps / f"{runs[0].name}.npz")["image_index"]
    assert lists["with kept maps"] == set(kept.tolist())
    predictions = read_predictions(tiny, runs).query("split == 'test' and label != predicted")
    assert lists["wrong for a network"] == set(predictions["image_index"])
    assert lists["with kept maps"] <= lists["scored"]


def test_networks_of_a_selection_and_the_untrained_one(explorer):
    assert [run.name for run in explorer.deepest] == ["best-natural-depth5-seed0", "best-mri-depth5-seed0"]
    assert [explorer.run_name(run) for run in explorer.runs] == [
        *("photographs, depth 1", "photographs, depth 5", "MRI (sex), depth 1", "MRI (sex), depth 5"),
        "untrained network",
    ]
    assert explorer.predictions(explorer.runs[-1]).empty


def test_the_figure_shows_the_maps_and_the_scores_that_it_is_given(explorer):
    choice = choice_of(explorer)
    figure, table = explorer_figure(explorer, choice, "map", 1.0)
    maps = list(explorer.heatmaps(choice).values())
    titles = [ax.get_title() for ax in figure.axes]
    drawn = [image.get_array() for ax in figure.axes for image in ax.get_images()]
    for heatmap, value in zip(maps, table[RANK_ACCURACY], strict=True):
        assert any(array.shape == heatmap.absolute.shape and (array == heatmap.absolute).all() for array in drawn)
        assert any(title.endswith(f"\n{value:.2f}") for title in titles)


@pytest.fixture
def controls(explorer):
    return ExplorerControls(explorer)


def test_matched_models_are_looked_at_like_any_other(tiny):
    controls = ExplorerControls(Explorer(tiny, "matched"))
    assert controls.picture.value and {run.selection for run in controls.choice().runs} == {"matched"}


def test_a_study_that_was_not_run_says_what_to_do(root):
    """As on a fresh clone: the cell's one line, not an error of the menus."""
    with pytest.raises(UserError, match="make demo"):
        Explorer("demo", "best")


def test_a_changed_menu_changes_the_picture(controls):
    seen = {controls.picture.value}
    changes = [(controls.image, "index", 1 - controls.image.index), (controls.mode, "value", "hits and misses")]
    changes += [(controls.strength, "value", 0.2), (controls.methods, "value", ("saliency",))]
    for menu, trait, value in [*changes, (controls.networks, "index", (2, 4))]:
        setattr(menu, trait, value)
        seen.add(controls.picture.value)
    assert len(seen) == 6
    assert 'alt="Test image' in controls.picture.value
    assert "Saliency" in controls.numbers.value


def test_the_image_stays_when_the_list_is_sorted_anew(controls):
    controls.listed.value = "whole test set"
    controls.image.value = image = controls.image.options[3][1]
    controls.order.value = "highest score"
    assert controls.image.value == image


def test_missing_maps_are_computed_when_asked_for(controls):
    controls.mode.value = "signed map"
    assert controls.compute.description == "compute 6 maps"
    before = controls.picture.value
    shown = []
    controls.status.observe(lambda change: shown.append(change["new"]), "value")
    controls.compute.click()
    assert controls.picture.value != before
    assert controls.compute.disabled
    assert any("Integrated Gradients" in words and "photographs, depth 5" in words for words in shown)


def test_no_maps_and_too_many_are_refused(controls):
    assert "smooth_grad" in dict(controls.methods.options).values(), "methods that were not run are listed, too"
    for index in ((), tuple(range(len(controls.networks.options)))):
        controls.networks.index = index
        controls.methods.index = tuple(range(len(controls.methods.options)))
        assert "choose 1 to 48" in controls.status.value
        assert controls.picture.value == ""


def test_the_view_is_exported_with_its_numbers(controls, tiny):
    controls.file_name.value = "../elsewhere"
    controls.export.click()
    assert "letters, digits" in controls.status.value
    controls.file_name.value = "explore_test"
    controls.export.click()
    assert "explore_test.png" in controls.status.value
    base = Paths(tiny).figures / "explore_test"
    assert all(base.with_suffix(suffix).stat().st_size for suffix in (".pdf", ".png", ".json"))
    written = pd.read_csv(base.with_suffix(".csv"))
    pd.testing.assert_frame_equal(written, controls.explorer.table(controls.choice()), check_dtype=False)
    for suffix in (".pdf", ".png", ".csv", ".json"):
        base.with_suffix(suffix).unlink()
