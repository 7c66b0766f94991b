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
from pretrain_xai.classification import LESION_FREE, METRICS, classification_table, lesion_dependence
from pretrain_xai.dataset import read_split
from pretrain_xai.errors import SelfCheckError, UserError, first_ten
from pretrain_xai.localization.comparison_maps import COMPARISON_MAPS
from pretrain_xai.networks.matching import read_matching, unmatched_runs
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import near, read_sums, sha256
from pretrain_xai.selection import explained_images, find_intersections
from pretrain_xai.study import MODEL_COLUMNS, Run, Study, first_untrained, load_study
from pretrain_xai.tables import read_predictions, read_table

#: scores on another machine may differ by so much (README: what single precision changes, and a margin)
TOLERANCE = 0.01
#: the checks in order: methods of `Verification`, whose first lines say what they check
CHECKS = ("records", "files", "bytes", "inputs", "dataset", "predictions", "classification", "scores", "recomputed")
#: what no maker records: records themselves, executed notebooks, the report
UNRECORDED = (".json", ".sha256", ".html", ".ipynb")
#: what the batch removes when a study is finished, and makes again when it is needed
REMOVED = "slices.npy"

#: files, and what is wrong with each
Wrong = Iterator[tuple[Path, str]]


class Verification:
    """A study to be checked, with `n_images` of each model explained again.

    Attributes
    ----------
    failures : dict
        What was found wrong, by file (from the root folder).
    made, read : dict
        Recorded digests: by file, of what its maker wrote; by file and record, of what the makers of others read.
    """

    def __init__(self, study: Study, n_images: int = 2) -> None:
        self.study, self.n_images, self.largest_difference = study, n_images, 0.0
        self.failures: dict[str, list[str]] = defaultdict(list)
        self.made: dict[Path, str] = {}
        self.read: dict[Path, dict[Path, str]] = defaultdict(dict)
        self._digest = cache(sha256)

    def run(self) -> bool:
        """Run all checks, print a row for each and the files that fail; return whether none does."""
        print(f"{'check':<14} {'result':<10} that")
        for name in CHECKS:
            check, wrong = getattr(self, name), set()
            try:
                for file, reason in check():
                    wrong.add(file)
                    self.failures[near(file)].append(f"{name}: {reason}")
            except Exception as error:  # a damaged table stops a check, not the others
                wrong.add(self.study.paths.data)
                self.failures[near(self.study.paths.data)].append(f"{name}: {' '.join(str(error).split())}")
            print(f"{name:<14} {f'{len(wrong)} wrong' if wrong else 'ok':<10} {check.__doc__[11:]}", flush=True)
        print(f"\nlargest difference of a recomputed score: {self.largest_difference:.2g}" if self.n_images else "")
        if unrecorded := self.unrecorded():
            print(f"without a recorded digest, so not compared: {first_ten(unrecorded)}")
        for name, reasons in self.failures.items():
            print(f"FAILED {name}: {'; '.join(reasons)}")
        if self.failures:
            print(f"made again, with all that follows: python -m pretrain_xai.batch {self.study.name} --forcerun FILE")
        print(f"{self.study.name}: {f'{len(self.failures)} files fail' if self.failures else 'everything holds'}")
        return not self.failures

    def unrecorded(self) -> list[str]:
        """Return the results whose digest nobody recorded."""
        there = [*_files_in(self.study.paths.data), *_files_in(self.study.paths.figures)]
        return [near(file) for file in there if file.suffix not in UNRECORDED and file not in self.made]

    def records(self) -> Wrong:
        """Check that what makers recorded can be read."""
        for owner in dict.fromkeys(paths.owner(self.study.name, artefact) for artefact in paths.ARTEFACTS):
            where = Paths(owner)  # a variant shares files with its study, whose records count
            # data are recorded as `table.csv.json`; the plan and the mark of a variant are no records
            for folder, names in ((where.executed, "*.sha256"), (where.data, "*.*.json"), (where.figures, "*.json")):
                for file in _files_in(folder, names):
                    try:
                        self._read_record(file)
                    except Exception as error:  # whatever else a file may hold
                        yield file, f"can't be read as a record: {' '.join(str(error).split())}"

    def _read_record(self, file: Path) -> None:
        if file.suffix == ".sha256":
            self.made |= {paths.root() / name: digest for name, digest in read_sums(file).items()}
            return
        facts = json.loads(file.read_text(encoding="utf-8"))
        self.made[paths.root() / facts["file"]] = facts["sha256"]
        for name, digest in facts["inputs"].items():
            self.read[paths.root() / name][file] = digest

    def files(self) -> Wrong:
        """Check that every file of the grid, and every recorded one, is there."""
        where, recorded = self.study.paths, [file for file in self.made if file.name != REMOVED]
        tables = [where.finetuned(run.name) / "predictions.parquet" for run in self.study.runs()]
        tables += [
            *map(self._scores_of, self.study.scored_runs()),
            where.classification,
            where.lesion_dependence,
            where.intersections,
        ]
        yield from ((file, "is missing") for file in dict.fromkeys([*tables, *recorded]) if not file.is_file())

    def bytes(self) -> Wrong:
        """Check that every file has the bytes that its maker recorded."""
        for file, digest in self.made.items():
            if file.is_file() and self._digest(file) != digest:
                yield file, "has other bytes than those that were recorded"

    def inputs(self) -> Wrong:
        """Check that every file is still what the results of it were made from."""
        for file, readers in self.read.items():
            if file.is_file() or file.name != REMOVED:
                changed = [r for r, digest in readers.items() if not file.is_file() or self._digest(file) != digest]
                yield from ((file, f"is not what {near(record)} was made from") for record in changed[:1])

    def dataset(self) -> Wrong:
        """Check that images are in [0, 1] and have their lesions, classes are even, and no unasked flaw is in the audit."""
        for split in self.study.dataset.seed_bases:
            folder = self.study.paths.dataset / split
            images = read_split(folder, self.study.protocol.mask_threshold)
            if (p := fair_coin(images.table["label"])) < BALANCE_LEVEL:
                yield folder / "images.csv", f"has other labels than a fair coin gives (p = {p:.1g})"
            if bad := [i for i, image in enumerate(images.images) if not ((image >= 0) & (image <= 1)).all()]:
                yield folder / "images.npy", f"has pixels outside of [0, 1] in image {first_ten(bad)}"
            laid = images.table["n_lesions"].to_numpy() > 0
            if bad := [i for i in range(len(images)) if images.masks[i].any() != laid[i]]:
                yield folder / "strength.npy", f"has no lesion, or one that should not be, in image {first_ten(bad)}"
        file = self.study.paths.dataset / "audit.csv"
        if self.study.protocol.corrects_dataset and not read_table(file)["passed"].eq(True).all():
            yield file, "says that the audit failed"

    def predictions(self) -> Wrong:
        """Check that each model has one prediction per validation and test image, and per test slice without lesions."""
        validation, test = (
            read_table(self.study.paths.dataset / f"{split}/images.csv") for split in ("validation", "test")
        )
        images = pd.concat([validation, test, test.assign(split=LESION_FREE)])[["split", "image_index", "label"]]
        for run in self.study.runs():
            file = self.study.paths.finetuned(run.name) / "predictions.parquet"
            table, expected = read_table(file), images.assign(**vars(run))
            if not np.array_equal(table[[*expected]], expected):
                yield file, f"has other rows than one per validation and test image of {run.name}, with its label"
            if not np.array_equal(table["predicted"], table["logit_1"] > table["logit_0"]):
                yield file, "predicts another class than that of the larger logit"

    def classification(self) -> Wrong:
        """Check that the metrics and the image lists follow from the predictions."""
        study = self.study
        every = read_predictions(study.name, study.runs())
        predictions = every.query("split == 'test'")
        expected = classification_table(predictions, swapped_rates=study.protocol.swapped_rates)
        found = expected[MODEL_COLUMNS].merge(read_table(study.paths.classification), how="left")
        if not np.allclose(found[METRICS].astype(float), expected[METRICS], rtol=0, atol=self_checks.ROUNDING):
            yield study.paths.classification, "differs from the metrics of the predictions"
        found = lesion_dependence(every).to_csv(index=False, lineterminator="\n")
        if study.paths.lesion_dependence.read_text(encoding="utf-8") != found:
            yield study.paths.lesion_dependence, "differs from what the predictions say"
        matching = read_matching(study)
        explained = predictions[predictions["finetune_depth"].isin(study.explained_depths)]
        lists = find_intersections(explained, [] if matching is None else unmatched_runs(matching))
        if study.paths.intersections.read_text(encoding="utf-8") != lists.to_csv(index=False, lineterminator="\n"):
            yield study.paths.intersections, "differs from the image lists of the predictions"

    def scores(self) -> Wrong:
        """Check that each model has one row per method, explained image and metric, with values that belong together."""
        study, own, lists = self.study, self.study.attribution, read_table(self.study.paths.intersections)
        test = read_split(study.paths.dataset / "test", study.protocol.mask_threshold)
        for run in self.study.scored_runs():
            table = read_table(file := self._scores_of(run))
            images = explained_images(lists, run, seed=own.seed, **study.image_limits[run.selection])
            methods = [*own.methods, *(COMPARISON_MAPS if run == first_untrained(run.selection) else ())]
            try:
                self_checks.check_scores(table, test, images, methods, own.scores)
            except SelfCheckError as error:
                yield file, str(error)
            if not (table[MODEL_COLUMNS] == pd.Series(vars(run))).all(axis=None):
                yield file, f"has rows that are not of {run.name}"

    def recomputed(self) -> Wrong:
        """Check that a few images of each model, explained again, get the scores that they have."""
        from pretrain_xai.networks.training import configure_torch

        configure_torch(self.study.threads)
        for run in self.study.scored_runs() if self.n_images else ():
            with contextlib.redirect_stderr(io.StringIO()):  # progress
                difference, place = self._recompute(run)
            self.largest_difference = max(self.largest_difference, difference)
            if difference > TOLERANCE:
                yield self._scores_of(run), f"differs by {difference:.3g} in {place}"

    def _recompute(self, run: Run) -> tuple[float, str]:
        """Explain some of a model's images again and return the largest difference of a score, and where.

        The images are drawn from the name of the model. Methods that the protocol leaves unseeded are left out.
        """
        from pretrain_xai.explain import Explainer
        from pretrain_xai.networks.models import load_finetuned

        own, protocol, kept = self.study.attribution, self.study.protocol, read_table(self._scores_of(run))
        images = np.random.default_rng(zlib.crc32(run.name.encode())).permutation(kept["image_index"].unique())
        unseeded = {"gradient_shap"} if protocol.gradient_shap_unseeded else set()
        methods = [method for method in own.methods if method not in unseeded]
        test = read_split(self.study.paths.dataset / "test", protocol.mask_threshold)
        explainer = Explainer(load_finetuned(self.study, run), test, own, protocol)
        again, _ = explainer.scores(np.sort(images[: self.n_images]), methods)
        again = again[again["metric"].isin(own.scores)]
        both = again.merge(kept, on=["method", "image_index", "metric"], how="left", suffixes=("", "_kept"))
        # neither may have a value where a map has no such score
        difference = (both["value"] - both["value_kept"]).abs().fillna(np.inf)
        difference = difference.where(both["value"].notna() | both["value_kept"].notna(), 0.0)
        worst = both.loc[difference.idxmax()]
        return float(difference.max()), f"{worst['metric']} of {worst['method']}, image {worst['image_index']}"

    def _scores_of(self, run: Run) -> Path:
        return self.study.paths.scores / f"{run.name}.parquet"


def _files_in(folder: Path, names: str = "*") -> list[Path]:
    """Return the files in a folder with such names, sorted; none that is hidden, in the making or of a variant."""
    files = {file: file.relative_to(folder).parts for file in sorted(folder.rglob(names)) if file.is_file()}
    return [f for f, parts in files.items() if parts[0] != "protocols" and not any(p.startswith(".") for p in parts)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if a file fails, or 2 if the study can't be read."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml, or a variant")
    parser.add_argument("--images", type=int, default=2, help="of each model, explained again; 0: none")
    options = parser.parse_args(arguments)
    try:
        return 0 if Verification(load_study(options.study), options.images).run() else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
