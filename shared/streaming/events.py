"""Turn messages into events: a message that breaks a rule is set aside, and each event is there once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Observation
from pyspark.sql import functions as F

from shared import rules
from shared.catalog import instant
from shared.quarantine import QUARANTINE, QUARANTINE_COLUMNS
from shared.streaming.contracts import EVENT_COLUMNS, EVENTS, RULES

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import DataFrame, SparkSession


def examined(messages: DataFrame) -> DataFrame:
    """Add ``broken_rule STRING`` and ``reason STRING``: the first rule that a message breaks, else NULL."""
    return rules.examined(messages, RULES)


def accepted(messages: DataFrame) -> DataFrame:
    """Return the events of examined messages, each once: of repeated ones, the first by partition and offset.

    An event is identified by ``event_id`` and ``event_ts``; a producer that sends both again means the same act.
    """
    first = F.min_by(F.struct(*EVENT_COLUMNS), F.struct("partition", "offset")).alias("event")
    return messages.where("broken_rule IS NULL").groupBy("event_id", "event_ts").agg(first).select("event.*")


def quarantined(messages: DataFrame, run_id: str) -> DataFrame:
    """Return the examined messages that broke a rule, as rows of ``silver.quarantine``."""
    return (
        messages.where("broken_rule IS NOT NULL")
        .withColumn("table_name", F.lit(EVENTS))
        .withColumn("business_key", F.col("event_id"))
        .withColumn("rule", F.col("broken_rule"))
        .withColumn("severity", F.lit("quarantine"))
        # The bytes as base64: JSON cannot hold bytes that are not text.
        .withColumn(
            "row_json",
            F.to_json(
                F.struct(*EVENT_COLUMNS, "_malformed", F.base64("raw_value").alias("raw_value")),
                {"ignoreNullFields": "false"},
            ),
        )
        .withColumn("source", F.concat_ws("/", "topic", "partition", "offset"))
        .withColumn("run_id", F.lit(run_id))
        .withColumn("released_by", F.lit(None).cast("string"))
        .select(*QUARANTINE_COLUMNS)
    )


def append_new(spark: SparkSession, events: DataFrame, low: datetime, high: datetime) -> int:
    """Add the events that ``silver.clickstream_events`` does not hold yet, and return how many there were.

    A repeated call adds nothing. ``low`` and ``high`` are the first and the last instant of the events. Only files that
    may hold an instant between them are read, however long the history is.
    """
    there = spark.table(EVENTS).where(within("event_ts", low, high)).select("event_id", "event_ts")
    added = Observation()
    new = events.join(there, ["event_id", "event_ts"], "left_anti").select(*EVENT_COLUMNS)
    new.observe(added, F.count(F.lit(1)).alias("rows")).writeTo(EVENTS).append()
    return int(added.get["rows"])


def set_aside(spark: SparkSession, rows: DataFrame) -> None:
    """Add the rows that ``silver.quarantine`` does not hold yet; ``source`` identifies a message."""
    there = spark.table(QUARANTINE).where(F.col("table_name") == EVENTS).select("source")
    rows.join(there, ["source"], "left_anti").select(*QUARANTINE_COLUMNS).writeTo(QUARANTINE).append()


def within(column: str, low: datetime, high: datetime) -> str:
    """Return the SQL condition that an instant is between two others. File statistics can answer it."""
    return f"{column} BETWEEN {instant(low)} AND {instant(high)}"
