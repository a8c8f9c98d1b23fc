"""The app in a server of its own, opened in a real Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from shared.settings import CHECKOUT

PATIENCE = 60_000
"""Milliseconds that a page may take on a machine with other work. The benchmarks measure the speed of pages."""

expect.set_options(timeout=PATIENCE)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """Return the path of the system's browser; None if there is no browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Serve the dashboard of a home on the loopback interface, and provide its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "dashboard/streamlit_app.py"]
    options = {"server.headless": "true", "server.address": "127.0.0.1", "server.port": port}
    with (home / "streamlit.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            cwd=CHECKOUT,
            env=os.environ | {"SHOPMETRICS_HOME": str(home)},
            stdout=log,
            stderr=log,
        )
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while not _is_up(address):
                assert process.poll() is None, (home / "streamlit.log").read_text()
                assert time.monotonic() < end, "the dashboard's server did not answer within 60 s"
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser of the system, without a window."""
    with sync_playwright() as playwright:
        # Chromium refuses to run with its sandbox as root, for example in a container.
        sandbox = [] if os.name != "posix" or os.geteuid() else ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=executable(), args=sandbox)
        try:
            yield browser
        finally:
            browser.close()


def settled(page: Page, figures: int) -> Page:
    """Wait until the page's script has ended and this many figures are drawn."""
    page.wait_for_selector("h1", timeout=PATIENCE)
    expect(page.locator("[data-testid=stPlotlyChart]")).to_have_count(figures)
    page.wait_for_function(
        """() => {
          const app = document.querySelector('[data-testid=stApp]');
          const figures = [...document.querySelectorAll('[data-testid=stPlotlyChart]')];
          return app && app.getAttribute('data-test-script-state') === 'notRunning'
            && !document.querySelector('[data-testid=stSkeleton]')
            && figures.every(one => one.querySelector('.main-svg'));
        }""",
        timeout=PATIENCE,
    )
    return page


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
