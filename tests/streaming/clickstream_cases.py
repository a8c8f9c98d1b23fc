"""Helpers of the clickstream's tests, and a second computation of its tables with lists and dictionaries.

In rows and here, an instant is text, ``2026-01-01 09:15:02.481000``, so that a failing comparison is readable.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import lake
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from shared import catalog, streaming
from shared.runtime import kafka
from shared.streaming import stream_run
from shared.streaming.contracts import BRONZE, EVENT_COLUMNS, EVENTS, LOG, SESSIONS, TRAFFIC

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.run_log import TableRun
    from shared.runtime.kafka import Cluster
    from shared.settings import Settings

QUARANTINE = "silver.quarantine"
TABLES = (BRONZE, EVENTS, SESSIONS, TRAFFIC)
FUNNEL = ("page_view", "product_view", "add_to_cart", "checkout", "purchase")
GAP = timedelta(minutes=30)
NINE = datetime(2026, 1, 1, 9, tzinfo=UTC)
"""The instant from which :func:`event` counts minutes."""


# --- the second computation ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The expected rows, each a tuple of texts, numbers and None in the order of the table's columns."""

    events: set[tuple[Any, ...]]
    sessions: set[tuple[Any, ...]]
    hours: set[tuple[Any, ...]]


def text(moment: datetime) -> str:
    """Return an instant in the form of the rows here."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


def computed(values: Iterable[bytes]) -> Expected:
    """Return the expected rows for messages that all hold valid events."""
    distinct: dict[tuple[str, datetime], dict[str, Any]] = {}
    for value in values:
        event = json.loads(value)
        event["event_ts"] = datetime.fromisoformat(event["event_ts"]).astimezone(UTC)
        distinct.setdefault((event["event_id"], event["event_ts"]), event)
    events = list(distinct.values())
    sessions = _sessions(events)
    latest = max((event["event_ts"] for event in events), default=NINE)
    return Expected(
        {
            tuple(text(event[name]) if name == "event_ts" else event.get(name) for name in EVENT_COLUMNS)
            for event in events
        },
        {_session_row(session, latest) for session in sessions},
        _hours(events, sessions),
    )


def _sessions(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    of_user = defaultdict(list)
    for event in sorted(events, key=lambda event: event["event_ts"]):
        of_user[event["user_id"]].append(event)
    sessions = []
    for visits in of_user.values():
        session = [visits[0]]
        for event in visits[1:]:
            if event["event_ts"] - session[-1]["event_ts"] >= GAP:
                sessions.append(session)
                session = []
            session.append(event)
        sessions.append(session)
    return sessions


def _session_row(session: list[dict[str, Any]], latest: datetime) -> tuple[Any, ...]:
    types = {event["event_type"] for event in session}
    start, end = session[0]["event_ts"], session[-1]["event_ts"]
    return (
        session[0]["user_id"],
        text(start),
        text(end),
        len(session),
        sum(event["event_type"] == "page_view" for event in session),
        next((step for step in reversed(FUNNEL) if step in types), None),
        "purchase" in types,
        latest - end < GAP,
    )


def _hours(events: list[dict[str, Any]], sessions: list[list[dict[str, Any]]]) -> set[tuple[Any, ...]]:
    def hour(event: dict[str, Any]) -> datetime:
        return event["event_ts"].replace(minute=0, second=0, microsecond=0)

    rows = set()
    for each in {hour(event) for event in events}:
        inside = [event for event in events if hour(event) == each]
        begun = [session for session in sessions if hour(session[0]) == each]
        bought = sum(any(event["event_type"] == "purchase" for event in session) for session in begun)
        share = (Decimal(bought) / len(begun)).quantize(Decimal("0.0001"), ROUND_HALF_UP) if begun else None
        types = [event["event_type"] for event in inside]
        rows.add(
            (
                text(each),
                len(inside),
                types.count("page_view"),
                len({event["user_id"] for event in inside}),
                len(begun),
                types.count("add_to_cart"),
                types.count("purchase"),
                share,
            )
        )
    return rows


# --- messages ------------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A message as it is sent to Kafka."""

    key: bytes | None
    value: bytes | None


_numbers = iter(range(10**9))


def event(user: str, minutes: float, event_type: str = "page_view", **fields: Any) -> Sent:
    """Return a valid event of a user, this many minutes after nine; each event has an event_id of its own."""
    moment = NINE + timedelta(minutes=minutes)
    given = {
        "event_id": f"E-{next(_numbers)}",
        "user_id": user,
        "session_id": f"S-{user}",
        "event_type": event_type,
        "page": "/",
        "product_id": None,
        "device": "mobile",
        "referrer": None,
        "event_ts": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z",
        "schema_version": 1,
    }
    return Sent(user.encode(), json.dumps(given | fields).encode())


class Received(NamedTuple):
    """A message as Kafka stores it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


# --- a topic and its tables ----------------------------------------------------------------------------------------


class Traffic:
    """A topic, the runs of the streams over it, and the content of the tables afterwards."""

    def __init__(self, spark: SparkSession, cluster: Cluster, home: Settings, topic: str) -> None:
        self.spark, self.cluster, self.home, self.topic = spark, cluster, home, topic
        self.producer = self._new_producer()

    def _new_producer(self) -> Producer:
        return Producer(self.cluster.client_config() | {"message.max.bytes": 2_000_000, "log_level": 0})

    def clear(self) -> None:
        """Remove the tables, and create the topic if it does not exist."""
        # The quarantine is dropped first: the rows of an existing one would be searched.
        for table in (QUARANTINE, "ops.run_log"):
            catalog.drop_table(self.spark, table, self.home)
        streaming.reset(self.spark, BRONZE, self.home)
        kafka.create_topic(self.cluster, self.topic, config={"max.message.bytes": "2000000"})

    def replace_topic(self, partitions: int) -> None:
        """Delete the topic with all its messages, and create it again with this many partitions."""
        kafka.delete_topic(self.cluster, self.topic)
        kafka.create_topic(self.cluster, self.topic, partitions)
        # The old producer remembers the old partitions, and would send to a partition that no longer exists.
        self.producer = self._new_producer()

    def send(self, *messages: Sent) -> None:
        """Send these messages, in their order."""
        failed: list[object] = []
        for key, value in messages:
            self.producer.produce(
                self.topic, value, key, on_delivery=lambda error, _: failed.append(error) if error else None
            )
            self.producer.poll(0)
        assert self.producer.flush(30) == 0
        assert failed == []

    def run(self) -> dict[str, TableRun]:
        """Run the streams over the available messages; return the run of each table by its name."""
        done = streaming.run(self.spark, self.home, self.cluster, self.topic)
        return {run.table_name: run for run in done.tables}

    def received(self) -> list[Received]:
        """Return every message of the topic, by partition and offset."""
        ends = kafka.end_offsets(self.cluster, self.topic)
        messages: list[Received] = []
        deadline = time.monotonic() + 60
        with closing(Consumer(self.cluster.client_config() | {"group.id": "tests", "log_level": 0})) as reader:
            reader.assign([TopicPartition(self.topic, partition, 0) for partition in ends])
            while len(messages) < sum(ends.values()):
                assert time.monotonic() < deadline, f"{len(messages)} of {sum(ends.values())} messages within a minute"
                for one in reader.consume(10_000, 0.5):
                    assert not one.error(), one.error()
                    messages.append(Received(one.partition(), one.offset(), one.key(), one.value()))
        return sorted(messages, key=lambda message: (message.partition, message.offset))

    def rows(self, table: str, columns: Iterable[str] = ("*",), where: str = "true") -> list[tuple[Any, ...]]:
        """Return the sorted rows of a table, with instants as text; columns and condition are SQL of delta-rs."""
        directory = catalog.table_path(table, self.home)
        found = lake.read(directory, f"SELECT {', '.join(columns)} FROM t WHERE {where}").to_pylist()
        return sorted(
            (tuple(text(value) if isinstance(value, datetime) else value for value in row.values()) for row in found),
            key=repr,
        )

    def assert_complete(self) -> list[Received]:
        """Assert that bronze holds every message once, with its bytes, and return the messages."""
        messages = self.received()
        columns = ('"partition"', '"offset"', "raw_value", "topic")
        held = [
            (*place, None if value is None else bytes(value), topic)
            for *place, value, topic in self.rows(BRONZE, columns)
        ]
        wanted = [(one.partition, one.offset, one.value, self.topic) for one in messages]
        assert len(held) == len(wanted)
        assert sorted(held, key=repr) == sorted(wanted, key=repr)
        return messages

    def assert_equal(self, expected: Expected) -> None:
        """Assert that events, sessions and hours hold exactly these rows, each once."""
        for table, wanted in zip(TABLES[1:], (expected.events, expected.sessions, expected.hours), strict=True):
            held = self.rows(table)
            missing, wrong = sorted(wanted - set(held), key=repr), sorted(set(held) - wanted, key=repr)
            assert (missing[:5], wrong[:5]) == ([], []), f"{table}: {len(missing)} missing, {len(wrong)} wrong"
            assert len(held) == len(wanted), f"{table} holds a row twice"

    def assert_accounts(self, *, disturbed: bool = False) -> dict[str, int]:
        """Assert that the logs add up, and return the runs' sums: read, accepted, quarantined, duplicate.

        A batch that was interrupted and repeated finds its own events in the table, and counts them as duplicates; the
        log of the runs does not.
        """
        names = ("rows_read", "rows_accepted", "rows_quarantined", "rows_duplicate")
        sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in names)
        newest = f"SELECT arg_max(log, finished_at) AS b FROM {LOG} AS log GROUP BY batch_id"
        by_batch, by_run = (
            lake.rows(self.home.lakehouse, query)[0]._asdict()
            for query in (
                f"SELECT {sums} FROM (SELECT unnest(b) FROM ({newest}))",
                f"SELECT {sums} FROM ops.run_log WHERE table_name = '{EVENTS}'",
            )
        )
        for counts in (by_batch, by_run):
            assert counts["rows_read"] == sum(counts[name] for name in names[1:])
        alike = ("rows_read", "rows_quarantined") if disturbed else names
        assert [by_batch[name] for name in alike] == [by_run[name] for name in alike]
        return {name.removeprefix("rows_"): count for name, count in by_run.items()}

    def versions(self) -> dict[str, int]:
        """Return the Delta version of each table that the streams write."""
        return {table: catalog.version(self.spark, table) for table in (*TABLES, QUARANTINE, LOG)}


# --- time ----------------------------------------------------------------------------------------------------------


IMPATIENT = {
    "kafka.default.api.timeout.ms": "4000",
    "kafka.request.timeout.ms": "2000",
    "fetchOffset.numRetries": "1",
}
"""Short values for ``shared.streaming.bronze._TIMEOUTS``: a client of the stream to bronze soon gives up a killed
broker."""


@contextmanager
def impatience(*, stall: float = 1.0, limit: float = 6.0, answer: float | None = None):
    """Shorten the times, in seconds, after which a standstill is noticed (``stall``) and a run is ended (``limit``).

    The standstill is reported after half the limit. ``answer`` is the time in which Kafka must answer.
    """
    limits = {"LOOK_SECONDS": 0.5, "STALL_SECONDS": stall, "TELL_SECONDS": limit / 2, "GIVE_UP_SECONDS": limit}
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in limits.items():
            patch.setattr(stream_run, name, seconds)
        if answer:
            patch.setattr(kafka, "ANSWER_TIMEOUT", answer)
        yield


def await_status(live: streaming.Live, condition: Callable[[streaming.Status], Any], what: str, limit: float = 120.0):
    """Return the first status of live streams that meets a condition."""
    deadline = time.monotonic() + limit
    while not condition(status := live.status()):
        assert time.monotonic() < deadline, f"{what} was awaited for {limit:g} s; {status}"
        time.sleep(0.3)  # each status request slows down the streams
    return status
