"""Score maps as they come, as the study says and under every other setting beside; read the few maps that were kept."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.dataset import Split
from pretrain_xai.ground_truths import OF_TWINS, GroundTruths
from pretrain_xai.localization import confusion_counts, relevance_rank_accuracy, score_masked
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS, comparison_maps, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.protocol import CORRECTED, ChannelReduction, GroundTruth, Protocol, Sign
from pretrain_xai.self_checks import DELTA, check_scores
from pretrain_xai.settings.sections import Attribution, Sensitivity
from pretrain_xai.skill import skill
from pretrain_xai.study import NETWORK, Study
from pretrain_xai.tables import read_arrays, read_predictions, write_arrays

#: images whose maps are in memory at once
CHUNK = 64

T = TypeVar("T")


def chunks(image_indices: np.ndarray) -> list[np.ndarray]:
    """Return the indices in parts of CHUNK."""
    return [image_indices[start : start + CHUNK] for start in range(0, len(image_indices), CHUNK)]


class Setting(NamedTuple):
    """One way to score maps; see `settings.sections.Sensitivity`."""

    channel_reduction: ChannelReduction
    mask_threshold: float
    score: str
    ground_truth: GroundTruth = "lesion"
    sign: Sign = "unsigned"


@dataclass(frozen=True)
class SettingScores:
    """What the maps of some images score under every setting.

    Attributes
    ----------
    image_index : int array of shape (n_images,), ascending
    methods : sequence of str
    settings : sequence of Setting
    values : float array of shape (n_methods, n_settings, n_images)
        NaN where no pixel's lesion is stronger than the threshold, or the ground truth has no such score.
    chance : float array of shape (n_settings, n_images)
    """

    image_index: Integers
    methods: Sequence[str]
    settings: Sequence[Setting]
    values: Floats
    chance: Floats

    def add(
        self, method: str, maps: np.ndarray, truths: GroundTruths, chunk: np.ndarray, protocol: Protocol = CORRECTED
    ) -> MaskedMaps:
        """Score one method's attributions of some of the images, and return what the protocol itself scores of them.

        Parameters
        ----------
        maps : float array of shape (n, 3, height, width), or (n, height, width) if there is nothing to reduce
        truths : GroundTruths
            Of the images.
        chunk : int array of shape (n,)
            The indices of these images.
        """
        row, images = self.methods.index(method), np.searchsorted(self.image_index, chunk)
        own_how, of_maps = protocol.channel_reduction, dict[Any, MaskedMaps]()  # maps are sorted once for each
        alike = defaultdict(list)
        for place, setting in enumerate(self.settings):
            one = setting if maps.ndim == 4 else setting._replace(channel_reduction=own_how, sign="unsigned")
            alike[one._replace(score="")].append(place)
        for setting, places in alike.items():
            masks = truths.masks(setting.ground_truth, setting.mask_threshold)
            is_own = setting == Setting(own_how, protocol.mask_threshold, "")
            nothing = np.asarray(~masks.any(axis=(1, 2))) & (not is_own)
            masks = masks | nothing[:, None, None]  # scored like the others, and not kept
            how = setting.channel_reduction, setting.sign
            if how not in of_maps:
                of_maps[how] = MaskedMaps(reduce_channels(maps, *how) if maps.ndim == 4 else maps, masks, chunk)
            given = of_maps[how].with_masks(masks)
            if is_own:
                own = given
            scores = list(dict.fromkeys(self.settings[place].score for place in places))
            scored = truths.score(setting.ground_truth, given, scores, protocol.ties)
            for place in places:
                values, chance = scored[self.settings[place].score]
                self.values[row, place, images] = np.where(nothing, np.nan, values)
                self.chance[place, images] = np.where(nothing, np.nan, chance)  # the same for all methods
        return own

    def at(self, setting: Setting, image_index: ArrayLike) -> tuple[Floats, Floats]:
        """Return the scores of each method under one setting and their chance, NaN for images that are not scored.

        Parameters
        ----------
        image_index : int array of shape (n,)

        Returns
        -------
        values : float array of shape (n_methods, n)
        chance : float array of shape (n,)
        """
        image_index, number = np.asarray(image_index), self.settings.index(setting)
        places = np.minimum(np.searchsorted(self.image_index, image_index), len(self.image_index) - 1)
        found = self.values[:, number, places], self.chance[number, places]
        values, chance = (np.where(self.image_index[places] == image_index, each, np.nan) for each in found)
        return values, chance

    def skill_at(self, setting: Setting, image_index: ArrayLike) -> Floats:
        """Return the skill of each method under one setting, (n_methods, n); as `at`."""
        values, chance = self.at(setting, image_index)
        return skill(values, np.broadcast_to(chance, values.shape))

    def of(self, method: str) -> "SettingScores":
        """Return the scores of one method alone."""
        row = self.methods.index(method)
        return replace(self, methods=[method], values=self.values[[row]])

    def write(self, path: Path) -> None:
        """Write all as arrays, by the names of the attributes and those of a setting."""
        parts = zip(Setting._fields, zip(*self.settings, strict=True), strict=True)
        arrays = {name: value for name, value in vars(self).items() if name != "settings"} | dict(parts)
        write_arrays(path, **{name: np.asarray(value) for name, value in arrays.items()})

    @classmethod
    def read(cls, path: Path) -> "SettingScores":
        """Read what `write` wrote."""
        arrays: dict[str, Any] = read_arrays(path)
        settings = zip(*(arrays.pop(name).tolist() for name in Setting._fields), strict=True)
        return cls(**arrays | {"methods": arrays["methods"].tolist(), "settings": list(map(Setting._make, settings))})


def empty_scores(
    image_index: ArrayLike, methods: Sequence[str], settings: Sensitivity, protocol: Protocol, *, with_twins: bool
) -> SettingScores:
    """Return scores to be filled by `SettingScores.add`; the protocol's own ways are among the settings.

    Parameters
    ----------
    image_index : int array of shape (n_images,), ascending
    with_twins : bool
        The images have twins; else the ground truths that need them are left out.
    """
    image_index = np.asarray(image_index, dtype=np.int64)
    own = protocol.channel_reduction, protocol.mask_threshold
    thresholds = sorted(_with_own(settings.mask_thresholds, own[1]))
    scores = _with_own(settings.scores, "relevance_rank_accuracy")
    every = [Setting(*each) for each in product(_with_own(settings.channel_reductions, own[0]), thresholds, scores)]
    truths = [name for name in _with_own(settings.ground_truths, "lesion") if with_twins or name not in OF_TWINS]
    others = product(truths, _with_own(settings.signs, "unsigned"))
    every += [one for other in others if (one := Setting(*own, "relevance_rank_accuracy", *other)) not in every]
    shape = (len(every), len(image_index))
    return SettingScores(
        image_index, list(methods), every, np.full((len(methods), *shape), np.nan), np.full(shape, np.nan)
    )


#: a method, its attributions of some images, which these are, and if known what the network predicts and the deltas
Found = tuple[str, np.ndarray, np.ndarray, ArrayLike, ArrayLike | None]


def score_maps(
    split: Split,
    image_indices: np.ndarray,
    methods: Sequence[str],
    settings: Attribution,
    protocol: Protocol,
    found: Iterable[Found],
) -> tuple[pd.DataFrame, SettingScores]:
    """Score the maps of some images of a split as they come.

    Parameters
    ----------
    image_indices : int array of shape (n_images,)
        Images of `split`, each once.
    found : iterable
        Of all methods and images, as in `SettingScores.add`.

    Returns
    -------
    DataFrame with `method`, `image_index`, `label`, `predicted`, `metric`, `value`, `chance`
        One row per method, metric and image. Metrics are the settings' `scores`, the confusion counts, `k`, `all_zero` = 1
        for a map that says nothing, whose scores are chance, and `completeness_delta` in units of the logit where given.
    SettingScores
        What the same maps score under all settings.

    Raises
    ------
    SelfCheckError
        The scores can't be right (see `self_checks`).
    """
    has_twins, last, tables = split.twins is not None, None, []
    under_settings = empty_scores(np.sort(image_indices), methods, settings.sensitivity, protocol, with_twins=has_twins)
    for method, maps, chunk, predicted, deltas in found:
        if chunk is not last:  # the methods of a chunk follow one another
            last, truths = chunk, split.ground_truths(chunk)
        given = under_settings.add(method, maps, truths, chunk, protocol)
        counts = confusion_counts(given, ties=protocol.ties)._asdict()
        counts |= {"k": given.k, "all_zero": 1.0 - given.values.any(axis=1)}
        counts |= {} if deltas is None else {DELTA: deltas}
        scores = score_masked(given, settings.scores, ties=protocol.ties) | {n: (c, np.nan) for n, c in counts.items()}
        known = {"method": method, "image_index": chunk, "label": split.labels[chunk], "predicted": predicted}
        for metric, (values, chance) in scores.items():
            tables.append(pd.DataFrame(known | {"metric": metric, "value": values, "chance": chance}))
    order = ["method", "metric", "image_index"]
    table = pd.concat(tables, ignore_index=True).sort_values(order, ignore_index=True).astype({"predicted": "Int64"})
    return check_scores(table, split, image_indices, methods, settings.scores), under_settings


def score_comparison_maps(
    split: Split, image_indices: np.ndarray, settings: Attribution, protocol: Protocol
) -> tuple[pd.DataFrame, SettingScores]:
    """Score the maps that need no network; they have one channel and no sign: all reductions and signs are the same."""
    found = (
        (name, comparison_maps(split.images[chunk], name, signed_edges=protocol.signed_edges), chunk, np.nan, None)
        for chunk in chunks(image_indices)
        for name in COMPARISON_MAPS
    )
    return score_maps(split, image_indices, list(COMPARISON_MAPS), settings, protocol, found)


def score_ground_truths(
    split: Split, image_indices: np.ndarray, settings: Sensitivity, protocol: Protocol
) -> SettingScores:
    """Score the ground truths as maps, each against all: its methods are their names; images as in `score_maps`."""
    has_twins = split.twins is not None
    names: list[GroundTruth] = [name for name in get_args(GroundTruth) if has_twins or name not in OF_TWINS]
    found = empty_scores(np.sort(image_indices), names, settings, protocol, with_twins=has_twins)
    for chunk in chunks(image_indices):
        truths = split.ground_truths(chunk)
        for name in names:
            found.add(name, truths.as_maps(name, protocol.mask_threshold), truths, chunk, protocol)
    return found


def read_examples(study: Study, selection: str, test: Split) -> pd.DataFrame:
    """Return the kept maps of all fine-tuned models of a selection, those of the first seed of each cell.

    Returns
    -------
    DataFrame with `pretraining`, `finetune_depth`, `seed`, `title` (the depth, marked where the model is wrong),
    `image_index`, `method`, `correct`, `score` (Relevance Rank Accuracy) and `map` (float array (height, width)).
    """
    runs = [run for run in study.explained_runs() if run.selection == selection]
    first = {(run.pretraining, run.finetune_depth): run for run in reversed(runs)}
    tables = []
    for run in sorted(first.values()):
        arrays = read_arrays(study.paths.example_maps / f"{run.name}.npz")
        images = arrays.pop("image_index")
        tested = read_predictions(study.name, [run]).query("split == 'test'").set_index("image_index").loc[images]
        correct = (tested["label"] == tested["predicted"]).to_numpy()
        title = [f"depth {run.finetune_depth}{'' if right else ' ✗'}" for right in correct]
        network = {name: getattr(run, name) for name in NETWORK}
        for method, maps in arrays.items():
            score = relevance_rank_accuracy(maps, test.masks[images], study.protocol.ties)
            columns = {"title": title, "image_index": images, "method": method, "correct": correct, "score": score}
            tables.append(pd.DataFrame(network | columns | {"map": list(maps)}))
    return pd.concat(tables, ignore_index=True)


def _with_own(listed: Sequence[T], own: T) -> list[T]:
    return [*listed] if own in listed else [own, *listed]
