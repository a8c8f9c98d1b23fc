"""``make screenshots``: takes the pictures of the dashboard in ``docs/img/``, from the committed snapshot."""

from __future__ import annotations

import tempfile
from pathlib import Path

from shared.settings import CHECKOUT
from tests.dashboard.browser import chromium, served, settled

PICTURES = (
    # name, path, figures, width, height, appearance
    ("overview", "", 0, 1280, 900, "light"),
    ("sales", "sales", 6, 1280, 1500, "light"),
    ("customers", "customers", 5, 1280, 1500, "light"),
    ("products", "products", 5, 1280, 1500, "light"),
    ("traffic", "traffic", 5, 1280, 1500, "light"),
    ("sales-dark", "sales", 6, 1280, 1500, "dark"),
    ("sales-telephone", "sales", 6, 390, 1500, "light"),
)


def take(directory: Path) -> list[Path]:
    """Write the pictures, and return their paths."""
    taken = []
    with tempfile.TemporaryDirectory() as home, served(Path(home)) as address, chromium() as browser:
        for name, path, figures, width, height, scheme in PICTURES:
            with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
                page = context.new_page()
                page.goto(f"{address}/{path}")
                settled(page, figures)
                page.wait_for_load_state("networkidle")
                file = directory / f"dashboard-{name}.png"
                page.screenshot(path=file, animations="disabled")
                taken.append(file)
    return taken


if __name__ == "__main__":
    for picture in take(CHECKOUT / "docs" / "img"):
        print(f"{picture.relative_to(CHECKOUT)}: {picture.stat().st_size:,} bytes")
