"""Skill on the images whose decision depends on the lesions: planted studies, and the plain mean."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.dependence import dependence_table
from pretrain_xai.statistics.findings import findings
from pretrain_xai.statistics.sensitivity import FEWEST_IMAGES
from pretrain_xai.statistics.summary import study_statistics
from pretrain_xai.study import NETWORK
from sentence_numbers import check_findings, save

N_IMAGES = 120


def study(dependent: float, others: float, own: bool = True, n: int = 4) -> tuple[Skills, np.ndarray]:
    """Return a study in which MRI shows more by so much where decisions depend on the lesions, and elsewhere; and where."""
    index = pd.MultiIndex.from_product([["natural", "mri"], [1, 5], range(n)], names=NETWORK)
    networks, rng = index.to_frame(index=False), np.random.default_rng(7)
    label = np.arange(N_IMAGES) % 3 // 2  # two of three are round
    owed = rng.random((len(networks), N_IMAGES)) < 0.5
    mri = (networks["pretraining"] == "mri").to_numpy()[:, None]
    values = 0.3 + 0.1 * label + mri * np.where(owed, dependent, others) + rng.normal(0, 0.005, (len(networks), 1))
    values = values[:, None] + rng.normal(0, 0.02, (len(networks), 2, N_IMAGES))
    images = pd.DataFrame({"image_index": range(N_IMAGES), "label": label, "chance": 0.03})
    return Skills(values, networks, ["saliency", "lrp"], images, {}, own), owed


def answer(skills: Skills, owed: np.ndarray, tmp_path) -> str:
    tables = study_statistics(skills, owed=owed)
    (told,) = [finding for finding in findings(tables) if finding.table == "skill_by_dependence"]
    save(tables, tmp_path)
    assert check_findings([told], tmp_path) > 0 and told.short
    return told.text


@pytest.mark.parametrize(("own", "n"), [(True, 4), (False, 4), (False, 1)])
def test_a_difference_where_decisions_do_not_depend_on_the_lesions_is_called_that(own, n, tmp_path):
    text = answer(*study(0.0, 0.2, own, n), tmp_path)
    assert "the difference over all images comes from decisions that do not depend on the lesions" in text
    assert ("p = " not in text) and "explained" not in text


TOLD = [(0.1, 0.1, "both say the same"), (-0.1, 0.3, "the opposite")]
TOLD += [(0.1, -0.1, "it is clear on these images only"), (0.0, 0.0, "no clear difference on either")]


@pytest.mark.parametrize(("dependent", "others", "told"), TOLD)
def test_other_truths_are_other_answers(dependent, others, told, tmp_path):
    assert told in answer(*study(dependent, others), tmp_path)


def test_numbers_are_means_over_each_networks_own_images():
    skills, owed = study(0.05, 0.2)
    table = dependence_table(skills, owed).set_index(["images", "family", "pretraining", "finetune_depth", "lesions"])
    label, mri = skills.images["label"].to_numpy(), (skills.networks["pretraining"] == "mri").to_numpy()
    cell = mri & (skills.networks["finetune_depth"] == 5).to_numpy()
    for name, seen in (("all", np.ones_like(owed)), ("dependent", owed)):
        of_networks = np.array(
            [[skills.values[row][:, seen[row] & (label == one)].mean() for one in (0, 1)] for row in range(len(owed))]
        )
        for lesions, expected in (("round", of_networks[cell, 0]), ("all", of_networks[cell].mean(1))):
            row = table.loc[(name, "cell", "mri", "5", lesions)]
            assert row["estimate"] == pytest.approx(expected.mean()) and row["n_units"] == 4
        counts = [(seen[row] & (label == one)).sum() for row in np.flatnonzero(cell) for one in (0, 1)]
        assert row["fewest_images"] == min(counts)
        corpus = of_networks[mri].mean() - of_networks[~mri].mean()
        assert table.loc[(name, "corpus", "all", "all", "all"), "estimate"] == pytest.approx(corpus)


def test_too_few_images_of_a_class_are_no_mean(tmp_path):
    skills, owed = study(0.1, 0.1)
    irregular = np.flatnonzero(skills.images["label"] == 1)
    owed[3, irregular] = np.arange(len(irregular)) < FEWEST_IMAGES - 1
    table = dependence_table(skills, owed).query("images == 'dependent'").set_index(["family", "lesions"])
    assert np.isnan(table.loc[("corpus", "all"), "estimate"])
    assert table.loc[("corpus_by_class", "round"), "estimate"] > 0
    assert table["estimate"].isna().sum() == 4  # the corpora, over all and irregular; the cell, too
    text = answer(skills, owed, tmp_path)
    assert "Too few right decisions depend on the lesions" in text
    assert f"one network {FEWEST_IMAGES - 1} of a class" in text


def test_a_network_of_one_class_has_none_of_the_other(tmp_path):
    skills, owed = study(0.1, 0.1)
    owed[:, skills.images["label"] == 1] = False
    assert "for one network 0 of a class" in answer(skills, owed, tmp_path)


def test_without_classes_or_predictions():
    skills, owed = study(0.1, 0.1)
    unknown = dataclasses.replace(skills, images=skills.images.drop(columns="label"))
    assert set(dependence_table(unknown, owed)["lesions"]) == {"all"}
    assert len(dependence_table(skills, None)) == 0
