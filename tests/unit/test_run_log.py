"""One run's use of the log: it reads the log once, writes it when there is something to keep, and loses nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from shared import run_log
from shared.run_log import LastRuns, Log, Status, TableRun

NOBODY: Any = None
"""No session: nothing here uses the engine."""


def ran(table: str, status: Status = "succeeded", run_id: str = "now") -> TableRun:
    return TableRun(run_id, table, status, datetime(2026, 1, 2, tzinfo=UTC), 0.1)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The reads from the log's table and the writes to it."""
    done: dict[str, list[Any]] = {"reads": [], "commits": []}
    before = ran("silver.orders", run_id="before")

    def read(spark: Any) -> dict[str, LastRuns]:
        done["reads"].append(1)
        return {before.table_name: LastRuns(before, before)}

    monkeypatch.setattr(run_log, "create_tables", lambda spark: None)
    monkeypatch.setattr(run_log, "last_runs", read)
    monkeypatch.setattr(run_log, "write", lambda spark, runs: done["commits"].append([run.table_name for run in runs]))
    return done


def test_a_run_without_news_makes_one_commit_at_its_end(table: dict[str, list[Any]]) -> None:
    with Log(NOBODY) as log:
        log.add([ran("bronze.orders_raw", "unchanged")])
        log.add([ran("silver.orders", "unchanged")])
        assert table["commits"] == []
    assert table["commits"] == [["bronze.orders_raw", "silver.orders"]]


@pytest.mark.parametrize("status", ["succeeded", "failed", "skipped"])
def test_what_moved_a_cursor_or_went_wrong_is_written_at_once_with_what_waits(
    table: dict[str, list[Any]], status: Status
) -> None:
    with Log(NOBODY) as log:
        log.add([ran("bronze.orders_raw", "unchanged")])
        log.add([ran("silver.orders", status)])
        assert table["commits"] == [["bronze.orders_raw", "silver.orders"]]
    assert len(table["commits"]) == 1


def test_the_log_is_read_once_and_knows_the_runs_that_came_since(table: dict[str, list[Any]]) -> None:
    with Log(NOBODY) as log:
        last = log.last("silver.orders")
        assert last
        assert last.last.run_id == "before"
        assert log.last("gold.sales") is None
        log.add([ran("silver.orders", "failed"), ran("gold.sales", "skipped")])
        last = log.last("silver.orders")
        assert last
        assert (last.last.status, last.last_good and last.last_good.run_id) == ("failed", "before")
        sales = log.last("gold.sales")
        assert sales
        assert (sales.last.status, sales.last_good) == ("skipped", None)
    assert table["reads"] == [1]


def test_what_waits_is_written_when_the_run_fails_and_the_first_error_is_told(
    table: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        with Log(NOBODY) as log:
            log.add([ran("bronze.orders_raw", "unchanged")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert table["commits"] == [["bronze.orders_raw"]]

    def broken(spark: Any, runs: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(run_log, "write", broken)
    with pytest.raises(ZeroDivisionError):
        fails()
    with pytest.raises(OSError, match="full"), Log(NOBODY) as log:
        log.add([ran("bronze.orders_raw", "unchanged")])
