from __future__ import annotations

import ast
from datetime import UTC, date, datetime

import pytest

from shared import clock
from shared.settings import CHECKOUT


def test_day_0_is_the_historical_load_and_day_1_the_day_after():
    assert clock.batch_date(0) == date(2025, 12, 31)
    assert clock.batch_date(1) == date(2026, 1, 1)


def test_day_number_is_the_inverse_of_batch_date():
    assert [clock.day_number(clock.batch_date(day)) for day in range(400)] == list(range(400))


def test_a_day_before_the_historical_load_is_refused():
    with pytest.raises(ValueError, match="got -1"):
        clock.batch_date(-1)


def test_files_of_a_batch_date_are_ingested_at_two_in_the_following_night():
    assert clock.ingested_at(date(2026, 1, 1)) == datetime(2026, 1, 2, 2, tzinfo=UTC)


def test_no_data_depends_on_the_wall_clock():
    forbidden = {"now", "today", "utcnow", "current_timestamp", "current_date"}
    found = [
        f"{path.relative_to(CHECKOUT)} {node.attr}"
        for package in ("generators", "shared/bronze")
        for path in sorted((CHECKOUT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in forbidden
    ]
    # A live run begins at the present time; a replay gets its start as an argument.
    assert found == ["generators/produce_clickstream.py now"]
