"""A new student in a real Jupyter: a wrong answer is diagnosed, a right one passes."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from autograder.chapters import find_root, load

ROOT = find_root(Path(__file__).parent)
CHROMIUM = shutil.which("chromium")
PATIENCE = 60_000  # ms; the first cell imports torch on a busy machine
# Before that, a command to run cells does nothing.
KERNEL_WAITS = """
() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === "idle"
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the PATH")


@pytest.fixture
def jupyter(tmp_path) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds the convolution notebook, as downloaded."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / "convolution.ipynb", folder)
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # Otherwise only the cells in sight are in the page.
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{n}_DIR": str(tmp_path / n.lower()) for n in ("CONFIG", "RUNTIME")}
    server = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
            "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--notebook-dir={folder}",
            f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
            "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
        ],
        env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def wait_for(url: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(f"{url} does not answer")


@pytest.fixture
def page() -> Iterator[Page]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser.new_page(viewport={"width": 1280, "height": 1000})
        browser.close()


def command(page: Page, name: str) -> None:
    page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


def run_above(page: Page, text: str) -> None:
    """Select the cell with this text and run what stands above it."""
    cell(page, text).locator(".cm-content").click()
    command(page, "notebook:run-all-above")


def cell(page: Page, text: str):
    return (
        page.locator(".jp-CodeCell")
        .filter(has=page.locator(".cm-content", has_text=re.compile(re.escape(text))))
        .first
    )


def answer(page: Page, source: str) -> None:
    """Type an answer over the stub, run it and the check below it."""
    editor = cell(page, "def corr2d(").locator(".cm-content")
    editor.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")


def test_wrong_then_right(jupyter, page):
    chapter = load("convolution", ROOT)
    right = chapter.exercises["corr"].reference
    wrong = next(a for a in chapter.misconceptions if a.name == "corr2d" and "flip" in a.hint)

    page.goto(f"{jupyter}/lab/tree/convolution.ipynb", timeout=PATIENCE)
    expect(cell(page, "def corr2d(")).to_be_visible(timeout=PATIENCE)
    page.wait_for_function(KERNEL_WAITS, timeout=PATIENCE)
    run_above(page, "def corr2d(")
    report = cell(page, 'check("corr")').locator(".jp-OutputArea")

    answer(page, chapter.exercises["corr"].stub)
    expect(report).to_contain_text("corr: not attempted", timeout=PATIENCE)
    expect(report).not_to_contain_text("Traceback")

    answer(page, f"{right}\n\n\n{wrong.source}")
    expect(report).to_contain_text(re.compile(r"corr: \d of \d checks hold"), timeout=PATIENCE)
    expect(report).to_contain_text("flip")  # the likely cause
    expect(report).to_contain_text("Expected")
    report.locator("summary").first.click()
    expect(report.locator("summary").nth(1)).to_be_visible()  # the second hint, after the first

    answer(page, right)
    expect(report).to_contain_text(re.compile(r"corr: all \d checks hold"), timeout=PATIENCE)
