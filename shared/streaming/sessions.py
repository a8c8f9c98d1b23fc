"""Sessions: the runs of one user's events in which no gap is as long as 30 minutes.

``session_window`` of Structured Streaming does this too, but it can only add: it holds a session back until the
watermark has passed its end, and an event that is later than the watermark is dropped. Here an event may come at any
time. It can lengthen a session, begin one, or join two, and only sessions of its user near it can change; these are
computed anew from their events, and one MERGE makes the difference.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from shared import changes
from shared.streaming.contracts import EVENTS, FUNNEL, GAP_MINUTES, SESSION_COLUMNS, SESSIONS
from shared.streaming.events import instant, within

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import Column, DataFrame, SparkSession

GAP_LENGTH = timedelta(minutes=GAP_MINUTES)

IDENTITY = ("session_start_ts", "user_id")
"""What names a session. The instant first: it is what files can be told apart by."""


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
    """Return whether a session may still go on, ``latest`` being the latest event time of all users."""
    return F.col("session_end_ts") + _gap() > latest


def update(spark: SparkSession, touched: DataFrame, low: datetime, high: datetime) -> set[datetime]:
    """Bring ``silver.clickstream_sessions`` up to ``silver.clickstream_events``.

    Args:
        spark: the session.
        touched: ``user_id, low, high``: users with new events, the first and the last of these; one row a user.
        low: the first new event of all users.
        high: the last one.

    Returns:
        The hours in which sessions start, or started, that may have changed.
    """
    # Sessions that the new events may reach, and those still open, which time alone may close.
    reaches = (F.col("session_end_ts") + _gap() > F.col("low")) & (F.col("session_start_ts") - _gap() < F.col("high"))
    near = f"session_end_ts > {instant(low - GAP_LENGTH)} AND session_start_ts < {instant(high + GAP_LENGTH)}"
    candidates = changes.kept(
        spark.table(SESSIONS)
        .where(f"is_open OR ({near})")
        .join(F.broadcast(touched), "user_id", "left")
        .withColumn("is_reached", F.coalesce(reaches, F.lit(False)))
        .where("is_open OR is_reached")
    )
    reached_start = F.when(F.col("is_reached"), F.col("session_start_ts"))
    found = candidates.agg(
        F.max("session_end_ts").alias("latest"),
        F.min("session_start_ts").alias("first"),
        F.max("session_start_ts").alias("last"),
        F.min(reached_start).alias("low"),
        F.max(F.when(F.col("is_reached"), F.col("session_end_ts"))).alias("high"),
        F.collect_set(F.date_trunc("hour", reached_start)).alias("hours"),
    ).first()
    assert found is not None
    latest = F.expr(instant(max(high, found["latest"] or high)))
    # Each user's new events, and the sessions they reach: what lies outside is at least a gap away.
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
    made = changes.kept(sessionized(events).withColumn("is_open", is_open(latest)).select(*SESSION_COLUMNS))
    started = made.agg(F.collect_set(F.date_trunc("hour", "session_start_ts")).alias("hours")).first()
    assert started is not None
    gone = reached.join(made, list(IDENTITY), "left_anti").select(*SESSION_COLUMNS)
    closed = candidates.where(~F.col("is_reached") & ~is_open(latest)).withColumn("is_open", F.lit(False))
    _merge(
        spark,
        made.unionByName(closed.select(*SESSION_COLUMNS))
        .withColumn("is_gone", F.lit(False))
        .unionByName(gone.withColumn("is_gone", F.lit(True))),
        min(low, found["first"] or low),
        # A late event may take the place of a start that comes after it.
        max(high, found["last"] or high),
    )
    return {*found["hours"], *started["hours"]}


def _merge(spark: SparkSession, sessions: DataFrame, low: datetime, high: datetime) -> None:
    """Write these sessions, all of which start between two instants, by one MERGE; none if they are there already."""
    same = " AND ".join(f"t.{name} <=> s.{name}" for name in SESSION_COLUMNS)
    assignments = ", ".join(f"t.{name} = s.{name}" for name in SESSION_COLUMNS)
    spark.sql(
        f"MERGE INTO {SESSIONS} AS t USING {{sessions}} AS s "
        f"ON t.user_id = s.user_id AND t.session_start_ts = s.session_start_ts "
        f"AND {within('t.session_start_ts', low, high)} "
        "WHEN MATCHED AND s.is_gone THEN DELETE "
        f"WHEN MATCHED AND NOT ({same}) THEN UPDATE SET {assignments} "
        f"WHEN NOT MATCHED AND NOT s.is_gone THEN INSERT ({', '.join(SESSION_COLUMNS)}) "
        f"VALUES ({', '.join(f's.{name}' for name in SESSION_COLUMNS)})",
        sessions=sessions,
    )
