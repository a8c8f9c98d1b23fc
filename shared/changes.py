"""From what a table holds to what it should hold: the difference, and one MERGE that makes it.

A MERGE that is handed only what differs is harmless to repeat: run again, there is no difference, and without one
there is no commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from shared.catalog import instant, sql_literal
from shared.settings import on_databricks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ACTION = "_action"


@dataclass(frozen=True)
class Changed:
    """Rows that a run inserted, updated and deleted."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.deleted


def differences(
    desired: DataFrame, current: DataFrame, identity: Sequence[str], flags: Sequence[str] = ()
) -> DataFrame:
    """Return the rows to insert, update and delete so that ``current`` becomes ``desired``.

    Args:
        desired: the rows that should be there, one for each value of the identity.
        current: the rows that are there, with the same columns.
        identity: the columns that name a row; never NULL.
        flags: further columns of the desired rows to carry along, BOOLEAN.

    Returns:
        The table's columns, the flags and ``_action`` (insert, update, delete; NULL for a row that stays and has a
        flag). Other rows that are alike are left out; NULL is alike NULL.
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
    spark: SparkSession, table: str, changes: DataFrame, identity: Sequence[str], flags: Sequence[str] = ()
) -> tuple[Changed, dict[str, int]]:
    """Make these changes by one MERGE, or none if there are none.

    The smallest and greatest value of the first identity column stand in the MERGE as literals, so that Delta reads
    and rewrites only files that may hold one of them.

    Args:
        spark: the session.
        table: the target.
        changes: what :func:`differences` returned, kept by :func:`kept` since it is read more than once.
        identity: the columns that name a row.
        flags: the flags that the differences carry.

    Returns:
        How many rows it inserted, updated and deleted, and how many have each flag.
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
        write(spark, table, changes, identity, found["low"], found["high"], flags)
    return changed, {flag: int(found[flag] or 0) for flag in flags}


def write(
    spark: SparkSession,
    table: str,
    changes: DataFrame,
    identity: Sequence[str],
    low: object,
    high: object,
    flags: Sequence[str] = (),
) -> None:
    """Make changes by one MERGE, for who knows between which values the first column of their identity lies."""
    columns = [name for name in changes.columns if name not in (ACTION, *flags)]
    same = " AND ".join(f"t.`{name}` = c.`{name}`" for name in identity)
    spark.sql(
        f"MERGE INTO {table} AS t USING {{changes}} AS c "
        f"ON {same} AND {between(f't.`{identity[0]}`', low, high)} "
        f"WHEN MATCHED AND c.{ACTION} = 'delete' THEN DELETE "
        f"WHEN MATCHED AND c.{ACTION} = 'update' THEN UPDATE SET "
        f"{', '.join(f't.`{name}` = c.`{name}`' for name in columns)} "
        f"WHEN NOT MATCHED AND c.{ACTION} = 'insert' THEN INSERT ({', '.join(f'`{name}`' for name in columns)}) "
        f"VALUES ({', '.join(f'c.`{name}`' for name in columns)})",
        changes=changes.where(F.col(ACTION).isNotNull()),
    )


def between(column: str, low: object, high: object) -> str:
    """Return the condition that a column lies between two values, which files' statistics can answer."""
    if low is None:
        return f"{column} IS NULL"
    return f"{column} BETWEEN {_literal(low)} AND {_literal(high)}"


def _literal(value: object) -> str:
    if isinstance(value, str):
        return sql_literal(value)
    if isinstance(value, datetime):
        return instant(value)
    return f"TIMESTAMP {sql_literal(str(value))}" if isinstance(value, date) else str(value)


def kept(frame: DataFrame) -> DataFrame:
    """Return the frame computed, for rows that are read several times.

    Its plan is cut off with it. A plan that is built upon grows with every step, and it is analysed anew and sent over
    Spark Connect with every question: left to grow, it costs more than the work. Databricks serverless keeps no
    rows between questions, so there the frame is returned as it is.
    """
    if on_databricks():
        return frame
    session: Any = frame.sparkSession
    # The answer is read by the process's default session. There is none after that was a session to another home's
    # engine, which has ended.
    type(session)._set_default_and_active_session(session)
    # Not eagerly: the first question that is asked of it computes it, which is one job less.
    checkpoint: Any = frame.localCheckpoint(eager=False)
    # pyspark gives it to the process's default session, which may be a session to the engine of another home.
    checkpoint._session = checkpoint._plan._spark_session = session
    return checkpoint  # type: ignore[no-any-return]
