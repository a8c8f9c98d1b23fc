"""The pages as a reader sees them: in a real Chromium, at desktop and phone size, in light and dark."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests import lake
from tests.dashboard import small_shop
from tests.dashboard.browser import chromium, executable, served, settled

if executable() is None and not os.environ.get("CI"):
    pytest.skip("no Chromium on this machine", allow_module_level=True)

PAGES = {"": 0, "sales": 6, "customers": 5, "products": 5, "traffic": 6}
"""The number of figures of each page, by path."""

DESKTOP, TELEPHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

FOCUSED = """() => {
  const focused = document.activeElement;
  return (focused.innerText || focused.getAttribute('aria-label') || '').trim();
}"""

HARMLESS = (
    r"404 \(Not Found\)",  # Streamlit looks for its base path, beginning with the longest one
    r"does not seem to exist",  # the first session of a server names a page before the navigation knows it
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("browser")
    small_shop.build(home / "lakehouse")
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with served(home) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def tiles(page: Page) -> dict[str, str]:
    """Return the numbers on the page's tiles."""
    labels, values = (page.locator(f"[data-testid=stMetric{part}]").all_inner_texts() for part in ("Label", "Value"))
    return dict(zip(labels, values, strict=True))


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (TELEPHONE, "dark")], ids=["desktop", "telephone"])
def test_every_page_can_be_read_by_everybody(browser: Browser, address: str, size: Any, scheme: Any):
    said: list[str] = []
    with browser.new_context(viewport=size, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        for path, figures in PAGES.items():
            page.goto(f"{address}/{path}")
            settled(page, figures)
            assert page.locator("[data-testid=stException]").count() == 0
            widths = page.locator("[data-testid=stMain]").evaluate("main => [main.scrollWidth, main.clientWidth]")
            assert widths[0] <= widths[1], f"{path} is wider than the screen: {widths}"
            for figure in page.locator("[data-testid=stPlotlyChart]").all():
                box = figure.bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= size["width"]
            found = Axe().run(page).response["violations"]
            serious = {
                one["id"]: [node["html"][:200] for node in one["nodes"]][:3]
                for one in found
                if one["impact"] in ("serious", "critical")
            }
            assert serious == {}, path
    assert [text for text in said if not any(re.search(known, text) for known in HARMLESS)] == []


def test_filters_links_back_and_downloads(browser: Browser, address: str, home: Path, tmp_path: Path):
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"{address}/sales?category=Books&period=All")
        settled(page, 6)
        (books,) = lake.rows(
            home / "lakehouse",
            """SELECT sum(orders)::BIGINT AS orders, sum(net_revenue) AS revenue FROM gold.daily_sales_summary
               WHERE category = 'Books'""",
        )
        assert tiles(page)["Orders"] == f"{books.orders:,}"

        # The download holds the rows of the figure.
        with page.expect_download() as download:
            page.locator(".st-key-csv_revenue_by_category button").first.click()
        download.value.save_as(tmp_path / "figure.csv")
        with (tmp_path / "figure.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert (row["category"], float(row["revenue"])) == ("Books", float(books.revenue))

        # A change of a filter changes the URL.
        page.get_by_role("radio", name="30 days").or_(page.get_by_role("button", name="30 days")).first.click()
        expect(page).to_have_url(re.compile("period=30"))
        orders = page.locator("[data-testid=stMetricValue]").nth(1)
        expect(orders).not_to_have_text(f"{books.orders:,}")
        settled(page, 6)
        month = tiles(page)

        # The filters stay on the next page, and when the reader goes back.
        page.get_by_role("link", name="Products").click()
        expect(page.locator("h1")).to_have_text("Product insights")
        settled(page, 5)
        expect(page).to_have_url(re.compile(r"products\?.*category=Books"))
        page.go_back()
        expect(page.locator("h1")).to_have_text("Sales performance")
        settled(page, 6)
        expect(page).to_have_url(re.compile(r"sales\?.*category=Books"))
        expect(orders).to_have_text(month["Orders"])

        # A figure has a text for readers who cannot see it.
        named = page.locator("[role=img][aria-label], [data-testid=stPlotlyChart][aria-label]")
        names = [figure.get_attribute("aria-label") or "" for figure in named.all()]
        assert any("Revenue by category" in name for name in names), names


def test_it_can_be_used_by_the_keyboard(browser: Browser, address: str):
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"{address}/sales")
        settled(page, 6)
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(FOCUSED))
        assert {"Products", "30 days", "CSV"} <= {text.split("\n")[-1] for text in reached}, reached


def test_traffic_refreshes_itself(browser: Browser, tmp_path: Path):
    small_shop.build(tmp_path / "lakehouse", orders=300)
    with served(tmp_path) as address, browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"{address}/traffic")
        settled(page, 6)
        expect(page.get_by_text("Not live")).to_be_visible()
        lake.append(
            tmp_path / "lakehouse",
            "ops.stream_log",
            [
                {
                    "batch_id": 99,
                    "finished_at": datetime.now(UTC),
                    "seconds": 1.0,
                    "rows_read": 5,
                    "latency_median": 0.7,
                    "latency_p99": 1.1,
                }
            ],
        )
        # The page refreshes without any action of the reader.
        expect(page.get_by_text(re.compile(r"\bLive$"))).to_be_visible()
        expect(page.get_by_text("0.7 s", exact=True)).to_be_visible()
        assert tiles(page)["Latency, median"] == "0.7 s"
