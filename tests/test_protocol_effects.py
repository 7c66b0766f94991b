"""What each switch does to each number, and what a variant shares with its study."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai import paths
from pretrain_xai.protocol import CORRECTED, PUBLISHED, RESCORED, Protocol, switched_protocols
from pretrain_xai.protocol_effects import RETRAINED, effect_matrix, finished_variants, largest_effects
from pretrain_xai.selection import CORRECT_FOR_ALL, image_list
from pretrain_xai.stages import STAGES, fingerprint
from pretrain_xai.study import StudyError, load_study
from pretrain_xai.tables import read_classification, read_scores, read_table

SWITCHES = [field.name for field in dataclasses.fields(Protocol)]


@pytest.fixture
def effects(tiny) -> pd.DataFrame:
    return read_table(paths.data(tiny) / "protocols.csv")


def test_every_switch_is_rescored_retrained_or_swaps_two_names():
    assert {*RESCORED, *RETRAINED, "swapped_rates"} - {"published"} == set(SWITCHES)
    assert set(paths.FIRST_CHANGED) == {*SWITCHES, "published"}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_variant_differs_in_its_switch_only(switch):
    variant = load_study(f"tiny+{switch}")
    assert variant.switched == dataclasses.replace(CORRECTED, **{switch: getattr(PUBLISHED, switch)})
    assert variant.finetuning == load_study("tiny").finetuning


def test_the_published_variant_is_the_published_protocol():
    assert load_study("tiny+published").switched == PUBLISHED


def test_an_unknown_variant_names_the_switches():
    with pytest.raises(StudyError, match=r"'tie' is no switch.*did you mean 'ties'"):
        load_study("tiny+tie")


@pytest.mark.parametrize("variant", paths.FIRST_CHANGED)
def test_a_variant_shares_what_its_switch_does_not_change(variant):
    """A stage whose fingerprint differs, and all after it, have files of their own; those before are the study's."""
    base, changed = load_study("tiny"), load_study(f"tiny+{variant}")
    name = f"tiny+{variant}"
    for notebook, stage in STAGES.items():
        shared = paths.owner(name, stage.artefact) == "tiny"
        if shared:
            assert fingerprint(base, notebook) == fingerprint(changed, notebook), (notebook, "would be made again")
    first = paths.FIRST_CHANGED[variant]
    assert paths.owner(name, first) == name
    assert paths.scores(name) != paths.scores("tiny") or variant == "swapped_rates"
    assert paths.slices(name) == paths.slices("tiny")


def test_switched_protocols_differ_in_one_switch_each():
    for switch, protocol in switched_protocols(CORRECTED).items():
        differing = [name for name in SWITCHES if getattr(protocol, name) != getattr(CORRECTED, name)]
        assert differing == ([] if switch == "none" else [switch])


def test_corrected_values_are_the_medians_of_the_study(tiny, effects):
    scores = read_scores(tiny).query("metric == 'relevance_rank_accuracy'")
    images = image_list(read_table(paths.intersections(tiny)), "best", CORRECT_FOR_ALL)
    scores = scores[scores["image_index"].isin(images)]
    medians = scores.groupby(["pretraining", "finetune_depth", "method"], observed=True)["value"].median()
    rescored = effects[effects["switch"].isin(RESCORED)]
    assert len(rescored) > 100
    for row in rescored.itertuples():
        assert row.corrected == pytest.approx(medians[row.pretraining, row.finetune_depth, row.quantity])
        assert row.difference == pytest.approx(row.switched - row.corrected)


def test_each_switch_concerns_what_it_should(effects):
    quantities = effects.groupby("switch")["quantity"].unique().map(set)
    assert quantities["signed_edges"] == {"sobel", "laplace"}
    assert quantities["captum_deep_lift"] == {"deep_lift"}
    assert quantities["swapped_rates"] == {"sensitivity", "specificity"}
    assert "saliency" in quantities["channel_reduction"]
    changed = effects[effects["difference"].abs() > 0]["switch"].unique()
    assert {"mask_threshold", "channel_reduction", "signed_edges", "dropout_active"} <= set(changed)


def test_swapped_rates_take_each_others_place(tiny, effects):
    table = read_classification(tiny).set_index(["pretraining", "finetune_depth"])
    for row in effects[effects["switch"] == "swapped_rates"].itertuples():
        other = {"sensitivity": "specificity", "specificity": "sensitivity"}[row.quantity]
        assert row.switched == pytest.approx(table.loc[(row.pretraining, row.finetune_depth), other])


def test_unfinished_variants_are_not_compared(tiny):
    assert finished_variants(tiny, load_study(tiny)) == []


def test_matrix_and_largest_effects_on_a_built_table():
    columns = [
        "switch",
        "retrained",
        "pretraining",
        "finetune_depth",
        "quantity",
        "corrected",
        "switched",
        "difference",
    ]
    table = pd.DataFrame(
        [
            ("ties", False, "mri", 1, "saliency", 0.5, 0.4, -0.1),
            ("ties", False, "mri", 5, "saliency", 0.5, 0.2, -0.3),
            ("ties", False, "none", 0, "saliency", 0.5, 0.0, -0.5),
            ("lesion_floor", True, "mri", 1, "lrp", 0.5, 0.6, 0.1),
        ],
        columns=columns,
    )
    matrix = effect_matrix(table, ["saliency", "lrp"])
    assert list(matrix.index) == ["ties", "lesion_floor"]
    assert matrix.loc["ties", "saliency"] == pytest.approx(-0.2)
    assert np.isnan(matrix.loc["ties", "lrp"])
    largest = largest_effects(table, 5)
    assert largest[["switch", "difference"]].to_numpy().tolist() == [["ties", -0.3], ["lesion_floor", 0.1]]
    assert largest["quantity"].tolist() == ["Saliency", "LRP"]
