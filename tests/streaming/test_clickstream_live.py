"""Streams that fail, stand still, or run live, with a real broker and a real engine."""

from __future__ import annotations

import re
import signal
import time

import lake
import psutil
import pytest
from confluent_kafka.admin import AdminClient
from pyspark.sql import functions as F
from streaming.clickstream_cases import (
    QUARANTINE,
    TABLES,
    Sent,
    Traffic,
    await_status,
    computed,
    event,
    impatience,
)

from generators.produce_clickstream import produce
from shared import streaming
from shared.errors import BrokerError, PipelineError
from shared.runtime import kafka
from shared.streaming import bronze, queries
from shared.streaming.contracts import BRONZE, EVENTS, SESSIONS

# --- what fails, and what stands still -----------------------------------------------------------------------------


def test_a_step_that_fails_in_python_is_told_by_its_error(traffic, monkeypatch):
    def fail(batch, batch_id):
        raise ValueError("no such shelf")

    monkeypatch.setattr(queries, "apply", fail)
    traffic.send(event("a", 0))
    with pytest.raises(PipelineError, match="has ended: ValueError: no such shelf"):
        traffic.run()
    monkeypatch.undo()
    traffic.run()
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete()))


def logged(traffic: Traffic) -> list[dict[str, object]]:
    """Return the rows of the newest run in the log, in the order in which events pass through their tables."""
    rows = [row._asdict() for row in lake.rows(traffic.home.lakehouse, "SELECT * FROM ops.run_log")]
    newest = max(rows, key=lambda row: row["started_at"])["run_id"]
    return sorted((row for row in rows if row["run_id"] == newest), key=lambda row: TABLES.index(row["table_name"]))


def test_what_a_run_did_before_it_failed_is_in_the_log(traffic, small_batches, monkeypatch):
    def fail_at_the_second(batch, batch_id):
        from shared.streaming import queries

        if batch_id:
            raise ValueError("no such shelf")
        queries.apply(batch, batch_id)

    def fail_between_events_and_sessions(batch, batch_id):
        from shared.streaming import queries

        def fail(*_):
            raise ValueError("no such shelf")

        queries.sessions.update = fail
        queries.apply(batch, batch_id)

    # Of one partition, so that each run of bronze is one file, and so a micro-batch of its own.
    kafka.delete_topic(traffic.cluster, traffic.topic)
    kafka.create_topic(traffic.cluster, traffic.topic, partitions=1)
    twice = event("b", 0)
    traffic.send(event("a", 0), twice, twice, Sent(None, b"garbage"), event("a", 1), event("a", 2))
    small_batches(4)
    with monkeypatch.context() as patch:
        patch.setattr(queries, "apply", fail_at_the_second)
        with pytest.raises(PipelineError):
            traffic.run()
    rows = logged(traffic)
    assert [row["status"] for row in rows] == ["succeeded", "failed", "failed", "failed"]
    assert "ValueError: no such shelf" in rows[1]["reason"]
    assert (rows[0]["reason"], rows[0]["rows_inserted"]) == ("", 6)
    first = {"read": 4, "accepted": 2, "quarantined": 1, "duplicate": 1}
    assert traffic.assert_accounts() == first

    with monkeypatch.context() as patch:
        patch.setattr(queries, "apply", fail_between_events_and_sessions)
        with pytest.raises(PipelineError):
            traffic.run()
    rows = logged(traffic)
    assert [row["status"] for row in rows] == ["unchanged", "failed", "failed", "failed"]
    counts = ("rows_read", "rows_accepted", "rows_quarantined", "rows_duplicate", "rows_inserted")
    assert [rows[1][name] for name in counts] == [2, 2, 0, 0, 2]

    done = traffic.run()
    assert {run.status for run in done.values()} == {"unchanged", "succeeded"}
    assert (done[EVENTS].rows_read, done[EVENTS].rows_duplicate) == (2, 2), "its events were there already"
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete() if one.key))
    accepted = traffic.rows("ops.run_log", ("CAST(sum(rows_accepted) AS BIGINT)",), f"table_name = '{EVENTS}'")
    assert accepted == [(len(traffic.rows(EVENTS)),)]


def hanging(released: str):
    """Return what the engine calls instead of ``apply``: the same, once this file is there."""

    # Sent to the engine by value: nothing of this module is there.
    def apply(batch, batch_id):
        import os
        import time

        from shared.streaming import queries

        while not os.path.exists(released):
            time.sleep(0.1)
        queries.apply(batch, batch_id)

    return apply


@pytest.mark.parametrize("which", [pytest.param("bronze", marks=pytest.mark.slow), "silver_gold"])
def test_a_stream_that_does_nothing_for_long_says_so_and_is_ended(traffic, monkeypatch, tmp_path, capsys, which: str):
    parsed = bronze.parsed

    def asleep(records):
        return parsed(records).where(F.expr("reflect('java.lang.Thread', 'sleep', 600000L) IS NOT NULL"))

    traffic.send(event("a", 0))
    with monkeypatch.context() as patch, impatience(limit=20.0):
        if which == "bronze":
            patch.setattr(bronze, "parsed", asleep)
        else:
            patch.setattr(queries, "apply", hanging(str(tmp_path / "never")))
        with pytest.raises(PipelineError, match=f"the stream clickstream_{which} has written nothing for ") as raised:
            traffic.run()
    assert "`shopmetrics down`" in raised.value.hint
    told = re.findall(
        rf"^waiting: the stream clickstream_{which} has written .*$", capsys.readouterr().err, re.MULTILINE
    )
    assert len(told) == 1
    assert traffic.spark.streams.active == []
    assert [row["status"] for row in logged(traffic)] == ["failed" if which == "bronze" else "succeeded"] + 3 * [
        "failed"
    ]
    traffic.run()
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete()))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_stream_that_takes_long_and_gets_on_is_let_be(traffic, monkeypatch, capsys):
    """Its one micro-batch takes longer than a stream may do nothing unmentioned; from table to table it does not."""

    def slowly(batch, batch_id):
        import time

        from shared.streaming import queries

        def late(step):
            def stepped(*given):
                time.sleep(15)
                return step(*given)

            return stepped

        queries.sessions.update = late(queries.sessions.update)
        queries.traffic.update = late(queries.traffic.update)
        queries.apply(batch, batch_id)
        time.sleep(15)

    traffic.send(event("a", 0))
    with impatience(limit=70.0), monkeypatch.context() as patch:
        patch.setattr(queries, "apply", slowly)
        traffic.run()
    assert capsys.readouterr().err == ""
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete()))


# --- live ----------------------------------------------------------------------------------------------------------


def test_live_everything_reaches_gold_and_the_display_tells_the_truth(traffic, monkeypatch, tmp_path):
    traffic.send(event("before", -60))
    setting = "spark.sql.adaptive.enabled"
    traffic.spark.conf.set(setting, "true")
    with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, interval=0.2) as live:
        assert traffic.spark.conf.get(setting) == "false", "else the steps of its micro-batches are compiled"
        with pytest.raises(PipelineError, match="already run"):
            traffic.run()
        # How old it is by then says how long the streams took to start, not how fast they are.
        waited = await_status(live, lambda s: s.latency_median, "the message that was there before")
        manifest = produce(
            traffic.cluster.client_config(), rate=20, duration=4, topic=traffic.topic, manifest_dir=tmp_path,
            progress=False,
        )  # fmt: skip
        await_status(live, lambda s: s.messages == manifest.sent + 1, "every message")
        status = await_status(live, lambda s: s.latency_median != waited.latency_median, "a later micro-batch")
        assert status.lag == 0
        assert status.stalled is None
        assert 0 < status.latency_median <= status.latency_p99 < 60
        status = await_status(
            live, lambda s: s.open_sessions == len(traffic.rows(SESSIONS, where="is_open")) > 0, "open sessions"
        )
        # The last messages, which no micro-batch has taken yet when the block ends, or one has.
        traffic.send(event("last", -50))
    assert traffic.spark.conf.get(setting) == "true"
    traffic.spark.conf.unset(setting)
    assert live.done is not None
    runs = {run.table_name: run for run in live.done.tables}
    assert runs[EVENTS].rows_read == runs[BRONZE].rows_inserted
    assert traffic.spark.streams.active == []
    traffic.run()
    received = traffic.assert_complete()
    events = {row[0] for row in traffic.rows(EVENTS)}
    assert len(events) == manifest.events + 2
    counts = traffic.assert_accounts(disturbed=True)
    assert counts["read"] == len(received)
    assert counts["accepted"] == len(events)
    assert counts["quarantined"] == len(traffic.rows(QUARANTINE, where=f"table_name = '{EVENTS}'"))


def test_live_a_step_that_hangs_is_told_and_is_no_longer_once_it_goes_on(traffic, monkeypatch, tmp_path):
    released = tmp_path / "released"
    monkeypatch.setattr(queries, "apply", hanging(str(released)))
    traffic.send(event("a", 0))
    with (
        streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, 0.2) as live,
        impatience(stall=2.0),
    ):
        status = await_status(live, lambda s: s.messages and not s.lag and s.stalled, "the standstill")
        assert "the stream clickstream_silver_gold has written nothing for " in status.stalled
        released.touch()
        await_status(live, lambda s: s.latency_median and not s.stalled, "the event in gold")
        # With nothing to do, it does nothing, and that is well.
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert live.status().stalled is None
            time.sleep(0.1)
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete()))


def test_live_messages_that_nobody_reads_are_told(traffic, monkeypatch):
    traffic.send(event("a", 0))
    with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, 0.2) as live, impatience():
        # So that nothing else stands still: to one who is impatient, the first micro-batch of gold does.
        await_status(live, lambda s: s.latency_median, "the message in gold")
        ends = kafka.end_offsets(traffic.cluster, traffic.topic)
        with monkeypatch.context() as patch:
            patch.setattr(kafka, "end_offsets", lambda *_: {**ends, 0: ends[0] + 3})
            # The end of the micro-batch may be called a standstill first.
            status = await_status(live, lambda s: "messages wait" in (s.stalled or ""), "the standstill")
            assert status.lag == 3
            assert re.fullmatch(r"3 messages wait, and none has been read for \d+ s", status.stalled)
        await_status(live, lambda s: not s.stalled, "the end of it")


def test_live_a_broker_that_hangs_is_told_and_the_streams_go_on_when_it_does(traffic):
    traffic.send(event("a", 0))
    with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, interval=0.2) as live:
        await_status(live, lambda s: s.messages == 1, "the message")
        broker = kafka.running(traffic.home).process()
        broker.suspend()
        try:
            with impatience(answer=2.0):
                status = live.status()
        finally:
            broker.resume()
        assert status.stalled == f"Kafka at {traffic.cluster.bootstrap_servers} does not answer within 2 s."
        traffic.send(event("a", 1))
        await_status(live, lambda s: s.messages == 2 and not s.stalled, "the next message")
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete()))
    assert {run.status for run in live.done.tables} == {"succeeded"}


def test_live_a_broker_that_is_gone_is_told_and_nothing_is_lost(traffic, monkeypatch):
    # What a client of the stream waits for before it gives up.
    timeouts = {
        "kafka.default.api.timeout.ms": "4000",
        "kafka.request.timeout.ms": "2000",
        "fetchOffset.numRetries": "1",
    }
    monkeypatch.setattr(bronze, "_TIMEOUTS", timeouts)
    traffic.send(event("a", 0))
    told = []

    def lose_the_broker() -> None:
        with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, interval=0.2) as live:
            await_status(live, lambda s: s.messages == 1, "the message")
            broker = kafka.running(traffic.home).process()
            broker.send_signal(signal.SIGKILL)
            psutil.wait_procs([broker], timeout=10)
            with impatience(answer=2.0):
                await_status(live, lambda s: told.append(s.stalled), "an error")

    with pytest.raises(BrokerError) as raised:
        lose_the_broker()
    problem = f"Kafka at {traffic.cluster.bootstrap_servers} does not answer within 2 s."
    assert set(told) == {problem}
    assert raised.value.problem == problem
    assert "`shopmetrics up`" in raised.value.hint
    assert traffic.spark.streams.active == []
    assert {(row["status"], row["reason"]) for row in logged(traffic)} == {("failed", problem)}
    assert logged(traffic)[0]["rows_inserted"] == 1
    kafka.up(traffic.home)
    traffic.send(event("a", 1))
    traffic.run()
    traffic.assert_equal(computed(one.value for one in traffic.assert_complete()))


def test_live_a_topic_that_is_removed_is_told(traffic):
    traffic.send(event("a", 1))
    client = AdminClient(traffic.cluster.client_config())

    def remove() -> None:
        with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, interval=0.2) as live:
            await_status(live, lambda status: status.latency_median, "the message in gold")
            client.delete_topics([traffic.topic])[traffic.topic].result(10)
            await_status(live, lambda status: False, "an end")

    with pytest.raises((BrokerError, PipelineError)) as told:
        remove()
    assert traffic.topic in told.value.problem
    assert len(traffic.rows(EVENTS)) == 1
    assert traffic.spark.streams.active == []
