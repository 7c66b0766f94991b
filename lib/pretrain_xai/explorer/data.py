"""What the `explore` notebook shows: the images, networks, scores and maps of a finished study.

Nothing here draws, and torch is loaded only where a map is computed that was not kept.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from pretrain_xai import localization
from pretrain_xai.dataset import read_split
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.names import label
from pretrain_xai.settings.sections import Selection
from pretrain_xai.study import CLASSES, UNTRAINED, Run, load_study
from pretrain_xai.tables import read_arrays, read_predictions, read_table

RANK_ACCURACY = "relevance_rank_accuracy"
#: which images are listed, by the words of the menu: as a query of `Explorer.images`
IMAGES = {
    "scored": "scored",
    "with kept maps": "kept",
    "wrong for a network": "n_wrong > 0",
    "whole test set": "n_wrong >= 0",
}
#: how they are sorted: by which column, and whether it ascends
ORDERS = {
    "lowest score": ("score", True),
    "highest score": ("score", False),
    "methods disagree": ("disagreement", False),
    "image number": ("image_index", True),
}


class Heatmap(NamedTuple):
    """A map of one image, each float array of shape (height, width).

    `absolute` is what is scored: the three channels reduced as the protocol says. `signed` is their sum, positive where
    a pixel speaks for the true class; None for maps that the study kept, since it keeps what it scores.
    """

    absolute: np.ndarray
    signed: np.ndarray | None = None


class Choice(NamedTuple):
    """What is looked at: one image, and a map of each network (in rows) and method (in columns)."""

    image: int
    runs: tuple[Run, ...]
    methods: tuple[str, ...]


class Explorer:
    """A finished study as one looks at it: which networks and images there are, and what is known of each map.

    `runs` are the networks of one selection, the untrained one last. `kept(run)` holds the kept maps of a network by method,
    float arrays (n_images, height, width), and their `image_index`.

    Raises
    ------
    UserError
        The study was not run, or has no such selection.
    """

    def __init__(self, name: str, selection: Selection) -> None:
        self.study = study = load_study(name)
        self.runs = [run for run in study.scored_runs() if run.selection == study.check_selection(selection)]
        self.test = read_split(study.paths.dataset / "test", study.protocol.mask_threshold)
        quick = [name for name, score in localization.SCORES.items() if not score.is_slow]
        #: the scores of the study that take milliseconds, Relevance Rank Accuracy first
        self.scores = [RANK_ACCURACY, *(s for s in study.attribution.scores if s in quick and s != RANK_ACCURACY)]
        self._computed: dict[tuple[Run, str, int], Heatmap] = {}
        # read once
        self.kept = cache(lambda run: read_arrays(study.paths.example_maps / f"{run.name}.npz"))
        self.rank_accuracies = cache(self._rank_accuracies)
        self.predictions = cache(self._predictions)

    @property
    def deepest(self) -> list[Run]:
        """The first network of each corpus at the greatest fine-tuning depth."""
        depth = self.study.explained_depths[-1]
        found = {run.pretraining: run for run in reversed(self.runs) if run.finetune_depth == depth}
        return [found[corpus] for corpus in self.study.pretraining.corpora]

    def run_name(self, run: Run) -> str:
        """Return how a network is called in menus and pictures."""
        if run.pretraining == UNTRAINED:
            return "untrained network" + (f", seed {run.seed}" if self.study.attribution.untrained_networks > 1 else "")
        seed = f", seed {run.seed}" if self.study.n_seeds(run.selection) > 1 else ""
        return f"{label(run.pretraining)}, depth {run.finetune_depth}{seed}"

    def _rank_accuracies(self, run: Run) -> pd.DataFrame:
        """Return one network's Relevance Rank Accuracy: a row per scored image or kept map, a column per method."""
        table = read_table(self.study.paths.scores / f"{run.name}.parquet").query("metric == @RANK_ACCURACY")
        scored = table.pivot(index="image_index", columns="method", values="value")
        maps = dict(self.kept(run))
        images = pd.Index(maps.pop("image_index"), name="image_index")
        masks, score = self.test.masks[images.to_numpy()], localization.relevance_rank_accuracy
        values = {method: score(found, masks, self.study.protocol.ties) for method, found in maps.items()}
        return scored.combine_first(pd.DataFrame(values, index=images))

    def _predictions(self, run: Run) -> pd.DataFrame:
        """Return what a network says of each test image, with the `probability` of that; nothing if it is untrained."""
        if run.pretraining == UNTRAINED:
            return pd.DataFrame(columns=["label", "predicted", "probability"])
        table = read_predictions(self.study.name, [run]).query("split == 'test'").set_index("image_index")
        return table.assign(probability=softmax(table[["logit_0", "logit_1"]].to_numpy(float), axis=1).max(axis=1))

    def images(self, runs: Sequence[Run], methods: Sequence[str], listed: str, order: str) -> pd.DataFrame:
        """Return the images of a list in an order.

        Parameters
        ----------
        runs : at least one
        listed : a key of IMAGES
        order : a key of ORDERS
            The score is the mean over networks and methods of Relevance Rank Accuracy; methods disagree by the range of
            their means over networks (of all scored methods if fewer than two are chosen). Images without a score come last.

        Returns
        -------
        DataFrame with `image_index`, `score`, `disagreement`, `scored`, `kept` (maps of all `runs`), `n_wrong` (of `runs`)
        """
        scores = pd.concat([self.rank_accuracies(run) for run in runs]).groupby(level="image_index").mean()
        chosen = [method for method in methods if method in scores]
        compared = scores[chosen] if len(chosen) > 1 else scores
        table = pd.DataFrame(index=pd.RangeIndex(len(self.test), name="image_index"))
        table["score"] = scores[chosen].mean(axis=1)
        table["disagreement"] = compared.max(axis=1) - compared.min(axis=1)
        table["scored"], table["kept"] = table.index.isin(scores.index), table.index.isin(self.kept_images(runs))
        wrong = [table.index.isin(self.predictions(run).query("predicted != label").index) for run in runs]
        table["n_wrong"] = np.sum(wrong, axis=0, dtype=int)
        column, ascending = ORDERS[order]
        found = table.query(IMAGES[listed]).reset_index()
        return found.sort_values([column, "image_index"], ascending=[ascending, True], ignore_index=True)

    def kept_images(self, runs: Sequence[Run]) -> list[int]:
        """Return the images of which the study kept maps of all `runs`."""
        return sorted(set.intersection(*(set(self.kept(run)["image_index"].tolist()) for run in runs)))

    def heatmaps(self, choice: Choice) -> dict[tuple[Run, str], Heatmap | None]:
        """Return the maps of a choice by network and method, None for those that are neither kept nor computed."""
        maps = {}
        for run, method in itertools.product(choice.runs, choice.methods):
            kept = dict(zip(self.kept(run)["image_index"], self.kept(run).get(method, ()), strict=False))
            stored = Heatmap(kept[choice.image]) if choice.image in kept else None
            maps[run, method] = self._computed.get((run, method, choice.image), stored)
        return maps

    def missing(self, choice: Choice, *, signed: bool) -> list[tuple[Run, str]]:
        """Return the networks and methods whose map must be computed first; kept maps have no sign."""
        maps = self.heatmaps(choice).items()
        return [key for key, heatmap in maps if heatmap is None or (signed and heatmap.signed is None)]

    def compute(self, choice: Choice, *, signed: bool, say: Callable[[str], None]) -> None:
        """Compute the missing maps, network by network; `say` is told which one.

        They are those of the study, to the bit, with their sign; methods are any keys of `attribution.METHODS`.
        """
        from pretrain_xai.explain import Explainer
        from pretrain_xai.networks.models import load_finetuned
        from pretrain_xai.networks.training import configure_torch

        configure_torch(self.study.threads)
        settings, protocol, images = self.study.attribution, self.study.protocol, np.array([choice.image])
        for run, keys in itertools.groupby(self.missing(choice, signed=signed), lambda key: key[0]):
            methods = [method for _, method in keys]
            say(f"computing {', '.join(map(label, methods))} of {self.run_name(run)}")
            explainer = Explainer(load_finetuned(self.study, run), self.test, settings, protocol)
            for method, maps in explainer.explain(images, methods).maps.items():
                heatmap = Heatmap(reduce_channels(maps, protocol.channel_reduction)[0], maps[0].sum(axis=0))
                self._computed[run, method, choice.image] = heatmap

    def table(self, choice: Choice) -> pd.DataFrame:
        """Return what is known of each map: the model's columns, prediction, scores with their chance.

        Maps that are not at hand have the Relevance Rank Accuracy that the study wrote, if it did.
        """
        image, ties, rows = choice.image, self.study.protocol.ties, []
        mask, truth = self.test.masks[[image]], CLASSES[self.test.labels[image]]
        for (run, method), heatmap in self.heatmaps(choice).items():
            said = self.predictions(run).reindex([image]).iloc[0]
            row = dataclasses.asdict(run) | {"method": method, "image_index": image, "class": truth}
            row["predicted"] = None if run.pretraining == UNTRAINED else CLASSES[int(said["predicted"])]
            row["probability"] = said["probability"]
            if heatmap is None:
                written = self.rank_accuracies(run).get(method, {}).get(image, np.nan)
                scores = {RANK_ACCURACY: (np.array([written]), localization.chance(mask))}
            else:
                scores = localization.score_masked(MaskedMaps(heatmap.absolute[None], mask), self.scores, ties=ties)
            for name, (values, chances) in scores.items():
                row |= {name: float(values[0]), f"{name}_chance": float(chances[0])}
            rows.append(row)
        return pd.DataFrame(rows)
