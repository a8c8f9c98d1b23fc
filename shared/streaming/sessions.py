"""Sessions: the runs of one user's events in which no gap is as long as 30 minutes.

``session_window`` of Structured Streaming does this too, but it can only append: it holds a session back until the
watermark has passed its end, and it drops an event that is older than the watermark. Here an event may come at any
time. It can extend a session, begin one, or join two, and only sessions of its user near it can change. These are
recomputed from their events, and one MERGE applies the difference.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from shared import changes
from shared.catalog import instant
from shared.streaming.contracts import EVENTS, FUNNEL, GAP_MINUTES, SESSION_COLUMNS, SESSIONS
from shared.streaming.events import within

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import Column, DataFrame, SparkSession

GAP_LENGTH = timedelta(minutes=GAP_MINUTES)

IDENTITY = ("session_start_ts", "user_id")
"""The columns that identify a session. The instant is first: file statistics on it let a MERGE skip files."""


def sessionized(events: DataFrame) -> DataFrame:
    """Return the sessions of all users, without ``is_open``. A batch computation: it needs all their events.

    Args:
        events: with ``user_id, event_id, event_type, event_ts``.
    """
    user = Window.partitionBy("user_id").orderBy("event_ts", "event_id")
    begins = F.coalesce(F.col("event_ts") - F.lag("event_ts").over(user) >= _gap(), F.lit(True))
    numbered = events.withColumn("begins", begins.cast("int")).withColumn("number", F.sum("begins").over(user))
    step = F.array_position(F.array(*map(F.lit, FUNNEL)), F.col("event_type"))
    furthest = F.max(step).cast("int")
    return (
        numbered.groupBy("user_id", "number")
        .agg(
            F.min("event_ts").alias("session_start_ts"),
            F.max("event_ts").alias("session_end_ts"),
            F.count(F.lit(1)).alias("events"),
            F.count_if(F.col("event_type") == "page_view").alias("pages"),
            F.when(furthest > 0, F.element_at(F.array(*map(F.lit, FUNNEL)), furthest)).alias("funnel_step"),
            F.coalesce(F.bool_or(F.col("event_type") == "purchase"), F.lit(False)).alias("is_converted"),
        )
        .drop("number")
    )


def _gap() -> Column:
    return F.expr(f"INTERVAL {GAP_MINUTES} MINUTES")


def is_open(latest: Column) -> Column:
    """Return whether a session may still continue; ``latest`` is the latest event time of all users."""
    return F.col("session_end_ts") + _gap() > latest


def update(spark: SparkSession, touched: DataFrame, low: datetime, high: datetime) -> set[datetime]:
    """Update ``silver.clickstream_sessions`` from ``silver.clickstream_events``.

    Args:
        spark: the session.
        touched: ``user_id, low, high``: users with new events, the first and the last of these; one row a user.
        low: the first new event of all users.
        high: the last one.

    Returns:
        The hours whose sessions may have changed.
    """
    # The latest event time of all users, before the new events and now. If it was a gap or more before the first new
    # event, it changes nothing.
    held = spark.table(SESSIONS)
    before = held.where(f"session_end_ts > {instant(low - GAP_LENGTH)}").agg(F.max("session_end_ts")).first()
    assert before is not None
    latest = max(high, before[0] or high)
    # Open sessions that are closed now because event time has passed: those that ended less than a gap before the
    # previous latest event.
    due = f"is_open AND session_end_ts <= {instant(latest - GAP_LENGTH)}"
    if before[0]:
        due += f" AND session_end_ts > {instant(before[0] - GAP_LENGTH)}"
    # And sessions that the new events may reach.
    near = f"session_end_ts > {instant(low - GAP_LENGTH)} AND session_start_ts < {instant(high + GAP_LENGTH)}"
    reaches = (F.col("session_end_ts") + _gap() > F.col("low")) & (F.col("session_start_ts") - _gap() < F.col("high"))
    candidates = changes.kept(
        held.where(f"({due}) OR ({near})")
        .join(F.broadcast(touched), "user_id", "left")
        .withColumn("is_reached", F.coalesce(reaches, F.lit(False)))
        .where(f"is_reached OR ({due})")
    )
    found = candidates.agg(
        F.min(F.when(F.col("is_reached"), F.col("session_start_ts"))).alias("low"),
        F.max(F.when(F.col("is_reached"), F.col("session_end_ts"))).alias("high"),
        F.flatten(F.collect_set(F.when(F.col("is_reached"), _hours()))).alias("hours"),
    ).first()
    assert found is not None
    # The range of each user's new events and of the sessions they reach: other events are at least a gap away.
    reached = candidates.where("is_reached").select(*SESSION_COLUMNS)
    spans = (
        reached.select("user_id", "session_start_ts", "session_end_ts")
        .toDF("user_id", "low", "high")
        .unionByName(touched)
        .groupBy("user_id")
        .agg(F.min("low").alias("low"), F.max("high").alias("high"))
    )
    events = (
        spark.table(EVENTS)
        .where(within("event_ts", min(low, found["low"] or low), max(high, found["high"] or high)))
        .select("user_id", "event_id", "event_type", "event_ts")
        .join(F.broadcast(spans), "user_id")
        .where("event_ts BETWEEN low AND high")
    )
    others = candidates.where(~F.col("is_reached")).select(*SESSION_COLUMNS)
    desired = (
        sessionized(events).unionByName(others.drop("is_open")).withColumn("is_open", is_open(F.expr(instant(latest))))
    )
    changed = changes.kept(changes.differences(desired, candidates.select(*SESSION_COLUMNS), IDENTITY))
    extent = changed.agg(
        F.min("session_start_ts").alias("low"),
        F.max("session_start_ts").alias("high"),
        F.flatten(F.collect_set(_hours())).alias("hours"),
    ).first()
    assert extent is not None
    if extent["low"] is not None:
        changes.write(spark, SESSIONS, changed, IDENTITY, [(extent["low"], extent["high"])])
    return {*found["hours"], *extent["hours"]}


def _hours() -> Column:
    """Return all hours that a session covers.

    Not only the hour in which it starts. If a run is killed after the MERGE and repeated, it no longer sees where a
    session started before. But the old session lies within a session that is reached now.
    """
    first, last = F.date_trunc("hour", "session_start_ts"), F.date_trunc("hour", "session_end_ts")
    return F.sequence(first, last, F.expr("INTERVAL 1 HOUR"))
