"""The maps at hand: those that the study kept, and those that are computed while somebody looks."""

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pretrain_xai.dataset import Split
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.study import Run, Study
from pretrain_xai.tables import read_arrays

if TYPE_CHECKING:  # what only looks at maps need not wait for torch
    from torch import nn


class Heatmap(NamedTuple):
    """A map of one image, each float array of shape (height, width).

    `absolute` is what is scored: the three channels reduced as the protocol says. `signed` is their sum, positive where
    a pixel speaks for the true class; None for maps that the study kept, since it keeps what it scores.
    """

    absolute: np.ndarray
    signed: np.ndarray | None = None


class MapShelf:
    """Maps by network, method and image: kept ones are read once, others stay in memory when computed."""

    def __init__(self, study: Study, test: Split) -> None:
        self._study, self._test = study, test
        self._kept: dict[Run, dict[str, np.ndarray]] = {}
        self._computed: dict[tuple[Run, str, int], Heatmap] = {}
        self._network = lru_cache(maxsize=2)(self._load)

    def kept(self, run: Run) -> dict[str, np.ndarray]:
        """Return the kept maps of `run` by method, float arrays (n_images, height, width), and their `image_index`."""
        if run not in self._kept:
            self._kept[run] = read_arrays(self._study.paths.example_maps / f"{run.name}.npz")
        return dict(self._kept[run])

    def find(self, run: Run, method: str, image: int) -> Heatmap | None:
        """Return a map if it is at hand."""
        if (run, method, image) in self._computed:
            return self._computed[run, method, image]
        arrays = self.kept(run)
        place = np.flatnonzero(arrays["image_index"] == image)
        return Heatmap(arrays[method][place[0]]) if method in arrays and len(place) else None

    def compute(self, run: Run, method: str, image: int) -> Heatmap:
        """Compute a map as the study would, to the bit, with its sign; any key of `attribution.METHODS`."""
        from pretrain_xai.explain import Explainer

        protocol = self._study.protocol
        explainer = Explainer(self._network(run), self._test, self._study.attribution, protocol)
        maps = explainer.explain(np.array([image]), [method]).maps[method]
        heatmap = Heatmap(reduce_channels(maps, protocol.channel_reduction)[0], maps[0].sum(axis=0))
        self._computed[run, method, image] = heatmap
        return heatmap

    def _load(self, run: Run) -> "nn.Module":
        from pretrain_xai.networks.models import load_finetuned
        from pretrain_xai.networks.training import configure_torch

        configure_torch(self._study.threads)
        return load_finetuned(self._study, run)
