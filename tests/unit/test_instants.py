"""An instant from a row becomes SQL for Spark, on a machine far from UTC: a bound that is hours off would miss rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest

from shared.catalog import instant
from shared.changes import between
from shared.streaming.events import within

NINE = datetime(2026, 1, 1, 9, 15, 2, 481000, tzinfo=UTC)
"""As text: 2026-01-01 09:15:02.481000+00:00."""


@pytest.fixture(autouse=True)
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def as_in_a_row(moment: datetime) -> datetime:
    """Return an instant as in Spark's rows: in this machine's local time, without a time zone."""
    return datetime.fromtimestamp(moment.timestamp())


def test_an_instant_is_told_in_utc() -> None:
    assert instant(NINE) == instant(as_in_a_row(NINE)) == "TIMESTAMP '2026-01-01 09:15:02.481000+00:00'"


def test_the_bounds_of_files_are_told_in_utc() -> None:
    row = as_in_a_row(NINE)
    assert row.hour == 4
    told = "TIMESTAMP '2026-01-01 09:15:02.481000+00:00'"
    assert within("event_ts", row, row) == f"event_ts BETWEEN {told} AND {told}"
    assert between("t.`session_start_ts`", row, row) == f"t.`session_start_ts` BETWEEN {told} AND {told}"


def test_a_date_is_no_instant() -> None:
    assert between("d", date(2026, 1, 1), date(2026, 1, 2)).startswith("d BETWEEN TIMESTAMP '2026-01-01' AND")
