"""Check a finished study again from its files: `python -m pretrain_xai.verify STUDY`.

Digests, counts, tables that must agree, and a sample of scores that is computed anew. Prints one row per check and the files
that fail; ends with status 1 if one does.
"""

import argparse
import contextlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pretrain_xai import paths, self_checks
from pretrain_xai.errors import UserError, first_ten
from pretrain_xai.paths import Paths
from pretrain_xai.running import consistency
from pretrain_xai.running.consistency import Wrong
from pretrain_xai.running.recorded_files import Records, differs, expected_files, present_files, read_records
from pretrain_xai.study import Run, Study, load_study
from pretrain_xai.tables import read_table

#: scores on another machine may differ by so much (README: what single precision changes, and a margin)
TOLERANCE = 0.01


class Verification:
    """A study to be checked, and what was found: `failures` has the reasons by file."""

    def __init__(self, name: str, n_images: int = 2, seed: int = 0) -> None:
        self.name, self.study = name, load_study(name)
        self.n_images, self.seed = n_images, seed
        self.records: Records = read_records(name)
        self.failures: dict[str, list[str]] = {}
        self.largest_difference = 0.0
        self._digests: dict[Path, str] = {}

    def run(self) -> bool:
        """Run all checks, print a row for each and the files that fail; return whether none does."""
        print(f"{'check':<14} {'result':<10} that")
        for check, find_wrong in CHECKS.items():
            wrong = self._findings(find_wrong)
            for file, reason in wrong:
                self.failures.setdefault(_near(file), []).append(f"{check}: {reason}")
            result = f"{len({file for file, _ in wrong})} wrong" if wrong else "ok"
            print(f"{check:<14} {result:<10} {(find_wrong.__doc__ or '').removeprefix('Check that ')}", flush=True)
        print(f"\nlargest difference of a recomputed score: {self.largest_difference:.2g}" if self.n_images else "")
        if unrecorded := self.unrecorded():
            print(
                f"without a recorded digest, so not compared: {len(unrecorded)} files ({first_ten(_near_all(unrecorded))})"
            )
        for name, reasons in self.failures.items():
            print(f"FAILED {name}: {'; '.join(reasons)}")
        print(f"{self.name}: {'everything holds' if not self.failures else f'{len(self.failures)} files fail'}")
        return not self.failures

    def unrecorded(self) -> list[Path]:
        """Return the results whose digest nobody recorded."""
        return [file for file in present_files(self.name) if file not in self.records.made]

    def _findings(self, check: Callable[["Verification"], Wrong]) -> list[tuple[Path, str]]:
        found: list[tuple[Path, str]] = []
        try:
            found.extend(check(self))
        except Exception as error:  # a damaged table stops a check, not the others
            found.append((self._damaged(error), f"{' '.join(str(error).split())}"))
        return found

    def _damaged(self, error: Exception) -> Path:
        """Return the file that an error is about, as far as it says."""
        files = (file for file in expected_files(self.study) if str(file) in str(error))
        return next(files, Paths(self.name).data)

    def missing(self) -> Wrong:
        """Check that every file of the grid is there."""
        for file in expected_files(self.study):
            if not file.is_file():
                yield file, "is missing"

    def bytes_of(self) -> Wrong:
        """Check that every file has the bytes that its maker recorded."""
        yield from self.records.broken.items()
        for file, digest in self.records.made.items():
            if file.is_file() and differs(file, digest, self._digests):
                yield file, "has other bytes than those that were recorded"

    def inputs(self) -> Wrong:
        """Check that every file is still what the results of it were made from."""
        for file, readers in self.records.read.items():
            changed = [r for r, digest in readers.items() if not file.is_file() or differs(file, digest, self._digests)]
            if changed:
                yield file, f"is not what {_near(changed[0])} was made from"

    def recomputed(self) -> Wrong:
        """Check that a few images of each model, explained again, get the scores that they have."""
        from pretrain_xai.networks.training import configure_torch

        if not self.n_images:
            return
        configure_torch(self.study.threads)
        for run in (*self.study.runs(), *self.study.untrained_runs()):
            with contextlib.redirect_stderr(io.StringIO()):  # progress
                difference, place = recompute(self.study, run, self.n_images, self.seed)
            self.largest_difference = max(self.largest_difference, difference)
            if difference > TOLERANCE:
                yield Paths(self.name).scores / f"{run.name}.parquet", f"differs by {difference:.3g} in {place}"


def recompute(study: Study, run: Run, n_images: int, seed: int) -> tuple[float, str]:
    """Explain `n_images` of a model's images again and return the largest difference of a score in [0, 1], and where.

    Counts of pixels are compared as shares of the image. The images are drawn from `seed` and the name of the model. Methods
    that the protocol leaves unseeded are left out.
    """
    from pretrain_xai.dataset import read_split
    from pretrain_xai.explain import Explainer
    from pretrain_xai.networks.models import load_finetuned

    file = study.paths.scores / f"{run.name}.parquet"
    kept = read_table(file)
    images = kept["image_index"].unique()
    rng = np.random.default_rng((seed, zlib.crc32(run.name.encode())))
    chosen = np.sort(rng.choice(images, min(n_images, len(images)), replace=False))
    methods = [
        m for m in study.attribution.methods if not (m == "gradient_shap" and study.protocol.gradient_shap_unseeded)
    ]
    test = read_split(study.paths.dataset / "test", study.protocol.mask_threshold)
    network = load_finetuned(study, run)
    facts = json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8"))["parameters"]
    settings = study.attribution.model_copy(update={"micro_batch": facts["micro_batch"]})
    again, _ = Explainer(network, test, settings, study.protocol).scores(chosen, methods)
    both = again.merge(kept, on=["method", "image_index", "metric"], how="left", suffixes=("", "_kept"))
    difference = (both["value"] - both["value_kept"]).abs()
    difference = difference.where(both["value_kept"].notna() == both["value"].notna(), np.inf).fillna(0)
    counted = both["metric"].isin([m for m in self_checks.COUNTED if m != "all_zero"])
    difference[counted] /= study.dataset.image_size**2
    difference = difference[both["metric"] != self_checks.DELTA]  # in units of the logit
    worst = both.loc[difference.idxmax()]
    return float(difference.max()), f"{worst['metric']} of {worst['method']}, image {worst['image_index']}"


def _of_tables(check: Callable[[Study], Wrong]) -> Callable[[Verification], Wrong]:
    def of(verification: Verification) -> Wrong:
        return check(verification.study)

    of.__doc__ = check.__doc__
    return of


CHECKS: Mapping[str, Callable[[Verification], Wrong]] = {
    "files": Verification.missing,
    "bytes": Verification.bytes_of,
    "inputs": Verification.inputs,
    "labels": _of_tables(consistency.check_labels),
    "images": _of_tables(consistency.check_images),
    "audit": _of_tables(consistency.check_audit),
    "predictions": _of_tables(consistency.check_predictions),
    "classification": _of_tables(consistency.check_classification),
    "counts": _of_tables(consistency.check_counts),
    "ranges": _of_tables(consistency.check_ranges),
    "chance": _of_tables(consistency.check_chance),
    "recomputed": Verification.recomputed,
}


def _near(file: Path) -> str:
    return str(file.relative_to(paths.root()) if file.is_relative_to(paths.root()) else file)


def _near_all(files: Sequence[Path]) -> list[str]:
    return [_near(file) for file in files]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if a file fails, or 2 if the study can't be read."""
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", help="a file in studies/, without .yaml, or a variant")
    parser.add_argument("--images", type=int, default=2, help="of each model, explained again; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of these images")
    options = parser.parse_args(arguments)
    try:
        return 0 if Verification(options.study, options.images, options.seed).run() else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
