"""The checks of days 21 to 27: each passes on pages as they are, and fails on pages that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dashboard.figures import sales
from dashboard.utils import apptest, filters
from dashboard.utils.databricks_connector import connect
from dashboard.utils.sources import DashboardError, Lakehouse, Snapshot, source_named
from shared.course.checks import BY_DAY, dashboard, registry, results
from shared.settings import get_settings

LOADS = "The app starts, and every page of its navigation loads without an exception"
ADDRESS = (
    "The filters of an address are the filters of the page, and a value that is not there is refused with a sentence"
)


def failures(day: int) -> dict[str, str]:
    """Return the checks of a day that fail in this home, with what they found."""
    context = registry.Context(None, get_settings())
    made = [results._run(day, entry, context) for entry in BY_DAY[day]]
    return {result.name: result.found for result in made if not result.ok}


@pytest.fixture
def lakehouse(enter: Any, small_home: Path) -> Path:
    """The small shop, in the home of this process."""
    return enter(small_home)


# Which source


def test_a_source_is_chosen_by_its_name(enter: Any, small_home: Path, tmp_path: Path) -> None:
    enter(tmp_path)
    assert isinstance(source_named("snapshot"), Snapshot)
    with pytest.raises(DashboardError, match=r"no gold table in .*lakehouse(.|\n)*shopmetrics pipeline run"):
        source_named("lakehouse")
    with pytest.raises(DashboardError, match="no source 'parquet': expected 'snapshot' or 'lakehouse'"):
        source_named("parquet")
    lakehouse = enter(small_home)
    found = source_named("lakehouse")
    assert isinstance(found, Lakehouse)
    assert found.directory == lakehouse


def test_a_chosen_source_fills_every_page_until_the_usual_ones_are_asked_again(lakehouse: Path) -> None:
    usual = apptest.opened("sales")
    connect().use(Snapshot())
    chosen = apptest.opened("sales")
    assert "Source: the snapshot" in chosen.caption[0].value
    assert apptest.metrics(chosen) != apptest.metrics(usual)
    connect().use()
    assert "Source: the lakehouse" in apptest.opened("sales").caption[0].value


@pytest.mark.parametrize("day", [21])
@pytest.mark.parametrize(
    "source", ["the lakehouse of this home", "the snapshot, chosen", "the snapshot, as there is no gold"]
)
def test_the_checks_pass_from_each_source(enter: Any, small_home: Path, tmp_path: Path, day: int, source: str) -> None:
    enter(tmp_path if "no gold" in source else small_home)
    before = (Snapshot(),) if "chosen" in source else ()
    connect().use(*before)
    with dashboard.pages_filled(registry.Context(None, get_settings())) as filled:
        assert filled.title == source.partition(",")[0].replace("the snapshot", Snapshot.title)
    assert failures(day) == {}
    assert connect().used == before, "a check leaves the choice as it was"


def test_the_checks_need_no_session(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "connect", lambda settings: pytest.fail("an engine was asked for"))
    for day in sorted(number for number in BY_DAY if number in range(21, 28)):
        failures(day)


# Day 21


def test_day_21_fails_if_a_page_raises(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("revenue")

    monkeypatch.setattr(sales, "revenue_over_time", broken)
    assert failures(21)[LOADS] == "sales: The page ended in an exception: 'revenue'"


def test_day_21_fails_if_a_page_is_in_no_navigation(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(apptest.PAGES, "traffic")
    assert failures(21) == {LOADS: "4_Kafka_Traffic.py is in no navigation"}


def test_day_21_fails_if_an_old_link_is_taken_at_its_word(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_say_if_unknown", lambda key, options: None)
    assert failures(21) == {ADDRESS: "the page does not say that Vinyl is not there"}
