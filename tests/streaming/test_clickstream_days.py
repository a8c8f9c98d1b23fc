"""The checks of days 10 to 13 on a day of clicks: each passes after the day's work, and fails after a manipulation.

The manipulation is a view in a table's place: to change and restore a table would take a dozen Spark jobs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lake
import pytest
from confluent_kafka import Producer
from pyspark.sql import functions as F

from shared import catalog, streaming
from shared.course import clickstream
from shared.course.checks import check_day
from shared.course.checks import streaming as checks_of_the_days
from shared.errors import BrokerError, PipelineError
from shared.runtime import kafka
from shared.settings import get_settings
from shared.streaming import queries
from shared.streaming.contracts import BRONZE, EVENTS, LOG, SESSIONS, TRAFFIC

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shared.runtime.kafka import Cluster

    Change = Callable[[DataFrame], DataFrame]

SCALE = 0.01


@pytest.fixture(scope="module")
def day(spark: SparkSession, cluster: Cluster) -> Cluster:
    """Day 1, sent and processed up to gold."""
    settings = get_settings().model_copy(update={"scale": SCALE})
    sent = clickstream.start_over(spark, settings, send=[1])
    streaming.run(spark, cluster=sent)
    return sent


def failures(spark: SparkSession, number: int) -> dict[str, str]:
    return {entry.name: entry.found for entry in check_day(number, spark) if not entry.ok}


NAMES = {BRONZE: "BRONZE", EVENTS: "EVENTS", SESSIONS: "SESSIONS", TRAFFIC: "TRAFFIC"}
"""The name of each table in the checks."""


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


# A day's checks take seconds, so alterations for different checks are made together.
@pytest.mark.parametrize(
    ("number", "altered", "found"),
    [
        (
            12,
            {
                BRONZE: lambda rows: (
                    rows.where("partition > 0 OR offset <> 7")
                    .withColumn("raw_value", F.expr("IF(partition > 0 AND offset = 7, NULL, raw_value)"))
                    .union(rows.where("partition = 1 AND offset = 8"))
                )
            },
            ["partition 0: .*; partition 1: ", "2 without bytes"],
        ),
        (
            12,
            {BRONZE: lambda rows: rows.where("partition <> 2")},
            ["nothing of partition 2, of ", " are no JSON object$"],
        ),
        (
            13,
            {
                EVENTS: lambda rows: rows.where("event_type <> 'purchase'"),
                SESSIONS: lambda rows: rows.withColumn("is_open", F.lit(True)),
            },
            ["messages = ", "rows too many in altered_clickstream_sessions"],
        ),
        (
            13,
            {
                SESSIONS: lambda rows: rows.withColumn(
                    "session_end_ts", F.expr("IF(is_open, session_end_ts, session_end_ts + INTERVAL 1 SECOND)")
                ),
                TRAFFIC: lambda rows: rows.withColumn("visitors", F.col("visitors") + 1),
            },
            [
                "rows lacking in altered_clickstream_sessions.*, "
                "24 rows lacking in altered_hourly_traffic_metrics, 24 rows too many",
                "sessions lacking or different",
            ],
        ),
    ],
)
def test_a_day_fails_if(
    spark: SparkSession, day: Cluster, monkeypatch: Any, number: int, altered: dict[str, Change], found: list[str]
) -> None:
    for table, change in altered.items():
        view = f"altered_{table.partition('.')[2]}"
        change(spark.table(table)).createOrReplaceTempView(view)
        monkeypatch.setattr(checks_of_the_days, NAMES[table], view)
    wrong = list(failures(spark, number).values())
    assert len(wrong) == len(found), wrong
    for part, told in zip(found, wrong, strict=True):
        assert re.search(part, told)


def held(table: str) -> list[str]:
    return sorted(map(repr, lake.read(catalog.table_path(table)).to_pylist()))


@pytest.mark.slow
def test_starting_over_gives_the_same_again_and_the_days_after_a_stray_message_fail(
    spark: SparkSession, day: Cluster
) -> None:
    settings = get_settings().model_copy(update={"scale": SCALE})
    ends, rows = kafka.end_offsets(day), held(SESSIONS)
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
    # The log of the streams was reset as well, so its numbers are those of this run.
    assert done.tables[1].rows_read == sum(ends.values())
    assert sum(row["rows_read"] for row in lake.read(catalog.table_path(LOG)).to_pylist()) == sum(ends.values())
    assert held(SESSIONS) == rows


def test_nothing_is_removed_while_streams_run_or_on_a_cluster_of_somebody_else(
    spark: SparkSession, day: Cluster, monkeypatch: Any
) -> None:
    def there() -> tuple[object, ...]:
        return kafka.end_offsets(day), [catalog.identity(spark, table) for table in NAMES]

    before = there()
    with queries.alone(get_settings()), pytest.raises(PipelineError, match="already run in another process"):
        clickstream.start_over(spark)
    monkeypatch.setattr(kafka, "connect", lambda settings: replace(day, is_local=False))
    with pytest.raises(BrokerError, match="has been used, and this would remove it"):
        clickstream.start_over(spark)
    assert there() == before
