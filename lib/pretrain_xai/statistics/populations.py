"""The images on which the networks of a study are compared: those right for all, and those that each gets wrong.

- `correct`: the images that all models classify correctly, the same for every network, as in all other statistics.
- `incorrect`: each network on the images that it misclassifies itself. Depths at which a network has fewer than
  FEWEST_IMAGES of them are left out, for all corpora and seeds.
- `correct_same_depths`, where depths were left out: the correct images again, at the depths of `incorrect`. It differs
  from `incorrect` by the images, from `correct` by the depths.

Networks on images of their own have no image in common; `common_images` brings them to the form of a study that has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from pretrain_xai.arrays import Booleans, Floats, Integers
from pretrain_xai.dataset import read_split
from pretrain_xai.selection import CORRECT_FOR_ALL, WRONG_FOR_ONE, image_list
from pretrain_xai.setting_scores import SettingScores, score_comparison_maps
from pretrain_xai.skill import Skills
from pretrain_xai.study import NETWORK, Run, Study
from pretrain_xai.tables import read_table

Names = tuple[Any, ...]  # of a setting: channel reduction, mask threshold, score
Places = tuple[int, int, int]  # of the three, from 0

CORRECT, INCORRECT, SAME_DEPTHS = "correct", "incorrect", "correct_same_depths"
#: fewer misclassified images of a network say nothing
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class Population:
    """Networks and the images on which each is scored.

    Attributes
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `seed`; corpora in the study's order
    scored : sequence of SettingScores, one per network
    images : DataFrame with `image_index`, ascending, and `subject`
    seen : bool array of shape (n_networks, n_images)
    references : dict of SettingScores
        Comparison maps by name, one method each or one per method of the networks.
    """

    name: str
    networks: pd.DataFrame
    scored: Sequence[SettingScores]
    images: pd.DataFrame
    seen: Booleans
    references: Mapping[str, SettingScores]

    @property
    def methods(self) -> list[str]:
        """The explanation methods."""
        return list(self.scored[0].methods)

    @property
    def settings(self) -> dict[Names, Places]:
        """The places of all settings by their names."""
        first = self.scored[0]
        axes = [enumerate(axis) for axis in (first.channel_reductions, first.mask_thresholds, first.scores)]
        return {(how, above, score): (i, j, k) for (i, how), (j, above), (k, score) in product(*axes)}

    def skills(self, setting: Places) -> Floats:
        """Return skill, (n_networks, n_methods, n_images), NaN where a network is not scored; `setting` as in `skill_at`."""
        values = np.stack([scored.skill_at(setting, self.images["image_index"]) for scored in self.scored])
        return np.where(self.seen[:, None], values, np.nan)

    def on_common_images(self, setting: Places) -> Skills:
        """Return the skills under a setting in the form of a study all of whose images are common.

        With those references that are scored on all images.
        """
        values = self.skills(setting)
        references = {}
        for name, scored in self.references.items():
            reduction = min(setting[0], len(scored.channel_reductions) - 1)
            of_maps = scored.skill_at((reduction, *setting[1:]), self.images["image_index"])
            known = np.where(np.isnan(values), np.nan, of_maps)
            if (np.isnan(known) == np.isnan(values)).all():
                references[name] = common_images(known)
        return Skills(common_images(values), self.networks, self.methods, self.images, references)


def read_populations(study: Study, selection: str) -> list[Population]:
    """Return the populations of a finished study, with the comparison maps and the untrained network as references.

    The untrained network is scored on the images right for all only, the comparison maps here, on all images.
    """

    def read(run: Run) -> SettingScores:
        return SettingScores.read(study.paths.setting_scores / f"{run.name}.npz")

    runs = [run for run in study.runs() if run.selection == selection]
    corpora: Sequence[str] = study.pretraining.corpora
    runs.sort(key=lambda run: (corpora.index(run.pretraining), run))
    scored = [read(run) for run in runs]
    protocol, lists = study.protocol, read_table(study.paths.intersections)
    test = read_split(study.paths.dataset / "test", protocol.mask_threshold)
    image_index = np.unique(np.concatenate([own.image_index for own in scored]))
    settings = study.attribution.model_copy(update={"scores": ["relevance_rank_accuracy"]})
    _, maps = score_comparison_maps(test, image_index, settings, study.protocol)
    references = {name: maps.of(name) for name in maps.methods}
    references["untrained"] = next(read(run) for run in study.untrained_runs() if run.selection == selection)
    wrong = [image_list(lists, selection, WRONG_FOR_ONE, run) for run in runs]
    correct, subjects = image_list(lists, selection, CORRECT_FOR_ALL), test.table.set_index("image_index")["subject"]
    return populations(pd.DataFrame(runs)[NETWORK], scored, correct, wrong, references, subjects)


def populations(
    networks: pd.DataFrame,
    scored: Sequence[SettingScores],
    correct: Integers,
    incorrect: Sequence[Integers],
    references: Mapping[str, SettingScores],
    subjects: pd.Series,
) -> list[Population]:
    """Return the populations of a study, as far as it has images for them.

    Parameters
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `seed`
    scored : sequence of SettingScores, one per network
    correct : int array
        The images that all models classify correctly.
    incorrect : sequence of int arrays, one per network
        The images that it misclassifies.
    references : dict of SettingScores
    subjects : Series of subjects by image index
    """

    def population(name: str, chosen: Booleans, lists: Sequence[Integers]) -> Population:
        places = np.flatnonzero(chosen).tolist()
        kept = [np.intersect1d(scored[place].image_index, lists[place]) for place in places]
        image_index = np.unique(np.concatenate(kept))
        images = pd.DataFrame({"image_index": image_index, "subject": subjects.loc[image_index].to_numpy()})
        seen = np.stack([np.isin(image_index, own) for own in kept])
        rows = networks.iloc[places].reset_index(drop=True)
        return Population(name, rows, [scored[place] for place in places], images, seen, references)

    counts = np.array([np.isin(own.image_index, wrong).sum() for own, wrong in zip(scored, incorrect, strict=True)])
    enough = ~networks["finetune_depth"].isin(networks.loc[counts < FEWEST_IMAGES, "finetune_depth"])
    right = [correct] * len(networks)
    found = [population(CORRECT, np.ones(len(networks), dtype=bool), right)]
    found += [population(SAME_DEPTHS, enough, right)] if enough.any() and not enough.all() else []
    return found + ([population(INCORRECT, enough, incorrect)] if enough.any() else [])


def common_images(values: np.ndarray) -> Floats:
    """Return values on all images whose means are those over the images that each network saw.

    With m the mean over the n images seen, of N in all, an image that was seen holds m + (value - m) N / n and one that was
    not holds m: the influence of the image on the mean. Where all is seen these are the values.

    Parameters
    ----------
    values : float array of shape (n_networks, n_methods, n_images)
        NaN where a network did not see an image.
    """
    seen = ~np.isnan(values)
    if seen.all():
        return values
    n_seen = seen.sum(axis=-1, keepdims=True)
    mean = np.nansum(values, axis=-1, keepdims=True) / n_seen
    return mean + np.where(seen, (values - mean) * (values.shape[-1] / n_seen), 0.0)
