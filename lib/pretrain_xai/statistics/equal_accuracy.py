"""Does the corpus still matter when accuracy is held equal? Two ways, which need not agree.

*matched*: networks that are checkpoints of about equal accuracy (see `matching`), at depths where all of them are matched.
*adjusted*: the whole trainings' networks, with their test accuracy as a covariate: the corpus effect of an analysis of
covariance, skill ~ depth + corpus + accuracy, on network means. Its estimate is a weighted sum of the networks' skills, so
it has its intervals in the ways of `effects`: with several seeds one analysis per seed and the seeds as units, with one seed
over test subjects. Beside them stands the regression over all networks, which takes them to be independent. A covariate is a
model, by which accuracy acts linearly and in both corpora alike; matching assumes nothing, but of other networks.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS

from pretrain_xai.arrays import Floats
from pretrain_xai.networks.matching import cell_matched, comparable_depths
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.effects import EFFECT_COLUMNS, WAYS, Contrast, contrasts, is_paired, rows_of
from pretrain_xai.statistics.intervals import LEVEL, Interval, t_interval
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY
from pretrain_xai.study import NETWORK

#: which networks an effect is of: all; those at the depths that are compared at equal accuracy; the matched ones; all, with
#: accuracy as a covariate
ANSWERS = ("unadjusted", "same_depths", "matched", "adjusted")
#: what is known of a comparison beside its interval
FACTS = ["depths", "n_networks", "lowest_accuracy", "highest_accuracy", "accuracy_difference"]
COLUMNS = ["answer", *FACTS, *(name for name in EFFECT_COLUMNS if name not in ("family", "p_holm"))]
MATCHING_FACTS = ["cells", "cells_matched", "target", "largest_gap"]


def equal_accuracy_tables(
    selections: Mapping[str, Skills], classification: pd.DataFrame, matching: pd.DataFrame | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Compute the corpus effects with and without equal accuracy, and how accuracy and skill go together.

    Parameters
    ----------
    selections : dict of Skills
        Of the main selection, first, and of `matched` where there is one.
    classification : DataFrame with `selection`, `pretraining`, `finetune_depth`, `seed`, `accuracy` (on test images)
    matching : DataFrame, optional
        From `matching.match_checkpoints`; without it networks of a selection `matched`, trained by themselves, count as
        matched.
    seed : int
        Of the bootstraps.

    Returns
    -------
    dict of DataFrame, keys `table_names.EQUAL_ACCURACY`
    """
    networks = {
        name: network_table(name, skills, classification, matching if name == "matched" else None)
        for name, skills in selections.items()
    }
    points = pd.concat(networks.values(), ignore_index=True)
    rng = np.random.default_rng(seed)
    rows = list(_effects(selections, networks, matching, rng))
    effects = pd.DataFrame(rows, columns=COLUMNS).assign(**_matching_facts(matching))
    correlations = [
        correlation_table(table[table["matched"]].reset_index(drop=True)).assign(selection=name)
        for name, table in networks.items()
    ]
    return dict(zip(EQUAL_ACCURACY, (effects, points, pd.concat(correlations, ignore_index=True)), strict=True))


def network_table(
    selection: str, skills: Skills, classification: pd.DataFrame, matching: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return test accuracy and mean skill of every network, in the order of `skills.networks`; and whether it is matched."""
    own = classification[classification["selection"] == selection]
    table = skills.networks.assign(selection=selection, skill=skills.values.mean((1, 2)))
    table = table.merge(own[[*NETWORK, "accuracy"]], on=NETWORK, how="left", validate="one_to_one")
    if matching is None:
        return table.assign(matched=True)
    return table.merge(matching[[*NETWORK, "matched"]], on=NETWORK, how="left", validate="one_to_one")


def adjusted_weights(networks: pd.DataFrame, first: str, second: str, *, accuracy: bool = True) -> Floats | None:
    """Return the weights of the networks whose sum of skills is the effect second - first, by least squares.

    Parameters
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `accuracy`
    accuracy : bool
        Hold accuracy equal.

    Returns
    -------
    float array of shape (n_networks,), or None where these networks can't tell accuracy from corpus and depth.
    """
    design = _design(networks, first, accuracy=accuracy)
    if np.linalg.matrix_rank(design.to_numpy()) < design.shape[1]:
        return None
    return np.linalg.pinv(design.to_numpy())[design.columns.get_loc(second)]


def adjusted_contrast(skills: Skills, networks: pd.DataFrame, first: str, second: str) -> Contrast | None:
    """Return the effect of the corpus adjusted for accuracy: of paired seeds the mean of one analysis per seed, else of all.

    None where a seed's networks can't tell accuracy from corpus and depth.
    """
    total = np.zeros(len(networks))
    paired = is_paired(skills.networks)
    for _, places in networks.groupby(networks["seed"] if paired else np.zeros(len(networks))).indices.items():
        weights = adjusted_weights(networks.iloc[places], first, second)
        if weights is None:
            return None
        total[places] = weights
    if paired:
        total /= networks["seed"].nunique()
    methods = np.full(len(skills.methods), 1 / len(skills.methods))
    return Contrast("corpus", f"{second} - {first}", total[:, None] * methods)


def regression(networks: pd.DataFrame, first: str, second: str, *, accuracy: bool) -> Interval | None:
    """Return the effect second - first of the regression over all networks, seeds as blocks where they are paired.

    None where there are no more networks than coefficients, or accuracy can't be told from corpus and depth.
    """
    design = _design(networks, first, accuracy=accuracy)
    if is_paired(networks) and networks["seed"].nunique() > 1:
        design = design.join(pd.get_dummies(networks["seed"], prefix="seed", drop_first=True, dtype=float))
    if np.linalg.matrix_rank(design.to_numpy()) < design.shape[1] or len(design) <= design.shape[1]:
        return None
    fitted = OLS(networks["skill"], design).fit()
    return t_interval(np.asarray(fitted.params[second]), np.asarray(fitted.bse[second]), fitted.df_resid)


def correlation_table(networks: pd.DataFrame) -> pd.DataFrame:
    """Return Pearson's correlation of accuracy and skill over networks, with Fisher's interval.

    Over all, within each corpus, and given corpus and depth (partial: what is left of both after these). Of a matched
    selection give the networks that are matched.

    Returns
    -------
    DataFrame with `of`, `n_networks`, `r`, `low`, `high`, `p`; NaN where there is no spread or there are too few networks,
    and the first row alone without any.
    """
    parts = {"all": networks} | dict(iter(networks.groupby("pretraining", sort=False)))
    rows = [{"of": name} | _correlation(rows["accuracy"], rows["skill"], 0) for name, rows in parts.items()]
    if not len(networks):
        return pd.DataFrame(rows)
    design = _design(networks, networks["pretraining"].iloc[0], accuracy=False).to_numpy()
    rest = [_residuals(networks[name].to_numpy(dtype=float), design) for name in ("accuracy", "skill")]
    rows.append({"of": "given corpus and depth"} | _correlation(rest[0], rest[1], design.shape[1] - 1))
    return pd.DataFrame(rows)


def _effects(
    selections: Mapping[str, Skills],
    networks: Mapping[str, pd.DataFrame],
    matching: pd.DataFrame | None,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    main = next(iter(selections))
    skills, table = selections[main], networks[main]
    for contrast in _corpus_contrasts(skills):
        yield from _rows("unadjusted", skills, table, contrast, rng)
        second, first = contrast.contrast.split(" - ")
        if (adjusted := adjusted_contrast(skills, table, first, second)) is not None:
            # weights of networks without pairs differ within a cell: over seeds there is the regression alone
            ways = WAYS if is_paired(table) or skills.n_seeds == 1 else ()
            yield from _rows("adjusted", skills, table, adjusted, rng, ways)
        if "matched" not in selections:
            continue
        corpora = [first, second]
        depths = skills.depths if matching is None else comparable_depths(matching, corpora)
        for answer, name in (("same_depths", main), ("matched", "matched")):
            some = _subset(selections[name], corpora, depths)
            if some is not None:
                kept = networks[name].merge(some.networks, on=NETWORK)
                yield from _rows(answer, some, kept, next(_corpus_contrasts(some)), rng)


def _rows(
    answer: str,
    skills: Skills,
    networks: pd.DataFrame,
    contrast: Contrast,
    rng: np.random.Generator,
    ways: Sequence[str] = WAYS,
) -> Iterator[dict[str, Any]]:
    second, first = contrast.contrast.split(" - ")
    accuracy = networks.groupby(["pretraining"])["accuracy"].mean()
    facts = {
        "answer": answer,
        "depths": " ".join(map(str, skills.depths)),
        "n_networks": len(networks),
        "lowest_accuracy": networks["accuracy"].min(),
        "highest_accuracy": networks["accuracy"].max(),
        "accuracy_difference": accuracy[second] - accuracy[first],
    }
    made = list(rows_of(skills, contrast, rng, tuple(ways))) if ways else []
    over_all = regression(networks, first, second, accuracy=answer == "adjusted")
    if over_all is not None:
        names = {name: getattr(contrast, name) for name in ("contrast", "pretraining", "finetune_depth", "method")}
        numbers = {name: float(value) for name, value in over_all._asdict().items()}
        made.append(names | {"way": "regression", "unit": "network", "n_units": len(networks)} | numbers)
    yield from (facts | row for row in made)


def _corpus_contrasts(skills: Skills) -> Iterator[Contrast]:
    return (contrast for contrast in contrasts(skills) if contrast.family == "corpus")


def _subset(skills: Skills, corpora: Sequence[str], depths: Sequence[int]) -> Skills | None:
    chosen = skills.networks["pretraining"].isin(corpora) & skills.networks["finetune_depth"].isin(depths)
    if not chosen.any():
        return None
    return dataclasses.replace(
        skills, values=skills.values[chosen.to_numpy()], networks=skills.networks[chosen].reset_index(drop=True)
    )


def _design(networks: pd.DataFrame, first: str, *, accuracy: bool) -> pd.DataFrame:
    """Return a column per depth, one per corpus beside the first, and the accuracy."""
    depths = pd.get_dummies(networks["finetune_depth"], prefix="depth", dtype=float)
    corpora = pd.get_dummies(networks["pretraining"], dtype=float).drop(columns=first)
    design = depths.join(corpora)
    return design.assign(accuracy=networks["accuracy"] - networks["accuracy"].mean()) if accuracy else design


def _correlation(accuracy: pd.Series | np.ndarray, skill: pd.Series | np.ndarray, given: int) -> dict[str, float]:
    """Return r with Fisher's interval; `given` covariates cost as many networks."""
    n = len(accuracy)
    x, y = (np.asarray(values, dtype=float) for values in (accuracy, skill))
    none = {"n_networks": n, "r": np.nan, "low": np.nan, "high": np.nan, "p": np.nan}
    if n - given < 4 or min(x.std(), y.std()) < 1e-12:
        return none
    r = float(np.corrcoef(x, y)[0, 1])
    half = stats.norm.ppf((1 + LEVEL) / 2) / np.sqrt(n - given - 3)
    df = n - given - 2
    p = 2 * stats.t.sf(abs(r) * np.sqrt(df / max(1 - r**2, 1e-300)), df)
    low, high = np.tanh(np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)) + np.array([-half, half]))
    return none | {"r": r, "low": float(low), "high": float(high), "p": float(p)}


def _residuals(values: Floats, design: Floats) -> Floats:
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def _matching_facts(matching: pd.DataFrame | None) -> dict[str, float]:
    if matching is None:
        return dict.fromkeys(MATCHING_FACTS, np.nan)
    cells = cell_matched(matching)
    gaps = matching.loc[matching["matched"], "gap"].abs()
    numbers = len(cells), int(cells.sum()), matching["target"].iloc[0], gaps.max()
    return dict(zip(MATCHING_FACTS, numbers, strict=True))
