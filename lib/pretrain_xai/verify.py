"""Check a finished study again from its files: `python -m pretrain_xai.verify STUDY`.

Digests, counts, tables that must agree, and a sample of scores that is computed anew. Prints one row per check and the files
that fail; ends with status 1 if one does. The batch does not look for results that were changed after they were made: this
does, and says how a file that it names is made again.
"""

import argparse
import contextlib
import io
import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from pretrain_xai import paths, self_checks
from pretrain_xai.audit import BALANCE_LEVEL, fair_coin
from pretrain_xai.classification import METRICS, classification_table
from pretrain_xai.dataset import read_split
from pretrain_xai.errors import UserError, first_ten
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.networks.matching import read_matching, unmatched_runs
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import read_sums, sha256
from pretrain_xai.selection import explained_images, find_intersections
from pretrain_xai.study import MODEL_COLUMNS, UNTRAINED, Run, Study, load_study
from pretrain_xai.tables import read_predictions, read_table

#: scores on another machine may differ by so much (README: what single precision changes, and a margin)
TOLERANCE = 0.01
#: the checks in order: methods of `Verification`, whose first lines say what they check
CHECKS = (
    *("files", "bytes", "inputs", "labels", "images", "audit", "predictions"),
    *("classification", "counts", "ranges", "chance", "recomputed"),
)
#: what no maker records: records themselves, executed notebooks, the report
UNRECORDED = (".json", ".sha256", ".html", ".ipynb")
#: what the batch removes when a study is finished, and makes again when it is needed
REMOVED = "slices.npy"
#: masks that are made at once
CHUNK = 256

#: files, and what is wrong with each
Wrong = Iterator[tuple[Path, str]]


class Verification:
    """A study to be checked.

    Attributes
    ----------
    failures : dict
        What was found wrong, by file (from the root folder).
    made, read : dict
        Recorded digests: by file, of what its maker wrote; by file and record, of what the makers of others read.
    unreadable : dict
        Records that are none, with the reason.
    """

    def __init__(self, study: Study, n_images: int = 2, seed: int = 0) -> None:
        self.study, self.n_images, self.seed = study, n_images, seed
        self.failures: dict[str, list[str]] = defaultdict(list)
        self.made: dict[Path, str] = {}
        self.read: dict[Path, dict[Path, str]] = defaultdict(dict)
        self.unreadable: dict[Path, str] = {}
        self.largest_difference = 0.0
        self._digest = cache(sha256)
        for owner in dict.fromkeys(paths.owner(study.name, artefact) for artefact in paths.ARTEFACTS):
            where = Paths(owner)  # a variant shares files with its study, whose records count
            for folder, suffix in ((where.executed, ".sha256"), (where.data, ".json"), (where.figures, ".json")):
                for file in set(_files_in(folder, suffix)) - {where.finished}:
                    self._read_record(file)

    def _read_record(self, file: Path) -> None:
        try:
            if file.suffix == ".sha256":
                self.made |= {paths.root() / name: digest for name, digest in read_sums(file).items()}
                return
            facts = json.loads(file.read_text(encoding="utf-8"))
            self.made[paths.root() / facts["file"]] = facts["sha256"]
            for name, digest in facts["inputs"].items():
                self.read[paths.root() / name][file] = digest
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self.unreadable[file] = f"can't be read as a record: {_one_line(error)}"

    def run(self) -> bool:
        """Run all checks, print a row for each and the files that fail; return whether none does."""
        print(f"{'check':<14} {'result':<10} that")
        for name in CHECKS:
            check, wrong = getattr(self, name), set()
            try:
                for file, reason in check():
                    wrong.add(file)
                    self.failures[_near(file)].append(f"{name}: {reason}")
            except Exception as error:  # a damaged table stops a check, not the others
                file = next((file for file in self.expected() if str(file) in str(error)), self.study.paths.data)
                wrong.add(file)
                self.failures[_near(file)].append(f"{name}: {_one_line(error)}")
            print(f"{name:<14} {f'{len(wrong)} wrong' if wrong else 'ok':<10} {check.__doc__[11:]}", flush=True)
        print(f"\nlargest difference of a recomputed score: {self.largest_difference:.2g}" if self.n_images else "")
        if unrecorded := self.unrecorded():
            print(f"without a recorded digest, so not compared: {first_ten([_near(file) for file in unrecorded])}")
        for file, reasons in self.failures.items():
            print(f"FAILED {file}: {'; '.join(reasons)}")
        if self.failures:
            print(
                f"made again, with all that follows, by: python -m pretrain_xai.batch {self.study.name} --forcerun FILE"
            )
        print(f"{self.study.name}: {f'{len(self.failures)} files fail' if self.failures else 'everything holds'}")
        return not self.failures

    def expected(self) -> list[Path]:
        """Return what a finished study has: tables of every model of its grid, and all that is recorded."""
        where, recorded = self.study.paths, [file for file in self.made if file.name != REMOVED]
        predictions = [where.finetuned(run.name) / "predictions.parquet" for run in self.study.runs()]
        scores = [where.scores / f"{run.name}.parquet" for run in self._scored()]
        return list(dict.fromkeys([*predictions, *scores, where.classification, where.intersections, *recorded]))

    def unrecorded(self) -> list[Path]:
        """Return the results whose digest nobody recorded."""
        there = [*_files_in(self.study.paths.data), *_files_in(self.study.paths.figures)]
        return [file for file in there if file.suffix not in UNRECORDED and file not in self.made]

    def files(self) -> Wrong:
        """Check that every file of the grid, and every recorded one, is there."""
        yield from ((file, "is missing") for file in self.expected() if not file.is_file())

    def bytes(self) -> Wrong:
        """Check that every file has the bytes that its maker recorded."""
        yield from self.unreadable.items()
        for file, digest in self.made.items():
            if file.is_file() and self._digest(file) != digest:
                yield file, "has other bytes than those that were recorded"

    def inputs(self) -> Wrong:
        """Check that every file is still what the results of it were made from."""
        for file, readers in self.read.items():
            if file.is_file() or file.name != REMOVED:
                changed = [r for r, digest in readers.items() if not file.is_file() or self._digest(file) != digest]
                yield from ((file, f"is not what {_near(record)} was made from") for record in changed[:1])

    def labels(self) -> Wrong:
        """Check that each split has as many round as irregular images, as far as a fair coin gives."""
        for split in self.study.dataset.seed_bases:
            file = self.study.paths.dataset / split / "images.csv"
            labels = read_table(file)["label"]
            if not labels.isin([0, 1]).all():
                yield file, "has labels that are neither 0 nor 1"
            elif (p := fair_coin(labels)) < BALANCE_LEVEL:
                yield file, f"has {labels.sum()} irregular images of {len(labels)} (p = {p:.1g} for a fair coin)"

    def images(self) -> Wrong:
        """Check that all images are finite and in [0, 1], and that each has a lesion."""
        for split in self.study.dataset.seed_bases:
            folder = self.study.paths.dataset / split
            images = read_split(folder, self.study.protocol.mask_threshold)
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

    def audit(self) -> Wrong:
        """Check that the dataset passed its audit, unless its protocol asks for flaws."""
        file = self.study.paths.dataset / "audit.csv"
        table = read_table(file).reindex(columns=["check", "passed"])
        failed = table.loc[~table["passed"].eq(True), "check"]
        if len(failed) and self.study.protocol.corrects_dataset:
            yield file, f"says that the audit failed: {', '.join(map(str, failed))}"

    def predictions(self) -> Wrong:
        """Check that each model has one prediction per validation and test image, of that image's label."""
        labels = {split: read_split(self.study.paths.dataset / split).labels for split in ("validation", "test")}
        for run in self.study.runs():
            file = self.study.paths.finetuned(run.name) / "predictions.parquet"
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

    def classification(self) -> Wrong:
        """Check that the metrics and the image lists follow from the predictions."""
        study = self.study
        predictions = read_predictions(study.name, study.runs()).query("split == 'test'")
        expected = classification_table(predictions, swapped_rates=study.protocol.swapped_rates)
        found = expected[MODEL_COLUMNS].merge(read_table(study.paths.classification), how="left")
        if not np.allclose(found[METRICS].astype(float), expected[METRICS], rtol=0, atol=self_checks.ROUNDING):
            yield study.paths.classification, "differs from the metrics of the predictions"
        matching = read_matching(study)
        lists = find_intersections(predictions, [] if matching is None else unmatched_runs(matching))
        if study.paths.intersections.read_text(encoding="utf-8") != lists.to_csv(index=False, lineterminator="\n"):
            yield study.paths.intersections, "differs from the image lists of the predictions"

    def counts(self) -> Wrong:
        """Check that each model has exactly one row per method, explained image and metric."""
        study, intersections = self.study, read_table(self.study.paths.intersections)
        for run, file, table in self._scores():
            limits = study.image_limits[run.selection]
            images = explained_images(intersections, run, seed=study.attribution.seed, **limits)
            methods = [*study.attribution.methods, *(COMPARISON_MAPS if run.pretraining == UNTRAINED else ())]
            for reason in self_checks.wrong_rows(table, images, methods, study.attribution.scores):
                yield file, reason
            if not _is_of(table, run):
                yield file, f"has rows that are not of {run.name}"

    def ranges(self) -> Wrong:
        """Check that scores are within their range and follow from the counts of pixels."""
        study = self.study
        for _, file, table in self._scores():
            for reason in self_checks.wrong_values(table, study.attribution.scores, study.dataset.image_size**2):
                yield file, reason

    def chance(self) -> Wrong:
        """Check that the level of chance is the share of the image that its mask covers."""
        test = read_split(self.study.paths.dataset / "test", self.study.protocol.mask_threshold)
        shares, labels = self_checks.mask_shares(test, np.arange(len(test))), pd.Series(test.labels)
        for _, file, table in self._scores():
            yield from ((file, reason) for reason in self_checks.wrong_chance(table, shares, labels))

    def recomputed(self) -> Wrong:
        """Check that a few images of each model, explained again, get the scores that they have."""
        from pretrain_xai.networks.training import configure_torch

        configure_torch(self.study.threads)
        for run, file, table in self._scores() if self.n_images else ():
            with contextlib.redirect_stderr(io.StringIO()):  # progress
                difference, place = self._recompute(run, file, table)
            self.largest_difference = max(self.largest_difference, difference)
            if difference > TOLERANCE:
                yield file, f"differs by {difference:.3g} in {place}"

    def _recompute(self, run: Run, file: Path, kept: pd.DataFrame) -> tuple[float, str]:
        """Explain some of a model's images again and return the largest difference of a score in [0, 1], and where.

        Counts of pixels are compared as shares of the image. The images are drawn from the seed and the name of the model.
        Methods that the protocol leaves unseeded are left out.
        """
        from pretrain_xai.explain import Explainer
        from pretrain_xai.networks.models import load_finetuned

        study, protocol = self.study, self.study.protocol
        images = kept["image_index"].unique()
        rng = np.random.default_rng((self.seed, zlib.crc32(run.name.encode())))
        chosen = np.sort(rng.choice(images, min(self.n_images, len(images)), replace=False))
        unseeded = {"gradient_shap"} if protocol.gradient_shap_unseeded else set()
        methods = [method for method in study.attribution.methods if method not in unseeded]
        test = read_split(study.paths.dataset / "test", protocol.mask_threshold)
        facts = json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8"))["parameters"]
        settings = study.attribution.model_copy(update={"micro_batch": facts["micro_batch"]})
        again, _ = Explainer(load_finetuned(study, run), test, settings, protocol).scores(chosen, methods)
        both = again.merge(kept, on=["method", "image_index", "metric"], how="left", suffixes=("", "_kept"))
        both = both[both["metric"] != self_checks.DELTA]  # in units of the logit
        difference = (both["value"] - both["value_kept"]).abs()
        difference = difference.where(both["value_kept"].notna() == both["value"].notna(), np.inf).fillna(0)
        counted = both["metric"].isin(set(self_checks.COUNTED) - {"all_zero"})
        difference[counted] /= study.dataset.image_size**2
        worst = both.loc[difference.idxmax()]
        return float(difference.max()), f"{worst['metric']} of {worst['method']}, image {worst['image_index']}"

    def _scored(self) -> list[Run]:
        return [*self.study.runs(), *self.study.untrained_runs()]

    def _scores(self) -> Iterator[tuple[Run, Path, pd.DataFrame]]:
        for run in self._scored():
            file = self.study.paths.scores / f"{run.name}.parquet"
            yield run, file, read_table(file)


def _files_in(folder: Path, suffix: str = "") -> list[Path]:
    """Return the files in a folder whose names end so, sorted; none that is hidden, in the making or of a variant."""
    files = {file: file.relative_to(folder).parts for file in sorted(folder.rglob(f"*{suffix}")) if file.is_file()}
    return [f for f, parts in files.items() if parts[0] != "protocols" and not any(p.startswith(".") for p in parts)]


def _is_of(table: pd.DataFrame, run: Run) -> bool:
    return all((table[column] == getattr(run, column)).all() for column in MODEL_COLUMNS)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _near(file: Path) -> str:
    return str(file.relative_to(paths.root()) if file.is_relative_to(paths.root()) else file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if a file fails, or 2 if the study can't be read."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml, or a variant")
    parser.add_argument("--images", type=int, default=2, help="of each model, explained again; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of these images")
    options = parser.parse_args(arguments)
    try:
        return 0 if Verification(load_study(options.study), options.images, options.seed).run() else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
