"""Skill on the images whose decision depends on the lesions, beside that on all images.

A decision depends on the lesions if it owes more than half of its log-odds to them (`classification.owed_to_lesions`). Each
network has its own such images. Where it has fewer than FEWEST_IMAGES of a class, its mean is missing, and with it every
effect that needs it.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from pretrain_xai.arrays import Booleans
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import ALL, EFFECT_COLUMNS, Contrast, contrasts, rows_of
from pretrain_xai.statistics.intervals import Interval
from pretrain_xai.statistics.sensitivity import FEWEST_IMAGES, common_images
from pretrain_xai.study import CELL

DEPENDENT = "dependent"
COLUMNS = ["images", "fewest_images", *EFFECT_COLUMNS[: EFFECT_COLUMNS.index("p")]]


def dependence_table(skills: Skills, owed: Booleans | None) -> pd.DataFrame:
    """Return mean skill of every cell, and the effects of the corpus, over all images and over those that depend on lesions.

    Parameters
    ----------
    owed : bool array of shape (n_networks, n_images), optional
        Whether a network's decision depends on the lesions; without it the table has no rows.

    Returns
    -------
    DataFrame with `images` ("all" or "dependent"), `fewest_images` (of a class, in the network that has the fewest), and the
    columns of `effects.effect_table`, the primary way; the family of a cell's mean is "cell".
    """
    rows = []
    for name, seen in () if owed is None else ((ALL, np.ones_like(owed)), (DEPENDENT, owed)):
        part = on_images(skills, seen)
        for contrast in _questions(skills):
            used = seen[contrast.weights.any(axis=1)]
            of_classes = [of for one, of in _classes(skills).items() if contrast.lesions in (ALL, one)]
            fewest = min(used[:, of].sum(axis=1).min() for of in of_classes)
            row = {"images": name, "fewest_images": fewest} | next(rows_of(part, contrast, seed=0))
            too_few = dict.fromkeys(Interval._fields, np.nan) if fewest < FEWEST_IMAGES and name == DEPENDENT else {}
            rows.append(row | too_few)
    return pd.DataFrame(rows, columns=COLUMNS)


def on_images(skills: Skills, seen: Booleans) -> Skills:
    """Return skills whose class means are those over the images that each network saw, if there are any.

    Parameters
    ----------
    seen : bool array of shape (n_networks, n_images)
    """
    values = skills.values.copy()
    for of_class in _classes(skills).values():
        own = values[..., of_class]
        some = seen[:, None, of_class] | ~seen[:, None, of_class].any(axis=-1, keepdims=True)
        values[..., of_class] = common_images(np.where(some, own, np.nan))
    return dataclasses.replace(skills, values=values, references={})


def _questions(skills: Skills) -> Iterator[Contrast]:
    yield from (one for one in contrasts(skills) if one.family in ("corpus", "corpus_by_class"))
    for (corpus, depth), places in skills.networks.groupby(CELL, sort=False).indices.items():
        weights = np.zeros(skills.values.shape[:2])
        weights[places] = 1 / weights[places].size
        for name in (ALL, *skills.classes):
            classes = None if name == ALL else {name: 1.0}
            yield Contrast("cell", "mean", weights, corpus, str(depth), lesions=name, classes=classes)


def _classes(skills: Skills) -> Mapping[str, Booleans]:
    """Return which images are of a class; all of them are of one where classes are not known."""
    return {name: skills.image_weights({name: 1.0}) > 0 for name in skills.classes} or {
        ALL: np.ones(len(skills.images), bool)
    }
