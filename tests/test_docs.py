"""Documentation: every block of code runs, every name has its card, every link leads somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pretrain_xai import paths
from pretrain_xai.attribution import METHODS
from pretrain_xai.localization import SCORES
from pretrain_xai.paths import Paths
from pretrain_xai.running.prerequisites import unmet
from pretrain_xai.study import Study

DOCS = paths.REPOSITORY / "docs"
RECIPES = sorted((DOCS / "recipes").glob("*.md"))
PAGES = [*sorted(paths.REPOSITORY.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page, for the tiny study in place of the demo; make installs nothing."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\bdemo\b", "tiny", block).replace("make ", "make READY= ") for block in found]


def python_of(page: Path, root: Path) -> str:
    """Return the Python of a page as one program; a block that begins with the name of a file is written there."""
    code = ["import matplotlib", "matplotlib.use('agg')"]
    for block in blocks(page, "python"):
        if file := re.match(r"# (studies/\w+\.py)\n", block):
            (root / file[1]).write_text(block)
        else:
            code.append(block)
    return "\n".join(code)


def name(page: Path) -> str:
    return page.relative_to(paths.REPOSITORY).as_posix()


@pytest.fixture
def workplace(tiny_root, tmp_path, monkeypatch) -> Path:
    """Return a copy of the tiny study's folder, to run blocks in as in the repository."""
    root = tmp_path / "root"
    shutil.copytree(tiny_root, root, symlinks=True)
    for part in ("notebooks", "lib", "Makefile", ".venv"):
        if not (root / part).exists():
            (root / part).symlink_to(paths.REPOSITORY / part)
    monkeypatch.setenv("PRETRAIN_XAI_ROOT", str(root))
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("page", [page for page in RECIPES if blocks(page, "python")], ids=name)
def test_python_of_a_recipe_runs(page, workplace):
    subprocess.run([sys.executable, "-c", python_of(page, workplace)], check=True)
    made = {path.suffix for path in Paths("tiny").figures.glob("mine.*")}
    assert made == ({".pdf", ".png", ".csv", ".json"} if page.stem == "figure_for_a_paper" else set())


@pytest.mark.system
def test_the_recipe_for_one_cell_makes_the_removed_scores_again(workplace):
    scores = Paths("tiny").scores / "best-mri-depth5-seed0.parquet"
    before = scores.read_bytes()
    others = {path: path.stat().st_mtime_ns for path in scores.parent.glob("*depth1*.parquet")}
    code = "\n".join(blocks(DOCS / "recipes" / "rerun_one_cell.md", "bash"))
    result = subprocess.run(["bash", "-e", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert scores.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert (Paths("tiny").executed / "mine.ipynb").is_file()


def test_the_recipe_for_a_network_is_a_study_that_may_start(root):
    page = DOCS / "recipes" / "own_network.md"
    python_of(page, root)
    study = yaml.safe_load((root / "studies" / "tiny.yaml").read_text())
    for section, settings in yaml.safe_load(blocks(page, "yaml")[0]).items():
        study[section] = settings if section == "network" else study[section] | settings
    assert list(unmet(Study.model_validate(study))) == []
    study["attribution"]["methods"] = ["deep_lift"]
    (error,) = unmet(Study.model_validate(study))
    told = " ".join(blocks(page, "text")[0].split()).removesuffix("...")
    assert str(error).startswith(told)


@pytest.mark.skipif(not shutil.which("Rscript"), reason="R is not installed")
def test_r_of_a_recipe_runs(workplace):
    page = DOCS / "recipes" / "read_results.md"
    subprocess.run([sys.executable, "-c", "\n".join(blocks(page, "python"))], check=True)
    subprocess.run(["Rscript", "-e", "\n".join(blocks(page, "r"))], check=True)


def test_every_method_and_score_has_its_card():
    cards = re.findall(r"^### `(\w+)`$", (DOCS / "method_cards.md").read_text(), re.MULTILINE)
    assert sorted(cards) == sorted([*METHODS, *SCORES])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_page_and_a_heading_of_it(page):
    """As GitHub makes anchors: lower case, hyphens for spaces, no other signs."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
            text = (page.parent / target if target else page).read_text() if anchor else ""
            headings = re.findall(r"^#+ (.*)$", text.lower(), re.MULTILINE)
            assert not anchor or anchor in {re.sub(r"[^\w\- ]", "", words).replace(" ", "-") for words in headings}


def test_every_recipe_is_listed():
    text = (DOCS / "README.md").read_text()
    pages = [page for page in DOCS.rglob("*.md") if page.name != "README.md"]
    assert [name for page in pages if f"]({(name := page.relative_to(DOCS).as_posix())})" not in text] == []


def test_citation_file_has_what_the_format_asks_for():
    citation = yaml.safe_load((paths.REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["references"][0]["doi"] in (paths.REPOSITORY / "README.md").read_text()
