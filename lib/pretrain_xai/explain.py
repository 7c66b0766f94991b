"""Explain one model's images and score the maps, streamed: scores are kept, and the maps of a few examples."""

import functools
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from pretrain_xai.arrays import Integers
from pretrain_xai.attribution import METHODS, map_block
from pretrain_xai.dataset import LesionMasks, Split
from pretrain_xai.errors import UserError
from pretrain_xai.localization import chance, relevance_rank_accuracy
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS, comparison_maps, reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.methods.passes import guarded_blocks, micro_batch_rows
from pretrain_xai.networks.models import as_batch, difference_network, evaluation_mode
from pretrain_xai.networks.training import predict
from pretrain_xai.protocol import NEW_MAPS, RESCORED, Protocol, switched_protocols
from pretrain_xai.self_checks import check_completeness
from pretrain_xai.setting_scores import Found, SettingScores, chunks, score_maps
from pretrain_xai.settings.sections import Attribution

T = TypeVar("T")


def within_memory(explain: Callable[..., T]) -> Callable[..., T]:
    """Let `explain` start again with half the rows of a pass when memory runs out, down to one.

    Its first argument is the Explainer, which then keeps the smaller `micro_batch`. All maps of a model come from passes of
    one shape, so nothing that an interrupted attempt computed is kept.

    Raises
    ------
    UserError
        One image at a time is too much.
    """

    @functools.wraps(explain)
    def explain_within(explainer: "Explainer", *arguments: Any) -> T:
        while True:
            rows = explainer.micro_batch
            try:
                return explain(explainer, *arguments)
            except (MemoryError, RuntimeError) as error:
                # torch raises a plain RuntimeError where the system refuses memory, and a class of its own for a GPU
                if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate" not in str(error):
                    raise
                if rows == 1:
                    height, width = explainer.split.images.shape[1:3]
                    raise UserError(
                        f"memory ran out though images of {height} x {width} px were explained one at a time: run one job "
                        "at a time (`python -m pretrain_xai.batch STUDY --cores 1`), or choose a smaller "
                        "dataset.image_size or network.width"
                    ) from error
            # outside of the handler, whose error keeps the tensors of the failed pass alive
            logging.getLogger(__name__).warning("memory ran out with %d images a pass: again with %d", rows, rows // 2)
            explainer.micro_batch = rows // 2
            torch.cuda.empty_cache()

    return explain_within


class Explained(NamedTuple):
    """The signed maps of some images, by the names of the study's methods.

    Attributes
    ----------
    predicted : int array of shape (n,)
    maps : dict of float arrays of shape (n, 3, height, width)
    deltas : DataFrame of n rows
        The `difference` of what is explained, the true label's logit, to that of the black image, and a column for each
        method that should be complete: by how much the sum of the map misses it.
    """

    predicted: Integers
    maps: dict[str, np.ndarray]
    deltas: pd.DataFrame


@dataclass
class Explainer:
    """Explains images of a split by their true labels, as the settings and the protocol say, and scores the maps.

    Attributes
    ----------
    micro_batch : int
        Rows of the passes, to be recorded; smaller after a call for which memory was short.
    """

    network: nn.Module
    split: Split
    settings: Attribution
    protocol: Protocol
    micro_batch: int = 0

    def __post_init__(self) -> None:
        rows = self.settings.micro_batch or micro_batch_rows(*self.split.images.shape[1:3])
        self.micro_batch = self.micro_batch or rows

    def explain(self, chunk: np.ndarray, methods: Sequence[str], protocol: Protocol | None = None) -> Explained:
        """Explain the images `chunk` (n,), converted and guarded once; under another protocol if one is given."""
        protocol = protocol or self.protocol
        images = as_batch(self.split.images[chunk], self.network)
        predicted = predict(self.network, images, dropout_active=protocol.dropout_active).argmax(axis=1)
        passes: dict[str, Any] = {
            "image_ids": torch.from_numpy(np.array(chunk, dtype=np.int64)),
            "seed": secrets.randbits(31) if protocol.gradient_shap_unseeded else self.settings.seed,
            "micro_batch": self.micro_batch,
            "allow_dropout": protocol.dropout_active,
        }
        maps, missed = defaultdict(list), []
        targets = torch.from_numpy(self.split.labels[chunk]).to(images.device)
        explained = self.network
        if self.settings.explained == "difference":
            explained = difference_network(explained, images[:1])
        with evaluation_mode(explained, dropout_active=protocol.dropout_active):
            for _, block in guarded_blocks(explained, images, targets, **passes):
                deltas = {"difference": block.difference.cpu().numpy()}
                for name in methods:
                    method = "deep_lift_captum" if name == "deep_lift" and protocol.captum_deep_lift else name
                    found = map_block(block, method, self.settings.options.get(name, {}))
                    maps[name].append(found.cpu().numpy())
                    if METHODS[method].tolerance is not None:
                        deltas[name] = (found.double().sum((1, 2, 3)) - block.difference).cpu().numpy()
                missed.append(pd.DataFrame(deltas))
        whole = {name: np.concatenate(parts) for name, parts in maps.items()}
        return Explained(predicted, whole, pd.concat(missed, ignore_index=True))

    @within_memory
    def scores(self, image_indices: np.ndarray, methods: Sequence[str]) -> tuple[pd.DataFrame, SettingScores]:
        """Explain images, each once, by all methods and score the maps against the lesions.

        Returns
        -------
        As `score_maps`.

        Raises
        ------
        SelfCheckError
            The scores can't be right, or maps do not sum to what their method promises (see `self_checks`).
        """
        missed = []

        def found() -> Iterator[Found]:
            for chunk in tqdm(chunks(image_indices), desc="explaining", unit="chunk"):
                explained = self.explain(chunk, methods)
                missed.append(explained.deltas)
                for method, maps in explained.maps.items():
                    yield method, maps, chunk, explained.predicted, explained.deltas.get(method)

        scored = score_maps(self.split, image_indices, methods, self.settings, self.protocol, found())
        deltas = pd.concat(missed)
        # with dropout each pass is that of another network
        for method in [] if self.protocol.dropout_active else deltas.columns.drop("difference"):
            check_completeness(method, deltas[method], deltas["difference"], METHODS[method].tolerance)
        return scored

    @within_memory
    def switch_scores(self, image_indices: np.ndarray, methods: Sequence[str]) -> pd.DataFrame:
        """Score maps under the protocol, and under it with each switch of RESCORED as published.

        Maps are computed again only where a switch changes them, not where it changes their scores.

        Returns
        -------
        DataFrame with `switch` ("none": the protocol itself), `method`, `image_index`, `value` (Relevance Rank Accuracy) and
        `chance`.
        """
        tables = []
        for chunk in tqdm(chunks(image_indices), desc="switches", unit="chunk"):
            unchanged = self.explain(chunk, methods).maps
            for switch, switched in switched_protocols(self.protocol).items():
                concerned = _concerned(switch, methods)
                maps = self.explain(chunk, concerned, switched).maps if switch in NEW_MAPS else unchanged
                for method in concerned:
                    reduced = reduce_channels(maps[method], switched.channel_reduction)
                    scored = _rank_accuracy(reduced, self.split, chunk, switched)
                    tables.append(scored.assign(switch=switch, method=method))
        return pd.concat(tables, ignore_index=True)

    def example_maps(self, image_indices: np.ndarray, methods: Sequence[str]) -> dict[str, np.ndarray]:
        """Return each method's channel-reduced maps of a few images: float32 arrays of shape (n_images, height, width)."""
        maps = self.explain(image_indices, methods).maps
        return {method: reduce_channels(found, self.protocol.channel_reduction) for method, found in maps.items()}


def comparison_switch_scores(split: Split, image_indices: np.ndarray, protocol: Protocol) -> pd.DataFrame:
    """Score the maps that need no network; as `Explainer.switch_scores`."""
    tables = []
    for switch, switched in switched_protocols(protocol).items():
        for name in _concerned(switch, list(COMPARISON_MAPS)):
            for chunk in chunks(image_indices):
                maps = comparison_maps(split.images[chunk], name, signed_edges=switched.signed_edges)
                tables.append(_rank_accuracy(maps, split, chunk, switched).assign(switch=switch, method=name))
    return pd.concat(tables, ignore_index=True)


def _concerned(switch: str, methods: Sequence[str]) -> list[str]:
    return [method for method in methods if not RESCORED.get(switch) or method in RESCORED[switch]]


def _rank_accuracy(maps: np.ndarray, split: Split, chunk: np.ndarray, protocol: Protocol) -> pd.DataFrame:
    masks = LesionMasks(split.masks.strength, protocol.mask_threshold)[chunk]
    value = relevance_rank_accuracy(MaskedMaps(maps, masks, chunk), ties=protocol.ties)
    return pd.DataFrame({"image_index": chunk, "value": value, "chance": chance(masks)})
