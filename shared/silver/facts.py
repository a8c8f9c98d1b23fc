"""Facts: orders at their latest status, joined to their dimensions as the metadata says.

A fact looks up a type 2 dimension *as of* its own instant and a type 1 dimension as it is now. If the dimension lacks a
key, the fact is set aside, or the dimension gets an inferred member; a join neither loses nor multiplies facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from shared.silver import scd2

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from shared.silver.metadata import DimensionJoin, TableDefinition


@dataclass(frozen=True)
class Dimension:
    """A dimension at one version, as a fact's join sees it."""

    join: DimensionJoin
    definition: TableDefinition
    table: DataFrame
    before: DataFrame | None = None
    """The same dimension as the fact's last run saw it, if it has changed since."""
    known: DataFrame | None = None
    """What is known of each key that the current rows name: the business key, ``known_since`` (when the source first
    delivered it) and ``has_member`` (the dimension has a row of it)."""

    @property
    def key(self) -> str:
        """Its business key, as the dimension names it."""
        return self.definition.business_keys[0]


def without_unknown(events: DataFrame, dimensions: list[Dimension]) -> DataFrame:
    """Mark events whose key a dimension lacks as breaking ``<key>_is_known``, if the join says quarantine.

    The rule is checked on events and not on facts: an order whose newest row names a product that does not exist keeps
    its earlier status.

    Adds ``was_broken BOOLEAN``: whether the event broke this or another rule by the dimensions as they were ``before``.
    The answer depends on table versions alone, so a run that is repeated after a failure finds the same.
    """
    events = events.withColumn("was_broken", F.col("broken_rule").isNotNull())
    for dimension in (one for one in dimensions if one.join.unknown == "quarantine"):
        join, known = dimension.join, _known_keys(dimension)
        found = events.join(F.broadcast(known), F.col(join.key) == F.col("known_key"), "left")
        is_unknown = F.col("broken_rule").isNull() & F.col("is_known").isNull()
        sentence = F.concat(F.lit(f"{join.key} = "), F.col(join.key), F.lit(f": expected one of {join.dimension}"))
        events = (
            found.withColumn("reason", F.when(is_unknown, sentence).otherwise(F.col("reason")))
            .withColumn("broken_rule", F.when(is_unknown, F.lit(join.known_rule)).otherwise(F.col("broken_rule")))
            .withColumn("was_broken", F.col("was_broken") | F.col("was_known").isNull())
            .drop("known_key", "is_known", "was_known")
        )
    return events


def _known_keys(dimension: Dimension) -> DataFrame:
    """Return the keys of a dimension now and before: ``known_key``, ``is_known`` and ``was_known``, true or NULL."""
    known, key = F.lit(True), F.col(dimension.key).alias("known_key")
    if dimension.before is None:
        return dimension.table.select(key, known.alias("is_known"), known.alias("was_known")).distinct()
    return (
        dimension.table.select(key, known.alias("is_known"))
        .unionByName(dimension.before.select(key, known.alias("was_known")), allowMissingColumns=True)
        .groupBy("known_key")
        .agg(F.some("is_known").alias("is_known"), F.some("was_known").alias("was_known"))
    )


def early(events: DataFrame, dimensions: list[Dimension]) -> DataFrame:
    """Add ``is_early`` and ``is_unknown``, about an event's references to dimensions that take inferred members.

    *Early*: the event arrived before one of the things it names was first delivered. *Unknown*: a dimension has no row
    of one of them.
    """
    names = events.columns
    is_early, is_unknown = F.lit(False), F.lit(False)
    for number, dimension in enumerate(one for one in dimensions if one.known is not None):
        known = dimension.known.select(  # type: ignore[union-attr]
            F.col(dimension.key).alias(f"key_{number}"),
            F.col("known_since").alias(f"since_{number}"),
            F.col("has_member").alias(f"has_{number}"),
        )
        events = events.join(F.broadcast(known), F.col(dimension.join.key) == F.col(f"key_{number}"), "left")
        refers = F.col(dimension.join.key).isNotNull()
        is_early |= refers & F.coalesce(F.col(f"since_{number}") > F.col("ingested_at"), F.lit(True))
        is_unknown |= refers & F.col(f"has_{number}").isNull()
    return events.select(*names, is_early.alias("is_early"), is_unknown.alias("is_unknown"))


FLAGS = ("is_unknown", "is_before", "is_in_gap")
"""Findings of a lookup: the key has no version, no version that had begun, or none that was open."""


def looked_up(
    facts: DataFrame,
    definition: TableDefinition,
    dimensions: list[Dimension],
    among: DataFrame | None = None,
    also: tuple[str, ...] = (),
) -> DataFrame:
    """Add the columns that the joins take, and the derived columns.

    Args:
        facts: one row a key, with the carried columns.
        definition: the fact's definition.
        dimensions: one for each of its joins.
        among: rows with every key that the facts refer to, few in comparison to the dimensions. Each dimension is first
            filtered to these keys.
        also: further columns of the facts to keep.

    Returns:
        The fact table's columns in their order, and :data:`FLAGS`.
    """
    unknown, before, in_gap = F.lit(False), F.lit(False), F.lit(False)
    for number, dimension in enumerate(dimensions):
        join = dimension.join
        table = dimension.table
        if among is not None:
            wanted = among.select(F.col(join.key).alias(dimension.key)).distinct()
            table = table.join(F.broadcast(wanted), dimension.key, "left_semi")
        if join.as_of:
            table = scd2.as_of_lookup(table, dimension.definition, join.take)
        found = table.select([F.col(name).alias(f"d{number}_{name}") for name in table.columns])

        def its(name: str, number: int = number) -> Column:
            return F.col(f"d{number}_{name}")

        condition = F.col(join.key) == its(dimension.key)
        if join.as_of:
            instant = F.col(join.as_of)
            condition &= its("answers_from").isNull() | (instant >= its("answers_from"))
            condition &= its("answers_to").isNull() | (instant < its("answers_to"))
            before |= F.coalesce(instant < its("start_date"), F.lit(False))
            in_gap |= F.coalesce(instant >= its("end_date"), F.lit(False))
        facts = facts.join(F.broadcast(found), condition, "left")
        refers = F.col(join.key).isNotNull()
        if join.unknown == "infer":
            unknown |= refers & its(dimension.key).isNull()
        for name in join.take:
            value = its(name)
            if name == dimension.definition.surrogate_key:
                value = F.when(refers, F.coalesce(value, scd2.inferred_key(F.col(join.key))))
            facts = facts.withColumn(name, value)
    for derived in definition.derived_columns:
        facts = facts.withColumn(derived.name, F.expr(f"CAST({derived.expression} AS {derived.type})"))
    return facts.select(
        *column_order(definition),
        *also,
        unknown.alias("is_unknown"),
        before.alias("is_before"),
        in_gap.alias("is_in_gap"),
    )


def column_order(definition: TableDefinition) -> list[str]:
    """Return a fact table's columns: the carried ones, after each join key what it takes, then the derived ones."""
    order = []
    for name in definition.carried:
        order.append(name)
        order += [column for join in definition.dimension_joins if join.key == name for column in join.take]
    return [*order, *(derived.name for derived in definition.derived_columns)]


def moved_boundaries(
    feed: DataFrame, dimension: DataFrame, definition: TableDefinition, take: tuple[str, ...] = ()
) -> DataFrame:
    """Return the keys for which a lookup may now find another version or value, and from which instant on.

    Which version a lookup finds depends only on the starts of the key's versions. So what counts is which starts were
    added or removed, and which versions have another value in a taken column. A key without any earlier version is not
    returned: no fact can have found it. If the first start itself was added or removed, the time before it is touched
    too.

    Args:
        feed: the dimension's change data feed.
        dimension: the dimension after these changes.
        definition: the dimension's definition.
        take: the columns that the lookup takes.

    Returns:
        The business key and ``touched_from TIMESTAMP``, NULL for the beginning of time.
    """
    (key,) = definition.business_keys
    step = F.when(F.col("_change_type") == "insert", 1).when(F.col("_change_type") == "delete", -1).otherwise(0)
    # A new inferred member changes no lookup: the facts that needed it already point at it.
    news = feed.where(~(F.col("is_inferred") & (F.col("_change_type") == "insert")))
    is_old = F.col("_change_type").isin("delete", "update_preimage")
    taken = F.struct(F.lit(0), *(name for name in take if name != definition.surrogate_key))
    starts = (
        news.groupBy(key, "start_date")
        .agg(
            F.sum(step).alias("step"),
            F.min_by(taken, F.when(is_old, F.col("_commit_version"))).alias("was"),
            F.max_by(taken, F.when(~is_old, F.col("_commit_version"))).alias("now"),
        )
        .where("step != 0 OR was != now")
        .groupBy(key)
        .agg(
            F.min("start_date").alias("touched_from"),
            F.count_if(F.col("step") > 0).alias("came"),
            F.count_if(F.col("step") < 0).alias("went"),
        )
    )
    now = (
        dimension.join(F.broadcast(starts.select(key)), key, "left_semi")
        .groupBy(key)
        .agg(F.min("start_date").alias("first_start"), F.count(F.lit(1)).alias("versions"))
    )
    return (
        starts.join(F.broadcast(now), key, "left")
        .where("went > 0 OR versions > came")
        .select(key, F.when(F.col("touched_from") > F.col("first_start"), F.col("touched_from")).alias("touched_from"))
    )


def changed_values(feed: DataFrame, definition: TableDefinition, take: tuple[str, ...]) -> DataFrame:
    """Return the keys of a type 1 dimension that are new, were deleted, or have another value in a taken column."""
    (key,) = definition.business_keys
    by_version = Window.partitionBy(key).orderBy("_commit_version", "_change_type")
    everything = by_version.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    was = F.when(F.col("_change_type").isin("delete", "update_preimage"), F.struct(*take))
    now = F.when(F.col("_change_type").isin("insert", "update_postimage"), F.struct(*take))
    return (
        feed.select(
            key,
            F.first(was, ignorenulls=True).over(everything).alias("was"),
            F.last(now, ignorenulls=True).over(everything).alias("now"),
            F.some(F.col("_change_type") == "delete").over(everything).alias("was_deleted"),
        )
        .where(F.col("was_deleted") | ~F.col("was").eqNullSafe(F.col("now")))
        .select(key)
        .distinct()
    )
