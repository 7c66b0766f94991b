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

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.names import pairs
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.intervals import Interval
from pretrain_xai.statistics.mixed_model import MixedModel, fit_mixed_model
from pretrain_xai.study import CELL

ALL = "all"
EFFECT_COLUMNS = ["family", "contrast", *CELL, "method", "way", "unit", "n_units", *Interval._fields]
EFFECT_COLUMNS += ["p_holm", "effect_size"]


@dataclass(frozen=True)
class Contrast:
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
    weights: Floats = field(repr=False)
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
    model = fit_mixed_model(skills.network_means()) if fitted else None
    rows = [row for contrast in contrasts(skills) for row in rows_of(skills, contrast, seed, model)]
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)  # none with one corpus, depth and method
    table["p_holm"] = table.groupby(["family", "way"], sort=False)["p"].transform(holm)
    return table


def rows_of(
    skills: Skills, contrast: Contrast, seed: int = 0, model: MixedModel | None = None
) -> Iterator[dict[str, Any]]:
    """Yield an effect in each of the ways, as rows that have EFFECT_COLUMNS but `p_holm`; all bootstraps draw the same."""
    units, strata, sides = contributions(skills, contrast)
    clusters = skills.clusters
    if skills.n_seeds == 1:
        made = {"t": intervals.by_images(units, clusters)}
        unit, n_units, size = "image", len(np.unique(clusters)), np.nan
    else:
        bootstrap = intervals.hierarchical_bootstrap(units, strata, np.random.default_rng(seed), clusters)
        made = {"t": intervals.by_units(units, strata), "hierarchical": bootstrap}
        made["t_both"] = intervals.by_both(units, strata, clusters)
        unit, n_units, size = "seed", len(units), float(intervals.effect_size(units, strata, sides=sides))
    for way, interval in made.items():
        yield as_row(contrast, way, interval, unit=unit, n_units=n_units, effect_size=size)
    if model is not None and not contrast.reference:
        interval = model.interval(by_cell(skills, contrast.weights))
        yield as_row(contrast, "mixed_model", interval, unit="seed", n_units=len(skills.networks), effect_size=np.nan)


def as_row(contrast: Contrast, way: str, interval: Interval, **facts: Any) -> dict[str, Any]:
    """Return an effect in one way as a row of a table, with what else is known of it."""
    numbers = {name: float(value) for name, value in interval._asdict().items()}
    return vars(contrast) | {"way": way} | numbers | facts


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
    known = [name for name in ("chance", "chance_brain") if name in skills.images]
    return table.assign(**skills.images[known].mean())


def contributions(skills: Skills, contrast: Contrast) -> tuple[Floats, Integers, int]:
    """Return what each unit adds to an effect, the units' strata, and the sides for the effect size.

    Units are seeds where these are paired, and else networks.

    Returns
    -------
    float array of shape (n_units, n_images), int array of shape (n_units,), int
    """
    values = skills.values - skills.references[contrast.reference] if contrast.reference else skills.values
    used = np.abs(contrast.weights).sum(1) > 0
    per_network, networks = np.einsum("rm,rmi->ri", contrast.weights, values)[used], skills.networks[used]
    if is_paired(networks):
        numbers = pd.factorize(networks["seed"])[0]
        units = np.stack([per_network[numbers == number].sum(0) for number in range(numbers.max() + 1)])
        return units, np.zeros(len(units), dtype=np.int64), 1
    between = contrast.weights[used].sum(1)
    strata = networks.groupby(CELL, sort=False).ngroup().to_numpy()
    return per_network, strata, 2 if between.max() > 1e-12 and between.min() < -1e-12 else 1


def is_paired(networks: pd.DataFrame) -> bool:
    """Return whether all cells have the same seed numbers."""
    return networks.groupby(CELL)["seed"].agg(frozenset).nunique() == 1


def contrasts(skills: Skills) -> Iterator[Contrast]:
    """Yield the effects: corpus, depth, their interaction, pairs of methods, and methods beside comparison maps."""
    methods = dict(zip(skills.methods, np.eye(len(skills.methods)), strict=True))
    corpora = dict(zip(skills.corpora, np.eye(len(skills.corpora)), strict=True))
    depths = dict(zip(skills.depths, np.eye(len(skills.depths)), strict=True))
    every, even, both = (np.full(len(names), 1 / len(names)) for names in (methods, depths, corpora))
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
    for reference, (method, one) in product(skills.references, methods.items()):
        names = {"method": method, "reference": reference}
        yield effect(reference, f"{method} - {reference}", both, even, one, **names)


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
