"""Figures draw the numbers that they are given: the data in the artists, never pixels."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from pretrain_xai import names, paths
from pretrain_xai.drawing import boxplots, figures
from pretrain_xai.drawing.previews import heatmap_figure
from pretrain_xai.running.stages import STAGES
from pretrain_xai.study import CLASSES

CORPORA = ["natural", "mri"]


def scores(methods=("saliency", "lrp")) -> pd.DataFrame:
    """Return scores whose medians are known: (depth + corpus / 10) / 10, and comparison maps at 0.01."""
    rows = []
    for method in methods:
        rows.append(("none", 0, method, 0.05))
        for depth in (1, 2, 3, 4, 5):
            rows += [(corpus, depth, method, depth / 10 + number / 100) for number, corpus in enumerate(CORPORA)]
    rows += [("none", 0, name, 0.01) for name in ("sobel", "laplace", "intensity")]
    centre = pd.DataFrame(rows, columns=["pretraining", "finetune_depth", "method", "value"])
    spread = [centre.assign(value=centre["value"] + shift) for shift in (-0.005, 0.0, 0.005)]
    return pd.concat(spread, ignore_index=True).assign(chance=0.03)


def medians(ax) -> list[float]:
    """Return the heights of the median lines, from left to right."""
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.1]
    return [line.get_ydata()[0] for line in sorted(lines, key=lambda line: line.get_xdata()[0])]


def test_boxes_stand_in_the_order_of_the_paper_with_their_medians():
    _, ax = plt.subplots()
    shown = scores(["saliency"])
    accuracy = pd.DataFrame({"pretraining": ["natural", "mri"], "finetune_depth": [1, 5], "accuracy": [0.7, 0.9]})
    boxplots.plot_score_boxes(ax, shown, CORPORA, accuracy)
    (diamonds,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert (list(diamonds.get_ydata()), diamonds.get_linestyle()) == ([0.7, 0.9], "None")
    expected = [0.01, 0.01, 0.01, 0.05] + [depth / 10 + corpus / 100 for depth in range(1, 6) for corpus in (0, 1)]
    np.testing.assert_allclose(medians(ax), expected)
    assert any(np.allclose(line.get_ydata(), 0.03) and line.get_linestyle() != "-" for line in ax.lines), "chance"
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels == ["Sobel", "Laplace", "intensity", "untrained", "1", "2", "3", "4", "5"]


def test_a_panel_per_method_with_one_legend():
    figure = boxplots.boxplot_figure(scores(), ["saliency", "lrp"], CORPORA, ylabel="score")
    assert [ax.get_title() for ax in figure.axes] == ["Saliency", "LRP"]
    assert len(figure.legends) == 1
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["photographs", "MRI (sex)", "untrained network", "comparison maps", "chance"]


def test_mri_is_called_by_what_it_teaches_to_tell(monkeypatch):
    monkeypatch.setattr(names, "_LABELS", dict(names._LABELS))
    assert names.label("mri") == "MRI (sex)"
    figures.use_style("first_diagnosis")
    figure = boxplots.boxplot_figure(scores(), ["saliency"], CORPORA, ylabel="score")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["photographs", "MRI (first diagnosis)"]
    assert names.label("mri", "age_group") == "MRI (age group)" and names.label("mri") == "MRI (first diagnosis)"
    figures.use_style()
    assert names.label("mri") == "MRI (sex)"


def test_notebooks_that_draw_corpora_call_them_as_the_study_does():
    drawing = {name for name, stage in STAGES.items() if stage.draws and "pretraining.corpora" in stage.settings}
    code = {name: (paths.NOTEBOOKS / f"{name}.py").read_text() for name in drawing}
    assert "10_boxplots" in drawing
    assert [name for name in drawing if "figures.use_style(config.pretraining.target)\n" not in code[name]] == []


def test_box_data_are_the_numbers_that_are_drawn():
    table = boxplots.score_box_data(scores(["saliency"])).set_index(["pretraining", "finetune_depth", "method"])
    assert table.loc[("mri", 4, "saliency"), "median"] == pytest.approx(0.41)
    assert table.loc[("mri", 4, "saliency"), "n"] == 3
    assert (table["mean_chance"] == 0.03).all()


def test_a_study_without_misclassified_images_has_an_empty_figure_and_table():
    """Such as one with `attribution.misclassified: false`."""
    nothing = scores(["saliency"]).iloc[:0]
    assert boxplots.boxplot_figure(nothing, ["saliency"], ["natural", "mri"], ylabel="TPR").axes
    assert list(boxplots.score_box_data(nothing)) == list(boxplots.score_box_data(scores(["saliency"])))
    assert len(boxplots.score_box_data(nothing)) == 0


def test_classification_markers_have_the_values_of_the_table():
    table = pd.DataFrame(
        {"pretraining": ["natural"] * 2 + ["mri"], "finetune_depth": [1, 2, 1], "accuracy": [0.6, 0.7, 0.1]}
    )
    (ax,) = boxplots.classification_figure(table, CORPORA, ["accuracy"]).axes
    assert [list(line.get_ydata()) for line in ax.lines if line.get_marker() in ("o", "s")] == [[0.6, 0.7], [0.1]]
    assert ax.get_ylim()[0] < 0.1, "no marker is cut off"


def test_heatmaps_show_each_map_and_its_score():
    image = np.random.default_rng(0).random((8, 8))
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    maps = pd.DataFrame(
        [
            {"title": f"depth {depth}", "method": method, "map": np.full((8, 8), depth + number), "score": depth / 10}
            for depth in (1, 2)
            for number, method in enumerate(("saliency", "lrp"))
        ]
    )
    figure = heatmap_figure(image, mask, maps, ["saliency", "lrp"])
    axes = np.reshape(figure.axes, (2, 3))
    np.testing.assert_array_equal(axes[0, 0].images[0].get_array(), image)
    np.testing.assert_array_equal(axes[1, 2].images[0].get_array(), np.full((8, 8), 3))
    assert [text.get_text() for text in axes[0, 2].texts] == ["0.20"]


def test_the_mean_over_methods_is_shown_by_class():
    table = scores().assign(seed=0, image_index=0, label=0)
    both = pd.concat([table, table.assign(image_index=1, label=1, value=table["value"] / 2)])
    both.loc[both["method"] == "lrp", "value"] += 0.1
    means = boxplots.mean_by_class(both, ["saliency", "lrp"])
    figure = boxplots.boxplot_figure(means, CLASSES, CORPORA, ylabel="TPR")
    assert [ax.get_title() for ax in figure.axes] == ["round lesions", "irregular lesions"]
    expected = [depth / 10 + number / 100 + 0.05 for depth in (1, 2, 3, 4, 5) for number in (0, 1)]
    assert medians(figure.axes[0]) == pytest.approx(expected)
    assert medians(figure.axes[1]) == pytest.approx([(value - 0.05) / 2 + 0.05 for value in expected])
    data = boxplots.score_box_data(means).set_index(["method", "pretraining", "finetune_depth"])
    assert data.loc[("irregular", "mri", 4), "median"] == pytest.approx(0.41 / 2 + 0.05)
