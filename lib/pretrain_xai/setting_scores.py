"""Score maps as they come, as the study says and under every other setting beside; read the few maps that were kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.dataset import Split
from pretrain_xai.localization import confusion_counts, relevance_rank_accuracy, score_masked
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS, comparison_maps, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.overlay import lesion_masks
from pretrain_xai.protocol import CORRECTED, ChannelReduction, Protocol
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


@dataclass(frozen=True)
class SettingScores:
    """What the maps of some images score under every setting.

    Attributes
    ----------
    image_index : int array of shape (n_images,), ascending
    methods, channel_reductions, mask_thresholds, scores : sequences
        What the axes of `values` are.
    values : float array of shape (n_methods, n_reductions, n_thresholds, n_scores, n_images)
        NaN where no pixel's lesion is stronger than the threshold.
    chance : float array of shape (n_thresholds, n_scores, n_images)
    """

    image_index: Integers
    methods: Sequence[str]
    channel_reductions: Sequence[ChannelReduction]
    mask_thresholds: Sequence[float]
    scores: Sequence[str]
    values: Floats
    chance: Floats

    def add(
        self, method: str, maps: np.ndarray, strength: np.ndarray, chunk: np.ndarray, protocol: Protocol = CORRECTED
    ) -> MaskedMaps:
        """Score one method's attributions of some of the images, and return what the protocol itself scores of them.

        Parameters
        ----------
        maps : float array of shape (n, 3, height, width), or (n, height, width) if there is nothing to reduce
        strength : float array of shape (n, height, width)
            Of the lesions, from which masks are made.
        chunk : int array of shape (n,)
            The indices of these images.
        """
        row, images = self.methods.index(method), np.searchsorted(self.image_index, chunk)
        for column, reduction in enumerate(self.channel_reductions):
            reduced, given = reduce_channels(maps, reduction) if maps.ndim == 4 else maps, None
            for number, threshold in enumerate(self.mask_thresholds):
                masks = lesion_masks(np.asarray(strength), threshold)
                nothing = ~masks.any(axis=(1, 2)) & (threshold != protocol.mask_threshold)
                masks[nothing] = True  # scored like the others, and not kept
                given = MaskedMaps(reduced, masks, chunk) if given is None else given.with_masks(masks)
                if (reduction, threshold) == (protocol.channel_reduction, protocol.mask_threshold):
                    own = given
                for place, (values, chance) in enumerate(score_masked(given, self.scores, ties=protocol.ties).values()):
                    self.values[row, column, number, place, images] = np.where(nothing, np.nan, values)
                    self.chance[number, place, images] = np.where(nothing, np.nan, chance)  # the same for all methods
        return own

    def skill_at(self, setting: tuple[int, int, int], image_index: ArrayLike) -> Floats:
        """Return the skill of each method under one setting, NaN for images that are not scored.

        Parameters
        ----------
        setting : places of the channel reduction, the mask threshold and the score
        image_index : int array of shape (n,)

        Returns
        -------
        float array of shape (n_methods, n)
        """
        image_index = np.asarray(image_index)
        places = np.minimum(np.searchsorted(self.image_index, image_index), len(self.image_index) - 1)
        values = self.values[(slice(None), *setting)][:, places]
        skills = skill(values, np.broadcast_to(self.chance[setting[1:]][places], values.shape))
        return np.where(self.image_index[places] == image_index, skills, np.nan)

    def of(self, method: str) -> "SettingScores":
        """Return the scores of one method alone."""
        row = self.methods.index(method)
        return replace(self, methods=[method], values=self.values[[row]])

    def write(self, path: Path) -> None:
        """Write all as arrays, by the names of the attributes."""
        write_arrays(path, **{name: np.asarray(value) for name, value in vars(self).items()})

    @classmethod
    def read(cls, path: Path) -> "SettingScores":
        """Read what `write` wrote."""
        lists = ("methods", "channel_reductions", "mask_thresholds", "scores")
        arrays: dict[str, Any] = read_arrays(path)
        return cls(**arrays | {name: arrays[name].tolist() for name in lists})


def empty_scores(
    image_index: ArrayLike, methods: Sequence[str], settings: Sensitivity, protocol: Protocol
) -> SettingScores:
    """Return scores to be filled by `SettingScores.add`; the protocol's reduction and threshold are among the settings.

    Parameters
    ----------
    image_index : int array of shape (n_images,), ascending
    """
    image_index = np.asarray(image_index, dtype=np.int64)
    reductions = _with_own(settings.channel_reductions, protocol.channel_reduction)
    thresholds = sorted(_with_own(settings.mask_thresholds, protocol.mask_threshold))
    scores = _with_own(settings.scores, "relevance_rank_accuracy")
    shape = (len(thresholds), len(scores), len(image_index))
    values = np.full((len(methods), len(reductions), *shape), np.nan)
    return SettingScores(image_index, list(methods), reductions, thresholds, scores, values, np.full(shape, np.nan))


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
    under_settings, tables = empty_scores(np.sort(image_indices), methods, settings.sensitivity, protocol), []
    for method, maps, chunk, predicted, deltas in found:
        given = under_settings.add(method, maps, split.masks.strength[chunk], chunk, protocol)
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
    """Score the maps that need no network; they have one channel, so all reductions are the same."""
    alone = settings.sensitivity.model_copy(update={"channel_reductions": [protocol.channel_reduction]})
    settings = settings.model_copy(update={"sensitivity": alone})
    found = (
        (name, comparison_maps(split.images[chunk], name, signed_edges=protocol.signed_edges), chunk, np.nan, None)
        for chunk in chunks(image_indices)
        for name in COMPARISON_MAPS
    )
    return score_maps(split, image_indices, list(COMPARISON_MAPS), settings, protocol, found)


def read_examples(study: Study, selection: str, test: Split) -> pd.DataFrame:
    """Return the kept maps of all fine-tuned models of a selection, those of the first seed of each cell.

    Returns
    -------
    DataFrame with `pretraining`, `finetune_depth`, `seed`, `title` (the depth, marked where the model is wrong),
    `image_index`, `method`, `correct`, `score` (Relevance Rank Accuracy) and `map` (float array (height, width)).
    """
    runs = [run for run in study.runs() if run.selection == selection]
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
