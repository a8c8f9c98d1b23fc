"""The virtual calendar: time in this project is a function of the data, never of the wall clock.

Day 0 is the historical load: every event up to and including ``HISTORY_END``. Day *n* is the *n*-th
incremental day after it. A file of a batch date is ingested by the nightly run that follows it, at 02:00 UTC.
Because of this, a number in a lesson is the same on every machine and in every year.

>>> batch_date(0), batch_date(1)
(datetime.date(2025, 12, 31), datetime.date(2026, 1, 1))
>>> ingested_at(batch_date(1))
datetime.datetime(2026, 1, 2, 2, 0, tzinfo=datetime.timezone.utc)
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

HISTORY_START = date(2025, 1, 1)
"""First day on which a customer could sign up or order."""

HISTORY_END = date(2025, 12, 31)
"""Last day of the historical load, and so its batch date."""

NIGHTLY_RUN = time(2, 0, tzinfo=UTC)
"""When the batch pipeline runs, UTC."""


def batch_date(day: int) -> date:
    """Return the batch date of a day: 0 is the historical load, *n* the *n*-th incremental day.

    Raises:
        ValueError: if ``day`` is negative.
    """
    if day < 0:
        raise ValueError(f"day must be 0 (historical) or more, got {day}")
    return HISTORY_END + timedelta(days=day)


def day_number(batch: date) -> int:
    """Return the day whose batch date this is; the inverse of :func:`batch_date`."""
    return (batch - HISTORY_END).days


def ingested_at(batch: date) -> datetime:
    """Return the instant of the nightly run that ingests the files of this batch date, in UTC."""
    return datetime.combine(batch + timedelta(days=1), NIGHTLY_RUN)
