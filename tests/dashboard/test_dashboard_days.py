"""The checks of days 21 to 27: each passes on pages as they are, and fails on pages that are wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import streamlit as st

from dashboard.figures import sales
from dashboard.figures.chart import frame
from dashboard.figures.period import Period, selected
from dashboard.utils import apptest, filters, layout, sources
from dashboard.utils.databricks_connector import connect
from dashboard.utils.sources import PARAMETER, DashboardError, Databricks, Lakehouse, Snapshot, source_named
from shared.course.checks import check_day, dashboard, registry
from shared.course.days import DAYS
from shared.settings import get_settings

LOADS = "The app starts, and every page of its navigation loads without an exception"
ADDRESS = (
    "The filters of an address are the filters of the page, and a value that is not there is refused with a sentence"
)


def failures(day: int) -> dict[str, str]:
    """Return the checks of a day that fail in this home, with what they found."""
    return {result.name: result.found for result in check_day(day) if not result.ok}


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


@pytest.mark.parametrize("day", [one.number for one in DAYS if not one.spark])
def test_the_checks_pass_on_a_lakehouse_and_ask_for_no_engine(
    lakehouse: Path, day: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the snapshot they are made by ``tests/notebooks/test_stored_dashboard.py``."""
    monkeypatch.setattr(registry, "connect", lambda settings: pytest.fail("an engine was asked for"))
    assert failures(day) == {}


def test_a_check_fills_pages_from_what_was_chosen_and_leaves_the_choice(
    enter: Any, small_home: Path, tmp_path: Path
) -> None:
    for home, chosen, filled in (
        (small_home, (), "the lakehouse of this home"),
        (small_home, (Snapshot(),), Snapshot.title),
        (tmp_path, (), Snapshot.title),
    ):
        enter(home)
        connect().use(*chosen)
        with dashboard.pages_filled(registry.Context(None, get_settings())) as source:
            assert source.title == connect().source().title == filled
        assert connect().used == chosen


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


# Day 22


FALLS_BACK = (
    "AC-011: with a workspace that never answers, or refuses the token, a page is filled from the next source within "
    "5 s and says why"
)
VERSIONS = "A new version of a table is in the next answer, and the answer of an older version is in none"
BOUND = "A value of a reader is bound, and never part of a query: a customer named '; DROP TABLE has no orders"


def test_day_22_fails_if_a_source_waits_for_ever(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def patient(self: Databricks, asks: Any, within: float) -> Any:
        return answers(self, asks, within + 2)

    answers = Databricks.answers
    monkeypatch.setattr(Databricks, "answers", patient)
    assert "hangs: the answers are there after " in failures(22)[FALLS_BACK]


def test_day_22_fails_if_the_page_does_not_say_why(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "FAULTS", ("refuses",))
    monkeypatch.setattr(layout, "source_line", lambda day: st.caption("Source: gold"))
    assert failures(22) == {FALLS_BACK: "the page does not say why"}


def test_day_22_fails_if_answers_are_kept_without_their_version(
    lakehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "FAULTS", ("refuses",))
    monkeypatch.setattr(Lakehouse, "version", lambda self, asks: str(self.directory))
    assert failures(22) == {VERSIONS: "1, 1, 1, 1, 1, 1"}


def test_day_22_fails_if_a_value_is_put_into_the_text(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pasted(sql: str, values: Any) -> str:
        return PARAMETER.sub(lambda match: f"'{values[match[1]]}'", sql)

    monkeypatch.setattr(dashboard, "FAULTS", ("refuses",))
    monkeypatch.setattr(sources, "bound", pasted)
    assert set(failures(22)) == {BOUND}


# Day 23

TOTALS = "AC-010: revenue, orders, units and average order value on the page Sales equal gold, whatever is chosen"
STEPS = "Every step of the revenue figure, and of the periods that it is compared with, equals gold to the cent"


def test_day_23_fails_on_an_average_of_averages(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def averaged(daily: Any, period: Period, categories: Any = ()) -> sales.Headline:
        rows = selected(frame(daily), period, category=categories)
        return headline(daily, period, categories)._replace(
            average_order_value=float((rows["net_revenue"] / rows["orders"]).mean())
        )

    headline = sales.headline
    monkeypatch.setattr(sales, "headline", averaged)
    found = failures(23)
    assert set(found) == {TOTALS}
    assert "90 days, all categories: Average order value is $" in found[TOTALS]


def test_day_23_fails_if_a_filter_does_not_act(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_step, headline = sales.by_step, sales.headline
    with monkeypatch.context() as patch:
        patch.setattr(sales, "by_step", lambda daily, period, categories=(): by_step(daily, period))
        assert set(failures(23)) == {STEPS}
    monkeypatch.setattr(sales, "headline", lambda daily, period, categories=(): headline(daily, period))
    assert "30 days, Books: Revenue is" in failures(23)[TOTALS]


def test_day_23_fails_on_a_period_of_another_length(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(self: Period) -> Period:
        return Period(self.first - timedelta(days=self.days + 1), self.first - timedelta(days=1))

    monkeypatch.setattr(Period, "before", longer)
    found = failures(23)
    assert set(found) == {STEPS}
    assert "30 days, Period before" in found[STEPS]


def test_day_23_fails_if_a_cent_is_lost(lakehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short_of_a_cent(daily: Any, period: Period, categories: Any = ()) -> pd.DataFrame:
        table = categories_table(daily, period, categories)
        table.loc[0, "revenue"] -= 0.01
        return table

    categories_table = sales.categories_table
    monkeypatch.setattr(sales, "categories_table", short_of_a_cent)
    found = failures(23)
    assert set(found) == {TOTALS}
    assert "30 days, Books: the table by category differs" in found[TOTALS]
