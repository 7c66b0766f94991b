"""How a study's ranking and conclusions fare when the same maps are scored in other ways, and on misclassified images.

A *setting* is a population of images with a channel reduction, a mask threshold, a score, a ground truth and a sign of the
maps; the default is the study's own. A ranking is by the methods' mean rank over networks, as in `summary`. Conclusions are
judged as `findings` judges them, by the primary interval of `effects`; where networks are scored on images of their own, its
variance over images is the linearised one of such means, clustered by subject.

The populations of a study:

- `correct`: the images that all models classify correctly, the same for every network, as in all other statistics.
- `incorrect`: each network on the images that it misclassifies itself. Depths at which a network has fewer than
  FEWEST_IMAGES of them are left out, for all corpora and seeds.
- `correct_same_depths`, where depths were left out: the correct images again, at the depths of `incorrect`. It differs
  from `incorrect` by the images, from `correct` by the depths.

Networks on images of their own have no image in common; `common_images` brings them to the form of a study that has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pretrain_xai.arrays import Booleans, Floats, Integers
from pretrain_xai.dataset import read_split
from pretrain_xai.errors import UserError
from pretrain_xai.selection import CORRECT_FOR_ALL, WRONG_FOR_ONE, image_list
from pretrain_xai.setting_scores import Setting, SettingScores, score_comparison_maps, score_ground_truths
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import contrasts, contributions, holm, is_paired
from pretrain_xai.statistics.intervals import by_images, by_units
from pretrain_xai.statistics.resampling import kendall_tau, subject_weights
from pretrain_xai.study import CELL, NETWORK, Run, Study
from pretrain_xai.tables import read_table

CORRECT, INCORRECT, SAME_DEPTHS = "correct", "incorrect", "correct_same_depths"
#: fewer misclassified images of a network say nothing
FEWEST_IMAGES = 10
RESAMPLES = 1000
SETTING = ["population", *Setting._fields]
#: what can become of a conclusion: clearly the opposite, no longer clear, or clear only under the setting
CHANGES = ("reversed", "lost", "gained")
#: families of effects that are judged by their interval; the others hold many effects and are judged after Holm's correction
_SINGLE = ("corpus", "depth")
#: kinds of conclusions that are counted
KINDS = ("first", *_SINGLE, "methods", "references")
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Population:
    """Networks and the images on which each is scored.

    Attributes
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `seed`; corpora in the study's order
    scored : sequence of SettingScores, one per network
    images : DataFrame with `image_index`, ascending, and `subject`; and `label`, if all networks see all images
    seen : bool array of shape (n_networks, n_images)
    references : dict of sequences of SettingScores
        Comparison maps by name, one method each, and of each untrained network one per method of the networks.
    truths : SettingScores, optional
        Of the ground truths as maps, on all images.
    """

    name: str
    networks: pd.DataFrame
    scored: Sequence[SettingScores]
    images: pd.DataFrame
    seen: Booleans
    references: Mapping[str, Sequence[SettingScores]]
    own_pretrainings: bool = False
    truths: SettingScores | None = None

    @property
    def methods(self) -> list[str]:
        """The explanation methods."""
        return list(self.scored[0].methods)

    @property
    def settings(self) -> Sequence[Setting]:
        """All settings."""
        return self.scored[0].settings

    def skills(self, setting: Setting) -> Floats:
        """Return skill, (n_networks, n_methods, n_images), NaN where a network is not scored."""
        values = np.stack([scored.skill_at(setting, self.images["image_index"]) for scored in self.scored])
        return np.where(self.seen[:, None], values, np.nan)

    def truth_scores(self, setting: Setting) -> dict[str, float]:
        """Return the mean `chance` under a setting over the images, and what each ground truth scores there as a map."""
        if self.truths is None:
            return {}
        values, chance = self.truths.at(setting, self.images["image_index"])
        return {"chance": np.nanmean(chance)} | dict(zip(self.truths.methods, np.nanmean(values, axis=1), strict=True))

    def on_common_images(self, setting: Setting) -> Skills:
        """Return the skills under a setting in the form of a study all of whose images are common.

        With those references that are scored on all images.
        """
        values, references = self.skills(setting), {}
        for name, several in self.references.items():
            of_maps = [one.skill_at(setting, self.images["image_index"]) for one in several]
            known = np.where(np.isnan(values), np.nan, np.mean(of_maps, axis=0))
            if len(of_maps) > 1 and not np.isnan(of_maps).any() and self.seen.all():
                references[name] = np.stack(of_maps)
            elif (np.isnan(known) == np.isnan(values)).all():
                references[name] = common_images(known)
        given = common_images(values), self.networks, self.methods, self.images, references
        return Skills(*given, own_pretrainings=self.own_pretrainings)


def read_populations(study: Study, selection: str) -> list[Population]:
    """Return the populations of a finished study, with the comparison maps and the untrained networks as references.

    Untrained networks are scored on the images right for all only, the comparison maps here, on all images.
    """

    def read(run: Run) -> SettingScores:
        return SettingScores.read(study.paths.setting_scores / f"{run.name}.npz")

    corpora: Sequence[str] = study.pretraining.corpora
    runs = [run for run in study.explained_runs() if run.selection == selection]
    runs.sort(key=lambda run: (corpora.index(run.pretraining), run))
    scored, lists = [read(run) for run in runs], read_table(study.paths.intersections)
    folder, threshold = study.paths.dataset / "test", study.protocol.mask_threshold
    test = read_split(folder, threshold, with_twins=study.protocol.has_twins)
    image_index = np.unique(np.concatenate([own.image_index for own in scored]))
    settings = study.attribution.model_copy(update={"scores": ["relevance_rank_accuracy"]})
    _, maps = score_comparison_maps(test, image_index, settings, study.protocol)
    references = {name: [maps.of(name)] for name in maps.methods}
    references["untrained"] = [read(run) for run in study.untrained_runs() if run.selection == selection]
    wrong = [image_list(lists, selection, WRONG_FOR_ONE, run) for run in runs]
    correct, about = (
        image_list(lists, selection, CORRECT_FOR_ALL),
        test.table.set_index("image_index")[["subject", "label"]],
    )
    given = pd.DataFrame(runs)[NETWORK], scored, correct, wrong, references, about
    truths = score_ground_truths(test, image_index, settings.sensitivity, study.protocol)
    return populations(*given, own_pretrainings=study.own_pretrainings, truths=truths)


def populations(
    networks: pd.DataFrame,
    scored: Sequence[SettingScores],
    correct: Integers,
    incorrect: Sequence[Integers],
    references: Mapping[str, Sequence[SettingScores]],
    about: pd.DataFrame,
    *,
    own_pretrainings: bool = False,
    truths: SettingScores | None = None,
) -> list[Population]:
    """Return the populations of a study, as far as it has images for them.

    Parameters
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `seed`
    scored : sequence of SettingScores, one per network
    correct : int array
        The images that all models classify correctly.
    incorrect : sequence of int arrays, one per network
        The images that it misclassifies.
    references : dict of sequences of SettingScores
    about : DataFrame with `subject` and `label`, by image index
        The classes count alike where all networks see the same images; what a network misclassifies counts as it comes.
    own_pretrainings : bool
        As that of `Skills`.
    truths : SettingScores, optional
        As that of `Population`.
    """

    def population(name: str, chosen: Booleans, lists: Sequence[Integers]) -> Population:
        places = np.flatnonzero(chosen).tolist()
        kept = [np.intersect1d(scored[place].image_index, lists[place]) for place in places]
        image_index = np.unique(np.concatenate(kept))
        seen = np.stack([np.isin(image_index, own) for own in kept])
        images = about.loc[image_index, ["subject", "label"] if seen.all() else ["subject"]].rename_axis("image_index")
        rows = networks.iloc[places].reset_index(drop=True)
        given = [scored[place] for place in places], images.reset_index(), seen, references
        return Population(name, rows, *given, own_pretrainings, truths)

    counts = np.array([np.isin(own.image_index, wrong).sum() for own, wrong in zip(scored, incorrect, strict=True)])
    enough = ~networks["finetune_depth"].isin(networks.loc[counts < FEWEST_IMAGES, "finetune_depth"])
    right = [correct] * len(networks)
    found = [population(CORRECT, np.ones(len(networks), dtype=bool), right)]
    found += [population(SAME_DEPTHS, enough, right)] if enough.any() and not enough.all() else []
    return found + ([population(INCORRECT, enough, incorrect)] if enough.any() else [])


def common_images(values: np.ndarray) -> Floats:
    """Return values on all images whose means are those over the images that each network saw.

    With m the mean over the n images seen, of N in all, an image that was seen holds m + (value - m) N / n and one that was
    not holds m: the influence of the image on the mean. Where all is seen these are the values.

    Parameters
    ----------
    values : float array of shape (n_networks, n_methods, n_images)
        NaN where a network did not see an image.
    """
    seen = ~np.isnan(values)
    if seen.all():
        return values
    n_seen = seen.sum(axis=-1, keepdims=True)
    mean = np.nansum(values, axis=-1, keepdims=True) / n_seen
    return mean + np.where(seen, (values - mean) * (values.shape[-1] / n_seen), 0.0)


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


def network_draws(
    networks: pd.DataFrame, rng: np.random.Generator, n_resamples: int, *, own_pretrainings: bool = False
) -> Floats:
    """Return how often each network is drawn: once in column 0, then seeds with replacement within each cell.

    Where all cells have the same seed numbers, the same are drawn in all of them, or with pre-trainings of their own in those
    of a corpus. With one seed each is drawn once.

    Returns
    -------
    float array of shape (n_networks, 1 + n_resamples)
    """
    draws = np.ones((len(networks), 1 + n_resamples))
    paired, drawn, last = is_paired(networks), None, ""
    for (corpus, _), places in networks.groupby(CELL, sort=False).indices.items():
        n, another, last = len(places), own_pretrainings and corpus != last, corpus
        if drawn is None or not paired or another:
            drawn = rng.multinomial(n, np.full(n, 1 / n), n_resamples).T
        draws[places[networks["seed"].to_numpy()[places].argsort()], 1:] = drawn
    return draws


def sensitivity_tables(found: Sequence[Population], default: Setting, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return how ranking and conclusions fare under every setting.

    Parameters
    ----------
    found : sequence of Population
        From `populations`; the first is that of the default.
    default : Setting
        That of the study.
    seed : int
        Of the resamples of subjects and, with several, of seeds.

    Returns
    -------
    dict of DataFrame
        `sensitivity`, a row per setting: `n_networks`, `depths`, `fewest_images` and `most_images` of a network; Kendall's
        `tau` of the methods' mean ranks with those of the default, `tau_low` and `tau_high` (95 of 100 resamples, the
        same subjects and seeds for both); `first`, the method that ranks first; and for each kind of conclusion how many
        are `<kind>_reversed`, `<kind>_lost` and `<kind>_gained`; mean `chance`, and `twin_map`, what |image - twin| scores.
        `flips`, a row per setting and conclusion that is not the default's.
        `survival`, a row per population, ground truth, sign and conclusion: what the default says, under how many `settings`
        it was asked, and in how many it is `kept`, `reversed`, `lost`, `gained`.
        `ground_truths`, a row for each: mean `chance` on the images of the default, and what a map scores that is the ground
        truth itself (`ceiling`), the lesions' mask (`lesion_map`) or |image - twin| (`twin_map`).
    """
    if default not in found[0].settings:
        name, scores = ", ".join(map(str, default[:3])), ", ".join({one.score: None for one in found[0].settings})
        raise UserError(f"the setting {name} is not among those that were scored; scores are {scores}")
    subjects = {subject for population in found for subject in population.images["subject"]}
    by_subject = subject_weights(subjects, RESAMPLES, seed)
    networks, rng = found[0].networks, np.random.default_rng(seed)
    drawn = network_draws(networks, rng, RESAMPLES, own_pretrainings=found[0].own_pretrainings)
    by_network = pd.DataFrame(drawn, pd.MultiIndex.from_frame(networks[NETWORK]))

    def ranks_of(population: Population, setting: Setting) -> Floats:
        networks = pd.MultiIndex.from_frame(population.networks[NETWORK])
        alike = population.on_common_images(setting).image_weights()[:, None]  # the classes
        of_images = by_subject.loc[population.images["subject"]].to_numpy() * alike
        return mean_ranks(population.skills(setting), of_images, by_network.loc[networks].to_numpy())

    judged, ranks = judge(found[0].on_common_images(default)), ranks_of(found[0], default)
    first = found[0].methods[int(ranks[:, 0].argmin())]
    rows, asked = [], []
    for population in found:
        for setting in population.settings:
            own = ranks_of(population, setting)
            ranked = pd.Series(own[:, 0], population.methods)
            verdicts = _compare(judged, judge(population.on_common_images(setting)), first, ranked)
            keys = {"population": population.name} | setting._asdict()
            maps = population.truth_scores(setting)
            levels = {"chance": maps.get("chance", np.nan), "twin_map": maps.get("difference", np.nan)}
            rows.append(keys | _row(population, kendall_tau(own, ranks), ranked.idxmin(), verdicts) | levels)
            asked.append(verdicts.assign(**keys))
    table, verdicts = pd.DataFrame(rows), pd.concat(asked, ignore_index=True)
    table.insert(len(SETTING), "is_default", (table[SETTING] == (found[0].name, *default)).all(axis=1))
    key = ["population", "ground_truth", "sign", "conclusion", "contrast", "default"]
    counts = verdicts.groupby(key, sort=False)["change"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=["kept", *CHANGES], fill_value=0)
    counts.insert(0, "settings", counts.sum(axis=1))
    return {
        "sensitivity": table,
        "flips": verdicts[verdicts["change"] != "kept"].set_index(SETTING).reset_index(),
        "survival": counts.rename_axis(columns=None).reset_index(),
        "ground_truths": _ground_truths(found[0], default),
    }


def judge(skills: Skills) -> pd.DataFrame:
    """Return the conclusions of a study: about corpora, depth, pairs of methods, and methods beside references.

    They are those of `effects.effect_table` in its primary way, with all contrasts of a family computed at once.

    Returns
    -------
    DataFrame with `verdict` (1: clearly above 0, -1: below, 0: not clear), `estimate`, `low`, `high`; indexed by family and
    contrast. Corpora and depth are judged by their interval, the families that hold many effects after Holm's correction.
    """
    tables, every = {}, list(contrasts(skills))
    for family in (*_SINGLE, "methods", *skills.references):
        if members := [one for one in every if one.family == family]:
            weights = np.stack([one.weights for one in members])
            units, strata, _ = contributions(skills, weights, members[0].reference)
            found = by_images(units, skills.clusters) if skills.n_seeds == 1 else by_units(units, strata)
            clear = (found.low > 0) | (found.high < 0) if family in _SINGLE else holm(found.p) < 0.05
            clear &= np.abs(found.estimate) > _ROUNDING  # of two methods with equal scores there may be nothing else
            values = {"verdict": (np.sign(found.estimate) * clear).astype(int), **found._asdict()}
            tables[family] = pd.DataFrame(values, [one.contrast for one in members])
    return pd.concat(tables, names=["conclusion", "contrast"])[["verdict", "estimate", "low", "high"]]


def _compare(default: pd.DataFrame, found: pd.DataFrame, first: str, ranks: pd.Series) -> pd.DataFrame:
    """Return every conclusion that both have: what the default says, what was found, and the change."""
    both = default[["verdict"]].join(found, how="inner", lsuffix="_default").reset_index()
    before, after = both.pop("verdict_default"), both.pop("verdict")
    change = np.select([before == after, before == -after, after == 0, before == 0], ["kept", *CHANGES], "")
    words = {1: "above", -1: "below", 0: "not clear"}
    table = both.assign(default=before.map(words), found=after.map(words), change=change)
    now, verdicts = ranks.idxmin(), found["verdict"].to_dict()
    row = {"conclusion": "first", "contrast": "ranks first", "default": first, "found": now, "change": "lost"}
    if ranks[first] == ranks.min():
        row |= {"found": first, "change": "kept"}
    elif 1 in (verdicts.get(("methods", f"{now} - {first}")), -verdicts.get(("methods", f"{first} - {now}"), 0)):
        row["change"] = "reversed"  # another method is clearly better
    return pd.concat([pd.DataFrame([row]), table], ignore_index=True)


def _ground_truths(population: Population, default: Setting) -> pd.DataFrame:
    rows, columns = [], ["ground_truth", "chance", "ceiling", "lesion_map", "twin_map"]
    for setting in population.settings:
        if setting[:2] == default[:2] and setting.sign == default.sign and setting.score == "relevance_rank_accuracy":
            maps = population.truth_scores(setting)
            of = {"ceiling": setting.ground_truth, "lesion_map": "lesion", "twin_map": "difference", "chance": "chance"}
            rows.append(setting._asdict() | {name: maps.get(one, np.nan) for name, one in of.items()})
    return pd.DataFrame(rows, columns=columns)


def _row(population: Population, tau: Floats, first: Any, verdicts: pd.DataFrame) -> dict[str, Any]:
    seen, depths = population.seen.sum(axis=1), sorted(set(population.networks["finetune_depth"]))
    low, high = pd.Series(tau[1:]).quantile([0.025, 0.975])
    kinds = verdicts["conclusion"].where(verdicts["conclusion"].isin(KINDS), "references")
    counts = (kinds + "_" + verdicts["change"]).value_counts()
    names = [f"{kind}_{change}" for kind in KINDS for change in CHANGES if (kind, change) != ("first", "gained")]
    row = {"n_networks": len(seen), "fewest_images": seen.min(), "most_images": seen.max()}
    row |= {"depths": " ".join(map(str, depths)), "tau": tau[0], "tau_low": low, "tau_high": high}
    return row | {"first": first} | {name: counts.get(name, 0) for name in names}
