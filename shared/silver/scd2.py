"""SCD type 2: the versions of a thing as a function of the set of its events.

The textbook method closes the open row and inserts a new one, event by event, so it depends on their order: a late
event, two changes in one batch, or a batch delivered twice leave overlaps and duplicates. Here all events of an
affected key are sorted by business time, and the versions are computed from that sequence. The order in which runs read
the events has no effect. One MERGE then brings the dimension from what it holds to what it should hold
(:mod:`shared.changes`).

The technique is the one behind ``APPLY CHANGES INTO ... STORED AS SCD TYPE 2`` of Databricks' declarative pipelines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from shared.silver.events import is_deleted, without_ties

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from shared.silver.metadata import TableDefinition

BEGINNING_OF_TIME = "1900-01-01 00:00:00"
"""``start_date`` of an inferred member, UTC: before every fact, because its real start is not known."""


def versions(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return every version of every key.

    Guarantees that versions of a key do not overlap; that versions without a gap between them differ in a tracked
    value; that the last one is open unless the key was deleted; that the result depends on the set of events alone.

    Args:
        events: accepted events of *all* batches for each key that occurs in them.
        definition: keys, sequence, delete flag, tracked and untracked columns.

    Returns:
        Surrogate key, the carried columns, ``start_date``, ``end_date`` (NULL while open), ``is_current``,
        ``is_inferred``. Intervals are [start, end). Untracked columns hold the key's newest value in every version.

    Example:
        >>> versions(events, definition).where("customer_id = 'C-00000042'").orderBy("start_date").show()
    """
    key = Window.partitionBy(*definition.business_keys)
    in_time = key.orderBy(definition.sequence_column)
    tracked = F.struct(*definition.tracked_columns)
    deleted = is_deleted(definition)

    story = (
        without_ties(events, definition)
        .withColumn("deleted", deleted)
        .withColumn("before", F.lag(F.struct(tracked.alias("values"), "deleted")).over(in_time))
        # A row that says what was known already starts nothing. It was needed until here: had a late event come
        # between it and the one before, it would.
        .withColumn(
            "is_turn",
            F.when(F.col("before").isNull() | F.col("before.deleted"), ~F.col("deleted")).otherwise(
                F.col("deleted") | ~tracked.eqNullSafe(F.col("before.values"))
            ),
        )
    )
    for column in _untracked(definition):
        newest = F.last(F.when(~F.col("deleted"), F.struct(column)), ignorenulls=True)
        whole_story = in_time.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        story = story.withColumn(column, newest.over(whole_story)[column])
    return _as_rows(
        story.where("is_turn")
        .withColumn("start_date", F.col(definition.sequence_column))
        .withColumn("end_date", F.lead(definition.sequence_column).over(in_time))
        .where("NOT deleted"),
        definition,
    )


def versions_of_single_events(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return what :func:`versions` does, for events that are known to have different keys."""
    return _as_rows(
        events.where(~is_deleted(definition))
        .withColumn("start_date", F.col(definition.sequence_column))
        .withColumn("end_date", F.lit(None).cast("timestamp")),
        definition,
    )


def inferred_members(keys: DataFrame, dimension: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return an inferred member for each of these keys: a row of the dimension in which only the key is known.

    Args:
        keys: the business key, distinct.
        dimension: the dimension, for its columns and their types.
        definition: the dimension's definition.
    """
    (key,) = definition.business_keys
    known = {
        definition.surrogate_key: inferred_key(F.col(key)),
        key: F.col(key),
        "start_date": _beginning_of_time(),
        "is_current": F.lit(True),
        "is_inferred": F.lit(True),
    }
    return keys.select(
        *(
            known.get(field.name, F.lit(None).cast(field.dataType)).alias(field.name)
            for field in dimension.schema.fields
        )
    )


def surrogate_key(*parts: Column) -> Column:
    """Return the key of a version: a function of business key and start, the same in every run and on every machine."""
    return F.xxhash64(*parts)


def inferred_key(business_key: Column) -> Column:
    """Return the surrogate key of a thing's inferred member."""
    return surrogate_key(business_key, _beginning_of_time())


def _beginning_of_time() -> Column:
    return F.lit(BEGINNING_OF_TIME).cast("timestamp")


def as_of_lookup(dimension: DataFrame, definition: TableDefinition, take: tuple[str, ...]) -> DataFrame:
    """Return the dimension with intervals that leave no instant out, so that every fact finds exactly one version.

    The first version answers for the time before it, and each for the gap that a deletion leaves behind it.

    Returns:
        The business key, the taken columns, ``start_date``, ``end_date``, and ``answers_from``, ``answers_to``
        (NULL where there is no bound).
    """
    (key,) = definition.business_keys
    in_time = Window.partitionBy(key).orderBy("start_date")
    return dimension.select(
        key,
        *take,
        "start_date",
        "end_date",
        F.when(F.row_number().over(in_time) > 1, F.col("start_date")).alias("answers_from"),
        F.lead("start_date").over(in_time).alias("answers_to"),
    )


def _untracked(definition: TableDefinition) -> list[str]:
    return [column for column in definition.columns if column not in definition.tracked_columns]


def _as_rows(turns: DataFrame, definition: TableDefinition) -> DataFrame:
    sk = surrogate_key(*(F.col(key) for key in definition.business_keys), F.col("start_date"))
    carried = [name for name in turns.columns if name in definition.carried]
    return turns.select(
        sk.alias(str(definition.surrogate_key)),
        *carried,
        "start_date",
        "end_date",
        F.col("end_date").isNull().alias("is_current"),
        F.lit(False).alias("is_inferred"),
    )
