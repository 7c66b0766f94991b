"""The notebooks and the report in a real browser: JupyterLab with the paired notebooks, headless Chromium, axe."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks
from nbformat.reader import NotJSONError
from pretrain_xai.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browser import CHROMIUM, Lab, chromium, explorer_picture, jupyterlab, picture_changes  # noqa: E402

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason="Chromium is not installed: apt-get install chromium"),
]

AXE = "axe-core@4.14.1"
#: minutes on a machine where much else runs; seconds are usual
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def lab(tiny_root):
    """Return a JupyterLab on a copy of the notebooks, whose study is the tiny one."""
    with jupyterlab(tiny_root) as running:
        for file in [*running.folder.glob("*.py"), *running.folder.glob("*.ipynb")]:
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace('"demo"', '"tiny"').replace(r"\"demo\"", r"\"tiny\""), encoding="utf-8")
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser):
    """Return the page in which JupyterLab is looked at, from test to test."""
    opened = browser.new_page(viewport={"width": 1500, "height": 1100})
    opened.set_default_timeout(PATIENCE_MS)
    return opened


@pytest.fixture
def report_page(browser, request, tiny):
    """Return the tiny study's report, opened from its file; a parameter holds options of the page."""
    opened = browser.new_page(**getattr(request, "param", {}))
    opened.goto(write_report(tiny).as_uri())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """Return the script of axe, of the pinned version, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: axe can't be fetched")
    fetched = subprocess.run(["npm", "pack", AXE], cwd=folder, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"npm can't fetch {AXE}: {fetched.stderr[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


def twins(lab: Lab, name: str) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    return jupytext.read(lab.folder / f"{name}.py"), nbformat.read(lab.folder / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize(("saved", "other"), [("py", "ipynb"), ("ipynb", "py")])
def test_saving_one_of_a_pair_updates_the_other(lab, saved, other):
    name = f"09_heatmaps.{saved}"
    model = lab.contents(name)
    assert model["type"] == "notebook"
    words = f"A remark saved in the {saved}."
    model["content"]["cells"][0]["source"] += f"\n\n{words}"
    lab.contents(name, {key: model[key] for key in ("type", "format", "content")})
    assert words in (lab.folder / f"09_heatmaps.{other}").read_text(encoding="utf-8")
    assert words in lab.contents(f"09_heatmaps.{other}")["content"]["cells"][0]["source"]
    script, notebook = twins(lab, "09_heatmaps")
    compare_notebooks(notebook, script, fmt="py:percent")


def test_the_explorer_answers_to_mouse_and_keyboard(lab, page, tiny_root):
    lab.open(page, "explore.ipynb")
    lab.run_all(page)
    picture = explorer_picture(page)
    picture.wait_for()
    first = picture.get_attribute("alt")
    with picture_changes(page):
        page.get_by_role("button", name="hits and misses").click()
    with picture_changes(page):
        page.get_by_label("image", exact=True).press("ArrowDown")
    assert picture.get_attribute("alt") != first
    with picture_changes(page):
        page.get_by_label("methods", exact=True).select_option(["Saliency", "LRP"])
    page.get_by_role("region", name="Numbers").get_by_role("cell", name="Saliency").first.wait_for()


def test_the_explorer_computes_and_exports(lab, page, tiny_root):
    """Goes on where the test before ended."""
    page.get_by_role("button", name="signed map").click()
    page.get_by_role("button", name="compute 4 maps").click()
    page.get_by_role("button", name="all maps at hand").wait_for()
    page.get_by_label("file name").fill("explore_in_browser")
    page.get_by_role("button", name="export this view").click()
    page.get_by_text("wrote figures/tiny/explore_in_browser.png").wait_for()
    written = [tiny_root / "figures" / "tiny" / f"explore_in_browser{end}" for end in (".csv", ".json", ".pdf", ".png")]
    for file in written:
        file.unlink()


def test_a_script_opens_as_a_notebook_runs_and_is_saved_as_both(lab, page):
    page.locator(".jp-DirListing-item", has_text="10_boxplots.py").click(button="right")
    page.get_by_text("Open With").hover()
    page.get_by_role("menuitem", name="Jupytext Notebook").click()
    page.locator(".jp-NotebookPanel:visible .jp-Cell", has_text="Compare the explanation methods").first.wait_for()
    lab.run_all(page)
    page.get_by_text(re.compile(r"finds most \(\d")).wait_for()
    assert page.locator(".jp-NotebookPanel:visible .jp-OutputArea img").count() >= 2
    assert page.locator('.jp-NotebookPanel:visible [data-mime-type="application/vnd.jupyter.error"]').count() == 0
    page.keyboard.press("Control+s")
    for _ in range(100):
        with contextlib.suppress(NotJSONError):  # a file is empty while it is written
            script, notebook = twins(lab, "10_boxplots")
            if any(cell.get("outputs") for cell in notebook.cells):
                break
        page.wait_for_timeout(100)
    assert any(cell.get("outputs") for cell in notebook.cells), "the notebook has the outputs"
    compare_notebooks(notebook, script, fmt="py:percent")


@pytest.mark.parametrize(
    "report_page",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["light", "dark", "narrow"],
    indirect=True,
)
def test_axe_finds_nothing_serious_on_the_report(report_page, axe):
    report_page.locator("summary").click()
    report_page.evaluate(axe)
    found = report_page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [item for item in found["violations"] if item["impact"] in ("serious", "critical")] == []
    assert report_page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "only tables scroll"
