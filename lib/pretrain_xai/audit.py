"""Does anything but the lesions tell the class? Checks that a dataset must pass before a network sees it.

A network that can tell the classes by the brains, the places, single patches or lightened boxes is rewarded for it, and
an explanation method is then punished for finding it.
"""

from collections.abc import Iterator, Mapping
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
    """Audit the splits that `dataset.build_splits` wrote to `folder`; `pools` are the patches that each could carry."""
    images, lesions = (
        [read_table(folder / split / f"{name}.csv") for split in pools] for name in ("images", "lesions")
    )
    starts = np.cumsum([0, *map(len, images)])
    lesions = [rows.assign(image=rows["image"] + start) for rows, start in zip(lesions, starts, strict=False)]
    thumbnails = [np.load(folder / split / "thumbnails.npy", allow_pickle=False) for split in pools]
    # patches have no name: those of equal bytes are the same
    identities = {
        split: [patch.weights.tobytes() for patches in pool.values() for patch in patches]
        for split, pool in pools.items()
    }
    all_images, all_lesions = (pd.concat(parts, ignore_index=True) for parts in (images, lesions))
    return audit_dataset(all_images, all_lesions, np.concatenate(thumbnails), identities, seed)


def audit_dataset(
    images: pd.DataFrame, lesions: pd.DataFrame, thumbnails: np.ndarray, pools: Mapping[str, list[bytes]], seed: int
) -> pd.DataFrame:
    """Run every check on the images of all splits.

    Parameters
    ----------
    images : DataFrame, one row per image
        `split`, `label`, `subject`, `outside_difference` (largest difference to the lesion-free slice outside the
        lesions' support, at model resolution), `draw_0` ... (ranks of the first positions drawn).
    lesions : DataFrame, one row per lesion
        `image` (row of `images`), `order` (of placement), `patch` (number in the split's pool of its class), `label`, `row`,
        `column` (centre, pixels).
    thumbnails : float array of shape (n_images, n_features)
        The lesion-free slices, small.
    pools : mapping from a split to the identities of the patches in its pool
    seed : int
        Of the folds and permutations.

    Returns
    -------
    DataFrame with `check`, `value`, `bound`, `passed` and `meaning`, one row per check.
    """
    labels, rng = images["label"].to_numpy(), np.random.default_rng(seed)
    outside = "a pixel that no lesion covers differs from the lesion-free slice"
    rows = [
        _row("difference outside the lesions", images["outside_difference"].max(), MAX_OUTSIDE_DIFFERENCE, outside),
        _check_probe("class from lesion-free slices", thumbnails, labels, rng),
        _check_probe("class from lesion positions", position_features(images, lesions), labels, rng),
        *_check_balance(images),
        *_check_patch_usage(images, lesions, pools),
        _check_disjoint("patches in two splits", pools),
        _check_disjoint("subjects in two splits", images.groupby("split")["subject"].unique().to_dict()),
    ]
    return pd.DataFrame(rows)


def assert_passed(table: pd.DataFrame) -> None:
    """Raise if a check of the audit failed.

    Raises
    ------
    AuditError
        One line naming each failed check, its value and its bound.
    """
    failed = table[~table["passed"]]
    if len(failed):
        reasons = "; ".join(
            f"{row.check}: {row.value:.3g}, bound {row.bound:.3g} ({row.meaning})" for row in failed.itertuples()
        )
        raise AuditError(f"the dataset's audit failed: {reasons}")


def position_features(images: pd.DataFrame, lesions: pd.DataFrame) -> np.ndarray:
    """Return what the lesions' places could tell: float array of shape (n_images, n_features).

    The centres of the first lesions, their squares, and the parities of the first ranks drawn: with one re-seeded stream
    the parity of the second equals the class in most images.
    """
    first = lesions[lesions["order"] < FEWEST].set_index(["image", "order"])[["row", "column"]]
    centre = first.unstack("order").reindex(range(len(images))).to_numpy(dtype=float)
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


def _check_probe(check: str, features: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    accuracy, bound = probe_accuracy(features, labels, rng)
    return _row(check, accuracy, bound, "accuracy of a linear probe; the bound is the 99 % quantile of permuted labels")


def _check_balance(images: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Check per split that there are about as many images of one class as of the other."""
    meaning = "a fair coin hardly gives so unequal classes: who always says one of them is right too often"
    for name, labels in images.groupby("split", sort=False)["label"]:
        yield _row(f"balance of labels ({name})", fair_coin(labels), BALANCE_LEVEL, meaning, at_least=True)


def _check_patch_usage(
    images: pd.DataFrame, lesions: pd.DataFrame, pools: Mapping[str, list[bytes]]
) -> Iterator[dict[str, Any]]:
    """Check per split that every patch of a class is used about equally often."""
    meaning = "patches of a class are not used equally often: single patches tell the class"
    split = images["split"].to_numpy()[lesions["image"]]
    for name, pool in pools.items():
        counts = [
            np.bincount(patches, minlength=len(pool) // 2)
            for _, patches in lesions[split == name].groupby("label")["patch"]
        ]
        if counts:
            worst = min(1.0, *(float(chisquare(count).pvalue) for count in counts))
            yield _row(f"patch usage ({name})", worst, USAGE_LEVEL, meaning, at_least=True)


def _check_disjoint(check: str, members: Mapping[str, list[Any]]) -> dict[str, Any]:
    everyone = [member for group in members.values() for member in set(group)]
    return _row(check, len(everyone) - len(set(everyone)), 0, "members that appear in more than one split")


def _row(check: str, value: float, bound: float, meaning: str, *, at_least: bool = False) -> dict[str, Any]:
    value, bound = float(value), float(bound)
    passed = value >= bound if at_least else value <= bound
    return {"check": check, "value": value, "bound": bound, "passed": passed, "meaning": meaning}
