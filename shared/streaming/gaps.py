"""Offsets that bronze does not hold: which they are, and why.

A hole in the offsets of a partition has one of three causes. First, Kafka's transaction markers, and messages of
aborted transactions: consumers get no message there, and nothing is lost. Second, messages that Kafka deleted before
they were read, because they were older than its retention: a stream stops there, and continues only if it is told to
accept the loss; then the gap is a row of ``ops.stream_gaps``. Third, a fault, which must not happen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from shared import catalog
from shared.errors import PipelineError
from shared.runtime import kafka
from shared.streaming.contracts import BRONZE, GAP_COLUMNS, GAPS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shared.runtime.kafka import Cluster


@dataclass(frozen=True, order=True)
class Gap:
    """Offsets of a partition that bronze does not hold."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    """The first offset after the gap."""

    @property
    def offsets(self) -> int:
        """How many offsets the gap has: at most as many messages are missing."""
        return self.to_offset - self.from_offset

    def holds(self, partition: int, offset: int) -> bool:
        """Whether an offset lies in the gap."""
        return partition == self.partition and self.from_offset <= offset < self.to_offset

    def __str__(self) -> str:
        return f"offsets {self.from_offset:,} to {self.to_offset - 1:,} of partition {self.partition}"


@dataclass(frozen=True)
class Account:
    """What bronze holds of a topic, and the cause of every hole in its offsets."""

    messages: int
    """Rows of bronze."""
    offsets: int
    """Offsets of the topic, from 0 to its end, in all partitions."""
    wrong: tuple[str, ...]
    """Partitions in which an offset is there more than once, or a message is missing."""
    missing: tuple[Gap, ...]
    """Kafka holds a message here that bronze lacks, perhaps a very new one; or Kafka no longer has these offsets."""
    accepted: tuple[Gap, ...]
    """Gaps that Kafka deleted before they were read, as ``ops.stream_gaps`` says."""
    empty: tuple[Gap, ...]
    """Gaps without a message: Kafka's transaction markers, and aborted messages."""


def account(rows: DataFrame, cluster: Cluster, topic: str) -> Account:
    """Compare the rows of bronze with all offsets of a topic, for law 6.

    Kafka is asked about holes only: a consumer of committed messages must find none there.

    Raises:
        BrokerError: if the cluster does not answer, or has no such topic.
    """
    ends = kafka.end_offsets(cluster, topic)
    found = rows.groupBy("partition").agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_distinct("offset").alias("distinct"),
        F.min("offset").alias("first"),
        F.max("offset").alias("last"),
    )
    held = {row["partition"]: row for row in found.collect()}
    numbers = {one: (row["rows"], row["distinct"], row["first"], row["last"]) for one, row in held.items()}
    missing: list[Gap] = []
    accepted: list[Gap] = []
    empty: list[Gap] = []
    if any(end and numbers.get(one) != (end, end, 0, end - 1) for one, end in ends.items()):
        accepted = recorded(rows.sparkSession, topic)
        others = without(holes(rows, topic, dict.fromkeys(ends, 0), ends), accepted)
        kept = kafka.first_offsets(cluster, topic)
        asked = [one for one in others if one.from_offset >= kept[one.partition]]
        spans = [(one.partition, one.from_offset, one.to_offset) for one in asked]
        there = kafka.messages_within(cluster, topic, spans) if spans else []
        empty = [one for one in asked if not any(one.holds(*place) for place in there)]
        missing = sorted(set(others) - set(empty))
    wrong = []
    for partition, end in sorted(ends.items()):
        row = held.get(partition)
        lacks = any(gap.partition == partition for gap in missing)
        if row is None and lacks:
            wrong.append(f"nothing of partition {partition}, of {end:,}")
        elif row is not None and (lacks or row["rows"] != row["distinct"] or row["last"] >= end):
            wrong.append(
                f"partition {partition}: {row['rows']:,} rows, {row['distinct']:,} offsets from {row['first']:,} to "
                f"{row['last']:,}, of {end:,}"
            )
    messages = sum(row["rows"] for row in held.values())
    return Account(messages, sum(ends.values()), tuple(wrong), tuple(missing), tuple(accepted), tuple(empty))


def position(checkpoint: Path, topic: str) -> dict[int, int] | None:
    """Return the offset after the last one that the stream to bronze read, by partition; None before its first run.

    Args:
        checkpoint: the query's own directory.
        topic: the topic.
    """
    done = max((int(file.name) for file in checkpoint.glob("commits/[0-9]*")), default=None)
    noted = checkpoint / "sources/0/0" if done is None else checkpoint / "offsets" / str(done)
    if not noted.is_file():
        return None
    # The lines above hold the version of the format, and Spark's metadata of the batch.
    offsets = json.loads(noted.read_text(encoding="utf-8").splitlines()[-1])
    return {int(partition): offset for partition, offset in offsets.get(topic, {}).items()}


def deleted(spark: SparkSession, cluster: Cluster, topic: str, checkpoint: Path) -> list[Gap]:
    """Return the gaps ahead of the stream to bronze: offsets that it never read and the topic no longer has.

    Raises:
        BrokerError: if the cluster does not answer, or has no such topic.
    """
    read = position(checkpoint, topic)
    if read is None:
        return []  # the first run begins with the first message that is there
    first = kafka.first_offsets(cluster, topic)
    ahead = {partition: offset for partition, offset in first.items() if offset > read.get(partition, 0)}
    if not ahead:
        return []
    # A batch that was killed after its write, and before the checkpoint recorded it, has been read too.
    newest = spark.table(BRONZE).groupBy("partition").agg(F.max("offset").alias("offset")).collect()
    held = {row["partition"]: row["offset"] + 1 for row in newest}
    gaps = (Gap(topic, one, max(read.get(one, 0), held.get(one, 0)), offset) for one, offset in sorted(ahead.items()))
    return [gap for gap in gaps if gap.offsets > 0]


def stopped(gaps: Sequence[Gap]) -> PipelineError:
    """Return the error that says which messages are gone, and how to go on."""
    listed = ", ".join(map(str, gaps))
    where = f": {listed}" if gaps else ", or the topic was removed and made again"
    return PipelineError(
        "Messages that were never read are gone from the topic, because Kafka keeps them for "
        f"{kafka.RETENTION_HOURS} h only{where}.",
        f"`shopmetrics stream run --accept-loss` goes on with what is still there, and records the gap in {GAPS}; "
        f"`shopmetrics reset {BRONZE}` would remove the clickstream's tables, with all that Kafka no longer has",
    )


def record(spark: SparkSession, gaps: Iterable[Gap]) -> None:
    """Make sure that these gaps are in ``ops.stream_gaps``, each once; a gap that has grown replaces its old row."""
    rows = [(gap.topic, gap.partition, gap.from_offset, gap.to_offset) for gap in gaps]
    if not rows:
        return
    catalog.create_table(spark, GAPS, GAP_COLUMNS, "Messages that Kafka had deleted before they were read.")
    spark.sql(
        f"MERGE INTO {GAPS} AS t USING {{gaps}} AS g "
        "ON t.topic = g.topic AND t.partition = g.partition AND t.from_offset = g.from_offset "
        "WHEN MATCHED AND t.to_offset < g.to_offset THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *",
        gaps=spark.createDataFrame(rows, catalog.schema_of(GAP_COLUMNS)),
    )


def settled(spark: SparkSession, cluster: Cluster, topic: str, since: Mapping[int, int], checkpoint: Path) -> list[Gap]:
    """Record what else was lost during a run that accepts losses, and return all gaps of that run.

    Kafka may have deleted more during the run. In a hole, the offsets before the first one that Kafka still has count
    as lost. The later ones could be read, so they hold no message.

    Args:
        spark: the session.
        cluster: where the topic is.
        topic: the topic.
        since: where the run began, by partition.
        checkpoint: the query's own directory, which says where the run ended.
    """
    first, ends = kafka.first_offsets(cluster, topic), position(checkpoint, topic) or {}
    for hole in holes(spark.table(BRONZE), topic, {one: since.get(one, 0) for one in ends}, ends):
        end = min(hole.to_offset, first[hole.partition])
        if end > hole.from_offset:
            record(spark, [Gap(topic, hole.partition, hole.from_offset, end)])
    return [gap for gap in recorded(spark, topic) if gap.from_offset >= since.get(gap.partition, 0)]


def recorded(spark: SparkSession, topic: str) -> list[Gap]:
    """Return the gaps of a topic in ``ops.stream_gaps``, in their order."""
    if not catalog.table_exists(spark, GAPS):
        return []
    rows = spark.table(GAPS).where(f"topic = {catalog.sql_literal(topic)}").collect()
    return sorted(Gap(**row.asDict()) for row in rows)


def holes(rows: DataFrame, topic: str, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[Gap]:
    """Return the ranges of offsets that rows of bronze lack, from where each partition begins to its end."""
    before = F.lag("offset", 1, -1).over(Window.partitionBy("partition").orderBy("offset"))
    follows = rows.select("partition", "offset", before.alias("before"))
    found = [
        (row["partition"], row["before"] + 1, row["offset"]) for row in follows.where("offset > before + 1").collect()
    ]
    newest = rows.groupBy("partition").agg(F.max("offset").alias("offset")).collect()
    next_of = {row["partition"]: row["offset"] + 1 for row in newest}
    found += [(partition, next_of.get(partition, 0), end) for partition, end in ends.items()]
    cut = (
        Gap(topic, one, max(start, begins.get(one, 0)), min(end, ends[one])) for one, start, end in found if one in ends
    )
    return sorted(gap for gap in cut if gap.offsets > 0)


def without(gaps: Iterable[Gap], others: Sequence[Gap]) -> list[Gap]:
    """Return the parts of these gaps that lie outside of the others."""
    left = list(gaps)
    for other in others:
        parts = []
        for gap in left:
            if gap.partition != other.partition:
                parts.append(gap)
                continue
            before = (gap.from_offset, min(gap.to_offset, other.from_offset))
            after = (max(gap.from_offset, other.to_offset), gap.to_offset)
            parts += [Gap(gap.topic, gap.partition, *part) for part in (before, after) if part[0] < part[1]]
        left = parts
    return left
