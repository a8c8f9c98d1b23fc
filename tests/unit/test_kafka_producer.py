"""The producer, tested with the client library's own mock of Kafka: messages arrive, or the producer reports them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from typer.testing import CliRunner

from generators import produce_clickstream
from generators.clickstream import EVENT_TYPES, FUNNEL, Clickstream, ClickstreamPlan
from generators.plan import GeneratorError
from generators.produce_clickstream import SESSION_COLUMNS, ClickstreamManifest, produce, stretch
from shared import clock
from shared.runtime.kafka import TOPIC
from shared.settings import CHECKOUT

DAY_1 = datetime(2026, 1, 1, tzinfo=UTC)
Config = dict[str, Any]


def address(broker: Producer) -> Config:
    """The address of the mock cluster in this client. A request for the topic by name creates the topic."""
    brokers = broker.list_topics(TOPIC, timeout=5).brokers
    return {"bootstrap.servers": ",".join(f"{b.host}:{b.port}" for b in brokers.values())}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Config]:
    """The client configuration of a cluster with one broker and the topic."""
    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    yield address(broker)
    broker.close()


@dataclass(frozen=True)
class Record:
    key: bytes | None
    value: bytes
    partition: int
    offset: int


class Topic:
    """Reads the records that were added to the topic since this object was created."""

    def __init__(self, cluster: Config) -> None:
        self._consumer = Consumer({**cluster, "group.id": "test", "enable.auto.commit": False, "log_level": 0})
        partitions = self._consumer.list_topics(TOPIC, timeout=5).topics[TOPIC].partitions
        self._starts = [TopicPartition(TOPIC, number, self._end(number)) for number in partitions]

    def _end(self, partition: int) -> int:
        return int(self._consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=5)[1])

    def read(self) -> list[Record]:
        """The added records, partition by partition."""
        ends = [self._end(start.partition) for start in self._starts]
        missing = sum(ends) - sum(start.offset for start in self._starts)
        self._consumer.assign(self._starts)
        found: list[Record] = []
        while len(found) < missing:
            batch = self._consumer.consume(missing - len(found), timeout=5)
            assert batch, f"{len(found)} of {missing} records came within 5 s"
            found += [Record(m.key(), m.value(), m.partition(), m.offset()) for m in batch]
        self._consumer.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))


@pytest.fixture
def topic(cluster: Config) -> Topic:
    return Topic(cluster)


def ask(cluster: Config, folder: Path, **given: Any) -> ClickstreamManifest:
    """Replay ten minutes of day 1, as fast as possible."""
    arguments = {"seed": 7, "scale": 0.1, "day": 1, "duration": 600, "rate": 5, "speedup": 0}
    return produce(cluster, manifest_dir=folder, progress=False, **{**arguments, **given})


def events(records: list[Record]) -> dict[str, dict[str, Any]]:
    """The valid events by id, each once."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        try:
            event = json.loads(record.value)
            at = datetime.fromisoformat(event["event_ts"])
            valid = (
                event["event_id"] and event["user_id"] and event["event_type"] in EVENT_TYPES and 2026 <= at.year < 2099
            )
        except (ValueError, KeyError):
            continue
        if valid:
            found[event["event_id"]] = event
    return found


def assert_describes(manifest: ClickstreamManifest, records: list[Record]) -> None:
    """Assert that the manifest agrees with what a consumer finds."""
    found = list(events(records).values())
    assert manifest.sent == manifest.delivered == len(records)
    assert manifest.failed == 0
    assert manifest.events == len(found)
    assert manifest.events + manifest.added == manifest.sent
    assert manifest.defects["duplicate"] == len(records) - len({record.value for record in records})
    assert (manifest.first_event_ts, manifest.last_event_ts) == (
        min(event["event_ts"] for event in found),
        max(event["event_ts"] for event in found),
    )
    by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(found, key=lambda event: event["event_ts"]):
        by_id[event["session_id"]].append(event)
    assert manifest.sessions == len(by_id)
    assert sessions(manifest) == {session: summary(walk) for session, walk in by_id.items()}
    hours = {hour: counts.events for hour, counts in manifest.hours.items() if counts.events}
    assert hours == Counter(event["event_ts"][:13] + ":00:00.000Z" for event in found)
    starts = {hour: counts.sessions for hour, counts in manifest.hours.items() if counts.sessions}
    assert starts == Counter(walk[0]["event_ts"][:13] + ":00:00.000Z" for walk in by_id.values())
    bought = [event["event_ts"][:13] + ":00:00.000Z" for event in found if event["event_type"] == "purchase"]
    assert {hour: counts.purchases for hour, counts in manifest.hours.items() if counts.purchases} == Counter(bought)
    assert manifest.purchases == len(bought)


def sessions(manifest: ClickstreamManifest) -> dict[str, dict[str, str]]:
    with manifest.sessions_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(tuple(row) == SESSION_COLUMNS for row in rows)
    by_id = {row.pop("session_id"): row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def summary(walk: list[dict[str, Any]]) -> dict[str, str]:
    types = {event["event_type"] for event in walk}
    return {
        "user_id": walk[0]["user_id"],
        "session_start_ts": walk[0]["event_ts"],
        "session_end_ts": walk[-1]["event_ts"],
        "events": str(len(walk)),
        "funnel_step": next((step for step in reversed(FUNNEL) if step in types), FUNNEL[0]),
        "is_converted": str("purchase" in types).lower(),
    }


# --- what is sent arrives ------------------------------------------------------------------------------------------


def test_all_that_is_sent_arrives_and_the_manifest_describes_it(cluster: Config, topic: Topic, tmp_path: Path) -> None:
    manifest = ask(cluster, tmp_path, duration=7_200, rate=2)
    assert manifest.end == "complete"
    assert manifest.until == "2026-01-01T02:00:00.000Z"
    records = topic.read()
    assert_describes(manifest, records)
    planned = list(Clickstream(manifest.plan))
    assert Counter((r.key, r.value) for r in records) == Counter((m.key, m.value) for m in planned)
    assert manifest.defects == {kind: Counter(m.kind for m in planned)[kind] for kind in manifest.defects}
    assert min(manifest.defects.values()) > 0


def test_messages_of_a_user_are_in_one_partition_in_their_order(cluster: Config, topic: Topic, tmp_path: Path) -> None:
    manifest = ask(cluster, tmp_path, rate=20)
    planned: dict[bytes, list[bytes]] = defaultdict(list)
    for message in Clickstream(manifest.plan):
        if message.key is not None:
            planned[message.key].append(message.value)
    partitions: dict[bytes, set[int]] = defaultdict(set)
    arrived: dict[bytes, list[bytes]] = defaultdict(list)
    for record in topic.read():
        if record.key is not None:
            partitions[record.key].add(record.partition)
            arrived[record.key].append(record.value)
    assert arrived == planned
    assert {len(of_user) for of_user in partitions.values()} == {1}
    assert len(set.union(*partitions.values())) > 1


def test_replaying_a_stretch_sends_the_same_and_replaces_its_account(
    cluster: Config, topic: Topic, tmp_path: Path
) -> None:
    first = ask(cluster, tmp_path)
    account = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(account) == 2
    second = ask(cluster, tmp_path)
    assert second == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == account
    records = topic.read()
    assert len(records) == 2 * first.sent
    assert len(events(records)) == first.events


def test_accounts_of_other_stretches_stay(cluster: Config, tmp_path: Path) -> None:
    manifests = [
        ask(cluster, tmp_path),
        ask(cluster, tmp_path, day=2),
        ask(cluster, tmp_path, seed=8),
        ask(cluster, tmp_path, day=None, start=datetime(2026, 1, 1, 0, 0, 0, 5_000, tzinfo=UTC)),
    ]
    assert [ClickstreamManifest.load(manifest.path) for manifest in manifests] == manifests
    assert manifests[0].path.name == f"clickstream-20260101T000000Z-{manifests[0].plan.clickstream}.json"
    assert len(list(tmp_path.iterdir())) == 8


def test_schema_version_2_arrives(cluster: Config, topic: Topic, tmp_path: Path) -> None:
    ask(cluster, tmp_path, schema_version=2)
    found = events(topic.read()).values()
    assert {event["schema_version"] for event in found} == {2}
    assert {"newsletter", None} <= {event["campaign"] for event in found}


def test_a_full_queue_is_waited_for(cluster: Config, topic: Topic, tmp_path: Path) -> None:
    manifest = ask({**cluster, "queue.buffering.max.messages": 50, "linger.ms": 1}, tmp_path)
    assert manifest.sent > 2_500
    assert_describes(manifest, topic.read())


def test_account_is_in_the_home_unless_said_otherwise(
    cluster: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(produce_clickstream, "get_settings", lambda: settings)
    manifest = produce(cluster, day=1, duration=10, speedup=0, scale=0.01)
    assert manifest.path.parent == settings.home / "raw" / "clickstream"


# --- in time -------------------------------------------------------------------------------------------------------


def test_live_run_sends_each_event_when_its_time_has_come(
    cluster: Config, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lags = []

    class Watched(Producer):
        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            lags.append(time.time() - datetime.fromisoformat(json.loads(value)["event_ts"]).timestamp())
            super().produce(topic, value, key, on_delivery=on_delivery)

    def begun_five_seconds_ago(**given: Any) -> ClickstreamPlan:
        plan = stretch(**given)
        return replace(plan, start=plan.start - timedelta(seconds=5))

    monkeypatch.setattr(produce_clickstream, "Producer", Watched)
    monkeypatch.setattr(produce_clickstream, "stretch", begun_five_seconds_ago)
    begun = time.time()
    manifest = produce(
        cluster, rate=50, duration=8, manifest_dir=tmp_path, scale=0.1, late=0, duplicates=0, malformed=0
    )
    assert 0.8 < time.time() - begun < 20
    assert manifest.plan.start == datetime.fromtimestamp(int(begun) - 5, UTC)
    assert 300 < manifest.events < 500
    assert manifest.delivered == len(topic.read())
    assert min(lags) > -0.001  # the two clocks are not read at the same instant
    assert lags[0] > 4
    assert max(lags[-20:]) < 3


def test_speedup_is_how_fast_event_time_runs(cluster: Config, tmp_path: Path) -> None:
    begun = time.monotonic()
    ask(cluster, tmp_path, duration=60, speedup=100)
    assert 0.5 < time.monotonic() - begun < 20


def test_what_is_sent_is_idempotent_and_acknowledged_by_all(
    cluster: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    class Watched(Producer):
        def __init__(self, config: dict[str, Any]) -> None:
            given.append(config)
            super().__init__(config)

    monkeypatch.setattr(produce_clickstream, "Producer", Watched)
    ask(cluster, tmp_path, duration=1, speedup=0)
    assert [(config["enable.idempotence"], config["acks"]) for config in given] == [(True, "all")]


def test_no_event_is_sent_before_its_time(cluster: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early = []
    begun = time.monotonic()

    class Watched(Producer):
        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            at = json.loads(value)["event_ts"]
            due = (datetime.fromisoformat(at) - DAY_1).total_seconds() / 200
            early.append(due - (time.monotonic() - begun))
            super().produce(topic, value, key, on_delivery=on_delivery)

    monkeypatch.setattr(produce_clickstream, "Producer", Watched)
    ask(cluster, tmp_path, duration=100, rate=2, speedup=200, duplicates=0, malformed=0, late=0)
    assert len(early) > 100
    assert max(early) < 0
    assert sorted(early)[len(early) // 2] > -2


@pytest.mark.parametrize("at", [1_000, 4_000])
def test_ctrl_c_ends_the_stretch_where_it_is(
    cluster: Config, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    class Interrupted(Producer):
        handed = 0

        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            super().produce(topic, value, key, on_delivery=on_delivery)
            self.handed += 1
            if self.handed == at:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(produce_clickstream, "Producer", Interrupted)
    manifest = ask(cluster, tmp_path, duration=None, day=None, start=DAY_1, rate=20, speedup=600, late=0.1)
    assert manifest.end == "interrupted"
    assert manifest.events > 100
    records = topic.read()
    assert_describes(manifest, records)
    until = datetime.fromisoformat(manifest.until)
    shorter = replace(manifest.plan, duration=(until - DAY_1).total_seconds())
    assert Counter(r.value for r in records) == Counter(m.value for m in Clickstream(shorter))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_gives_up(cluster: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Stuck(Producer):
        handed = flushed = 0

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config)
            made.append(self)

        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            super().produce(topic, value, key, on_delivery=on_delivery)
            self.handed += 1
            if self.handed == 100:
                signal.raise_signal(signal.SIGINT)

        def flush(self, timeout: float) -> int:
            self.flushed += 1
            if self.handed >= 100 and self.flushed == 3:
                signal.raise_signal(signal.SIGINT)
            self.poll(timeout)
            return 1

    monkeypatch.setattr(produce_clickstream, "Producer", Stuck)
    with pytest.raises(KeyboardInterrupt):
        ask(cluster, tmp_path, speedup=1000)
    Producer.flush(made[0], 30)  # otherwise the waiting messages would arrive during the next test
    assert list(tmp_path.iterdir()) == []


# --- undelivered messages are reported -----------------------------------------------------------------------------


def manifest_in(folder: Path) -> ClickstreamManifest:
    (path,) = folder.glob("*.json")
    return ClickstreamManifest.load(path)


def test_refused_message_is_counted_and_ends_the_run(
    cluster: Config, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swelling(Producer):
        handed = 0

        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            self.handed += 1
            super().produce(topic, value + b" " * 2_000 * (self.handed == 101), key, on_delivery=on_delivery)

    monkeypatch.setattr(produce_clickstream, "Producer", Swelling)
    with pytest.raises(GeneratorError) as caught:
        ask({**cluster, "message.max.bytes": 1_000}, tmp_path)
    assert caught.value.problem == (
        f"1 of 101 messages were not delivered to {TOPIC} (1 x MSG_SIZE_TOO_LARGE): "
        f"a message is larger than {TOPIC} takes"
    )
    assert "--start 2026-01-01T00:00:00.000Z" in caught.value.hint
    manifest = manifest_in(tmp_path)
    assert (manifest.end, manifest.sent, manifest.delivered, manifest.failed) == ("failed", 101, 100, 1)
    assert manifest.failed_by_reason == {"MSG_SIZE_TOO_LARGE": 1}
    assert len(topic.read()) == 100


def test_broker_that_stays_away_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    config = {**address(broker), "message.timeout.ms": 1_500}
    end = threading.Thread(target=broker.close)

    class Forsaken(Producer):
        """Loses its broker after the first delivered message."""

        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            def delivered(error: Any, message: Any) -> None:
                on_delivery(error, message)
                if end.ident is None:
                    end.start()

            super().produce(topic, value, key, on_delivery=delivered)

    monkeypatch.setattr(produce_clickstream, "Producer", Forsaken)
    begun = time.monotonic()
    with pytest.raises(GeneratorError) as caught:
        ask(config, tmp_path, speedup=60)
    assert time.monotonic() - begun < 20
    manifest = manifest_in(tmp_path)
    assert manifest.end == "failed"
    assert manifest.delivered > 0
    assert manifest.failed_by_reason == {"_MSG_TIMED_OUT": manifest.sent - manifest.delivered}
    assert caught.value.problem.startswith(f"{manifest.failed:,} of {manifest.sent:,} messages were not delivered")
    assert "took no message" in caught.value.problem
    assert "shopmetrics up" in caught.value.hint


def test_refused_credentials_end_the_run_and_what_waits_is_given_up(
    cluster: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Revoked(Producer):
        """Keeps its messages, and after 100 messages learns that its key is no longer valid."""

        def __init__(self, config: Config) -> None:
            super().__init__({**config, "linger.ms": 60_000, "message.timeout.ms": 120_000})
            self.on_error = config["error_cb"]
            self.handed = 0

        def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
            super().produce(topic, value, key, on_delivery=on_delivery)
            self.handed += 1
            if self.handed == 100:
                self.on_error(KafkaError(KafkaError._AUTHENTICATION))

        def flush(self, timeout: float) -> int:
            self.poll(timeout)
            return len(self)

    monkeypatch.setattr(produce_clickstream, "Producer", Revoked)
    begun = time.monotonic()
    with pytest.raises(GeneratorError, match="refuses the credentials") as caught:
        ask(cluster, tmp_path)
    assert time.monotonic() - begun < 20
    assert "KAFKA_API_SECRET" in caught.value.hint
    manifest = manifest_in(tmp_path)
    assert (manifest.sent, manifest.delivered, manifest.failed_by_reason) == (100, 0, {"_AUTHENTICATION": 100})


def test_cluster_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce_clickstream, "_CONNECT_TIMEOUT", 0.1)
    with pytest.raises(GeneratorError, match=r"Kafka at 127\.0\.0\.1:1 does not answer within 0\.1 s") as caught:
        ask({"bootstrap.servers": "127.0.0.1:1"}, tmp_path)
    assert "shopmetrics up" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_topic_that_is_not_there_is_named_with_those_that_are(cluster: Config, tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=f"the topic clicks is not there; topics: .*{TOPIC}"):
        ask(cluster, tmp_path, topic="clicks")
    assert list(tmp_path.iterdir()) == []


def test_account_that_cannot_be_written_is_known_before_anything_is_sent(
    cluster: Config, topic: Topic, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GeneratorError, match="cannot be written"):
        ask(cluster, tmp_path / "file")
    assert topic.read() == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"day": None, "speedup": 10}, "a live run has the speed of the clock, and a speedup of 10 was asked for"),
        ({"day": None, "speedup": 0}, "a live run has the speed of the clock, and a speedup of 0 was asked for"),
        ({"speedup": -1}, "speedup must be 0 or more, got -1"),
        ({"speedup": float("nan")}, "speedup must be 0 or more, got nan"),
        ({"start": DAY_1}, "day 1 and start 2026-01-01T00:00:00+00:00 are both given"),
        ({"day": -1}, "day must be a whole number, 0 or more, got -1"),
        ({"day": 1.5}, "day must be a whole number, 0 or more, got 1.5"),
        ({"day": 10**9}, "day 1000000000 is beyond the calendar"),
        ({"duration": 90_000}, "a day has 86,400 seconds, a duration of 90,000 was asked for"),
        ({"rate": 0}, "rate must be"),
    ],
    ids=str,
)
def test_bad_argument_is_refused_before_anything_is_sent(
    tmp_path: Path, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(GeneratorError) as caught:
        ask({"bootstrap.servers": "127.0.0.1:1"}, tmp_path, **arguments)
    assert caught.value.problem.startswith(problem)
    assert caught.value.hint


def test_day_is_the_calendars_and_has_the_hours_of_the_shop_if_it_is_whole() -> None:
    whole = stretch(day=3, seed=1)
    assert (whole.start.date(), whole.duration, whole.hours) == (clock.batch_date(3), 86_400, "shop")
    part = stretch(day=3, duration=60, seed=1)
    assert (part.start, part.duration, part.hours) == (whole.start, 60, "even")
    assert stretch(start=DAY_1, seed=1).duration is None
    assert abs((stretch(seed=1).start - datetime.now(UTC)).total_seconds()) < 2


def test_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="does not exist: no clickstream was produced here"):
        ClickstreamManifest.load(tmp_path / "none.json")
    for text in ("{", "[]", "{}", '{"plan": {"start": "2026-01-01"}}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(GeneratorError, match="is not a manifest of this producer"):
            ClickstreamManifest.load(tmp_path / "other.json")


# --- the program ---------------------------------------------------------------------------------------------------


def program(cluster: Config, *arguments: str, home: Path, **given: Any) -> subprocess.Popen[str]:
    """Start the program in a process of its own. It connects to this cluster, which needs no credentials."""
    code = (
        "from types import SimpleNamespace; from shared.runtime import kafka\n"
        f"kafka.connect = lambda settings: SimpleNamespace(client_config=lambda: {cluster!r})\n"
        "from generators.produce_clickstream import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "SHOPMETRICS_HOME": str(home), "SHOPMETRICS_SCALE": "0.1"},
        text=True,
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, **given},
    )


def test_program_prints_json_for_programs(cluster: Config, topic: Topic, tmp_path: Path) -> None:
    running = program(
        cluster, "--start", "2026-01-01T00:00", "--duration", "60", "--speedup", "0", "--json", home=tmp_path
    )
    out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    manifest = manifest_in(tmp_path / "raw" / "clickstream")
    assert json.loads(out) == manifest.as_dict()
    assert manifest.delivered == len(topic.read())


def test_program_ends_with_status_1_and_a_sentence_if_not_all_is_delivered(cluster: Config, tmp_path: Path) -> None:
    running = program(cluster, "--day", "1", "--topic", "clicks", home=tmp_path)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (1, "")
    assert err.startswith("error: the topic clicks is not there")
    assert "Traceback" not in err


def test_program_ends_a_live_run_at_ctrl_c_with_a_summary_and_status_0(
    cluster: Config, topic: Topic, tmp_path: Path
) -> None:
    terminal, its_end = pytest.importorskip("pty").openpty()
    running = program(cluster, "--rate", "50", home=tmp_path, stderr=its_end)
    os.close(its_end)
    shown = b""
    while b" sent" not in shown:
        shown += os.read(terminal, 4_096)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=20)
    os.close(terminal)
    assert running.returncode == 0
    manifest = manifest_in(tmp_path / "raw" / "clickstream")
    assert manifest.end == "interrupted"
    assert_describes(manifest, topic.read())
    for line in (f"messages delivered │ {manifest.delivered:,}", "purchases", "not_json", "messages/s"):
        assert " ".join(line.split()) in " ".join(out.split())


def test_help_has_an_example() -> None:
    app = typer.Typer()
    app.command(epilog=produce_clickstream.EXAMPLE)(produce_clickstream.command)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "python -m generators.produce_clickstream --day 1" in " ".join(shown.output.split())
