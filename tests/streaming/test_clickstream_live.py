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
    IMPATIENT,
    QUARANTINE,
    TABLES,
    Received,
    Sent,
    Traffic,
    await_status,
    computed,
    event,
    impatience,
)

from generators.produce_clickstream import produce
from shared import catalog, streaming
from shared.errors import BrokerError, PipelineError
from shared.runtime import kafka
from shared.streaming import bronze, queries
from shared.streaming.contracts import BRONZE, EVENTS, SESSIONS

# --- failures and standstills --------------------------------------------------------------------------------------


GARBAGE = b"garbage"


def assert_all_there(traffic: Traffic) -> list[Received]:
    """Assert that all tables hold the expected rows for the topic's messages, and return the messages."""
    received = traffic.assert_complete()
    traffic.assert_equal(computed(one.value for one in received if one.value != GARBAGE))
    return received


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

    # All messages have one key, so they are in one partition: each run of bronze writes one file, which becomes one
    # micro-batch.
    twice = event("b", 0)
    messages = (event("a", 0), twice, twice, Sent(None, GARBAGE), event("a", 1), event("a", 2))
    traffic.send(*(Sent(b"one", message.value) for message in messages))
    small_batches(4)
    with monkeypatch.context() as patch:
        patch.setattr(queries, "apply", fail_at_the_second)
        with pytest.raises(PipelineError, match="has ended: ValueError: no such shelf"):
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
    assert_all_there(traffic)
    accepted = traffic.rows("ops.run_log", ("CAST(sum(rows_accepted) AS BIGINT)",), f"table_name = '{EVENTS}'")
    assert accepted == [(len(traffic.rows(EVENTS)),)]


def hanging(released: str):
    """Return a replacement of ``apply`` for the engine that waits for this file and then works like ``apply``."""

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
def test_a_stream_that_does_nothing_for_long_says_so_and_is_ended(standing, monkeypatch, tmp_path, capsys, which: str):
    parsed = bronze.parsed

    def asleep(records):
        return parsed(records).where(F.expr("reflect('java.lang.Thread', 'sleep', 600000L) IS NOT NULL"))

    standing.send(event("a", 0))
    with monkeypatch.context() as patch, impatience(limit=20.0):
        if which == "bronze":
            patch.setattr(bronze, "parsed", asleep)
        else:
            patch.setattr(queries, "apply", hanging(str(tmp_path / "never")))
        with pytest.raises(PipelineError, match=f"the stream clickstream_{which} has written nothing for ") as raised:
            standing.run()
    assert "`shopmetrics down`" in raised.value.hint
    told = re.findall(
        rf"^waiting: the stream clickstream_{which} has written .*$", capsys.readouterr().err, re.MULTILINE
    )
    assert len(told) == 1
    assert standing.spark.streams.active == []
    assert [row["status"] for row in logged(standing)] == ["failed" if which == "bronze" else "succeeded"] + 3 * [
        "failed"
    ]
    standing.run()
    assert_all_there(standing)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_stream_that_takes_long_and_gets_on_is_let_be(standing, monkeypatch, capsys):
    """The one micro-batch takes longer than a reported standstill, but the time from table to table is shorter."""

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

    standing.send(event("a", 0))
    with impatience(limit=70.0), monkeypatch.context() as patch:
        patch.setattr(queries, "apply", slowly)
        standing.run()
    assert capsys.readouterr().err == ""
    assert_all_there(standing)


# --- live ----------------------------------------------------------------------------------------------------------


def test_live_everything_reaches_gold_and_the_display_tells_the_truth(standing, monkeypatch, tmp_path):
    """The streams continue after a step that hangs, messages that no stream reads, and a broker that hangs."""
    released = tmp_path / "released"
    monkeypatch.setattr(queries, "apply", hanging(str(released)))
    events_before = len(standing.rows(EVENTS)) if catalog.table_exists(standing.spark, EVENTS) else 0
    setting = "spark.sql.adaptive.enabled"
    standing.spark.conf.set(setting, "true")
    standing.send(event("before", -60))
    with streaming.Live(standing.spark, standing.home, standing.cluster, standing.topic, interval=0.2) as live:
        assert standing.spark.conf.get(setting) == "false", "else the steps of its micro-batches are compiled"
        with pytest.raises(PipelineError, match="already run"):
            standing.run()

        # A step hangs. The status reports it until the step continues.
        with impatience(stall=2.0):
            status = await_status(live, lambda s: s.messages and not s.lag and s.stalled, "the standstill")
            assert "the stream clickstream_silver_gold has written nothing for " in status.stalled
            released.touch()
            # The event's age then shows how long the step hung, not how fast the streams are.
            waited = await_status(live, lambda s: s.latency_median and not s.stalled, "the event in gold")
            # A stream without new messages does nothing, and this is no standstill.
            end = time.monotonic() + 6
            while time.monotonic() < end:
                assert live.status().stalled is None
                time.sleep(0.3)

        # Messages wait, and no stream reads them.
        ends = kafka.end_offsets(standing.cluster, standing.topic)
        with impatience():
            with monkeypatch.context() as patch:
                patch.setattr(kafka, "end_offsets", lambda *_: {**ends, 0: ends[0] + 3})
                status = await_status(live, lambda s: "messages wait" in (s.stalled or ""), "the standstill")
                assert status.lag == 3
                assert re.fullmatch(r"3 messages wait, and none has been read for \d+ s", status.stalled)
            await_status(live, lambda s: not s.stalled, "the end of it")

        # The broker hangs.
        broker = kafka.running(standing.home).process()
        broker.suspend()
        try:
            with impatience(answer=2.0):
                status = live.status()
        finally:
            broker.resume()
        assert status.stalled == f"Kafka at {standing.cluster.bootstrap_servers} does not answer within 2 s."

        # Everything continues.
        manifest = produce(
            standing.cluster.client_config(), rate=20, duration=4, topic=standing.topic, manifest_dir=tmp_path,
            progress=False, malformed=0.0,
        )  # fmt: skip
        standing.send(Sent(None, GARBAGE))
        await_status(live, lambda s: s.messages == manifest.sent + 2, "every message")
        status = await_status(
            live, lambda s: s.latency_median != waited.latency_median and not s.stalled, "a later micro-batch"
        )
        assert status.lag == 0
        assert 0 < status.latency_median <= status.latency_p99 < 60
        await_status(
            live, lambda s: s.open_sessions == len(standing.rows(SESSIONS, where="is_open")) > 0, "open sessions"
        )
        # The last messages: when the block ends, a micro-batch may have taken them or not.
        standing.send(event("last", -50))
    assert standing.spark.conf.get(setting) == "true"
    standing.spark.conf.unset(setting)
    assert live.done is not None
    runs = {run.table_name: run for run in live.done.tables}
    assert {run.status for run in runs.values()} == {"succeeded"}
    assert runs[EVENTS].rows_read == runs[BRONZE].rows_inserted
    assert standing.spark.streams.active == []
    standing.run()
    received = assert_all_there(standing)
    events = len(standing.rows(EVENTS))
    assert events == events_before + manifest.events + 2
    counts = standing.assert_accounts(disturbed=True)
    assert counts["read"] == len(received)
    assert counts["accepted"] == events
    assert counts["quarantined"] == len(standing.rows(QUARANTINE, where=f"table_name = '{EVENTS}'")) == 1


def test_live_a_broker_that_is_gone_is_told_and_nothing_is_lost(standing, monkeypatch):
    monkeypatch.setattr(bronze, "_TIMEOUTS", IMPATIENT)
    standing.send(event("a", 0))
    told = []

    def lose_the_broker() -> None:
        with streaming.Live(standing.spark, standing.home, standing.cluster, standing.topic, interval=0.2) as live:
            await_status(live, lambda s: s.messages == 1, "the message")
            broker = kafka.running(standing.home).process()
            broker.send_signal(signal.SIGKILL)
            psutil.wait_procs([broker], timeout=10)
            with impatience(answer=2.0):
                await_status(live, lambda s: told.append(s.stalled), "an error")

    with pytest.raises(BrokerError) as raised:
        lose_the_broker()
    problem = f"Kafka at {standing.cluster.bootstrap_servers} does not answer within 2 s."
    assert set(told) == {problem}
    assert raised.value.problem == problem
    assert "`shopmetrics up`" in raised.value.hint
    assert standing.spark.streams.active == []
    assert {(row["status"], row["reason"]) for row in logged(standing)} == {("failed", problem)}
    assert logged(standing)[0]["rows_inserted"] == 1
    kafka.up(standing.home)
    standing.send(event("a", 1))
    standing.run()
    assert_all_there(standing)


def test_live_a_topic_that_is_removed_is_told(standing):
    standing.send(event("a", 1))
    held = len(standing.rows(EVENTS)) if catalog.table_exists(standing.spark, EVENTS) else 0
    client = AdminClient(standing.cluster.client_config())

    def remove() -> None:
        with streaming.Live(standing.spark, standing.home, standing.cluster, standing.topic, interval=0.2) as live:
            await_status(live, lambda status: status.latency_median, "the message in gold")
            client.delete_topics([standing.topic])[standing.topic].result(10)
            await_status(live, lambda status: False, "an end")

    with pytest.raises((BrokerError, PipelineError)) as told:
        remove()
    assert standing.topic in told.value.problem
    assert len(standing.rows(EVENTS)) == held + 1
    assert standing.spark.streams.active == []
