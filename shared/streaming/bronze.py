"""Kafka to bronze: every record of the topic once, whatever its content.

Structured Streaming reads the topic from the offsets in its checkpoint, and Delta's sink records the number of the
micro-batch in the same commit as its rows. So every offset is there once, even if the stream is killed at any point and
run again. No rule is checked here. A record that is not JSON is a row too, with its bytes; the stream to silver sets it
aside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared.streaming.contracts import BRONZE_COLUMNS, EVENT_COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shared.runtime.kafka import Cluster

RECORDS_PER_BATCH = 200_000
"""At most this many records in one micro-batch: it limits the memory of a stream that catches up."""

# A missing broker must be noticed soon: by default a client retries for minutes before it gives up.
_TIMEOUTS = {
    "kafka.default.api.timeout.ms": "20000",
    "kafka.request.timeout.ms": "10000",
    "fetchOffset.numRetries": "2",
}


def read_topic(
    spark: SparkSession,
    cluster: Cluster,
    topic: str,
    records_per_batch: int | None = None,
    skips_what_is_gone: bool = False,
) -> DataFrame:
    """Return the stream of a topic's records, as Spark's Kafka source gives them, from the first one kept.

    If records that were never read are gone from the topic, the stream stops, unless ``skips_what_is_gone`` is true.
    """
    return (
        spark.readStream.format("kafka")
        .options(**cluster.spark_options(), **_TIMEOUTS)
        .option("subscribe", topic)
        # "latest", the default, would lose what was produced before the first run, and fails on an empty topic on
        # Databricks Free Edition.
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", str(not skips_what_is_gone).lower())
        .option("maxOffsetsPerTrigger", records_per_batch or RECORDS_PER_BATCH)
        .load()
    )


def parsed(records: DataFrame) -> DataFrame:
    """Return records of Kafka as rows of ``bronze.clickstream_raw``.

    Fields are found by name. A field that is missing, or does not have its type, is NULL. A field that is not in the
    contract is kept in ``_extra``, so fields that a producer adds are not lost.

    Args:
        records: with ``value BINARY, topic, partition, offset, timestamp``.
    """
    text = F.when(F.is_valid_utf8("value"), F.col("value").cast("string"))
    # from_json stops at the end of the first object; what follows it, another object perhaps, would be lost unseen.
    is_one = F.json_array_length(F.concat(F.lit("["), text, F.lit("]"))) == 1
    rows = records.withColumn("fields", F.from_json(F.when(is_one, text), "MAP<STRING, STRING>"))
    typed = [F.expr(_typed(name, kind)).alias(name) for name, (kind, _) in EVENT_COLUMNS.items()]
    known = ", ".join(f"'{name}'" for name in EVENT_COLUMNS)
    extra = F.expr(f"map_filter(fields, (name, value) -> name NOT IN ({known}))")
    return rows.select(
        *typed,
        F.when(F.col("fields").isNull(), F.expr("make_valid_utf8(CAST(value AS STRING))")).alias("_malformed"),
        F.when(F.size(extra) > 0, extra).alias("_extra"),
        F.col("value").alias("raw_value"),
        "topic",
        "partition",
        "offset",
        F.col("timestamp").alias("kafka_ts"),
        # Of the micro-batch, and the same when a batch that was killed is run again.
        F.current_timestamp().alias("ingested_at"),
    ).select(*BRONZE_COLUMNS)


def _typed(name: str, kind: str) -> str:
    value = f"fields['{name}']"
    # Spark adds the current day to a time without a date.
    is_whole = f"{value} LIKE '%-%-%'" if kind == "TIMESTAMP" else "true"
    return f"CASE WHEN {is_whole} THEN try_cast({value} AS {kind}) END"
