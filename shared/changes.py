"""Bring a table from what it holds to what it should hold: find the difference, and apply it by one MERGE.

A MERGE of only the differing rows can be repeated: the second time there is no difference, and so no commit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from shared.catalog import instant, sql_literal
from shared.settings import on_databricks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ACTION = "_action"

FEED_COLUMNS = ("_change_type", "_commit_version", "_commit_timestamp")
"""The columns that a change data feed adds to those of its table."""

Span = tuple[Any, Any]
"""The first and the last value of a range, both included."""

SPANS = 16
"""Keys are grouped into at most this many ranges, so that every scan can still check the condition quickly."""

FEW_ROWS, MANY_ROWS = 5_000, 2_000_000
"""With fewer or more rows, one range is enough: few rows do not pay for a query, and so many rows are everywhere."""


@dataclass(frozen=True)
class Changed:
    """Rows that a run inserted, updated and deleted."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def rows(self) -> int:
        """The sum of all three."""
        return self.inserted + self.updated + self.deleted


def differences(
    desired: DataFrame, current: DataFrame, identity: Sequence[str], flags: Sequence[str] = ()
) -> DataFrame:
    """Return the rows to insert, update and delete so that ``current`` becomes ``desired``.

    Args:
        desired: the rows that should be there, one for each value of the identity.
        current: the rows that are there, with the same columns.
        identity: the columns that identify a row; never NULL.
        flags: further BOOLEAN columns of the desired rows; the result keeps them.

    Returns:
        The table's columns, the flags and ``_action`` (insert, update, delete; NULL for an unchanged row with a true
        flag). Other unchanged rows are not returned; NULL equals NULL.
    """
    columns = current.columns
    there = current.select(F.struct(*columns).alias("c"), *identity)
    wanted = desired.select(F.struct(*columns).alias("d"), *identity, *flags)
    action = (
        F.when(F.col("c").isNull(), "insert")
        .when(F.col("d").isNull(), "delete")
        .when(~F.col("c").eqNullSafe(F.col("d")), "update")
    )
    is_flagged = F.lit(False)
    for flag in flags:
        is_flagged |= F.coalesce(F.col(flag), F.lit(False))
    return (
        wanted.join(there, list(identity), "full")
        .withColumn(ACTION, action)
        .where(F.col(ACTION).isNotNull() | is_flagged)
        .select(*(F.coalesce("d", "c")[name].alias(name) for name in columns), *flags, ACTION)
    )


def merge(
    spark: SparkSession,
    table: str,
    changes: DataFrame,
    identity: Sequence[str],
    flags: Sequence[str] = (),
    before: Callable[[], None] = lambda: None,
) -> tuple[Changed, dict[str, int]]:
    """Apply these changes by one MERGE; without changes, run no MERGE.

    The MERGE contains the ranges of the first identity column as literals, so that Delta reads only the files that may
    hold such a value.

    Args:
        spark: the session.
        table: the target.
        changes: what :func:`differences` returned, checkpointed by :func:`kept` since it is read more than once.
        identity: the columns that identify a row.
        flags: the flags that the differences carry.
        before: called before the MERGE, if there is one.

    Returns:
        How many rows the MERGE inserted, updated and deleted, and how many rows have each flag.
    """
    first = identity[0]
    is_change = F.col(ACTION).isNotNull()
    found = changes.agg(
        F.min(F.when(is_change, F.col(first))).alias("low"),
        F.max(F.when(is_change, F.col(first))).alias("high"),
        *(F.count_if(F.col(ACTION) == action).alias(action) for action in ("insert", "update", "delete")),
        *(F.count_if(flag).alias(flag) for flag in flags),
    ).first()
    assert found is not None
    changed = Changed(found["insert"], found["update"], found["delete"])
    if changed.rows:
        before()
        stretches = spans(changes.where(is_change), first, (found["low"], found["high"]), changed.rows)
        write(spark, table, changes, identity, stretches, flags)
    return changed, {flag: int(found[flag] or 0) for flag in flags}


def write(
    spark: SparkSession,
    table: str,
    changes: DataFrame,
    identity: Sequence[str],
    stretches: Sequence[Span],
    flags: Sequence[str] = (),
) -> None:
    """Apply changes by one MERGE, for callers that already know the ranges of the first identity column."""
    columns = [name for name in changes.columns if name not in (ACTION, *flags)]
    same = " AND ".join(f"t.`{name}` = c.`{name}`" for name in identity)
    spark.sql(
        f"MERGE INTO {table} AS t USING {{changes}} AS c "
        f"ON {same} AND {within(f't.`{identity[0]}`', stretches)} "
        f"WHEN MATCHED AND c.{ACTION} = 'delete' THEN DELETE "
        f"WHEN MATCHED AND c.{ACTION} = 'update' THEN UPDATE SET "
        f"{', '.join(f't.`{name}` = c.`{name}`' for name in columns)} "
        f"WHEN NOT MATCHED AND c.{ACTION} = 'insert' THEN INSERT ({', '.join(f'`{name}`' for name in columns)}) "
        f"VALUES ({', '.join(f'c.`{name}`' for name in columns)})",
        changes=changes.where(F.col(ACTION).isNotNull()),
    )


def spans(rows: DataFrame, column: str, extent: Span, count: int) -> list[Span]:
    """Return ranges that hold every value of a column of these rows, and as little else as possible.

    A day's changes lie close together, except for a few: one order of last year among the orders of last week. One
    range from the smallest to the greatest value would hold the whole history; 16 ranges hold hardly any of it.

    Args:
        rows: the rows, checkpointed.
        column: the column; its NULLs are in no range.
        extent: its smallest and its greatest value.
        count: how many rows there are.
    """
    if extent[0] is None or not FEW_ROWS <= count <= MANY_ROWS:
        return [extent]
    # Instants from Arrow have a zone; those from rows and from pandas have none.
    values = rows.select(column).where(F.col(column).isNotNull()).toArrow().column(0).unique().sort()
    return gathered(values.to_pylist(), SPANS)


def gathered(values: Sequence[Any], most: int) -> list[Span]:
    """Split ascending distinct values at their widest gaps into at most ``most`` ranges."""
    places = list(map(_place, values))
    gaps = (after - before for before, after in pairwise(places))
    widest = sorted(at for _, at in heapq.nlargest(most - 1, ((gap, at) for at, gap in enumerate(gaps, start=1))))
    return [(values[first], values[end - 1]) for first, end in pairwise([0, *widest, len(values)])]


def _place(value: Any) -> float:
    """Return a number that sorts values as Spark does, and measures how far apart they are."""
    if isinstance(value, str):
        return int.from_bytes(value.encode()[:32].ljust(32, b"\0"))
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value.toordinal() if isinstance(value, date) else value)


def within(column: str, stretches: Sequence[Span]) -> str:
    """Return the SQL condition that a column is in one of these ranges. File statistics can answer it."""
    return "(" + " OR ".join(between(column, low, high) for low, high in stretches) + ")"


def between(column: str, low: object, high: object) -> str:
    """Return the SQL condition that a column is between two values. File statistics can answer it."""
    if low is None:
        return f"{column} IS NULL"
    return f"{column} BETWEEN {_literal(low)} AND {_literal(high)}"


def _literal(value: object) -> str:
    if isinstance(value, str):
        return sql_literal(value)
    if isinstance(value, datetime):
        return instant(value)
    return f"TIMESTAMP {sql_literal(str(value))}" if isinstance(value, date) else str(value)


def net(feed: DataFrame) -> DataFrame:
    """Return the net effect of a change data feed: each row once, with ``came`` and ``difference``.

    ``came`` counts how often the row was added, by an insert or as the result of an update. ``difference`` is ``came``
    minus how often the row was removed. A wrong row that was added and then corrected has the difference 0: it is no
    longer in the table.
    """
    columns = [name for name in feed.columns if name not in FEED_COLUMNS]
    came = F.col("_change_type").isin("insert", "update_postimage")
    return feed.groupBy(*columns).agg(
        F.count_if(came).alias("came"), F.sum(F.when(came, 1).otherwise(-1)).alias("difference")
    )


def kept(frame: DataFrame) -> DataFrame:
    """Return the frame checkpointed, for rows that are read several times.

    The checkpoint also cuts the plan. A plan grows with every step, and every query analyses it again and sends it over
    Spark Connect: without the cut it costs more than the work. Databricks serverless keeps no rows between queries, so
    there the frame is returned unchanged.
    """
    if on_databricks():
        return frame
    session: Any = frame.sparkSession
    # pyspark reads the answer with the process's default session. There is none if the default session was one to
    # another home's engine, and that engine has ended.
    type(session)._set_default_and_active_session(session)
    # Not eager: the first query computes it, which saves one job.
    checkpoint: Any = frame.localCheckpoint(eager=False)
    # pyspark attaches it to the process's default session, which may be a session to the engine of another home.
    checkpoint._session = checkpoint._plan._spark_session = session
    return checkpoint  # type: ignore[no-any-return]
