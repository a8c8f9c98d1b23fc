"""Checks of schedules: Quartz cron expressions and time zones, which a deployment does not check."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from zoneinfo import available_timezones

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]

_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("second", 0, 59, []),
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day of month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of week", 1, 7, _WEEKDAYS),
    ("year", 1970, 2199, []),
)
"""Each field's name, least and greatest value, and the words that may replace the values, from the least on."""

_DAY_OF_MONTH, _DAY_OF_WEEK = 3, 5


def problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of a job's schedule.

    A Quartz expression has six or seven fields, from the second to the year. Exactly one of the two day fields must be
    ``?``. Quartz' other signs, ``L``, ``W`` and ``#``, are refused, because no job here needs them.
    """
    if "pause_status" in given:
        yield "the schedule has a pause_status: leave it out, an explicit UNPAUSED would run in development too"
    zone = given.get("timezone_id")
    if zone not in available_timezones():
        yield f"timezone_id {zone} is no time zone, expected for instance UTC or Europe/Berlin"
    expression = str(given.get("quartz_cron_expression", ""))
    yield from (f"cron {expression!r}: {problem}" for problem in _cron_problems(expression.split()))


def _cron_problems(fields: list[str]) -> Iterator[str]:
    if len(fields) not in (6, 7):
        yield f"it has {len(fields)} fields, expected 6 or 7: second minute hour day-of-month month day-of-week [year]"
        return
    if (fields[_DAY_OF_MONTH] == "?") == (fields[_DAY_OF_WEEK] == "?"):
        yield "exactly one of day of month and day of week must be ?"
    for position, (text, (name, least, greatest, words)) in enumerate(zip(fields, _FIELDS, strict=False)):
        if text == "?" and position in (_DAY_OF_MONTH, _DAY_OF_WEEK):
            continue
        for part in text.split(","):
            if not _is_part(part, least, greatest, words):
                yield f"{name} is {text!r}, expected * or numbers from {least} to {greatest}"
                break


def _is_part(part: str, least: int, greatest: int, words: list[str]) -> bool:
    """Return whether the text is a value, ``*`` or a range, with or without a step."""
    value = r"\d+|" + "|".join(words) if words else r"\d+"
    found = re.fullmatch(rf"(?:\*|({value})(?:-({value}))?)(?:/(\d+))?", part)
    if not found:
        return False
    numbers = [words.index(one) + least if one in words else int(one) for one in found.groups()[:2] if one]
    step = int(found[3]) if found[3] else 1
    return all(least <= one <= greatest for one in numbers) and numbers == sorted(numbers) and 0 < step <= greatest
