"""Key ranges: the condition that tells a MERGE which files can hold the rows that it changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.changes import gathered, within

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_few_old_orders_among_those_of_the_week_have_stretches_of_their_own() -> None:
    week = [f"O-{number:09}" for number in range(2_900_000, 3_000_000, 7)]
    old = ["O-000000031", "O-000017002", "O-001500000"]
    assert gathered([*old, *week], 4) == [(one, one) for one in old] + [(week[0], week[-1])]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 900, 901, 5_000],
        [Decimal("0.01"), Decimal("0.02"), Decimal("9.00"), Decimal("9.01"), Decimal(50)],
        [DAY + timedelta(hours=hours) for hours in (0, 1, 900, 901, 5_000)],
        [date(2026, 1, 1) + timedelta(days=days) for days in (0, 1, 90, 91, 500)],
        ["a", "b", "w", "x", "é"],
    ],
    ids=lambda values: type(values[0]).__name__,
)
def test_the_cuts_are_at_the_widest_gaps(values: list[Any]) -> None:
    first, second, third, fourth, last = values
    assert gathered(values, 3) == [(first, second), (third, fourth), (last, last)]


@settings(deadline=None)
@given(st.sets(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1), st.integers(1, 20))
def test_every_value_is_in_one_stretch_and_each_stretch_ends_in_values(values: set[str], most: int) -> None:
    ascending = sorted(values, key=str.encode)
    stretches = gathered(ascending, most)
    assert len(stretches) == min(most, len(ascending))
    held = [[one for one in ascending if low.encode() <= one.encode() <= high.encode()] for low, high in stretches]
    assert [one for stretch in held for one in stretch] == ascending
    assert all((stretch[0], stretch[-1]) == ends for stretch, ends in zip(held, stretches, strict=True))


def test_the_condition_names_every_stretch() -> None:
    assert within("k", [("a", "b"), ("x", "x")]) == "(k BETWEEN 'a' AND 'b' OR k BETWEEN 'x' AND 'x')"
