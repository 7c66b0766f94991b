"""A JupyterLab with settings of its own, and a headless Chromium to look at it: for tests and screenshots."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as NotYet
from pretrain_xai import paths

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
#: where Jupyter writes
_FOLDERS = [
    *("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"),
    "JUPYTERLAB_SETTINGS_DIR",
]
#: JupyterLab asks whether it may fetch news, over whatever one looks at
_NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    address: str
    token: str
    folder: Path

    def contents(self, path: str, model: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a file as the contents API gives it, as a notebook; save `model` instead if there is one."""
        request = urllib.request.Request(
            f"{self.address}/api/contents/{path}{'' if model else '?type=notebook'}",
            data=json.dumps(model).encode() if model else None,
            headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"},
            method="PUT" if model else "GET",
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def open(self, page: Page, path: str, factory: str = "Notebook") -> None:
        """Open a notebook in a workspace of its own and wait until its kernel is idle."""
        page.goto(
            f"{self.address}/lab/workspaces/{secrets.token_hex(4)}/tree/{path}?factory={factory}&token={self.token}"
        )
        # before the kernel is up, running a cell would ask for one
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)

    def run_all(self, page: Page) -> None:
        """Run all cells from the menu; JupyterLab drops the wish without a word while a kernel is starting."""
        begun = page.locator(".jp-NotebookPanel:visible .jp-InputArea-prompt", has_text=re.compile(r"\[\d"))
        for _ in range(10):
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            with contextlib.suppress(NotYet):
                begun.first.wait_for(timeout=10_000)
                return
        raise RuntimeError("JupyterLab did not run the notebook")


@contextlib.contextmanager
def jupyterlab(root: Path) -> Iterator[Lab]:
    """Start a JupyterLab on a copy of the notebooks, whose studies are in `root`; stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="lab-") as name, socket.create_server(("127.0.0.1", 0)) as free:
        home, folder, port = Path(name), Path(name, "notebooks"), free.getsockname()[1]
        free.close()
        shutil.copytree(paths.NOTEBOOKS, folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        environment = os.environ | {name: str(home / name.lower()) for name in _FOLDERS}
        settings = Path(environment["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab", "apputils-extension")
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(_NO_NEWS))
        # the kernel imports this checkout's library, wherever the notebook lies
        search = os.pathsep.join(filter(None, [str(paths.LIBRARY.parent), os.environ.get("PYTHONPATH")]))
        environment |= {"PRETRAIN_XAI_ROOT": str(root), "PYTHONPATH": search}
        lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), folder)
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
        command += [f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}"]
        log = home / "log"
        with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as server:
            try:
                _wait_for(lab, server, log)
                yield lab
            finally:
                server.terminate()


def _wait_for(lab: Lab, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{lab.address}/api/status?token={lab.token}", timeout=5).close()
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser; each `new_page` of it has a new, empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu", "--disable-quic"])
        try:
            yield browser
        finally:
            browser.close()


def explorer_picture(page: Page) -> Locator:
    """Return the explorer's picture."""
    return page.locator('img[alt^="Test image"]')


@contextlib.contextmanager
def picture_changes(page: Page) -> Iterator[None]:
    """Wait at the end of the block until the explorer shows another picture than before."""
    picture = explorer_picture(page)
    before = picture.get_attribute("src")
    yield
    expect(picture).not_to_have_attribute("src", before, timeout=30_000)
