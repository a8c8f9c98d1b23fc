"""Days 10 to 13: Kafka, the clickstream in it, and what the streams make of it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import SecretStr
from pyspark.sql import functions as F

from shared import changes
from shared.course.checks.registry import Context, Finding, check, finding, numbers
from shared.errors import BrokerError
from shared.quarantine import QUARANTINE
from shared.runtime import kafka
from shared.runtime.kafka import PARTITIONS, RETENTION_HOURS, TOPIC
from shared.streaming import bronze, events, gaps, sessions, traffic
from shared.streaming.contracts import BRONZE, EVENTS, SESSION_COLUMNS, SESSIONS, TRAFFIC

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from generators.produce_clickstream import ClickstreamManifest

SCRATCH = "checks-of-day-10"
"""A topic of one message, there for as long as it takes to look."""

ANSWER_SECONDS = 20.0

_BROKEN_TEXT = ("not_json", "not_utf8")
"""Kinds of malformed messages that are no JSON object."""

_NOT_READ = "messages have come since the streams last ran: streaming.run(spark)"
_SENT_AGAIN = (
    "something else was sent to the topic, or the same stretch twice; or a day has passed, and Kafka has forgotten: "
    "clickstream.start_over(spark) makes topic and accounts again"
)

# --- Day 10: Kafka --------------------------------------------------------------------------------------------------


@check(
    10,
    f"The topic {TOPIC} has {PARTITIONS} partitions and keeps a message for {RETENTION_HOURS} hours",
    cause="the topic was made by hand, or by a cluster's defaults; remove it, and `shopmetrics up` makes it again",
)
def _topic(context: Context) -> Finding:
    cluster = kafka.connect(context.settings)
    _, partitions = kafka.topic_identity(cluster)
    hours = int(kafka.topic_config(cluster)["retention.ms"]) / 3_600_000
    return Finding(
        f"{partitions} partitions, {hours:g} hours", f"{PARTITIONS} partitions, {float(RETENTION_HOURS):g} hours"
    )


@check(
    10,
    "A message goes in and comes out as it was",
    cause="the broker does not answer, or the disk is full; `shopmetrics doctor` and `shopmetrics status` say more",
)
def _there_and_back(context: Context) -> Finding:
    from confluent_kafka import Consumer, Producer, TopicPartition

    cluster, sent = kafka.connect(context.settings), (b"a key", b"a message")
    kafka.create_topic(cluster, SCRATCH, partitions=1)
    try:
        producer = Producer(cluster.client_config() | {"log_level": 0})
        producer.produce(SCRATCH, key=sent[0], value=sent[1])
        producer.flush(ANSWER_SECONDS)
        reading = {"group.id": SCRATCH, "isolation.level": "read_committed", "log_level": 0}
        with closing(Consumer(cluster.client_config() | reading)) as consumer:
            consumer.assign([TopicPartition(SCRATCH, 0, 0)])
            deadline, message = time.monotonic() + ANSWER_SECONDS, None
            while message is None and time.monotonic() < deadline:
                message = consumer.poll(1.0)
        received = (message.key(), message.value()) if message and not message.error() else None
    finally:
        kafka.delete_topic(cluster, SCRATCH)
    return Finding("the same key and value" if received == sent else f"{received}", "the same key and value")


@check(
    10,
    "A wrong secret is refused",
    cause="the cluster asks nobody for credentials: KAFKA_BOOTSTRAP_SERVERS names one that is open to all",
)
def _refused(context: Context) -> Finding:
    stranger = replace(kafka.connect(context.settings), secret=SecretStr("wrong"))
    try:
        kafka.metadata(stranger)
    except BrokerError as error:
        return Finding("refused" if "refuses the credentials" in error.problem else error.problem, "refused")
    return Finding("let in", "refused")


# --- Day 11: the producer -------------------------------------------------------------------------------------------


def manifests(context: Context) -> list[ClickstreamManifest]:
    """Return the producer's accounts of what it sent to the topic, in the order of their names."""
    from generators.produce_clickstream import ClickstreamManifest

    known = [ClickstreamManifest.load(path) for path in sorted((context.settings.raw / "clickstream").glob("*.json"))]
    return [one for one in known if one.topic == TOPIC]


@check(11, "The topic holds as many messages as the producer's accounts", cause=_SENT_AGAIN)
def _all_sent(context: Context) -> Finding:
    there = sum(kafka.end_offsets(kafka.connect(context.settings)).values())
    known = manifests(context)
    expected = f"{sum(one.delivered for one in known):,} messages"
    return Finding(f"{there:,} messages", expected, ok=f"{there:,} messages" == expected and bool(known))


@check(
    11,
    "Its events and its malformed messages are those of the accounts, and a user's are in one partition",
    _SENT_AGAIN,
)
def _as_accounted(context: Context) -> Finding:
    cluster = kafka.connect(context.settings)
    records = context.spark.read.format("kafka").options(**cluster.spark_options()).option("subscribe", TOPIC).load()
    messages = events.examined(bronze.parsed(records))
    is_good = F.col("broken_rule").isNull()
    # Two levels, so that the users and the events are counted in one reading of the topic.
    found = (
        messages.groupBy("user_id", is_good.alias("is_good"))
        .agg(
            F.count(F.lit(1)).alias("messages"),
            F.count_distinct("event_id", "event_ts").alias("events"),
            F.count_distinct("partition").alias("partitions"),
        )
        .agg(
            F.sum(F.when(F.col("is_good"), F.col("events"))).alias("events"),
            F.sum(F.when(~F.col("is_good"), F.col("messages"))).alias("malformed"),
            F.count_if(F.col("is_good") & (F.col("partitions") > 1)).alias("spread"),
        )
        .first()
    )
    assert found is not None
    known = manifests(context)
    malformed = sum(sum(one.defects.values()) - one.defects["late"] - one.defects["duplicate"] for one in known)
    expected = f"{sum(one.events for one in known):,} events, {malformed:,} malformed, no user in two partitions"
    spread = f"{found['spread']:,} users" if found["spread"] else "no user"
    return Finding(
        f"{found['events'] or 0:,} events, {found['malformed'] or 0:,} malformed, {spread} in two partitions", expected
    )


# --- Day 12: bronze -------------------------------------------------------------------------------------------------


def _offsets(context: Context) -> Finding:
    cluster = kafka.connect(context.settings)
    _, partitions = kafka.topic_identity(cluster)
    there = gaps.account(context.spark.table(BRONZE), cluster, TOPIC)
    told = f"{there.messages:,} messages in {partitions} partitions"
    told += "".join(f"; {one} were deleted before they were read, which was accepted" for one in there.accepted)
    if there.empty:
        told += f"; {sum(one.offsets for one in there.empty):,} offsets hold no message that was committed"
    expected = f"{there.offsets:,} messages in {partitions} partitions"
    return Finding("; ".join(there.wrong) or told, expected, ok=not there.wrong)


@check(
    12, f"Law 6: {BRONZE} holds every offset of the topic, from 0 to its end, once", cause=_NOT_READ, tables=(BRONZE,)
)
def _law_6(context: Context) -> Finding:
    return _offsets(context)


@check(
    12,
    "Every message is there with its bytes, and those that are no JSON object are as many as were sent",
    cause="the table was changed by hand; streaming.reset(spark, 'bronze.clickstream_raw'), and run again",
)
def _bytes(context: Context) -> Finding:
    lacking, malformed = numbers(context, f"SELECT count_if(raw_value IS NULL), count(_malformed) FROM {BRONZE}")
    wanted = sum(one.defects[kind] for one in manifests(context) for kind in _BROKEN_TEXT)
    found = f"{malformed:,} are no JSON object" + (f", {lacking:,} without bytes" if lacking else "")
    return Finding(found, f"{wanted:,} are no JSON object")


# --- Day 13: silver and gold ----------------------------------------------------------------------------------------


@check(13, "AC-007: every offset of the topic is in bronze once", cause=_NOT_READ)
def _nothing_lost(context: Context) -> Finding:
    return _offsets(context)


def distinct_events(context: Context) -> DataFrame:
    """Return the events of bronze that break no rule, each once: computed from all of bronze, as a batch does."""
    return events.accepted(events.examined(context.spark.table(BRONZE)))


@check(13, f"AC-007: messages = events + quarantined + duplicates, each counted from {BRONZE}", cause=_NOT_READ)
def _accounts(context: Context) -> Finding:
    counted = (
        events.examined(context.spark.table(BRONZE))
        .select(F.count(F.lit(1)), F.count("broken_rule"))
        .union(distinct_events(context).select(F.count(F.lit(1)), F.lit(0)))
        .collect()
    )
    (messages, broken), (distinct, _) = sorted(map(tuple, counted), reverse=True)
    held, aside = numbers(
        context,
        f"SELECT (SELECT count(1) FROM {EVENTS}), (SELECT count(1) FROM {QUARANTINE} WHERE table_name = '{EVENTS}')",
    )

    def told(accepted: int, quarantined: int) -> str:
        duplicates = messages - accepted - quarantined
        return f"{messages:,} messages = {accepted:,} + {quarantined:,} + {duplicates:,}"

    return Finding(told(held, aside), told(distinct, broken))


@check(
    13,
    f"Law 5: {SESSIONS} and {TRAFFIC} hold what a batch computes from all of {BRONZE}",
    cause=f"{_NOT_READ}; or a table was changed by hand: streaming.reset(spark, '{EVENTS}'), and run again",
    tables=(BRONZE, SESSIONS, TRAFFIC),
)
def _law_5(context: Context) -> Finding:
    wanted_events = changes.kept(distinct_events(context))
    visits = sessions.sessionized(wanted_events)
    newest = wanted_events.agg(F.max("event_ts").alias("newest"))
    visits = visits.crossJoin(newest).withColumn("is_open", sessions.is_open(F.col("newest")))
    wrong = {}
    for table, wanted in (
        (SESSIONS, visits.select(*SESSION_COLUMNS)),
        (TRAFFIC, traffic.measured(wanted_events, visits)),
    ):
        there = context.spark.table(table)
        wrong[f"rows lacking in {table}"] = wanted.exceptAll(there).count()
        wrong[f"rows too many in {table}"] = there.exceptAll(wanted).count()
    total, still_open, hours = numbers(
        context, f"SELECT count(1), count_if(is_open), (SELECT count(1) FROM {TRAFFIC}) FROM {SESSIONS}"
    )
    return finding(wrong, f"{total:,} sessions, {still_open:,} of them open, and {hours:,} hours: the same ones")


@check(
    13,
    f"Every session that the producer sent is in {SESSIONS}, with its first event, its last, and their number",
    cause=_NOT_READ,
)
def _sessions_as_sent(context: Context) -> Finding:
    paths = [str(one.sessions_path) for one in manifests(context)]
    if not paths:
        return Finding("no account of the producer", "the producer's account")
    # A session that one stretch cuts short goes on in the next, under its id.
    sent = (
        context.spark.read.csv(paths, header=True, schema=_SENT_COLUMNS)
        .groupBy("session_id", "user_id")
        .agg(
            F.min("session_start_ts").alias("session_start_ts"),
            F.max("session_end_ts").alias("session_end_ts"),
            F.sum("events").alias("events"),
        )
        .drop("session_id")
    )
    total = sent.count()
    missing = sent.exceptAll(context.spark.table(SESSIONS).select(*sent.columns)).count()
    return finding({"sessions lacking or different": missing}, f"{total:,} sessions")


_SENT_COLUMNS = (
    "session_id STRING, user_id STRING, session_start_ts TIMESTAMP, session_end_ts TIMESTAMP, events BIGINT, "
    "funnel_step STRING, is_converted BOOLEAN"
)
