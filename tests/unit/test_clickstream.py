"""The clickstream's guarantees: the same bytes, sessions that can be found again, and defects that can be counted."""

from __future__ import annotations

import doctest
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import clickstream, generate
from generators.clickstream import (
    EVENT_TYPES,
    EVENTS_PER_SESSION,
    FUNNEL,
    KINDS,
    MALFORMED,
    Clickstream,
    ClickstreamPlan,
    Message,
    SessionAccount,
)
from generators.plan import GeneratorError

START = datetime(2026, 1, 1, 9, tzinfo=UTC)
FIELDS = [
    "event_id",
    "user_id",
    "session_id",
    "event_type",
    "page",
    "product_id",
    "device",
    "referrer",
    "event_ts",
    "schema_version",
]
Event = dict[str, Any]


def plan(**given: Any) -> ClickstreamPlan:
    return ClickstreamPlan(**{"seed": 7, "start": START, "duration": 3_600, "scale": 0.1, **given})


def messages(**given: Any) -> list[Message]:
    return list(Clickstream(plan(**given)))


def events(sent: list[Message]) -> list[Event]:
    """The valid events, each once, as seen by a consumer that parses, checks and deduplicates."""
    found: dict[str, Event] = {}
    for message in sent:
        if (event := parsed(message)) is not None:
            found.setdefault(event["event_id"], event)
    return list(found.values())


def parsed(message: Message) -> Event | None:
    """The event of a message, or None if the message is malformed; the check uses nothing of the generator."""
    try:
        event = json.loads(message.value)
        at = time_of(event)
        valid = event["user_id"] and event["event_id"] and event["event_type"] in EVENT_TYPES
    except (ValueError, KeyError):
        return None
    return event if valid and 2000 <= at.year < 2090 else None


def time_of(event: Event) -> datetime:
    return datetime.fromisoformat(event["event_ts"])


def sessions(found: list[Event]) -> dict[str, list[Event]]:
    """The events of each of the producer's sessions, ordered by time."""
    by_id: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(found, key=time_of):
        by_id[event["session_id"]].append(event)
    return by_id


@pytest.fixture(scope="module")
def hour() -> list[Message]:
    """An hour with 10 events a second and the usual defects."""
    return messages(rate=10)


@pytest.fixture(scope="module")
def clean() -> list[Message]:
    """Four hours without defects, in which customers come back."""
    return messages(rate=5, duration=14_400, duplicates=0, late=0, malformed=0)


# --- the same bytes ------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_every_machine() -> None:
    digest = hashlib.sha256()
    for key, value, send_at, kind in messages(duration=7_200, hours="shop", schema_version=2, malformed=0.1):
        digest.update(b"%b %b %d %b\n" % (key or b"", value, send_at, kind.encode()))
    assert digest.hexdigest() == "a7292636efc18b0cd8a10f807fe752b075f262f8385f207dd26a396096197295"


def test_size_of_slices_changes_nothing(hour: list[Message], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickstream, "_ROWS_PER_SLICE", 300)
    assert len(list(Clickstream(plan(rate=10)).batches())) > 100
    assert messages(rate=10) == hour


@pytest.mark.parametrize("name", ["hours", "rate", "seed", "scale"])
def test_another_clickstream_shares_no_id(hour: list[Message], name: str) -> None:
    other = messages(**{"rate": 10, name: {"hours": "shop", "rate": 11, "seed": 8, "scale": 0.2}[name]})
    for field in ("event_id", "session_id"):
        assert not {e[field] for e in events(other)} & {e[field] for e in events(hour)}


def test_short_stretch_is_the_beginning_of_a_long_one(hour: list[Message]) -> None:
    short = messages(rate=10, duration=600)
    end = plan(duration=600).end_ms
    on_time = [message for message in short if message.send_at < end]
    assert len(on_time) > 5_500
    assert hour[: len(on_time)] == on_time
    held_back = short[len(on_time) :]
    assert {message.kind for message in held_back} <= {"late", "duplicate", *MALFORMED}
    assert Counter(m.value for m in held_back) <= Counter(m.value for m in hour[len(on_time) :])


def test_stretches_side_by_side_hold_the_events_of_the_whole(hour: list[Message]) -> None:
    parts = [
        event
        for n in range(4)
        for event in events(messages(rate=10, start=START + timedelta(minutes=15 * n), duration=900))
    ]
    assert len({event["event_id"] for event in parts}) == len(parts)
    assert sorted(parts, key=lambda e: e["event_id"]) == sorted(events(hour), key=lambda e: e["event_id"])


def test_same_stretch_in_the_second_form_is_the_same_events_with_a_field_more(hour: list[Message]) -> None:
    second = [json.loads(m.value) for m in messages(rate=10, schema_version=2) if m.kind == "event"]
    campaigns = {event.pop("campaign") for event in second}
    assert None in campaigns
    assert len(campaigns) > 3
    assert {event["schema_version"] for event in second} == {2}
    first = [json.loads(m.value) for m in hour if m.kind == "event"]
    assert [{**event, "schema_version": 1} for event in second] == first


def test_a_run_that_stops_sends_what_a_shorter_stretch_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickstream, "_ROWS_PER_SLICE", 6_000)
    stopped = Clickstream(plan(rate=10, late=0.05))
    first, second = itertools.islice(stopped.batches(), 2)
    for count in (0, 1, len(second) // 2, len(second)):
        sent = [*first.messages(), *itertools.islice(second.messages(), count)]
        end = sent[-1].send_at + 1
        shorter = messages(rate=10, late=0.05, duration=(end - stopped.plan.start_ms) / 1_000)
        assert [*sent, *stopped.rest(second, count, end).messages()] == shorter


# --- events --------------------------------------------------------------------------------------------------------


def test_clean_messages_are_json_with_the_agreed_fields_and_the_user_as_key(clean: list[Message]) -> None:
    for message in clean:
        event = json.loads(message.value)
        assert list(event) == FIELDS
        assert message.key == event["user_id"].encode()
        assert message.send_at == round(time_of(event).timestamp() * 1_000)
        assert event["event_type"] in EVENT_TYPES
        assert event["schema_version"] == 1
        assert (event["product_id"] is None) == (event["event_type"] in ("page_view", "search"))
        assert (event["page"] == f"/product/{event['product_id']}") == (
            event["event_type"] in ("product_view", "add_to_cart")
        )
    ids = [json.loads(message.value)["event_id"] for message in clean]
    assert len(set(ids)) == len(ids)
    assert {event_id[:8] for event_id in ids} == {plan(rate=5).clickstream}


def test_messages_come_in_the_order_of_their_time(hour: list[Message]) -> None:
    assert all(before.send_at <= after.send_at for before, after in itertools.pairwise(hour))
    assert plan().start_ms <= hour[0].send_at
    assert hour[-1].send_at == plan().end_ms


def test_customers_and_products_are_those_of_the_shop(clean: list[Message], tmp_path: Any) -> None:
    generate(tmp_path, scale=0.1, seed=7, defects=0, tables=["customers", "products"], progress=False)
    known = {
        line.split(",")[0]
        for table in ("customers", "products")
        for line in (tmp_path / f"{table}/2025-12-31/{table}_historical.csv").read_text().splitlines()[1:]
    }
    found = events(clean)
    customers = {e["user_id"] for e in found if e["user_id"].startswith("C-")}
    assert len(customers) > 500
    assert customers <= known
    products = Counter(e["product_id"] for e in found if e["event_type"] == "product_view")
    assert set(products) <= known
    popular = sum(count for _, count in products.most_common(len(products) // 5))
    assert popular > 0.4 * products.total()


def test_about_a_third_of_the_sessions_are_anonymous_as_long_as_customers_are_free() -> None:
    by_id = sessions(events(messages(scale=1, duration=28_800, rate=1)))
    anonymous = sum(walk[0]["user_id"].startswith("V-") for walk in by_id.values())
    assert 0.3 < anonymous / len(by_id) < 0.42


def test_funnel_is_walked_down_and_its_steps_are_as_frequent_as_in_a_shop(clean: list[Message]) -> None:
    by_id = sessions(events(clean))
    # A session that began before the start of the window lacks its first events.
    whole = [walk for walk in by_id.values() if time_of(walk[0]) >= START + timedelta(minutes=45)]
    assert len(whole) > 10_000
    reached: Counter[str] = Counter()
    for walk in whole:
        seen: set[tuple[str, str]] = set()
        for event in walk:
            for step, before in itertools.pairwise(reversed(FUNNEL[1:])):
                if event["event_type"] == step:
                    assert (before, event["product_id"]) in seen
            seen.add((event["event_type"], event["product_id"]))
        reached.update({event["event_type"] for event in walk})
    share = {step: reached[step] / len(whole) for step in EVENT_TYPES}
    assert 0.07 < share["add_to_cart"] < 0.09
    assert 0.04 < share["checkout"] < 0.05
    assert 0.025 < share["purchase"] < 0.035
    assert 0.1 < share["search"] < share["product_view"] < share["page_view"] < 1


@pytest.mark.parametrize("scale", [0.0001, 0.1])
def test_a_gap_of_30_minutes_finds_exactly_the_sessions(scale: float) -> None:
    found = events(messages(scale=scale, rate=3, duration=43_200, duplicates=0, late=0.02, malformed=0.01))
    of_user: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(found, key=time_of):
        of_user[event["user_id"]].append(event)
    between, within = [], []
    for walk in of_user.values():
        for before, after in itertools.pairwise(walk):
            gaps = within if before["session_id"] == after["session_id"] else between
            gaps.append(time_of(after) - time_of(before))
    assert len(between) > 30
    assert min(between) > timedelta(minutes=35)
    assert timedelta(minutes=20) < max(within) < timedelta(minutes=26)
    assert min(within) > timedelta(seconds=5)
    middle = sorted(within)[len(within) // 2]
    assert timedelta(seconds=8) < middle < timedelta(seconds=30)


def test_a_user_whose_stretch_is_cut_goes_on_in_the_next_under_the_same_session() -> None:
    noon = START + timedelta(hours=3)
    before = sessions(events(messages(start=noon - timedelta(hours=1))))
    after = sessions(events(messages(start=noon)))
    shared = set(before) & set(after)
    assert len(shared) > 5
    for session in shared:
        assert before[session][0]["user_id"] == after[session][0]["user_id"]
        assert time_of(after[session][0]) - time_of(before[session][-1]) < timedelta(minutes=26)


def test_rate_is_steady_from_the_first_second() -> None:
    sent = np.array([m.send_at for m in messages(rate=50, duration=1_200, malformed=0, duplicates=0, late=0)])
    per_minute = np.bincount((sent - plan().start_ms) // 60_000, minlength=20)
    assert np.abs(per_minute / 3_000 - 1).max() < 0.1
    assert abs(len(sent) / 60_000 - 1) < 0.02


@pytest.mark.parametrize("hours", clickstream.HOURS)
def test_rate_is_the_mean_of_a_day(hours: str) -> None:
    midnight = datetime(2026, 1, 1, tzinfo=UTC)
    day = events(messages(start=midnight, duration=86_400, rate=0.5, hours=hours, malformed=0, duplicates=0))
    assert abs(len(day) / 43_200 - 1) < 0.03
    per_hour = np.bincount([time_of(event).hour for event in day], minlength=24) / len(day) * 24
    if hours == "even":
        assert np.abs(per_hour - 1).max() < 0.15
    else:
        assert per_hour.argmax() in (19, 20, 21)
        assert per_hour[3] < 0.15
        assert per_hour[20] > 1.9


def test_events_per_session_are_as_many_as_the_rate_assumes(clean: list[Message]) -> None:
    by_id = sessions(events(clean))
    assert abs(len(clean) / len(by_id) / EVENTS_PER_SESSION - 1) < 0.03


# --- defects -------------------------------------------------------------------------------------------------------


def find_defects(sent: list[Message]) -> Counter[str]:
    """Find defects by the descriptions in ``DEFECTS``; the search uses nothing of the generator."""
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    for message in sent:
        if message.value in seen:
            counts["duplicate"] += 1
            continue
        seen.add(message.value)
        counts[kind_of(message)] += 1
    return counts


def kind_of(message: Message) -> str:
    try:
        event = json.loads(message.value)
    except UnicodeDecodeError:
        return "not_utf8"
    except ValueError:
        return "not_json"
    if not {"event_id", "user_id"} <= set(event):
        return "missing_field"
    if event["event_type"] not in EVENT_TYPES:
        return "unknown_event_type"
    try:
        at = time_of(event)
    except ValueError:
        return "bad_timestamp"
    if not 2000 <= at.year < 2090:
        return "impossible_time"
    delay = message.send_at - round(at.timestamp() * 1_000)
    assert delay >= 0
    return "late" if delay else "event"


def test_every_kind_is_found_as_often_as_it_was_sent(hour: list[Message]) -> None:
    found = find_defects(hour)
    assert found == Counter(message.kind for message in hour)
    assert set(found) == set(KINDS)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**40),
    rate=st.floats(0.01, 5),
    start=st.datetimes(datetime(2000, 1, 1), datetime(2089, 1, 1), timezones=st.just(UTC)),
    share=st.sampled_from([0.0, 0.002, 0.2]),
    hours=st.sampled_from(clickstream.HOURS),
)
def test_sent_is_found_at_any_seed_rate_time_and_share(
    seed: int, rate: float, start: datetime, share: float, hours: str
) -> None:
    asked = plan(
        seed=seed, rate=rate, start=start, hours=hours, duration=900, duplicates=share, late=share, malformed=share
    )
    sent = list(Clickstream(asked))
    assert find_defects(sent) == Counter(message.kind for message in sent)
    assert all(asked.start_ms <= message.send_at <= asked.end_ms for message in sent)
    without = list(Clickstream(replace(asked, duplicates=0, late=0, malformed=0)))
    assert Counter(m.kind for m in sent)["event"] + Counter(m.kind for m in sent)["late"] == len(without)


def test_shares_are_what_was_asked_for() -> None:
    counts = Counter(m.kind for m in messages(rate=50, duplicates=0.02, late=0.05, malformed=0.1))
    clean = counts["event"] + counts["late"]
    assert abs(counts["duplicate"] / clean - 0.02) < 0.002
    assert abs(counts["late"] / clean - 0.05) < 0.003
    assert abs(sum(counts[kind] for kind in MALFORMED) / clean - 0.1) < 0.004
    for kind in MALFORMED:
        assert abs(counts[kind] / clean * len(MALFORMED) - 0.1) < 0.01


def test_late_messages_are_held_for_minutes_and_the_rest_is_sent_at_the_end(hour: list[Message]) -> None:
    delays = [
        message.send_at - round(time_of(json.loads(message.value)).timestamp() * 1_000)
        for message in hour
        if message.kind == "late" and message.send_at < plan().end_ms
    ]
    assert 120_000 <= min(delays) < 300_000
    assert 2_400_000 < max(delays) < 3_600_000
    at_end = [message for message in hour if message.send_at == plan().end_ms]
    assert {message.kind for message in at_end} <= {"late", "duplicate", *MALFORMED}
    assert len(at_end) > 100


def test_duplicate_follows_its_original_within_seconds(hour: list[Message]) -> None:
    first: dict[bytes, int] = {}
    waits = []
    for message in hour:
        if message.kind == "duplicate":
            waits.append(message.send_at - first[message.value])
        else:
            first[message.value] = message.send_at
    assert max(waits) <= 10_000
    assert sum(wait >= 1_000 for wait in waits) > 0.9 * len(waits)


def test_malformed_messages_belong_to_no_session(hour: list[Message]) -> None:
    by_id = sessions(events(hour))
    users = {walk[0]["user_id"].encode() for walk in by_id.values()}
    broken = [message for message in hour if message.kind in MALFORMED]
    assert not {message.key for message in broken} & users
    valid_ids = {event["event_id"].encode() for event in events(hour)}
    for message in broken:
        assert not any(session.encode() in message.value for session in by_id)
        assert message.value.partition(b'"event_id":"')[2][:25] not in valid_ids
        assert (message.key is None) == (message.kind == "missing_field" and b'"user_id"' not in message.value)
    assert None in {message.key for message in broken}


# --- accounts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_slice", [500, 32_768])
def test_account_of_sessions_is_what_the_messages_hold(
    hour: list[Message], rows_per_slice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickstream, "_ROWS_PER_SLICE", rows_per_slice)
    asked = plan(rate=10)
    account, found = SessionAccount(), {}
    for batch in Clickstream(asked).batches():
        complete = account.add(batch.rows)
        ids, users = asked.session_ids(complete.session), asked.user_ids(complete.customer, complete.session)
        for n in range(len(complete)):
            assert ids[n].as_py() not in found
            found[ids[n].as_py()] = (
                users[n].as_py(),
                clickstream.instant(int(complete.first[n])),
                clickstream.instant(int(complete.last[n])),
                int(complete.events[n]),
                FUNNEL[complete.step[n]],
                bool(complete.converted[n]),
            )
    assert len(account.close()) == 0
    assert found == {session: summary(walk) for session, walk in sessions(events(hour)).items()}


def summary(walk: list[Event]) -> tuple[str, str, str, int, str, bool]:
    types = {event["event_type"] for event in walk}
    furthest = next((step for step in reversed(FUNNEL) if step in types), FUNNEL[0])
    return (
        walk[0]["user_id"], walk[0]["event_ts"], walk[-1]["event_ts"], len(walk), furthest, "purchase" in types,
    )  # fmt: skip


def test_account_lets_go_of_sessions_so_that_memory_stays() -> None:
    account = SessionAccount()
    held = []
    for batch in Clickstream(plan(rate=5, duration=86_400)).batches():
        account.add(batch.rows)
        held.append(len(account._open))
    assert max(held[len(held) // 2 :]) < 1.2 * max(held[: len(held) // 2])


# --- arguments -----------------------------------------------------------------------------------------------------


REFUSED = [
    ("seed", -1, "seed must be a whole number, 0 or more, got -1"),
    ("scale", 0, "scale must be above 0 and at most 1000, got 0"),
    ("start", datetime(2026, 1, 1), "start must have a time zone, got 2026-01-01T00:00:00"),
    ("start", datetime(1970, 1, 1, tzinfo=UTC), "event times must lie in the years 2000 to 2089"),
    ("duration", 3e9, "event times must lie in the years 2000 to 2089"),
    ("duration", 0, "duration must be at least 0.001 seconds, got 0"),
    ("duration", float("nan"), "duration must be at least 0.001 seconds, got nan"),
    ("rate", 0, "rate must be 0.001 to 10,000 events per second, got 0"),
    ("rate", float("inf"), "rate must be 0.001 to 10,000 events per second, got inf"),
    ("rate", float("nan"), "rate must be 0.001 to 10,000 events per second, got nan"),
    ("hours", "busy", "hours must be one of even, shop, got 'busy'"),
    ("duplicates", 0.3, "duplicates must be a share from 0 to 0.2, got 0.3"),
    ("late", -0.1, "late must be a share from 0 to 0.2, got -0.1"),
    ("malformed", 1, "malformed must be a share from 0 to 0.2, got 1"),
    ("schema_version", 3, "schema_version must be 1 or 2, got 3"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=lambda v: str(v)[:20])
def test_bad_argument_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(GeneratorError) as caught:
        plan(**{name: value})
    assert caught.value.problem.startswith(message)
    assert caught.value.hint


def test_time_zone_of_the_start_and_its_microseconds_do_not_matter() -> None:
    elsewhere = plan(start=datetime.fromisoformat("2026-01-01T11:00:00.000999+02:00"))
    assert elsewhere == plan()


def test_endless_stretch_is_made_as_it_is_asked_for() -> None:
    endless = list(itertools.islice(Clickstream(plan(duration=None)), 2_000))
    assert [m.value for m in endless] == [m.value for m in messages(duration=3_600)[:2_000]]


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(clickstream)
    assert result.attempted > 3
    assert result.failed == 0
