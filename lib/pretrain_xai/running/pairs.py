"""The two files of a notebook: the `.py`, which is the source, and the `.ipynb`, which runs."""

from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat

from pretrain_xai.errors import UserError


class PairError(UserError):
    """The two files of a notebook say different things."""


def check_pairs(folder: Path, names: Iterable[str]) -> None:
    """Check that the code of notebooks is that of their sources: a batch runs the one and records the digest of the other.

    Raises
    ------
    PairError
        Naming the notebook.
    """
    for name in names:
        source, twin = folder / f"{name}.py", folder / f"{name}.ipynb"
        try:
            agree = _code(nbformat.read(twin, as_version=4)) == _code(jupytext.read(source))
        except Exception as error:  # nbformat raises nearly anything for JSON that is no notebook
            raise PairError(f"{twin}: not a readable notebook: {' '.join(str(error).split())[:200]}") from None
        if not agree:
            raise PairError(
                f"{twin} does not hold the code of {source.name}: `make notebooks` renders it from the .py; to keep what "
                f"the .ipynb says run `.venv/bin/jupytext --to py:percent {twin}` first"
            )


def _code(notebook: nbformat.NotebookNode) -> list[str]:
    # as they come out of the other format, so that lines which look like its marks count alike
    notebook = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent")
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
