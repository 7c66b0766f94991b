"""The effects that a study answers, each with its interval in several ways: corpus, depth, methods, comparison maps.

Every effect is a contrast: weights over networks, methods and the classes of images, which count alike. What another study
would draw again decides how its interval is made. If each seed has a pre-training of its own, this with its networks of all
depths is the unit: an effect of the corpus is then one of corpora, and has Welch's t interval.

If each corpus has one pre-trained network, an effect of the corpus is one of these networks, fine-tuned again, and not of
another pre-training on the same corpus. The networks of one seed number share the fresh head's first weights and the order
of batches, so they may be alike; an effect between them is therefore paired by seed number where all cells have the same
numbers. Where the numbers differ, as in the paper, every network is a unit of its own.
"""

import warnings
from collections.abc import Iterator, Mapping
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
EFFECT_COLUMNS = ["family", "contrast", *CELL, "method", "lesions", "way", "unit", "n_units", *Interval._fields]
EFFECT_COLUMNS += ["p_holm", "clear", "effect_size", "without", "without_estimate"]
#: two effects differ clearly from 0 at this level, corrected for the number of questions of a family
ALPHA = 0.05


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
    lesions : str
        The class of the images, or all: the mean of the classes.
    classes : dict from class to weight, optional
        As `Skills.image_weights` takes it.
    """

    family: str
    contrast: str
    weights: Floats
    pretraining: str = ALL
    finetune_depth: str = ALL
    method: str = ALL
    reference: str = ""
    lesions: str = ALL
    classes: Mapping[str, float] | None = None


def effect_table(skills: Skills, seed: int = 0) -> pd.DataFrame:
    """Return every effect in every way, with Holm's correction within each family and way.

    With one seed per cell only images can be drawn again: `unit` is then "image", the one way is `t` over images, clustered
    by subject where subjects are known, and there is no p value: nobody asks whether a network differs from itself.

    Returns
    -------
    DataFrame with EFFECT_COLUMNS
        `clear` is the one rule by which an effect counts as there: its corrected p is below ALPHA. `effect_size` is Cohen's
        d, over units. `without` names the one pre-training, if there is such a one, that makes the spread, and
        `without_estimate` is the effect without it (see `odd_one_out`).
    """
    # with one method a network's level can't be told from the residual
    fitted = skills.n_seeds > 1 and len(skills.methods) > 1
    model = MixedModel(skills.network_means(), own_pretrainings=skills.own_pretrainings) if fitted else None
    rows = [row for contrast in contrasts(skills) for row in rows_of(skills, contrast, seed, model)]
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)  # none with one corpus, depth and method
    table["p_holm"] = table.groupby(["family", "way"], sort=False)["p"].transform(holm)
    table["clear"] = table["p_holm"] < ALPHA
    table.loc[table["unit"] == "image", ["p", "p_holm"]] = np.nan
    return table


def rows_of(skills: Skills, contrast: Contrast, seed: int, model: "MixedModel | None" = None) -> Rows:
    """Yield an effect in each of the ways, as rows that have EFFECT_COLUMNS but `p_holm` and `clear`.

    All bootstraps draw the same.
    """
    units, strata, sides = contributions(skills, contrast.weights, contrast.reference, contrast.classes)
    clusters = skills.clusters
    if skills.unit == "image":
        interval = intervals.by_images(units, clusters)
        yield as_row(contrast, "t", interval, unit="image", n_units=len(np.unique(clusters)))
        return
    size = float(intervals.effect_size(units, strata, sides=sides))
    facts = {"unit": skills.unit, "n_units": len(units), "effect_size": size}
    odd = odd_one_out(units, strata) if skills.own_pretrainings else None
    if odd is not None:
        used = skills.networks[contrast.weights.any(-1)]
        corpus, number = used[["pretraining", "seed"]].drop_duplicates().iloc[odd[0]]
        facts |= {"without": f"{corpus}, seed {number}", "without_estimate": odd[1]}
    yield as_row(contrast, "t", intervals.by_units(units, strata), **facts)
    bootstrap = intervals.hierarchical_bootstrap(units, strata, np.random.default_rng(seed), clusters)
    yield as_row(contrast, "hierarchical", bootstrap, **facts)
    yield as_row(contrast, "t_both", intervals.by_both(units, strata, clusters), **facts)
    if model and not contrast.reference and contrast.classes is None:
        interval = model.interval(by_cell(skills, contrast.weights))
        yield as_row(contrast, "mixed_model", interval, unit=skills.unit, n_units=len(skills.networks))


def odd_one_out(units: Floats, strata: Integers) -> tuple[int, float] | None:
    """Return the unit without which the t interval is less than half as wide, and the effect without it; or None.

    Where one of a few pre-trainings is far from the others, mean and interval tell of that one.

    Parameters
    ----------
    units : float array of shape (n_units, n_images)
    strata : int array of shape (n_units,)
    """
    whole, found = intervals.by_units(units, strata), list[tuple[float, int, float]]()
    for place in range(len(units)):
        kept = np.arange(len(units)) != place
        sizes, left = (np.bincount(strata[part], minlength=strata.max() + 1) for part in (slice(None), kept))
        if left.min() < 2:
            continue
        part = intervals.by_units(units[kept] * (sizes / left)[strata[kept]][:, None], strata[kept])
        found.append((float(part.high - part.low), place, float(part.estimate)))
    width, place, estimate = min(found, default=(np.inf, 0, 0.0))
    return (place, estimate) if width < (whole.high - whole.low) / 2 else None


def as_row(contrast: Contrast, way: str, interval: Interval, **facts: Any) -> dict[str, Any]:
    """Return an effect in one way as a row of a table, with what else is known of it."""
    numbers = {name: float(value) for name, value in interval._asdict().items()}
    return contrast._asdict() | {"way": way, "without": ""} | numbers | facts


def cell_table(skills: Skills) -> pd.DataFrame:
    """Return mean skill of every corpus, depth and method with its t interval, over seeds or with one seed over images.

    Returns
    -------
    DataFrame with `pretraining`, `finetune_depth`, `method`, `unit`, `n_units`, `estimate`, `low`, `high`, `se`, `df`,
    and the mean `chance` of the images and, where known, `chance_brain`.
    """
    rows, clusters, balanced = [], skills.clusters, skills.image_weights()
    for cell, places in skills.networks.groupby(CELL, sort=False).indices.items():
        n = len(places)
        unit, n_units = (skills.unit, n) if n > 1 else ("image", len(np.unique(clusters)))
        for column, method in enumerate(skills.methods):
            part = skills.values[places, column] * balanced / n
            interval = intervals.by_units(part) if n > 1 else intervals.by_images(part, clusters)
            rows.append((*cell, method, unit, n_units, *map(float, interval[:-1])))
    table = pd.DataFrame(rows, columns=[*CELL, "method", "unit", "n_units", *Interval._fields[:-1]])
    return table.assign(**skills.images.filter(like="chance").mean())


def contributions(
    skills: Skills, weights: Floats, reference: str = "", classes: Mapping[str, float] | None = None
) -> tuple[Floats, Integers, int]:
    """Return what each unit adds to effects, the units' strata, and the sides for the effect size.

    Units are pre-trainings where each seed has its own; seeds where these are paired; and else networks. Networks of a
    reference, where it has several, are further units, in a stratum of their own.

    Parameters
    ----------
    weights : float array of shape (..., n_networks, n_methods)
        Of one effect, or of several between the same networks.
    reference, classes
        As those of `Contrast`.

    Returns
    -------
    float array of shape (..., n_units, n_images), int array of shape (n_units,), int
    """
    other = skills.references.get(reference, np.zeros(()))
    values = skills.values - other if other.ndim < 3 else skills.values
    used = weights.any(-1).reshape(-1, len(values)).any(0)
    per_network = np.einsum("...rm,rmi->...ri", weights, values, optimize=weights.ndim > 2)[..., used, :]
    per_network = per_network * skills.image_weights(classes)
    networks, between = skills.networks[used], weights.sum(-1)[..., used]
    paired = not skills.own_pretrainings and is_paired(networks)
    unit = ["seed"] if paired else ["pretraining", "seed"] if skills.own_pretrainings else NETWORK
    grouped = networks.groupby(unit, sort=False)
    member = np.eye(grouped.ngroups)[grouped.ngroup()]  # of a network in a unit
    strata = (
        networks.loc[~grouped.ngroup().duplicated()].groupby(unit[:-1] or (lambda _: 0), sort=False).ngroup().to_numpy()
    )
    between = np.einsum("...r,ru->...u", between, member)
    sides = 2 if not paired and between.max() > 1e-12 and between.min() < -1e-12 else 1
    units = np.einsum("...ri,ru->...ui", per_network, member, optimize=weights.ndim > 2)
    if other.ndim < 3:
        return units, strata, sides
    theirs = np.einsum("...m,umi->...ui", -weights.sum(-2) / len(other), other) * skills.image_weights(classes)
    return np.concatenate([units, theirs], axis=-2), np.append(strata, np.full(len(other), strata.max() + 1)), 2


def is_paired(networks: pd.DataFrame) -> bool:
    """Return whether all cells have the same seed numbers."""
    return networks.groupby(CELL)["seed"].agg(frozenset).nunique() == 1


def contrasts(skills: Skills) -> Iterator[Contrast]:
    """Yield the effects: corpus, depth, their interactions, pairs of methods, and methods beside comparison maps.

    Those of corpus and depth also by the class of the lesions, and as the difference of the classes.
    """
    levels: tuple[list[Any], ...] = (skills.methods, skills.depths, skills.corpora)
    methods, depths, corpora = (dict(zip(names, np.eye(len(names)), strict=True)) for names in levels)
    every, even, both = (np.full(len(names), 1 / len(names)) for names in levels)
    shallowest, deepest = skills.depths[0], skills.depths[-1]
    span, ends = depths[deepest] - depths[shallowest], f"{deepest} - {shallowest}"
    centred = np.array(skills.depths) - np.mean(skills.depths)
    cells = skills.networks.groupby(CELL)["seed"].transform("size").to_numpy()
    corpus_of = skills.networks["pretraining"].map(skills.corpora.index)
    depth_of = skills.networks["finetune_depth"].map(skills.depths.index)

    def effect(family: str, contrast: str, of_corpora: Any, of_depths: Any, of_methods: Any, **names: Any) -> Contrast:
        """Return an effect whose weights are shared evenly by the networks of a cell."""
        weights = (of_corpora[corpus_of] * of_depths[depth_of] / cells)[:, None] * of_methods
        return Contrast(family, contrast, weights, **names)

    def by_class(family: str, contrast: str, of_corpora: Any, of_depths: Any, **names: Any) -> Iterator[Contrast]:
        """Yield an effect of all methods on each class of lesions, and the difference of the classes."""
        for name in skills.classes if len(skills.classes) > 1 else ():
            one: Any = {"lesions": name, "classes": {name: 1.0}} | names
            yield effect(f"{family}_by_class", contrast, of_corpora, of_depths, every, **one)
        if len(skills.classes) > 1:
            first, second = skills.classes
            both_ways: Any = {"classes": {first: -1.0, second: 1.0}} | names
            name = f"({contrast}) x ({second} - {first})"
            yield effect(f"{family}_x_class", name, of_corpora, of_depths, every, **both_ways)

    for name in pairs(skills.corpora):
        second, first = name.split(" - ")
        sign = corpora[second] - corpora[first]
        yield effect("corpus", name, sign, even, every)
        yield from by_class("corpus", name, sign, even)
        for method, one in methods.items():
            yield effect("corpus_by_method", name, sign, even, one, method=method)
        for depth, one in depths.items():
            yield effect("corpus_by_depth", name, sign, one, every, finetune_depth=str(depth))
        if span.any():
            yield effect("corpus_x_depth", f"({name}) x ({ends})", sign, span, every)
    if span.any():
        yield effect("depth", ends, both, span, every)
        yield from by_class("depth", ends, both, span)
        yield effect("depth_slope", "per block", both, centred / (centred**2).sum(), every)
        for corpus, one in corpora.items():
            yield effect("depth_by_corpus", ends, one, span, every, pretraining=corpus)
            yield from by_class("depth_by_corpus", ends, one, span, pretraining=corpus)
    for method, other in combinations(methods, 2):
        yield effect("methods", f"{method} - {other}", both, even, methods[method] - methods[other])
    for depth, one in depths.items() if "untrained" in skills.references else ():
        names = {"finetune_depth": str(depth), "reference": "untrained"}
        yield effect("untrained_by_depth", "fine-tuned - untrained", both, one, every, **names)
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

    It is fitted to class-balanced means over images (one row per network and method) by REML, as lme4's `lmer(skill ~ corpus
    * depth * method + (1 | network))`, in the coding of cell means, in which every effect is a weighted sum of coefficients.
    Where each seed has a pre-training of its own, `+ (1 | corpus:pretraining)`; else networks of one seed number are taken to
    be independent. The residual is taken to be equally large for all methods, which it is not quite: trust pairs of methods
    to the t interval first.

    Parameters
    ----------
    table : DataFrame with `pretraining`, `finetune_depth`, `seed`, `method`, `skill`
        Every method of every network; at least one corpus and depth with several seeds.
    own_pretrainings : bool
        As that of `Skills`.

    Attributes
    ----------
    means : Series indexed by corpus, depth and method
        The coefficients, one per cell.
    covariance : DataFrame, both axes indexed as `means`
    pretraining_variance, network_variance, residual_variance : float
        The first is 0 without pre-trainings of one's own.
    n_networks, n_pretrainings : int
        Of the second, corpora count as one each without these.
    """

    def __init__(self, table: pd.DataFrame, *, own_pretrainings: bool = False):
        rows = table.sort_values([*CELL, "method", "seed"], ignore_index=True)
        number, cells = pd.MultiIndex.from_frame(rows[[*CELL, "method"]]).factorize()
        network = rows.groupby(NETWORK).ngroup().to_numpy()
        origin = rows.groupby(["pretraining", "seed"] if own_pretrainings else ["pretraining"]).ngroup().to_numpy()
        # in units of the scores' spread: the optimiser's tolerances are absolute
        scale = float(rows["skill"].std()) or 1.0
        data = pd.DataFrame({"skill": rows["skill"] / scale, "cell": number, "network": network, "origin": origin})
        within: dict[str, Any] = {"groups": "network"}
        if own_pretrainings:
            within = {"groups": "origin", "vc_formula": {"network": "0 + C(network)"}}
        model = MixedLM.from_formula("skill ~ 0 + C(cell)", data, re_formula="1", **within)
        with warnings.catch_warnings():
            # no variance between networks is an answer, not a failure
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)
            # there are one or two variances to find; methods with gradients, statsmodels' default, fail where one is near 0
            result = model.fit(reml=True, method=["powell"])
        variances = [result.cov_re.iloc[0, 0] * scale**2, *(result.vcomp * scale**2)]
        self.pretraining_variance, self.network_variance = map(
            float, variances if own_pretrainings else (0, *variances)
        )
        self.n_networks, self.n_pretrainings = int(network.max() + 1), int(origin.max() + 1)
        self.means = pd.Series(result.fe_params.to_numpy() * scale, cells)
        covariance = np.asarray(result.cov_params())[: len(cells), : len(cells)] * scale**2
        self.covariance = pd.DataFrame(covariance, cells, cells)
        self.residual_variance = result.scale * scale**2

    def interval(self, weights: pd.Series) -> Interval:
        """Return the effect with these weights of the cells and its t interval.

        Degrees of freedom are those of the stratum that holds the effect (containment): an effect between corpora has those
        between pre-trainings, where seeds have their own; one within networks, whose weights sum to 0 over methods in every
        network, those of the residual; any other those between networks. statsmodels itself takes the normal distribution,
        which for few networks is too narrow.

        Parameters
        ----------
        weights : Series indexed by corpus, depth and method
        """
        aligned = weights.reindex(self.means.index, fill_value=0.0)
        of_networks = aligned.groupby(level=[0, 1]).sum()
        of_corpora = of_networks.groupby(level=0).sum()
        above = self.n_pretrainings - len(of_corpora)  # 0 without pre-trainings of one's own
        df = self.n_networks - len(of_networks) - above
        if np.abs(of_networks).max() <= 1e-12:
            df = (self.n_networks - len(of_networks)) * (len(self.means) // len(of_networks) - 1)
        elif above and np.abs(of_corpora).max() > 1e-12:
            df = above
        se = np.sqrt(aligned @ self.covariance @ aligned)
        return intervals.t_interval(np.asarray(aligned @ self.means), np.asarray(se), df)
