"""Notebooks run with checked parameters, side by side, and leave a whole file also when they fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.run_notebook import ParameterError, check_parameters, declared_parameters, main

PARAMETERS = """
text: str = "a"  # any words
seed: int = 0
rate: float = 0.1
flag: bool = False
names: list[str] = ["a"]
limit: int | None = None
options: dict = {}
"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
#: what would run code, end a string or a line, or be filled in, if it were pasted into one
NASTY = '"""; import os; os.system("touch hacked")\n\'\\" {seed} \\n # ünï \t$HOME'


def write_notebook(path, parameters: str | None, *cells: str):
    notebook = nbformat.v4.new_notebook(metadata=KERNEL)
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path / "measure.ipynb", PARAMETERS)


def outputs(path) -> str:
    """Return all that the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


TEXTS = [("text", "3", "3"), ("text", "null", "null"), ("text", NASTY, NASTY), ("seed", "-3", -3), ("rate", "0.5", 0.5)]
TEXTS += [("rate", "2", 2.0), ("flag", "true", True), ("names", "[saliency, lrp]", ["saliency", "lrp"])]
TEXTS += [("limit", "null", None), ("limit", "4", 4), ("options", "{n_steps: 4}", {"n_steps": 4})]


@pytest.mark.parametrize(("name", "text", "value"), TEXTS)
def test_texts_become_what_the_notebook_declares(notebook, name, text, value):
    checked = check_parameters(notebook, {name: text})
    assert checked == {name: value}
    assert type(checked[name]) is type(value)


WRONG_TEXTS = [("seed", "3.5", "int"), ("seed", "true", "int"), ("seed", "__import__('os')", "int")]
WRONG_TEXTS += [("rate", "fast", "float"), ("flag", "1", "bool"), ("names", "[1, 2]", r"list\[str\]")]
WRONG_TEXTS += [("names", "[saliency", r"list\[str\]")]
WRONG_TEXTS += [("names", "!!python/object/apply:os.system ['touch hacked']", r"list\[str\]")]
WRONG_TEXTS += [("limit", "many", r"int \| None"), ("options", "{1: a}", "dict")]


@pytest.mark.parametrize(("name", "text", "expected"), WRONG_TEXTS)
def test_a_text_of_the_wrong_type_is_one_line_that_names_it(notebook, name, text, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=rf"measure\.ipynb: parameter '{name}' must be {expected}, found") as error:
        check_parameters(notebook, {name: text})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(("name", "hint"), [("sed", "did you mean 'seed'"), ("x; import os", ""), ("", "")])
def test_an_unknown_parameter_is_refused_with_those_there_are(notebook, name, hint):
    with pytest.raises(ParameterError) as error:
        check_parameters(notebook, {name: "1"})
    assert f"no parameter {name!r}" in str(error.value)
    assert hint in str(error.value) and "text, seed, rate, flag, names, limit, options" in str(error.value)


UNTYPED = [(None, "found 0 such cells"), ("seed = 0", "lines `name: type = value`")]
UNTYPED += [("seed: int = 0\nimport os", "lines `name: type = value`"), ("%matplotlib inline", "SyntaxError")]
UNTYPED += [("seed: __import__('os') = 0", "unknown type"), ("seed: dict[int] = 0", "unknown type 'dict[int]'")]
UNTYPED += [("seed: int = " + "(" * 5_000 + ")" * 5_000, "expected one cell with the tag 'parameters'")]


@pytest.mark.parametrize(("parameters", "words"), UNTYPED)
def test_a_notebook_that_declares_no_typed_parameters_is_refused(tmp_path, parameters, words):
    path = write_notebook(tmp_path / "untyped.ipynb", parameters)
    with pytest.raises(ParameterError) as error:
        declared_parameters(path)
    assert "untyped.ipynb" in str(error.value) and words in str(error.value)


@given(st.sampled_from(["text", "seed", "rate", "flag", "names", "limit", "options"]), st.text())
def test_any_text_for_any_parameter_is_a_value_or_one_line(notebook, name, text):
    try:
        assert check_parameters(notebook, {name: text}).keys() == {name}
    except ParameterError as error:
        assert "measure.ipynb" in str(error)


@pytest.mark.parametrize("content", ["", "not JSON", "[]", "{}", "3", "null", '{"cells": 3, "nbformat": 4}'])
def test_what_is_no_notebook_is_one_line_and_leaves_no_output(tmp_path, content, capsys):
    (tmp_path / "broken.ipynb").write_text(content)
    for name in ("broken", "missing"):
        assert main([str(tmp_path / f"{name}.ipynb"), str(tmp_path / "out.ipynb")]) == 1
        printed = capsys.readouterr()
        assert printed.out == "" and len(printed.err.splitlines()) == 1
        assert f"{name}.ipynb: not a readable notebook" in printed.err
    assert not (tmp_path / "out.ipynb").exists()


def test_values_arrive_as_they_were_given_and_the_output_is_whole(tmp_path, monkeypatch, capsys):
    """`{seed}` and backslashes included: nothing in a value is code, a place holder or an escape."""
    monkeypatch.chdir(tmp_path)
    echo = "print(ascii([text, seed, rate, flag, names, limit, options]))"
    path = write_notebook(tmp_path / "echo.ipynb", PARAMETERS, echo)
    output = tmp_path / "runs" / "echo.ipynb"
    given_values = {"text": NASTY, "rate": "2.5e-7", "names": "['a\"; b', 'c''d']", "options": "{k: [1, x]}"}
    assert main([str(path), str(output), *(word for pair in given_values.items() for word in ("-p", *pair))]) == 0
    expected = [NASTY, 0, 2.5e-7, False, ['a"; b', "c'd"], None, {"k": [1, "x"]}]
    assert outputs(output) == ascii(expected) + "\n"
    assert not (tmp_path / "hacked").exists()
    assert [file.name for file in output.parent.iterdir()] == ["echo.ipynb"]
    assert capsys.readouterr().out.startswith("echo ")
    metadata = nbformat.read(output, as_version=4).metadata.papermill
    assert metadata.end_time and metadata.exception is None


def test_figures_are_shown_whatever_backend_the_shell_asks_for(tmp_path):
    """Where programs run without a screen, MPLBACKEND is often set to agg."""
    draw = "import matplotlib.pyplot as plt\nfigure, _ = plt.subplots()\nplt.show(figure)"
    path = write_notebook(tmp_path / "draw.ipynb", PARAMETERS, draw)
    command = [sys.executable, "-m", "pretrain_xai.run_notebook", str(path), str(tmp_path / "out.ipynb")]
    subprocess.run(command, check=True, env=os.environ | {"MPLBACKEND": "agg"})
    assert "image/png" in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs[0]["data"]


def test_a_failing_cell_keeps_its_traceback_and_is_one_line(tmp_path, capsys):
    path = write_notebook(tmp_path / "fails.ipynb", PARAMETERS, "print('so far')", "1 / seed", "print('never')")
    output = tmp_path / "runs" / "fails.ipynb"
    output.parent.mkdir()
    output.write_text("of an earlier run")
    assert main([str(path), str(output), "-p", "seed", "0"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: fails: ZeroDivisionError: division by zero (see {output})"
    executed = nbformat.read(output, as_version=4)
    tracebacks = [entry for cell in executed.cells for entry in cell.get("outputs", []) if entry.output_type == "error"]
    assert len(tracebacks) == 1 and tracebacks[0].ename == "ZeroDivisionError"
    assert "so far" in outputs(output) and "never" not in outputs(output)
    assert [file.name for file in output.parent.iterdir()] == ["fails.ipynb"]


def in_a_shell(path: Path, output: Path) -> subprocess.CompletedProcess:
    """Run a notebook as from a terminal; under pytest a kernel treats its streams otherwise."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    command = [sys.executable, "-m", "pretrain_xai.run_notebook", str(path), str(output)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_a_dead_kernel_is_a_failure_with_its_last_words_that_keeps_what_ran_before(tmp_path):
    """As when memory runs out."""
    dies = "import os\nos.write(2, b'first\\nterminate called: no space for the stack\\n')\nos._exit(3)"
    output = tmp_path / "out.ipynb"
    result = in_a_shell(write_notebook(tmp_path / "dies.ipynb", PARAMETERS, "print('so far')", dies), output)
    assert result.returncode == 1 and result.stdout == ""
    words = "DeadKernelError: Kernel died: terminate called: no space for the stack"
    assert result.stderr.splitlines() == [f"error: dies: {words} (see {output})"]
    assert outputs(output) == "so far\n"


def test_a_kernel_that_does_not_start_says_why(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "starts.ipynb", PARAMETERS, "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec.name = "broken"
    nbformat.write(notebook, path)
    folder = tmp_path / "jupyter" / "kernels" / "broken"
    folder.mkdir(parents=True)
    start = ["sh", "-c", "echo No module named ipykernel >&2; exit 3"]
    (folder / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "broken", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    result = in_a_shell(path, tmp_path / "out.ipynb")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: starts: RuntimeError: Kernel died") and "No module named ipykernel" in line


def test_what_a_kernel_says_while_it_ends_is_not_shown(tmp_path):
    """Such as `Assertion failed: pfd.revents & POLLIN`, which ZeroMQ sometimes prints after all went well."""
    says = "import atexit, os\nos.write(1, b'a library\\n')\natexit.register(os.write, 2, b'Assertion failed\\n')"
    result = in_a_shell(write_notebook(tmp_path / "says.ipynb", PARAMETERS, says), tmp_path / "out.ipynb")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("says") and "a library" not in result.stdout
