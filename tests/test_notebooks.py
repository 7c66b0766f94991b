"""Notebooks: pairs agree, no outputs are committed, each says what and why, each runs on the tiny study."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch
from jupytext.compare import compare_notebooks
from pretrain_xai import paths
from pretrain_xai.errors import UserError
from pretrain_xai.networks.models import build_network
from pretrain_xai.paths import Paths
from pretrain_xai.run_notebook import check_parameters, declared_parameters, main, run_notebook
from pretrain_xai.running.prerequisites import check_pairs
from pretrain_xai.study import load_study
from safetensors.torch import load_file

SOURCES = sorted(paths.NOTEBOOKS.glob("*.py"))
NAMES = [path.stem for path in SOURCES]
#: notebooks that the tiny study does not need, which have tests of their own: the authors' release
APART = {"19_published"}


def code_cells(path) -> list[str]:
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_pair_agrees_and_has_no_outputs(source):
    twin = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    compare_notebooks(twin, jupytext.read(source), fmt="py:percent")
    assert not any(
        cell.get("outputs") or cell.get("execution_count") for cell in twin.cells if cell.cell_type == "code"
    )


def test_every_notebook_has_its_source():
    assert {path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_notebook_says_what_and_the_library_says_how(source):
    code = code_cells(source)
    tree = ast.parse("\n".join(code))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert max(len(cell.splitlines()) for cell in code) <= 24
    prose = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "markdown"]
    assert len(prose) >= 0.6 * len(code)
    for word in ("**Question.**", "**Reads**", "**Writes**", "**Takes**"):
        assert word in prose[0]
    assert re.match(r"# [A-Z][a-z]+", prose[0]), "the title is a verb phrase"


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_parameters_are_typed_literals_with_a_comment(source):
    assert "study" in declared_parameters(source.with_suffix(".ipynb"))
    (cell,) = (c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", []))
    for statement in ast.parse(cell.source).body:
        ast.literal_eval(statement.value)
        assert "#" in cell.source.splitlines()[statement.lineno - 1]


def test_the_batch_executed_every_notebook(tiny):
    executed = {path.parent.name for path in Paths(tiny).executed.glob("*/*.ipynb")}
    assert executed == {name for name in NAMES if name[:2].isdigit()} - APART
    for path in Paths(tiny).executed.glob("*/*.ipynb"):
        papermill = json.loads(path.read_text())["metadata"]["papermill"]
        assert papermill["end_time"] and not papermill["exception"]


def test_no_notebook_printed_a_warning_or_where_the_code_lies(tiny):
    for path in Paths(tiny).executed.glob("*/*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                shown = [
                    output.get("text", ""),
                    *(output.get("data", {}).get(f"text/{kind}", "") for kind in ("plain", "html")),
                ]
                text = "".join("".join(part) for part in shown)
                assert "Warning" not in text and str(paths.REPOSITORY) not in text, f"{path.name}: {text[:300]}"


def test_pre_training_leaves_the_standardising_layer_fixed(tiny):
    """Explanations are of the image behind it, and LRP and the sanity checks take it for (x - mean) / std."""
    settings = load_study(tiny).network
    fixed = build_network(settings, 2, seed=0).standardise.state_dict()
    for corpus in ("natural", "mri"):
        state = load_file(Paths(tiny).pretrained(corpus))
        for name, tensor in fixed.items():
            assert torch.equal(state[f"standardise.{name}"], tensor)


def test_a_notebook_that_is_not_its_source_is_named(tmp_path):
    source, twin = (
        Path(shutil.copy(paths.NOTEBOOKS / f"10_boxplots{suffix}", tmp_path)) for suffix in (".py", ".ipynb")
    )
    text = source.read_text()
    source.write_text(text.replace("**Question.**", "**Our question.**"))
    check_pairs(tmp_path, ["10_boxplots"])
    notebook = nbformat.read(twin, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("# %% looks like a mark\n!ls  "))
    nbformat.write(notebook, twin)
    jupytext.write(notebook, source, fmt="py:percent")
    check_pairs(tmp_path, ["10_boxplots"])
    source.write_text(text + "\n# %%\nprint(1)\n")
    with pytest.raises(
        UserError, match=r"10_boxplots.ipynb does not hold the code of 10_boxplots.py: `make notebooks`"
    ):
        check_pairs(tmp_path, ["10_boxplots"])
    for damage in (lambda: twin.write_text("{}"), twin.unlink):
        damage()
        with pytest.raises(UserError, match=r"10_boxplots.ipynb does not hold"):
            check_pairs(tmp_path, ["10_boxplots"])


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_selection_is_checked_before_it_is_used(source):
    """Else a misspelt one gives empty figures."""
    code = "\n".join(code_cells(source))
    checks = ("check_selection(selection)", "check_run(Run(selection", "Explorer(study, selection)")
    assert "selection: str" not in code or any(check in code for check in checks)


@pytest.mark.parametrize(
    ("name", "parameter", "words"),
    [
        ("10_boxplots", "selection", "no selection 'imagenet'; there are: best, matched"),
        ("04_pretrain", "pretraining", "has no corpus 'imagenet'; there are: natural, mri"),
    ],
)
def test_a_parameter_that_the_study_has_not_is_one_line_and_writes_nothing(
    tiny, name, parameter, words, tmp_path, capsys
):
    before = sorted(Paths(tiny).figures.iterdir())
    notebook = str(paths.NOTEBOOKS / f"{name}.ipynb")
    assert main([notebook, str(tmp_path / "out.ipynb"), "-p", "study", tiny, "-p", parameter, "imagenet"]) == 1
    assert words in capsys.readouterr().err
    assert sorted(Paths(tiny).figures.iterdir()) == before


def test_explore_runs_and_shows_a_montage_without_widgets(tiny, tmp_path):
    notebook = paths.NOTEBOOKS / "explore.ipynb"
    run_notebook(notebook, tmp_path / "out.ipynb", check_parameters(notebook, {"study": tiny}))
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for o in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1


def test_plain_papermill_runs_a_notebook_from_any_folder(tiny, tmp_path):
    """Whoever knows only papermill can use it; the working folder does not matter."""
    notebook, output = paths.NOTEBOOKS / "08_explanation_metrics.ipynb", tmp_path / "out.ipynb"
    scores = Paths(tiny).scores / "best-mri-depth5-seed0.parquet"
    before = scores.read_bytes()
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar"]
    values = {"study": tiny, "pretraining": "mri", "finetune_depth": "5", "seed": "0"}
    command += [word for name, value in values.items() for word in ("-p", name, value)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert scores.read_bytes() == before, "the same run gives the same bytes"


def test_a_notebook_whose_inputs_are_missing_names_the_make_target(root):
    """A fresh clone, before `make demo`: one line says what to run, and the notebook shows no traceback of the library."""
    notebook, output = paths.NOTEBOOKS / "10_boxplots.ipynb", root / "out.ipynb"
    command = [sys.executable, "-m", "pretrain_xai.run_notebook", str(notebook), str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    cells = nbformat.read(output, as_version=4).cells
    (error,) = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    for (line,) in (result.stderr.splitlines(), error["traceback"]):
        assert "run `make demo` first" in line
