"""Does the corpus still matter when accuracy is held equal? Two ways, which need not agree.

*matched*: networks that are checkpoints of about equal rates (see `matching`), at depths where all of them are matched. They
also tell what deeper fine-tuning does at equal accuracy, for one corpus and the depths where its networks are matched.
*adjusted*: the whole trainings' networks, with their test accuracy as a covariate: the corpus effect of an analysis of
covariance, skill ~ depth + corpus + accuracy, on network means. Its estimate is a weighted sum of the networks' skills, so
it has its intervals in the ways of `effects`: with several seeds one analysis per seed and the seeds as units, with one seed
over test subjects. Beside them stands the regression over all networks, which takes them to be independent. A covariate is a
model, by which accuracy acts linearly and in both corpora alike; matching assumes nothing, but of other networks.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS

from pretrain_xai.arrays import Floats
from pretrain_xai.networks.matching import cell_matched, comparable_depths
from pretrain_xai.skill import Skills
from pretrain_xai.statistics.claims import claim_table
from pretrain_xai.statistics.effects import EFFECT_COLUMNS, Contrast, Rows, as_row, contrasts, is_paired, rows_of
from pretrain_xai.statistics.intervals import Interval, t_interval
from pretrain_xai.statistics.table_names import EQUAL_ACCURACY
from pretrain_xai.study import MATCHED, NETWORK

#: `answer` says which networks an effect is of: `unadjusted` all; `same_depths` those at the depths that are compared at
#: equal accuracy; `matched` the matched ones; `adjusted` all, with accuracy as a covariate. Beside its interval:
FACTS = ["answer", "depths", "n_networks", "lowest_accuracy", "highest_accuracy", "accuracy_difference"]
#: on test images, of which the spread over matched networks is told
SPREAD = ["accuracy", "sensitivity", "specificity", "auroc"]
#: which networks an effect is of, their skills and facts, and the effect
Answer = tuple[str, Skills, pd.DataFrame, Contrast]
COLUMNS = [*FACTS, *(name for name in EFFECT_COLUMNS if name not in ("family", "p_holm", "clear"))]


def equal_accuracy_tables(
    selections: Mapping[str, Skills], classification: pd.DataFrame, matching: pd.DataFrame | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Compute the effects of corpus and depth with and without equal accuracy, and how accuracy and skill go together.

    Parameters
    ----------
    selections : dict of Skills
        Of the main selection, first, and of `matched` where there is one.
    classification : DataFrame with `selection`, `pretraining`, `finetune_depth`, `seed`, and SPREAD (on test images)
    matching : DataFrame, optional
        From `matching.match_checkpoints`; without it networks of a selection `matched`, trained by themselves, count as
        matched.
    seed : int
        Of the bootstraps.

    Returns
    -------
    dict of DataFrame, keys `table_names.EQUAL_ACCURACY`
    """
    networks = {name: network_table(name, skills, classification, matching) for name, skills in selections.items()}
    facts = dict.fromkeys(("cells", "cells_matched", "target", "largest_gap"), np.nan)
    if matching is not None:
        cells, gaps = cell_matched(matching), matching.loc[matching["matched"], "gap"].abs()
        facts = {"cells": len(cells), "cells_matched": int(cells.sum()), "target": matching["target"].iloc[0]}
        facts["largest_gap"] = gaps.max()
    rows = [row for answer in _answers(selections, networks, matching) for row in _rows(*answer, seed)]
    correlations = [correlation_table(one[one["matched"]]).assign(selection=name) for name, one in networks.items()]
    others = [pd.concat(tables, ignore_index=True) for tables in (networks.values(), correlations)]
    equal = dict(selections)
    if matching is not None and MATCHED in equal:
        depths = comparable_depths(matching, equal[MATCHED].corpora)
        equal[MATCHED] = only_networks(equal[MATCHED], equal[MATCHED].networks["finetune_depth"].isin(depths))
    effects = pd.DataFrame(rows, columns=COLUMNS).assign(**facts)
    effects.loc[effects["unit"] == "image", "p"] = np.nan
    tables = [
        effects,
        *others,
        claim_table(equal, seed),
        pd.concat(map(spread_table, networks.values()), ignore_index=True),
    ]
    return dict(zip(EQUAL_ACCURACY, tables, strict=True))


def network_table(
    selection: str, skills: Skills, classification: pd.DataFrame, matching: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return SPREAD and mean skill of every network, in the order of `skills.networks`; and whether it is matched."""
    known = classification.loc[classification["selection"] == selection, [*NETWORK, *SPREAD]].assign(matched=True)
    if matching is not None and selection == MATCHED:
        known = known.drop(columns="matched").merge(matching[[*NETWORK, "matched"]], on=NETWORK)
    table = skills.networks.assign(selection=selection, skill=(skills.values * skills.image_weights()).mean((1, 2)))
    return table.merge(known, on=NETWORK, how="left", validate="one_to_one")


def spread_table(networks: pd.DataFrame) -> pd.DataFrame:
    """Return how equal the networks of a selection are on test images, of matched ones those that are matched.

    Returns
    -------
    DataFrame with `selection`, `n_networks` and, for each `metric` of SPREAD, its `lowest` and `highest`
    """
    kept = networks.loc[networks["matched"], SPREAD]
    table = kept.agg(["min", "max"]).T.set_axis(["lowest", "highest"], axis=1).rename_axis("metric").reset_index()
    return table.assign(selection=networks["selection"].iloc[0], n_networks=len(kept))


def adjusted_weights(networks: pd.DataFrame, first: str, second: str) -> Floats | None:
    """Return the weights of the networks whose sum of skills is the effect second - first at equal accuracy.

    By least squares.

    Parameters
    ----------
    networks : DataFrame with `pretraining`, `finetune_depth`, `accuracy`

    Returns
    -------
    float array of shape (n_networks,), or None where these networks can't tell accuracy from corpus and depth.
    """
    design = _design(networks, first, accuracy=True)
    if np.linalg.matrix_rank(design.to_numpy()) < design.shape[1]:
        return None
    return np.linalg.pinv(design.to_numpy())[design.columns.get_loc(second)]


def adjusted_contrast(skills: Skills, networks: pd.DataFrame, first: str, second: str) -> Contrast | None:
    """Return the effect of the corpus adjusted for accuracy: of paired seeds the mean of one analysis per seed, else of all.

    None where a seed's networks can't tell accuracy from corpus and depth.
    """
    blocks = networks["seed"] if is_paired(networks) else np.zeros(len(networks))
    parts = networks.groupby(blocks).indices.values()
    total = np.zeros((len(networks), 1))
    for places in parts:
        if (weights := adjusted_weights(networks.iloc[places], first, second)) is None:
            return None
        total[places, 0] = weights / len(parts)
    return Contrast("corpus", f"{second} - {first}", total * np.full(len(skills.methods), 1 / len(skills.methods)))


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
    """Return Pearson's correlation of accuracy and skill over networks.

    Over all, within each corpus, and given corpus and depth (partial: what is left of both after these). Of a matched
    selection give the networks that are matched. It has no interval: networks of one pre-training are not independent.

    Returns
    -------
    DataFrame with `of`, `n_networks`, `r`, which is NaN where there is no spread or there are too few networks; the first row
    alone without any network.
    """
    both = networks[["accuracy", "skill"]].astype(float)
    parts = {"all": (both, 0)} | {name: (rows, 0) for name, rows in both.groupby(networks["pretraining"], sort=False)}
    if len(networks):
        design = _design(networks, networks["pretraining"].iloc[0], accuracy=False).to_numpy()
        rest = both.apply(lambda column: column - design @ np.linalg.lstsq(design, column, rcond=None)[0])
        parts["given corpus and depth"] = rest, design.shape[1] - 1
    return pd.DataFrame([{"of": name} | _correlation(rows, given) for name, (rows, given) in parts.items()])


def _answers(
    selections: Mapping[str, Skills], networks: Mapping[str, pd.DataFrame], matching: pd.DataFrame | None
) -> Iterator[Answer]:
    """Yield each effect of the corpus, and of the depth at equal accuracy, with the networks that it is of."""
    main = next(iter(selections))
    skills, table = selections[main], networks[main]
    for contrast in _corpus_contrasts(skills):
        yield "unadjusted", skills, table, contrast
        second, first = contrast.contrast.split(" - ")
        if (adjusted := adjusted_contrast(skills, table, first, second)) is not None:
            yield "adjusted", skills, table, adjusted
        yield from _before_and_after(selections, networks, matching, [first, second])
    for corpus in skills.corpora:
        yield from _before_and_after(selections, networks, matching, [corpus])


def _before_and_after(
    selections: Mapping[str, Skills],
    networks: Mapping[str, pd.DataFrame],
    matching: pd.DataFrame | None,
    corpora: Sequence[str],
) -> Iterator[Answer]:
    """Yield the effect of two corpora, or of the depth in one, at the depths that match: before matching, and matched."""
    main, family = next(iter(selections)), "corpus" if corpora[1:] else "depth_by_corpus"
    depths = selections[main].depths if matching is None else comparable_depths(matching, corpora)
    for answer, name in (("same_depths", main), ("matched", MATCHED)) if MATCHED in selections else ():
        whole = selections[name]
        chosen = whole.networks["pretraining"].isin(corpora) & whole.networks["finetune_depth"].isin(depths)
        if chosen.any():
            some, kept = only_networks(whole, chosen), networks[name][chosen].reset_index(drop=True)
            yield from ((answer, some, kept, found) for found in contrasts(some) if found.family == family)


def only_networks(skills: Skills, chosen: pd.Series) -> Skills:
    """Return the skills of some of the networks: those for which `chosen`, of shape (n_networks,), is true."""
    networks = skills.networks[chosen].reset_index(drop=True)
    return dataclasses.replace(skills, values=skills.values[chosen.to_numpy()], networks=networks)


def _rows(answer: str, skills: Skills, networks: pd.DataFrame, contrast: Contrast, seed: int) -> Rows:
    second, first = contrast.contrast.split(" - ")
    of_corpora = contrast.family == "corpus"
    sides = networks["pretraining" if of_corpora else "finetune_depth"].astype(str)
    accuracy, of = networks["accuracy"], networks.groupby(sides)["accuracy"].mean()
    values = " ".join(map(str, skills.depths)), len(networks), accuracy.min(), accuracy.max(), of[second] - of[first]
    facts = dict(zip(FACTS, (answer, *values), strict=True))
    # the adjusted weights of networks without pairs differ within a cell: over seeds there is the regression alone
    if answer != "adjusted" or is_paired(networks) or skills.n_seeds == 1:
        yield from (facts | row for row in rows_of(skills, contrast, seed))
    over_all = regression(networks, first, second, accuracy=answer == "adjusted") if of_corpora else None
    if over_all is not None:
        yield facts | as_row(contrast, "regression", over_all, unit="network", n_units=len(networks))


def _corpus_contrasts(skills: Skills) -> Iterator[Contrast]:
    return (contrast for contrast in contrasts(skills) if contrast.family == "corpus")


def _design(networks: pd.DataFrame, first: str, *, accuracy: bool) -> pd.DataFrame:
    """Return a column per depth, one per corpus beside the first, and the accuracy."""
    corpora = pd.get_dummies(networks["pretraining"], dtype=float).drop(columns=first)
    design = pd.get_dummies(networks["finetune_depth"], prefix="depth", dtype=float).join(corpora)
    return design.assign(accuracy=networks["accuracy"] - networks["accuracy"].mean()) if accuracy else design


def _correlation(both: pd.DataFrame, given: int) -> dict[str, float]:
    """Return r; `given` covariates cost as many networks."""
    n = len(both)
    enough = n - given >= 4 and both.std(ddof=0).min() >= 1e-12
    return {"n_networks": n, "r": float(np.corrcoef(both.to_numpy().T)[0, 1]) if enough else np.nan}
