"""The tables of the study, recomputed from the authors' files and set beside the published numbers."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from pretrain_xai import paths
from pretrain_xai.published import Release
from pretrain_xai.published.files import SELECTIONS

#: the paper's numbers; see the README beside them
NUMBERS = paths.LIBRARY / "published" / "numbers"
#: one cell of the paper's tables
CELL = ["selection", "pretraining", "finetune_depth"]
RATES = ["auroc", "auprc", "accuracy", "sensitivity", "specificity"]
#: the test images of the study carry the labels of this seed and the following ones
FIRST_TEST_SEED = 50_000
#: the paper's tables and figures show three models, with three seeds, per cell
MODELS_PER_CELL = 3
_MODEL = ["selection", "pretraining", "finetune_depth", "seed", "model"]
_MORE_RATES = ["balanced_accuracy", "printed_sensitivity", "printed_specificity"]
#: what the authors' files of each kind are called, with their word for the selection
_FILES = {
    "predictions": "to_save.pkl in a folder `{}`",
    "misclassified": "incorrectly_classified.pkl in a folder `{}`",
    "incorrect_ratios": "ratios_incorrectly.pkl in a folder `{}`",
    "models": "metrics_{}.pkl",
    "untrained": "{}_random_explanations.pkl",
    "sobel": "sobel_{}.pkl",
    "laplace": "laplace_{}.pkl",
}


def classification_metrics(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row of classification metrics per model; the positive class is 1, the irregular lesions.

    `auprc` is the mean of both classes' average precision, which is what the authors computed (torchmetrics' macro
    average). `printed_sensitivity` and `printed_specificity` are the rates under the names that the released code
    gives them, which are swapped. `balanced_accuracy`, the mean of both rates, is what the older files call ACC.
    """
    rows = [dict(zip(_MODEL, key, strict=True)) | _rates(model) for key, model in predictions.groupby(_MODEL)]
    return pd.DataFrame(rows, columns=[*_MODEL, "n_images", *RATES, *_MORE_RATES])


def _rates(model: pd.DataFrame) -> dict[str, float]:
    label = model["label"].to_numpy()
    score = (model["logit_1"] - model["logit_0"]).to_numpy()
    right = label == model["predicted"].to_numpy()
    one_class = len(set(label)) < 2
    sensitivity, specificity = (right[label == value].mean() if value in label else np.nan for value in (1, 0))
    precision = (average_precision_score(label, score) + average_precision_score(1 - label, -score)) / 2
    return {
        "n_images": len(label),
        "auroc": np.nan if one_class else roc_auc_score(label, score),
        "auprc": np.nan if one_class else precision,
        "accuracy": right.mean(),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "printed_sensitivity": specificity,
        "printed_specificity": sensitivity,
    }


def differences_from_stored(classification: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Return recomputed minus stored metrics, one row per model; the stored accuracy is compared with both kinds."""
    both = classification.merge(stored, on=_MODEL, suffixes=("", "_stored"), validate="one_to_one")
    pairs = {"auroc": "auroc", "auprc": "auprc", "accuracy": "accuracy", "balanced_accuracy": "accuracy"}
    return both[_MODEL].assign(**{ours: both[ours] - both[f"{theirs}_stored"] for ours, theirs in pairs.items()})


def intersections(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return how many images all models of a selection classify correctly and wrongly, by corpus and over both."""
    rows = []
    both = predictions.assign(pretraining="all")
    for (selection, pretraining), group in pd.concat([predictions, both]).groupby(["selection", "pretraining"]):
        wrong = group["label"] != group["predicted"]
        n_wrong, n_models = wrong.groupby(group["image_index"]).sum(), group["model"].nunique()
        counts = {"n_images": len(n_wrong), "correct_by_all": (n_wrong == 0).sum()}
        counts["wrong_by_all"] = (n_wrong == n_models).sum()
        rows.append({"selection": selection, "pretraining": pretraining, "n_models": n_models} | counts)
    return pd.DataFrame(rows)


def misclassified_agreement(predictions: pd.DataFrame, misclassified: pd.DataFrame) -> pd.DataFrame:
    """Return, per model, whether its predictions give the released list of misclassified images.

    About the selections and corpora that have such lists; a model without one has an empty list.
    """
    listed = misclassified[["selection", "pretraining"]].drop_duplicates()
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    lists = [{key: rows["image_index"].tolist() for key, rows in x.groupby(_MODEL)} for x in (misclassified, wrong)]
    models = pd.concat([misclassified[_MODEL], predictions[_MODEL]]).drop_duplicates()
    rows = []
    for model in models.merge(listed).sort_values(_MODEL).itertuples(index=False, name=None):
        released, recomputed = (images.get(model, []) for images in lists)
        counts = {"n_released": len(released), "n_recomputed": len(recomputed), "equal": released == recomputed}
        rows.append(dict(zip(_MODEL, model, strict=True)) | counts)
    return pd.DataFrame(rows, columns=[*_MODEL, "n_released", "n_recomputed", "equal"])


def incorrect_medians(ratios: pd.DataFrame) -> pd.DataFrame:
    """Return the medians of the boxes of misclassified images: one row per selection, corpus and method, by depth."""
    groups = ratios.groupby(["selection", "pretraining", "method", "finetune_depth"])["value"]
    return groups.median().unstack("finetune_depth")


def explanation_scores(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the explanation performance TP / (TP + FN) of every map as `value`, range [0, 1], beside its `chance`.

    By chance, a map hits the lesions in proportion to their share of the image.
    """
    in_lesions = confusion["tp"] + confusion["fn"]
    n_pixels = in_lesions + confusion["fp"] + confusion["tn"]
    return confusion.assign(value=confusion["tp"] / in_lesions, chance=in_lesions / n_pixels)


def explanation_medians(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the median explanation performance per cell and method, over models and images as in the boxplots."""
    groups = explanation_scores(confusion).groupby([*CELL, "method"])
    return groups.agg(median=("value", "median"), models=("seed", _seeds), n_models=("source", "nunique")).reset_index()


def tied_rows(confusion: pd.DataFrame) -> pd.DataFrame:
    """Count the images where TP / (TP + FP) is not TP / (TP + FN): ties left fewer than k pixels to be counted."""
    tied = confusion.assign(n_tied=confusion["fp"] != confusion["fn"], n_images=1)
    return tied.groupby(["selection", "source", "method"])[["n_images", "n_tied"]].sum().reset_index()


def equal_counts(release: Release) -> pd.DataFrame:
    """Return the maps whose released counts are equal on every image, and whether their files are equal to the byte.

    Two different maps do not score equally on thousands of images: one of them is a copy of the other.
    """
    keys = ["selection", "source", "method"]
    counts = {key: rows[["tp", "fp", "fn", "tn"]].to_numpy() for key, rows in release.confusion.groupby(keys)}
    by_content: dict[bytes, list[tuple[str, str, str]]] = {}
    for key, values in counts.items():
        by_content.setdefault(values.tobytes(), []).append(key)
    files = release.files[release.files["kind"] == "edge filter"]
    copied = files["sha256"].duplicated(keep=False)
    rows = [
        {
            "selection": first[0],
            "map": first[2],
            "equal_to": other[2],
            "n_images": len(counts[first]),
            "equal_bytes": bool(copied[files["selection"] == first[0]].any()),
        }
        for first, *others in by_content.values()
        for other in others
    ]
    return pd.DataFrame(rows, columns=["selection", "map", "equal_to", "n_images", "equal_bytes"])


def labels_of_seeds(n_images: int, first_seed: int = FIRST_TEST_SEED) -> np.ndarray:
    """Return the labels that the released code draws for seeds `first_seed`, `first_seed` + 1, ...: int array (n,).

    Numpy's legacy generator, as in the released code: first the number of lesions, 3 to 5, then the class.
    """
    labels = np.empty(n_images, dtype=np.int64)
    for image in range(n_images):
        generator = np.random.RandomState(first_seed + image)
        generator.randint(3, 6)
        labels[image] = generator.randint(0, 2)
    return labels


def label_agreement(predictions: pd.DataFrame, first_seed: int = FIRST_TEST_SEED) -> pd.DataFrame:
    """Return, per selection and model, how many of the released labels are those of the seeds."""
    drawn = labels_of_seeds(int(predictions["image_index"].max()) + 1 if len(predictions) else 0, first_seed)
    equal = predictions["label"].to_numpy() == drawn[predictions["image_index"].to_numpy(dtype=int)]
    groups = predictions.assign(n_images=1, n_equal=equal).groupby(_MODEL)[["n_images", "n_equal"]]
    return groups.sum().reset_index()


def side_by_side(release: Release) -> pd.DataFrame:
    """Return every number of the paper beside the one that the files at hand give, with the models it comes from.

    Returns
    -------
    DataFrame with the columns table, selection, pretraining, finetune_depth (0: not trained), method, metric,
    recomputed, published, difference (recomputed - published), n_models, models (their seeds) and note, which names
    the missing file where nothing could be recomputed, and says so where the number of models is not the paper's.
    """
    table = pd.concat([_classification_side(release), _explanation_side(release)], ignore_index=True)
    table["difference"] = table["recomputed"] - table["published"]
    table["note"] = [_note(row) for row in table.itertuples()]
    columns = [
        "table",
        *CELL,
        "method",
        "metric",
        "recomputed",
        "published",
        "difference",
        "n_models",
        "models",
        "note",
    ]
    return table[columns].astype({"finetune_depth": int, "n_models": int})


def _classification_side(release: Release) -> pd.DataFrame:
    published = pd.read_csv(NUMBERS / "classification.csv").melt(CELL, var_name="metric", value_name="published")
    groups = classification_metrics(release.predictions).groupby(CELL)
    means = groups[RATES].mean().reset_index().melt(CELL, var_name="metric", value_name="recomputed")
    models = groups.agg(models=("seed", _seeds), n_models=("model", "nunique")).reset_index()
    found = published.merge(means, how="left", on=[*CELL, "metric"]).merge(models, how="left", on=CELL)
    return found.assign(table="classification", method="").fillna({"n_models": 0, "models": ""})


def _explanation_side(release: Release) -> pd.DataFrame:
    published = pd.read_csv(NUMBERS / "explanation_medians.csv").fillna({"pretraining": "none", "finetune_depth": 0})
    published = published.rename(columns={"median_relevance_rank_accuracy": "published"})
    medians = explanation_medians(release.confusion).rename(columns={"median": "recomputed"})
    found = published.astype({"finetune_depth": int}).merge(medians, how="left", on=[*CELL, "method"])
    found = found.assign(table="explanation", metric="median_relevance_rank_accuracy")
    return found.fillna({"n_models": 0, "models": ""})


def _note(row: Any) -> str:
    if np.isnan(row.recomputed):
        kind = (
            "predictions" if row.table == "classification" else "untrained" if row.pretraining == "none" else "models"
        )
        theirs = {ours: theirs for theirs, ours in SELECTIONS.items()}[row.selection]
        return f"not released: {_FILES[kind].format(theirs)}, {row.pretraining} models (none in this copy)"
    if row.pretraining == "none":
        return "the untrained network"
    different = f"; the paper's number is from {MODELS_PER_CELL}, so not from the same models"
    return f"from {int(row.n_models)} models{different * (row.n_models != MODELS_PER_CELL)}"


def _seeds(seeds: pd.Series) -> str:
    return " ".join(map(str, sorted(set(seeds) - {-1})))


def missing_files(release: Release) -> pd.DataFrame:
    """Return one row per file of the study that the folder lacks, whether never released or not readable."""
    at_hand = {
        "predictions": release.predictions[["selection", "pretraining"]],
        "misclassified": release.misclassified[["selection", "pretraining"]],
        "incorrect_ratios": release.incorrect_ratios[["selection", "pretraining"]],
        "models": release.confusion[["selection", "pretraining"]],
        **dict.fromkeys(("untrained", "sobel", "laplace"), release.confusion[["selection", "source"]]),
    }
    # misclassified images were scored for the ImageNet models only
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(("predictions", "models"), ("imagenet", "mri"))
    wanted |= dict.fromkeys(("misclassified", "incorrect_ratios"), ("imagenet",))
    rows = [
        {"file": _FILES[kind].format(theirs), "models": source}
        for theirs, ours in SELECTIONS.items()
        for kind, rows in at_hand.items()
        for source in wanted.get(kind, (kind,))
        if (ours, source) not in set(rows.drop_duplicates().itertuples(index=False, name=None))
    ]
    return pd.DataFrame(rows, columns=["file", "models"])
