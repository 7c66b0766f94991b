"""docs/reliability.md from what `make soak`, `make fuzz` and `make mutation` counted."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain_xai import paths

DOCS = paths.REPOSITORY / "docs"
PAGE, JSON = DOCS / "reliability.md", DOCS / "reliability.json"
FUZZ, MUTATION = DOCS / "fuzz.json", DOCS / "mutation.json"

_TITLE = """# Reliability

What was done to batches and files, and what came of it. `make soak` does it again and writes this page; `make soak
PART=kills` does one part; `make mutation` counts the last table. Short versions run in CI: kills, full disks, altered
results and other conditions in `make test-system`, fuzzing, locks and changed inputs in `make test`; mutation has none.
"""
_FAULTS = """## Faults

Done for real to batches of the tiny study. *Survived*: the batch could go on, or said in one line why not, and the study
ended with the results of an uninterrupted run. *Lost*, *wrong*: results (tables, weights, arrays) that are missing at the
end, or that have other bytes under their final names, looked at after each fault and at the end.
"""
_DETERMINISM = """## The same again

The tiny study under other conditions, compared with a run of two jobs side by side. *Equal*: of its results, those with the
same bytes. The last column: the largest difference of a score (Relevance Rank Accuracy, true negative rate, from 0 to 1).
"""
_TOLERANCE = """With other numbers of threads or of images in a pass the last digits of single precision differ: at most {} is
allowed.
"""
_FUZZING = """## Damaged and hostile files

Every reader of files that a user brings reads damaged versions of them (`make fuzz`). It must give a value that holds or
one line that names the file; *executed*: programs started, connections opened. Where a reader crashes or executes
anything, the command fails and writes nothing.
"""
_MUTATION = """## Tests of the tests

Single changes to the code that tests must notice, made by {tool} {version} (`make mutation`); what survived is listed with
its reason in `docs/mutation.json`.
"""


def page(content: Mapping[str, Any]) -> str:
    """Return the page in Markdown.

    Parameters
    ----------
    content : mapping
        Of each part that was run its `rows`, `date`, `cores` and `minutes`.
    """
    parts = [_TITLE]
    rows = [row for part in content.values() for row in part["rows"]]
    if faults := [row for row in rows if "fault" in row]:
        parts += [_FAULTS, _table(["fault", "times", "survived", "lost", "wrong"], _with_sum(faults))]
    if conditions := [row for row in rows if "condition" in row]:
        tolerance = max(row["tolerance"] for row in conditions)
        allowed = _TOLERANCE.format(tolerance) if tolerance else ""
        parts += [
            _DETERMINISM + allowed,
            _table(["condition", "equal", "largest"], map(_run, conditions)),
        ]
    if FUZZ.is_file():
        parts += [_FUZZING, _table(["reader", "files", "refused", "crashes", "executed"], _readers(_read(FUZZ)))]
    if MUTATION.is_file():
        found = _read(MUTATION)
        counts = ({"module": name, **about} for name, about in found["modules"].items())
        parts += [_MUTATION.format(**found), _table(["module", "total", "killed", "survived"], counts)]
    times = ({"part": part, **about, "machine": f"{about['cores']} cores"} for part, about in content.items())
    parts += ["## When and how long\n", _table(["part", "date", "machine", "minutes"], times)]
    return "\n".join(parts)


def _with_sum(rows: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    counts = {name: sum(row[name] for row in rows) for name in ("times", "survived", "lost", "wrong")}
    return [*rows, {"fault": "**all**", **counts}]


def _run(row: Mapping[str, Any]) -> dict[str, Any]:
    return row | {"equal": f"{row['equal']} of {row['results']}", "largest": f"{row['difference']:.2g}"}


def _readers(found: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Add up the counts of all tests in one file; a reader that crashes or executes fails, and nothing is written."""
    readers: dict[str, dict[str, Any]] = defaultdict(lambda: {"files": 0, "refused": 0, "crashes": 0, "executed": 0})
    for counts in found["readers"]:
        name = Path(counts["test"].split("::")[0]).stem.removeprefix("test_").replace("_", " ")
        readers[name]["files"] += counts["inputs"]
        readers[name]["refused"] += counts["refused"]
    total = {
        "reader": "**all**",
        "files": found["inputs"],
        "crashes": found["crashes"],
        "executed": found["executions"],
    }
    total["refused"] = sum(counts["refused"] for counts in readers.values())
    return [*({"reader": name} | counts for name, counts in readers.items()), total]


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    cells = [
        columns,
        ["---", *["---:"] * (len(columns) - 1)],
        *([_cell(row[name]) for name in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
