"""Scores of the same maps under many settings: every channel reduction with every mask threshold and every score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.localization import find_score
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS, comparison_maps, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.overlay import lesion_masks
from pretrain_xai.protocol import ChannelReduction, Protocol, Ties
from pretrain_xai.settings.sections import Sensitivity
from pretrain_xai.skill import skill
from pretrain_xai.tables import read_arrays, write_arrays

#: images whose comparison maps are in memory at once
CHUNK = 64

T = TypeVar("T")


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
        self, method: str, attributions: np.ndarray, strength: np.ndarray, chunk: np.ndarray, ties: Ties = "expected"
    ) -> None:
        """Score one method's attributions of some of the images.

        Parameters
        ----------
        attributions : float array of shape (n, 3, height, width)
        strength : float array of shape (n, height, width)
            Of the lesions, from which masks are made.
        chunk : int array of shape (n,)
            The indices of these images.
        ties : "expected" or "strict"
            As in `localization.confusion_counts`.
        """
        row = self.methods.index(method)
        for column, reduction in enumerate(self.channel_reductions):
            self.add_maps((row, column), reduce_channels(attributions, reduction), strength, chunk, ties)

    def add_maps(
        self, place: tuple[int, int], maps: np.ndarray, strength: np.ndarray, chunk: np.ndarray, ties: Ties = "expected"
    ) -> None:
        """Score one method's maps, (n, height, width), at the place of the method and of the channel reduction."""
        images = np.searchsorted(self.image_index, chunk)
        given = None
        for number, threshold in enumerate(self.mask_thresholds):
            masks = lesion_masks(np.asarray(strength), threshold)
            nothing = ~masks.any(axis=(1, 2))
            masks[nothing] = True  # scored like the others, and not kept
            given = MaskedMaps(maps, masks, chunk) if given is None else given.with_masks(masks)
            for column, name in enumerate(self.scores):
                values = np.where(nothing, np.nan, find_score(name)(given, ties=ties))
                self.values[(*place, number, column, images)] = values
                if np.isnan(self.chance[number, column, images]).any():  # the same for all methods
                    chance = np.where(nothing, np.nan, find_score(name).chance(masks))
                    self.chance[number, column, images] = chance

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
        names = ("image_index", "methods", "channel_reductions", "mask_thresholds", "scores", "values", "chance")
        write_arrays(path, **{name: np.asarray(getattr(self, name)) for name in names})

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


def score_comparison_maps_under_settings(
    images: np.ndarray, strength: np.ndarray, image_index: ArrayLike, settings: Sensitivity, protocol: Protocol
) -> SettingScores:
    """Score the maps that need no network under every setting; they have one channel, so all reductions are the same.

    Parameters
    ----------
    images, strength : float arrays of shape (n, height, width)
        All images of the split and the strength of their lesions; they stay on disk.
    image_index : int array of shape (n_images,), ascending
        Which of them.
    """
    alone = settings.model_copy(update={"channel_reductions": [protocol.channel_reduction]})
    found = empty_scores(image_index, list(COMPARISON_MAPS), alone, protocol)
    for start in range(0, len(found.image_index), CHUNK):
        chunk = found.image_index[start : start + CHUNK]
        for place, name in enumerate(COMPARISON_MAPS):
            maps = comparison_maps(np.asarray(images[chunk]), name, signed_edges=protocol.signed_edges)
            found.add_maps((place, 0), maps, strength[chunk], chunk, protocol.ties)
    return found


def _with_own(listed: Sequence[T], own: T) -> list[T]:
    return [*listed] if own in listed else [own, *listed]
