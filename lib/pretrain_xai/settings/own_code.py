"""Code that a study brings: where it lies. Nothing is imported here."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pretrain_xai import paths


def source_file(module: str) -> Path | None:
    """Return the file of the module `package.module:function`, without importing it; None if there is none."""
    with studies_on_path(), suppress(ImportError, ValueError):
        found = importlib.util.find_spec(module.partition(":")[0])
        return Path(found.origin) if found and found.origin and found.has_location else None
    return None


@contextmanager
def studies_on_path() -> Iterator[None]:
    """Let modules be imported that lie beside the study files."""
    folder = str(paths.root() / "studies")
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
