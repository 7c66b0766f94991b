"""The effects that a study answers, each with its interval in several ways: corpus, depth, methods, comparison maps.

Every effect is a contrast: weights over networks and methods. What another study would draw again decides how its interval
is made. The networks of one seed number share the fresh head's first weights and the order of batches, so they may be
alike; an effect between networks is therefore paired by seed number where all cells have the same numbers. That holds
whatever the seeds share and costs only degrees of freedom: in `make bench-statistics` the paired t interval covers .95 of
the effects on the images tested under every dependence, while with networks as units of their own it covers .83 to .86
where those of one number and corpus are alike. Where the numbers differ, as in the paper, every network is a unit of its own.

Each corpus has one pre-trained network: an effect of the corpus is one of these networks, fine-tuned again, and not yet of
another pre-training on the same corpus.
"""

import warnings
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.names import pairs
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.intervals import Interval
from pretrain_xai.study import CELL, NETWORK

Rows = Iterator[dict[str, Any]]

ALL = "all"
EFFECT_COLUMNS = ["family", "contrast", *CELL, "method", "way", "unit", "n_units", *Interval._fields]
EFFECT_COLUMNS += ["p_holm", "effect_size"]


class Contrast(NamedTuple):
    """One effect of a study.

    Attributes
    ----------
    family : str
        Which question it belongs to; p values are corrected within a family.
    contrast : str
        What is compared, such as `mri - natural`.
    weights : float array of shape (n_networks, n_methods)
    reference : str
        A comparison map whose skill is subtracted, with the weights of the methods.
    """

    family: str
    contrast: str
    weights: Floats
    pretraining: str = ALL
    finetune_depth: str = ALL
    method: str = ALL
    reference: str = ""


def effect_table(skills: Skills, seed: int = 0) -> pd.DataFrame:
    """Return every effect in every way, with Holm's correction within each family and way.

    With one seed per cell only images can be drawn again: `unit` is then "image", and the one way is `t` over images,
    clustered by subject where subjects are known.

    Returns
    -------
    DataFrame with EFFECT_COLUMNS; `effect_size` is Cohen's d, over seeds.
    """
    # with one method a network's level can't be told from the residual
    fitted = skills.n_seeds > 1 and len(skills.methods) > 1
    model = MixedModel(skills.network_means()) if fitted else None
    rows = [row for contrast in contrasts(skills) for row in rows_of(skills, contrast, seed, model)]
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)  # none with one corpus, depth and method
    table["p_holm"] = table.groupby(["family", "way"], sort=False)["p"].transform(holm)
    return table


def rows_of(skills: Skills, contrast: Contrast, seed: int, model: "MixedModel | None" = None) -> Rows:
    """Yield an effect in each of the ways, as rows that have EFFECT_COLUMNS but `p_holm`; all bootstraps draw the same."""
    units, strata, sides = contributions(skills, contrast.weights, contrast.reference)
    clusters = skills.clusters
    if skills.n_seeds == 1:
        interval = intervals.by_images(units, clusters)
        yield as_row(contrast, "t", interval, unit="image", n_units=len(np.unique(clusters)))
        return
    size = float(intervals.effect_size(units, strata, sides=sides))
    facts = {"unit": "seed", "n_units": len(units), "effect_size": size}
    yield as_row(contrast, "t", intervals.by_units(units, strata), **facts)
    bootstrap = intervals.hierarchical_bootstrap(units, strata, np.random.default_rng(seed), clusters)
    yield as_row(contrast, "hierarchical", bootstrap, **facts)
    yield as_row(contrast, "t_both", intervals.by_both(units, strata, clusters), **facts)
    if model and not contrast.reference:
        interval = model.interval(by_cell(skills, contrast.weights))
        yield as_row(contrast, "mixed_model", interval, unit="seed", n_units=len(skills.networks))


def as_row(contrast: Contrast, way: str, interval: Interval, **facts: Any) -> dict[str, Any]:
    """Return an effect in one way as a row of a table, with what else is known of it."""
    numbers = {name: float(value) for name, value in interval._asdict().items()}
    return contrast._asdict() | {"way": way} | numbers | facts


def cell_table(skills: Skills) -> pd.DataFrame:
    """Return mean skill of every corpus, depth and method with its t interval, over seeds or with one seed over images.

    Returns
    -------
    DataFrame with `pretraining`, `finetune_depth`, `method`, `unit`, `n_units`, `estimate`, `low`, `high`, `se`, `df`,
    and the mean `chance` of the images and, where known, `chance_brain`.
    """
    rows, clusters = [], skills.clusters
    for cell, places in skills.networks.groupby(CELL, sort=False).indices.items():
        n = len(places)
        unit, n_units = ("seed", n) if n > 1 else ("image", len(np.unique(clusters)))
        for column, method in enumerate(skills.methods):
            part = skills.values[places, column] / n
            interval = intervals.by_units(part) if n > 1 else intervals.by_images(part, clusters)
            rows.append((*cell, method, unit, n_units, *map(float, interval[:-1])))
    table = pd.DataFrame(rows, columns=[*CELL, "method", "unit", "n_units", *Interval._fields[:-1]])
    return table.assign(**skills.images.filter(like="chance").mean())


def contributions(skills: Skills, weights: Floats, reference: str = "") -> tuple[Floats, Integers, int]:
    """Return what each unit adds to effects, the units' strata, and the sides for the effect size.

    Units are seeds where these are paired, and else networks.

    Parameters
    ----------
    weights : float array of shape (..., n_networks, n_methods)
        Of one effect, or of several between the same networks.
    reference : str
        As that of `Contrast`.

    Returns
    -------
    float array of shape (..., n_units, n_images), int array of shape (n_units,), int
    """
    values = skills.values - skills.references[reference] if reference else skills.values
    used = weights.any(-1).reshape(-1, len(values)).any(0)
    per_network = np.einsum("...rm,rmi->...ri", weights, values, optimize=weights.ndim > 2)[..., used, :]
    networks, between = skills.networks[used], weights.sum(-1)[..., used]
    if is_paired(networks):
        numbers = pd.factorize(networks["seed"])[0]
        of_seeds = [per_network[..., numbers == number, :].sum(-2) for number in range(numbers.max() + 1)]
        return np.stack(of_seeds, axis=-2), np.zeros(len(of_seeds), dtype=np.int64), 1
    strata = networks.groupby(CELL, sort=False).ngroup().to_numpy()
    return per_network, strata, 2 if between.max() > 1e-12 and between.min() < -1e-12 else 1


def is_paired(networks: pd.DataFrame) -> bool:
    """Return whether all cells have the same seed numbers."""
    return networks.groupby(CELL)["seed"].agg(frozenset).nunique() == 1


def contrasts(skills: Skills) -> Iterator[Contrast]:
    """Yield the effects: corpus, depth, their interaction, pairs of methods, and methods beside comparison maps."""
    levels: tuple[list[Any], ...] = (skills.methods, skills.depths, skills.corpora)
    methods, depths, corpora = (dict(zip(names, np.eye(len(names)), strict=True)) for names in levels)
    every, even, both = (np.full(len(names), 1 / len(names)) for names in levels)
    shallowest, deepest = skills.depths[0], skills.depths[-1]
    span, ends = depths[deepest] - depths[shallowest], f"{deepest} - {shallowest}"
    centred = np.array(skills.depths) - np.mean(skills.depths)
    cells = skills.networks.groupby(CELL)["seed"].transform("size").to_numpy()
    corpus_of = skills.networks["pretraining"].map(skills.corpora.index)
    depth_of = skills.networks["finetune_depth"].map(skills.depths.index)

    def effect(family: str, contrast: str, of_corpora: Any, of_depths: Any, of_methods: Any, **names: str) -> Contrast:
        """Return an effect whose weights are shared evenly by the networks of a cell."""
        weights = (of_corpora[corpus_of] * of_depths[depth_of] / cells)[:, None] * of_methods
        return Contrast(family, contrast, weights, **names)

    for name in pairs(skills.corpora):
        second, first = name.split(" - ")
        sign = corpora[second] - corpora[first]
        yield effect("corpus", name, sign, even, every)
        for method, one in methods.items():
            yield effect("corpus_by_method", name, sign, even, one, method=method)
        for depth, one in depths.items():
            yield effect("corpus_by_depth", name, sign, one, every, finetune_depth=str(depth))
        if span.any():
            yield effect("corpus_x_depth", f"({name}) x ({ends})", sign, span, every)
    if span.any():
        yield effect("depth", ends, both, span, every)
        yield effect("depth_slope", "per block", both, centred / (centred**2).sum(), every)
        for corpus, one in corpora.items():
            yield effect("depth_by_corpus", ends, one, span, every, pretraining=corpus)
    for method, other in combinations(methods, 2):
        yield effect("methods", f"{method} - {other}", both, even, methods[method] - methods[other])
    for name, (method, one) in product(skills.references, methods.items()):
        yield effect(name, f"{method} - {name}", both, even, one, method=method, reference=name)


def holm(p: ArrayLike) -> Floats:
    """Return the p values adjusted for their number by Holm's step-down (1979); NaN stays NaN."""
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(len(values), np.nan)
    # statsmodels' multipletests does the same, but collects garbage at every call, which takes longer than all the rest
    order = np.argsort(values)[: (~np.isnan(values)).sum()]
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


def by_cell(skills: Skills, weights: Floats) -> pd.Series:
    """Return weights of shape (n_networks, n_methods) by corpus, depth and method."""
    by_network = pd.DataFrame(weights, columns=skills.methods)
    return by_network.groupby([skills.networks[name] for name in CELL]).sum().stack()


class MixedModel:
    """The linear mixed model of a study: skill ~ corpus * depth * method, with a random intercept per network.

    It is fitted to seed x cell means (one row per network and method) by REML, as lme4's `lmer(skill ~ corpus * depth *
    method + (1 | network))`, in the coding of cell means, in which every effect is a weighted sum of coefficients. Networks
    of one seed number are taken to be independent. The residual is taken to be equally large for all methods, which it is
    not quite: trust pairs of methods to the paired t interval first.

    Parameters
    ----------
    table : DataFrame with `pretraining`, `finetune_depth`, `seed`, `method`, `skill`
        Every method of every network; at least one corpus and depth with several seeds.

    Attributes
    ----------
    means : Series indexed by corpus, depth and method
        The coefficients, one per cell.
    covariance : DataFrame, both axes indexed as `means`
    network_variance, residual_variance : float
    n_networks : int
    """

    def __init__(self, table: pd.DataFrame):
        rows = table.sort_values([*CELL, "method", "seed"])
        number, cells = pd.MultiIndex.from_frame(rows[[*CELL, "method"]]).factorize()
        network = rows.groupby(NETWORK).ngroup().to_numpy()
        # in units of the scores' spread: the optimiser's tolerances are absolute
        scale = float(rows["skill"].std()) or 1.0
        model = MixedLM(rows["skill"].to_numpy() / scale, np.eye(len(cells))[number], groups=network)
        with warnings.catch_warnings():
            # no variance between networks is an answer, not a failure
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)
            # there is one variance to find; the methods with gradients, statsmodels' default, fail where it is near 0
            result = model.fit(reml=True, method=["powell"])
        self.means, self.n_networks = pd.Series(result.fe_params * scale, cells), int(network.max() + 1)
        covariance = np.asarray(result.cov_params())[: len(cells), : len(cells)] * scale**2
        self.covariance = pd.DataFrame(covariance, cells, cells)
        self.network_variance, self.residual_variance = result.cov_re[0, 0] * scale**2, result.scale * scale**2

    def interval(self, weights: pd.Series) -> Interval:
        """Return the effect with these weights of the cells and its t interval.

        Degrees of freedom are those of the stratum that holds the effect (containment): an effect within networks, whose
        weights sum to 0 over methods in every network, has those of the residual; any other those between networks.
        statsmodels itself takes the normal distribution, which for few networks is too narrow.

        Parameters
        ----------
        weights : Series indexed by corpus, depth and method
        """
        aligned = weights.reindex(self.means.index, fill_value=0.0)
        of_networks = aligned.groupby(level=[0, 1]).sum()
        df = self.n_networks - len(of_networks)
        if np.abs(of_networks).max() <= 1e-12:
            df *= len(self.means) // len(of_networks) - 1
        se = np.sqrt(aligned @ self.covariance @ aligned)
        return intervals.t_interval(np.asarray(aligned @ self.means), np.asarray(se), df)
