"""Take the screenshots that the README shows, of the demo as it is on this machine: `make screenshots`."""

from pathlib import Path

from browser import chromium, explorer_picture, jupyterlab, wait_for_change
from pretrain_xai import paths

DOCS = paths.REPOSITORY / "docs"


def explorer(target: Path) -> None:
    """Open the explorer in JupyterLab, show hits and misses of four methods, and photograph the window."""
    size = {"width": 1500, "height": 1060}
    with jupyterlab(paths.root()) as lab, chromium(viewport=size) as page:
        lab.open(page, "explore.ipynb")
        lab.run_all(page)
        picture = explorer_picture(page)
        picture.wait_for(timeout=120_000)
        page.get_by_title("File Browser (Ctrl+Shift+F)").first.click()  # close the side bar
        before = picture.get_attribute("src")
        page.get_by_role("button", name="hits and misses").click()
        wait_for_change(picture, before)
        page.get_by_label("study", exact=True).scroll_into_view_if_needed()
        page.screenshot(path=target)


def report(target: Path) -> None:
    """Photograph the top of the report."""
    with chromium(viewport={"width": 1100, "height": 1000}) as page:
        page.goto((paths.figures("demo") / "report.html").as_uri())
        page.screenshot(path=target)


if __name__ == "__main__":
    explorer(DOCS / "explorer.png")
    report(DOCS / "report.png")
    print("wrote docs/explorer.png and docs/report.png")
