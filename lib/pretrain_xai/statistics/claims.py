"""The paper's claims, one by one: the contrast in its own medians, the same contrast in a study, and whether they agree.

The paper says that what a network was pre-trained on, and how deep it is fine-tuned, matter to how well it is explained,
at equal accuracy too. Its evidence are the medians of its boxes, of which each claim is a contrast here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import EFFECT_COLUMNS, Contrast, rows_of

#: the paper's medians; see the README beside them
MEDIANS = Path(__file__).parents[1] / "published" / "numbers" / "explanation_medians.csv"
#: the corpus of a study that stands for the paper's, if it does not have that itself
STANDS_FOR = {"imagenet": "natural"}
#: where its interval leaves out 0, and where not
AGREES, OPPOSITE, UNDECIDED, NOT_STUDIED = "agrees", "opposite", "can't tell", "not studied"
FACTS = ["selection", "claim", "published", "positive", "cells", "verdict"]
COLUMNS = [*FACTS, *(name for name in EFFECT_COLUMNS if name in ("unit", "n_units", "estimate", "low", "high"))]


class Claim(NamedTuple):
    """A contrast of the paper: weights of corpora, and of depths (none: all alike); all methods alike."""

    claim: str
    corpora: Mapping[str, int]
    depths: Mapping[int, int]


CLAIMS = (
    Claim("MRI against ImageNet", {"mri": 1, "imagenet": -1}, {}),
    Claim("5 fine-tuned blocks against 2, ImageNet", {"imagenet": 1}, {5: 1, 2: -1}),
    Claim("5 fine-tuned blocks against 2, MRI", {"mri": 1}, {5: 1, 2: -1}),
)


def published_contrast(medians: pd.DataFrame, claim: Claim) -> pd.Series:
    """Return a claim's contrast in the paper's medians, one value for each cell in which it is made.

    Parameters
    ----------
    medians : DataFrame with `pretraining`, `finetune_depth`, `method`, `median_relevance_rank_accuracy`, one selection
        A claim on corpora is made at each depth by each method, one on depths by each method.
    """
    sign = medians["pretraining"].map(claim.corpora) * (
        medians["finetune_depth"].map(claim.depths) if claim.depths else 1
    )
    cell = ["method"] if claim.depths else ["method", "finetune_depth"]
    signed = medians.assign(value=sign * medians["median_relevance_rank_accuracy"]).dropna(subset="value")
    return signed.groupby(cell)["value"].sum()


def claim_table(selections: Mapping[str, Skills], seed: int = 0) -> pd.DataFrame:
    """Return every claim of the paper with the same contrast of a study's skills and its interval.

    Parameters
    ----------
    selections : dict of Skills
        By the paper's names, best and matched; of matched models those that are matched.

    Returns
    -------
    DataFrame with `selection`, `claim`; `published`, the mean of the paper's contrast over `cells`, of which so many are
    `positive`; `verdict`; and the study's contrast, in units of skill, as in `effects.effect_table`, the primary way.
    """
    medians, rows = pd.read_csv(MEDIANS), []
    for selection, of_selection in medians.groupby("selection"):
        for claim in CLAIMS:
            values = published_contrast(of_selection, claim)
            facts = dict(
                zip(FACTS, (selection, claim.claim, values.mean(), (values > 0).sum(), len(values)), strict=False)
            )
            ours = selection in selections and _contrast(selections[str(selection)], claim)
            if not ours:
                rows.append(facts | {"verdict": NOT_STUDIED})
                continue
            row = next(rows_of(selections[str(selection)], ours, seed))
            clear = row["low"] > 0 or row["high"] < 0
            same = AGREES if row["estimate"] * values.mean() > 0 else OPPOSITE
            rows.append(row | facts | {"verdict": same if clear else UNDECIDED})
    return pd.DataFrame(rows, columns=COLUMNS)


def _contrast(skills: Skills, claim: Claim) -> Contrast | None:
    """Return the claim as a contrast of a study; None where it lacks a corpus or a depth of it."""
    corpora = {
        name if name in skills.corpora else STANDS_FOR.get(name, name): sign for name, sign in claim.corpora.items()
    }
    depths: Mapping[int, float] = claim.depths or {depth: 1 / len(skills.depths) for depth in skills.depths}
    if not set(corpora) <= set(skills.corpora) or not set(depths) <= set(skills.depths):
        return None
    networks = skills.networks
    weights = networks["pretraining"].map(corpora).fillna(0) * networks["finetune_depth"].map(depths).fillna(0)
    weights /= networks.groupby(["pretraining", "finetune_depth"])["seed"].transform("size")
    return Contrast("claims", claim.claim, np.outer(weights, np.full(len(skills.methods), 1 / len(skills.methods))))
