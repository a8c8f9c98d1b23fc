"""Accidents of the clickstream: engine, broker and client are really killed, at one point after another.

These are the engine and the broker that all modules share, so the next module connects again. After every accident the
streams run again, and the state that they find must not stop them. The tests share one topic and its tables, in this
order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable

import psutil
import pytest
from pyspark.errors import PySparkException
from streaming.clickstream_cases import (
    IMPATIENT,
    NINE,
    QUARANTINE,
    TABLES,
    Sent,
    Traffic,
    await_status,
    computed,
    impatience,
)

import shared
from generators.clickstream import EVENT, LATE, Clickstream, ClickstreamPlan
from shared import secrets, streaming
from shared.errors import BrokerError, PipelineError, is_engine_gone
from shared.runtime import kafka
from shared.runtime import spark as engine
from shared.runtime.kafka import Cluster
from shared.settings import CHECKOUT, Settings, get_settings
from shared.streaming import queries
from shared.streaming.contracts import BRONZE, EVENTS, LOG

KILL_POINTS = {
    "quarantine written, events not": ("shared.streaming.events", "append_new", "before"),
    "events written, sessions not": ("shared.streaming.sessions", "update", "before"),
    "sessions written, hours not": ("shared.streaming.traffic", "update", "before"),
    "hours written, log not": ("shared.streaming.traffic", "update", "after"),
    "log written, checkpoint not": ("shared.streaming.queries", "apply", "after"),
}
"""For each point, the function before or after which the engine is killed."""

SERVERS = {"engine": engine.running, "broker": kafka.running}

STOPPED = "stopped half way"

RUN = """
import sys
import shared
from shared import streaming
print("connected", flush=True)
streaming.run(shared.connect(), topic=sys.argv[1])
"""


class Accidents:
    """Traffic whose engine and broker are killed and restarted, and every message that was sent."""

    def __init__(self, home: Settings) -> None:
        self.home = home
        plan = ClickstreamPlan(
            seed=11, start=NINE, duration=5400.0, rate=1.0, duplicates=0.05, late=0.1, malformed=0.02
        )
        self._stream = list(Clickstream(plan))
        self._sent = 0
        self._good: list[bytes] = []
        self.restart()
        self.traffic.clear()
        streaming.create_tables(self.traffic.spark)

    def restart(self) -> None:
        """Make sure that engine and broker run, and use a new session to the tables."""
        cluster = kafka.connect(self.home)
        self.traffic = Traffic(shared.connect(self.home), cluster, self.home, "accidents")

    def send(self, count: int) -> None:
        """Send this many additional messages."""
        part = self._stream[self._sent : self._sent + count]
        assert len(part) == count
        self._sent += count
        self.traffic.send(*(Sent(message.key, message.value) for message in part))
        self._good += [message.value for message in part if message.kind in (EVENT, LATE)]

    def processes(self, which: Iterable[str]) -> list[psutil.Process]:
        """Return the processes of engine or broker."""
        return [SERVERS[name](self.home).process() for name in which]

    def kill(self, *which: str) -> None:
        """Kill these servers."""
        processes = self.processes(which)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        assert psutil.wait_procs(processes, timeout=10)[1] == []

    def fails(self) -> str:
        """Run the streams, which must end with an error; return the error."""
        with pytest.raises(Exception) as raised:  # noqa: PT011  a session without its engine raises errors of its own
            self.traffic.run()
        return f"{type(raised.value).__name__}: {raised.value}"

    def assert_converges(self) -> None:
        """Run again, and assert that everything is there once."""
        self.restart()
        self.traffic.run()
        self.assert_equal()

    def assert_equal(self) -> None:
        """Assert that everything that was sent is there once."""
        received = self.traffic.assert_complete()
        assert len(received) == self._sent
        self.traffic.assert_equal(computed(self._good))
        sources = [source for (source,) in self.traffic.rows(QUARANTINE, ("source",), f"table_name = '{EVENTS}'")]
        good = set(self._good)
        assert sorted(sources) == sorted(
            f"accidents/{one.partition}/{one.offset}" for one in received if one.value not in good
        )

    def commits(self, table: str) -> int:
        """Return how many commits a table has, counted from its files alone."""
        log = self.home.lakehouse / table.replace(".", "/") / "_delta_log"
        return len(list(log.glob("*.json")))


@pytest.fixture(scope="module")
def accidents(spark, cluster: Cluster) -> Accidents:
    return Accidents(get_settings())


def test_the_next_run_goes_on_where_a_client_was_killed(accidents: Accidents):
    """The engine continues, and the killed client's stream may still be running in it."""
    accidents.restart()
    accidents.send(400)
    before = accidents.commits(TABLES[0])
    client = subprocess.Popen(
        [sys.executable, "-c", RUN, "accidents"],
        env=os.environ | {"SHOPMETRICS_HOME": str(accidents.home.home)}, cwd=CHECKOUT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while accidents.commits(TABLES[0]) == before:
        assert client.poll() is None, client.communicate()
        assert time.monotonic() < deadline, "the client's first micro-batch was awaited for 3 minutes"
        time.sleep(0.01)
    client.kill()
    client.communicate()
    accidents.traffic.run()
    accidents.assert_equal()


def cut_short(pids: list[int], module: str, name: str, moment: str) -> Callable[..., None]:
    """Return a replacement of ``apply`` for the engine that works like ``apply`` up to a point.

    At that point it kills these processes, of which the last is the engine. Without processes, it raises an error.
    """

    told = STOPPED

    # Sent to the engine by value: nothing of this module is there.
    def apply(batch, batch_id):
        import importlib
        import os
        import signal

        from shared.streaming import queries

        module_there = importlib.import_module(module)
        original = getattr(module_there, name)

        def replacement(*given, **named):
            if moment == "after":
                original(*given, **named)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            if pids:
                os._exit(1)
            raise RuntimeError(told)

        setattr(module_there, name, replacement)
        queries.apply(batch, batch_id)

    return apply


@pytest.mark.parametrize(
    "points",
    [
        # Whether the engine continues or is killed, the next run finds the same state: tables and checkpoint.
        {"events written, sessions not": ("broker", "engine"), "hours written, log not": ()},
        pytest.param(dict.fromkeys(KILL_POINTS, ("engine",)), marks=pytest.mark.slow),
    ],
    ids=["at two points", "at every point"],
)
def test_killed_between_any_two_of_its_writes_the_engine_goes_on(accidents: Accidents, monkeypatch, points):
    """All kills hit the same micro-batch: each run finds the state of the run before, and ends at a later step."""
    accidents.restart()
    accidents.send(600)
    written = {}
    before = {table: accidents.commits(table) for table in (QUARANTINE, *TABLES[1:], LOG)}
    for point, which in points.items():
        pids = [process.pid for process in accidents.processes(which)]
        with monkeypatch.context() as patch:
            patch.setattr(queries, "apply", cut_short(pids, *KILL_POINTS[point]))
            told = accidents.fails()
        for name, running in SERVERS.items():
            assert (running(accidents.home) is None) == (name in which), f"{which} were to be killed: {point}"
        if not which:
            assert f"has ended: RuntimeError: {STOPPED}" in told
        written[point] = [accidents.commits(table) - count > 0 for table, count in before.items()]
        accidents.restart()
    # Quarantine, events, sessions, hours, log.
    steps = [list(KILL_POINTS).index(point) for point in points]
    assert list(written.values()) == [[at <= step for at in range(5)] for step in steps]
    accidents.assert_converges()
    versions = accidents.traffic.versions()
    accidents.traffic.run()
    assert accidents.traffic.versions() == versions


@pytest.mark.parametrize(
    ("which", "table", "commits"),
    [
        pytest.param(("engine",), BRONZE, 3, marks=pytest.mark.slow),
        (("broker",), BRONZE, 1),
        pytest.param(("broker",), EVENTS, 1, marks=pytest.mark.slow),
        pytest.param(("engine", "broker"), BRONZE, 3, marks=pytest.mark.slow),
        pytest.param(("engine", "broker"), EVENTS, 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_killed_once_a_table_has_so_many_commits_more(
    accidents: Accidents, which: tuple[str, ...], table: str, commits: int
):
    """The kill hits bronze amid Kafka's messages, or it hits events before sessions and hours are written."""
    accidents.restart()
    accidents.send(200)
    before, commits_before = accidents.commits(BRONZE), accidents.commits(table)
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            accidents.traffic.run()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # A missing broker is noticed before its clients give up.
    with pytest.MonkeyPatch.context() as patch, impatience(limit=600.0, answer=6.0):
        patch.setattr("shared.streaming.bronze.RECORDS_PER_BATCH", 20 if table == BRONZE else 100_000)
        patch.setattr("shared.streaming.bronze._TIMEOUTS", IMPATIENT)
        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 180
        while accidents.commits(table) - commits_before < commits:
            assert time.monotonic() < deadline, f"{commits} commits of {table} were awaited for 3 minutes"
            time.sleep(0.01)
        accidents.kill(*which)
        thread.join(120)
    assert outcome, "the run was to end"
    if "engine" in which:
        assert type(outcome[0]).__name__ == "SparkConnectGrpcException", outcome
    elif table == BRONZE:
        assert isinstance(outcome[0], BrokerError), outcome
    else:
        assert outcome == [None], "past bronze nobody needs the broker"
    if table == BRONZE:
        assert accidents.commits(BRONZE) - before < 8, "the kill was to come in the middle"
    accidents.assert_converges()


@pytest.mark.slow
def test_when_the_engine_is_killed_under_live_streams_the_status_says_so_and_nothing_is_lost(accidents: Accidents):
    accidents.restart()
    accidents.send(200)
    traffic = accidents.traffic

    def kill() -> None:
        with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, interval=0.2) as live:
            await_status(live, lambda status: status.latency_median is not None, "the first micro-batch", 120.0)
            accidents.send(200)
            accidents.kill("engine")
            live.status()

    with pytest.raises(PySparkException) as raised:
        kill()
    assert is_engine_gone(raised.value)
    accidents.assert_converges()


@pytest.mark.skipif(not psutil.LINUX, reason="another process's limits can be set on Linux only")
def test_a_disk_that_is_full_is_told_and_nothing_is_lost(accidents: Accidents):
    """A limit on the size of the engine's files has the same effect as a full disk."""
    accidents.restart()
    accidents.send(200)
    server = engine.running(accidents.home).process()
    _, most = server.rlimit(psutil.RLIMIT_FSIZE)
    server.rlimit(psutil.RLIMIT_FSIZE, (0, most))
    try:
        told = accidents.fails()
    finally:
        server.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    assert "File too large" in told
    accidents.assert_converges()


def test_credentials_that_are_revoked_meanwhile_are_told_and_nothing_is_lost(accidents: Accidents, monkeypatch):
    monkeypatch.setattr("shared.streaming.bronze._TIMEOUTS", IMPATIENT)
    accidents.restart()
    accidents.send(200)

    def revoke() -> None:
        traffic = accidents.traffic
        with streaming.Live(traffic.spark, traffic.home, traffic.cluster, traffic.topic, interval=0.2) as live:
            await_status(live, lambda status: status.messages >= 200, "the messages")
            secrets.put(kafka.SECRET, "rotated-by-this-test", accidents.home)
            kafka.up(accidents.home)
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline:
                live.status()
                time.sleep(0.5)

    with pytest.raises((BrokerError, PipelineError)) as raised:
        revoke()
    assert "refuses the credentials" in raised.value.problem
    accidents.restart()
    accidents.send(200)
    accidents.assert_converges()
