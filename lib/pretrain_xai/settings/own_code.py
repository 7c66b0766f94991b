"""Code that a study brings: where it lies. Nothing is imported here."""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path

from pretrain_xai import paths


def source_file(module: str) -> Path | None:
    """Return the file of the module `package.module:function`, without importing it; None if there is none."""
    studies_on_path()
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(module.partition(":")[0])
        return Path(found.origin) if found and found.origin and found.has_location else None
    return None


def studies_on_path() -> None:
    """Let modules be imported that lie beside the study files."""
    if (folder := str(paths.root() / "studies")) not in sys.path:
        sys.path.append(folder)
