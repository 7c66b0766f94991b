"""Does anything but the lesions tell the class? Checks that a dataset must pass before a network sees it.

A network that can tell the classes by the brains, the places, single patches or lightened boxes is rewarded for it, and
an explanation method is then punished for finding it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chisquare
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from pretrain_xai.errors import UserError
from pretrain_xai.lesions import Patches
from pretrain_xai.overlay import FEWEST
from pretrain_xai.study import CLASSES
from pretrain_xai.tables import read_table

#: a pixel outside the lesions' support may differ from the lesion-free slice by this much (float32 rounding)
MAX_OUTSIDE_DIFFERENCE = 1e-6
#: label permutations behind a probe's bound, and the share of them that must lie below it
N_PERMUTATIONS, BOUND_QUANTILE = 499, 0.99
#: patches are used unevenly if a chi-square test says so at this level (many tests, so a strict one)
USAGE_LEVEL = 1e-4
#: labels are unbalanced if a fair coin gives them less often than this
BALANCE_LEVEL = 1e-4


class AuditError(UserError):
    """The dataset tells the class by something other than its lesions."""


def audit_splits(folder: Path, pools: Mapping[str, Patches], seed: int) -> pd.DataFrame:
    """Run every check on all splits of a dataset.

    Parameters
    ----------
    folder : Path
        Where `dataset.build_splits` wrote them.
    pools : mapping from a split to the patches that each could carry
    seed : int
        Of the folds and permutations.

    Returns
    -------
    DataFrame with `check`, `value`, `bound`, `passed` and `meaning`, one row per check.
    """
    images, lesions = (
        {split: read_table(folder / split / f"{name}.csv") for split in pools} for name in ("images", "lesions")
    )
    thumbnails = np.concatenate([np.load(folder / split / "thumbnails.npy", allow_pickle=False) for split in pools])
    rng, everyone = np.random.default_rng(seed), pd.concat(images)
    labels, with_lesions = everyone["label"].to_numpy(), everyone[everyone["n_lesions"] > 0]
    places = position_features(with_lesions, pd.concat(lesions))
    # patches have no name: those of equal bytes are the same
    patches = [[patch.weights.tobytes() for each in pool.values() for patch in each] for pool in pools.values()]
    outside = "a pixel that no lesion covers differs from the lesion-free slice"
    probe = "accuracy of a linear probe; the bound is the 99 % quantile of permuted labels"
    coin = "a fair coin hardly gives so unequal classes: who always says one of them is right too often"
    uneven = "patches of a class are not used equally often: single patches tell the class"
    shared = "members that appear in more than one split"
    rows: list[tuple[str, float, float, str]] = [
        ("difference outside the lesions", everyone["outside_difference"].max(), MAX_OUTSIDE_DIFFERENCE, outside),
        ("class from lesion-free slices", *probe_accuracy(thumbnails, labels, rng), probe),
        ("class from lesion positions", *probe_accuracy(places, with_lesions["label"].to_numpy(), rng), probe),
        *((f"balance of labels ({split})", fair_coin(images[split]["label"]), BALANCE_LEVEL, coin) for split in pools),
        *((f"patch usage ({split})", _evenness(lesions[split], pools[split]), USAGE_LEVEL, uneven) for split in pools),
        ("patches in two splits", _n_repeated(patches), 0, shared),
        ("subjects in two splits", _n_repeated(table["subject"] for table in images.values()), 0, shared),
    ]
    table = pd.DataFrame(rows, columns=["check", "value", "bound", "meaning"]).astype({"value": float, "bound": float})
    at_least = table["meaning"].isin([coin, uneven])
    passed = np.where(at_least, table["value"] >= table["bound"], table["value"] <= table["bound"])
    table.insert(3, "passed", passed)
    return table


def assert_passed(table: pd.DataFrame) -> None:
    """Raise if a check of the audit failed.

    Raises
    ------
    AuditError
        One line naming each failed check, its value and its bound.
    """
    failed = table[~table["passed"]].itertuples()
    reasons = [f"{row.check}: {row.value:.3g}, bound {row.bound:.3g} ({row.meaning})" for row in failed]
    if reasons:
        raise AuditError(f"the dataset's audit failed: {'; '.join(reasons)}")


def position_features(images: pd.DataFrame, lesions: pd.DataFrame) -> np.ndarray:
    """Return what the lesions' places could tell: float array of shape (n_images, n_features).

    The centres of the first lesions, their squares, and the parities of the first ranks drawn: with one re-seeded stream
    the parity of the second equals the class in most images.
    """
    first = lesions[lesions["order"] < FEWEST].set_index(["image", "order"], append=True).droplevel(1)
    centre = first[["row", "column"]].unstack("order").reindex(images.index).to_numpy(dtype=float)
    parity = images[[f"draw_{number}" for number in range(FEWEST)]].to_numpy() % 2
    return np.hstack([centre, (centre - centre.mean(axis=0)) ** 2, parity])


def probe_accuracy(features: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the cross-validated accuracy of a linear probe, and the bound that chance alone stays below.

    A ridge classifier in five folds; the bound is the 99 % quantile over permutations of the labels. True and permuted labels
    are columns of one regression, so that all see the same folds.

    Parameters
    ----------
    features : float array of shape (n_images, n_features)
    labels : int array of shape (n_images,) of 0 and 1
    """
    signs = 2.0 * labels - 1
    permuted = np.stack([rng.permutation(signs) for _ in range(N_PERMUTATIONS)], axis=1)
    targets = np.column_stack([signs, permuted])
    folds = KFold(5, shuffle=True, random_state=int(rng.integers(2**31)))
    scaled = StandardScaler().fit_transform(features)
    predicted = cross_val_predict(Ridge(alpha=0.1 * len(labels)), scaled, targets, cv=folds)
    accuracies = np.mean((predicted > 0) == (targets > 0), axis=0)
    return float(accuracies[0]), float(np.quantile(accuracies[1:], BOUND_QUANTILE, method="higher"))


def fair_coin(labels: pd.Series) -> float:
    """Return how often a fair coin gives labels at least as unbalanced; 0 if one is neither 0 nor 1."""
    return float(binomtest(int(labels.sum()), len(labels)).pvalue) if labels.isin([0, 1]).all() else 0.0


def _evenness(lesions: pd.DataFrame, pool: Patches) -> float:
    """Return how often patches that are equally likely are used at least as unevenly, in the less even class."""
    counts = [
        np.bincount(used, minlength=len(pool[CLASSES[label]])) for label, used in lesions.groupby("label")["patch"]
    ]
    return min(float(chisquare(count).pvalue) for count in counts)


def _n_repeated(members: Iterable[Iterable[Any]]) -> int:
    everyone = [member for group in members for member in set(group)]
    return len(everyone) - len(set(everyone))
