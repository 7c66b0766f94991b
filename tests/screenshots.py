"""Take the screenshot that the README shows, of the demo as it is on this machine: `make screenshots`."""

import re
from pathlib import Path

from browser import chromium, explorer_picture, jupyterlab, picture_changes
from playwright.sync_api import Browser
from pretrain_xai import paths

DOCS = paths.REPOSITORY / "docs"


def explorer(browser: Browser, target: Path) -> None:
    """Open the explorer in JupyterLab, show hits and misses, and photograph the window."""
    with jupyterlab(paths.root()) as lab:
        page = browser.new_page(viewport={"width": 1400, "height": 1150})
        page.set_default_timeout(120_000)
        lab.open(page, "explore.ipynb")
        page.get_by_role("tab", name="File Browser").click()  # close the side bar
        lab.run_all(page)
        explorer_picture(page).wait_for()
        with picture_changes(page):
            page.get_by_role("button", name="hits and misses").click()
        page.get_by_text(re.compile(r"^\d+ scored images")).wait_for(state="attached")
        page.locator(".pretrain-xai-explorer").evaluate("element => element.scrollIntoView({block: 'start'})")
        page.screenshot(path=target)


if __name__ == "__main__":
    with chromium() as browser:
        explorer(browser, DOCS / "explorer.png")
    print("wrote docs/explorer.png")
