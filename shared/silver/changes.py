"""From what a table holds to what it should hold: the difference, and one MERGE that makes it.

A MERGE that is handed only what differs is harmless to repeat: run again, there is no difference, and without one
there is no commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared.catalog import sql_literal
from shared.runtime.spark import on_databricks

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


def differences(desired: DataFrame, current: DataFrame, identity: Sequence[str], keep: str | None = None) -> DataFrame:
    """Return the rows to insert, update and delete so that ``current`` becomes ``desired``.

    Args:
        desired: the rows that should be there, one for each value of the identity.
        current: the rows that are there, with the same columns.
        identity: the columns that name a row; never NULL.
        keep: a condition on the current rows; one that meets it is not deleted.

    Returns:
        The table's columns and ``_action`` (insert, update or delete). Rows that are alike are left out; NULL is
        alike NULL.
    """
    columns = current.columns
    there = current.select(F.struct(*columns).alias("c"), *identity)
    wanted = desired.select(F.struct(*columns).alias("d"), *identity)
    pairs = wanted.join(there, list(identity), "full").where(~F.col("c").eqNullSafe(F.col("d")))
    action = F.when(F.col("c").isNull(), "insert").when(F.col("d").isNull(), "delete").otherwise("update")
    rows = pairs.select(
        *(F.when(F.col("d").isNull(), F.col("c")[name]).otherwise(F.col("d")[name]).alias(name) for name in columns),
        action.alias(ACTION),
    )
    return rows.where(~((F.col(ACTION) == "delete") & F.expr(keep))) if keep else rows


def merge(spark: SparkSession, table: str, changes: DataFrame, identity: Sequence[str]) -> Changed:
    """Make these changes by one MERGE, or none if there are none; return how many rows it touched.

    The smallest and greatest value of the first identity column stand in the MERGE as literals, so that Delta reads
    and rewrites only files that may hold one of them.

    Args:
        spark: the session.
        table: the target.
        changes: what :func:`differences` returned, kept by :func:`kept` since it is read more than once.
        identity: the columns that name a row.
    """
    first = identity[0]
    found = changes.agg(
        F.min(first).alias("low"),
        F.max(first).alias("high"),
        *(F.count_if(F.col(ACTION) == action).alias(action) for action in ("insert", "update", "delete")),
    ).first()
    assert found is not None
    changed = Changed(found["insert"], found["update"], found["delete"])
    if changed.rows:
        columns = [name for name in changes.columns if name != ACTION]
        same = " AND ".join(f"t.`{name}` = c.`{name}`" for name in identity)
        spark.sql(
            f"MERGE INTO {table} AS t USING {{changes}} AS c "
            f"ON {same} AND {between(f't.`{first}`', found['low'], found['high'])} "
            f"WHEN MATCHED AND c.{ACTION} = 'delete' THEN DELETE "
            f"WHEN MATCHED THEN UPDATE SET {', '.join(f't.`{name}` = c.`{name}`' for name in columns)} "
            f"WHEN NOT MATCHED AND c.{ACTION} = 'insert' THEN INSERT ({', '.join(f'`{name}`' for name in columns)}) "
            f"VALUES ({', '.join(f'c.`{name}`' for name in columns)})",
            changes=changes,
        )
    return changed


def between(column: str, low: object, high: object) -> str:
    """Return the condition that a column lies between two values, which files' statistics can answer."""
    if low is None:
        return f"{column} IS NULL"
    kind = "" if isinstance(low, str) else "TIMESTAMP " if hasattr(low, "isoformat") else ""
    bounds = [
        f"{kind}{sql_literal(str(bound))}" if isinstance(bound, str) or kind else str(bound) for bound in (low, high)
    ]
    return f"{column} BETWEEN {bounds[0]} AND {bounds[1]}"


def kept(frame: DataFrame) -> DataFrame:
    """Return the frame computed, for rows that are read several times.

    Its plan is cut off with it. A plan that is built upon grows with every step, and it is analysed anew and sent over
    Spark Connect with every question: left to grow, it costs more than the work. Databricks serverless keeps no
    rows between questions, so there the frame is returned as it is.
    """
    return frame if on_databricks() else frame.localCheckpoint(eager=True)
