"""How well each model tells round from irregular lesions."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score

from pretrain_xai.arrays import Booleans
from pretrain_xai.study import CLASSES, MODEL_COLUMNS, NETWORK, Run

#: in tables of predictions, the split of the test slices without their lesions
LESION_FREE = "lesion_free"
#: a network that calls more than this share of lesion-free slices one class takes it for its default
DEFAULT_SHARE = 0.75
DEPENDENCE_COLUMNS = ["label", "n_correct", "owed", "flips", "log_odds_change", "called_irregular", "default"]
METRICS = ["auroc", "auprc", "accuracy", "sensitivity", "specificity"]


def prediction_table(run: Run, split: str, labels: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """Return one row per image: the model, the split, label, prediction and both logits.

    Parameters
    ----------
    labels : int array of shape (n_images,)
    logits : float array of shape (n_images, 2)
    """
    images = {"image_index": np.arange(len(labels)), "label": labels, "predicted": logits.argmax(axis=1)}
    return pd.DataFrame(asdict(run) | {"split": split} | images | {"logit_0": logits[:, 0], "logit_1": logits[:, 1]})


def classification_metrics(predictions: pd.DataFrame, *, swapped_rates: bool = False) -> dict[str, float]:
    """Compute one model's metrics; irregular lesions (label 1) are the positive class.

    Parameters
    ----------
    predictions : DataFrame with `label`, `predicted`, `logit_0`, `logit_1`
    swapped_rates : bool
        Give sensitivity and specificity under each other's name, as the released code does.

    Returns
    -------
    dict with `auroc`, `auprc`, `accuracy`, `sensitivity` = TP / (TP + FN), `specificity` = TN / (TN + FP), range [0, 1].
    """
    label, predicted = predictions["label"], predictions["predicted"]
    score = predictions["logit_1"] - predictions["logit_0"]
    rates = [(predicted == label)[label == positive].mean() for positive in (1, 0)]
    areas = roc_auc_score(label, score), average_precision_score(label, score)
    values = [*areas, (predicted == label).mean(), *(reversed(rates) if swapped_rates else rates)]
    return dict(zip(METRICS, map(float, values), strict=True))


def classification_table(predictions: pd.DataFrame, *, swapped_rates: bool = False) -> pd.DataFrame:
    """Return the metrics of every model in `predictions`, one row per model."""
    rows = [
        dict(zip(MODEL_COLUMNS, model, strict=True)) | classification_metrics(group, swapped_rates=swapped_rates)
        for model, group in predictions.groupby(MODEL_COLUMNS, observed=True)
    ]
    return pd.DataFrame(rows)


def lesion_dependence(predictions: pd.DataFrame) -> pd.DataFrame:
    """Tell how far each model's right decisions on test images depend on the lesions: what becomes of them without.

    Parameters
    ----------
    predictions : DataFrame
        Of `prediction_table`, for the splits "test" and LESION_FREE.

    Returns
    -------
    DataFrame with a row per model and class
        The model, `label`; `n_correct`, the images of the class that it gets right; `owed`, the share of those that owe
        more than half of their log-odds to the lesions; `flips`, the share whose class it calls otherwise when the lesions
        are gone, which near even odds is the toss of a coin; `log_odds_change`, by how much the lesions raise the log-odds
        of the class in the median of those; `called_irregular`, the share of all lesion-free slices that it calls
        irregular; and `default`, the class that it calls more than DEFAULT_SHARE of them and whose right decisions mostly
        do not owe so much to the lesions, or "none".
    """
    rows = []
    for model, group in predictions.groupby(MODEL_COLUMNS, observed=True):
        tables = (group[group["split"] == split].set_index("image_index") for split in ("test", LESION_FREE))
        test, bare = (table.assign(log_odds=table["logit_1"] - table["logit_0"]) for table in tables)
        irregular = bare["predicted"].mean()
        owed, called = _owed(test["log_odds"], bare["log_odds"][test.index]), int(irregular > 0.5)
        right = [test.index[(test["label"] == label) & (test["predicted"] == label)] for label in range(len(CLASSES))]
        has_default = max(irregular, 1 - irregular) > DEFAULT_SHARE and not owed[right[called]].mean() >= 0.5
        for label, images in enumerate(right):
            change = (test["log_odds"] - bare["log_odds"])[images].median() * (2 * label - 1)
            flips = (bare["predicted"][images] != label).mean()
            shares = len(images), owed[images].mean(), flips, change, irregular
            rows.append((*model, label, *shares, CLASSES[called] if has_default else "none"))
    return pd.DataFrame(rows, columns=[*MODEL_COLUMNS, *DEPENDENCE_COLUMNS])


def owed_to_lesions(predictions: pd.DataFrame, networks: pd.DataFrame, image_index: ArrayLike) -> Booleans:
    """Return whether each network's decision on test images owes more than half of its log-odds to the lesions.

    Parameters
    ----------
    predictions : DataFrame
        As `lesion_dependence` takes it, of one selection.
    networks : DataFrame with `pretraining`, `finetune_depth`, `seed`
    image_index : int array of shape (n_images,)

    Returns
    -------
    bool array of shape (n_networks, n_images)
    """
    odds = predictions.assign(odds=predictions["logit_1"] - predictions["logit_0"])
    wide = odds.pivot(index=["split", *NETWORK], columns="image_index", values="odds")
    wanted = pd.MultiIndex.from_frame(networks[NETWORK])
    test, bare = (wide.loc[split].loc[wanted, image_index].to_numpy() for split in ("test", LESION_FREE))
    return np.asarray(_owed(test, bare))


def _owed(log_odds: Any, without: Any) -> Any:
    """Return whether less than half of the log-odds for the class that is called is there without the lesions."""
    return without * np.sign(log_odds) < abs(log_odds) / 2


def mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each metric over the seeds of a selection, corpus and depth, and the number of seeds."""
    cells = table.groupby(MODEL_COLUMNS[:-1], observed=True)
    return cells[METRICS].mean().assign(n_seeds=cells.size()).reset_index()
