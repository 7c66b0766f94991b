"""What each flaw of the released code does to each number: a study with one switch as published, beside the study.

Three things can make two numbers differ: the switch, the choice of test subjects, and (where networks are trained anew) the
chance of training. The second is measured by drawing test subjects with replacement, the same subjects for both sides. The
third is measured by training the corrected study again with further sets of seeds: the *noise floor* is the half width
within which a difference lies by retraining alone, 95 times in 100.

A variant has one set of seeds, as many per model as the study, and is compared with the mean over the corrected sets, not
with the one of the same seeds: a seed decides on the order of images, the new last layer and dropout, but with other images
or layers training soon takes another path. While numbers of equal seeds correlate by less than 1/2, the mean over three sets
is the better partner. So if s is the standard deviation between sets of seeds, pooled over the cells (corpus x depth), a sum
of cells with coefficients a has the floor

    t(0.975, cells * (sets - 1)) * s * sqrt((1 + 1 / sets) * sum(a ** 2)).

For the order of methods it is simulated (`noise_floor.order_floor`).

A difference after retraining holds both chances at once, so it is decided if it is larger than sqrt(floor ** 2 + half ** 2),
where half is the half width of its interval over test subjects: by chance alone at most 5 times in 100. That the difference
leaves the floor and its interval leaves 0 would not do: where the test images are not the same, either chance may carry it
past both. On the same images the spread between seeds holds what these images add to it, and the rule is on the safe side.
A difference that needs no retraining is decided by the interval; whether it is smaller than the floor is said apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pretrain_xai import paths
from pretrain_xai.classification import METRICS
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.paths import Paths
from pretrain_xai.protocol import RESCORED, UNCHANGED, unpublished
from pretrain_xai.running.variants import RETRAINED, variant_name
from pretrain_xai.selection import CORRECT_FOR_ALL, scored_on
from pretrain_xai.statistics.noise_floor import NoiseFloor, order_floor
from pretrain_xai.statistics.resampling import (
    kendall_tau,
    subject_weights,
    weighted_classification,
    weighted_mean,
    weighted_median,
)
from pretrain_xai.study import UNTRAINED, Run, Study, load_study
from pretrain_xai.tables import read_predictions, read_runs, read_table

CELL = ["pretraining", "finetune_depth"]
#: quantities beside metrics, methods and comparison maps: mean over the methods, Kendall's tau of their order, chance level
ALL_METHODS, RANKING, CHANCE = "all_methods", "ranking", "chance"
#: rows that are no single cell say "all" for the corpus
ALL = "all"
RESAMPLES = 1000
EFFECT_COLUMNS = [
    *["switch", "retrained", "same_images", "effect", *CELL, "quantity", "corrected", "switched", "difference"],
    *["low", "high", "floor", "below_floor", "verdict"],
]
_RATES = {"sensitivity": "specificity", "specificity": "sensitivity"}


@dataclass(frozen=True)
class _Results:
    """What one study or variant found on its test images."""

    scores: pd.DataFrame  # Relevance Rank Accuracy on the images right for all models
    predictions: pd.DataFrame
    subjects: pd.Series  # by image index
    swapped_rates: bool
    methods: tuple[str, ...]

    @property
    def images(self) -> set[int]:
        """The images whose maps were scored."""
        return set(self.scores["image_index"])


def compare_protocols(study: Study, selection: str, variants: Sequence[str]) -> pd.DataFrame:
    """Compare the study with one switch as published: every cell, means over the cells, and effects between cells.

    Rescored switches are compared on the same networks and images. Retrained ones are compared with the mean over the seeds
    of the corrected study, on the images that were scored in both where the test images are the same (`same_images`),
    else each on its own.

    Parameters
    ----------
    variants : sequence of str
        The retrained variants and further seeds to compare; their runs must be finished. They have the study's first
        selection: of another one, only the switches that need no training are compared.

    Returns
    -------
    DataFrame with EFFECT_COLUMNS. `effect` is `cell`, `mean` (over the corpora and `study.compared_depths`), `corpus` (mri
    minus natural) or `depth` (deepest minus shallowest). `quantity` is a classification metric, a method or comparison map
    (its median Relevance Rank Accuracy), `all_methods` (their mean), `chance`, or `ranking` (Kendall's tau of the methods'
    means; `corrected` is 1). `low` and `high` enclose the difference in 95 of 100 resamples of test subjects, `floor` is
    the half width of the noise floor, `verdict` is `raises`, `lowers`, `unchanged` (0 in all resamples) or `undecided` (see
    the module).
    The switch `none` is the corrected study itself: its effects between cells against 0.
    """
    variants = variants if selection == study.main_selection else []
    switch_scores = read_runs(study.paths.switch_scores, _runs(study, selection)).dropna(subset="value")
    base = _read(study.name, selection)
    seeds = [_read(variant_name(study.name, name), selection) for name in study.reseeds if name in variants]
    switched = {name: _read(variant_name(study.name, name), selection) for name in variants if name in RETRAINED}
    subjects = set().union(*(results.subjects for results in [base, *seeds, *switched.values()]))
    comparison = _Comparison(
        study.compared_depths, [base, *seeds], subject_weights(subjects, RESAMPLES, study.attribution.seed)
    )
    tables = [comparison.unchanged()]
    tables += [comparison.rescored(*item) for item in _rescored(study, selection, switch_scores, base)]
    for name, results in switched.items():
        shares_images = paths.owner(variant_name(study.name, name), "dataset") == study.name
        tables.append(comparison.retrained(name, results, shares_images=shares_images))
    return pd.concat(tables, ignore_index=True)[EFFECT_COLUMNS]


class _Comparison:
    """The corrected study with all its seeds, with which everything is compared."""

    def __init__(self, depths: list[int], seeds: list[_Results], weights: pd.DataFrame):
        self.depths, self.seeds, self.weights = depths, seeds, weights
        self.shared = set.intersection(*(results.images for results in seeds))
        self.frames = self._corrected(self.shared)
        self.corrected = sum(self.frames[1:], self.frames[0]) / len(self.frames)
        trained = [self._trained(frame)[0] for frame in self.frames]
        self.noise, self.reordered = NoiseFloor.between(pd.concat(trained, axis=1)), self._reordered()

    def unchanged(self) -> pd.DataFrame:
        """Return what differs between the corpora and depths of the corrected study itself."""
        rows, shares, draws = self._effects(self.corrected)
        rows["corrected"] = rows["difference"] = draws[:, 0]
        rows["switched"] = np.nan
        rows["floor"] = self._floor(rows, shares, None)
        rows = _judged(rows, draws, needs_floor=True).assign(switch=UNCHANGED, retrained=False, same_images=True)
        return rows[rows["effect"].isin(["corpus", "depth"])]

    def rescored(self, switch: str, corrected: _Results, switched: _Results) -> pd.DataFrame:
        """Compare two ways of scoring the same networks."""
        frames = [self._frame(results) for results in (corrected, switched)]
        rows = self._rows(*frames, switch=switch, retrained=False, same_images=True)
        others = {CHANCE, *METRICS, *self._methods_not_concerned(switch)}
        return rows[~((rows["verdict"] == "unchanged") & rows["quantity"].isin(others))]

    def _methods_not_concerned(self, switch: str) -> set[str]:
        """Return the methods that only count in the mean over the methods and in their order."""
        return set(self.seeds[0].methods).difference(RESCORED.get(switch) or self.seeds[0].methods)

    def retrained(self, switch: str, results: _Results, *, shares_images: bool) -> pd.DataFrame:
        """Compare networks trained anew with the mean over the corrected seeds."""
        images, corrected = None, self.corrected
        if shares_images and (images := self.shared & results.images):
            frames = self._corrected(images)
            corrected = sum(frames[1:], frames[0]) / len(frames)
        frame = self._frame(results, images or None)
        return self._rows(corrected, frame, switch=switch, retrained=True, same_images=bool(images))

    def _rows(self, corrected: pd.DataFrame, switched: pd.DataFrame, **columns: Any) -> pd.DataFrame:
        known = corrected.index.intersection(switched.index, sort=False)
        rows, shares, before = self._effects(corrected.loc[known])
        _, _, after = self._effects(switched.loc[known])
        if set(known.get_level_values("quantity")) & set(self.seeds[0].methods):
            methods = [self._method_means(frame) for frame in (corrected, switched)]
            rows.loc[len(rows)] = ["mean", ALL, pd.NA, RANKING]
            shares.loc[len(shares)] = np.nan
            tau = kendall_tau(*methods)
            before, after = np.vstack([before, np.ones_like(tau)]), np.vstack([after, tau])
        rows["corrected"], rows["switched"] = before[:, 0], after[:, 0]
        rows["difference"] = rows["switched"] - rows["corrected"]
        rows["floor"] = self._floor(rows, shares)
        return _judged(rows, after - before, needs_floor=columns["retrained"]).assign(**columns)

    def _effects(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series, np.ndarray]:
        """Return the rows of all effects, the sums of their squared coefficients, and their values (n, resamples)."""
        trained, depths = self._trained(frame), self.depths
        by_quantity = trained.groupby("quantity", sort=False)
        trained = trained.drop(CHANCE, level="quantity", errors="ignore")  # one for all networks
        maps = frame[frame.index.get_level_values("quantity").isin(COMPARISON_MAPS)]
        tables = {"mean": pd.concat([by_quantity.mean(), maps.droplevel(CELL)])}
        corpora = trained.index.get_level_values("pretraining")
        if len(others := set(corpora) - {"mri"}) == 1 and "mri" in set(corpora):
            tables["corpus"] = _mean_of(trained, corpora == "mri") - _mean_of(trained, corpora == others.pop())
        if min(depths) < max(depths):
            levels = trained.index.get_level_values("finetune_depth")
            tables["depth"] = _mean_of(trained, levels == max(depths)) - _mean_of(trained, levels == min(depths))
        n_cells = max(len(trained.index.droplevel("quantity").unique()), 1)
        shares = {"mean": 1 / n_cells, "corpus": 4 / n_cells, "depth": 2 * len(depths) / n_cells}
        between = pd.concat(tables, names=["effect"])
        rows = between.index.to_frame(index=False).assign(pretraining=ALL, finetune_depth=pd.NA)
        rows = pd.concat([frame.index.to_frame(index=False).assign(effect="cell"), rows], ignore_index=True)
        share = rows["effect"].map(shares).fillna(1.0)
        return rows[["effect", *CELL, "quantity"]], share, np.vstack([frame.to_numpy(), between.to_numpy()])

    def _trained(self, frame: pd.DataFrame) -> pd.DataFrame:
        index = frame.index
        depths = index.get_level_values("finetune_depth").isin(self.depths)
        return frame[depths & (index.get_level_values("pretraining") != UNTRAINED)]

    def _method_means(self, frame: pd.DataFrame) -> np.ndarray:
        return self._trained(frame).groupby("quantity").mean().loc[list(self.seeds[0].methods)].to_numpy()

    def _corrected(self, images: set[int]) -> list[pd.DataFrame]:
        """Return the estimates of every corrected seed, all with the same cells."""
        frames = [self._frame(results, images or None) for results in self.seeds]
        known = frames[0].index
        for frame in frames[1:]:
            known = known.intersection(frame.index, sort=False)
        return [frame.loc[known] for frame in frames]

    def _frame(self, results: _Results, images: set[int] | None = None) -> pd.DataFrame:
        return _estimates(results, self.weights, images)

    def _floor(self, rows: pd.DataFrame, shares: pd.Series, n_other: int | None = 1) -> np.ndarray:
        """Return the half width of the noise floor for each row; 0 where no network was trained."""
        floor = self.noise.half_width(rows["quantity"], shares, n_other)
        floor = np.where(rows["quantity"] == RANKING, self.reordered, floor)
        no_training = (rows["pretraining"] == UNTRAINED) | rows["quantity"].isin(COMPARISON_MAPS)
        return np.where(no_training, 0.0, floor)

    def _reordered(self) -> float:
        """Return the noise floor of the order of the methods, in tau."""
        methods = list(self.seeds[0].methods)
        tables = [self._trained(frame)[0].unstack("quantity")[methods].dropna() for frame in self.frames]
        return order_floor(np.stack(tables), seed=0)


def _mean_of(frame: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    return frame[chosen].groupby("quantity", sort=False).mean()


def _judged(rows: pd.DataFrame, draws: np.ndarray, *, needs_floor: bool) -> pd.DataFrame:
    """Add the interval over resamples of test subjects and the verdict to rows with `difference` and `floor`."""
    low, high = np.nanquantile(draws[:, 1:], [0.025, 0.975], axis=1)
    size = rows["difference"].abs()
    outside = size > rows["floor"]  # not where the floor is unknown
    decided = size > np.hypot(rows["floor"], (high - low) / 2) if needs_floor else (low > 0) | (high < 0)
    verdict = np.select([decided & (rows["difference"] > 0), decided], ["raises", "lowers"], "undecided")
    unchanged = ~np.any(np.nan_to_num(draws), axis=1) & (not needs_floor)
    return rows.assign(
        low=low,
        high=high,
        below_floor=rows["floor"].notna() & ~outside,
        verdict=np.where(unchanged, "unchanged", verdict),
    )


def _estimates(results: _Results, weights: pd.DataFrame, images: set[int] | None) -> pd.DataFrame:
    """Return each quantity of each cell: a row per corpus, depth and quantity, a column per resample (0: the sample)."""
    scores = results.scores if images is None else results.scores[results.scores["image_index"].isin(images)]
    by_image = pd.DataFrame(weights.loc[results.subjects].to_numpy(), index=results.subjects.index)
    models: dict[tuple[Any, ...], list[np.ndarray]] = {}
    for (*cell, _), group in results.predictions.groupby([*CELL, "seed"], observed=True):
        labels, predicted = (group[name].to_numpy() for name in ("label", "predicted"))
        score = (group["logit_1"] - group["logit_0"]).to_numpy()
        metrics = weighted_classification(labels, predicted, score, by_image.loc[group["image_index"]].to_numpy())
        for name, values in metrics.items():
            models.setdefault((*cell, _RATES.get(name, name) if results.swapped_rates else name), []).append(values)
    rows = {key: np.mean(values, axis=0) for key, values in models.items()}
    for (*cell, method), group in scores.groupby([*CELL, "method"], observed=True):
        drawn = by_image.loc[group["image_index"]].to_numpy()
        rows[*cell, method] = weighted_median(group["value"].to_numpy(), drawn)
        rows[*cell, CHANCE] = weighted_mean(group["chance"].to_numpy(), drawn)
    for cell in {key[:2] for key in rows}:
        if set(results.methods) <= {key[2] for key in rows if key[:2] == cell}:
            rows[*cell, ALL_METHODS] = np.mean([rows[*cell, method] for method in results.methods], axis=0)
    index = pd.MultiIndex.from_tuples(rows, names=[*CELL, "quantity"])
    return pd.DataFrame(np.array(list(rows.values())), index=index).sort_index()


def _read(name: str, selection: str) -> _Results:
    study = load_study(name)
    scores = read_runs(Paths(name).scores, _runs(study, selection)).query("metric == 'relevance_rank_accuracy'")
    scores = scored_on(scores, read_table(Paths(name).intersections), selection, CORRECT_FOR_ALL)
    images = read_table(Paths(name).dataset / "test" / "images.csv")
    return _Results(
        scores=scores.dropna(subset="value"),
        predictions=read_predictions(name, _runs(study, selection, untrained=False)).query("split == 'test'"),
        subjects=images.set_index("image_index")["subject"],
        swapped_rates=study.protocol.swapped_rates,
        methods=tuple(study.attribution.methods),
    )


def _runs(study: Study, selection: str, *, untrained: bool = True) -> list[Run]:
    runs = [*study.runs(), *(study.untrained_runs() if untrained else ())]
    return [run for run in runs if run.selection == selection]


def _rescored(
    study: Study, selection: str, scores: pd.DataFrame, base: _Results
) -> Iterator[tuple[str, _Results, _Results]]:
    """Yield each switch that needs no training, the results without it and those with it."""
    nothing = base.predictions.iloc[:0]
    without = scores[scores["switch"] == UNCHANGED]
    for switch in unpublished(study.protocol, RESCORED):
        rescored = scores[scores["switch"] == switch]
        if rescored.empty:  # the study has none of the methods that it concerns
            continue
        concerned = RESCORED[switch]
        if set(concerned) & set(base.methods):  # the mean over the methods and their order need the others, too
            others = without["method"].isin(base.methods) & ~without["method"].isin(concerned)
            rescored = pd.concat([rescored, without[others]], ignore_index=True)
        predictions = (nothing, nothing)
        if switch == "dropout_active":
            dropped = read_runs(study.paths.switch_predictions, _runs(study, selection, untrained=False))
            predictions = (base.predictions, dropped)
        corrected = replace(base, scores=without, predictions=predictions[0])
        yield switch, corrected, replace(base, scores=rescored, predictions=predictions[1])
    if not study.protocol.swapped_rates:
        rates = replace(base, scores=without.iloc[:0])
        yield "swapped_rates", rates, replace(rates, swapped_rates=True)
