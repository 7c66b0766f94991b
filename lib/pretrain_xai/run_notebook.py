"""Run a notebook with checked parameters: `python -m pretrain_xai.run_notebook NOTEBOOK OUTPUT -p name value ...`.

Names and types are compared with the notebook's parameters cell before a kernel starts (papermill itself only warns about
unknown names and checks no types). The executed notebook appears under its name whole, also when it failed, so that the
traceback is kept.
"""

import argparse
import ast
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from pydantic import TypeAdapter

from pretrain_xai.errors import UserError, did_you_mean
from pretrain_xai.provenance import atomic_path, write_sums
from pretrain_xai.study import read_yaml

#: what Jupyter draws with
INLINE = "module://matplotlib_inline.backend_inline"
#: what a parameters cell may declare; papermill would make texts of other names in a mapping
TYPES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict[str, Any]}
TYPES |= {"list[str]": list[str], "list[int]": list[int], "list[float]": list[float], "int | None": int | None}


class ParameterError(UserError):
    """A parameter is unknown or of the wrong type, or the notebook declares none."""


def declared_parameters(notebook: Path) -> dict[str, str]:
    """Return the names and types (keys of TYPES) that the notebook's parameters cell declares.

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
    try:
        (source,) = tagged
        lines: list[Any] = ast.parse(source).body
        declared = {line.target.id: ast.unparse(line.annotation) for line in lines}
        if unknown := set(declared.values()) - TYPES.keys():
            raise ValueError(f"unknown type {min(unknown)[:80]!r}")
    except Exception as error:  # also no Python, no text, nested too deeply
        expected = f"one cell with the tag 'parameters' of lines `name: type = value`, types: {', '.join(TYPES)}"
        found = " ".join(repr(error).split())[:200]
        raise ParameterError(f"{notebook}: expected {expected}; found {len(tagged)} such cells, {found}") from None
    return declared


def check_parameters(notebook: Path, values: dict[str, str]) -> dict[str, Any]:
    """Return `values`, given as text, as what the notebook declares.

    Texts for `str` are taken as they are, all others are read as YAML (`3`, `0.5`, `true`, `[saliency, lrp]`).

    Raises
    ------
    ParameterError
        Naming the parameter, what was found and what was expected.
    """
    declared, checked = declared_parameters(notebook), {}
    for name, text in values.items():
        if name not in declared:
            hint = did_you_mean(name[:80], declared)
            raise ParameterError(f"{notebook}: no parameter {name[:80]!r}{hint}; it has {', '.join(declared)}")
        kind = declared[name]
        try:
            value = text if kind == "str" else read_yaml(text)
            checked[name] = TypeAdapter(TYPES[kind]).validate_python(value, strict=True)
        except ValueError:
            raise ParameterError(f"{notebook}: parameter {name!r} must be {kind}, found {text[:80]!r}") from None
    return checked


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
    with tempfile.TemporaryDirectory(prefix="px") as sockets, atomic_path(output) as temporary:
        connection_file = Path(sockets, "k.json")
        connection = {"transport": "ipc", "connection_file": str(connection_file), "ip": f"{sockets}/k"}
        settings = {"config": Config({"KernelManager": connection}), "progress_bar": False, "start_timeout": 120}
        # what a kernel says besides its cells is QuietKernel's
        kernel = {"kernel_manager_class": QuietKernel, "extra_arguments": ["--IPKernelApp.capture_fd_output=False"]}
        failure: Exception | None = None
        shutil.copyfile(notebook, temporary)
        try:
            papermill.execute_notebook(notebook, temporary, parameters=parameters, **settings, **kernel)
        except Exception as error:  # raised below, after what was executed has its name
            # a RuntimeError: the kernel died, or did not start
            words = last_words(connection_file) if isinstance(error, RuntimeError) else ""
            failure = type(error)(f"{error}: {words}") if words else error
    if failure is not None:
        raise failure


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
