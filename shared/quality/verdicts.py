"""Turn the measures of a table into the verdicts of its rules. Pure: neither a table nor the engine is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from shared.quality.measures import Measured
from shared.quality.reconciliation import Account, Difference
from shared.quality.rules import (
    Accounted,
    AnyRule,
    Equals,
    Fresh,
    Matches,
    NoGap,
    RowRule,
    TableRules,
    Unique,
    Usual,
)
from shared.quality.windows import usual_range

Status = Literal["passed", "failed", "not judged", "measured"]

MOST_DAYS = 5
"""A message names at most this many missing days."""

_PLACES = Decimal("0.000001")


@dataclass(frozen=True)
class Verdict:
    """One measure of a table, and the verdict of the rule of that name."""

    table_name: str
    metric_name: str
    """The rule's name, or the metric's; ``rows`` for the number of rows."""
    metric_value: Decimal | None
    """Rows that break the rule; hours for ``fresh``; the measure of the last whole day for ``usual``; missing days for
    ``no_gap``; groups that differ for ``equals``; NULL if there is nothing to measure."""
    severity: Literal["info", "warn", "fail"]
    status: Status
    """``measured`` if no rule judges it; ``not judged`` if the rule had nothing to go by, as ``message`` says."""
    message: str = ""
    low: Decimal | None = None
    high: Decimal | None = None
    """The range in which the value passes; NULL for an end that is open."""
    rows_checked: int | None = None
    fingerprint: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether it keeps gold from being made."""
        return self.status == "failed" and self.severity == "fail"

    @property
    def is_warning(self) -> bool:
        """Whether it is only reported."""
        return self.status == "failed" and self.severity == "warn"


def verdicts(
    table: TableRules,
    measured: Measured,
    as_of: datetime | None,
    accounts: Mapping[str, Account] | None = None,
    differences: Mapping[str, Difference] | None = None,
) -> list[Verdict]:
    """Return the verdicts of a table's rules and metrics, in the order of the declaration; the row count comes first.

    Args:
        table: the rules.
        measured: what was found in the table.
        as_of: the moment for which the rules are checked, with a zone; None if there is none.
        accounts: of tables of silver, by their names.
        differences: of each rule of kind ``equals``, by its name.
    """
    found = [Verdict(table.target, "rows", _number(measured.values["rows"]), "info", "measured")]
    for rule in table.rules:
        parts = _judged(rule, table, measured, as_of, accounts or {}, differences or {})
        fingerprint = table.fingerprints[rule.name]
        found.append(Verdict(table.target, rule.name, severity=rule.severity, fingerprint=fingerprint, **parts))
    for one in table.metrics:
        value, fingerprint = _number(measured.values.get(one.name)), table.fingerprints[one.name]
        found.append(Verdict(table.target, one.name, value, "info", "measured", fingerprint=fingerprint))
    return found


def no_table(table: TableRules) -> list[Verdict]:
    """Return the verdicts for a table that does not exist yet: each rule is ``not judged``."""
    return [
        Verdict(
            table.target, rule.name, None, rule.severity, "not judged", f"there is no table {table.target} yet",
            fingerprint=table.fingerprints[rule.name],
        )
        for rule in table.rules
    ]  # fmt: skip


def _judged(
    rule: AnyRule,
    table: TableRules,
    measured: Measured,
    as_of: datetime | None,
    accounts: Mapping[str, Account],
    differences: Mapping[str, Difference],
) -> dict[str, Any]:
    if isinstance(rule, RowRule | Matches | Unique):
        return _rows(rule, measured)
    if isinstance(rule, Accounted):
        account = accounts[table.target]
        return _at_most_none(account.unaccounted, account.problem, account.delivered)
    if isinstance(rule, Equals):
        one = differences[rule.name]
        told = f"{one.differing:,} of {one.groups:,} groups differ from {rule.source}, for example {one.example}"
        return _at_most_none(one.differing, told, one.groups)
    if as_of is None:
        return _not_judged("nothing has come, and no moment was given for which to ask")
    if isinstance(rule, Fresh):
        return _fresh(rule, measured, as_of)
    last = last_whole_day(as_of)
    by_day = measured.by_day[rule.day]
    if isinstance(rule, NoGap):
        return _no_gap(rule, by_day, last)
    return _usual(rule, by_day, last)


def last_whole_day(as_of: datetime) -> date:
    """Return the last day, in UTC, that had ended at a moment."""
    return as_of.astimezone(UTC).date() - timedelta(days=1)


def _rows(rule: RowRule | Matches | Unique, measured: Measured) -> dict[str, Any]:
    failed = int(measured.values.get(rule.name) or 0)
    asked = int(measured.values.get(f"{rule.name}.asked") or 0)
    if isinstance(rule, Unique):
        expected = f"each {', '.join(rule.columns)} once"
    else:
        row = rule.as_row_rule if isinstance(rule, Matches) else rule
        expected = row.limit or row.expectation
    of = f" where {rule.where}" if rule.where else ""
    return _at_most_none(failed, f"{failed:,} of {asked:,} rows{of}: expected {expected}", asked)


def _at_most_none(found: int, message: str, checked: int) -> dict[str, Any]:
    return {
        "metric_value": _number(found),
        "status": "failed" if found else "passed",
        "message": message if found else "",
        "high": _number(0),
        "rows_checked": checked,
    }


def _not_judged(why: str, value: Decimal | None = None) -> dict[str, Any]:
    return {"metric_value": value, "status": "not judged", "message": why}


def _fresh(rule: Fresh, measured: Measured, as_of: datetime) -> dict[str, Any]:
    newest = measured.values.get(rule.name)
    if newest is None:
        return _not_judged(f"no row has a {rule.column}")
    # Instants from rows have no zone; they are this machine's local time.
    age = Decimal(str((as_of - newest.astimezone(UTC)).total_seconds() / 3600))
    is_fresh = age <= Decimal(str(rule.within_hours))
    at = f"{newest.astimezone(UTC):%Y-%m-%d %H:%M}"
    told = f"the newest {rule.column} is {at}, {age:.1f} hours before {as_of.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return {
        "metric_value": _number(age),
        "status": "passed" if is_fresh else "failed",
        "message": "" if is_fresh else f"{told}: expected at most {rule.within_hours:g}",
        "high": _number(rule.within_hours),
    }


def _no_gap(rule: NoGap, by_day: Mapping[date, Any], last: date) -> dict[str, Any]:
    before = [day for day in by_day if day <= last]
    if not before:
        return _not_judged(f"no row is of {last} or before")
    window = [day for day in _days(last, rule.window) if day >= min(before)]
    missing = [day for day in window if day not in by_day]
    named = ", ".join(map(str, missing[:MOST_DAYS])) + (", ..." if len(missing) > MOST_DAYS else "")
    return _at_most_none(len(missing), f"no rows on {named}", len(window))


def window_of(rule: Usual, by_day: Mapping[date, Mapping[str, Any]], last: date) -> dict[date, float]:
    """Return the days of a rule's window that have a value, the last whole day included, and their values."""
    days = [day for day in by_day if day <= last]
    if rule.counts_rows:
        # A day without rows counts as 0 rows, except days before the first row.
        known = {day: by_day.get(day, {}).get(rule.name) or 0 for day in _days(last, rule.window + 1)}
        return {day: float(value) for day, value in known.items() if days and day >= min(days)}
    known = {day: by_day.get(day, {}).get(rule.name) for day in _days(last, rule.window + 1)}
    return {day: float(value) for day, value in known.items() if value is not None}


def range_of(rule: Usual, window: Mapping[date, float]) -> tuple[float, float] | None:
    """Return the least and the greatest value that is usual after these days; None if the days are too few."""
    if len(window) < rule.least_points:
        return None
    low, high = usual_range(list(window.values()), rule.method, rule.sensitivity)
    return max(low, 0.0) if rule.counts_rows else low, high


def _usual(rule: Usual, by_day: Mapping[date, Mapping[str, Any]], last: date) -> dict[str, Any]:
    days = window_of(rule, by_day, last)
    value = days.pop(last, None)
    if value is None:
        return _not_judged(f"no row is of {last}")
    usual = range_of(rule, days)
    if usual is None:
        few = f"{len(days)} days before {last} in the window of {rule.window}: expected {rule.least_points} or more"
        return _not_judged(few, _number(value))
    low, high = usual
    # Compared as they are stored, so that a reader of the table comes to the same verdict.
    number, least, most = _number(value), _number(low), _number(high)
    assert number is not None
    assert least is not None
    assert most is not None
    is_usual = least <= number <= most
    return {
        "metric_value": number,
        "status": "passed" if is_usual else "failed",
        "message": "" if is_usual else f"{value:.4g} on {last}: expected {low:.4g} to {high:.4g}",
        "low": least,
        "high": most,
    }


def _days(last: date, count: int) -> Iterator[date]:
    return (last - timedelta(days=back) for back in reversed(range(count)))


def _number(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value)).quantize(_PLACES)
