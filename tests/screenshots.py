"""Take the screenshots that the README shows, of the demo as it is on this machine: `make screenshots`."""

from pathlib import Path

from browser import chromium, explorer_picture, jupyterlab, wait_for_change
from playwright.sync_api import Browser
from pretrain_xai import paths

DOCS = paths.REPOSITORY / "docs"


def explorer(browser: Browser, target: Path) -> None:
    """Open the explorer in JupyterLab, show hits and misses, and photograph the window."""
    with jupyterlab(paths.root()) as lab:
        page = browser.new_page(viewport={"width": 1400, "height": 1080})
        page.set_default_timeout(120_000)
        lab.open(page, "explore.ipynb")
        page.get_by_role("tab", name="File Browser").click()  # close the side bar
        lab.run_all(page)
        picture = explorer_picture(page)
        picture.wait_for()
        before = picture.get_attribute("src")
        page.get_by_role("button", name="hits and misses").click()
        wait_for_change(picture, before)
        page.get_by_role("button", name="export this view").scroll_into_view_if_needed()
        page.get_by_text("finds least in image").wait_for(state="attached")
        page.screenshot(path=target)


def report(browser: Browser, target: Path) -> None:
    """Photograph the top of the report."""
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    page.goto((paths.figures("demo") / "report.html").as_uri())
    page.screenshot(path=target)


if __name__ == "__main__":
    with chromium() as browser:
        explorer(browser, DOCS / "explorer.png")
        report(browser, DOCS / "report.png")
    print("wrote docs/explorer.png and docs/report.png")
