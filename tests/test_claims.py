"""The paper's claims: its own contrasts, and what is said of studies that were made to agree or not."""

import numpy as np
import pandas as pd
import pytest
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.claims import CLAIMS, MEDIANS, claim_table, published_contrast
from pretrain_xai.study import NETWORK


def study(first: str, corpus: float, deep: float, depths=(1, 2, 3, 4, 5), n_seeds: int = 3) -> Skills:
    """Return a study in which MRI is explained better by `corpus`, and five blocks better than two by `deep`."""
    index = pd.MultiIndex.from_product([[first, "mri"], depths, range(n_seeds)], names=NETWORK)
    networks, rng = index.to_frame(index=False), np.random.default_rng(0)
    level = 0.3 + corpus * (networks["pretraining"] == "mri") + deep * (networks["finetune_depth"] == 5)
    values = level.to_numpy()[:, None, None] + rng.normal(0, 0.005, (len(networks), 2, 30))
    images = pd.DataFrame({"image_index": range(30), "chance": 0.03})
    return Skills(values, networks, ["saliency", "lrp"], images, {})


def test_the_papers_contrasts_are_recomputed_from_its_medians():
    found = claim_table({}).set_index(["selection", "claim"])
    published = [("best", 0.035, 21, 40), ("best", 0.122, 8, 8), ("best", 0.012, 3, 8)]
    published += [("matched", 0.149, 40, 40), ("matched", -0.004, 1, 8), ("matched", -0.014, 2, 8)]
    for (selection, mean, positive, cells), claim in zip(published, [*CLAIMS, *CLAIMS], strict=True):
        row = found.loc[selection, claim.claim]
        assert round(row["published"], 3) == mean and (row["positive"], row["cells"]) == (positive, cells)
        assert row["verdict"] == "not studied" and np.isnan(row["estimate"])


def test_a_contrast_is_that_of_a_literal_loop():
    medians = pd.read_csv(MEDIANS).query("selection == 'matched'")
    table = medians.set_index(["pretraining", "finetune_depth", "method"])["median_relevance_rank_accuracy"]
    for claim in CLAIMS:
        for cell, value in published_contrast(medians, claim).items():
            method, depths = (cell, claim.depths) if claim.depths else (cell[0], {cell[1]: 1})
            terms = [a * b * table[one, at, method] for one, a in claim.corpora.items() for at, b in depths.items()]
            assert value == pytest.approx(sum(terms))


@pytest.mark.parametrize("first", ["imagenet", "natural"])
def test_a_study_agrees_is_opposite_or_undecided(first):
    selections = {"best": study(first, 0.04, 0.0), "matched": study(first, -0.05, -0.06)}
    found = claim_table(selections).set_index(["selection", "claim"])
    corpus, *deep = (claim.claim for claim in CLAIMS)
    assert found.loc[("best", corpus), "verdict"] == "agrees"
    assert found.loc[("best", corpus), "estimate"] == pytest.approx(0.04, abs=0.003)
    assert {found.loc[("best", claim), "verdict"] for claim in deep} == {"can't tell"}
    assert found.loc[("matched", corpus), "verdict"] == "opposite"
    assert {found.loc[("matched", claim), "verdict"] for claim in deep} == {"agrees"}
    assert found.loc[("matched", deep[0]), "estimate"] == pytest.approx(-0.06, abs=0.004)
    assert (found["unit"] == "seed").all() and (found["n_units"] == 3).all()


def test_what_a_study_has_not_is_not_studied():
    selections = {"best": study("natural", 0.04, 0.0, depths=(1, 5), n_seeds=1)}
    found = claim_table(selections).set_index(["selection", "claim"])
    assert found.loc["best", "verdict"].tolist() == ["agrees", "not studied", "not studied"]
    assert found.loc[("best", CLAIMS[0].claim), "unit"] == "image"
    assert (found.loc["matched", "verdict"] == "not studied").all()
