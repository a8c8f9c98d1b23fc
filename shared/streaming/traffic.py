"""Traffic by the hour: recomputed for the hours that new events and changed sessions touch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared import catalog
from shared.catalog import instant
from shared.interpreted import compiled
from shared.streaming.contracts import EVENTS, SESSIONS, TRAFFIC, TRAFFIC_COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

HOUR = timedelta(hours=1)

MANY_EVENTS = 50_000
"""If the hours have at least this many events, the query that reads them is compiled: 200,000 events then take half the
time, 700,000 a third."""


def measured(events: DataFrame, sessions: DataFrame) -> DataFrame:
    """Return one row for each hour that has events: ``gold.hourly_traffic_metrics`` as a batch computes it.

    Args:
        events: with ``event_ts, event_type, user_id``; all events of each hour that occurs in them.
        sessions: with ``session_start_ts, is_converted``; all that start in one of these hours.
    """

    nothing = F.lit(None)
    visits = events.select(
        F.date_trunc("hour", "event_ts").alias("hour_ts"), "user_id", "event_type", nothing.alias("is_converted")
    )
    begun = sessions.select(
        F.date_trunc("hour", "session_start_ts").alias("hour_ts"), nothing.alias("user_id"), nothing, "is_converted"
    )

    def of_type(name: str, column: str) -> Column:
        return F.count_if(F.col("event_type") == name).alias(column)

    # First one row per user and hour: so distinct users are counted without collecting all of them in one place.
    each = (
        visits.union(begun)
        .groupBy("hour_ts", "user_id")
        .agg(
            F.count("event_type").alias("events"),
            of_type("page_view", "page_views"),
            of_type("add_to_cart", "add_to_carts"),
            of_type("purchase", "purchases"),
            F.count("is_converted").alias("sessions"),
            F.count_if("is_converted").alias("converted"),
        )
    )
    summed = ("events", "page_views", "sessions", "add_to_carts", "purchases", "converted")
    kind = TRAFFIC_COLUMNS["conversion"][0]
    return (
        each.groupBy("hour_ts")
        .agg(*(F.sum(name).alias(name) for name in summed), F.count("user_id").alias("visitors"))
        .withColumn("conversion", F.expr(f"CAST(try_divide(converted, sessions) AS {kind})"))
        .select(*TRAFFIC_COLUMNS)
    )


def update(spark: SparkSession, hours: Iterable[datetime]) -> None:
    """Recompute these hours of ``gold.hourly_traffic_metrics`` from silver, and replace those that differ."""
    wanted = sorted(set(hours))
    if not wanted:
        return
    listed = ", ".join(map(instant, wanted))

    def of_these(column: str) -> str:
        # The bounds are for the file statistics, which cannot answer date_trunc.
        bounds = f"{column} >= {instant(wanted[0])} AND {column} < {instant(wanted[-1] + HOUR)}"
        return f"{bounds} AND date_trunc('hour', {column}) IN ({listed})"

    desired = measured(
        spark.table(EVENTS).where(of_these("event_ts")), spark.table(SESSIONS).where(of_these("session_start_ts"))
    )
    # One row per hour: to compare them here, and to send only what differs, needs no join.
    there = {row["hour_ts"]: row for row in spark.table(TRAFFIC).where(f"hour_ts IN ({listed})").collect()}
    with compiled(spark, sum(row["events"] for row in there.values()) >= MANY_EVENTS):
        changed = [row for row in desired.collect() if row != there.get(row["hour_ts"])]
    if changed:
        rows = spark.createDataFrame(changed, catalog.schema_of(TRAFFIC_COLUMNS))
        rows.writeTo(TRAFFIC).overwrite(F.col("hour_ts").isin([row["hour_ts"] for row in changed]))
