"""From the rows of a table to one row a group. Pure transformations: DataFrame in, DataFrame out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared.rules import named_in

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from shared.gold.metadata import GoldDefinition


def measured(rows: DataFrame, definition: GoldDefinition) -> DataFrame:
    """Return one row for each group of the rows that count: the columns of ``group_by`` and the measures."""
    return (
        rows.where(definition.where)
        .groupBy(*definition.group_by)
        .agg(*(F.expr(f"CAST({one.expression} AS {one.type})").alias(one.name) for one in definition.measures))
    )


def finished(groups: DataFrame, definition: GoldDefinition) -> DataFrame:
    """Add what follows from the measures: the label of the band, and the rank.

    Args:
        groups: measured groups; if there is a rank, *all* groups of each partition that occurs in them.
        definition: the table's definition.
    """
    if definition.bands:
        value, label = F.col(definition.bands.of), F.lit(None).cast("string")
        for threshold in reversed(definition.bands.thresholds):
            given = F.lit(threshold.label)
            label = given if threshold.at_least is None else F.when(value >= threshold.at_least, given).otherwise(label)
        groups = groups.withColumn(definition.bands.column, label)
    if definition.rank:
        # As SQL, since a term may say DESC or NULLS LAST.
        within, order = ", ".join(definition.rank.within), ", ".join(definition.rank.order_by)
        partition = f"PARTITION BY {within} " if within else ""
        groups = groups.withColumn(definition.rank.column, F.expr(f"RANK() OVER ({partition}ORDER BY {order})"))
    return groups.select(*definition.columns)


def touched_groups(feed: DataFrame, definition: GoldDefinition) -> DataFrame:
    """Return the groups whose rows changed, from the change data feed of the source.

    An update counts as one row removed and one row added. Rows that are equal in every column that the table uses
    cancel each other out: an order that goes from ``pending`` to ``confirmed`` changes no revenue.

    Args:
        feed: the feed, with ``_change_type``.
        definition: the table's definition.

    Returns:
        The columns of ``group_by``, distinct.
    """
    # Not the columns of the condition: which status it was that counts does not matter.
    looked_at = named_in(definition.expressions, feed.columns)
    step = F.when(F.col("_change_type").isin("insert", "update_postimage"), 1).otherwise(-1)
    return (
        feed.where(definition.where)
        .groupBy(*looked_at)
        .agg(F.sum(step).alias("difference"))
        .where("difference != 0")
        .select(*definition.group_by)
        .distinct()
    )
