"""Traffic by the hour: recomputed for the hours that new events and changed sessions touch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared import changes
from shared.streaming.contracts import EVENTS, SESSIONS, TRAFFIC, TRAFFIC_COLUMNS
from shared.streaming.events import instant

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HOUR = timedelta(hours=1)


def measured(events: DataFrame, sessions: DataFrame) -> DataFrame:
    """Return one row for each hour that has events: ``gold.hourly_traffic_metrics`` as a batch computes it.

    Args:
        events: with ``event_ts, event_type, user_id``; all of each hour that occurs in them.
        sessions: with ``session_start_ts, is_converted``; all that start in one of these hours.
    """

    def of_type(name: str) -> F.Column:
        return F.count_if(F.col("event_type") == name)

    visits = events.groupBy(F.date_trunc("hour", "event_ts").alias("hour_ts")).agg(
        F.count(F.lit(1)).alias("events"),
        of_type("page_view").alias("page_views"),
        F.countDistinct("user_id").alias("visitors"),
        of_type("add_to_cart").alias("add_to_carts"),
        of_type("purchase").alias("purchases"),
    )
    begun = sessions.groupBy(F.date_trunc("hour", "session_start_ts").alias("hour_ts")).agg(
        F.count(F.lit(1)).alias("sessions"), F.count_if("is_converted").alias("converted")
    )
    kind = TRAFFIC_COLUMNS["conversion"][0]
    return (
        visits.join(begun, "hour_ts", "left")
        .withColumn("conversion", F.expr(f"CAST(converted / sessions AS {kind})"))
        .withColumn("sessions", F.coalesce("sessions", F.lit(0)))
        .select(*TRAFFIC_COLUMNS)
    )


def update(spark: SparkSession, hours: Iterable[datetime]) -> None:
    """Recompute these hours of ``gold.hourly_traffic_metrics`` from silver, and make the difference by one MERGE."""
    wanted = sorted(set(hours))
    if not wanted:
        return
    listed = ", ".join(map(instant, wanted))

    def of_these(column: str) -> str:
        # The bounds are for the files' statistics, which know nothing of hours.
        bounds = f"{column} >= {instant(wanted[0])} AND {column} < {instant(wanted[-1] + HOUR)}"
        return f"{bounds} AND date_trunc('hour', {column}) IN ({listed})"

    desired = measured(
        spark.table(EVENTS).where(of_these("event_ts")), spark.table(SESSIONS).where(of_these("session_start_ts"))
    )
    current = spark.table(TRAFFIC).where(f"hour_ts IN ({listed})")
    changed = changes.kept(changes.differences(desired, current, ["hour_ts"]))
    changes.merge(spark, TRAFFIC, changed, ["hour_ts"])
