"""The broker in normal use and in accidents: a real Kafka, in one home for the whole module.

Starts are the most expensive part, so the tests follow one life of a broker. The broker's first start meets damaged
data. Each later start follows the end of the broker before, and several tests use it. A test that ends the broker, or
takes its port, gets it with ``kafka.up``, like all callers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from pydantic import SecretStr

from shared import secrets
from shared.errors import BrokerError, EngineError, SecretError
from shared.home import clear
from shared.private import write_private
from shared.runtime import kafka
from shared.runtime.kafka import Cluster
from shared.runtime.process import ServerRecord, choose_port, read_record
from shared.settings import CHECKOUT, Settings, get_settings

AWKWARD = "q\"u'o\\te é✓ =#!;{}"
NOBODY = Cluster("broker.example:9092", "me", SecretStr(AWKWARD), "SASL_SSL", is_local=False)


@pytest.fixture(scope="module", autouse=True)
def _no_cluster_is_named() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in (kafka.SERVERS, kafka.KEY, kafka.SECRET, kafka.PROTOCOL, kafka.MECHANISM):
            environment.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def home(_no_cluster_is_named: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The home of the shared broker."""
    settings = get_settings().model_copy(update={"home": tmp_path_factory.mktemp("broker") / "home"})
    yield settings
    kafka.down(settings)


@pytest.fixture
def own(settings: Settings) -> Iterator[Settings]:
    """A home, and so a broker, of this test's own."""
    yield settings
    kafka.down(settings)


def in_new_process(home: Settings, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"SHOPMETRICS_HOME": str(home.home)}, cwd=CHECKOUT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def processes_of(home: Settings) -> list[psutil.Process]:
    """Every process that was started with a file of this home on its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home.home) in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(record: ServerRecord) -> None:
    process = record.process()
    assert process
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
    assert record.process() is None


def produce(producer: Producer, topic: str, values: list[bytes]) -> None:
    """Send these values to the partitions in turn, and assert that each arrived."""
    failed = []
    for i, value in enumerate(values):
        producer.produce(
            topic, value, partition=i % kafka.PARTITIONS,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
    assert producer.flush(20) == 0
    assert failed == []


def consumer(cluster: Cluster, topic: str) -> Consumer:
    """A consumer at the beginning of the topic, which reconnects quickly when the broker is back."""
    made = Consumer(
        cluster.client_config()
        | {"group.id": "readers", "enable.auto.commit": False, "reconnect.backoff.max.ms": 200, "log_level": 0}
    )
    made.assign([TopicPartition(topic, partition, 0) for partition in range(kafka.PARTITIONS)])
    return made


def read(reader: Consumer, count: int) -> list[bytes]:
    """The sorted values of this many messages; asserts that there are no more."""
    values: list[bytes] = []
    deadline = time.monotonic() + 60
    while len(values) < count:
        assert time.monotonic() < deadline, f"{len(values)} of {count} messages within a minute"
        values += consumed(reader, count, 0.2)
    assert consumed(reader, 1, 0.1) == []
    return sorted(values)


def consumed(reader: Consumer, count: int, timeout: float) -> list[bytes]:
    messages = reader.consume(count, timeout)
    return [message.value() or b"" for message in messages if not message.error()]


# --- one broker, and who gets in -----------------------------------------------------------------------------------


def test_damaged_data_are_told_and_once_they_are_removed_two_processes_at_once_start_one_broker(home: Settings) -> None:
    """The first start of this home's broker."""
    kafka.down(home)
    (home.kafka / "log").mkdir(parents=True, exist_ok=True)
    (home.kafka / "log" / "meta.properties").write_text("garbage")
    with pytest.raises(BrokerError) as raised:
        kafka.up(home)
    assert "ended with exit code 1 before it answered" in raised.value.problem
    assert "node ID not found" in raised.value.problem
    assert f"read {kafka.log_path(home)}" in raised.value.hint
    assert f"remove {home.kafka}," in raised.value.hint
    assert "node ID not found" in kafka.log_path(home).read_text()
    assert processes_of(home) == []
    assert kafka.running(home) is None

    shutil.rmtree(home.kafka)
    code = "from shared.runtime import kafka; print(kafka.connect().bootstrap_servers, kafka.running().pid)"
    both = [in_new_process(home, code) for _ in range(2)]
    answers = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert len(processes_of(home)) == 1
    assert kafka.topic_identity(kafka.connect(home))[1] == 3


def test_up_starts_one_broker_and_up_again_finds_it(home: Settings) -> None:
    record = kafka.up(home)
    assert record.process() is not None
    assert kafka.up(home) == record == kafka.running(home)
    assert len(processes_of(home)) == 1
    cluster = kafka.connect(home)
    assert (cluster.bootstrap_servers, cluster.is_local) == (f"127.0.0.1:{record.port}", True)


def test_it_is_small(home: Settings) -> None:
    assert 50 < kafka.up(home).memory_mb() < 350


def test_the_topic_has_three_partitions_and_keeps_a_day(home: Settings) -> None:
    cluster = kafka.connect(home)
    topics = kafka.metadata(cluster).topics
    assert list(topics) == [kafka.TOPIC] == ["clickstream-events"]
    assert len(topics[kafka.TOPIC].partitions) == 3
    asked = ConfigResource(ConfigResource.Type.TOPIC, kafka.TOPIC)
    client = AdminClient(cluster.client_config())
    described = client.describe_configs([asked])[asked].result(10)
    assert int(described["retention.ms"].value) == 24 * 60 * 60 * 1000
    # Kafka removes nothing from the segment that it writes to.
    assert int(described["segment.ms"].value) == 60 * 60 * 1000


def test_it_listens_on_loopback_only(home: Settings) -> None:
    record = kafka.up(home)
    process = record.process()
    assert process
    listening = [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert record.port in {address.port for address in listening}


def test_the_secret_is_in_private_files_and_nowhere_else(home: Settings) -> None:
    cluster = kafka.connect(home)
    secret = cluster.secret.get_secret_value()
    process = kafka.up(home).process()
    assert process
    assert len(secret) >= 32
    assert secret in secrets.secrets_file(home).read_text()
    for place in (
        *process.cmdline(),
        *process.environ().values(),
        kafka.record_path(home).read_text(),
        kafka.log_path(home).read_text(),
        f"{cluster} {cluster!r} {vars(cluster)}",
    ):
        assert secret not in place
    holders = [path for path in home.home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert sorted(path.name for path in holders) == ["kafka.properties", "secrets.toml"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (*holders, kafka.record_path(home))} == {0o600}


@pytest.mark.parametrize("wrong", [{"secret": SecretStr("guess")}, {"key": "stranger"}], ids=["secret", "user"])
def test_wrong_credentials_are_refused_by_name(home: Settings, wrong: dict[str, str | SecretStr]) -> None:
    stranger = replace(kafka.connect(home), **wrong)  # type: ignore[arg-type]
    with pytest.raises(BrokerError) as raised:
        kafka.metadata(stranger)
    assert f"refuses the credentials of {stranger.key!r}" in raised.value.problem
    assert "KAFKA_API_KEY and KAFKA_API_SECRET" in raised.value.hint


# --- keys that are issued while it runs ----------------------------------------------------------------------------


def test_a_key_is_issued_rotated_and_revoked_and_the_broker_refuses_what_is_old(home: Settings) -> None:
    owner = kafka.connect(home)
    first = kafka.issue_key(owner, "producer")
    assert (first.key, first.mechanism, first.bootstrap_servers) == (
        "producer",
        "SCRAM-SHA-512",
        owner.bootstrap_servers,
    )
    assert len(first.secret.get_secret_value()) >= 43
    produce(Producer(first.client_config()), kafka.TOPIC, [b"with an issued key"])
    assert kafka.keys(owner) == ["producer"]

    second = kafka.issue_key(owner, "producer")
    assert second.secret != first.secret
    with pytest.raises(BrokerError, match="refuses the credentials of 'producer'"):
        kafka.metadata(first)
    produce(Producer(second.client_config()), kafka.TOPIC, [b"with the new secret"])
    assert kafka.keys(owner) == ["producer"]
    kafka.metadata(owner)  # the home's own key is still valid

    assert kafka.revoke_key(owner, "producer")
    assert not kafka.revoke_key(owner, "producer")
    with pytest.raises(BrokerError, match="refuses the credentials of 'producer'"):
        kafka.metadata(second)
    assert kafka.keys(owner) == []
    holders = [path for path in home.home.rglob("*") if path.is_file()]
    for issued in (first, second):
        text = issued.secret.get_secret_value().encode()
        assert [path.name for path in holders if text in path.read_bytes()] == []


def test_a_connection_that_is_open_is_refused_soon_after_its_key_is_revoked(home: Settings) -> None:
    owner = kafka.connect(home)
    refused: list[KafkaError] = []
    issued = kafka.issue_key(owner, "connected")
    producer = Producer(issued.client_config() | {"error_cb": refused.append, "log_level": 0})
    produce(producer, kafka.TOPIC, [b"before"])
    # The connection must authenticate again, and continues as long as its key is valid.
    deadline = time.monotonic() + kafka.REAUTHENTICATION_SECONDS * 1.5
    while time.monotonic() < deadline:
        produce(producer, kafka.TOPIC, [b"while it is good"])
        producer.poll(0.2)
    assert refused == []

    kafka.revoke_key(owner, "connected")
    deadline = time.monotonic() + kafka.REAUTHENTICATION_SECONDS * 3
    while not any(error.code() == KafkaError._AUTHENTICATION for error in refused):
        assert time.monotonic() < deadline, "the connection goes on with a revoked key"
        producer.poll(0.1)
    producer.purge()
    producer.flush(5)


def test_what_was_issued_and_revoked_stays_so_when_the_broker_starts_again(home: Settings) -> None:
    owner = kafka.connect(home)
    issued, gone = kafka.issue_key(owner, "long-lived"), kafka.issue_key(owner, "short-lived")
    assert kafka.revoke_key(owner, "short-lived")
    kafka.down(home)
    owner = kafka.connect(home)
    assert kafka.keys(owner) == ["long-lived"]
    assert kafka.TOPIC in kafka.metadata(replace(issued, bootstrap_servers=owner.bootstrap_servers)).topics
    with pytest.raises(BrokerError, match="refuses the credentials of 'short-lived'"):
        kafka.metadata(replace(gone, bootstrap_servers=owner.bootstrap_servers))
    assert kafka.revoke_key(owner, "long-lived")


def test_a_cluster_may_be_named_with_an_issued_key(home: Settings, settings: Settings) -> None:
    issued = kafka.issue_key(kafka.connect(home), "elsewhere")
    given = {
        kafka.SERVERS: issued.bootstrap_servers, kafka.KEY: issued.key, kafka.SECRET: issued.secret,
        kafka.PROTOCOL: "SASL_PLAINTEXT", kafka.MECHANISM: "SCRAM-SHA-512",
    }  # fmt: skip
    for name, value in given.items():
        secrets.put(name, value, settings)
    named = kafka.connect(settings)
    assert named == replace(issued, is_local=False)
    assert kafka.TOPIC in kafka.metadata(named).topics
    secrets.put(kafka.MECHANISM, "GSSAPI", settings)
    with pytest.raises(BrokerError, match=r"KAFKA_SASL_MECHANISM is 'GSSAPI'; expected PLAIN or SCRAM-SHA-512"):
        kafka.connect(settings)
    kafka.revoke_key(kafka.connect(home), "elsewhere")


def test_a_topic_that_is_not_there_is_told_with_those_that_are(home: Settings) -> None:
    with pytest.raises(BrokerError, match=r"has no topic clicks\. Topics: .*clickstream-events") as raised:
        kafka.topic_identity(kafka.connect(home), "clicks")
    assert "shopmetrics up" in raised.value.hint
    assert "clicks" not in kafka.metadata(kafka.connect(home)).topics  # the request did not create it


def test_a_topic_is_made_once_however_many_ask_for_it(home: Settings) -> None:
    cluster = kafka.connect(home)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: kafka.create_topic(cluster, "contested", 2), range(8)))
    assert sorted(made) == [False] * 7 + [True]
    assert kafka.topic_identity(cluster, "contested")[1] == 2


def test_a_topic_made_anew_under_its_old_name_is_another_one(home: Settings) -> None:
    cluster = kafka.connect(home)
    assert kafka.create_topic(cluster, "anew", 1)
    first = kafka.topic_identity(cluster, "anew")
    assert kafka.topic_identity(cluster, "anew") == first
    client = AdminClient(cluster.client_config())
    client.delete_topics(["anew"])["anew"].result(10)
    deadline = time.monotonic() + 60
    while "anew" in kafka.metadata(cluster).topics:
        assert time.monotonic() < deadline, "the topic is still there a minute after it was deleted"
        time.sleep(0.05)
    assert kafka.create_topic(cluster, "anew", 1)
    second = kafka.topic_identity(cluster, "anew")
    assert second[0] != first[0]
    assert second[1] == first[1] == 1


def test_a_broker_whose_leaders_are_not_known_yet_is_asked_again(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = kafka.connect(home)
    kafka.create_topic(cluster, "elected", 2)
    asked = AdminClient.list_offsets
    not_yet = iter((KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_LEADER_EPOCH))

    def list_offsets(client: AdminClient, *given: object, **named: object) -> object:
        for code in not_yet:
            raise KafkaException(KafkaError(code))
        return asked(client, *given, **named)

    monkeypatch.setattr(AdminClient, "list_offsets", list_offsets)
    assert kafka.end_offsets(cluster, "elected") == {0: 0, 1: 0}
    assert list(not_yet) == [], "it was to be asked three times"


def test_a_topic_of_which_nothing_is_told_in_time_is_not_called_missing(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = kafka.connect(home)

    def silent(*_: object, **__: object) -> object:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    for name, ask in (("describe_topics", kafka.topic_identity), ("describe_configs", kafka.topic_config)):
        monkeypatch.setattr(AdminClient, name, silent)
        with pytest.raises(BrokerError, match=f"does not say how {kafka.TOPIC} stands: Local: Timed out"):
            ask(cluster)


@pytest.mark.parametrize("mute", [False, True], ids=["nobody listens", "somebody listens and says nothing"])
@pytest.mark.parametrize(
    ("is_local", "hint"), [(True, "`shopmetrics up` starts"), (False, "check KAFKA_BOOTSTRAP_SERVERS")]
)
def test_a_broker_that_is_gone_is_reported_in_time(mute: bool, is_local: bool, hint: str) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        if mute:
            somebody.listen()
        address = f"127.0.0.1:{somebody.getsockname()[1]}"
        gone = replace(NOBODY, bootstrap_servers=address, security_protocol="SASL_PLAINTEXT", is_local=is_local)
        started = time.monotonic()
        with pytest.raises(BrokerError) as raised:
            kafka.metadata(gone, timeout=0.5)
        assert 0.4 < time.monotonic() - started < 5
    assert raised.value.problem == f"Kafka at {address} does not answer within 0.5 s."
    assert hint in raised.value.hint


# --- down, killed, and up again ------------------------------------------------------------------------------------


@contextmanager
def outlived(home: Settings, topic: str) -> Iterator[ServerRecord]:
    """Assert that data, committed offsets, port and clients survive the end and the restart of the broker."""
    first, cluster = kafka.up(home), kafka.connect(home)
    kafka.create_topic(cluster, topic)
    producer = Producer(cluster.client_config() | {"acks": "all", "reconnect.backoff.max.ms": 200, "log_level": 0})
    with closing(consumer(cluster, topic)) as reader:
        produce(producer, topic, before := [f"before {i}".encode() for i in range(300)])
        assert read(reader, 300) == sorted(before)
        committed = reader.commit(asynchronous=False)
        assert [partition.offset for partition in committed] == [100] * 3

        yield first

        second = kafka.running(home)
        assert second
        assert second.pid != first.pid
        assert second.port == first.port
        assert kafka.connect(home) == cluster
        produce(producer, topic, after := [f"after {i}".encode() for i in range(300)])
        assert read(reader, 300) == sorted(after)
        assert [partition.offset for partition in reader.committed(committed)] == [100] * 3
    with closing(consumer(cluster, topic)) as newcomer:
        assert read(newcomer, 600) == sorted(before + after)


def test_after_down_it_comes_up_with_all_that_was_there_whoever_has_its_pid(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_yet = iter((KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS))

    class Early(Consumer):
        def committed(self, *given: Any, **named: Any) -> Any:
            for code in not_yet:
                raise KafkaException(KafkaError(code))
            return super().committed(*given, **named)

    with outlived(home, "outlives-down") as first:
        assert kafka.down(home) is True
        assert kafka.running(home) is None
        assert processes_of(home) == []

        # The pid in the record now belongs to another process.
        stale = json.dumps(vars(first) | {"pid": os.getpid()})
        write_private(kafka.record_path(home), stale)
        assert kafka.running(home) is None
        assert kafka.down(home) is False
        write_private(kafka.record_path(home), stale)
        with monkeypatch.context() as patch:
            patch.setattr("confluent_kafka.Consumer", Early)
            record = kafka.up(home)
        assert list(not_yet) == [], "what was committed was to be asked for three times"
        assert record.pid != os.getpid()
        assert read_record(kafka.record_path(home)) == record


def test_killed_it_comes_up_with_all_that_was_there_though_the_next_starter_is_killed_too(home: Settings) -> None:
    with outlived(home, "outlives-kill") as first:
        kill(first)  # leaves the record of a dead process behind
        assert kafka.record_path(home).exists()
        assert kafka.running(home) is None
        assert processes_of(home) == []

        starter = in_new_process(home, "from shared.runtime import kafka; kafka.up()")
        try:
            deadline = time.monotonic() + 180
            while not (orphan := read_record(kafka.record_path(home))):
                assert time.monotonic() < deadline, "no broker was started within 3 minutes"
                assert starter.poll() is None, starter.communicate()
                time.sleep(0.005)
        finally:
            starter.kill()
            starter.communicate()
        assert orphan.process() is not None
        record = kafka.up(home)
        assert record.pid != orphan.pid
        assert orphan.process() is None
        assert kafka.topic_identity(kafka.connect(home))[1] == 3


def test_down_ends_nothing_where_nothing_runs(settings: Settings) -> None:
    assert kafka.down(settings) is False
    assert not settings.home.exists()
    assert kafka.running(settings) is None


def test_a_broker_that_is_alive_but_does_not_answer_is_replaced_whatever_is_kept_as_its_port(home: Settings) -> None:
    first = kafka.up(home)
    write_private(kafka.record_path(home), json.dumps(vars(first) | {"port": choose_port(0, "")}))
    (home.kafka / "port").write_text("99999")
    assert kafka.running(home) is None
    second = kafka.up(home)
    assert first.process() is None
    assert second.port <= 65535
    assert len(processes_of(home)) == 1


def test_new_credentials_count_from_the_next_up(home: Settings) -> None:
    first, before = kafka.up(home), kafka.connect(home)
    secrets.put(kafka.KEY, "somebody-new", home)
    secrets.put(kafka.SECRET, "and a new secret", home)
    second, after = kafka.up(home), kafka.connect(home)
    assert second.pid != first.pid
    assert second.port == first.port
    assert kafka.metadata(after).topics.keys() >= {kafka.TOPIC}
    with pytest.raises(BrokerError, match="refuses the credentials"):
        kafka.metadata(before)


# --- ports ---------------------------------------------------------------------------------------------------------


def test_a_start_that_takes_too_long_is_ended_and_a_port_that_is_taken_by_then_gives_way(home: Settings) -> None:
    first = kafka.up(home)
    kafka.down(home)
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("127.0.0.1", first.port))
        somebody.listen()
        with pytest.raises(BrokerError, match=r"did not answer on 127\.0\.0\.1:\d+ within 0\.01 s") as raised:
            kafka.up(home.model_copy(update={"start_timeout": 0.01}))
        assert "shopmetrics doctor" in raised.value.hint
        assert processes_of(home) == []
        assert kafka.running(home) is None

        second = kafka.up(home)
        assert second.port != first.port
        assert kafka.topic_identity(kafka.connect(home))[1] == 3
    assert (home.kafka / "port").read_text() == str(second.port)


# --- obstacles -----------------------------------------------------------------------------------------------------


def test_the_port_that_was_asked_for_is_the_port_and_home_and_credentials_may_hold_any_letter(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for the cluster id."""
    awkward = own.model_copy(update={"home": own.home / "a, b é ✓ 'c' #"})
    secrets.put(kafka.KEY, "AB +/= cd", awkward)
    secrets.put(kafka.SECRET, AWKWARD, awkward)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xf8" * 16))
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", choose_port(0, "")))
        asked = awkward.model_copy(update={"kafka_port": somebody.getsockname()[1]})
        with pytest.raises(EngineError, match=rf"SHOPMETRICS_KAFKA_PORT={asked.kafka_port}, but .* already in use"):
            kafka.up(asked)
        assert processes_of(awkward) == []
    try:
        assert kafka.up(asked).port == asked.kafka_port
        cluster = kafka.connect(awkward)
        assert cluster.bootstrap_servers == f"127.0.0.1:{asked.kafka_port}"
        assert cluster.secret.get_secret_value() == AWKWARD
        assert str(kafka.metadata(cluster).cluster_id).startswith("-")
        produce(
            Producer(cluster.client_config()), kafka.TOPIC, [b"the log of a partition exists once it is written to"]
        )
        assert (awkward.kafka / "log" / "clickstream-events-0").is_dir()
        with pytest.raises(BrokerError, match="refuses the credentials"):
            kafka.metadata(replace(cluster, secret=SecretStr(AWKWARD.replace("é", "e"))))
    finally:
        kafka.down(awkward)


def test_a_data_directory_that_takes_too_long_to_prepare_is_given_up(own: Settings) -> None:
    with pytest.raises(BrokerError, match=r"did not prepare the directory .* within 0\.01 s") as raised:
        kafka.up(own.model_copy(update={"start_timeout": 0.01}))
    assert "SHOPMETRICS_START_TIMEOUT" in raised.value.hint
    assert processes_of(own) == []


def test_clearing_the_home_ends_the_broker_and_removes_its_data(home: Settings) -> None:
    record = kafka.up(home)
    assert set(clear(home)) == {"kafka", "run"}
    assert record.process() is None
    assert processes_of(home) == []
    assert [path.name for path in home.home.iterdir()] == ["secrets.toml"]
    assert kafka.running(home) is None


# --- the cluster that is named -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("protocol", [None, "SASL_PLAINTEXT"])
def test_a_named_cluster_is_used_and_nothing_is_started(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, place: str, protocol: str | None
) -> None:
    given = {kafka.SERVERS: "broker.example:9092", kafka.KEY: "me", kafka.SECRET: AWKWARD}
    for name, value in (given | ({kafka.PROTOCOL: protocol} if protocol else {})).items():
        if place == "file":
            secrets.put(name, value, settings)
        else:
            monkeypatch.setenv(name, value)
    assert kafka.named(settings) == "broker.example:9092"
    assert kafka.connect(settings) == replace(NOBODY, security_protocol=protocol or "SASL_SSL")
    assert kafka.running(settings) is None
    assert not settings.run.exists()
    assert not settings.kafka.exists()


@pytest.mark.parametrize("missing", [kafka.KEY, kafka.SECRET])
def test_a_named_cluster_without_its_credentials_says_where_they_were_looked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    given = {kafka.SERVERS: "broker.example:9092", kafka.KEY: "me", kafka.SECRET: AWKWARD}
    for name in given.keys() - {missing}:
        monkeypatch.setenv(name, given[name])
    with pytest.raises(SecretError) as raised:
        kafka.connect(settings)
    assert f"The secret {missing} is nowhere" in raised.value.problem
    assert f"environment variable {missing}, {secrets.secrets_file(settings)}" in raised.value.problem
    assert AWKWARD not in str(raised.value)
    assert not settings.home.exists()


def test_a_protocol_that_is_none_is_refused_with_those_that_are(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kafka.SERVERS, "broker.example:9092")
    monkeypatch.setenv(kafka.PROTOCOL, "SASL")
    with pytest.raises(BrokerError, match=r"KAFKA_SECURITY_PROTOCOL is 'SASL'; expected .*SASL_SSL"):
        kafka.connect(settings)


def test_an_address_that_is_none_is_reported_as_such() -> None:
    nowhere = replace(NOBODY, bootstrap_servers="ftp://broker.example:9092")
    with pytest.raises(BrokerError, match=r"ftp://broker\.example:9092(.|\n)*check KAFKA_BOOTSTRAP_SERVERS"):
        kafka.metadata(nowhere, timeout=0.2)


def test_each_client_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NOBODY.client_config() == {
        "bootstrap.servers": "broker.example:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": AWKWARD,
    }
    options = replace(NOBODY, key='m"e', secret=SecretStr('a "quoted" \\ secret')).spark_options()
    assert options == {
        "kafka.bootstrap.servers": "broker.example:9092",
        "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "PLAIN",
        "kafka.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
        r'username="m\"e" password="a \"quoted\" \\ secret";',
        "kafka.isolation.level": "read_committed",
    }
    scram = replace(NOBODY, mechanism="SCRAM-SHA-512")
    assert scram.client_config()["sasl.mechanism"] == scram.spark_options()["kafka.sasl.mechanism"] == "SCRAM-SHA-512"
    jaas = scram.spark_options()["kafka.sasl.jaas.config"]
    assert jaas.startswith("org.apache.kafka.common.security.scram.ScramLoginModule required ")
    monkeypatch.setattr(kafka, "on_databricks", lambda: True)
    shaded = NOBODY.spark_options()["kafka.sasl.jaas.config"]
    assert shaded.startswith("kafkashaded.org.apache.kafka.common.security.plain.PlainLoginModule required ")


def test_on_databricks_no_broker_is_started(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "on_databricks", lambda: True)
    with pytest.raises(SecretError, match=rf"{kafka.SERVERS} is nowhere(.|\n)*scope {settings.secret_scope}"):
        kafka.connect(settings)
    assert not settings.home.exists()
