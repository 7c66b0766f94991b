"""What makes a notebook run again: code that does something else, and every setting that it uses."""

import ast
import dataclasses
import shutil
from functools import cache
from pathlib import Path

import pytest
from pretrain_xai import paths
from pretrain_xai.protocol import CORRECTED, PUBLISHED, Protocol
from pretrain_xai.running.stages import STAGES, WITHOUT_EFFECT, Stage, code_digest, fingerprint, library_files
from pretrain_xai.study import Study, load_study

SWITCHES = {field.name for field in dataclasses.fields(Protocol)}
#: of a Study, what a rule of the Snakefile watches in another way: the models (its inputs) and their learning rates
WATCHED = {"runs", "untrained_runs", "check_run", "learning_rate"}
#: the notebooks that load a fine-tuned network
LOADING = {"05b_match_accuracy", "08_explanation_metrics", "11b_score_switches", "15_sanity_checks"}
#: the notebooks that know which models are matched
MATCHING = {"05b_match_accuracy", "07_find_intersections", "10_boxplots", "13b_equal_accuracy"}

CODE = {
    "notebooks/count.py": "# %% [markdown]\n# # Count\n\n# %%\nfrom pretrain_xai.direct import count\n\ncount(2)\n",
    "lib/pretrain_xai/direct.py": (
        '"""Count."""\n\nfrom pretrain_xai import indirect\n\n\n'
        'def count(n):\n    """Count to n."""\n    return n + indirect.START\n'
    ),
    "lib/pretrain_xai/indirect.py": "START = 0  # where to start\n",
    "lib/pretrain_xai/unused.py": "STOP = 9\n",
}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Return a function that gives the digest of the notebook after an edit, each time in a new copy of the code."""

    def digest_after(file: str | None = None, old: str = "", new: str = "") -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in CODE.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            assert name != file or old in text
            (folder / name).write_text(text.replace(old, new) if name == file else text)
        monkeypatch.setattr(paths, "NOTEBOOKS", folder / "notebooks")
        monkeypatch.setattr(paths, "LIBRARY", folder / "lib" / "pretrain_xai")
        return code_digest(folder / "notebooks" / "count.py")

    return digest_after


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("notebooks/count.py", "# # Count", "# # Count to two\n#\n# In prose."),
        ("notebooks/count.py", "count(2)", "# %% [markdown]\n# A remark.\n\n# %%\ncount(2)  # to two"),
        ("lib/pretrain_xai/direct.py", '"""Count."""', '"""Count, slowly."""'),
        ("lib/pretrain_xai/direct.py", "Count to n.", "Count to n.\n\n    And no further.\n    "),
        ("lib/pretrain_xai/direct.py", '    """Count to n."""\n', ""),
        ("lib/pretrain_xai/direct.py", "return n + indirect.START", "# why\n\n    return (n + indirect.START)"),
        ("lib/pretrain_xai/indirect.py", "  # where to start", ""),
        ("lib/pretrain_xai/unused.py", "9", "10"),
    ],
)
def test_words_and_unused_code_do_not_count(digest, file, old, new):
    assert digest() == digest(file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("notebooks/count.py", "count(2)", "count(3)"),
        ("lib/pretrain_xai/direct.py", "n + indirect", "n - indirect"),
        ("lib/pretrain_xai/indirect.py", "START = 0", "START = 1"),
        ("lib/pretrain_xai/indirect.py", "START = 0", "from pretrain_xai.unused import STOP\nSTART = 0"),
    ],
)
def test_a_change_of_what_is_done_counts_also_in_a_module_imported_by_another(digest, file, old, new):
    assert digest() != digest(file, old, new)


def test_constants_of_the_real_library_count_for_those_that_import_it(tmp_path, monkeypatch):
    digests = []
    for folder, old, new in (
        (tmp_path / "a", "", ""),
        (tmp_path / "b", "PREDICTION_BATCH = 64", "PREDICTION_BATCH = 65"),
    ):
        shutil.copytree(paths.REPOSITORY / "lib", folder / "lib")
        shutil.copytree(paths.REPOSITORY / "notebooks", folder / "notebooks")
        training = folder / "lib" / "pretrain_xai" / "networks" / "training.py"
        assert old in training.read_text()
        training.write_text(training.read_text().replace(old, new))
        monkeypatch.setattr(paths, "NOTEBOOKS", folder / "notebooks")
        monkeypatch.setattr(paths, "LIBRARY", folder / "lib" / "pretrain_xai")
        digests.append({name: code_digest(folder / "notebooks" / f"{name}.py") for name in STAGES})
    changed = {name for name in STAGES if digests[0][name] != digests[1][name]}
    assert {"04_pretrain", "05_finetune", "08_explanation_metrics"} <= changed
    assert not changed & {"01_make_lesions", "02_make_slices", "03_build_dataset", "06_classification_metrics"}


def changed_by(study: Study, other: Study) -> set[str]:
    return {name for name in STAGES if fingerprint(study, name) != fingerprint(other, name)}


@pytest.mark.parametrize(
    ("place", "value", "notebooks"),
    [
        ("title", "Another", set()),
        ("slices.z_range", [0.0, 31.0], {"02_make_slices"}),
        ("network.width", 0.5, {"04_pretrain", "04b_take_weights", "05_finetune", *LOADING}),
        ("threads", 2, {"04_pretrain", "05_finetune", *LOADING}),
        ("device", "auto", {"04_pretrain", "05_finetune", *LOADING}),
        ("channels_last", False, {"04_pretrain", "05_finetune", *LOADING}),
        ("dataset.image_size", 96, {"03_build_dataset", "04_pretrain"}),
        ("dataset.lesion_intensity", 0.4, {"03_build_dataset"}),
        ("pretraining.learning_rate", 0.5, {"04_pretrain"}),
        ("pretraining.weights", {"mri": "mri.pt"}, {"04_pretrain", "04b_take_weights"}),
        ("workers", 7, set()),
        ("finetuning.training.momentum", 0.9, {"05_finetune"}),
        ("finetuning.matching.tolerance", 0.01, MATCHING),
        ("finetuning.matching.checkpoints_per_epoch", 9, {"05_finetune", *MATCHING}),
    ],
)
def test_a_setting_counts_for_the_notebooks_that_use_it(place, value, notebooks):
    study = load_study("tiny")
    settings = study.model_dump()
    *sections, name = place.split(".")
    section = settings
    for part in sections:
        section = section[part]
    assert section[name] != value
    section[name] = value
    assert changed_by(study, Study.model_validate(settings)) == notebooks


@pytest.mark.parametrize(
    ("switch", "notebook"),
    [
        ("lesion_floor", "03_build_dataset"),
        ("head_kept", "05_finetune"),
        ("swapped_rates", "06_classification_metrics"),
        ("ties", "08_explanation_metrics"),
    ],
)
def test_a_switch_counts_for_the_notebook_that_uses_it_and_not_for_those_before(switch, notebook):
    study = load_study("tiny")
    value = {"lesion_floor": 0.1, "ties": "strict"}.get(switch, True)
    changed = changed_by(study, study.model_copy(update={"switches": {switch: value}}))
    assert notebook in changed
    assert not changed & {"01_make_lesions", "02_make_slices", "04_pretrain"}


def test_the_selection_that_is_shown_first_counts_for_what_is_shown_and_explains_nothing_again():
    """Snakemake compares what it printed, so that the order of a mapping counts."""
    study = load_study("paper")
    turned = dict(reversed(study.finetuning.selections.items()))
    other = study.model_copy(update={"finetuning": study.finetuning.model_copy(update={"selections": turned})})
    changed = {name for name in STAGES if repr(fingerprint(study, name)) != repr(fingerprint(other, name))}
    drawn = {"06_classification_metrics", "09_heatmaps", "10_boxplots", "11_boxplots_incorrect", "13_statistics"}
    assert drawn <= changed
    assert not changed & {"05_finetune", "08_explanation_metrics", "15_sanity_checks"}


def test_every_notebook_of_the_batch_is_a_stage():
    snakefile = (paths.REPOSITORY / "Snakefile").read_text()
    for name in STAGES:
        assert (paths.NOTEBOOKS / f"{name}.py").is_file()
        assert f'fingerprint(study, "{name}")' in snakefile or name in snakefile


# What follows reads a notebook as a person would: which settings and switches does it use, itself or through the library
# functions to which it hands the study or the protocol?


#: a class that carries the protocol, by this name, to the function that uses it
CARRIERS = {"Recipe": "overlay_lesions"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def definitions(path: Path, called: ast.expr) -> list[tuple[Path, ast.FunctionDef]]:
    """Return the library functions that a called name, or entry of a registry of functions, stands for in a file."""
    if isinstance(called, ast.Subscript):
        called = called.value
    if isinstance(called, ast.Attribute):  # a method of a class of the same file
        classes = [node for node in tree_of(path).body if isinstance(node, ast.ClassDef)]
        methods = [node for owner in classes if owner.name == ast.unparse(called.value) for node in owner.body]
        return [(path, node) for node in methods if isinstance(node, ast.FunctionDef) and node.name == called.attr]
    if not isinstance(called, ast.Name):
        return []
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == called.id:
            return [(path, node)]
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == called.id
            and isinstance(node.value, ast.Dict)
        ):
            return [found for value in node.value.values for found in definitions(path, value)]
        if isinstance(node, ast.ImportFrom) and called.id in {alias.name for alias in node.names}:
            module = paths.LIBRARY.parent.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            return definitions(module, called) if module in library_files(path) else []
    return []


def resolve(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """Return what an expression is of the study, such as `study.protocol.ties`, if it is."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id)
    if isinstance(node, ast.Attribute) and (of := resolve(node.value, aliases)):
        return f"{of}.{node.attr}"
    return "study" if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_study" else None


def uses(path: Path, tree: ast.AST, aliases: dict[str, str]) -> set[str]:
    """Return what the code uses of the study, given the names under which it knows the study and parts of it."""
    aliases, found = dict(aliases), set()

    def visit(node: ast.AST) -> None:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and (of := resolve(node.value, aliases))
        ):
            aliases[node.targets[0].id] = of
        elif isinstance(node, ast.For) and ast.unparse(node.iter) == "switched_protocols(protocol).items()":
            aliases[node.target.elts[1].id] = aliases["protocol"]  # variants of what it was given
            visit(ast.Module(node.body, []))
        elif isinstance(node, ast.Call):
            visit_call(node)
        elif of := resolve(node, aliases):
            found.add(of)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child)

    def visit_call(call: ast.Call) -> None:
        carried = CARRIERS.get(ast.unparse(call.func))
        functions = definitions(path, ast.Name(carried) if carried else call.func)
        visit(call.func)
        given = [*enumerate(call.args), *((keyword.arg, keyword.value) for keyword in call.keywords)]
        for place, argument in given:
            of = resolve(argument, aliases)
            if of not in ("study", "study.protocol") or not functions:
                if place != "parameters":  # provenance: says what was used, and changes no result
                    visit(argument)
                continue
            for file, function in functions:
                known = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
                name = "protocol" if carried else known[place] if isinstance(place, int) else place
                found.update(uses(file, function, {name: of}))

    visit(tree)
    return found


def used_by(notebook: str) -> set[str]:
    path = paths.NOTEBOOKS / f"{notebook}.py"
    return {name.removeprefix("study.") for name in uses(path, tree_of(path), {})}


def switches_behind(name: str) -> set[str]:
    """Return the switches on which an attribute of the protocol depends: itself, or those behind a property."""
    if name in SWITCHES:
        return {name}
    changed = {switch: dataclasses.replace(CORRECTED, **{switch: getattr(PUBLISHED, switch)}) for switch in SWITCHES}
    return {switch for switch, protocol in changed.items() if getattr(protocol, name) != getattr(CORRECTED, name)}


#: methods of a study that raise or do nothing
ONLY_CHECKS = {"check_selection", "check_metric", "check_corpus"}


def undeclared(used: set[str], stage: Stage) -> set[str]:
    settings = {name for name in used if name.split(".")[0] not in {*WATCHED, *ONLY_CHECKS, "switched"}}
    declared = (*stage.settings, *WITHOUT_EFFECT)
    missing = {name for name in settings if not any(f"{name}.".startswith(f"{known}.") for known in declared)}
    if {"protocol", "switches"} <= set(stage.settings):
        return missing  # all switches at once
    if "switched" in used:
        missing.add("switched")  # as a whole
    switches = [switches_behind(name.split(".")[1]) for name in used if name.startswith("switched.")]
    return missing | set().union(*switches) - set(stage.switches)


@pytest.mark.parametrize("notebook", STAGES)
def test_every_setting_and_switch_that_a_notebook_uses_is_declared(notebook):
    assert undeclared(used_by(notebook), STAGES[notebook]) == set()


def test_the_reading_of_notebooks_finds_what_is_used():
    """In the notebook, in the functions that get the study, and in those that they call."""
    assert {"network", "switched.head_kept", "switched.dropout_active", "finetuning.training"} <= used_by("05_finetune")
    assert {"switched.corner_placement", "switched.shared_patch_pool"} <= used_by("03_build_dataset")
    assert {"pretraining.crops_per_photograph", "dataset.brain_intensity"} <= used_by("04_pretrain")
    assert {"switched.channel_reduction", "switched.ties"} <= used_by("08_explanation_metrics")
    stage = Stage("scores", ("networks",), ("tie",))
    assert undeclared({"network.width", "switched.ties", "runs"}, stage) == {"network.width", "ties"}
    assert "lesion_floor" in undeclared({"switched.corrects_dataset"}, stage)


def test_every_declared_switch_is_one_and_every_switch_is_declared():
    assert {switch for stage in STAGES.values() for switch in stage.switches} == SWITCHES
