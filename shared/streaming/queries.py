"""The two streams: Kafka to bronze, and bronze to silver and gold. Each runs until it has read everything, or for ever.

The same functions serve both modes: ``availableNow`` reads what is there and stops, which notebooks, schedules and
Databricks Free Edition need; a processing-time trigger continues. Every checkpoint is explicit, and has a note of the
tables and the topic that it belongs to: with another table it would skip records, or deliver them twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pyspark.sql import functions as F

from shared import catalog, changes, checkpoints, quarantine
from shared.errors import PipelineError
from shared.runtime import kafka
from shared.runtime.kafka import TOPIC
from shared.settings import Settings, get_settings
from shared.streaming import bronze, events, gaps, sessions, traffic
from shared.streaming.contracts import (
    BRONZE,
    BRONZE_COLUMNS,
    EVENT_COLUMNS,
    EVENTS,
    GAPS,
    LOG,
    LOG_COLUMNS,
    SESSION_COLUMNS,
    SESSIONS,
    TRAFFIC,
    TRAFFIC_COLUMNS,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming import StreamingQuery

    from shared.runtime.kafka import Cluster

BYTES_PER_BATCH = "24m"
"""One micro-batch of silver and gold reads about this many bytes of bronze: some 200,000 events."""

# A live stream commits every second or two. Without this, a table would have thousands of small files after a day.
_STREAMING = {"delta.autoOptimize.autoCompact": "true"}


@dataclass(frozen=True)
class Stream:
    """One stream: its name, and the tables that it alone writes."""

    name: str
    tables: tuple[str, ...]

    def checkpoint(self, settings: Settings) -> Path:
        """Return the directory in which the stream keeps its progress."""
        return settings.checkpoints / "streaming" / self.name

    def query_checkpoint(self, settings: Settings) -> Path:
        """Return the subdirectory of it that Spark's query writes."""
        return checkpoints.of_query(self.checkpoint(settings))


TO_BRONZE = Stream("bronze", (BRONZE,))
TO_GOLD = Stream("silver_gold", (EVENTS, SESSIONS, TRAFFIC))

STREAMS = (TO_BRONZE, TO_GOLD)
"""In the order in which events pass through them."""


def create_tables(spark: SparkSession) -> None:
    """Make sure that the clickstream's tables exist, with their comments."""
    append_only = {"delta.appendOnly": "true"}
    for table, columns, comment, properties in (
        (BRONZE, BRONZE_COLUMNS, "Clickstream as received: one row a Kafka record.", append_only),
        (EVENTS, EVENT_COLUMNS, "Clickstream: each event once.", append_only),
        (SESSIONS, SESSION_COLUMNS, "Visits: runs of one user's events without a gap of 30 minutes.", {}),
        (TRAFFIC, TRAFFIC_COLUMNS, "Traffic of the web site by the hour.", {}),
        (LOG, LOG_COLUMNS, "What the streams did: one row for each micro-batch that reached gold.", append_only),
    ):
        catalog.create_table(spark, table, columns, comment, properties=_STREAMING | properties)
    quarantine.create_table(spark)


def start_bronze(
    spark: SparkSession,
    cluster: Cluster,
    settings: Settings | None = None,
    *,
    topic: str = TOPIC,
    interval: float | None = None,
    records_per_batch: int | None = None,
    accept_loss: bool = False,
) -> StreamingQuery:
    """Start the stream from Kafka to ``bronze.clickstream_raw``, and return it.

    Args:
        spark: the session.
        cluster: where the topic is.
        settings: the home; defaults to this process's settings.
        topic: the topic.
        interval: seconds between micro-batches of a query that does not end; None reads what is there and ends.
        records_per_batch: records in one micro-batch at most.
        accept_loss: if Kafka has deleted messages that were never read, record them in ``ops.stream_gaps`` and go on
            from what is there.

    Raises:
        BrokerError: if the cluster does not answer or has no such topic.
        PipelineError: if table, topic and checkpoint do not belong together, or messages that were never read are gone.
    """
    settings = settings or get_settings()
    topic_id, _ = kafka.topic_identity(cluster, topic)
    checkpoint = _checkpoint(spark, TO_BRONZE, settings, {f"topic {topic}": topic_id})
    gone = gaps.deleted(spark, cluster, topic, Path(checkpoint))
    if gone and not accept_loss:
        raise gaps.stopped(gone)
    # First: a run that is killed after the gap would not find it again.
    gaps.record(spark, gone)
    rows = bronze.parsed(bronze.read_topic(spark, cluster, topic, records_per_batch, skips_what_is_gone=accept_loss))
    if interval is not None:
        rows = rows.coalesce(1)  # of a second or two: one small file, not one for each partition of the topic
    writer = rows.writeStream.format("delta").queryName("clickstream_bronze")
    return _triggered(writer.option("checkpointLocation", checkpoint), interval).toTable(BRONZE)


def start_silver_gold(
    spark: SparkSession, settings: Settings | None = None, *, interval: float | None = None
) -> StreamingQuery:
    """Start the stream from bronze to events, sessions and hourly traffic, and return it.

    Args:
        spark: the session.
        settings: the home; defaults to this process's settings.
        interval: seconds between micro-batches of a query that does not end; None reads what is there and ends.

    Raises:
        PipelineError: if tables and checkpoint do not belong together.
    """
    settings = settings or get_settings()
    checkpoint = _checkpoint(spark, TO_GOLD, settings, {BRONZE: catalog.identity(spark, BRONZE)[0]})
    rows = spark.readStream.option("maxBytesPerTrigger", BYTES_PER_BATCH).table(BRONZE)
    writer = rows.writeStream.queryName("clickstream_silver_gold").foreachBatch(apply)
    return _triggered(writer.option("checkpointLocation", checkpoint), interval).start()


def apply(batch: DataFrame, batch_id: int) -> None:
    """Update silver and gold by one micro-batch of bronze. The engine calls this.

    Every step compares with what the tables hold already, so a batch that was killed halfway and is run again ends in
    the same tables.

    Args:
        batch: rows of ``bronze.clickstream_raw``.
        batch_id: number of the micro-batch.
    """
    spark, begun = batch.sparkSession, time.time()
    examined = events.examined(batch)
    # Only a message that is set aside needs its bytes again.
    examined = examined.withColumn("raw_value", F.when(F.col("broken_rule").isNotNull(), F.col("raw_value")))
    examined = changes.kept(examined)
    is_good = F.col("broken_rule").isNull()
    good_ts = F.when(is_good, F.col("event_ts"))
    produced = F.unix_millis("kafka_ts")
    found = examined.agg(
        F.count(F.lit(1)).alias("read"),
        F.count_if(~is_good).alias("quarantined"),
        F.min(good_ts).alias("low"),
        F.max(good_ts).alias("high"),
        F.collect_set(F.date_trunc("hour", good_ts)).alias("hours"),
        F.percentile_approx(produced, [0.0, 0.01, 0.5]).alias("produced"),
    ).first()
    assert found is not None
    if not found["read"]:
        return  # Bronze was compacted: new files, but no new rows, so there is nothing to log.
    accepted = 0
    if found["quarantined"]:
        events.set_aside(spark, events.quarantined(examined, f"stream batch {batch_id}"))
    if found["low"] is not None:
        accepted = events.append_new(spark, events.accepted(examined), found["low"], found["high"])
        touched = (
            examined.where(is_good)
            .groupBy("user_id")
            .agg(F.min("event_ts").alias("low"), F.max("event_ts").alias("high"))
        )
        started = sessions.update(spark, touched, found["low"], found["high"])
        traffic.update(spark, {*found["hours"], *started})
    ended = time.time()
    slowest, slow, median = (round(ended - moment / 1000, 3) for moment in found["produced"])
    duplicates = found["read"] - found["quarantined"] - accepted
    row = (
        batch_id,
        datetime.fromtimestamp(ended, UTC),
        round(ended - begun, 3),
        found["read"],
        accepted,
        found["quarantined"],
        duplicates,
        median,
        slow,
        slowest,
    )
    spark.createDataFrame([row], catalog.schema_of(LOG_COLUMNS)).writeTo(LOG).append()


def reset(spark: SparkSession, table: str, settings: Settings | None = None) -> list[str]:
    """Remove a table of the clickstream, its stream's other tables, all tables made from them, and the checkpoints.

    Never a table without its checkpoint: without its checkpoint a table would be filled twice, without its table a
    checkpoint would skip every record. The rows that the stream to gold has quarantined and logged are removed too.
    Returns the names of the removed tables that events pass through; the next run rebuilds them.

    Raises:
        PipelineError: if the streams run in another process.
    """
    settings = settings or get_settings()
    first = next(number for number, stream in enumerate(STREAMS) if table in stream.tables)
    with alone(settings):
        return _remove(spark, STREAMS[first:], settings)


def _remove(spark: SparkSession, streams: Sequence[Stream], settings: Settings) -> list[str]:
    for stream in reversed(streams):
        shutil.rmtree(stream.checkpoint(settings), ignore_errors=True)
        for name in stream.tables:
            catalog.drop_table(spark, name, settings)
    if TO_BRONZE in streams:
        # The recorded gaps go too: the next run may find their offsets again, or begin after them.
        catalog.drop_table(spark, GAPS, settings)
    # The log has the batch numbers of the removed checkpoint; the next checkpoint begins at 0 again.
    catalog.drop_table(spark, LOG, settings)
    quarantine.forget(spark, EVENTS)
    return [name for stream in streams for name in stream.tables]


def mend(spark: SparkSession, settings: Settings) -> dict[str, str]:
    """Repair the clickstream's tables, if something else has changed them since the streams last wrote to them.

    Rows that bronze has lost are restored. If bronze or one of the other tables was changed, by a RESTORE or a DELETE
    for instance, the tables after bronze are removed, and the next run of the stream makes them from all of bronze. The
    caller must hold the streams' lock, see :func:`alone`.

    Returns:
        Table to what was found and done; tables that nothing else has changed are not in it.

    Raises:
        CatalogError: if former rows of bronze can no longer be restored.
    """
    there = [name for stream in STREAMS for name in stream.tables if catalog.table_exists(spark, name)]
    told = {name: done for name in TO_BRONZE.tables if name in there and (done := catalog.mended(spark, name))}
    found = [*told] or [f"{name} by {by}" for name in TO_GOLD.tables if name in there and (by := _changed(spark, name))]
    if found:
        _remove(spark, [TO_GOLD], settings)
        told |= dict.fromkeys(TO_GOLD.tables, f"made from all of {BRONZE}, since somebody had changed {found[0]}")
    return told


_WRITTEN_BY = {EVENTS: "WRITE", SESSIONS: "MERGE", TRAFFIC: "WRITE"}
"""Table to the operation by which the stream to silver and gold writes it."""


def _changed(spark: SparkSession, table: str) -> str:
    """Return the commit that last changed a table, if it was not the stream's; else empty."""
    commit = catalog.last_change(spark, table)
    is_its_own = commit is None or commit.operation in ("CREATE TABLE", _WRITTEN_BY[table])
    return "" if is_its_own else str(commit)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Keep other processes from running or resetting the streams of this home during the block.

    Raises:
        PipelineError: if another process does.
    """
    settings.run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.run / "stream.lock")
    try:
        lock.acquire(timeout=1.0)
    except Timeout:
        raise PipelineError(
            "The streams of this home already run in another process.",
            "end that one (Ctrl-C, where `shopmetrics stream run --live` runs), then run again",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _triggered(writer: Any, interval: float | None) -> Any:
    if interval is None:
        return writer.trigger(availableNow=True)
    return writer.trigger(processingTime=f"{round(interval * 1000)} milliseconds")


def _checkpoint(spark: SparkSession, stream: Stream, settings: Settings, source: dict[str, str]) -> str:
    found = {table: catalog.identity(spark, table) for table in stream.tables}
    identities = source | {table: table_id for table, (table_id, _) in found.items()}
    filled = [table for table, (_, version) in found.items() if version > 0]
    advice = f"`shopmetrics reset {stream.tables[0]}` removes tables and checkpoint together; then run again"
    return checkpoints.claimed(stream.checkpoint(settings), identities, filled, advice)
