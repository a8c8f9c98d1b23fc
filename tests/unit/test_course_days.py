"""The registry is the only list of the days, and it agrees with the implementation plan."""

from __future__ import annotations

import re

import pytest

from shared.course import days
from shared.errors import CourseError
from shared.settings import CHECKOUT

PLAN = CHECKOUT / "docs" / "implementation-plan.md"
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| (built|planned) \| [^|]+ \| `(\w+)` \|", flags=re.MULTILINE)


def test_days_are_those_that_the_plan_calls_built() -> None:
    rows = ROW.findall(PLAN.read_text(encoding="utf-8"))
    assert len(rows) == 30
    built = [(int(number), title, name) for number, title, status, name in rows if status == "built"]
    assert [(day.number, day.title, day.name) for day in days.DAYS] == built


def test_days_are_in_the_week_of_the_plan() -> None:
    chapters = re.split(r"^## Week (\d)", PLAN.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    weeks = {}
    for week, text in zip(chapters[::2], chapters[1::2], strict=True):
        weeks |= {int(row[0]): int(week) for row in ROW.findall(text)}
    assert {day.number: day.week for day in days.DAYS} == {day.number: weeks[day.number] for day in days.DAYS}


def test_notebook_and_lesson_share_a_name() -> None:
    day = days.day(4)
    assert day.notebook == CHECKOUT / "notebooks" / "04_bronze.ipynb"
    assert day.lesson == CHECKOUT / "lessons" / "04_bronze.md"


def test_an_unknown_day_is_refused_with_those_there_are() -> None:
    with pytest.raises(CourseError, match=rf"no day 99: the course has the days 1 to {days.DAYS[-1].number}"):
        days.day(99)


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [(None, 2, [1, 2]), (2, 3, [2, 3]), (3, 3, [3]), (None, None, [day.number for day in days.DAYS])],
)
def test_a_stretch_of_days_includes_both_ends(first: int | None, last: int | None, numbers: list[int]) -> None:
    assert [day.number for day in days.select(first, last)] == numbers


def test_an_empty_stretch_is_refused() -> None:
    with pytest.raises(CourseError, match="From day 3 through day 2 there is nothing to run"):
        days.select(3, 2)


def test_rows_for_the_table_have_its_columns() -> None:
    columns = [column.split() for column in days.COLUMNS.split(", ")]
    types = {"INT": int, "STRING": str}
    for row in days.as_rows():
        assert [type(value) for value in row] == [types[kind] for _, kind in columns]
    assert [row[0] for row in days.as_rows()] == [day.number for day in days.DAYS]
