"""What each flaw of the released code does to each number: a study with one switch as published, beside the study.

Three things can make two numbers differ: the switch, the choice of test subjects, and, where networks are trained again,
the chance of training. The second is measured by drawing test subjects with replacement, the same subjects for both sides.
The third is measured by training the corrected study again with further sets of seeds: the *noise floor* is the half width
within which a difference lies by retraining alone, 95 times in 100.

A variant has one set of seeds, as many per model as the study. It is compared with the mean over the corrected sets, not
with the set of the same seeds: a seed decides on the order of images, the new last layer and dropout, but with other images
or layers training soon takes another path. While numbers of equal seeds correlate by less than 1/2, the mean over three
sets is the better partner. `noise_floor` and `order_floor` say how wide the floor then is.

A difference after retraining holds both chances at once. It is decided if it is larger than sqrt(floor ** 2 + half ** 2),
where half is the half width of its interval over test subjects: by chance alone at most 5 times in 100. It would not be
enough that the difference leaves the floor and its interval leaves 0: where the test images are not the same, either chance
may carry it past both. On the same images the spread between seeds holds what these images add to it, and the rule is on
the safe side. A difference that needs no retraining is decided by the interval; `below_floor` says whether it is smaller
than the floor.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from pretrain_xai import paths
from pretrain_xai.classification import METRICS
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.protocol import ALL_TOGETHER, RESCORED, UNCHANGED, unpublished
from pretrain_xai.running.variants import RETRAINED, variant_name
from pretrain_xai.selection import CORRECT_FOR_ALL, scored_on
from pretrain_xai.sentences import sentence
from pretrain_xai.statistics import resampling
from pretrain_xai.study import CELL, NETWORK, UNTRAINED, Run, Study, load_study
from pretrain_xai.tables import read_predictions, read_runs, read_table

#: quantities beside metrics, methods and comparison maps: mean over the methods, Kendall's tau of their order, chance level
ALL_METHODS, RANKING, CHANCE = "all_methods", "ranking", "chance"
#: rows that are no single cell say "all" for the corpus
ALL = "all"
RESAMPLES = 1000
#: share of the differences by retraining alone that lie inside the floor
LEVEL = 0.95
DECIDED = ("raises", "lowers")
_COLUMNS = [
    *["switch", "retrained", "same_images", "effect", "pretraining", "finetune_depth", "quantity"],
    *["corrected", "switched", "difference", "low", "high", "floor", "below_floor", "verdict"],
]


@dataclass(frozen=True)
class _Results:
    """What one study or variant found on its test images."""

    scores: pd.DataFrame  # Relevance Rank Accuracy on the images right for all models
    predictions: pd.DataFrame
    subjects: pd.Series  # by image index
    swapped_rates: bool

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
    DataFrame. `effect` is `cell`, `mean` (over the corpora and `study.compared_depths`), `corpus` (mri minus natural) or
    `depth` (deepest minus shallowest). `quantity` is a classification metric, a method or comparison map (its median
    Relevance Rank Accuracy), `all_methods` (their mean), `chance`, or `ranking` (Kendall's tau of the methods' means;
    `corrected` is 1). `low` and `high` enclose the difference in 95 of 100 resamples of test subjects, `floor` is the half
    width of the noise floor, `verdict` is `raises`, `lowers`, `unchanged` (0 in all resamples) or `undecided` (see the
    module).
    The switch `none` is the corrected study itself: its effects between cells against 0.
    """
    base, methods = _read(study, selection), study.attribution.methods
    names = {name: variant_name(study.name, name) for name in variants if selection == study.main_selection}
    made = {name: _read(load_study(variant), selection) for name, variant in names.items()}
    sets = [base, *(made[name] for name in study.reseeds if name in made)]
    subjects = set[str]().union(*(results.subjects for results in [base, *made.values()]))
    weights = resampling.subject_weights(subjects, RESAMPLES, study.attribution.seed)
    shared = set.intersection(*(results.images for results in sets))
    comparison = Comparison([_estimates(one, methods, weights, shared) for one in sets], study.compared_depths, methods)
    tables = [comparison.unchanged().assign(switch=UNCHANGED, retrained=False, same_images=True)]
    for switch, *sides in _rescored(study, selection, base):
        rows = comparison.rows(*(_estimates(side, methods, weights) for side in sides), retrained=False)
        others = {CHANCE, *METRICS, *methods}.difference(RESCORED.get(switch) or methods)
        rows = rows[~((rows["verdict"] == "unchanged") & rows["quantity"].isin(others))]
        tables.append(rows.assign(switch=switch, retrained=False, same_images=True))
    for name in [name for name in made if name in RETRAINED]:
        same = paths.owner(names[name], "dataset") == study.name
        images = shared & made[name].images if same else set[int]()
        frames = [_estimates(one, methods, weights, images) for one in sets if images]
        corrected = _mean(frames) if images else comparison.corrected
        rows = comparison.rows(corrected, _estimates(made[name], methods, weights, images), retrained=True)
        tables.append(rows.assign(switch=name, retrained=True, same_images=bool(images)))
    return pd.concat(tables, ignore_index=True)[_COLUMNS]


class Comparison:
    """The corrected study with all its sets of seeds, with which everything is compared.

    Parameters
    ----------
    sets : sequence of DataFrame, one per set of seeds
        A row per `pretraining`, `finetune_depth` and `quantity` (the index), column 0 the estimate and a column per resample
        of test subjects.
    depths : list of int
        The depths over which means are taken.
    methods : list of str
        The quantities whose order is compared.
    """

    def __init__(self, sets: Sequence[pd.DataFrame], depths: list[int], methods: list[str]):
        self.depths, self.methods, self.corrected = depths, methods, _mean(sets)
        numbers = [self._trained(frame)[0] for frame in _aligned(sets)]
        self.numbers = pd.concat(numbers, axis=1)
        by_method = [one.unstack("quantity").reindex(columns=methods).dropna() for one in numbers]
        self.order_floor = order_floor(np.stack(by_method), seed=0)

    def unchanged(self) -> pd.DataFrame:
        """Return what differs between the corpora and depths of the corrected study itself."""
        rows, draws = self._effects(self.corrected)
        rows = self._judged(rows, np.zeros_like(draws), draws, retrained=True, other_sets=0)
        rows = rows.assign(corrected=draws[:, 0], switched=np.nan)
        return rows[rows["effect"].isin(["corpus", "depth"])]

    def rows(self, corrected: pd.DataFrame, switched: pd.DataFrame, *, retrained: bool) -> pd.DataFrame:
        """Return every difference between two tables of estimates, with its floor, interval and verdict."""
        corrected, switched = _aligned([corrected, switched])
        (rows, before), (_, after) = self._effects(corrected), self._effects(switched)
        if set(self.methods) & set(rows["quantity"]):
            means = [self._trained(frame).groupby("quantity").mean() for frame in (corrected, switched)]
            tau = resampling.kendall_tau(*(mean.loc[self.methods].to_numpy() for mean in means))
            rows.loc[len(rows)] = ["mean", ALL, pd.NA, RANKING, np.nan]
            before, after = np.vstack([before, np.ones_like(tau)]), np.vstack([after, tau])
        return self._judged(rows, before, after, retrained=retrained)

    def _effects(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the rows of all effects, with the sum of their squared coefficients as `share`, and their values."""
        trained = self._trained(frame)
        maps = frame[frame.index.get_level_values("quantity").isin(COMPARISON_MAPS)].droplevel(CELL)
        tables = {"cell": frame, "mean": pd.concat([_over_cells(trained), maps])}
        trained = trained.drop(CHANCE, level="quantity", errors="ignore")  # one for all networks
        corpus, depth = (trained.index.get_level_values(name) for name in CELL)
        if "mri" in set(corpus) and corpus.nunique() == 2:
            tables["corpus"] = _over_cells(trained[corpus == "mri"]) - _over_cells(trained[corpus != "mri"])
        shallow, deep = min(self.depths), max(self.depths)
        if shallow < deep:
            tables["depth"] = _over_cells(trained[depth == deep]) - _over_cells(trained[depth == shallow])
        n_cells = max(len(trained.index.droplevel("quantity").unique()), 1)
        shares = {"cell": 1, "mean": 1 / n_cells, "corpus": 4 / n_cells, "depth": 2 * len(self.depths) / n_cells}
        table = pd.concat([one.reset_index().assign(effect=name) for name, one in tables.items()], ignore_index=True)
        table = table.fillna({"pretraining": ALL}).astype({"finetune_depth": "Int64"})
        rows = table[["effect", *CELL, "quantity"]].assign(share=table["effect"].map(shares))
        return rows, table[frame.columns].to_numpy()

    def _trained(self, frame: pd.DataFrame) -> pd.DataFrame:
        corpus, depth = (frame.index.get_level_values(name) for name in CELL)
        return frame[depth.isin(self.depths) & (corpus != UNTRAINED)]

    def _judged(
        self, rows: pd.DataFrame, before: np.ndarray, after: np.ndarray, *, retrained: bool, other_sets: int = 1
    ) -> pd.DataFrame:
        """Add both sides, difference, floor, interval over resamples of test subjects, and verdict to rows of effects."""
        floor = noise_floor(self.numbers, rows["quantity"], rows["share"], other_sets)
        no_training = (rows["pretraining"] == UNTRAINED) | rows["quantity"].isin(COMPARISON_MAPS)
        floor = np.select([no_training, rows["quantity"] == RANKING], [0.0, self.order_floor], floor)
        draws = after - before
        difference, (low, high) = draws[:, 0], np.nanquantile(draws[:, 1:], [0.025, 0.975], axis=1)
        decided = np.abs(difference) > np.hypot(floor, (high - low) / 2) if retrained else (low > 0) | (high < 0)
        same = ~np.nan_to_num(draws).any(axis=1) & (not retrained)
        verdict = np.select([same, decided & (difference > 0), decided], ["unchanged", *DECIDED], "undecided")
        below = ~np.isnan(floor) & ~(np.abs(difference) > floor)
        rows = rows.assign(corrected=before[:, 0], switched=after[:, 0], difference=difference, low=low, high=high)
        return rows.assign(floor=floor, below_floor=below, verdict=verdict)


def noise_floor(numbers: pd.DataFrame, quantities: pd.Series, shares: pd.Series, other_sets: int = 1) -> np.ndarray:
    """Return the half width within which differences from the mean over sets of seeds lie by retraining alone.

    With s the standard deviation between sets of seeds, pooled over the cells, and a the coefficients with which cells enter
    a difference, it is t(0.975, cells * (sets - 1)) * s * sqrt((1 / sets + other_sets) * sum(a ** 2)).

    Parameters
    ----------
    numbers : DataFrame
        One number per cell and quantity (rows, with an index level `quantity`) and set of seeds (columns).
    quantities : Series of the quantities of the differences
    shares : float Series of the same length
        The sums of a ** 2: 1 for a cell, 1 / n for a mean of n cells.
    other_sets : int
        1 if the mean is compared with one more set of seeds, 0 if with a constant.

    Returns
    -------
    float array; NaN with one set of seeds.
    """
    n_sets, n_cells = numbers.shape[1], len(numbers.index.droplevel("quantity").unique())
    deviation = np.sqrt(numbers.var(axis=1).groupby("quantity").mean()).reindex(quantities).to_numpy()
    quantile = stats.t.ppf((1 + LEVEL) / 2, n_cells * (n_sets - 1))
    return quantile * deviation * np.sqrt((1 / n_sets + other_sets) * shares.to_numpy())


def order_floor(numbers: np.ndarray, seed: int, n_draws: int = 4000) -> float:
    """Return how much of Kendall's tau the order of methods loses by retraining alone, at most 95 times in 100.

    Orders are simulated: one set of seeds and the mean over all of them are drawn around the means of the methods. The noise
    has the covariance of the methods between sets of seeds, pooled over the cells, with the heavier tails of a t
    distribution, as the covariance is estimated. Neighbours whose means differ by less than the standard error of their
    difference are drawn as tied: centred on means that differ by chance, draws would keep their order too often.

    Parameters
    ----------
    numbers : float array of shape (n_sets, n_cells, n_methods)

    Returns
    -------
    float, range [0, 2]: the 95 % quantile of 1 - tau; NaN with one set of seeds.
    """
    n_sets, n_cells, n_methods = numbers.shape
    if n_sets < 2:
        return np.nan
    freedom, rng = n_cells * (n_sets - 1), np.random.default_rng(seed)
    residuals, means = (numbers - numbers.mean(axis=0)).reshape(-1, n_methods), numbers.mean(axis=(0, 1))
    order, centres = np.argsort(means), np.empty(n_methods)
    gaps = np.diff(means[order])
    variance = (np.diff(residuals[:, order], axis=1) ** 2).sum(axis=0) / (freedom * n_cells * n_sets)
    centres[order] = np.concatenate([[0], np.cumsum(np.where(gaps**2 > variance, gaps, 0))])
    width = np.sqrt(freedom / rng.chisquare(freedom, (n_draws, 1)) / (freedom * n_cells))
    one, mean = (width * (rng.normal(size=(n_draws, len(residuals))) @ residuals) for _ in range(2))
    lost = 1 - resampling.kendall_tau((centres + one).T, (centres + mean / np.sqrt(n_sets)).T)
    return float(np.quantile(lost, LEVEL, method="higher"))


def conclusions(effects: pd.DataFrame) -> list[str]:
    """Return in sentences what each group of switches changes, what is undecided, and which claims of the study hold.

    Parameters
    ----------
    effects : DataFrame
        From `compare_protocols`.
    """
    means = effects[effects["effect"] == "mean"]
    found = []
    ordered = means.sort_values("difference", key=abs, ascending=False, kind="stable")
    for subject in ("accuracy", ALL_METHODS, RANKING):
        for retrained, rows in ordered[ordered["quantity"] == subject].groupby("retrained"):
            found.append(sentence("protocols.j2", "changes", subject=subject, retrained=retrained, rows=rows))
    for effect, quantity in product(("corpus", "depth"), ("accuracy", ALL_METHODS)):
        rows = effects[(effects["effect"] == effect) & (effects["quantity"] == quantity)]
        others = rows[rows["switch"] != UNCHANGED].dropna(subset="switched")
        together = others["switch"] == ALL_TOGETHER
        for own in rows[rows["switch"] == UNCHANGED].itertuples():
            turned = others[~together & (others["switched"] * own.difference <= 0)]
            parts = {"n_single": (~together).sum(), "turned": turned, "together": others[together]}
            found.append(sentence("protocols.j2", "claim", own=own, **parts))
    return [*found, sentence("protocols.j2", "undecided", means=means, counts=means["verdict"].value_counts())]


def _over_cells(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.groupby("quantity", sort=False).mean()


def _aligned(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the frames with the rows that all of them have."""
    known = set.intersection(*(set(frame.index) for frame in frames))
    return [frame[frame.index.isin(known)] for frame in frames]


def _mean(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return sum(_aligned(frames)) / len(frames)


def _estimates(
    results: _Results, methods: list[str], weights: pd.DataFrame, images: set[int] | None = None
) -> pd.DataFrame:
    """Return each quantity of each cell: a row per corpus, depth and quantity, a column per resample (0: the sample).

    With `images`, if there are any, on these alone.
    """
    scores = results.scores[results.scores["image_index"].isin(images)] if images else results.scores
    by_image = pd.DataFrame(weights.loc[results.subjects].to_numpy(), index=results.subjects.index)
    found: dict[tuple[str, int, str], list[np.ndarray]] = defaultdict(list)
    for (corpus, depth, _), group in results.predictions.groupby(NETWORK, observed=True):
        labels, predicted = (group[name].to_numpy() for name in ("label", "predicted"))
        logit = (group["logit_1"] - group["logit_0"]).to_numpy()
        drawn = by_image.loc[group["image_index"]].to_numpy()
        metrics = resampling.weighted_classification(labels, predicted, logit, drawn)
        if results.swapped_rates:
            metrics["sensitivity"], metrics["specificity"] = metrics["specificity"], metrics["sensitivity"]
        for name, values in metrics.items():
            found[corpus, depth, name].append(values)
    rows = {key: np.mean(values, axis=0) for key, values in found.items()}
    for (*cell, method), group in scores.groupby([*CELL, "method"], observed=True):
        drawn = by_image.loc[group["image_index"]].to_numpy()
        rows[*cell, method] = resampling.weighted_median(group["value"].to_numpy(), drawn)
        rows[*cell, CHANCE] = resampling.weighted_mean(group["chance"].to_numpy(), drawn)
    for cell in {key[:2] for key in rows}:
        if all((*cell, method) in rows for method in methods):
            rows[*cell, ALL_METHODS] = np.mean([rows[*cell, method] for method in methods], axis=0)
    index = pd.MultiIndex.from_tuples(rows, names=[*CELL, "quantity"])
    return pd.DataFrame(np.array(list(rows.values())), index=index).sort_index()


def _read(study: Study, selection: str) -> _Results:
    scores = read_runs(study.paths.scores, _runs(study, selection)).query("metric == 'relevance_rank_accuracy'")
    scores = scored_on(scores, read_table(study.paths.intersections), selection, CORRECT_FOR_ALL).dropna(subset="value")
    predictions = read_predictions(study.name, _runs(study, selection, untrained=False)).query("split == 'test'")
    subjects = read_table(study.paths.dataset / "test" / "images.csv").set_index("image_index")["subject"]
    return _Results(scores, predictions, subjects, study.protocol.swapped_rates)


def _runs(study: Study, selection: str, *, untrained: bool = True) -> list[Run]:
    runs = study.scored_runs() if untrained else study.explained_runs()
    return [run for run in runs if run.selection == selection]


def _rescored(study: Study, selection: str, base: _Results) -> Iterator[tuple[str, _Results, _Results]]:
    """Yield each switch that needs no training, the results without it and those with it."""
    scores = read_runs(study.paths.switch_scores, _runs(study, selection)).dropna(subset="value")
    base = replace(base, scores=scores[scores["switch"] == UNCHANGED])
    for switch in unpublished(study.protocol, RESCORED):
        rescored, methods = scores[scores["switch"] == switch], set(study.attribution.methods)
        if rescored.empty:  # the study has none of the methods that it concerns
            continue
        if methods.intersection(RESCORED[switch]):  # the mean over the methods and their order need the others, too
            others = base.scores["method"].isin(methods.difference(RESCORED[switch]))
            rescored = pd.concat([rescored, base.scores[others]], ignore_index=True)
        switched = replace(base, scores=rescored)
        if switch == "dropout_active":
            runs = _runs(study, selection, untrained=False)
            switched = replace(switched, predictions=read_runs(study.paths.switch_predictions, runs))
        yield switch, base, switched
    if not study.protocol.swapped_rates:
        rates = replace(base, scores=scores.iloc[:0])
        yield "swapped_rates", rates, replace(rates, swapped_rates=True)
