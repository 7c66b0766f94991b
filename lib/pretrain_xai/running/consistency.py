"""Do the tables of a finished study agree with each other? Each check names the files that do not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pretrain_xai import self_checks
from pretrain_xai.audit import BALANCE_LEVEL, fair_coin
from pretrain_xai.classification import METRICS, classification_table
from pretrain_xai.dataset import Split, read_split
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.networks.matching import read_matching, unmatched_runs
from pretrain_xai.selection import explained_images, find_intersections
from pretrain_xai.self_checks import ROUNDING
from pretrain_xai.study import MODEL_COLUMNS, UNTRAINED, Run, Study
from pretrain_xai.tables import read_predictions, read_table

#: masks that are made at once
CHUNK = 256

#: a file and what is wrong with it
Wrong = Iterator[tuple[Path, str]]


def check_labels(study: Study) -> Wrong:
    """Check that each split has as many round as irregular images, as far as a fair coin gives."""
    for split in study.dataset.seed_bases:
        file = study.paths.dataset / split / "images.csv"
        labels = read_table(file)["label"]
        if not labels.isin([0, 1]).all():
            yield file, "has labels that are neither 0 nor 1"
        elif (p := fair_coin(labels)) < BALANCE_LEVEL:
            yield file, f"has {labels.sum()} irregular images of {len(labels)} (p = {p:.1g} for a fair coin)"


def check_images(study: Study) -> Wrong:
    """Check that all images are finite and in [0, 1], and that each has a lesion."""
    for split, images in _splits(study):
        folder = study.paths.dataset / split
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


def check_audit(study: Study) -> Wrong:
    """Check that the dataset passed its audit, unless its protocol asks for flaws."""
    file = study.paths.dataset / "audit.csv"
    table = read_table(file).reindex(columns=["check", "passed"])
    failed = table.loc[~table["passed"].eq(True), "check"]
    if len(failed) and study.protocol.corrects_dataset:
        yield file, f"says that the audit failed: {', '.join(map(str, failed))}"


def check_predictions(study: Study) -> Wrong:
    """Check that each model has one prediction per validation and test image, of that image's label."""
    labels = {split: read_split(study.paths.dataset / split).labels for split in ("validation", "test")}
    for run in study.runs():
        file = study.paths.finetuned(run.name) / "predictions.parquet"
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


def check_classification(study: Study) -> Wrong:
    """Check that the metrics and the image lists follow from the predictions."""
    predictions = read_predictions(study.name, study.runs()).query("split == 'test'")
    expected = classification_table(predictions, swapped_rates=study.protocol.swapped_rates)
    file = study.paths.classification
    found = expected[MODEL_COLUMNS].merge(read_table(file), how="left")
    if not np.allclose(found[METRICS].astype(float), expected[METRICS], rtol=0, atol=ROUNDING):
        yield file, "differs from the metrics of the predictions"
    matching = read_matching(study)
    apart = [] if matching is None else unmatched_runs(matching)
    file, lists = study.paths.intersections, find_intersections(predictions, apart)
    if file.read_text(encoding="utf-8") != lists.to_csv(index=False, lineterminator="\n"):
        yield file, "differs from the image lists of the predictions"


def check_counts(study: Study) -> Wrong:
    """Check that each model has exactly one row per method, explained image and metric."""
    intersections = read_table(study.paths.intersections)
    for run, table in _scores(study):
        images = _explained(intersections, study, run)
        methods = [*study.attribution.methods, *(COMPARISON_MAPS if run.pretraining == UNTRAINED else ())]
        for reason in self_checks.wrong_rows(table, images, methods, study.attribution.scores):
            yield _file(study, run), reason
        if not _is_of(table, run):
            yield _file(study, run), f"has rows that are not of {run.name}"


def check_ranges(study: Study) -> Wrong:
    """Check that scores are within their range and follow from the counts of pixels."""
    for run, table in _scores(study):
        for reason in self_checks.wrong_values(table, study.attribution.scores, study.dataset.image_size**2):
            yield _file(study, run), reason


def check_chance(study: Study) -> Wrong:
    """Check that the level of chance is the share of the image that its mask covers."""
    test = read_split(study.paths.dataset / "test", study.protocol.mask_threshold)
    shares, labels = self_checks.mask_shares(test, np.arange(len(test))), pd.Series(test.labels)
    for run, table in _scores(study):
        for reason in self_checks.wrong_chance(table, shares, labels):
            yield _file(study, run), reason


def _splits(study: Study) -> Iterator[tuple[str, Split]]:
    for split in study.dataset.seed_bases:
        yield split, read_split(study.paths.dataset / split, study.protocol.mask_threshold)


def _scores(study: Study) -> Iterator[tuple[Run, pd.DataFrame]]:
    for run in (*study.runs(), *study.untrained_runs()):
        yield run, read_table(_file(study, run))


def _explained(intersections: pd.DataFrame, study: Study, run: Run) -> np.ndarray:
    return explained_images(intersections, run, seed=study.attribution.seed, **study.image_limits[run.selection])


def _file(study: Study, run: Run) -> Path:
    return study.paths.scores / f"{run.name}.parquet"


def _is_of(table: pd.DataFrame, run: Run) -> bool:
    return all((table[column] == getattr(run, column)).all() for column in MODEL_COLUMNS)
