"""Skill: how far a score is above chance, for every network, method and image of a study.

`skill = (score - chance) / (1 - chance)` is 0 where a random map is expected to be and 1 for a perfect map, whatever the
size of the lesions (a chance-corrected score as Cohen's kappa is, 1960).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.errors import UserError
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.study import CELL, CLASSES, NETWORK, UNTRAINED


@dataclass(frozen=True)
class Skills:
    """The skill of every method on every image by every fine-tuned network, on the same images.

    Attributes
    ----------
    values : float array of shape (n_networks, n_methods, n_images), range (-inf, 1]
    networks : DataFrame of n_networks rows with `pretraining`, `finetune_depth`, `seed`
    methods : list of str
    images : DataFrame of n_images rows with `image_index`, `chance`, and where known `label`, `subject`, `chance_brain`
        Without labels all images count alike.
    references : dict of str to float array of shape (n_methods, n_images), or (n, n_methods, n_images) of n networks
        What every method is compared with on the same images: the comparison maps (the same for every method), and as
        `untrained` the method itself on the untrained network or networks.
    own_pretrainings : bool
        Each seed of a corpus has a pre-training of its own, which all its depths share; if not, a corpus has one pre-trained
        network.
    """

    values: Floats
    networks: pd.DataFrame
    methods: list[str]
    images: pd.DataFrame
    references: dict[str, Floats]
    own_pretrainings: bool = False

    @property
    def clusters(self) -> Integers:
        """The number of each image's subject, or of the image where subjects are not known; shape (n_images,)."""
        name = "subject" if "subject" in self.images else "image_index"
        return pd.factorize(self.images[name])[0].astype(np.int64)

    @property
    def n_seeds(self) -> int:
        """The fewest networks of one corpus and depth."""
        return int(self.networks.groupby(CELL).size().min())

    @property
    def unit(self) -> str:
        """What another study would draw again: a pre-training, a seed of fine-tuning, or with one of these only images."""
        return "image" if self.n_seeds == 1 else "pretraining" if self.own_pretrainings else "seed"

    @property
    def classes(self) -> list[str]:
        """The classes that the images have, none where these are not known."""
        return [CLASSES[label] for label in sorted(set(self.images.get("label", ())))]

    def image_weights(self, classes: Mapping[str, float] | None = None) -> Floats:
        """Return weights of the images with which a mean over images is a weighted sum of the means of the classes.

        Parameters
        ----------
        classes : dict from class to weight, optional
            Default: all that there are, alike.

        Returns
        -------
        float array of shape (n_images,)
        """
        if not self.classes:
            return np.ones(len(self.images))
        label = self.images["label"].map(dict(enumerate(CLASSES)))
        weights = classes or {name: 1 / len(self.classes) for name in self.classes}
        return (label.map(weights).fillna(0) * len(label) / label.map(label.value_counts())).to_numpy()

    @property
    def corpora(self) -> list[str]:
        """The corpora in the order of the networks."""
        return list(dict.fromkeys(self.networks["pretraining"]))

    @property
    def depths(self) -> list[int]:
        """The fine-tuning depths, from the shallowest."""
        return sorted(set(self.networks["finetune_depth"].tolist()))

    def network_means(self) -> pd.DataFrame:
        """Return class-balanced mean skill over images, one row per network and method (`method`, `skill`)."""
        balanced = (self.values * self.image_weights()).mean(axis=2)
        means = pd.DataFrame(balanced, columns=pd.Index(self.methods, name="method"))
        wide = pd.concat([self.networks.reset_index(drop=True), means], axis=1)
        return wide.melt(NETWORK, self.methods, var_name="method", value_name="skill")


def skill(score: ArrayLike, chance: ArrayLike) -> Floats:
    """Return (score - chance) / (1 - chance): 0 at chance, 1 at best; NaN where chance is 1, as nothing can be better.

    Parameters
    ----------
    score, chance : float arrays of one shape, range [0, 1]
    """
    score, chance = np.asarray(score, dtype=np.float64), np.asarray(chance, dtype=np.float64)
    room = 1 - chance
    return np.divide(score - chance, room, out=np.full_like(room, np.nan), where=room > 0)


def brain_chance(images: np.ndarray, masks: Sequence[np.ndarray] | np.ndarray, indices: ArrayLike) -> Floats:
    """Return what a map scores in expectation that is random within the brain and nothing outside: k / brain pixels.

    Parameters
    ----------
    images : float array of shape (n, height, width)
        Background is 0.
    masks : indexable to bool arrays of shape (height, width)
    indices : int array of shape (n_images,)

    Returns
    -------
    float array of shape (n_images,), range (0, 1]
    """
    # one image at a time: images and masks stay on disk
    return np.array([masks[i].sum() / max((images[i] > 0).sum(), masks[i].sum()) for i in np.asarray(indices)])


def collect_skills(
    scores: pd.DataFrame,
    methods: Sequence[str],
    corpora: Sequence[str],
    images: pd.DataFrame | None = None,
    *,
    own_pretrainings: bool = False,
) -> Skills:
    """Arrange the scores of one selection, metric and list of images as skills.

    Parameters
    ----------
    scores : DataFrame, score rows
        Of the fine-tuned networks and of the untrained one, each on the same images.
    methods, corpora : sequences of str
        Which, and in which order: a later corpus is compared with an earlier one.
    images : DataFrame with `image_index` and any of `subject`, `chance_brain`, optional
        What else is known of the images.
    own_pretrainings : bool
        As that of `Skills`.

    Raises
    ------
    UserError
        More than one metric, a metric without chance, or networks that were scored on different images.
    """
    metrics = scores["metric"].astype(str).unique()
    if len(metrics) != 1 or scores["chance"].isna().any():
        raise UserError(f"skill needs one metric that has a chance level, found {', '.join(metrics)}")
    table = scores.assign(skill=skill(scores["value"], scores["chance"]), method=scores["method"].astype(str))
    table["pretraining"] = table["pretraining"].astype(str)
    trained = table[table["pretraining"].isin(corpora) & table["method"].isin(methods)]
    cells = [*NETWORK, "method"]
    if trained.groupby(cells)["image_index"].agg(frozenset).nunique() != 1:
        raise UserError("networks were scored on different images: give the images that are right for all")
    wide = trained.pivot(index=cells, columns="image_index", values="skill").dropna(axis=1)
    known = scores.drop_duplicates("image_index").set_index("image_index")
    known = known.loc[wide.columns].filter(["label", "chance"]).reset_index()
    if images is not None:
        known = known.merge(images, on="image_index", how="left", validate="one_to_one")
    networks = trained[NETWORK].drop_duplicates().itertuples(index=False, name=None)
    order = sorted(networks, key=lambda network: (list(corpora).index(network[0]), *network[1:]))
    values = np.stack([[wide.loc[(*network, method)] for method in methods] for network in order])
    rows = table[table["pretraining"] == UNTRAINED].pivot(
        index=["seed", "method"], columns="image_index", values="skill"
    )
    by_seed = [of_seed.droplevel("seed").reindex(columns=wide.columns) for _, of_seed in rows.groupby(level="seed")]
    maps = [name for name in COMPARISON_MAPS if by_seed and name in by_seed[0].index]  # they stand with the first
    references = {name: np.tile(by_seed[0].loc[name], (len(methods), 1)) for name in maps}
    if by_seed and all(set(methods) <= set(of_seed.index) for of_seed in by_seed):
        untrained = np.stack([of_seed.loc[list(methods)].to_numpy() for of_seed in by_seed])
        references["untrained"] = untrained if len(untrained) > 1 else untrained[0]
    return Skills(values, pd.DataFrame(order, columns=NETWORK), list(methods), known, references, own_pretrainings)
