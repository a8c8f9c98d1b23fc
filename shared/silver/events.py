"""Turn delivered rows into events: each distinct payload once, and the order in which events count.

A source may deliver a row twice, late, or in contradiction to another. An *event* is one distinct payload, however
often it was delivered; its arrival is the first delivery. Every silver table is a function of the *set* of its events,
never of the order in which runs read them. So late, repeated and unordered deliveries end in the same table.

Everything here is a pure transformation: DataFrame in, DataFrame out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.window import WindowSpec

    from shared.silver.metadata import TableDefinition


def payload(rows: DataFrame) -> list[str]:
    """Return the columns with the delivered content: those of the source, and the line if it does not fit them.

    In bronze, and in every frame made from it here, these columns come first; columns about the delivery follow.
    """
    names: list[str] = rows.columns
    return names[: names.index("_malformed") + 1]


def distinct_events(rows: DataFrame) -> DataFrame:
    """Return one row per distinct payload; NULL counts as a value.

    Args:
        rows: rows of a bronze table, and ``is_new BOOLEAN``: not seen by an earlier run.

    Returns:
        The payload; ``source_file``, ``ingested_at`` of the first delivery, and ``_reason`` if the source has one;
        ``is_new``: no earlier run saw the event; ``new_rows BIGINT``: how many new rows have this payload.
    """
    said = payload(rows)
    delivery = ["ingested_at", "source_file", *(name for name in rows.columns if name == "_reason")]
    return (
        rows.groupBy(*said)
        .agg(
            F.min(F.struct(*delivery)).alias("first"),
            F.every("is_new").alias("is_new"),
            F.count_if("is_new").alias("new_rows"),
        )
        .select(*said, *(f"first.{name}" for name in delivery), "is_new", "new_rows")
    )


def events_of_single_rows(rows: DataFrame) -> DataFrame:
    """Return what :func:`distinct_events` does, without ``_reason``, for rows that are known to have different keys."""
    return rows.select(
        *payload(rows), "source_file", "ingested_at", "is_new", F.col("is_new").cast("bigint").alias("new_rows")
    )


def precedence(definition: TableDefinition, events: DataFrame) -> list[Column]:
    """Return the sort order of events with the same key and the same sequence value. The first event wins.

    A delete wins; then the latest arrival, by instant and file; then the greatest payload. So there is always
    one winner, and always the same.
    """
    return [
        is_deleted(definition).desc(),
        F.col("ingested_at").desc(),
        F.col("source_file").desc(),
        F.struct(*payload(events)).desc(),
    ]


def is_deleted(definition: TableDefinition) -> Column:
    """Return the condition that an event is the deletion of its thing."""
    return F.coalesce(F.col(definition.delete_flag), F.lit(False)) if definition.delete_flag else F.lit(False)


def latest_events(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return each key's latest event: the one with the greatest sequence value, in a tie the winner."""
    newest_first = F.col(definition.sequence_column).desc()
    key = Window.partitionBy(*definition.business_keys)
    return _first(events, key.orderBy(newest_first, *precedence(definition, events)))


def without_ties(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return one event for each key and sequence value: the winner."""
    tie = Window.partitionBy(*definition.business_keys, definition.sequence_column)
    return _first(events, tie.orderBy(*precedence(definition, events)))


def _first(events: DataFrame, order: WindowSpec) -> DataFrame:
    return events.withColumn("place", F.row_number().over(order)).where("place = 1").drop("place")


def in_question(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Add ``is_tied`` and ``is_late`` of new events.

    *Tied*: another event of its key has the same sequence value and came first. *Late*: it is not tied, and an earlier
    batch brought an event of its key with a greater sequence value. Both are counted, and neither is an error.
    """
    keys = [F.col(key) for key in definition.business_keys]
    sequence = F.col(definition.sequence_column)
    first_come = Window.partitionBy(*keys, sequence).orderBy("is_new", "ingested_at", "source_file", *payload(events))
    earlier_batches = (
        Window.partitionBy(*keys).orderBy(F.unix_micros("ingested_at")).rangeBetween(Window.unboundedPreceding, -1)
    )
    return (
        events.withColumn("is_tied", F.col("is_new") & (F.row_number().over(first_come) > 1))
        .withColumn("newest_before", F.max(sequence).over(earlier_batches))
        .withColumn(
            "is_late", F.col("is_new") & ~F.col("is_tied") & F.coalesce(sequence < F.col("newest_before"), F.lit(False))
        )
        .drop("newest_before")
    )
