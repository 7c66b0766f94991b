"""The tables of the study, recomputed from the authors' files and set beside the published numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from pretrain_xai import classification
from pretrain_xai.published.read import COUNTS, SELECTIONS, Release
from pretrain_xai.study import CELL, CLASSES

#: the paper's numbers; see the README beside them
NUMBERS = Path(__file__).with_name("numbers")
#: one cell of the paper's tables
SELECTED_CELL = ["selection", *CELL]
RATES = classification.METRICS
#: the test images of the study carry the labels of this seed and the following ones
FIRST_TEST_SEED = 50_000
_MODEL = ["selection", "pretraining", "finetune_depth", "seed", "model"]
#: what the authors' files of each kind are called, with their word for the selection, and which they should be of;
#: misclassified images were scored for the ImageNet models only
_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "predictions": ("to_save.pkl in a folder `{}`", ("imagenet", "mri")),
    "misclassified": ("incorrectly_classified.pkl in a folder `{}`", ("imagenet",)),
    "incorrect_ratios": ("ratios_incorrectly.pkl in a folder `{}`", ("imagenet",)),
    "models": ("metrics_{}.pkl", ("imagenet", "mri")),
    "untrained": ("{}_random_explanations.pkl", ("untrained",)),
    "sobel": ("sobel_{}.pkl", ("sobel",)),
    "laplace": ("laplace_{}.pkl", ("laplace",)),
}


def metrics_by_model(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row of classification metrics per model; the positive class is 1, the irregular lesions.

    `auprc` is the mean of both classes' average precision, which is what the authors computed (torchmetrics' macro
    average). `printed_sensitivity` and `printed_specificity` are the rates under the names that the released code
    gives them, which are swapped. `balanced_accuracy`, the mean of both rates, is what the older files call ACC.
    """
    rows = []
    for key, model in predictions.groupby(_MODEL):
        score = model["logit_1"] - model["logit_0"]
        areas = [average_precision_score(model["label"] == one, sign * score) for one, sign in ((1, 1), (0, -1))]
        rates = classification.classification_metrics(model) | {"auprc": sum(areas) / 2}
        rows.append([*key, len(model), *rates.values()])
    table = pd.DataFrame(rows, columns=[*_MODEL, "n_images", *RATES])
    table["balanced_accuracy"] = (table["specificity"] + table["sensitivity"]) / 2
    return table.assign(printed_sensitivity=table["specificity"], printed_specificity=table["sensitivity"])


def differences_from_stored(classification: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Return recomputed minus stored metrics, one row per model; the stored accuracy is compared with both kinds."""
    both = classification.merge(stored, on=_MODEL, suffixes=("", "_stored"), validate="one_to_one")
    pairs = {"auroc": "auroc", "auprc": "auprc", "accuracy": "accuracy", "balanced_accuracy": "accuracy"}
    return both[_MODEL].assign(**{ours: both[ours] - both[f"{theirs}_stored"] for ours, theirs in pairs.items()})


def intersections(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return how many images all models of a selection classify correctly and wrongly, by corpus and over both."""
    cell = ["selection", "pretraining"]
    both = pd.concat([predictions, predictions.assign(pretraining="all")])
    wrong = (both["label"] != both["predicted"]).groupby([both[name] for name in (*cell, "image_index")])
    images = pd.DataFrame({"n_images": 1, "correct_by_all": wrong.sum() == 0, "wrong_by_all": wrong.all()})
    n_models = both.groupby(cell)["model"].nunique().rename("n_models")
    return pd.concat([n_models, images.groupby(cell).sum()], axis=1).reset_index()


def misclassified_agreement(predictions: pd.DataFrame, misclassified: pd.DataFrame) -> pd.DataFrame:
    """Return, per model, whether its predictions give the released list of misclassified images.

    About the selections and corpora that have such lists; a model without one has an empty list.
    """
    listed = misclassified[["selection", "pretraining"]].drop_duplicates()
    images = predictions.merge(listed).merge(misclassified[[*_MODEL, "image_index"]], how="outer", indicator="file")
    released = images["file"] != "left_only"
    wrong = (images["label"] != images["predicted"]) & images["label"].notna()
    images = images.assign(n_released=released, n_recomputed=wrong, equal=released == wrong)
    return images.groupby(_MODEL).agg({"n_released": "sum", "n_recomputed": "sum", "equal": "all"}).reset_index()


def incorrect_medians(ratios: pd.DataFrame) -> pd.DataFrame:
    """Return the medians of the boxes of misclassified images: one row per selection, corpus and method, by depth."""
    groups = ratios.groupby(["selection", "pretraining", "method", "finetune_depth"])["value"]
    return groups.median().unstack("finetune_depth")


def incorrect_by_class(release: Release) -> pd.DataFrame:
    """Return the mean score of misclassified images by their class, of all models of a depth.

    Returns
    -------
    DataFrame with `selection`, `pretraining`, `finetune_depth`, `method`, `round`, `irregular` and `difference`, round less
    irregular: how much more of round lesions is found, by models that took them for irregular.
    """
    table = release.incorrect_ratios.merge(release.misclassified, on=[*_MODEL, "position"], validate="many_to_one")
    table = table.merge(release.predictions[[*_MODEL, "image_index", "label"]], on=[*_MODEL, "image_index"])
    means = table.groupby([*SELECTED_CELL, "method", "label"])["value"].mean().unstack("label")
    means = means.reindex(columns=range(len(CLASSES))).set_axis(CLASSES, axis=1)
    return means.assign(difference=means["round"] - means["irregular"]).reset_index()


def explanation_scores(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the explanation performance TP / (TP + FN) of every map as `value`, range [0, 1], beside its `chance`.

    By chance, a map hits the lesions in proportion to their share of the image.
    """
    in_lesions = confusion["tp"] + confusion["fn"]
    n_pixels = in_lesions + confusion["fp"] + confusion["tn"]
    return confusion.assign(value=confusion["tp"] / in_lesions, chance=in_lesions / n_pixels)


def explanation_medians(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the median explanation performance per cell and method, over models and images as in the boxplots."""
    groups = explanation_scores(confusion).groupby([*SELECTED_CELL, "method"])
    return groups.agg(median=("value", "median"), models=("seed", _seeds), n_models=("source", "nunique")).reset_index()


def tied_rows(confusion: pd.DataFrame) -> pd.DataFrame:
    """Count the images where TP / (TP + FP) is not TP / (TP + FN): ties left fewer than k pixels to be counted."""
    tied = confusion.assign(n_tied=confusion["fp"] != confusion["fn"], n_images=1)
    return tied.groupby(["selection", "source", "method"])[["n_images", "n_tied"]].sum().reset_index()


def equal_counts(release: Release) -> pd.DataFrame:
    """Return the maps whose released counts are equal on every image, and whether their files are equal to the byte.

    Two different maps do not score equally on thousands of images: one of them is a copy of the other.
    """
    files = release.files[release.files["kind"] == "edge filter"]
    copied = files.loc[files.duplicated(["selection", "sha256"]), "selection"]
    groups = release.confusion.groupby(["selection", "source", "method"])
    maps = groups.size().rename("n_images").reset_index()
    maps["counts"] = [rows[COUNTS].to_numpy().tobytes() for _, rows in groups]
    first = maps.groupby("counts")[["selection", "method"]].transform("first")
    table = maps.assign(selection=first["selection"], map=first["method"], equal_to=maps["method"])
    table["equal_bytes"] = table["selection"].isin(copied)
    return table.loc[table.duplicated("counts"), ["selection", "map", "equal_to", "n_images", "equal_bytes"]]


def label_of_seed(seed: int) -> int:
    """Return the label that the released code draws for a seed.

    Numpy's legacy generator, as in the released code: first the number of lesions, 3 to 5, then the class.
    """
    generator = np.random.RandomState(seed)
    generator.randint(3, 6)
    return generator.randint(0, 2)


def label_agreement(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return, per selection and model, how many of the released labels are those of the seeds."""
    drawn = {image: label_of_seed(FIRST_TEST_SEED + image) for image in predictions["image_index"].unique()}
    equal = predictions["label"] == predictions["image_index"].map(drawn)
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
    keys = [*SELECTED_CELL, "method"]
    rates = pd.read_csv(NUMBERS / "classification.csv").assign(table="classification", method="")
    medians = pd.read_csv(NUMBERS / "explanation_medians.csv").assign(table="explanation")
    medians = medians.fillna({"pretraining": "none", "finetune_depth": 0})
    published = [table.melt(["table", *keys], var_name="metric", value_name="published") for table in (rates, medians)]

    groups = metrics_by_model(release.predictions).assign(method="").groupby(keys)
    means = groups[RATES].mean().assign(models=groups["seed"].agg(_seeds), n_models=groups["model"].nunique())
    means = means.reset_index().melt([*keys, "models", "n_models"], var_name="metric", value_name="recomputed")
    ours = explanation_medians(release.confusion).rename(columns={"median": "recomputed"})
    recomputed = [means, ours.assign(metric="median_relevance_rank_accuracy")]

    table = pd.concat(published).merge(pd.concat(recomputed), how="left", on=[*keys, "metric"])
    table = table.fillna({"n_models": 0, "models": ""})
    table["difference"] = table["recomputed"] - table["published"]
    table["note"] = [_note(row) for row in table.itertuples()]
    numbers = ["recomputed", "published", "difference", "n_models"]
    columns = ["table", *keys, "metric", *numbers, "models", "note"]
    return table[columns].astype({"finetune_depth": int, "n_models": int})


def _note(row: Any) -> str:
    if np.isnan(row.recomputed):
        kind = {"classification": "predictions"}.get(row.table, "untrained" if row.pretraining == "none" else "models")
        theirs = {ours: theirs for theirs, ours in SELECTIONS.items()}[row.selection]
        return f"not released: {_FILES[kind][0].format(theirs)}, {row.pretraining} models (none in this copy)"
    if row.pretraining == "none":
        return "the untrained network"
    different = "; the paper's number is from 3, so not from the same models"
    return f"from {int(row.n_models)} models{different * (row.n_models != 3)}"


def _seeds(seeds: pd.Series) -> str:
    return " ".join(map(str, sorted(set(seeds) - {-1})))


def missing_files(release: Release) -> pd.DataFrame:
    """Return one row per file of the study that the folder lacks, whether never released or not readable."""
    rows = []
    for theirs, ours in SELECTIONS.items():
        for kind, (file, wanted) in _FILES.items():
            table = getattr(release, kind, release.confusion)
            table = table[table["selection"] == ours]
            there = {*table["pretraining"], *table.get("source", ())}
            rows += [(file.format(theirs), source) for source in wanted if source not in there]
    return pd.DataFrame(rows, columns=["file", "models"])
