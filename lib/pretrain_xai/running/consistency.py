"""Do the tables of a finished study agree with each other? Each check names the files that do not."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from pretrain_xai import paths
from pretrain_xai.classification import METRICS, classification_table
from pretrain_xai.dataset import Split, read_split
from pretrain_xai.localization import SCORES, ConfusionCounts, chance
from pretrain_xai.maps.comparison_maps import COMPARISON_MAPS
from pretrain_xai.networks.matching import read_matching, unmatched_runs
from pretrain_xai.selection import explained_images, find_intersections
from pretrain_xai.study import MODEL_COLUMNS, UNTRAINED, Run, Study
from pretrain_xai.tables import read_predictions, read_table

#: labels are unbalanced if a fair coin gives them less often than this
BALANCE_LEVEL = 1e-4
#: masks that are made at once
CHUNK = 256
#: metrics beside the scores of a study; completeness only of methods that promise it
COUNTED = (*ConfusionCounts._fields, "k", "all_zero")
DELTA = "completeness_delta"
#: scores that may leave [0, 1]
_UNBOUNDED = ("earth_mover_score", "earth_mover_top_k", "average_precision_chance")
#: rounding of a quotient
ROUNDING = 1e-12

#: a file and what is wrong with it
Wrong = Iterator[tuple[object, str]]


def check_labels(name: str, study: Study) -> Wrong:
    """Check that each split has as many round as irregular images, as far as a fair coin gives."""
    for split in study.dataset.seed_bases:
        file = paths.dataset(name) / split / "images.csv"
        labels = read_table(file)["label"]
        if not labels.isin([0, 1]).all():
            yield file, "has labels that are neither 0 nor 1"
        elif (p := binomtest(int(labels.sum()), len(labels)).pvalue) < BALANCE_LEVEL:
            yield file, f"has {labels.sum()} irregular images of {len(labels)} (p = {p:.1g} for a fair coin)"


def check_images(name: str, study: Study) -> Wrong:
    """Check that all images are finite and in [0, 1], and that each has a lesion."""
    for split, images in _splits(name, study):
        folder = paths.dataset(name) / split
        if not len(images.images) == len(images.masks) == len(images.table):
            yield folder / "images.csv", f"has {len(images.table)} rows for {len(images.images)} images"
            continue
        for start in range(0, len(images), CHUNK):
            rows = slice(start, start + CHUNK)
            pixels = np.asarray(images.images[rows])
            if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
                yield folder / "images.npy", f"has pixels outside of [0, 1] in the images from {start}"
            if len(empty := start + np.flatnonzero(~images.masks[rows].any(axis=(1, 2)))):
                yield folder / "strength.npy", f"has no lesion in image {empty[0]}"


def check_audit(name: str, study: Study) -> Wrong:
    """Check that the dataset passed its audit, unless its protocol asks for flaws."""
    file = paths.dataset(name) / "audit.csv"
    failed = read_table(file).query("not passed")["check"]
    if len(failed) and study.switched.corrects_dataset:
        yield file, f"says that the audit failed: {', '.join(failed)}"


def check_predictions(name: str, study: Study) -> Wrong:
    """Check that each model has one prediction per validation and test image, of that image's label."""
    labels = {split: read_split(paths.dataset(name) / split).labels for split in ("validation", "test")}
    for run in study.runs():
        file = paths.finetuned(name, run.name) / "predictions.parquet"
        table = read_table(file)
        for split, expected in labels.items():
            found = table[table["split"] == split]
            if not np.array_equal(found["image_index"], np.arange(len(expected))):
                yield file, f"has {len(found)} rows for the {len(expected)} {split} images"
            elif not np.array_equal(found["label"], expected):
                yield file, f"has other labels than the {split} images"
        if len(table) != sum(map(len, labels.values())) or not _is_of(table, run):
            yield file, f"has rows that are not of {run.name}"
        if not np.array_equal(table["predicted"], table["logit_1"] > table["logit_0"]):
            yield file, "predicts another class than that of the larger logit"


def check_classification(name: str, study: Study) -> Wrong:
    """Check that the metrics and the image lists follow from the predictions."""
    predictions = read_predictions(name, study.runs()).query("split == 'test'")
    expected = classification_table(predictions, swapped_rates=study.switched.swapped_rates)
    file = paths.classification(name)
    found = expected[MODEL_COLUMNS].merge(read_table(file), how="left")
    if not np.allclose(found[METRICS].astype(float), expected[METRICS], rtol=0, atol=ROUNDING):
        yield file, "differs from the metrics of the predictions"
    matching = read_matching(name, study)
    apart = [] if matching is None else unmatched_runs(matching)
    file, lists = paths.intersections(name), find_intersections(predictions, apart)
    if file.read_text(encoding="utf-8") != lists.to_csv(index=False, lineterminator="\n"):
        yield file, "differs from the image lists of the predictions"


def check_counts(name: str, study: Study) -> Wrong:
    """Check that each model has exactly one row per method, explained image and metric."""
    intersections = read_table(paths.intersections(name))
    for run, table in _scores(name, study):
        images = _explained(intersections, study, run)
        wanted = {*study.attribution.scores, *COUNTED}
        methods = [*study.attribution.methods, *(COMPARISON_MAPS if run.pretraining == UNTRAINED else ())]
        rows = table[table["metric"] != DELTA]
        expected = len(images) * len(methods) * len(wanted)
        right = set(rows["method"]) == set(methods) and set(rows["metric"]) == wanted
        right &= set(rows["image_index"]) == set(images.tolist()) and len(rows) == expected
        if not right or table.duplicated(["method", "image_index", "metric"]).any() or not _is_of(table, run):
            yield (
                _file(name, run),
                f"has {len(rows)} rows, {len(images)} images x {len(methods)} methods x "
                f"{len(wanted)} metrics = {expected} are expected, each once",
            )


def check_ranges(name: str, study: Study) -> Wrong:
    """Check that scores are within their range and follow from the counts of pixels."""
    pixels = study.dataset.image_size**2
    bounded = [score for score in study.attribution.scores if score in SCORES and score not in _UNBOUNDED]
    for run, table in _scores(name, study):
        values = table.pivot(index=["method", "image_index"], columns="metric", values="value")
        scores = values[[score for score in bounded if score in values]]
        if ((scores < -ROUNDING) | (scores > 1 + ROUNDING)).any(axis=None):
            yield _file(name, run), "has scores outside of [0, 1]"
        counts = values.reindex(columns=list(ConfusionCounts._fields))
        inside = counts["true_positives"] + counts["false_negatives"]
        whole = np.isclose(counts.sum(axis=1), pixels) & (counts >= -ROUNDING).all(axis=1)
        rate = counts["true_positives"] / inside
        if not (whole & np.isclose(inside, values["k"]) & np.isclose(rate, values["relevance_rank_accuracy"])).all():
            yield _file(name, run), "has counts of pixels and scores that do not belong together"


def check_chance(name: str, study: Study) -> Wrong:
    """Check that the level of chance is the share of the image that its mask covers."""
    test = read_split(paths.dataset(name) / "test", study.switched.mask_threshold)
    levels = np.concatenate([chance(test.masks[i : i + CHUNK]) for i in range(0, len(test), CHUNK)])
    for run, table in _scores(name, study):
        rows = table[table["metric"] == "relevance_rank_accuracy"]
        if not np.allclose(rows["chance"], levels[rows["image_index"]], rtol=0, atol=ROUNDING):
            yield _file(name, run), "has another level of chance than the masks"
        if not np.array_equal(rows["label"], test.labels[rows["image_index"]]):
            yield _file(name, run), "has other labels than the images"


def _splits(name: str, study: Study) -> Iterator[tuple[str, Split]]:
    for split in study.dataset.seed_bases:
        yield split, read_split(paths.dataset(name) / split, study.switched.mask_threshold)


def _scores(name: str, study: Study) -> Iterator[tuple[Run, pd.DataFrame]]:
    for run in (*study.runs(), *study.untrained_runs()):
        yield run, read_table(_file(name, run))


def _explained(intersections: pd.DataFrame, study: Study, run: Run) -> np.ndarray:
    return explained_images(intersections, run, seed=study.attribution.seed, **study.image_limits[run.selection])


def _file(name: str, run: Run):
    return paths.scores(name) / f"{run.name}.parquet"


def _is_of(table: pd.DataFrame, run: Run) -> bool:
    return all((table[column] == getattr(run, column)).all() for column in MODEL_COLUMNS)
