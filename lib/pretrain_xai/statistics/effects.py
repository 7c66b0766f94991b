"""The effects that a study answers, each with its interval in several ways: corpus, depth, methods, comparison maps.

Every effect is a contrast: weights over networks and methods. What was drawn anew decides how its interval is made. The
networks of one seed number share the fresh head's first weights and the order of batches, so they may be alike; an effect
between networks is therefore paired by seed number where all cells have the same numbers. That holds whatever the seeds
share and costs only degrees of freedom: in `make bench-statistics` the paired t interval covers .95 of the effects
on the images tested under every dependence, while with networks as units of their own it covers .83 to .86 where those of
one number and corpus are alike. Where the numbers differ, as in the paper, every network is a unit of its own.

Each corpus has one pre-trained network: an effect of the corpus is one of these networks, fine-tuned anew, and not yet of
another pre-training on the same corpus.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pretrain_xai.arrays import Floats, Integers
from pretrain_xai.skill import Skills
from pretrain_xai.statistics import intervals
from pretrain_xai.statistics.intervals import Interval
from pretrain_xai.statistics.mixed_model import fit_mixed_model

ALL = "all"
#: ways to make an interval, the primary one first
WAYS = ("t", "bootstrap_t", "hierarchical", "t_both", "mixed_model")
EFFECT_COLUMNS = [
    "family",
    "contrast",
    "pretraining",
    "finetune_depth",
    "method",
    "way",
    "unit",
    "n_units",
    *Interval._fields,
    "p_holm",
    "effect_size",
]
DRAWS = 1999


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


def effect_table(skills: Skills, seed: int = 0, ways: tuple[str, ...] = WAYS) -> pd.DataFrame:
    """Return every effect in every way, with Holm's correction within each family and way.

    With one seed per cell only images can be drawn anew: `unit` is then "image", and the one way is `t` over images,
    clustered by subject where subjects are known.

    Returns
    -------
    DataFrame with EFFECT_COLUMNS; `effect_size` is Cohen's d, over seeds.
    """
    rng = np.random.default_rng(seed)
    # with one method a network's level can't be told from the residual
    fitted = "mixed_model" in ways and skills.n_seeds > 1 and len(skills.methods) > 1
    model = fit_mixed_model(skills.network_means()) if fitted else None
    rows: list[dict[str, Any]] = []
    for contrast in contrasts(skills):
        rows += rows_of(skills, contrast, rng, ways)
        if model is not None and not contrast.reference:
            interval = model.interval(_by_cell(skills, contrast))
            rows.append(_row(contrast, "mixed_model", "seed", len(skills.networks), interval, np.nan))
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)  # none with one corpus, depth and method
    table["p_holm"] = table.groupby(["family", "way"], sort=False)["p"].transform(holm)
    return table[EFFECT_COLUMNS]


def rows_of(
    skills: Skills, contrast: Contrast, rng: np.random.Generator, ways: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Yield an effect in each of the ways that need no model, as rows of EFFECT_COLUMNS without `p_holm`."""
    for way, unit, n_units, interval, size in _in_each_way(skills, contrast, rng, ways):
        yield _row(contrast, way, unit, n_units, interval, size)


def cell_table(skills: Skills) -> pd.DataFrame:
    """Return mean skill of every corpus, depth and method with its t interval, over seeds or with one seed over images.

    Returns
    -------
    DataFrame with `pretraining`, `finetune_depth`, `method`, `unit`, `n_units`, `estimate`, `low`, `high`, `se`, `df`,
    and the mean `chance` of the images and, where known, `chance_brain`.
    """
    rows = []
    cells = skills.networks.groupby(["pretraining", "finetune_depth"], sort=False).indices
    for (pretraining, depth), places in cells.items():
        for column, method in enumerate(skills.methods):
            part = skills.values[places, column] / len(places)
            several = len(places) > 1
            interval = intervals.by_units(part) if several else intervals.by_images(part, skills.clusters)
            rows.append(
                {"pretraining": pretraining, "finetune_depth": depth, "method": method}
                | {"unit": "seed" if several else "image"}
                | {"n_units": len(places) if several else len(np.unique(skills.clusters))}
                | {name: float(value) for name, value in interval._asdict().items() if name != "p"}
            )
    known = [name for name in ("chance", "chance_brain") if name in skills.images]
    return pd.DataFrame(rows).assign(**{name: skills.images[name].mean() for name in known})


def contributions(skills: Skills, contrast: Contrast) -> tuple[Floats, Integers, int]:
    """Return what each unit adds to an effect, the units' strata, and the sides for the effect size.

    Returns
    -------
    float array of shape (n_units, n_images), int array of shape (n_units,), int
    """
    values = skills.values
    if contrast.reference:
        values = values - skills.references[contrast.reference]
    per_network = np.einsum("rm,rmi->ri", contrast.weights, values)
    used = np.abs(contrast.weights).sum(1) > 0
    networks = skills.networks[used]
    per_network = per_network[used]
    if is_paired(networks):
        numbers = pd.factorize(networks["seed"])[0]
        units = np.stack([per_network[numbers == number].sum(0) for number in range(numbers.max() + 1)])
        return units, np.zeros(len(units), dtype=np.int64), 1
    strata = networks.groupby(["pretraining", "finetune_depth"], sort=False).ngroup().to_numpy()
    between = contrast.weights[used].sum(1)
    return per_network, strata, 2 if (between > 1e-12).any() and (between < -1e-12).any() else 1


def is_paired(networks: pd.DataFrame) -> bool:
    """Return whether all cells have the same seed numbers."""
    seeds = networks.groupby(["pretraining", "finetune_depth"])["seed"].agg(frozenset)
    return seeds.nunique() == 1


def contrasts(skills: Skills) -> Iterator[Contrast]:
    """Yield the effects: corpus, depth, their interaction, pairs of methods, and methods beside comparison maps."""
    every = np.full(len(skills.methods), 1 / len(skills.methods))
    single = dict(zip(skills.methods, np.eye(len(skills.methods)), strict=True))
    depths = np.array(skills.depths, dtype=np.float64)
    span, slope = np.zeros(len(depths)), np.zeros(len(depths))
    if len(depths) > 1:
        span[0], span[-1] = -1, 1
        slope = (depths - depths.mean()) / ((depths - depths.mean()) ** 2).sum()
    even, corpora = np.full(len(depths), 1 / len(depths)), np.full(len(skills.corpora), 1 / len(skills.corpora))
    ends = f"{skills.depths[-1]} - {skills.depths[0]}"
    for first, second in combinations(range(len(skills.corpora)), 2):
        name = f"{skills.corpora[second]} - {skills.corpora[first]}"
        sign = np.zeros(len(corpora))
        sign[first], sign[second] = -1, 1
        yield Contrast("corpus", name, _weights(skills, sign, even, every))
        for method, one in single.items():
            yield Contrast("corpus_by_method", name, _weights(skills, sign, even, one), method=method)
        for depth, at in zip(skills.depths, np.eye(len(depths)), strict=True):
            yield Contrast("corpus_by_depth", name, _weights(skills, sign, at, every), finetune_depth=str(depth))
        if len(depths) > 1:
            yield Contrast("corpus_x_depth", f"({name}) x ({ends})", _weights(skills, sign, span, every))
    if len(depths) > 1:
        yield Contrast("depth", ends, _weights(skills, corpora, span, every))
        yield Contrast("depth_slope", "per block", _weights(skills, corpora, slope, every))
        for corpus, one in zip(skills.corpora, np.eye(len(corpora)), strict=True):
            yield Contrast("depth_by_corpus", ends, _weights(skills, one, span, every), pretraining=corpus)
    for method, other in combinations(skills.methods, 2):
        yield Contrast(
            "methods", f"{method} - {other}", _weights(skills, corpora, even, single[method] - single[other])
        )
    for reference in skills.references:
        for method, one in single.items():
            weights = _weights(skills, corpora, even, one)
            yield Contrast(reference, f"{method} - {reference}", weights, method=method, reference=reference)


def holm(p: ArrayLike) -> Floats:
    """Return the p values adjusted for their number by Holm's step-down (1979); NaN stays NaN."""
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(len(values), np.nan)
    # statsmodels' multipletests does the same, but collects garbage at every call, which takes longer than all the rest
    order = np.argsort(values)[: (~np.isnan(values)).sum()]
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


def _weights(skills: Skills, corpora: np.ndarray, depths: np.ndarray, methods: np.ndarray) -> Floats:
    """Return corpus x depth x method weights as weights of networks and methods, shared evenly by the networks of a cell."""
    table = skills.networks
    corpus = table["pretraining"].map(skills.corpora.index).to_numpy()
    depth = table["finetune_depth"].map(skills.depths.index).to_numpy()
    in_cell = table.groupby(["pretraining", "finetune_depth"])["seed"].transform("size").to_numpy()
    return (corpora[corpus] * depths[depth] / in_cell)[:, None] * methods


def _in_each_way(
    skills: Skills, contrast: Contrast, rng: np.random.Generator, ways: tuple[str, ...]
) -> Iterator[tuple[str, str, int, Interval, float]]:
    units, strata, sides = contributions(skills, contrast)
    clusters = skills.clusters
    if skills.n_seeds == 1:
        yield "t", "image", len(np.unique(clusters)), intervals.by_images(units, clusters), np.nan
        return
    size = float(intervals.effect_size(units, strata, sides=sides))
    made: dict[str, Callable[[], Interval]] = {
        "t": lambda: intervals.by_units(units, strata),
        "bootstrap_t": lambda: intervals.bootstrap_t(units, strata, rng, DRAWS),
        "hierarchical": lambda: intervals.hierarchical_bootstrap(units, strata, rng, clusters, DRAWS),
        "t_both": lambda: intervals.by_both(units, strata, clusters),
    }
    if len(units) < intervals.FEWEST_OF_BOOTSTRAP_T:
        del made["bootstrap_t"]
    for way, make in made.items():
        if way in ways:
            yield way, "seed", len(units), make(), size


def _by_cell(skills: Skills, contrast: Contrast) -> pd.Series:
    """Return the weights of a contrast by cell and method."""
    table = pd.DataFrame(contrast.weights, columns=skills.methods)
    keys = [skills.networks[name].to_numpy() for name in ("pretraining", "finetune_depth")]
    return table.groupby(keys).sum().rename_axis(["pretraining", "finetune_depth"]).stack()


def _row(contrast: Contrast, way: str, unit: str, n_units: int, interval: Interval, size: float) -> dict[str, Any]:
    names = ("family", "contrast", "pretraining", "finetune_depth", "method")
    numbers = {name: float(value) for name, value in interval._asdict().items()}
    facts = {"way": way, "unit": unit, "n_units": n_units, **numbers, "effect_size": size}
    return {name: getattr(contrast, name) for name in names} | facts
