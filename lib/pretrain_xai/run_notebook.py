"""Run a notebook with checked parameters: `python -m pretrain_xai.run_notebook NOTEBOOK OUTPUT -p name value ...`.

Names and types are compared with the notebook's parameters cell before a kernel starts (papermill itself only warns about
unknown names and checks no types). The executed notebook appears under its name whole, also when it failed, so that the
traceback is kept.
"""

import argparse
import ast
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from pydantic import TypeAdapter, ValidationError

from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.provenance import atomic_path, write_sums
from pretrain_xai.study import read_yaml

#: what Jupyter draws with
INLINE = "module://matplotlib_inline.backend_inline"
#: what an annotation in a parameters cell may be made of; papermill would make texts of other names in a mapping
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict[str, Any], "None": None}


class ParameterError(UserError):
    """A parameter is unknown or of the wrong type, or the notebook declares none."""


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Return the names and types that the notebook's parameters cell declares.

    Raises
    ------
    ParameterError
        The file is not a notebook, or has no cell with the tag `parameters` made of `name: type = literal` lines.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
        tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    except Exception as error:  # nbformat raises nearly anything for JSON that is no notebook
        raise ParameterError(f"{notebook}: not a readable notebook: {' '.join(str(error).split())[:200]}") from None
    if len(tagged) != 1:
        raise ParameterError(f"{notebook}: expected one cell with the tag 'parameters', found {len(tagged)}")
    try:
        statements = ast.parse(tagged[0]).body
    except Exception as error:  # no Python, no text, nested too deeply
        raise ParameterError(f"{notebook}: parameters cell: no Python ({' '.join(str(error).split())})") from None
    declared = {}
    for statement in statements:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            raise ParameterError(f"{notebook}: parameters cell, line {statement.lineno}: expected `name: type = value`")
        declared[statement.target.id] = _to_type(notebook, statement.annotation)
    return declared


def check_parameters(notebook: Path, values: dict[str, str]) -> dict[str, Any]:
    """Return `values`, given as text, as what the notebook declares.

    Texts for `str` are taken as they are, all others are read as YAML (`3`, `0.5`, `true`, `[saliency, lrp]`).

    Raises
    ------
    ParameterError
        Naming the parameter, what was found and what was expected.
    """
    declared = declared_parameters(notebook)
    return {name: _check(notebook, name, text, declared) for name, text in values.items()}


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute `notebook` with `parameters` already checked, and write the executed notebook to `output`.

    Raises
    ------
    papermill.PapermillExecutionError
        A cell failed; the executed notebook with its traceback is at `output` all the same. So are the cells that ran before
        a kernel died.
    """
    import papermill
    from traitlets.config import Config

    from pretrain_xai.running.quiet_kernel import QuietKernel, last_words

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it calls an error it also raises
    # A socket path of its own for every run: kernels started side by side else clash on TCP ports or share one socket.
    sockets = Path(tempfile.mkdtemp(prefix="px"))
    connection_file = sockets / "k.json"
    connection = {"transport": "ipc", "connection_file": str(connection_file), "ip": str(sockets / "k")}
    # what a kernel says besides its cells is QuietKernel's
    kernel = {"kernel_manager_class": QuietKernel, "extra_arguments": ["--IPKernelApp.capture_fd_output=False"]}
    settings = {"config": Config({"KernelManager": connection}), "progress_bar": False, "start_timeout": 120}
    failure: Exception | None = None
    try:
        with atomic_path(output) as temporary:
            shutil.copyfile(notebook, temporary)
            try:
                papermill.execute_notebook(notebook, temporary, parameters=parameters, **settings, **kernel)
            except RuntimeError as error:  # the kernel died, or did not start
                failure = type(error)(": ".join(filter(None, [str(error), last_words(connection_file)])))
            except Exception as error:  # raised below, after what was executed has its name
                failure = error
        if failure is not None:
            raise failure
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _to_type(notebook: Path, annotation: ast.expr) -> Any:
    text = ast.unparse(annotation)
    try:
        if not re.fullmatch(r"[\w\[\], |]+", text) or not set(re.findall(r"\w+", text)) <= TYPES.keys():
            raise ValueError
        # made of nothing but types, such as `list[str]` or `int | None`
        kind = eval(text, {"__builtins__": {}}, TYPES)
        TypeAdapter(kind)
    except Exception:  # also of `str[int]`
        known = ", ".join(TYPES)
        raise ParameterError(f"{notebook}: parameters cell: unknown type {text[:80]!r}; use {known}") from None
    return kind


def _check(notebook: Path, name: str, text: str, declared: dict[str, Any]) -> Any:
    if name not in declared:
        hint = did_you_mean(name[:80], declared)
        raise ParameterError(f"{notebook}: no parameter {name[:80]!r}{hint}; it has {', '.join(declared)}")
    expected = declared[name]
    if expected is str:
        return text
    try:
        return TypeAdapter(expected).validate_python(read_yaml(text), strict=True)
    except ValueError as error:
        kind = expected.__name__ if type(expected) is type else str(expected).partition("[str, ")[0]
        why = "" if isinstance(error, ValidationError) else f" ({error})"
        raise ParameterError(f"{notebook}: parameter {name!r} must be {kind}, found {text[:80]!r}{why}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one line that says what failed."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m pretrain_xai.run_notebook", description=about)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path, help="where the executed notebook goes")
    made = "what it makes: digests go beside the output"
    parser.add_argument("--made", nargs="+", type=Path, default=[], metavar="FILE", help=made)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    os.environ["MPLBACKEND"] = INLINE  # kernels inherit it; another one, such as agg on a cluster, can't show a figure
    sums = options.output.with_suffix(".sha256")
    try:
        parameters = check_parameters(options.notebook, dict(options.p))
        sums.unlink(missing_ok=True)  # those of an earlier run don't fit to what is made from here on
        run_notebook(options.notebook, options.output, parameters)
        write_sums(sums, options.made)
    except Exception as error:  # whatever a cell raised: papermill wraps it, with the traceback of the kernel
        reason = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
        of_cell = f"{options.notebook.stem}: {reason} (see {options.output})"
        print(f"error: {error if isinstance(error, ParameterError) else of_cell}", file=sys.stderr)
        return 1
    print(f"{options.notebook.stem} {' '.join(value for _, value in options.p)}: {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
