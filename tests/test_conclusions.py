"""What the comparison of protocols says, and draws, from built tables."""

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from pretrain_xai.drawing.heat_tables import plot_protocols, protocols_figure
from pretrain_xai.statistics.protocol_effects import conclusions


def effect_rows(*rows: tuple) -> pd.DataFrame:
    """Return rows (switch, effect, quantity, corrected, difference, verdict, below_floor); `none` has no other side."""
    columns = ["switch", "effect", "quantity", "corrected", "difference", "verdict", "below_floor"]
    table = pd.DataFrame(rows, columns=columns).assign(floor=0.02)
    retrained = table["switch"].isin(["lesion_floor", "head_kept", "published"])
    return table.assign(switched=table["corrected"] + table["difference"], retrained=retrained)


MEANS = (
    ("mask_threshold", "mean", "all_methods", 0.3, 0.08, "raises", False),
    ("channel_reduction", "mean", "all_methods", 0.3, 0.01, "raises", True),
    ("ties", "mean", "all_methods", 0.3, 0.0, "unchanged", True),
    ("lesion_floor", "mean", "all_methods", 0.3, -0.15, "lowers", False),
    ("head_kept", "mean", "all_methods", 0.3, 0.017, "undecided", True),
)


def test_changes_are_told_with_their_verdicts():
    rescored, retrained, *_ = conclusions(effect_rows(*MEANS))
    assert "raised by mask threshold (+0.080) and channel reduction (+0.010, less than retraining may)" in rescored
    assert rescored.startswith("The methods' mean score") and rescored.endswith("; the same with ties.")
    assert "lowered by lesion floor (-0.150); undecided with head kept." in retrained


@pytest.mark.parametrize(
    ("own", "published", "words"),
    [
        ((0.1, "raises"), (-0.02, "undecided"), " stays in the estimate (+0.080; the change is undecided)."),
        ((-0.1, "lowers"), (-0.2, "lowers"), "lower scores than on photographs (-0.100); with all switches as"),
        ((0.1, "raises"), (-0.2, "lowers"), "it turns round in the estimate (-0.100; a decided change)."),
        ((0.1, "raises"), (-0.1, "undecided"), "it vanishes in the estimate (+0.000; the change is undecided)."),
        ((0.01, "undecided"), (-0.2, "lowers"), "can't tell whether pre-training on MRI gives higher scores"),
    ],
)
def test_a_claim_stays_turns_round_or_can_not_be_told(own, published, words):
    table = effect_rows(
        ("none", "corpus", "all_methods", own[0], own[0], own[1], False),
        ("published", "corpus", "all_methods", own[0], *published, False),
    )
    (claim,) = [sentence for sentence in conclusions(table) if "pre-training on MRI" in sentence]
    assert words in claim
    assert "single switches" not in claim


def test_single_switches_are_counted_in_the_estimate_and_apart_from_all_together():
    table = effect_rows(
        ("none", "corpus", "all_methods", 0.1, 0.1, "raises", False),
        ("ties", "corpus", "all_methods", 0.1, 0.0, "unchanged", False),
        ("head_kept", "corpus", "all_methods", 0.1, -0.02, "undecided", False),
        ("lesion_floor", "corpus", "all_methods", 0.1, -0.15, "undecided", False),
        ("published", "corpus", "all_methods", 0.1, -0.3, "lowers", False),
    )
    (claim,) = [sentence for sentence in conclusions(table) if "pre-training on MRI" in sentence]
    assert "in the estimate the sign stays with 2 of 3 single switches; lesion floor, where it turns round" in claim
    assert claim.endswith("with all switches as published it turns round in the estimate (-0.200; a decided change).")


def test_a_study_that_is_published_already_has_nothing_to_compare():
    table = effect_rows(("none", "corpus", "all_methods", 0.1, 0.1, "raises", False))
    assert conclusions(table)[-1] == "Nothing is left to compare: the study has every switch as published."
    (text,) = protocols_figure(table, ["lrp"]).texts
    assert "nothing to compare" in text.get_text()


def test_the_last_sentence_counts_or_misses_the_noise_floor():
    table = effect_rows(*MEANS)
    assert conclusions(table)[-1].startswith("Of 5 differences of means 1 are undecided and 1 are 0")
    assert "no noise floor yet: `make protocols`" in conclusions(table.assign(floor=float("nan")))[-1]


def test_decided_cells_stand_out_and_undecided_ones_are_grey():
    figure, ax = plt.subplots()
    rows = effect_rows(*MEANS)
    plot_protocols(ax, rows, list(rows["switch"]), ["all_methods"])
    figure.draw_without_rendering()
    colours = [tuple(colour[:3]) for colour in ax.collections[0].get_facecolors()]
    drawn = {text.get_text(): (colours[int(text.get_position()[1])], text.get_fontweight()) for text in ax.texts}
    assert drawn["+.08"][1] == drawn["-.15"][1] == "bold"
    assert drawn["+.08"][0][0] > drawn["+.08"][0][2] and drawn["-.15"][0][0] < drawn["-.15"][0][2], "red up, blue down"
    assert drawn["–"][0] == to_rgb("white")
    assert drawn["+.02"][0] == pytest.approx(to_rgb("0.93")) and drawn["+.02"][1] == "normal"
    assert drawn["+.01"][1] == "normal" and drawn["+.01"][0] != pytest.approx(to_rgb("0.93"))


def test_the_figure_groups_switches_and_leaves_out_what_no_switch_concerns():
    figure = protocols_figure(effect_rows(*MEANS, ("published", "mean", "lrp", 0.3, 0.3, "raises", False)), ["lrp"])
    groups = [text.get_text() for ax in figure.axes for text in ax.texts if text.get_fontweight() == "bold"]
    groups = [text for text in groups if text[0] not in "+-"]
    assert groups == ["networks unchanged", "networks trained again", "all switches"]
    (first, *_) = [ax for ax in figure.axes if ax.get_title()]
    assert first.get_title() == "median Relevance Rank Accuracy"
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["mask threshold", "channel reduction", "ties"]
    columns = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert columns == ["LRP", "mean of methods"]
