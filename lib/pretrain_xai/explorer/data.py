"""What the `explore` notebook shows: the images, networks, scores and maps of a finished study.

Nothing here draws, and torch is loaded only where a map is computed that was not kept.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from pretrain_xai import localization, paths
from pretrain_xai.dataset import read_split
from pretrain_xai.lesions import CLASSES
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.names import label
from pretrain_xai.settings.sections import Selection
from pretrain_xai.study import UNTRAINED, Run, load_study
from pretrain_xai.tables import read_arrays, read_predictions, read_table

RANK_ACCURACY = "relevance_rank_accuracy"
#: which images are listed, by the words of the menu
IMAGES = ("scored", "with kept maps", "wrong for a network", "whole test set")
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
    """A finished study as one looks at it: which networks there are, which images, and what is known of each map.

    `kept(run)` holds the kept maps of a network by method, float arrays (n_images, height, width), and their `image_index`.
    """

    def __init__(self, name: str) -> None:
        self.study = study = load_study(name)
        self.test = read_split(study.paths.dataset / "test", study.protocol.mask_threshold)
        quick = [name for name, score in localization.SCORES.items() if not score.is_slow]
        #: the scores of the study that take milliseconds, Relevance Rank Accuracy first
        self.scores = [RANK_ACCURACY, *(s for s in study.attribution.scores if s in quick and s != RANK_ACCURACY)]
        self._computed: dict[tuple[Run, str, int], Heatmap] = {}
        # read once; two networks stay in memory
        self.kept = cache(lambda run: read_arrays(study.paths.example_maps / f"{run.name}.npz"))
        self.rank_accuracies = cache(self._rank_accuracies)
        self.predictions = cache(self._predictions)
        self._network = lru_cache(maxsize=2)(self._load)

    def runs(
        self, selection: Selection, corpora: Sequence[str], depths: Sequence[int], position: int | None = 0
    ) -> list[Run]:
        """Return the networks of a selection, of each corpus and depth the `position`-th seed or all; "none": untrained."""
        known = [run for run in (*self.study.untrained_runs(), *self.study.runs()) if run.selection == selection]
        found = []
        for corpus, depth in itertools.product(corpora, [0, *sorted(depths)]):
            of_cell = [run for run in known if (run.pretraining, run.finetune_depth) == (corpus, depth)]
            found += of_cell if position is None or depth == 0 else of_cell[position : position + 1]
        return found

    def corpus_name(self, corpus: str) -> str:
        """Return how a corpus of this study is called."""
        return label(corpus, self.study.pretraining.target)

    def run_name(self, run: Run) -> str:
        """Return how a network is called in the picture."""
        if run.pretraining == UNTRAINED:
            return "untrained network"
        seed = f", seed {run.seed}" if self.study.n_seeds(run.selection) > 1 else ""
        return f"{self.corpus_name(run.pretraining)}, depth {run.finetune_depth}{seed}"

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
        logits = table[["logit_0", "logit_1"]].to_numpy(dtype=np.float64)
        return table.assign(probability=softmax(logits, axis=1)[np.arange(len(table)), table["predicted"]])

    def images(self, runs: Sequence[Run], methods: Sequence[str], listed: str, order: str) -> pd.DataFrame:
        """Return the images of a list in an order.

        Parameters
        ----------
        listed : one of IMAGES
        order : one of ORDERS
            The score is the mean over networks and methods of Relevance Rank Accuracy; methods disagree by the range of
            their means over networks (of all scored methods if fewer than two are chosen). Images without a score come last.

        Returns
        -------
        DataFrame with `image_index`, `score`, `disagreement`, `n_wrong` (of `runs`) and `kept` (maps of all `runs`)
        """
        found = [self.rank_accuracies(run) for run in runs]
        scores = pd.concat(found).groupby(level="image_index").mean() if found else pd.DataFrame()
        chosen = [method for method in methods if method in scores]
        compared = scores[chosen] if len(chosen) > 1 else scores
        table = pd.DataFrame(index=pd.RangeIndex(len(self.test), name="image_index"))
        table["score"] = scores[chosen].mean(axis=1)
        table["disagreement"] = compared.max(axis=1) - compared.min(axis=1)
        wrong = [table.index.isin(self.predictions(run).query("predicted != label").index) for run in runs]
        table["n_wrong"] = np.sum(wrong, axis=0, dtype=int) if wrong else 0
        table["kept"] = table.index.isin(self.kept_images(runs))
        parts = (table.index.isin(scores.index), table["kept"], table["n_wrong"] > 0, table.index >= 0)
        table = table[dict(zip(IMAGES, parts, strict=True))[listed]].reset_index()
        column, ascending = ORDERS[order]
        return table.sort_values([column, "image_index"], ascending=[ascending, True], ignore_index=True)

    def kept_images(self, runs: Sequence[Run]) -> list[int]:
        """Return the images of which the study kept maps of all `runs`."""
        kept = [set(self.kept(run)["image_index"].tolist()) for run in runs]
        return sorted(set.intersection(*kept)) if kept else []

    def heatmaps(self, choice: Choice) -> dict[tuple[Run, str], Heatmap | None]:
        """Return the maps of a choice by network and method, None for those that are neither kept nor computed."""
        maps = {}
        for run in choice.runs:
            kept = self.kept(run)
            place = kept["image_index"] == choice.image
            for method in choice.methods:
                stored = Heatmap(kept[method][place][0]) if method in kept and place.any() else None
                maps[run, method] = self._computed.get((run, method, choice.image), stored)
        return maps

    def missing(self, choice: Choice, *, signed: bool) -> list[tuple[Run, str]]:
        """Return the networks and methods whose map must be computed first; kept maps have no sign."""
        maps = self.heatmaps(choice).items()
        return [key for key, heatmap in maps if heatmap is None or (signed and heatmap.signed is None)]

    def compute(self, choice: Choice, *, signed: bool, progress: Callable[[int, int, str], None]) -> None:
        """Compute the missing maps one by one; `progress(done, all, what)` is called before each and at the end.

        They are those of the study, to the bit, with their sign; methods are any keys of `attribution.METHODS`.
        """
        from pretrain_xai.explain import Explainer

        todo, protocol, images = self.missing(choice, signed=signed), self.study.protocol, np.array([choice.image])
        for done, (run, method) in enumerate(todo):
            progress(done, len(todo), f"{label(method)}, {self.run_name(run)}")
            explainer = Explainer(self._network(run), self.test, self.study.attribution, protocol)
            maps = explainer.explain(images, [method]).maps[method]
            heatmap = Heatmap(reduce_channels(maps, protocol.channel_reduction)[0], maps[0].sum(axis=0))
            self._computed[run, method, choice.image] = heatmap
        progress(len(todo), len(todo), "")

    def _load(self, run: Run) -> Any:
        from pretrain_xai.networks.models import load_finetuned
        from pretrain_xai.networks.training import configure_torch

        configure_torch(self.study.threads)
        return load_finetuned(self.study, run)

    def table(self, choice: Choice) -> pd.DataFrame:
        """Return what is known of each map: the model's columns, prediction, scores with their chance, counts of hits.

        Maps that are not at hand have the Relevance Rank Accuracy that the study wrote, if it did.
        """
        image, ties, rows = choice.image, self.study.protocol.ties, []
        mask = self.test.masks[[image]]
        for (run, method), heatmap in self.heatmaps(choice).items():
            said = self.predictions(run).reindex([image]).iloc[0]
            row = dataclasses.asdict(run) | {"method": method, "image_index": image}
            row |= {"class": CLASSES[self.test.labels[image]], "predicted": None, "probability": said["probability"]}
            if run.pretraining != UNTRAINED:
                row["predicted"] = CLASSES[int(said["predicted"])]
            if heatmap is None:
                written = self.rank_accuracies(run).get(method, {}).get(image, np.nan)
                scores = {RANK_ACCURACY: (np.array([written]), localization.find_score(RANK_ACCURACY).chance(mask))}
            else:
                maps = MaskedMaps(heatmap.absolute[None], mask)
                scores = localization.score_masked(maps, self.scores, ties=ties)
            for name, (values, chances) in scores.items():
                row |= {name: float(values[0]), f"{name}_chance": float(chances[0])}
            if heatmap is not None:
                counts = localization.confusion_counts(maps, ties=ties)
                names = ("hits", "false_alarms", "misses")
                row |= {name: float(values[0]) for name, values in zip(names, counts, strict=False)}
            rows.append(row)
        return pd.DataFrame(rows)


def finished_studies() -> list[str]:
    """Return the names of the studies that have scores and kept maps, by the files in `studies/`."""
    names = sorted(file.stem for file in (paths.root() / "studies").glob("*.yaml"))
    return [name for name in names if any(paths.Paths(name).example_maps.glob("[!.]*.npz"))]
