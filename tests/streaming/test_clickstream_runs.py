"""The clickstream from Kafka to gold, with a real broker and a real engine, against a second computation."""

from __future__ import annotations

import base64
import csv
import json
import random
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr
from streaming.clickstream_cases import (
    NINE,
    QUARANTINE,
    TABLES,
    Sent,
    Traffic,
    computed,
    event,
    text,
)

from generators.clickstream import EVENT, LATE, Clickstream, ClickstreamPlan
from generators.produce_clickstream import produce
from shared import catalog, streaming
from shared.errors import BrokerError, PipelineError
from shared.masking import MASK
from shared.runtime import kafka
from shared.runtime import spark as engine
from shared.settings import get_settings
from shared.streaming import bronze, queries
from shared.streaming.contracts import BRONZE, EVENTS, LOG, SESSIONS, TRAFFIC

HOUR = {"seed": 7, "start": NINE, "duration": 3600.0, "rate": 1.0, "duplicates": 0.05, "late": 0.08, "malformed": 0.02}
"""An hour of the clickstream with all its defects, many of each kind."""

RULE_OF = {
    "not_json": {"message_is_json"},
    "not_utf8": {"message_is_json"},
    "missing_field": {"event_id_is_not_null", "user_id_is_not_null"},
    "unknown_event_type": {"event_type_is_known"},
    "bad_timestamp": {"event_ts_is_a_timestamp"},
    "impossible_time": {"event_ts_is_not_before_the_shop", "event_ts_is_not_in_the_future"},
}


def set_aside(traffic: Traffic) -> dict[str, tuple[str, bytes | None]]:
    """Return for each quarantined message, by partition/offset, the rule that it breaks and its stored bytes."""
    rows = traffic.rows(QUARANTINE, ("source", "rule", "row_json"), f"table_name = '{EVENTS}'")
    found = {}
    for source, rule, row in rows:
        kept = json.loads(row)["raw_value"]
        found[source.removeprefix(f"{traffic.topic}/")] = rule, None if kept is None else base64.b64decode(kept)
    assert len(found) == len(rows)
    return found


# --- files and logs ----------------------------------------------------------------------------------------------


def test_no_log_and_no_file_but_the_private_ones_holds_a_secret(traffic, tmp_path):
    """pyspark's ``foreachBatch`` worker prints the address of the engine, token included."""
    produce(traffic.cluster.client_config(), **HOUR | {"duration": 60.0}, speedup=0, topic=traffic.topic,
            manifest_dir=tmp_path, progress=False)  # fmt: skip
    traffic.run()
    record = engine.running()
    assert record
    log = engine.log_path(get_settings()).read_text()
    assert f"is starting with url sc://localhost:{record.port}/;user_id=;token={MASK}" in log
    files = [path for path in get_settings().home.rglob("*") if path.is_file()]
    for secret, private in (
        (record.token, {"engine.json"}),
        (traffic.cluster.secret.get_secret_value(), {"secrets.toml", "kafka.properties"}),
    ):
        holders = {path.name for path in files if path.exists() and secret.encode() in path.read_bytes()}
        assert holders == private


# --- the result of an hour ----------------------------------------------------------------------------------------


def test_an_hour_with_every_defect_ends_as_computed_and_as_produced(traffic, tmp_path):
    manifest = produce(
        traffic.cluster.client_config(), **HOUR, speedup=0, topic=traffic.topic, manifest_dir=tmp_path, progress=False
    )
    assert min(manifest.defects.values()) >= 5, "every defect occurs"
    plan = list(Clickstream(ClickstreamPlan(**HOUR)))
    first = traffic.run()

    received = traffic.assert_complete()
    assert Counter(one.value for one in received) == Counter(message.value for message in plan)
    expected = computed(message.value for message in plan if message.kind in (EVENT, LATE))
    traffic.assert_equal(expected)

    # The producer's own table of sessions equals ours, under other names. It counts a search as a page view.
    with manifest.sessions_path.open() as file:
        told = list(csv.DictReader(file))
    ours = traffic.rows(
        SESSIONS, ("user_id", "session_start_ts", "session_end_ts", "events", "funnel_step", "is_converted")
    )
    assert {(*row[:4], row[4] or "page_view", row[5]) for row in ours} == {
        (
            one["user_id"],
            text(datetime.fromisoformat(one["session_start_ts"])),
            text(datetime.fromisoformat(one["session_end_ts"])),
            int(one["events"]),
            one["funnel_step"],
            one["is_converted"] == "true",
        )
        for one in told
    }
    assert len(ours) == len(told) == manifest.sessions
    columns = ("session_id", "user_id", "min(event_ts) OVER (PARTITION BY session_id)")
    assert set(traffic.rows(EVENTS, columns)) == {
        (one["session_id"], one["user_id"], text(datetime.fromisoformat(one["session_start_ts"]))) for one in told
    }

    # The quarantine holds the malformed messages, each with its rule and all its bytes.
    kind_of = {message.value: message.kind for message in plan if message.kind in RULE_OF}
    aside = set_aside(traffic)
    by_place = {f"{one.partition}/{one.offset}": one.value for one in received}
    assert {place for place, value in by_place.items() if value in kind_of} == aside.keys()
    for place, (rule, kept) in aside.items():
        assert kept == by_place[place]
        assert rule in RULE_OF[kind_of[kept]], kept

    counts = {
        "read": len(plan),
        "accepted": manifest.events,
        "quarantined": len(aside),
        "duplicate": manifest.defects["duplicate"],
    }
    assert traffic.assert_accounts() == counts
    assert first[EVENTS].rows_inserted == first[EVENTS].rows_accepted == manifest.events
    assert first[BRONZE].rows_inserted == first[BRONZE].rows_read == len(plan)
    assert {run.status for run in first.values()} == {"succeeded"}

    before = traffic.versions()
    again = traffic.run()
    assert {run.status for run in again.values()} == {"unchanged"}
    assert traffic.versions() == before

    # The same hour is sent again: it brings no new event. A broken message counts again, because its offset is new.
    produce(
        traffic.cluster.client_config(), **HOUR, speedup=0, topic=traffic.topic, manifest_dir=tmp_path, progress=False
    )
    repeated = traffic.run()
    assert repeated[BRONZE].rows_inserted == len(plan)
    assert [repeated[table].rows_changed for table in TABLES[1:]] == [0, 0, 0]
    assert repeated[EVENTS].rows_duplicate == counts["accepted"] + counts["duplicate"]
    assert len(traffic.assert_complete()) == 2 * len(plan)
    traffic.assert_equal(expected)
    assert traffic.assert_accounts()["accepted"] == manifest.events


def test_in_any_order_and_cut_anyhow_the_same_messages_end_in_the_same_tables(traffic, small_batches):
    """The hour is shuffled and processed by two runs; the second begins days later in event time and goes back.

    After that, a compaction of bronze brings nothing new.
    """
    plan = list(Clickstream(ClickstreamPlan(**HOUR | {"duration": 1200.0})))
    messages = [Sent(message.key, message.value) for message in plan]
    random.Random(1).shuffle(messages)
    days_later = event("C-later", 3 * 24 * 60, "purchase")
    traffic.send(*messages[:900])
    traffic.run()
    rest = [days_later, *messages[900:]]
    traffic.send(*rest)
    small_batches(len(rest) // 2 + 1)
    traffic.run()
    traffic.assert_complete()
    good = [message.value for message in plan if message.kind in (EVENT, LATE)]
    traffic.assert_equal(computed([*good, days_later.value]))
    assert traffic.assert_accounts()["read"] == len(messages) + 1
    log = sorted(traffic.rows(LOG))
    assert len(log) >= 6, "the messages were to be cut into several micro-batches"

    traffic.spark.sql(f"OPTIMIZE {BRONZE}")
    assert {run.status for table, run in traffic.run().items() if table != BRONZE} == {"unchanged"}
    assert sorted(traffic.rows(LOG)) == log


# --- events that come late -----------------------------------------------------------------------------------------

EXACTLY, NEARLY = 30.0, 30 - 0.001 / 60
"""In minutes: a gap that ends a session, and the longest gap that does not."""

STORIES = {
    "exactly thirty minutes apart are two sessions": [[0], [EXACTLY]],
    "a millisecond less is one": [[0], [NEARLY]],
    "the same in one batch": [[0, EXACTLY], [2 * EXACTLY, 3 * EXACTLY]],
    "a millisecond less in one batch": [[0, NEARLY], [2 * NEARLY, 3 * NEARLY]],
    "a late event bridges two sessions": [[0], [50], [25]],
    "one that is too far from either bridges none": [[0], [60], [30]],
    "it is enough for one of the two": [[0], [60], [NEARLY]],
    "two late ones bridge together what neither does alone": [[0], [80], [25, 52]],
    "one after the other": [[0], [80], [52], [25]],
    "a late event lengthens a session at its start": [[40, 50], [15]],
    "and at its end": [[0, 10], [300], [35]],
    "a late event inside a session": [[0, 20], [10]],
    "a late session before all others": [[300], [0]],
    "a chain of three sessions is bridged at once": [[0], [40], [80], [20, 60]],
    "over midnight and over the hour": [[14.9 * 60], [15.2 * 60], [15 * 60]],
    "days later": [[0], [50], [5000], [25]],
}
"""The times of one user's events in minutes after nine, batch by batch."""


def told_batches() -> list[list[Sent]]:
    """Return the merged stories, each for a user of its own, and users whose events arrive in any order."""
    chance = random.Random(2)
    types = ("page_view", "page_view", "search", "product_view", "add_to_cart", "checkout", "purchase")
    batches: list[list[Sent]] = [[] for _ in range(4)]
    for story, parts in STORIES.items():
        for number, part in enumerate(parts):
            batches[number] += [event(story, minutes, chance.choice(types)) for minutes in part]
    for number in range(150):
        # Near the boundary on purpose: multiples of ten minutes, plus or minus a millisecond.
        for _ in range(chance.randint(2, 7)):
            minutes = 10 * chance.randint(0, 15) + chance.choice((0, 0, 0.001, -0.001)) / 60
            one = event(f"user {number}", minutes, chance.choice(types))
            batches[chance.randrange(4)].append(one)
            if chance.random() < 0.1:
                batches[chance.randrange(4)].append(one)
    return batches


class Batches:
    """Micro-batches that go to silver and gold one after another, without Kafka, and all their messages."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.seen: list[bytes] = []
        self._number = 0
        streaming.create_tables(traffic.spark)

    def take(self, *messages: Sent) -> Callable[[], None]:
        """Process these messages as the next micro-batch; return a function that repeats the same batch."""
        records = [
            (value, self.traffic.topic, 0, len(self.seen) + at, datetime(2026, 3, 1))
            for at, (_, value) in enumerate(messages)
        ]
        schema = "value BINARY, topic STRING, partition INT, offset BIGINT, timestamp TIMESTAMP"
        rows = bronze.parsed(self.traffic.spark.createDataFrame(records, schema))
        again = partial(queries.apply, rows, self._number)
        again()
        self.seen += [message.value for message in messages]
        self._number += 1
        return again

    def assert_equal(self) -> None:
        """Assert that the tables hold the expected rows for all messages."""
        self.traffic.assert_equal(computed(self.seen))


@pytest.fixture(scope="module")
def batches(standing: Traffic) -> Batches:
    return Batches(standing)


def test_an_event_may_come_at_any_time(batches, monkeypatch):
    """After every batch, sessions and hours equal those of all events that have arrived, in any order."""
    # The query for the hours is compiled for some batches, and interpreted for others.
    monkeypatch.setattr(queries.traffic, "MANY_EVENTS", 20)
    for batch in told_batches():
        batches.take(*batch)
        batches.assert_equal()
    held = Counter(user for user, *_ in batches.traffic.rows(SESSIONS))
    assert {story: held[story] for story in STORIES} == dict(
        zip(STORIES, (2, 1, 4, 1, 1, 3, 2, 1, 1, 1, 2, 1, 2, 1, 1, 2), strict=True)
    )


def test_a_start_that_moved_before_the_batch_was_killed_is_counted_out_of_its_hour(batches, monkeypatch):
    """Killed after the sessions and before the hours, then repeated: by then no table shows the session's old start."""
    traffic = batches.traffic
    batches.take(event("moved", 65))
    hours = traffic.rows(TRAFFIC)
    with monkeypatch.context() as killed:
        killed.setattr(queries.traffic, "update", lambda *_: None)
        again = batches.take(event("moved", 45))
    assert traffic.rows(TRAFFIC) == hours
    assert len(traffic.rows(SESSIONS, where="user_id = 'moved'")) == 1
    before = traffic.versions()
    again()
    batches.assert_equal()
    assert traffic.versions()[SESSIONS] == before[SESSIONS], "the sessions were there already"


def test_a_session_is_open_until_others_move_on(batches):
    def assert_open(*users: str) -> None:
        found = [user for user, *_ in batches.traffic.rows(SESSIONS, where="is_open")]
        assert found == list(users), f"{batches.traffic.versions()}, {batches.traffic.rows(LOG)[-2:]}"

    def at(user: str, minutes: float, event_type: str = "page_view") -> Sent:
        # Weeks after all rows of the tables.
        return event(user, 50_000 + minutes, event_type)

    batches.take(at("early", 0), at("late", 10, "add_to_cart"))
    assert_open("early", "late")
    batches.take(at("other", 30))
    assert_open("late", "other")
    # The user's own late event changes its hour and its session, but opens no session: other users' events are newer.
    before = batches.traffic.versions()[SESSIONS]
    batches.take(at("early", -5, "purchase"), at("early", -20))
    assert_open("late", "other")
    changed = catalog.changes_since(batches.traffic.spark, SESSIONS, before)
    assert (changed["inserted"], changed["deleted"]) == (1, 1)
    batches.assert_equal()
    # After hours without events, all open sessions are closed, however long ago other sessions were closed.
    batches.take(at("far", 300))
    assert_open("far")
    batches.take(at("farther", 329), at("between", 100), at("far", 330))
    assert_open("far", "farther")
    batches.assert_equal()


# --- what a message may be -----------------------------------------------------------------------------------------


def like(user: str, old: bytes, new: bytes) -> Sent:
    """Return a valid event with a part replaced."""
    key, value = event(user, 1)
    assert old in value
    return Sent(key, value.replace(old, new, 1))


def at(user: str, moment: str) -> Sent:
    """Return an event with this event_ts."""
    return event(user, 0, event_ts=moment)


STRANGE: dict[str, tuple[Sent, dict[str, object] | str]] = {
    "no key": (Sent(None, event("no key", 1).value), {}),
    "a field more": (event("a field more", 1, campaign="winter"), {}),
    "a field less": (like("a field less", b'"device": "mobile", ', b""), {"device": None}),
    "a version that is no number": (
        event("a version that is no number", 1, schema_version="x"),
        {"schema_version": None},
    ),
    "a number for a product": (event("a number for a product", 1, product_id=5), {"product_id": "5"}),
    "an object for a page": (event("an object for a page", 1, page={"a": [1, None]}), {"page": '{"a":[1,null]}'}),
    "NUL in text": (event("NUL in text", 1, page="a\0b"), {"page": "a\0b"}),
    "a page of 900,000 letters": (event("a page of 900,000 letters", 1, page="x" * 900_000), {"page": "x" * 900_000}),
    "letters of every plane": (event("letters of every plane", 1, page="é ✓ 𝄞"), {"page": "é ✓ 𝄞"}),
    "a known field twice": (
        like("a known field twice", b"{", b'{"page": "/first", '),
        {"user_id": "a known field twice"},
    ),
    "an unknown field twice": (like("an unknown field twice", b"{", b'{"new": 1, "new": 2, '), {}),
    "a zone of its own": (at("a zone of its own", "2026-01-01T11:00:00+02:00"), {"event_ts": text(NINE)}),
    "no zone": (at("no zone", "2026-01-01T09:00:00"), {"event_ts": text(NINE)}),
    "empty": (Sent(b"k", b""), "message_is_json"),
    "an array": (Sent(b"k", b"[1, 2]"), "message_is_json"),
    "an array of events": (Sent(b"k", b"[" + event("an array of events", 1).value + b"]"), "message_is_json"),
    "text after it": (Sent(b"k", event("text after it", 1).value + b" and more"), "message_is_json"),
    "two at once": (Sent(b"k", event("two at once", 1).value + b"\n" + event("two", 2).value), "message_is_json"),
    "two and a comma": (Sent(b"k", event("two and", 1).value + b"," + event("a comma", 2).value), "message_is_json"),
    "a string": (Sent(b"k", b'"text"'), "message_is_json"),
    "null": (Sent(b"k", b"null"), "message_is_json"),
    "no UTF-8": (like("no UTF-8", b"mobile", b"mo\xff\xfe"), "message_is_json"),
    "a bare NUL": (like("a bare NUL", b"mobile", b"mo\0"), "message_is_json"),
    "nothing": (Sent(b"k", None), "event_id_is_not_null"),
    "an empty object": (Sent(b"k", b"{}"), "event_id_is_not_null"),
    "null for a user": (event("null for a user", 1, user_id=None), "user_id_is_not_null"),
    "a year alone": (event("a year alone", 0, event_ts=2026), "event_ts_is_a_timestamp"),
    "a time alone": (at("a time alone", "09:15:00"), "event_ts_is_a_timestamp"),
    "a number for a time": (event("a number for a time", 0, event_ts=1767258902481), "event_ts_is_a_timestamp"),
    "1970": (at("1970", "1970-01-01T00:00:00Z"), "event_ts_is_not_before_the_shop"),
    "2099": (at("2099", "2099-12-31T23:59:59.999Z"), "event_ts_is_not_in_the_future"),
    "10000": (at("10000", "10000-01-01T00:00:00Z"), "event_ts_is_not_in_the_future"),
    "294247": (at("294247", "+294247-01-10T04:00:54Z"), "event_ts_is_not_in_the_future"),
}
"""Named messages and their results: an event with these fields, or the rule that the message breaks."""


def test_nothing_that_a_message_may_be_stops_the_stream(traffic):
    """After all strange messages come messages of another schema version, which has an additional field."""
    plan = ClickstreamPlan(**HOUR | {"duration": 60.0, "malformed": 0.0, "schema_version": 2})
    newer = list(Clickstream(plan))
    traffic.send(*(message for message, _ in STRANGE.values()), *(Sent(one.key, one.value) for one in newer))
    done = traffic.run()
    received = traffic.assert_complete()
    place_of = {one.value: f"{one.partition}/{one.offset}" for one in received}
    aside = set_aside(traffic)
    held = {row[1]: row for row in traffic.rows(EVENTS) if row[1] in STRANGE}
    names = traffic.spark.table(EVENTS).columns
    problems = {}
    for name, (message, fate) in STRANGE.items():
        place = place_of[message.value]
        if isinstance(fate, str):
            found = aside.get(place)
            if found != (fate, message.value):
                problems[name] = found
        else:
            row = dict(zip(names, held[name], strict=True)) if name in held else None
            if place in aside or row is None or row | fate != row:
                problems[name] = (row, aside.get(place))
    assert problems == {}
    assert len(aside) + len(held) == len(STRANGE)
    assert all(reason for (reason,) in traffic.rows(QUARANTINE, ("reason",)))
    extra = dict(traffic.rows(BRONZE, ("user_id", "_extra"), "_extra IS NOT NULL"))
    assert extra["a field more"] == [("campaign", "winter")]

    # The additional field of the other version is kept aside, and nothing else changes.
    assert done[EVENTS].rows_accepted == len({message.value for message in newer}) + len(held)
    first = Clickstream(replace(plan, schema_version=1))
    wanted = {(*row[:-1], 2) for row in computed(message.value for message in first).events}
    assert wanted <= set(traffic.rows(EVENTS))
    campaigns = Counter(json.loads(message.value)["campaign"] for message in newer)
    assert len(campaigns) > 1
    assert campaigns == Counter(
        dict(extra)["campaign"] for (extra,) in traffic.rows(BRONZE, ("_extra",), "schema_version = 2")
    )


# --- obstacles -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visited(spark, cluster) -> Traffic:
    """Traffic whose messages, one of them broken, are processed up to gold. Each test continues from the one before."""
    made = Traffic(spark, cluster, get_settings(), "visited")
    made.clear()
    made.send(event("a", 0), event("a", 40, "purchase"), Sent(None, b"garbage"))
    made.run()
    return made


def assert_refused(traffic: Traffic, *problem: str) -> None:
    with pytest.raises(PipelineError) as raised:
        traffic.run()
    for part in problem:
        assert part in raised.value.problem
    assert re.search(r"`shopmetrics reset \S+` removes", raised.value.hint), raised.value.hint


def test_a_cluster_that_cannot_serve_is_told_in_time_and_leaves_everything_as_it_was(visited, monkeypatch):
    before = visited.versions()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        cases = {
            "refuses the credentials": (replace(visited.cluster, secret=SecretStr("wrong")), visited.topic),
            "does not answer": (
                replace(visited.cluster, bootstrap_servers=f"127.0.0.1:{nobody.getsockname()[1]}"),
                visited.topic,
            ),
            "has no topic": (visited.cluster, "no-such-topic"),
        }
        for problem, (cluster, topic) in cases.items():
            begun = time.monotonic()
            with monkeypatch.context() as patch:
                if problem == "does not answer":  # no answer will ever come
                    patch.setattr(kafka, "ANSWER_TIMEOUT", 3.0)
                with pytest.raises(BrokerError, match=problem) as raised:
                    streaming.run(visited.spark, visited.home, cluster, topic)
            assert raised.value.hint
            assert time.monotonic() - begun < 60
    assert visited.versions() == before
    assert visited.spark.streams.active == []


def test_tables_and_checkpoints_come_and_go_together(visited):
    expected = computed(one.value for one in visited.received() if one.key)
    contents = {table: visited.rows(table) for table in (*TABLES[1:], QUARANTINE)}

    # A table alone or a checkpoint alone is refused, and the existing one is not changed.
    for stream in queries.STREAMS:
        aside = stream.checkpoint(visited.home).with_suffix(".aside")
        shutil.move(stream.checkpoint(visited.home), aside)
        assert_refused(visited, stream.tables[0], "checkpoint", "is gone")
        assert not stream.checkpoint(visited.home).exists()
        shutil.move(aside, stream.checkpoint(visited.home))
    assert {table: visited.rows(table) for table in contents} == contents
    for table in (TRAFFIC, BRONZE):
        catalog.drop_table(visited.spark, table, visited.home)
        assert_refused(visited, f"belongs to another {table}")
        assert visited.rows(EVENTS) == contents[EVENTS]

        # The remedy.
        removed = streaming.reset(visited.spark, table, visited.home)
        assert set(removed) == set(TABLES if table == BRONZE else TABLES[1:])
        assert not any(catalog.table_exists(visited.spark, name) for name in removed)
        assert set_aside(visited) == {}
        visited.run()
        visited.assert_complete()
        visited.assert_equal(expected)
        assert len(set_aside(visited)) == 1


@pytest.mark.parametrize("partitions", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_messages_that_are_gone_before_they_were_read_stop_the_stream(visited, partitions: int):
    if partitions == 1:
        # In this case the first task fails, and Delta reports its failure in other words.
        visited.replace_topic(partitions)
        streaming.reset(visited.spark, BRONZE, visited.home)
        visited.send(event("a", 0))
        visited.run()
    held = visited.rows(BRONZE)
    assert held
    visited.send(event("a", 5), event("b", 6), event("c", 7))
    ends = kafka.end_offsets(visited.cluster, visited.topic)
    client = AdminClient(visited.cluster.client_config())
    gone = [TopicPartition(visited.topic, partition, offset) for partition, offset in ends.items()]
    for answer in client.delete_records(gone).values():
        answer.result(10)
    visited.send(event("a", 8))
    with pytest.raises(PipelineError, match="never read are gone from the topic") as raised:
        visited.run()
    assert f"`shopmetrics reset {BRONZE}`" in raised.value.hint
    assert visited.rows(BRONZE) == held
    # A reset by any table of a stream removes all tables of this stream, and none of the stream before it.
    for table in (EVENTS, SESSIONS):
        assert set(streaming.reset(visited.spark, table, visited.home)) == set(TABLES[1:])
        assert catalog.table_exists(visited.spark, BRONZE)
    streaming.reset(visited.spark, BRONZE, visited.home)
    visited.run()
    assert len(visited.rows(EVENTS)) == 1


def test_another_topic_of_the_same_name_is_not_the_one_that_was_read(visited):
    kafka.delete_topic(visited.cluster, visited.topic)
    kafka.create_topic(visited.cluster, visited.topic)
    assert_refused(visited, f"belongs to another topic {visited.topic}")
