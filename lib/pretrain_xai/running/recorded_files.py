"""What the makers of a study's files recorded of them: digests of what they wrote and of what they read."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pretrain_xai import paths
from pretrain_xai.paths import Paths
from pretrain_xai.provenance import read_sums, sha256
from pretrain_xai.study import Study

#: what no maker records: records themselves, locks and files in the making (which begin with a dot), the report
_UNRECORDED = (".json", ".sha256", ".html", ".ipynb")
#: what other commands than `make study` write into the folder of a study's figures and data
_APART = ("protocols",)


@dataclass
class Records:
    """Digests by file, as written by its maker (`made`) and by those that read it (`read`, with the record's name).

    `broken` are the records that can't be read, with the reason.
    """

    made: dict[Path, str] = field(default_factory=dict)
    read: dict[Path, dict[Path, str]] = field(default_factory=lambda: defaultdict(dict))
    broken: dict[Path, str] = field(default_factory=dict)


def read_records(study: str) -> Records:
    """Read the provenance beside the files of a study, and the digests beside its executed notebooks.

    A variant shares files with its study, whose records are read as well.
    """
    records = Records()
    for name in dict.fromkeys(paths.owner(study, artefact) for artefact in paths.ARTEFACTS):
        for file in files_in(Paths(name).executed, ".sha256"):
            _add(records, file, _read_sums)
        for folder in (Paths(name).data, Paths(name).figures):
            for file in files_in(folder, ".json"):
                if file != Paths(name).finished:
                    _add(records, file, _read_provenance)
    return records


def expected_files(study: Study) -> list[Path]:
    """Return the tables, weights and arrays that a finished study has: the product of its grid."""
    runs = [run.name for run in study.runs()]
    trained = [run.name for run in study.runs() if run.selection in study.finetuning.selections]
    scored = [*runs, *(run.name for run in study.untrained_runs())]
    dataset = study.paths.dataset
    return [
        study.paths.lesions,
        *(study.paths.slices / file for file in ("slices.npy", "slices.csv", "participants.csv")),
        *(
            dataset / s / file
            for s in study.dataset.seed_bases
            for file in ("images.npy", "strength.npy", "images.csv")
        ),
        *(dataset / split / "lesions.csv" for split in study.dataset.seed_bases),
        dataset / "audit.csv",
        *(study.paths.pretrained(corpus) for corpus in study.pretraining.corpora),
        *(study.paths.finetuned(run) / file for run in runs for file in ("weights.safetensors", "predictions.parquet")),
        *(study.paths.finetuned(run) / "history.csv" for run in trained),
        *([study.paths.matching] if len(trained) < len(runs) else []),
        study.paths.classification,
        study.paths.intersections,
        *(study.paths.scores / f"{run}.parquet" for run in scored),
        *(study.paths.setting_scores / f"{run}.npz" for run in scored),
        *(study.paths.example_maps / f"{run}.npz" for run in runs),
    ]


def present_files(study: str) -> list[Path]:
    """Return the results that lie in the study's own folders, without records, and without those of its variants."""
    folders = (Paths(study).data, Paths(study).figures)
    return [file for folder in folders for file in files_in(folder) if file.suffix not in _UNRECORDED]


def differs(file: Path, digest: str, known: dict[Path, str]) -> bool:
    """Return whether a file has other bytes than those of `digest`; `known` keeps the digests of files already read."""
    if file not in known:
        known[file] = sha256(file)
    return known[file] != digest


def files_in(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Yield the files in a folder whose names end so, sorted; none that is hidden or of another command."""
    for file in sorted(folder.rglob(f"[!.]*{suffix}")):
        parts = file.relative_to(folder).parts
        if file.is_file() and parts[0] not in _APART and not any(part.startswith(".") for part in parts):
            yield file


def _add(records: Records, file: Path, read: Callable[[Records, Path], None]) -> None:
    try:
        read(records, file)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        records.broken[file] = f"can't be read as a record: {' '.join(str(error).split())}"


def _read_sums(records: Records, file: Path) -> None:
    records.made |= {paths.root() / name: digest for name, digest in read_sums(file).items()}


def _read_provenance(records: Records, file: Path) -> None:
    facts = json.loads(file.read_text(encoding="utf-8"))
    made, inputs = {paths.root() / facts["file"]: facts["sha256"]}, facts["inputs"].items()
    records.made |= made
    for name, digest in inputs:
        records.read[paths.root() / name][file] = digest
