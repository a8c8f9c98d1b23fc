"""Messages that bronze must not have (aborted), cannot have (deleted in Kafka), or has lost (by a RESTORE)."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pyspark.sql import functions as F
from streaming.clickstream_cases import TABLES, Sent, Traffic, computed, event
from typer.testing import CliRunner

import shared
from shared import catalog, cli, streaming
from shared.errors import PipelineError
from shared.runtime import kafka
from shared.streaming import bronze, events, gaps
from shared.streaming.contracts import BRONZE, EVENTS, GAPS, SESSIONS, TRAFFIC
from shared.streaming.gaps import Gap


@contextmanager
def transaction(traffic: Traffic, name: str):
    """Yield a function that sends messages within one transaction, and the producer that commits or aborts it."""
    # The longest timeout that Kafka allows: on a slow machine the broker would otherwise abort the open transaction.
    config = {"transactional.id": name, "transaction.timeout.ms": 900_000, "log_level": 0}
    producer = Producer(traffic.cluster.client_config() | config)
    producer.init_transactions(60)
    producer.begin_transaction()

    def send(*messages: Sent) -> None:
        for key, value in messages:
            producer.produce(traffic.topic, value, key)
        assert producer.flush(30) == 0

    yield send, producer


def test_what_was_aborted_is_not_read_and_what_is_open_waits_and_neither_is_taken_for_lost(traffic: Traffic):
    spark = traffic.spark
    good = [event("a", 0), event("b", 1, "purchase"), event("c", 5)]
    taken_back, waiting = event("b", 2, "purchase"), event("a", 3, "purchase")
    traffic.send(good[0])
    with transaction(traffic, "well") as (send, producer):
        send(good[1])
        producer.commit_transaction(60)
    with transaction(traffic, "badly") as (send, producer):
        send(taken_back, event("a", 4, "purchase"), event("c", 4, "purchase"))
        producer.abort_transaction(60)
    with transaction(traffic, "slowly") as (send, producer):
        send(waiting)
        traffic.send(good[2])
        traffic.run()
        traffic.assert_equal(computed(one.value for one in good if one != good[2] or good[2].value in raw(traffic)))
        there = gaps.account(spark.table(BRONZE), traffic.cluster, traffic.topic)
        assert (there.wrong, there.missing, there.accepted) == ((), (), ())
        assert sum(gap.offsets for gap in there.empty) + there.messages == there.offsets
        assert sum(gap.offsets for gap in there.empty) >= 4, "three aborted messages and the mark of a commit"
        producer.commit_transaction(60)

    with streaming.Live(spark, traffic.home, traffic.cluster, traffic.topic, interval=1.0) as live:
        # Transaction markers have offsets too, but do not count as lag.
        while live.status().lag:
            assert live.status().stalled is None
    traffic.assert_equal(computed(one.value for one in (*good, waiting)))
    assert taken_back.value not in raw(traffic)
    there = gaps.account(spark.table(BRONZE), traffic.cluster, traffic.topic)
    assert (there.wrong, there.messages) == ((), 4)
    # A missing message is distinguished from offsets that never held a message.
    for one in (good[1], waiting, good[2]):
        rest = spark.table(BRONZE).where(F.col("raw_value") != F.lit(one.value))
        lacking = gaps.account(rest, traffic.cluster, traffic.topic)
        assert len(lacking.wrong) == len(lacking.missing) == 1, lacking
    # Without the isolation level a consumer reads all messages.
    dirty = traffic.cluster.spark_options() | {"kafka.isolation.level": "read_uncommitted"}
    records = spark.read.format("kafka").options(**dirty).option("subscribe", traffic.topic).load()
    assert records.count() == 7


def raw(traffic: Traffic) -> set[bytes]:
    return {bytes(value) for (value,) in traffic.rows(BRONZE, ("raw_value",))}


def test_messages_that_kafka_deleted_unread_stop_the_stream_until_the_loss_is_accepted(traffic: Traffic, monkeypatch):
    spark = traffic.spark

    def lose(minutes: float) -> tuple[dict[int, int], dict[int, int]]:
        """Send three messages, delete all, send one more; return the end offsets before and after the three."""
        begins = kafka.end_offsets(traffic.cluster, traffic.topic)
        traffic.send(*(event(user, minutes) for user in "abc"))
        ends = kafka.end_offsets(traffic.cluster, traffic.topic)
        client = AdminClient(traffic.cluster.client_config())
        gone = [TopicPartition(traffic.topic, partition, offset) for partition, offset in ends.items()]
        for answer in client.delete_records(gone).values():
            answer.result(10)
        traffic.send(event("a", minutes + 3))
        return begins, ends

    def expected(lost: tuple[dict[int, int], dict[int, int]]) -> list[Gap]:
        begins, ends = lost
        return [Gap(traffic.topic, one, begins[one], ends[one]) for one in sorted(ends) if begins[one] < ends[one]]

    def account() -> gaps.Account:
        return gaps.account(spark.table(BRONZE), traffic.cluster, traffic.topic)

    def run(accept_loss: bool = True) -> streaming.StreamRun:
        return streaming.run(spark, traffic.home, traffic.cluster, traffic.topic, accept_loss=accept_loss)

    traffic.send(event("a", 0), event("b", 1), event("c", 2))
    run(accept_loss=True)
    assert not catalog.table_exists(spark, GAPS)
    first = expected(lose(5))
    held = traffic.rows(BRONZE)
    for is_seen_before in (True, False):
        with monkeypatch.context() as patch:
            if not is_seen_before:  # as if Kafka deleted the messages while the stream runs
                patch.setattr(gaps, "deleted", lambda *_: [])
            with pytest.raises(PipelineError, match="never read are gone from the topic") as raised:
                traffic.run()
        assert all((str(gap) in raised.value.problem) == is_seen_before for gap in first)
        assert "--accept-loss" in raised.value.hint
        assert traffic.rows(BRONZE) == held
        assert len(account().wrong) == len(first)

    done = run()
    assert list(done.gaps) == first
    assert traffic.rows(GAPS) == [(traffic.topic, gap.partition, gap.from_offset, gap.to_offset) for gap in first]
    assert len(traffic.rows(EVENTS)) == 4
    assert done.tables[0].reason.startswith("accepted as lost: offsets "), done.tables[0].reason
    assert done.as_dict()["gaps"][0]["from_offset"] == first[0].from_offset
    assert (account().wrong, list(account().accepted)) == ((), first)
    assert run().gaps == ()
    assert traffic.run()[BRONZE].status == "unchanged"

    # Deleted during a run that accepts losses, so not seen before the run: the loss is still recorded.
    second = expected(lose(20))
    monkeypatch.setattr(gaps, "deleted", lambda *_: [])
    assert list(run().gaps) == second
    assert (account().wrong, list(account().accepted)) == ((), sorted(first + second))
    assert len(traffic.rows(EVENTS)) == 5
    # When the table is removed, the record of its losses is removed too.
    streaming.reset(spark, BRONZE, traffic.home)
    assert not catalog.table_exists(spark, GAPS)


@pytest.mark.parametrize("how", [[], ["--live", "--seconds", "1"]])
def test_the_command_hands_the_acceptance_on(monkeypatch, how: list[str]):
    asked = []

    def starts(_, accept_loss=False):
        asked.append(accept_loss)
        raise PipelineError("enough")

    monkeypatch.setattr(shared, "connect", lambda: None)
    monkeypatch.setattr(streaming, "Live" if how else "run", starts)
    for flag in ([], ["--accept-loss"]):
        assert CliRunner().invoke(cli.app, ["stream", "run", *how, *flag]).exception.problem == "enough"
    assert asked == [False, True]


def parsed(spark, *values: bytes):
    """Return messages as rows of bronze."""
    records = [(value, "t", 0, at, None) for at, value in enumerate(values)]
    schema = "value BINARY, topic STRING, partition INT, offset BIGINT, timestamp TIMESTAMP"
    return bronze.parsed(spark.createDataFrame(records, schema)).orderBy("offset")


def test_single_quotes_are_quotes_and_of_a_field_that_stands_twice_the_first_counts(spark):
    value = b"""{'event_id': 'E-1', "page": "/first", "page": '/second', 'new': "it's", "new": 2}"""
    (row,) = parsed(spark, value).collect()
    assert (row["event_id"], row["page"], row["_malformed"], row["raw_value"]) == ("E-1", "/first", None, value)
    assert row["_extra"]["new"] in ("it's", "2")


BLANK = {"empty": "", "a space": " ", "a tab": "\t", "a no-break space": "\xa0", "a zero-width space": "\u200b"}


def test_an_identifier_that_nobody_can_see_is_none(spark):
    sent = {"good": event("-", 0)}
    for name, value in BLANK.items():
        sent[f"event: {name}"] = event("a", 1, event_id=value)
        sent[f"user: {name}"] = event("a", 1, user_id=value)
    messages = parsed(spark, *(one.value for one in sent.values())).withColumn("kafka_ts", F.col("event_ts"))
    rows = events.examined(messages).orderBy("offset").select("broken_rule", "reason").collect()
    found = {name: row["broken_rule"] for name, row in zip(sent, rows, strict=True)}
    assert found == {name: None if name == "good" else f"{name.partition(':')[0]}_id_is_not_null" for name in sent}
    assert rows[1]["reason"] == "event_id = : expected a value"


@pytest.mark.slow
def test_a_table_of_the_clickstream_that_somebody_changed_is_put_right(traffic: Traffic):
    spark = traffic.spark
    traffic.send(event("a", 0), event("b", 1))
    traffic.run()
    traffic.send(event("a", 10, "purchase"), event("c", 50), Sent(None, b"garbage"))
    traffic.run()

    def assert_right() -> None:
        traffic.assert_complete()
        traffic.assert_equal(computed(one.value for one in traffic.received() if one.key))

    for table in TABLES:
        spark.sql(f"OPTIMIZE {table}")
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 60 days')")
    assert {run.status for table, run in traffic.run().items() if table != BRONZE} == {"unchanged"}

    spark.sql(f"DELETE FROM {SESSIONS} WHERE user_id = 'a'")
    done = traffic.run()
    by = f"made from all of {BRONZE}, since somebody had changed {SESSIONS} by DELETE (version "
    assert [done[table].reason.startswith(by) for table in TABLES] == [False, True, True, True]
    assert_right()
    assert len(traffic.rows("silver.quarantine")) == 1

    # To versions in the middle of the data of bronze and of the tables after it.
    spark.sql(f"RESTORE TABLE {BRONZE} TO VERSION AS OF 1")
    spark.sql(f"RESTORE TABLE {EVENTS} TO VERSION AS OF 0")
    spark.sql(f"UPDATE {TRAFFIC} SET visitors = 100")
    traffic.send(event("a", 20))
    done = traffic.run()
    assert done[BRONZE].reason.startswith("rows that were lost by RESTORE (version "), done[BRONZE].reason
    assert (done[BRONZE].rows_read, done[EVENTS].rows_accepted) == (1, 5)
    assert_right()
    assert {run.status for run in traffic.run().values()} == {"unchanged"}
