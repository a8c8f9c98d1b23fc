"""Measure a table for its rules, by one statement: counts, newest instants, and a number per day for each window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from shared.quality.rules import Fresh, TableRules, Unique, Usual
from shared.rules import is_broken

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_SET = "_set"


@dataclass(frozen=True)
class Measured:
    """What was found in one table."""

    values: Mapping[str, Any]
    """Name of a measure to its value over all rows; see :func:`aggregates`."""
    by_day: Mapping[str, Mapping[date, Mapping[str, Any]]] = field(default_factory=dict)
    """Expression of a day, to each day that has rows, to the same measures over its rows."""


def where(condition: str | None) -> Column:
    """Return whether a rule applies to a row; if the filter is NULL, it does not."""
    return F.lit(True) if condition is None else F.coalesce(F.expr(condition), F.lit(False))


def aggregates(table: TableRules) -> list[Column]:
    """Return all aggregates that the rules and metrics of a table need, each with a name.

    ``rows``; for a rule of rows or keys ``<rule>`` (rows that break it) and ``<rule>.asked`` (rows to which it
    applies); for a rule of an instant or a measure, and for a metric, ``<name>``.
    """
    found = [F.count(F.lit(1)).alias("rows")]
    for rule in table.row_rules:
        asked = where(rule.where)
        found += [
            F.count_if(asked & is_broken(rule)).alias(rule.name),
            F.count_if(asked).alias(f"{rule.name}.asked"),
        ]
    for one in table.rules:
        if isinstance(one, Unique):
            asked = where(one.where)
            # A struct is a value even if all its fields are NULL, so that rows without a key are counted too.
            keys = F.count_distinct(F.when(asked, F.struct(*(F.col(f"`{name}`") for name in one.columns))))
            found += [
                (F.count_if(asked) - keys).alias(one.name),
                F.count_if(asked).alias(f"{one.name}.asked"),
            ]
        if isinstance(one, Fresh):
            found.append(F.max(F.col(f"`{one.column}`").cast("timestamp")).alias(one.name))
        if isinstance(one, Usual):
            found.append(F.expr(f"CAST(({one.measure}) AS DECIMAL(28,6))").alias(one.name))
    found += [F.expr(f"CAST(({one.expression}) AS DECIMAL(28,6))").alias(one.name) for one in table.metrics]
    return found


def measuring(rows: DataFrame, table: TableRules) -> DataFrame:
    """Return the aggregates over all rows, and once more for each day of each of the table's windows.

    One statement, by grouping sets: the rows are read once.
    """
    days = [F.expr(f"CAST(({day}) AS DATE)").alias(f"_day{number}") for number, day in enumerate(table.days)]
    if not days:
        return rows.agg(F.lit(0).alias(_SET), *aggregates(table))
    named = rows.select("*", *days)
    names = [f"_day{number}" for number in range(len(days))]
    groups = named.groupingSets([[], *([F.col(name)] for name in names)], *map(F.col, names))
    return groups.agg(F.grouping_id().alias(_SET), *aggregates(table))


def found_in(answer: Iterable[Any], table: TableRules) -> Measured:
    """Return the rows of :func:`measuring` as one object."""
    count = len(table.days)
    totals: dict[str, Any] = {}
    by_day: dict[str, dict[date, dict[str, Any]]] = {day: {} for day in table.days}
    for row in answer:
        values = row.asDict()
        of = values.pop(_SET)
        days = [values.pop(f"_day{number}") for number in range(count)]
        if of == 2**count - 1:  # grouped by none of them
            totals = values
            continue
        (number,) = [number for number in range(count) if not of >> (count - 1 - number) & 1]
        # Rows without a day are in the totals, but in no window.
        if days[number] is not None:
            by_day[table.days[number]][days[number]] = values
    # An empty table has no groups at all, and so no totals.
    return Measured(totals or {"rows": 0}, by_day)
