"""How a study's ranking and conclusions fare when the same maps are scored in other ways, and on misclassified images.

A *setting* is a population of images (see `populations`) with a channel reduction, a mask threshold and a score; the
default is the study's own. A ranking is by the methods' mean rank over networks, as in `ranks`. Conclusions are judged as
`findings` judges them, by the primary interval of `effects`; where networks are scored on images of their own, its
variance over images is the linearised one of such means, clustered by subject.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pretrain_xai.arrays import Floats
from pretrain_xai.errors import UserError
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import Contrast, contrasts, holm, is_paired
from pretrain_xai.statistics.intervals import Interval, by_images, by_units
from pretrain_xai.statistics.populations import Names, Places, Population
from pretrain_xai.statistics.resampling import kendall_tau, subject_weights
from pretrain_xai.study import CELL, NETWORK

RESAMPLES = 1000
SETTING = ["population", "channel_reduction", "mask_threshold", "score"]
#: what can become of a conclusion: clearly the opposite, no longer clear, or clear only under the setting
CHANGES = ("reversed", "lost", "gained")
#: families of effects that are judged by their interval; the others hold many effects and are judged after Holm's correction
_SINGLE = ("corpus", "depth")
#: kinds of conclusions that are counted
KINDS = ("first", *_SINGLE, "methods", "references")
_ROUNDING = 1e-12
#: columns of `flips`
FLIP_COLUMNS = [*SETTING, "conclusion", "contrast", "default", "found", "change", "estimate", "low", "high"]


def mean_ranks(values: np.ndarray, image_weights: np.ndarray, network_weights: np.ndarray) -> Floats:
    """Return the mean rank of each method over networks, 1 is best, in every resample.

    Parameters
    ----------
    values : float array of shape (n_networks, n_methods, n_images), NaN where a network did not see an image
    image_weights : float array of shape (n_images, n_resamples)
    network_weights : float array of shape (n_networks, n_resamples)

    Returns
    -------
    float array of shape (n_methods, n_resamples)
    """
    seen = (~np.isnan(values)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nan_to_num(values) @ image_weights / (seen @ image_weights)
    drawn = ~np.isnan(means).any(axis=1)  # a resample may hold no image of a network
    ranks = stats.rankdata(-np.where(drawn[:, None], means, 0.0), axis=1)
    weights = (network_weights * drawn)[:, None]
    return (ranks * weights).sum(axis=0) / weights.sum(axis=0)


def network_draws(networks: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> Floats:
    """Return how often each network is drawn: once in column 0, then seeds with replacement within each cell.

    Where all cells have the same seed numbers, the same are drawn in all of them. With one seed each is drawn once.

    Returns
    -------
    float array of shape (n_networks, 1 + n_resamples)
    """
    draws = np.ones((len(networks), 1 + n_resamples))
    cells = networks.groupby(["pretraining", "finetune_depth"], sort=False).indices
    paired, drawn = is_paired(networks), None
    for places in cells.values():
        n = len(places)
        if drawn is None or not paired:
            drawn = rng.multinomial(n, np.full(n, 1 / n), n_resamples).T
        draws[places[networks["seed"].to_numpy()[places].argsort()], 1:] = drawn
    return draws


def sensitivity_tables(found: Sequence[Population], default: Names, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return how ranking and conclusions fare under every setting.

    Parameters
    ----------
    found : sequence of Population
        From `populations`; the first is that of the default.
    default : channel reduction, mask threshold and score of the study
    seed : int
        Of the resamples of subjects and, with several, of seeds.

    Returns
    -------
    dict of DataFrame
        `sensitivity`, a row per setting: `n_networks`, `depths`, `fewest_images` and `most_images` of a network; Kendall's
        `tau` of the methods' mean ranks with those of the default, `tau_low` and `tau_high` (95 of 100 resamples, the
        same subjects and seeds for both); `first`, the method that ranks first; and for each kind of conclusion how many
        are `<kind>_reversed`, `<kind>_lost` and `<kind>_gained`.
        `flips`, a row per setting and conclusion that is not the default's.
        `survival`, a row per population and conclusion: what the default says, under how many `settings` it was asked, and
        in how many it is `kept`, `reversed`, `lost`, `gained`.
    """
    if tuple(default) not in found[0].settings:
        name, scores = ", ".join(map(str, default)), ", ".join(found[0].scored[0].scores)
        raise UserError(f"the setting {name} is not among those that were scored; scores are {scores}")
    subjects = {subject for population in found for subject in population.images["subject"]}
    by_subject = subject_weights(subjects, RESAMPLES, seed)
    drawn = network_draws(found[0].networks, np.random.default_rng(seed), RESAMPLES)
    by_network = pd.DataFrame(drawn, pd.MultiIndex.from_frame(found[0].networks[NETWORK]))

    def ranks_of(population: Population, setting: Places) -> Floats:
        networks = pd.MultiIndex.from_frame(population.networks[NETWORK])
        draws = by_subject.loc[population.images["subject"]].to_numpy(), by_network.loc[networks].to_numpy()
        return mean_ranks(population.skills(setting), *draws)

    place = found[0].settings[tuple(default)]
    judged, ranks = judge(found[0].on_common_images(place)), ranks_of(found[0], place)
    rows, asked = [], []
    for population in found:
        families = None
        for names, setting in population.settings.items():
            skills, own = population.on_common_images(setting), ranks_of(population, setting)
            families = families or contrast_families(skills)
            verdicts = _compare(judged, judge(skills, families), ranks[:, 0], own[:, 0], population.methods)
            keys = dict(zip(SETTING, (population.name, *names), strict=True))
            rows.append(keys | _row(population, kendall_tau(own, ranks), own[:, 0], verdicts))
            asked.append(verdicts.assign(**keys))
    table, verdicts = pd.DataFrame(rows), pd.concat(asked, ignore_index=True)
    table.insert(4, "is_default", (table[SETTING] == (found[0].name, *default)).all(axis=1))
    key = ["population", "conclusion", "contrast", "default"]
    counts = verdicts.groupby(key, sort=False)["change"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=["kept", *CHANGES], fill_value=0)
    counts.insert(0, "settings", counts.sum(axis=1))
    return {
        "sensitivity": table,
        "flips": verdicts.loc[verdicts["change"] != "kept", FLIP_COLUMNS].reset_index(drop=True),
        "survival": counts.rename_axis(columns=None).reset_index(),
    }


def contrast_families(skills: Skills) -> dict[str, list[Contrast]]:
    """Return the effects that are judged, by family: corpora, depth, pairs of methods, methods beside references."""
    every = list(contrasts(skills))
    wanted = (*_SINGLE, "methods", *skills.references)
    families = {family: [one for one in every if one.family == family] for family in wanted}
    return {family: members for family, members in families.items() if members}


def judge(skills: Skills, families: Mapping[str, Sequence[Contrast]] | None = None) -> pd.DataFrame:
    """Return the conclusions of a study.

    They are those of `effects.effect_table` in its primary way; all contrasts of a family are computed at once, and those
    of studies with the same networks can be given, since there are many settings.

    Returns
    -------
    DataFrame with `verdict` (1: clearly above 0, -1: below, 0: not clear), `estimate`, `low`, `high`; indexed by family and
    contrast. Corpora and depth are judged by their interval, the families that hold many effects after Holm's correction.
    """
    families = families or contrast_families(skills)
    found = {family: _intervals(skills, members) for family, members in families.items()}
    clear = [
        (interval.low > 0) | (interval.high < 0) if family in _SINGLE else holm(interval.p) < 0.05
        for family, interval in found.items()
    ]
    names = ("estimate", "low", "high")
    table = pd.DataFrame({name: np.concatenate([getattr(one, name) for one in found.values()]) for name in names})
    real = table["estimate"].abs() > _ROUNDING  # of two methods with equal scores there may be nothing else
    table.insert(0, "verdict", (np.sign(table["estimate"]) * (np.concatenate(clear) & real)).astype(int))
    keys = [(family, contrast.contrast) for family, members in families.items() for contrast in members]
    return table.set_index(pd.MultiIndex.from_tuples(keys, names=["conclusion", "contrast"]))


def _intervals(skills: Skills, family: Sequence[Contrast]) -> Interval:
    """Return the primary intervals of contrasts between the same networks and with the same reference."""
    reference = family[0].reference
    values = skills.values - skills.references[reference] if reference else skills.values
    weights = np.stack([contrast.weights for contrast in family])
    per_network = np.einsum("crm,rmi->cri", weights, values, optimize=True)
    if skills.n_seeds == 1:
        return by_images(per_network, skills.clusters)
    used = np.abs(weights).sum(axis=(0, 2)) > 0
    networks, per_network = skills.networks[used], per_network[:, used]
    if is_paired(networks):
        numbers = pd.factorize(networks["seed"])[0]
        return by_units(np.stack([per_network[:, numbers == n].sum(1) for n in range(numbers.max() + 1)], axis=1))
    return by_units(per_network, networks.groupby(CELL, sort=False).ngroup().to_numpy())


def _compare(
    default: pd.DataFrame, found: pd.DataFrame, default_ranks: np.ndarray, ranks: np.ndarray, methods: list[str]
) -> pd.DataFrame:
    """Return every conclusion that both have: what the default says, what was found, and the change."""
    both = default[["verdict"]].join(found, how="inner", lsuffix="_default").reset_index()
    before, after = both.pop("verdict_default"), both.pop("verdict")
    change = np.select(
        [before == after, before == -after, after == 0, before == 0], ["kept", "reversed", "lost", "gained"], ""
    )
    words = {1: "above", -1: "below", 0: "not clear"}
    table = both.assign(default=before.map(words), found=after.map(words), change=change)
    first, now = methods[int(default_ranks.argmin())], methods[int(ranks.argmin())]
    row = {"conclusion": "first", "contrast": "ranks first", "default": first, "found": now, "change": "lost"}
    verdicts = found["verdict"].to_dict()
    if ranks[methods.index(first)] == ranks.min():
        row |= {"found": first, "change": "kept"}
    elif 1 in (verdicts.get(("methods", f"{now} - {first}")), -verdicts.get(("methods", f"{first} - {now}"), 0)):
        row["change"] = "reversed"  # another method is clearly better
    return pd.concat([pd.DataFrame([row]), table], ignore_index=True)


def _row(population: Population, tau: np.ndarray, ranks: np.ndarray, verdicts: pd.DataFrame) -> dict[str, Any]:
    drawn = tau[1:][~np.isnan(tau[1:])]  # one method alone has no order
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    seen, depths = population.seen.sum(axis=1), sorted(set(population.networks["finetune_depth"]))
    row: dict[str, Any] = {"n_networks": len(seen), "fewest_images": int(seen.min()), "most_images": int(seen.max())}
    row |= {"depths": " ".join(map(str, depths)), "tau": float(tau[0]), "tau_low": float(low), "tau_high": float(high)}
    row |= {"first": population.methods[int(ranks.argmin())]}
    kinds = verdicts["conclusion"].where(verdicts["conclusion"].isin(KINDS), "references")
    counts = (kinds + "_" + verdicts["change"]).value_counts()
    names = [f"{kind}_{change}" for kind in KINDS for change in CHANGES if (kind, change) != ("first", "gained")]
    return row | {name: int(counts.get(name, 0)) for name in names}
