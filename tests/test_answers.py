"""The short answers: what is said of studies whose truth is known, of corpora, classes and pre-trainings."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import contrasts, contributions, effect_table, odd_one_out
from pretrain_xai.statistics.findings import findings
from pretrain_xai.statistics.intervals import by_units
from pretrain_xai.statistics.summary import study_statistics
from pretrain_xai.study import NETWORK

DEPTHS, METHODS, N_IMAGES = (1, 3, 5), ["saliency", "lrp"], 40


def study(by_class: tuple[float, float], own=True, n=4, odd=0.0, unequal=False) -> Skills:
    """Return a study in which MRI shows more of round and of irregular lesions by so much than photographs.

    Parameters
    ----------
    own : bool
        There are `n` pre-trainings of each corpus; else `n` seeds of fine-tuning.
    odd : float
        By how much one pre-training on MRI is away from the others.
    unequal : bool
        Three of four images have irregular lesions.
    """
    index = pd.MultiIndex.from_product([["natural", "mri"], DEPTHS, range(n)], names=NETWORK)
    networks, rng = index.to_frame(index=False), np.random.default_rng(5)
    label = (np.arange(N_IMAGES) % 4 > 0 if unequal else np.arange(N_IMAGES) % 2 > 0).astype(int)
    mri = (networks["pretraining"] == "mri").to_numpy()
    level = 0.3 + odd * (mri & (networks["seed"] == n - 1))
    level += rng.normal(0, 0.008, (2, n))[mri.astype(int), networks["seed"]] + rng.normal(0, 0.004, len(networks))
    values = level.to_numpy()[:, None] + mri[:, None] * np.array(by_class)[label]
    values = values[:, None] + np.array([0.02, 0.0])[:, None] + rng.normal(0, 0.02, (len(networks), 2, N_IMAGES))
    images = pd.DataFrame({"image_index": range(N_IMAGES), "label": label, "chance": 0.03})
    return Skills(values, networks, METHODS, images, {}, own)


def answer(skills: Skills, about: str = "mri") -> str:
    """Return the short answer about corpora."""
    (text,) = (one.text for one in findings(study_statistics(skills)) if one.short and "minus" in one.text)
    return text


def test_five_truths_are_five_answers():
    opposite, same_sign, none = (answer(study(by_class)) for by_class in ((-0.15, 0.1), (0.08, 0.06), (0.0, 0.0)))
    one_pretraining, one_odd = answer(study((0.08, 0.06), own=False)), answer(study((0.0, 0.0), odd=0.2))
    answers = [opposite, same_sign, none, one_pretraining, one_odd]
    assert len(set(answers)) == 5
    assert not any("better explained" in text or "explained better" in text for text in answers)
    assert "depends on the class of the lesions" in opposite
    assert "describes neither" in opposite and "show more" not in opposite.split(":")[1]
    assert same_sign.startswith("Maps of networks pre-trained on MRI (sex) show more of the lesions")
    assert "4 pre-trainings" not in same_sign and "8 pre-trainings" in same_sign
    assert "makes no clear difference" in none and "One pre-training" not in none
    assert "about these two networks" in one_pretraining and "pre-trainings)" not in one_pretraining
    assert "One pre-training makes this spread (mri, seed 3): without it" in one_odd


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("by_class", [(0.1, -0.1), (-0.05, 0.12), (-0.2, 0.01)])
def test_a_planted_opposite_effect_is_never_said_to_be_one(by_class, own):
    text = answer(study(by_class, own=own))
    assert "explained" not in text
    if min(map(abs, by_class)) > 0.03:
        assert "depends on the class" in text


def test_one_seed_has_no_p_value_and_says_of_what_it_tells():
    skills = study((0.1, 0.1), own=False, n=1)
    effects = study_statistics(skills)["effects"]
    assert effects["p"].isna().all() and effects["clear"].any()
    text = answer(skills)
    assert "p = " not in text and "about these two networks" in text


def test_classes_count_alike_whatever_their_number():
    skills = study((0.2, 0.0), unequal=True)
    effects = effect_table(skills).query("way == 't'").set_index(["family", "lesions"])["estimate"]
    by_class = effects["corpus_by_class"]
    assert effects["corpus", "all"] == pytest.approx(by_class.mean())
    assert effects["corpus_x_class", "all"] == pytest.approx(by_class["irregular"] - by_class["round"])
    assert by_class["round"] - by_class["irregular"] == pytest.approx(0.2, abs=0.02)
    assert skills.network_means().query("pretraining == 'mri'")["skill"].mean() == pytest.approx(0.41, abs=0.03)


def test_pre_trainings_are_units_and_corpora_strata():
    skills = study((0.05, 0.05))
    of = {contrast.family: contributions(skills, contrast.weights) for contrast in contrasts(skills)}
    units, strata, sides = of["corpus"]
    means = skills.network_means().groupby(["pretraining", "seed"])["skill"].mean()
    np.testing.assert_allclose(units.mean(1), pd.concat([-means["natural"], means["mri"]]) / 4)
    assert strata.tolist() == [0] * 4 + [1] * 4 and sides == 2
    units, strata, sides = of["depth"]
    assert units.shape == (8, N_IMAGES) and sides == 1
    row = effect_table(skills).query("family == 'corpus' and way == 't'").iloc[0]
    assert row["unit"] == "pretraining" and row["n_units"] == 8 and 3 <= row["df"] <= 6


def test_the_mixed_model_has_the_intervals_of_pre_trainings():
    """In a balanced study its interval of the corpora is the pooled t interval on pre-training means."""
    skills = study((0.05, 0.05))
    rows = effect_table(skills).query("way == 'mixed_model'").set_index("family")
    (corpus,) = (contrast for contrast in contrasts(skills) if contrast.family == "corpus")
    units, strata, _ = contributions(skills, corpus.weights)
    pooled = by_units(units, strata, pooled=True)
    assert rows.loc["corpus", "df"] == 6 and rows.loc["depth", "df"] == 24 - 6 - 6
    assert rows.loc["corpus", "se"] == pytest.approx(float(pooled.se), rel=0.02)
    assert rows.loc["corpus", "estimate"] == pytest.approx(float(pooled.estimate), abs=1e-6)


def test_an_odd_unit_is_found_and_noise_is_not():
    rng, strata = np.random.default_rng(0), np.repeat([0, 1], 5)
    noise = rng.normal(0, 0.03, (200, 10, 1)) / 5
    assert sum(odd_one_out(one, strata) is not None for one in noise) < 20
    odd = noise[0].copy()
    odd[7] += 0.3 / 5
    place, without = odd_one_out(odd, strata)
    kept = np.delete(np.arange(10), 7)
    sides = [5 * odd[kept][strata[kept] == side].mean() for side in (0, 1)]
    assert place == 7 and without == pytest.approx(sum(sides))
    assert odd_one_out(odd[[0, 1, 5, 7]], strata[[0, 1, 5, 7]]) is None  # two units: nothing to leave out


def test_with_one_class_there_is_nothing_to_balance():
    whole = study((0.1, 0.0))
    kept = (whole.images["label"] == 0).to_numpy()
    images = whole.images[kept].reset_index(drop=True)
    skills = dataclasses.replace(whole, values=whole.values[..., kept], images=images)
    assert set(effect_table(skills)["lesions"]) == {"all"}
    np.testing.assert_array_equal(skills.image_weights(), 1)


def test_untrained_networks_are_a_sample_of_their_own():
    """The interval is Welch's: between fine-tuned networks, by pre-training, and between untrained ones."""
    rng, n = np.random.default_rng(3), 6
    untrained = 0.2 + rng.normal(0, 0.05, (n, 1, 1)) + rng.normal(0, 0.01, (n, 2, N_IMAGES))
    skills = dataclasses.replace(study((0.0, 0.0)), references={"untrained": untrained})
    effects = effect_table(skills).query("way == 't'")
    row = effects.query("family == 'untrained' and method == 'lrp'").iloc[0]
    means = skills.network_means().query("method == 'lrp'").groupby(["pretraining", "seed"])["skill"].mean()
    theirs = untrained[:, 1].mean(1)
    assert row["estimate"] == pytest.approx(means.mean() - theirs.mean())
    variance = sum(means[corpus].var() / 4 / 4 for corpus in ("natural", "mri")) + theirs.var(ddof=1) / n
    assert row["se"] == pytest.approx(np.sqrt(variance)) and row["n_units"] == 8 + n
    by_depth = effects.query("family == 'untrained_by_depth'")
    assert by_depth["finetune_depth"].tolist() == ["1", "3", "5"] and by_depth["clear"].all()
    one = dataclasses.replace(skills, references={"untrained": untrained[0]})
    assert effect_table(one).query("way == 't' and family == 'untrained'")["n_units"].tolist() == [8, 8]
