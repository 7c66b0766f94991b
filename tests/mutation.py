"""Test the tests: change the scores and the image lists in one place at a time, and list the changes that no test notices.

`make mutation` runs mutmut on a copy of the library and writes `docs/mutation.json`: of each module how many changed versions
(mutants) there are, how many the tests caught, and those that survived. A survivor's `word` says what it means, such as
"equivalent: ..."; words are written there by hand and kept for survivors that are the same in the next run.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

from pretrain_xai import paths
from pretrain_xai.provenance import write_text

#: the modules that are changed, and the tests that should notice
MODULES = ("localization", "selection")
TESTS = ("test_localization", "test_scores_oracles", "test_selection")
RESULT = paths.REPOSITORY / "docs" / "mutation.json"
#: what each mutant's line in `mutmut results` says when a test failed, or never ended
CAUGHT = ("killed", "timeout", "segfault")


def copy_tree(folder: Path) -> None:
    """Copy what the tests need; the library as `src`, the only folder besides `source` that mutmut imports from."""
    shutil.copytree(paths.LIBRARY.parent, folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "studies", "notebooks"):
        shutil.copytree(paths.REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.REPOSITORY / "pyproject.toml", folder)
    tests = [path for name in TESTS for path in (folder / "tests").rglob(f"{name}.py")]
    for path in tests:  # mutmut learns from a run which test calls what: what a module's tests share, each must make
        path.write_text(
            path.read_text(encoding="utf-8").replace('scope="module"', 'scope="function"'), encoding="utf-8"
        )
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"*/{module}.py" for module in MODULES],
        "also_copy": ["studies", "notebooks"],
        "pytest_add_cli_args_test_selection": [path.relative_to(folder) for path in tests],
    }
    lines = [f"{name} =" + "".join(f"\n    {value}" for value in values) for name, values in settings.items()]
    (folder / "setup.cfg").write_text("\n".join(["[mutmut]", *lines, "use_git_change_detection = false", ""]))


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in the copy and return what it printed; every mutant meets the same random cases."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    variables = os.environ | {"CI": "true", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: mutmut {' '.join(arguments)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def survivor(folder: Path, mutant: str) -> dict[str, str]:
    """Return the function, the line and what the mutant has in its place."""
    diff = [line for line in mutmut(folder, "show", mutant).splitlines() if re.match(r"[-+](?![-+]{2} )", line)]
    before, after = (" ".join(line[1:].strip() for line in diff if line[0] == sign) for sign in "-+")
    function = re.sub(r"__mutmut_\d+$", "", mutant).rpartition(".")[2].removeprefix("x_").removeprefix("xǁ")
    return {"function": function.replace("ǁ", "."), "before": before, "after": after}


def summary(folder: Path, words: dict[tuple[str, ...], str]) -> dict:
    """Return the counts of each module and its survivors, with the words that there were for them."""
    found = re.findall(r"^\s+(\S+): (.+)$", mutmut(folder, "results", "--all", "true"), re.MULTILINE)
    modules = {}
    for module in MODULES:
        states = {mutant: state for mutant, state in found if f".{module}." in mutant}
        counts = Counter("killed" if state in CAUGHT else "survived" for state in states.values())
        survivors = [survivor(folder, mutant) for mutant, state in states.items() if state not in CAUGHT]
        for entry in survivors:
            entry["word"] = words.get((module, *entry.values()), "")
        modules[module] = {"total": len(states), **{name: counts[name] for name in ("killed", "survived")}}
        modules[module]["survivors"] = survivors
    return {"tool": "mutmut", "version": metadata.version("mutmut"), "modules": modules}


def written_words() -> dict[tuple[str, ...], str]:
    """Return the words about survivors of the last run, by module, function, line and change."""
    modules = json.loads(RESULT.read_text(encoding="utf-8"))["modules"] if RESULT.is_file() else {}
    return {
        (module, entry["function"], entry["before"], entry["after"]): entry["word"]
        for module, about in modules.items()
        for entry in about["survivors"]
    }


def main() -> None:
    """Make and try all mutants, one after the other, and write what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="keep mutmut's files there, and go on with those that are there")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory(prefix="mutation-") as temporary:
        folder = given or Path(temporary)
        if not (folder / "setup.cfg").exists():
            copy_tree(folder)
        mutmut(folder, "run", "--max-children", "1")
        result = summary(folder, written_words())
    write_text(RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for module, about in result["modules"].items():
        print(f"{module}: {about['killed']} of {about['total']} mutants caught, {about['survived']} survived")
    print(f"wrote {RESULT.relative_to(paths.REPOSITORY)}")


if __name__ == "__main__":
    main()
