"""The two files of a notebook: the `.py`, which is the source, and the `.ipynb`, which runs."""

from pathlib import Path

import nbformat

from pretrain_xai.errors import UserError


class PairError(UserError):
    """The two files of a notebook say different things."""


def check_pairs(folder: Path) -> None:
    """Check that the code of every notebook is that of its source; a batch runs the one and records the other's digest.

    Raises
    ------
    PairError
        Naming the notebook.
    """
    for source in sorted(folder.glob("*.py")):
        twin = source.with_suffix(".ipynb")
        try:
            agree = _code(twin) == _code(source)
        except Exception as error:  # nbformat raises nearly anything for JSON that is no notebook
            raise PairError(
                f"{twin}: not a readable notebook ({' '.join(str(error).split())[:200]}): {_MEND}"
            ) from None
        if not agree:
            raise PairError(f"{twin.name} in {folder} does not hold the code of {source.name}: {_MEND}")


_MEND = "`make notebooks` renders it from the .py; if you changed the .ipynb, save it in JupyterLab first, which writes both"


def _code(path: Path) -> list[str]:
    import jupytext

    notebook = jupytext.read(path) if path.suffix == ".py" else nbformat.read(path, as_version=4)
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
