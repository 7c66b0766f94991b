"""How well each model tells round from irregular lesions."""

from dataclasses import asdict

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from pretrain_xai.study import MODEL_COLUMNS, Run

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


def mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each metric over the seeds of a selection, corpus and depth, and the number of seeds."""
    cells = table.groupby(MODEL_COLUMNS[:-1], observed=True)
    return cells[METRICS].mean().assign(n_seeds=cells.size()).reset_index()
