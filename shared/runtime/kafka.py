"""A real Kafka: a local broker of this home, as a child process, or a named cluster.

``connect()`` is the entry point. It returns how to reach the cluster in ``KAFKA_BOOTSTRAP_SERVERS``, such as Confluent
Cloud, with the credentials ``KAFKA_API_KEY`` and ``KAFKA_API_SECRET``. If no cluster is named there, it starts a local
broker once and leaves it running. The local broker requires the same kind of credentials. They are generated at its
first start and stored with all other secrets, so the same code talks to the local broker and to the cloud.

The home owns this first key. ``issue_key`` creates further keys while the broker runs, one for each application, and
``revoke_key`` revokes one.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets as random
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from bisect import bisect_right
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from pydantic import SecretStr

from shared import secrets
from shared.errors import BrokerError, EngineError, SecretError
from shared.masking import hide
from shared.private import private_directory, write_private
from shared.runtime.jars import ensure_jars, pyspark_jars
from shared.runtime.java import find_java
from shared.runtime.memory import memory
from shared.runtime.process import (
    LOOPBACK,
    ServerRecord,
    choose_port,
    is_listening,
    launch,
    log_tail,
    quoted,
    read_record,
    started,
    stop,
    write_record,
)
from shared.settings import Settings, get_settings, on_databricks

if TYPE_CHECKING:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._metadata import ClusterMetadata

TOPIC = "clickstream-events"
PARTITIONS = 3
RETENTION_HOURS = 24
SEGMENT_HOURS = 1
"""Kafka removes whole segments of a partition, and never the segment that it writes to. So a record may outlive its
retention by this time."""

SERVERS, KEY, SECRET, PROTOCOL, MECHANISM = (
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_API_KEY",
    "KAFKA_API_SECRET",
    "KAFKA_SECURITY_PROTOCOL",
    "KAFKA_SASL_MECHANISM",
)
"""The settings that name a cluster; of these, only ``SECRET`` is masked. The last two default to SASL_SSL and PLAIN,
which Confluent Cloud requires."""

ANSWER_TIMEOUT = 10.0
"""Seconds in which a cluster must answer a request for its metadata."""

DATA = "log"
"""The directory of the broker's data, below the broker's working directory."""

PLAIN, SCRAM = "PLAIN", "SCRAM-SHA-512"

_LOGIN_MODULES = {
    PLAIN: "org.apache.kafka.common.security.plain.PlainLoginModule",
    SCRAM: "org.apache.kafka.common.security.scram.ScramLoginModule",
}

REAUTHENTICATION_SECONDS = 5
"""After this time, the local broker asks a connection with an issued key to authenticate again."""

ITERATIONS, _REVOKED = 4096, 4097
"""How often SCRAM hashes a secret. The first number is the least that Kafka accepts, and is enough for 256 random bits.
The second number marks a revoked key."""

MAIN_CLASS, FORMAT_CLASS = "kafka.Kafka", "kafka.tools.StorageTool"

# Kafka needs these jars, and pyspark ships them. The committed list holds the others.
_FROM_PYSPARK = (
    "jackson-annotations", "jackson-core", "jackson-databind", "jackson-dataformat-yaml", "log4j-api", "log4j-core",
    "log4j-slf4j2-impl", "lz4-java", "scala-library", "scala-reflect", "slf4j-api", "snakeyaml", "snappy-java",
    "zstd-jni",
)  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """The address of a Kafka cluster, and the credentials to use there."""

    bootstrap_servers: str
    key: str
    secret: SecretStr
    security_protocol: str
    is_local: bool
    """Whether the cluster is the local broker of this home."""
    mechanism: str = PLAIN
    """How the client authenticates: ``PLAIN``, or ``SCRAM-SHA-512``, which does not send the secret."""

    def client_config(self) -> dict[str, str | int | float | bool]:
        """Return the configuration of a ``confluent_kafka`` client, the secret in it."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.key,
            "sasl.password": self.secret.get_secret_value(),
        }

    def spark_options(self) -> dict[str, str]:
        """Return the options of Spark's Kafka source, the secret in them.

        With them, Spark does not read a message of an aborted or open transaction.
        """
        # On Databricks the Kafka client lives in a package of its own.
        shaded = "kafkashaded." if on_databricks() else ""
        login = f"{shaded}{_LOGIN_MODULES[self.mechanism]}"
        password = quoted(self.secret.get_secret_value())
        return {
            "kafka.bootstrap.servers": self.bootstrap_servers,
            "kafka.security.protocol": self.security_protocol,
            "kafka.sasl.mechanism": self.mechanism,
            "kafka.sasl.jaas.config": f"{login} required username={quoted(self.key)} password={password};",
            # By default Spark's client reads messages of aborted transactions, and ``confluent_kafka``'s does not.
            "kafka.isolation.level": "read_committed",
        }


def connect(settings: Settings | None = None) -> Cluster:
    """Return how to reach Kafka. If no cluster is named and no local broker runs, start the local broker.

    Raises:
        BrokerError: if the local broker does not start; or ``KAFKA_SECURITY_PROTOCOL`` or ``KAFKA_SASL_MECHANISM`` has
            a value that is not supported.
        EngineError: if the port in ``SHOPMETRICS_KAFKA_PORT`` is taken.
        SecretError: if a cluster is named without its key or secret.

    Example:
        >>> producer = confluent_kafka.Producer(kafka.connect().client_config())
    """
    settings = settings or get_settings()
    servers = named(settings)
    if servers:
        protocol = _one_of(("SASL_SSL", "SASL_PLAINTEXT"), PROTOCOL, settings)
        mechanism = _one_of((PLAIN, SCRAM), MECHANISM, settings)
        key = secrets.get(KEY, settings, masked=False).get_secret_value()
        return Cluster(servers, key, secrets.get(SECRET, settings), protocol, is_local=False, mechanism=mechanism)
    if on_databricks():
        raise SecretError(
            f"The secret {SERVERS} is nowhere, and no broker can be started on Databricks.",
            f"put {SERVERS}, {KEY} and {SECRET} of your cluster into the scope {settings.secret_scope}",
        )
    return _cluster(up(settings), settings)


def named(settings: Settings | None = None) -> str | None:
    """Return the address of the cluster in ``KAFKA_BOOTSTRAP_SERVERS``; None if the local broker is used."""
    servers = secrets.find(SERVERS, settings, masked=False)
    return servers.get_secret_value() if servers else None


def _one_of(supported: tuple[str, ...], name: str, settings: Settings) -> str:
    """Return the value of this setting; defaults to the first of the supported values."""
    given = secrets.find(name, settings, masked=False)
    value = given.get_secret_value() if given else supported[0]
    if value not in supported:
        raise BrokerError(
            f"{name} is {value!r}; expected {' or '.join(supported)}.",
            f"unset {name} to use {supported[0]}, as Confluent Cloud asks for",
        )
    return value


def _cluster(record: ServerRecord, settings: Settings) -> Cluster:
    key, secret = secrets.get(KEY, settings, masked=False), secrets.get(SECRET, settings)
    return Cluster(f"{LOOPBACK}:{record.port}", key.get_secret_value(), secret, "SASL_PLAINTEXT", is_local=True)


# --- the local broker ----------------------------------------------------------------------------------------------


def record_path(settings: Settings) -> Path:
    """Return where the record of the running broker is kept."""
    return settings.run / "kafka.json"


def log_path(settings: Settings) -> Path:
    """Return the broker's log."""
    return settings.run / "kafka.log"


def running(settings: Settings | None = None) -> ServerRecord | None:
    """Return the record of this home's broker if it is alive and answers, else None."""
    record = read_record(record_path(settings or get_settings()))
    return record if record and is_listening(record.port) else None


def up(settings: Settings | None = None) -> ServerRecord:
    """Make sure that this home's broker runs, and return its record. A broker that is started here has the topic.

    Any number of processes may call this at once: one starts the broker, the others wait for it. Earlier messages are
    still there: a broker that was stopped or killed continues with its data.

    Raises:
        BrokerError: if it does not come up, with the end of its log and what to do.
        EngineError: if the port in ``SHOPMETRICS_KAFKA_PORT`` is taken.
    """
    settings = settings or get_settings()
    private_directory(settings.run)
    with FileLock(settings.run / "kafka.lock"):
        key, secret = _credentials(settings)
        # The identity includes SCRAM: a broker that an older version of this module started does not support SCRAM.
        identity = hashlib.sha256(f"{key}\0{secret}\0{SCRAM}".encode()).hexdigest()
        record = running(settings)
        if record and record.token == identity:
            return record
        stale = record or read_record(record_path(settings))
        if stale:  # alive, but with other credentials, no longer listening, or not ready when its starter was killed
            stop(stale)
        return _start(settings, key, secret, identity)


def down(settings: Settings | None = None) -> bool:
    """Stop this home's broker and wait until its process has ended. Its data stay. Returns whether it was running."""
    settings = settings or get_settings()
    path = record_path(settings)
    if not path.parent.is_dir():
        return False
    with FileLock(settings.run / "kafka.lock"):
        record = read_record(path)
        ended = stop(record) if record else False
        path.unlink(missing_ok=True)
    return ended


def _credentials(settings: Settings) -> tuple[str, str]:
    if not secrets.find(KEY, settings, masked=False):
        secrets.put(KEY, f"local-{random.token_hex(4)}", settings)
    if not secrets.find(SECRET, settings):
        secrets.put(SECRET, random.token_urlsafe(32), settings)
    key = secrets.get(KEY, settings, masked=False)
    return key.get_secret_value(), secrets.get(SECRET, settings).get_secret_value()


def _start(settings: Settings, key: str, secret: str, identity: str) -> ServerRecord:
    data = private_directory(settings.kafka)
    port = _port(settings)
    properties = settings.run / "kafka.properties"
    lines = [f"{name}={_property(value)}\n" for name, value in _broker_properties(port, key, secret).items()]
    # A private file, because the properties contain the secret.
    write_private(properties, "".join(lines))
    command = _java_command(settings)
    if not (data / DATA / "meta.properties").is_file():
        _format(command, properties, settings)
    child = launch([*command, MAIN_CLASS, properties], log_path(settings), cwd=data)
    record = ServerRecord("kafka", child.pid, started(child.pid), port, identity, " ".join(command))
    try:
        # If this process is killed before the broker is ready, the next process finds the record and replaces the
        # broker. A broker without a record would keep the data locked.
        write_record(record_path(settings), replace(record, token=""))
        _await(child, port, settings)
        create_topic(_cluster(record, settings))
        _await_groups(child, _cluster(record, settings), settings)
        write_record(record_path(settings), record)
    except BaseException:
        stop(record)
        raise
    # The next broker listens on the same port, because clients that are still running reconnect there.
    (data / "port").write_text(str(port))
    return record


def _port(settings: Settings) -> int:
    if settings.kafka_port:
        return choose_port(settings.kafka_port, "SHOPMETRICS_KAFKA_PORT")
    # An OverflowError means that the number in the file is too large for a port.
    with suppress(FileNotFoundError, ValueError, OverflowError, EngineError):
        return choose_port(int((settings.kafka / "port").read_text()), "")
    return choose_port(0, "SHOPMETRICS_KAFKA_PORT")


def _property(value: str | int) -> str:
    """Return a value as a Java properties file holds it: in Latin-1, with a backslash before a special character."""
    utf_16 = str(value).replace("\\", "\\\\").encode("utf-16-be")
    units = (int.from_bytes(utf_16[i : i + 2]) for i in range(0, len(utf_16), 2))
    return "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in units)


def _broker_properties(port: int, key: str, secret: str) -> dict[str, str | int]:
    """Return the configuration of one small node that is both broker and controller."""
    controller_port = next(other for _ in range(9) if (other := choose_port(0, "")) != port)
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f"username={quoted(key)} password={quoted(secret)} "
        f"{quoted(f'user_{key}')}={quoted(secret)};"
    )
    one_of_each = {
        f"{topic}.{name}": 1
        for topic, name in (
            ("offsets.topic", "replication.factor"),
            ("offsets.topic", "num.partitions"),
            ("transaction.state.log", "replication.factor"),
            ("transaction.state.log", "min.isr"),
            ("transaction.state.log", "num.partitions"),
            ("share.coordinator.state.topic", "replication.factor"),
            ("share.coordinator.state.topic", "min.isr"),
        )
    }
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"CLIENT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"CLIENT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        # PLAIN is for the home's own key, SCRAM for the keys that are issued and revoked while the broker runs. The
        # controller accepts PLAIN only: it stores the SCRAM keys, so the broker must connect before it can read them.
        "sasl.enabled.mechanisms": PLAIN,
        "listener.name.client.sasl.enabled.mechanisms": f"{PLAIN},{SCRAM}",
        "sasl.mechanism.inter.broker.protocol": PLAIN,
        "sasl.mechanism.controller.protocol": PLAIN,
        "listener.name.client.plain.sasl.jaas.config": login,
        f"listener.name.client.{SCRAM.lower()}.sasl.jaas.config": f"{_LOGIN_MODULES[SCRAM]} required;",
        # By default a client authenticates only once, when it connects, so a client with a revoked key could continue.
        f"listener.name.client.{SCRAM.lower()}.connections.max.reauth.ms": REAUTHENTICATION_SECONDS * 1_000,
        "listener.name.controller.plain.sasl.jaas.config": login,
        # Relative to the broker's working directory: the path of a home may contain a comma, which separates two
        # directories here.
        "log.dirs": DATA,
        **one_of_each,
        "auto.create.topics.enable": "false",
        # The segment.ms of every topic, existing ones included; the default is a week. A named cluster has its own.
        "log.roll.ms": SEGMENT_HOURS * 3_600_000,
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker can register again only after its last session has expired, by default after 9 s.
        "broker.session.timeout.ms": 6_000,
        "broker.heartbeat.interval.ms": 500,
        # Only the topics of Kafka's own state are compacted. The default buffer for that is 128 MB.
        "log.cleaner.dedupe.buffer.size": 4 * 2**20,
        "num.network.threads": 1,
        "num.io.threads": 2,
        "background.threads": 2,
    }


def _java_command(settings: Settings) -> list[str]:
    java = find_java(settings)
    ours = pyspark_jars()
    shipped = [
        next(jar for jar in sorted(ours.glob(f"{name}-*.jar")) if re.fullmatch(rf"{name}-\d[\w.-]*\.jar", jar.name))
        for name in _FROM_PYSPARK
    ]
    jars = [*ensure_jars(settings, "broker"), *shipped]
    log4j = Path(__file__).parent / "log4j2.properties"
    options = [*memory(settings).profile.broker, "-XX:+IgnoreUnrecognizedVMOptions"]
    options += ["--enable-native-access=ALL-UNNAMED"] if java.major >= 22 else []
    options += ["--sun-misc-unsafe-memory-access=allow"] if java.major >= 24 else []
    class_path = os.pathsep.join(map(str, jars))
    return [str(java.executable), *options, f"-Dlog4j2.configurationFile={log4j.as_uri()}", "-cp", class_path]


def _format(command: list[str], properties: Path, settings: Settings) -> None:
    """Write a cluster id into the data directory; a broker refuses a directory without one."""
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    hint = "see whether the disk is full; `shopmetrics reset` removes everything in this home"
    try:
        answer = subprocess.run(
            # With an equals sign, because the id may begin with a dash.
            [*command, FORMAT_CLASS, "format", f"--cluster-id={cluster_id}", f"--config={properties}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=settings.kafka,
            timeout=settings.start_timeout,
        )
    except subprocess.TimeoutExpired:
        raise BrokerError(
            f"Kafka did not prepare the directory {settings.kafka} within {settings.start_timeout:g} s.",
            f"raise SHOPMETRICS_START_TIMEOUT if this machine is slow; {hint}",
        ) from None
    if answer.returncode:
        raise BrokerError(f"Kafka cannot use the directory {settings.kafka}.\n    {answer.stdout.strip()[-600:]}", hint)


def _await(child: subprocess.Popen[bytes], port: int, settings: Settings) -> None:
    deadline = time.monotonic() + settings.start_timeout
    while not is_listening(port):
        try:
            code = child.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            what = f"did not answer on {LOOPBACK}:{port} within {settings.start_timeout:g} s"
        else:
            what = f"ended with exit code {code} before it answered"
        raise BrokerError(
            f"The Kafka broker {what}.\n{_log_end(log_path(settings))}",
            f"read {log_path(settings)}, then run `shopmetrics doctor`; if it is the data that are damaged, remove "
            f"{settings.kafka}, which loses what was produced",
        )


def _await_groups(child: subprocess.Popen[bytes], cluster: Cluster, settings: Settings) -> None:
    """Wait until the broker has loaded the committed offsets of its consumer groups: it listens before that."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    if "__consumer_offsets" not in metadata(cluster).topics:  # no offset is committed; a request would create the topic
        return
    # All groups are in one partition, so one group stands for all. The request comes from a consumer: the admin
    # client's request crashes with a segmentation fault if the broker answers NOT_COORDINATOR (librdkafka 2.16).
    asking = Consumer(cluster.client_config() | {"group.id": TOPIC, "log_level": 0})
    deadline = time.monotonic() + settings.start_timeout
    try:
        while True:
            try:
                asking.committed([TopicPartition(TOPIC, 0)], timeout=2.0)
                return
            except KafkaException as error:
                if child.poll() is not None or time.monotonic() >= deadline:
                    raise BrokerError(
                        f"The Kafka broker does not answer for its consumer groups: {error.args[0].str()}.\n"
                        f"{_log_end(log_path(settings))}",
                        f"read {log_path(settings)}, then run `shopmetrics doctor`",
                    ) from error
                time.sleep(0.05)
    finally:
        asking.close()


def _log_end(log: Path) -> str:
    # Without the frames of stack traces, which would leave no room for the error message above them.
    said = [line for line in log_tail(log, lines=100).splitlines() if not line.lstrip().startswith("at ")]
    return "\n".join(said[-8:])


# --- any cluster ---------------------------------------------------------------------------------------------------


def metadata(cluster: Cluster, timeout: float = ANSWER_TIMEOUT) -> ClusterMetadata:
    """Return the metadata of a cluster: its id, brokers, topics and partitions.

    Raises:
        BrokerError: if it does not answer in time, or refuses the credentials; the message says which.
    """
    return _asked(cluster, timeout)[1]


def _asked(cluster: Cluster, timeout: float) -> tuple[AdminClient, ClusterMetadata]:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    refused: list[str] = []

    def on_error(error: KafkaError) -> None:
        # After errors like "all brokers down" the client tries again. Refused credentials are final.
        if error.code() == KafkaError._AUTHENTICATION:
            refused.append(error.str())

    # Without log_level 0 the client would print its log lines to the terminal at each attempt.
    config: dict[str, Any] = {**cluster.client_config(), "error_cb": on_error, "log_level": 0}
    client = AdminClient(config)
    deadline = time.monotonic() + timeout
    while True:
        try:
            return client, client.list_topics(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
        except KafkaException as error:
            client.poll(0)
            if refused:
                raise BrokerError(
                    f"Kafka at {cluster.bootstrap_servers} refuses the credentials of {cluster.key!r}.",
                    f"check {KEY} and {SECRET}; `shopmetrics secret {SECRET}` replaces one",
                ) from error
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"Kafka at {cluster.bootstrap_servers} does not answer within {timeout:g} s.",
                    "`shopmetrics up` starts the local broker"
                    if cluster.is_local
                    else f"check {SERVERS} and the network",
                ) from error


def issue_key(cluster: Cluster, key: str) -> Cluster:
    """Give a key a new secret, and return the cluster with these credentials. Create the key if it does not exist.

    When this returns, the broker accepts the new secret and refuses the key's old one. It also refuses a client that
    is still connected with the old secret; the local broker does so after at most ``REAUTHENTICATION_SECONDS``. The
    secret is random and has 256 bits. This function does not store it; the caller can, with
    :func:`shared.secrets.put`.

    Args:
        cluster: the cluster, reached with a key that may issue others; on the local broker that is the home's own.
        key: the name of the key; use one for each application and generation, such as ``producer-2``.

    Raises:
        BrokerError: if the cluster does not answer, or issues no SCRAM keys, as Confluent Cloud does not.

    Example:
        >>> producer = kafka.issue_key(kafka.connect(), "producer-2")
        >>> secrets.put("PRODUCER_SECRET", producer.secret)
    """
    secret = _new_secret(cluster, key, ITERATIONS)
    issued = replace(cluster, key=key, secret=secret, mechanism=SCRAM)
    # The broker that answers clients learns of the new secret a moment later.
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while True:
        try:
            metadata(issued)
            return issued
        except BrokerError:
            if time.monotonic() >= deadline:
                raise


def revoke_key(cluster: Cluster, key: str) -> bool:
    """Make sure that the cluster refuses an issued key. Returns whether the key existed.

    The local broker refuses a client that is connected with the key after at most ``REAUTHENTICATION_SECONDS``.

    Raises:
        BrokerError: if the cluster does not answer, or issues no SCRAM keys.
    """
    if key not in keys(cluster):
        return False
    # The key is not deleted: if a broker of Kafka 4.3.1 reads a deletion in its log when it starts, it knows no SCRAM
    # keys at all.
    _new_secret(cluster, key, _REVOKED)
    return True


def keys(cluster: Cluster) -> list[str]:
    """Return the keys that were issued and not revoked, in alphabetical order.

    Raises:
        BrokerError: if the cluster does not answer, or issues no SCRAM keys.
    """
    from confluent_kafka import KafkaException

    client, _ = _asked(cluster, ANSWER_TIMEOUT)
    try:
        asked: Any = client.describe_user_scram_credentials(request_timeout=ANSWER_TIMEOUT)
        known = asked.result()
    except KafkaException as error:
        raise _no_keys(cluster, "names no keys", error) from error
    return sorted(
        key
        for key, described in known.items()
        if any(one.iterations != _REVOKED for one in described.scram_credential_infos)
    )


def _new_secret(cluster: Cluster, key: str, iterations: int) -> SecretStr:
    """Give a key a new random secret, and return the secret."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

    secret = random.token_urlsafe(32)
    hide(secret)
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, iterations)
    client, _ = _asked(cluster, ANSWER_TIMEOUT)
    change = UserScramCredentialUpsertion(key, how, secret.encode())
    try:
        client.alter_user_scram_credentials([change], request_timeout=ANSWER_TIMEOUT)[key].result()
    except KafkaException as error:
        raise _no_keys(cluster, f"does not change the key {key!r}", error) from error
    return SecretStr(secret)


def _no_keys(cluster: Cluster, what: str, error: KafkaException) -> BrokerError:
    return BrokerError(
        f"Kafka at {cluster.bootstrap_servers} {what}: {error.args[0].str()}.",
        "see whether your key may do so; Confluent Cloud issues keys in its console, or by `confluent api-key create`",
    )


def create_topic(
    cluster: Cluster,
    topic: str = TOPIC,
    partitions: int = PARTITIONS,
    retention_hours: float = RETENTION_HOURS,
    config: Mapping[str, str] | None = None,
) -> bool:
    """Make sure that a topic exists; an existing topic is not changed. Returns whether the topic was created.

    Raises:
        BrokerError: if the cluster does not answer, or refuses.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.cimpl import NewTopic

    client, known = _asked(cluster, ANSWER_TIMEOUT)
    if topic in known.topics:
        return False
    settings = {"retention.ms": str(round(retention_hours * 3_600_000)), **(config or {})}
    made = NewTopic(topic, partitions, 1 if cluster.is_local else -1, config=settings)
    try:
        client.create_topics([made], request_timeout=ANSWER_TIMEOUT)[topic].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:  # another process created it at the same time
            return False
        raise BrokerError(
            f"The topic {topic} cannot be made at {cluster.bootstrap_servers}: {error.args[0].str()}.",
            "see whether the cluster is well, and the key may create topics; or make it in the cluster's console",
        ) from error
    # The answer comes before all brokers know the topic. A client that asked for it at once would not find it.
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while topic not in client.list_topics(timeout=ANSWER_TIMEOUT).topics and time.monotonic() < deadline:
        pass
    end_offsets(cluster, topic)
    return True


def delete_topic(cluster: Cluster, topic: str = TOPIC) -> bool:
    """Make sure that a topic does not exist, and that its messages are deleted. Returns whether the topic existed.

    Raises:
        BrokerError: if the cluster does not answer, refuses, or still lists the topic after some seconds.
    """
    from confluent_kafka import KafkaException

    client, known = _asked(cluster, ANSWER_TIMEOUT)
    if topic not in known.topics:
        return False
    try:
        client.delete_topics([topic], request_timeout=ANSWER_TIMEOUT)[topic].result()
    except KafkaException as error:
        raise BrokerError(
            f"The topic {topic} cannot be removed at {cluster.bootstrap_servers}: {error.args[0].str()}.",
            "see whether the cluster is well, and the key may delete topics; or remove it in the cluster's console",
        ) from error
    # The answer comes before all brokers have removed the topic. Until then they refuse a new topic of this name.
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while topic in client.list_topics(timeout=ANSWER_TIMEOUT).topics:
        if time.monotonic() >= deadline:
            raise BrokerError(
                f"Kafka at {cluster.bootstrap_servers} still names {topic} {ANSWER_TIMEOUT:g} s after its removal.",
                "see whether the broker is well: `shopmetrics doctor`",
            )
    return True


def topic_identity(cluster: Cluster, topic: str = TOPIC) -> tuple[str, int]:
    """Return the id of a topic and its number of partitions. A later topic of the same name has another id.

    Raises:
        BrokerError: if the cluster does not answer, or has no such topic.
    """
    from confluent_kafka import KafkaException, TopicCollection

    client, known = _asked(cluster, ANSWER_TIMEOUT)
    if topic not in known.topics:
        raise _no_topic(cluster, topic, known)
    try:
        described = client.describe_topics(TopicCollection([topic]), request_timeout=ANSWER_TIMEOUT)[topic].result()
    except KafkaException as error:
        raise _not_told(cluster, topic, error) from error
    return str(described.topic_id), len(described.partitions)


def topic_config(cluster: Cluster, topic: str = TOPIC) -> dict[str, str]:
    """Return the settings of a topic by their names in Kafka, such as ``retention.ms``.

    Raises:
        BrokerError: if the cluster does not answer, or has no such topic.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin._config import ConfigResource

    client, known = _asked(cluster, ANSWER_TIMEOUT)
    if topic not in known.topics:
        raise _no_topic(cluster, topic, known)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        entries = client.describe_configs([resource], request_timeout=ANSWER_TIMEOUT)[resource].result()
    except KafkaException as error:
        raise _not_told(cluster, topic, error) from error
    return {name: entry.value for name, entry in entries.items()}


def _no_topic(cluster: Cluster, topic: str, known: ClusterMetadata) -> BrokerError:
    return BrokerError(
        f"Kafka at {cluster.bootstrap_servers} has no topic {topic}. "
        f"Topics: {', '.join(sorted(name for name in known.topics if not name.startswith('__'))) or 'none'}.",
        "`shopmetrics up` makes it on the local broker" if cluster.is_local else "make it in the cluster's console",
    )


def _not_told(cluster: Cluster, topic: str, error: KafkaException) -> BrokerError:
    return BrokerError(
        f"Kafka at {cluster.bootstrap_servers} does not say how {topic} stands: {error.args[0].str()}.",
        "see whether the broker is well: `shopmetrics doctor --kafka`",
    )


def end_offsets(cluster: Cluster, topic: str = TOPIC) -> dict[int, int]:
    """Return for each partition of a topic the offset that its next record will have.

    While a transaction is open, this is the offset of its first record: later records cannot be read yet.

    Raises:
        BrokerError: if the cluster does not answer, or has no such topic.
    """
    return _offsets(cluster, topic, "latest")


def first_offsets(cluster: Cluster, topic: str = TOPIC) -> dict[int, int]:
    """Return for each partition of a topic the first offset that Kafka still holds; the end offset if it is empty.

    Raises:
        BrokerError: if the cluster does not answer, or has no such topic.
    """
    return _offsets(cluster, topic, "earliest")


def _offsets(cluster: Cluster, topic: str, which: str) -> dict[int, int]:
    from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
    from confluent_kafka.admin._listoffsets import OffsetSpec

    client, known = _asked(cluster, ANSWER_TIMEOUT)
    if topic not in known.topics:
        raise _no_topic(cluster, topic, known)
    asked = {TopicPartition(topic, number): getattr(OffsetSpec, which)() for number in known.topics[topic].partitions}
    not_yet = (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        # The client already knows a new leader of which the broker does not know yet.
        KafkaError.UNKNOWN_LEADER_EPOCH,
    )
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while True:
        try:
            answers = client.list_offsets(
                asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_TIMEOUT
            )
            return {place.partition: answer.result().offset for place, answer in answers.items()}
        except KafkaException as error:
            # A new topic, or a broker that has just started, has no leaders yet.
            if error.args[0].code() not in not_yet or time.monotonic() >= deadline:
                raise _not_told(cluster, topic, error) from error


def messages_within(cluster: Cluster, topic: str, spans: Collection[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return partition and offset of every message that can be read in these spans of a topic.

    Every other offset of a span holds no readable message. It holds Kafka's own marker for the end of a transaction,
    a message of an aborted transaction, or nothing, because Kafka has removed the message.

    Args:
        cluster: where the topic is.
        topic: the topic.
        spans: partition, first offset, and the offset after the last.

    Raises:
        BrokerError: if the cluster does not answer.
    """
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    ordered = sorted(spans)
    begins = {partition: first for partition, first, _ in reversed(ordered)}
    ends = {partition: end for partition, _, end in ordered}
    found: list[tuple[int, int]] = []
    config = cluster.client_config() | {
        "group.id": f"{topic}-spans",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "log_level": 0,
    }
    with closing(Consumer(config)) as reader:
        reader.assign([TopicPartition(topic, partition, offset) for partition, offset in begins.items()])
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while ends:
            for one in reader.consume(10_000, 0.5):
                deadline = time.monotonic() + ANSWER_TIMEOUT
                error = one.error()
                if error and error.code() != KafkaError._PARTITION_EOF:
                    raise _not_told(cluster, topic, KafkaException(error))
                partition, offset = one.partition() or 0, one.offset() or 0
                if not error:
                    at = bisect_right(ordered, (partition, offset, math.inf)) - 1
                    if at >= 0 and ordered[at][0] == partition and offset < ordered[at][2]:
                        found.append((partition, offset))
                if error or offset >= ends.get(partition, 0) - 1:
                    ends.pop(partition, None)
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"Kafka at {cluster.bootstrap_servers} hands over nothing of {topic} within {ANSWER_TIMEOUT:g} s.",
                    "see whether the broker is well: `shopmetrics doctor --kafka`",
                )
    return sorted(found)
