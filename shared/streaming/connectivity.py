"""Can Spark read from Kafka here? Three checks, from the easiest to the one that everything depends on."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException

from shared.errors import ShopMetricsError, first_line
from shared.runtime import kafka
from shared.runtime.doctor import Finding
from shared.runtime.kafka import TOPIC
from shared.settings import Settings, get_settings, on_databricks
from shared.streaming import bronze

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.runtime.kafka import Cluster

RECORD = {
    "key": "binary",
    "value": "binary",
    "topic": "string",
    "partition": "int",
    "offset": "bigint",
    "timestamp": "timestamp",
    "timestampType": "int",
}
"""The columns of a record, as Spark's Kafka source gives them."""


def connectivity(
    spark: SparkSession, cluster: Cluster, topic: str = TOPIC, settings: Settings | None = None
) -> list[Finding]:
    """Return the findings of three checks: the topic's metadata, a batch read, a stream that ends by itself.

    Nothing is changed, in Kafka or in the lakehouse. An empty topic is no problem. The stream has the options that
    Databricks Free Edition requires: ``startingOffsets`` is "earliest", since "latest" fails on an empty topic; the
    trigger is ``availableNow``, since an endless one is refused; and the checkpoint is explicit, since an implicit one
    is refused.
    """
    settings = settings or get_settings()
    advice = "the engine's log says more" if not on_databricks() else "see the cluster's driver log"
    findings = []
    try:
        _, partitions = kafka.topic_identity(cluster, topic)
        records = sum(kafka.end_offsets(cluster, topic).values())
        found = f"{topic} at {cluster.bootstrap_servers}: {partitions} partitions, {records:,} records so far"
        findings.append(Finding("Metadata", "ok", found))
    except ShopMetricsError as error:
        # Without an answer from Kafka, Spark would wait for minutes and report the same.
        return [Finding("Metadata", "problem", error.problem, error.hint)]
    try:
        batch = spark.read.format("kafka").options(**cluster.spark_options()).option("subscribe", topic).load()
        schema = {field.name: field.dataType.simpleString() for field in batch.schema}
        rows = batch.count()
        if schema == RECORD:
            findings.append(Finding("Batch read", "ok", f"{rows:,} records are there, with the columns expected"))
        else:
            findings.append(Finding("Batch read", "problem", f"columns {schema}, expected {RECORD}", advice))
    except PySparkException as error:
        findings.append(Finding("Batch read", "problem", first_line(error), advice))
    try:
        with tempfile.TemporaryDirectory(prefix="shopmetrics-check-", dir=_scratch(settings)) as scratch:
            stream = (
                bronze.read_topic(spark, cluster, topic)
                .writeStream.format("noop")
                .option("checkpointLocation", f"{scratch}/checkpoint")
                .trigger(availableNow=True)
                .start()
            )
            stream.awaitTermination()
            read = sum(int(part["numInputRows"]) for one in stream.recentProgress for part in one["sources"])
        findings.append(Finding("Stream", "ok", f"read {read:,} records and ended by itself"))
    except PySparkException as error:
        findings.append(Finding("Stream", "problem", first_line(error), advice))
    return findings


def _scratch(settings: Settings) -> str:
    settings.checkpoints.mkdir(parents=True, exist_ok=True)
    return str(settings.checkpoints)
