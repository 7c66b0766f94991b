"""Explain one model's images and score the maps, streamed: scores are kept, and the maps of a few examples."""

import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from pretrain_xai.attribution import METHODS, attribute_all, completeness_delta
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.localization import Scored, chance, confusion_counts, relevance_rank_accuracy, score_masked
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS, comparison_maps, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.memory import within_memory
from pretrain_xai.networks.hardware import as_batch
from pretrain_xai.networks.models import evaluation_mode
from pretrain_xai.networks.training import predict
from pretrain_xai.protocol import NEW_MAPS, RESCORED, Protocol, switched_protocols
from pretrain_xai.self_checks import DELTA, check_completeness, check_scores
from pretrain_xai.setting_scores import SettingScores
from pretrain_xai.settings.sections import Attribution

#: images whose maps are in memory at once
CHUNK = 64
#: image index, label, prediction, value and chance of each chunk, by method and metric
_Rows = dict[tuple[str, str], list[tuple[np.ndarray, ...]]]
#: the method that stands for `method` under the published protocol
_PUBLISHED_METHODS = {"deep_lift": "deep_lift_captum"}


@within_memory
def explain_and_score(
    network: nn.Module,
    split: Split,
    image_indices: np.ndarray,
    methods: Sequence[str],
    settings: Attribution,
    protocol: Protocol,
    *,
    under_settings: SettingScores | None = None,
) -> pd.DataFrame:
    """Explain each image's true label by all methods and score the maps against the lesions.

    Parameters
    ----------
    image_indices : int array of shape (n_images,)
        Images of `split`, each once.
    under_settings : SettingScores, optional
        Filled with what the same maps score under other settings.

    Returns
    -------
    DataFrame with `method`, `image_index`, `label`, `predicted`, `metric`, `value`, `chance`: one row per image, method and
    metric (the settings' `scores`, the confusion counts, `k`, `all_zero` = 1 for a map that says nothing, whose scores are
    chance, and `completeness_delta` in units of the logit for methods that should be complete).
    int, the rows of the passes (see `within_memory`).

    Raises
    ------
    SelfCheckError
        The scores can't be right (see `self_checks`).
    """
    rows: _Rows = defaultdict(list)
    completeness: dict[str, list[np.ndarray]] = defaultdict(list)
    for chunk in tqdm(_chunks(image_indices), desc="explaining", unit="chunk", total=-(-len(image_indices) // CHUNK)):
        images, masks, labels = split.images[chunk], split.masks[chunk], split.labels[chunk]
        predicted = predict(network, images, dropout_active=protocol.dropout_active).argmax(axis=1)
        known = chunk, labels, predicted
        for method, (attributions, deltas) in signed_attributions(
            network, images, labels, chunk, methods, settings, protocol
        ).items():
            maps = reduce_channels(attributions, protocol.channel_reduction)
            scores = _localization(maps, masks, settings.scores, protocol, chunk)
            if deltas is not None:
                scores[DELTA] = (deltas, np.full(len(chunk), np.nan))
                completeness[method].append(np.stack([attributions.sum(axis=(1, 2, 3), dtype=np.float64), deltas]))
            _append(rows, method, known, scores)
            if under_settings is not None:
                under_settings.add(method, attributions, split.masks.strength[chunk], chunk, protocol.ties)
    if not protocol.dropout_active:  # else each pass is that of another network
        for method, parts in completeness.items():
            sums, missed = np.concatenate(parts, axis=1)
            check_completeness(method, sums, missed, METHODS[method].tolerance)
    return check_scores(_table(rows), split, image_indices, methods, settings.scores)


def score_comparison_maps(
    split: Split, image_indices: np.ndarray, settings: Attribution, protocol: Protocol
) -> pd.DataFrame:
    """Score the maps that need no network (`COMPARISON_MAPS`); as `explain_and_score`, without predictions."""
    rows: _Rows = defaultdict(list)
    for chunk in _chunks(image_indices):
        images, masks = np.asarray(split.images[chunk]), split.masks[chunk]
        known = chunk, split.labels[chunk], np.full(len(chunk), np.nan)
        for name in COMPARISON_MAPS:
            maps = comparison_maps(images, name, signed_edges=protocol.signed_edges)
            _append(rows, name, known, _localization(maps, masks, settings.scores, protocol, chunk))
    return check_scores(_table(rows), split, image_indices, COMPARISON_MAPS, settings.scores)


@within_memory
def score_under_switches(
    network: nn.Module,
    split: Split,
    image_indices: np.ndarray,
    methods: Sequence[str],
    settings: Attribution,
    protocol: Protocol,
) -> pd.DataFrame:
    """Score one network's maps under the protocol, and under it with each switch of RESCORED as published.

    Maps are computed anew only where a switch changes them, not where it changes their scores.

    Returns
    -------
    DataFrame with `switch` ("none": the protocol itself), `method`, `image_index`, `value` (Relevance Rank Accuracy) and
    `chance`. int, the rows of the passes (see `within_memory`).
    """
    tables = []
    for chunk in tqdm(_chunks(image_indices), desc="switches", unit="chunk", total=-(-len(image_indices) // CHUNK)):
        images, labels = split.images[chunk], split.labels[chunk]
        unchanged = signed_attributions(network, images, labels, chunk, methods, settings, protocol)
        for switch, switched in switched_protocols(protocol).items():
            concerned = [method for method in methods if not RESCORED.get(switch) or method in RESCORED[switch]]
            maps = unchanged
            if switch in NEW_MAPS:
                maps = signed_attributions(network, images, labels, chunk, concerned, settings, switched)
            for method in concerned:
                reduced = reduce_channels(maps[method][0], switched.channel_reduction)
                tables.append(_rank_accuracy(reduced, split, chunk, switched).assign(switch=switch, method=method))
    return pd.concat(tables, ignore_index=True)


def score_comparison_maps_under_switches(split: Split, image_indices: np.ndarray, protocol: Protocol) -> pd.DataFrame:
    """Score the maps that need no network; as `score_under_switches`."""
    tables = []
    for switch, switched in switched_protocols(protocol).items():
        for name in [n for n in COMPARISON_MAPS if not RESCORED.get(switch) or n in RESCORED[switch]]:
            for chunk in _chunks(image_indices):
                maps = comparison_maps(split.images[chunk], name, signed_edges=switched.signed_edges)
                tables.append(_rank_accuracy(maps, split, chunk, switched).assign(switch=switch, method=name))
    return pd.concat(tables, ignore_index=True)


def example_maps(
    network: nn.Module,
    split: Split,
    image_indices: np.ndarray,
    methods: Sequence[str],
    settings: Attribution,
    protocol: Protocol,
) -> dict[str, np.ndarray]:
    """Return each method's channel-reduced maps of a few images: float32 arrays of shape (n_images, height, width)."""
    images, labels = split.images[image_indices], split.labels[image_indices]
    attributions = signed_attributions(network, images, labels, image_indices, methods, settings, protocol)
    return {method: reduce_channels(maps, protocol.channel_reduction) for method, (maps, _) in attributions.items()}


def signed_attributions(
    network: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    image_indices: np.ndarray,
    methods: Sequence[str],
    settings: Attribution,
    protocol: Protocol,
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Return signed maps (n, 3, height, width) and completeness deltas (n,), by the names of the study's methods."""
    computed = {name: _PUBLISHED_METHODS.get(name, name) if protocol.captum_deep_lift else name for name in methods}
    inputs = as_batch(images, network)
    targets = torch.from_numpy(labels).to(inputs.device)
    drawn: dict[str, Any] = {
        "image_ids": torch.from_numpy(np.array(image_indices, dtype=np.int64)),
        "seed": secrets.randbits(31) if protocol.gradient_shap_unseeded else settings.seed,
        "micro_batch": settings.micro_batch,
        "allow_dropout": protocol.dropout_active,
    }
    options = {computed[name]: options for name, options in settings.options.items() if name in computed}
    with evaluation_mode(network, dropout_active=protocol.dropout_active):
        maps = attribute_all(network, inputs, targets, list(computed.values()), options=options, **drawn)
        deltas = {
            name: completeness_delta(network, inputs, targets, maps[actual], **drawn).cpu().numpy()
            for name, actual in computed.items()
            if METHODS[actual].tolerance is not None
        }
    return {name: (maps[actual].cpu().numpy(), deltas.get(name)) for name, actual in computed.items()}


def _localization(
    maps: np.ndarray, masks: np.ndarray, scores: Sequence[str], protocol: Protocol, image_indices: np.ndarray
) -> Scored:
    """Return value and chance level of the scores, the confusion counts, k and the flag of an empty map, by name."""
    given = MaskedMaps(maps, masks, image_indices)
    none = np.full(len(maps), np.nan)
    counts = confusion_counts(given, ties=protocol.ties)
    return {
        **score_masked(given, scores, ties=protocol.ties),
        **{name: (values, none) for name, values in counts._asdict().items()},
        "k": (given.k, none),
        "all_zero": ((~maps.any(axis=(1, 2))).astype(np.float64), none),
    }


def _rank_accuracy(maps: np.ndarray, split: Split, chunk: np.ndarray, protocol: Protocol) -> pd.DataFrame:
    masks = LesionMasks(split.masks.strength, protocol.mask_threshold)[chunk]
    value = relevance_rank_accuracy(MaskedMaps(maps, masks, chunk), ties=protocol.ties)
    return pd.DataFrame({"image_index": chunk, "value": value, "chance": chance(masks)})


def _append(rows: _Rows, method: str, known: tuple[np.ndarray, ...], scores: Scored) -> None:
    for metric, (value, level) in scores.items():
        rows[method, metric].append((*known, value, level))


def _table(rows: _Rows) -> pd.DataFrame:
    """Return rows by method, metric and image; made once, since the table is all that grows with the images."""
    keys = sorted(rows)
    orders = [np.argsort(np.concatenate([part[0] for part in rows[key]])) for key in keys]

    def column(place: int) -> np.ndarray:
        whole = (np.concatenate([part[place] for part in rows[key]]) for key in keys)
        return np.concatenate([values[order] for values, order in zip(whole, orders, strict=True)])

    def names(place: int) -> np.ndarray:
        return np.repeat(np.array([key[place] for key in keys], dtype=object), [len(order) for order in orders])

    columns = {"method": names(0), "image_index": column(0), "label": column(1), "predicted": column(2)}
    columns |= {"metric": names(1), "value": column(3), "chance": column(4)}
    return pd.DataFrame(columns, copy=False).astype({"predicted": "Int64"})


def _chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), CHUNK):
        yield indices[start : start + CHUNK]
