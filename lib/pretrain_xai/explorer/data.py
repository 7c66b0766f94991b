"""What the `explore` notebook shows: the images, networks, scores and maps of a finished study.

Nothing here draws, and torch is loaded only where a map is computed that was not kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pretrain_xai import paths
from pretrain_xai.dataset import Split, read_split
from pretrain_xai.lesions import CLASSES
from pretrain_xai.localization import SCORES, confusion_counts, find_score, relevance_rank_accuracy, score_masked
from pretrain_xai.localization.comparison_maps import reduce_channels
from pretrain_xai.localization.masked_maps import MaskedMaps
from pretrain_xai.names import label
from pretrain_xai.paths import Paths
from pretrain_xai.settings.sections import Selection
from pretrain_xai.study import MODEL_COLUMNS, UNTRAINED, Run, Study, load_study
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


class Prediction(NamedTuple):
    """What a network says of an image: the class, and the softmax of its logit."""

    predicted: int
    probability: float
    correct: bool


@dataclass(frozen=True)
class Choice:
    """What is looked at: one image, and a map of each network (in rows) and method (in columns)."""

    image: int
    runs: tuple[Run, ...]
    methods: tuple[str, ...]


class Explorer:
    """A finished study as one looks at it: which networks there are, which images, and what is known of each map."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.study: Study = load_study(name)
        self.test: Split = read_split(Paths(name).dataset / "test", self.study.protocol.mask_threshold)
        self._computed: dict[tuple[Run, str, int], Heatmap] = {}
        # read once; two networks stay in memory
        self.kept = lru_cache(maxsize=None)(self._kept)
        self.rank_accuracies = lru_cache(maxsize=None)(self._rank_accuracies)
        self.predictions = lru_cache(maxsize=None)(self._predictions)
        self._network = lru_cache(maxsize=2)(self._load)

    def runs(
        self, selection: Selection, corpora: Sequence[str], depths: Sequence[int], position: int | None = 0
    ) -> list[Run]:
        """Return the networks of a selection, of each corpus and depth the `position`-th seed or all; "none": untrained."""
        found = []
        for corpus in corpora:
            if corpus == UNTRAINED:
                found += [run for run in self.study.untrained_runs() if run.selection == selection]
                continue
            cell = self.study.selections[selection][corpus]
            for depth in sorted(depths):
                seeds = list(cell.seeds_at(depth))
                chosen = seeds if position is None else seeds[position : position + 1]
                found += [Run(selection, corpus, depth, seed) for seed in chosen]
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

    def _kept(self, run: Run) -> dict[str, np.ndarray]:
        """Return the kept maps of a network by method, float arrays (n_images, height, width), and their `image_index`."""
        return read_arrays(self.study.paths.example_maps / f"{run.name}.npz")

    def _rank_accuracies(self, run: Run) -> pd.DataFrame:
        """Return one network's Relevance Rank Accuracy: a row per scored image or kept map, a column per method."""
        table = read_table(self.study.paths.scores / f"{run.name}.parquet").query("metric == @RANK_ACCURACY")
        scored = table.pivot(index="image_index", columns="method", values="value")
        images, ties = self.kept(run)["image_index"], self.study.protocol.ties
        maps = {method: found for method, found in self.kept(run).items() if method != "image_index"}
        values = {name: relevance_rank_accuracy(found, self.test.masks[images], ties) for name, found in maps.items()}
        return scored.combine_first(pd.DataFrame(values, index=pd.Index(images, name="image_index")))

    def _predictions(self, run: Run) -> pd.DataFrame:
        return read_predictions(self.name, [run]).query("split == 'test'").set_index("image_index")

    def prediction(self, run: Run, image: int) -> Prediction | None:
        """Return what a network says of an image; None for the untrained network, which is not asked."""
        if run.pretraining == UNTRAINED:
            return None
        row = self.predictions(run).loc[image]
        logits = row[["logit_0", "logit_1"]].to_numpy(dtype=np.float64)
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        predicted = int(row["predicted"])
        return Prediction(predicted, float(probabilities[predicted]), bool(row["predicted"] == row["label"]))

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
        compared = chosen if len(chosen) > 1 else list(scores)
        table = pd.DataFrame(index=pd.RangeIndex(len(self.test), name="image_index"))
        table["score"] = scores[chosen].mean(axis=1)
        table["disagreement"] = scores[compared].max(axis=1) - scores[compared].min(axis=1)
        wrong = [
            self.predictions(run).query("predicted != label").index for run in runs if run.pretraining != UNTRAINED
        ]
        table["n_wrong"] = sum((table.index.isin(images).astype(int) for images in wrong), np.zeros(len(table), int))
        table["kept"] = table.index.isin(self.kept_images(runs))
        every = np.ones(len(table), dtype=bool)
        parts = (table.index.isin(scores.index), table["kept"], table["n_wrong"] > 0, every)
        table = table[dict(zip(IMAGES, parts, strict=True))[listed]].reset_index()
        column, ascending = ORDERS[order]
        return table.sort_values([column, "image_index"], ascending=[ascending, True], ignore_index=True)

    def kept_images(self, runs: Sequence[Run]) -> list[int]:
        """Return the images of which the study kept maps of all `runs`."""
        kept = [set(self.kept(run)["image_index"].tolist()) for run in runs]
        return sorted(set.intersection(*kept)) if kept else []

    def heatmaps(self, choice: Choice) -> dict[tuple[Run, str], Heatmap | None]:
        """Return the maps of a choice by network and method, None for those that are neither kept nor computed."""
        return {
            (run, method): self._computed.get((run, method, choice.image)) or self.kept_map(run, method, choice.image)
            for run in choice.runs
            for method in choice.methods
        }

    def kept_map(self, run: Run, method: str, image: int) -> Heatmap | None:
        """Return a map if the study kept it."""
        arrays = self.kept(run)
        place = np.flatnonzero(arrays["image_index"] == image)
        return Heatmap(arrays[method][place[0]]) if method in arrays and len(place) else None

    def missing(self, choice: Choice, *, signed: bool) -> list[tuple[Run, str]]:
        """Return the networks and methods whose map must be computed first; kept maps have no sign."""
        maps = self.heatmaps(choice).items()
        return [key for key, heatmap in maps if heatmap is None or (signed and heatmap.signed is None)]

    def compute(self, choice: Choice, *, signed: bool, progress: Callable[[int, int, str], None]) -> None:
        """Compute the missing maps one by one; `progress(done, all, what)` is called before each and at the end."""
        todo = self.missing(choice, signed=signed)
        for done, (run, method) in enumerate(todo):
            progress(done, len(todo), f"{label(method)}, {self.run_name(run)}")
            self._computed[run, method, choice.image] = self._compute(run, method, choice.image)
        progress(len(todo), len(todo), "")

    def _compute(self, run: Run, method: str, image: int) -> Heatmap:
        """Compute a map as the study would, to the bit, with its sign; any key of `attribution.METHODS`."""
        from pretrain_xai.explain import Explainer

        protocol = self.study.protocol
        explainer = Explainer(self._network(run), self.test, self.study.attribution, protocol)
        maps = explainer.explain(np.array([image]), [method]).maps[method]
        return Heatmap(reduce_channels(maps, protocol.channel_reduction)[0], maps[0].sum(axis=0))

    def _load(self, run: Run) -> Any:
        from pretrain_xai.networks.models import load_finetuned
        from pretrain_xai.networks.training import configure_torch

        configure_torch(self.study.threads)
        return load_finetuned(self.study, run)

    @cached_property
    def score_names(self) -> list[str]:
        """The scores of the study that take milliseconds, Relevance Rank Accuracy first."""
        quick = [name for name in self.study.attribution.scores if name in SCORES and not SCORES[name].is_slow]
        return list(dict.fromkeys([RANK_ACCURACY, *quick]))

    def table(self, choice: Choice) -> pd.DataFrame:
        """Return what is known of each map: the model's columns, prediction, scores with their chance, counts of hits.

        Maps that are not at hand have the Relevance Rank Accuracy that the study wrote, if it did.
        """
        mask, truth = self.test.masks[choice.image], self.test.labels[choice.image]
        rows = []
        for (run, method), heatmap in self.heatmaps(choice).items():
            prediction = self.prediction(run, choice.image)
            row = {name: getattr(run, name) for name in MODEL_COLUMNS}
            row |= {"method": method, "image_index": choice.image, "class": CLASSES[truth]}
            said, p = (CLASSES[prediction.predicted], prediction.probability) if prediction else (None, np.nan)
            row |= {"predicted": said, "probability": p}
            known = self._written(run, method, choice.image) if heatmap is None else self._scores(heatmap, mask)
            rows.append(row | known)
        return pd.DataFrame(rows)

    def _scores(self, heatmap: Heatmap, mask: np.ndarray) -> dict[str, float]:
        given, ties = MaskedMaps(heatmap.absolute[None], mask[None]), self.study.protocol.ties
        row: dict[str, float] = {}
        for name, (values, chances) in score_masked(given, self.score_names, ties=ties).items():
            row |= {name: float(values[0]), f"{name}_chance": float(chances[0])}
        counts = confusion_counts(given, ties=ties)
        names = ("hits", "false_alarms", "misses")
        return row | {name: float(values[0]) for name, values in zip(names, counts, strict=False)}

    def _written(self, run: Run, method: str, image: int) -> dict[str, float]:
        ranks = self.rank_accuracies(run)
        value = ranks[method].get(image, np.nan) if method in ranks else np.nan
        (chance,) = find_score(RANK_ACCURACY).chance(self.test.masks[[image]])
        return {RANK_ACCURACY: float(value), f"{RANK_ACCURACY}_chance": float(chance)}


def finished_studies() -> list[str]:
    """Return the names of the studies that have scores and kept maps, by the files in `studies/`."""
    names = sorted(file.stem for file in (paths.root() / "studies").glob("*.yaml"))
    return [name for name in names if any(Paths(name).example_maps.glob("[!.]*.npz"))]
