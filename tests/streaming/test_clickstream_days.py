"""The contracts of days 10 to 13 over a day of clicks: each holds after the work, and not after a tampering."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer

from shared import catalog, streaming
from shared.course import clickstream
from shared.course.checks import check_day
from shared.errors import BrokerError, PipelineError
from shared.runtime import kafka
from shared.settings import get_settings
from shared.streaming.contracts import BRONZE, EVENTS, LOG, SESSIONS, TRAFFIC

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.runtime.kafka import Cluster

SCALE = 0.01


@pytest.fixture(scope="module")
def day(spark: SparkSession, cluster: Cluster) -> Iterator[Cluster]:
    """Day 1 sent and taken through to gold."""
    catalog.create_schemas(spark)
    settings = get_settings().model_copy(update={"scale": SCALE})
    yield taken_through(spark, clickstream.start_over(spark, settings, send=[1]))
    streaming.reset(spark, BRONZE)
    kafka.delete_topic(cluster)
    kafka.create_topic(cluster)


def taken_through(spark: SparkSession, cluster: Cluster) -> Cluster:
    streaming.run(spark, cluster=cluster)
    return cluster


def failures(spark: SparkSession, number: int) -> dict[str, str]:
    return {entry.name: entry.found for entry in check_day(number, spark) if not entry.ok}


@contextmanager
def altered(spark: SparkSession, table: str, statement: str) -> Iterator[None]:
    version = catalog.version(spark, table)
    if table in (BRONZE, EVENTS):
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.appendOnly' = 'false')")
    spark.sql(statement.format(table=table))
    try:
        yield
    finally:
        spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF {version}")


@pytest.mark.parametrize("number", [10, 11, 12, 13])
def test_a_day_passes_after_its_work(spark: SparkSession, day: Cluster, number: int) -> None:
    assert failures(spark, number) == {}


def test_day_10_fails_if_the_topic_was_made_otherwise(spark: SparkSession, day: Cluster, monkeypatch: Any) -> None:
    other = "made-by-hand"
    kafka.create_topic(day, other, partitions=1, retention_hours=48)
    identity, config = kafka.topic_identity(day, other), kafka.topic_config(day, other)
    monkeypatch.setattr(kafka, "topic_identity", lambda cluster: identity)
    monkeypatch.setattr(kafka, "topic_config", lambda cluster: config)
    assert list(failures(spark, 10).values()) == ["1 partitions, 48 hours"]
    assert kafka.delete_topic(day, other)
    assert not kafka.delete_topic(day, other)


def test_day_10_fails_if_anybody_is_let_in(spark: SparkSession, day: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr(kafka, "metadata", lambda cluster: None)
    assert list(failures(spark, 10).values()) == ["let in"]


# A day's checks take seconds, so that what different checks must find is altered together.
@pytest.mark.parametrize(
    ("number", "alterations", "found"),
    [
        (
            12,
            [
                (BRONZE, "DELETE FROM {table} WHERE partition = 0 AND offset = 7"),
                (BRONZE, "UPDATE {table} SET raw_value = NULL WHERE partition > 0 AND offset = 7"),
            ],
            ["partition 0: ", "2 without bytes"],
        ),
        (
            12,
            [(BRONZE, "INSERT INTO {table} SELECT * FROM {table} WHERE partition = 1 AND offset = 7")],
            ["partition 1: "],
        ),
        (
            12,
            [(BRONZE, "DELETE FROM {table} WHERE partition = 2")],
            ["nothing of partition 2, of ", " are no JSON object"],
        ),
        (
            13,
            [
                (EVENTS, "DELETE FROM {table} WHERE event_type = 'purchase'"),
                (SESSIONS, "UPDATE {table} SET is_open = true WHERE NOT is_open"),
            ],
            ["messages = ", "rows too many in silver.clickstream_sessions"],
        ),
        (
            13,
            [
                (
                    SESSIONS,
                    "UPDATE {table} SET session_end_ts = session_end_ts + INTERVAL 1 SECOND WHERE NOT is_open",
                ),
                (TRAFFIC, "UPDATE {table} SET visitors = visitors + 1"),
            ],
            [
                "rows lacking in silver.clickstream_sessions.*, "
                "24 rows lacking in gold.hourly_traffic_metrics, 24 rows too many",
                "sessions lacking or different",
            ],
        ),
    ],
)
def test_a_day_fails_if(
    spark: SparkSession, day: Cluster, number: int, alterations: list[tuple[str, str]], found: list[str]
) -> None:
    with ExitStack() as stack:
        for table, statement in alterations:
            stack.enter_context(altered(spark, table, statement))
        wrong = list(failures(spark, number).values())
    assert len(wrong) == len(found), wrong
    for part, told in zip(found, wrong, strict=True):
        assert re.search(part, told)


def test_starting_over_gives_the_same_again_and_the_days_after_a_stray_message_fail(
    spark: SparkSession, day: Cluster
) -> None:
    settings = get_settings().model_copy(update={"scale": SCALE})
    ends, rows = kafka.end_offsets(day), spark.table(SESSIONS).collect()
    producer = Producer(day.client_config() | {"log_level": 0})
    producer.produce(kafka.TOPIC, key=b"U", value=b"stray")
    assert producer.flush(30) == 0
    assert len(failures(spark, 11)) == 2
    assert len(failures(spark, 12)) == 1
    assert set(failures(spark, 13)) == {"AC-007: every offset of the topic is in bronze once"}

    clickstream.start_over(spark, settings, send=[1])
    assert kafka.end_offsets(day) == ends
    assert catalog.version(spark, BRONZE) == 0
    done = streaming.run(spark, cluster=day)
    # The log of the streams began anew with them: the run's accounts are of this run.
    assert done.tables[1].rows_read == sum(ends.values())
    assert spark.table(LOG).selectExpr("sum(rows_read)").first()[0] == sum(ends.values())
    assert sorted(spark.table(SESSIONS).collect()) == sorted(rows)


def test_nothing_is_removed_while_streams_run_or_on_a_cluster_of_somebody_else(
    spark: SparkSession, day: Cluster, monkeypatch: Any
) -> None:
    ends = kafka.end_offsets(day)
    with streaming.Live(spark, cluster=day), pytest.raises(PipelineError, match="already run in another process"):
        clickstream.start_over(spark)
    monkeypatch.setattr(kafka, "connect", lambda settings: replace(day, is_local=False))
    with pytest.raises(BrokerError, match="has been used, and this would remove it"):
        clickstream.start_over(spark)
    assert kafka.end_offsets(day) == ends
    assert failures(spark, 13) == {}
