"""A period of days, and the two periods with which it is compared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd


@dataclass(frozen=True)
class Period:
    """Whole days from ``first`` to ``last``, both included.

    >>> january = Period(date(2026, 1, 1), date(2026, 1, 31))
    >>> january.days, january.before().first, january.year_before().last
    (31, datetime.date(2025, 12, 1), datetime.date(2025, 1, 31))
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"a period ends on or after its first day; got {self.first} to {self.last}")

    @property
    def days(self) -> int:
        """The number of days."""
        return (self.last - self.first).days + 1

    def before(self) -> Period:
        """Return the period of the same length immediately before this one."""
        return Period(self.first - timedelta(days=self.days), self.first - timedelta(days=1))

    def year_before(self) -> Period:
        """Return the period of the same length that ends on the same date a year earlier (28 February for the 29th)."""
        leap_day = (self.last.month, self.last.day) == (2, 29)
        last = self.last.replace(year=self.last.year - 1, day=28 if leap_day else self.last.day)
        return Period(last - timedelta(days=self.days - 1), last)

    def lies_in(self, other: Period) -> bool:
        """Whether the other period contains all its days: a comparison with a part of a period would mislead."""
        return other.first <= self.first and self.last <= other.last

    def __str__(self) -> str:
        return f"{self.first:%d %b %Y} to {self.last:%d %b %Y}"


def spanned(days: pd.Series) -> Period:
    """Return the period from the first to the last of these days."""
    return Period(days.min().date(), days.max().date())


def selected(rows: pd.DataFrame, period: Period, column: str = "order_date", **among: Collection[str]) -> pd.DataFrame:
    """Return the rows of a period that have one of the chosen values in each named column; no choice means all.

    >>> selected(daily, january, category=["Books"])  # doctest: +SKIP
    """
    days = rows[column]
    chosen = (days >= pd.Timestamp(period.first)) & (days < pd.Timestamp(period.last) + pd.Timedelta(days=1))
    for name, values in among.items():
        if values:
            chosen &= rows[name].isin(list(values))
    return rows[chosen]
