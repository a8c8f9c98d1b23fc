"""The clickstream: what visitors do on the shop's web site, as the messages that a web server would send.

A clickstream never ends. Every event in it is a function of seed, scale, rate, hours and its place in time. A plan is
a time window on the clickstream, and produces the events inside it. So the same window gives the same bytes in the same
order, on every machine. Two adjacent windows continue each other: a session that is cut at the end of one window
continues in the next, under the same ``session_id``. Overlapping windows hold the same events with the same
``event_id``.

A session follows a funnel: landing, pages, searches and products, then perhaps from one product to the cart, to the
checkout and to the purchase. Two events of a session are less than 30 minutes apart, two sessions of a user more than
35 minutes. So the rule that a gap of 30 minutes ends a session finds exactly the generated sessions.

A defect delays a message or adds one; no defect destroys an event. :data:`DEFECTS` lists the kinds. The use of memory
does not grow with the length of the window.

>>> plan = ClickstreamPlan(seed=42, start=datetime(2026, 1, 1, 9, tzinfo=UTC), duration=600)
>>> message = next(iter(Clickstream(plan)))
>>> message.key, json.loads(message.value)["event_type"]
(b'C-00000918', 'product_view')
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from generators import demand
from generators.customers import customer_ids
from generators.landing import Records, joined
from generators.plan import GeneratorError, Plan
from generators.pools import take
from generators.products import CATEGORIES, Products, product_ids
from generators.random_streams import Bools, Ints, Stream, Words, heavy_tail

VERSION = "1"
"""Raised when a code change makes the same plan give other bytes."""

EVENT_TYPES = ("page_view", "search", "product_view", "add_to_cart", "checkout", "purchase")
_PAGE_VIEW, _SEARCH, _PRODUCT_VIEW, _ADD_TO_CART, _CHECKOUT, _PURCHASE = range(len(EVENT_TYPES))
FUNNEL = ("page_view", "product_view", "add_to_cart", "checkout", "purchase")
"""The steps of a session, from the first to the furthest. A search counts as a page view."""

EVENT, LATE, DUPLICATE = "event", "late", "duplicate"
MALFORMED = (
    "not_json",
    "not_utf8",
    "missing_field",
    "unknown_event_type",
    "bad_timestamp",
    "impossible_time",
)
KINDS = (EVENT, LATE, DUPLICATE, *MALFORMED)
"""The kinds of message. The first two carry an event for the first time; the others do not."""
_EVENT, _LATE, _DUPLICATE, _NOT_JSON = range(4)

DEFECTS = {
    LATE: "an event sent 2 to 120 minutes after its event_ts, or at the end of the stretch",
    DUPLICATE: "a message sent again, byte for byte, 1 to 10 seconds later; it may be the duplicate of a late one",
    "not_json": "an object that breaks off in the middle",
    "not_utf8": "a page with two bytes that UTF-8 does not know",
    "missing_field": "an object without event_id or without user_id; without user_id the message has no key",
    "unknown_event_type": "an event_type that is none of " + ", ".join(EVENT_TYPES),
    "bad_timestamp": "an event_ts that is no time",
    "impossible_time": "an event_ts in 1970 or 2099",
}
"""A description of the messages of each kind of defect. Malformed messages are additional and belong to no session:
their event_id, user_id and session_id occur nowhere else."""

HOURS = ("even", "shop")
"""The distribution of sessions over a day: even, or like orders, with few at night and most in the evening (UTC)."""

MIN_RATE, MAX_RATE = 0.001, 10_000.0
MAX_SHARE = 0.2
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
"""Event times lie between these instants, which are far from the impossible times of a defect."""

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
"""Times are whole milliseconds since 1970-01-01 00:00:00 UTC."""

_LONGEST_SESSION = 45 * _MINUTE
"""A session ends after this time, even if further events were planned."""
_QUIET = 35 * _MINUTE
"""The shortest time between the end of a customer's session and the beginning of the next."""
_LONGEST_DELAY, _SHORTEST_DELAY = 120 * _MINUTE, 2 * _MINUTE

_BROWSED = (260, 150, 120, 100, 85, 70, 55, 45, 38, 32, 25, 20)
"""How many sessions have 1, 2, ... browsing events before the visitor chooses a product or leaves."""
_DECISION = (920, 35, 15, 30)
"""How many sessions in a thousand stop at browsing, at the cart, at the checkout, at the purchase."""
_DECIDED_EVENTS = np.array([0, 2, 3, 4])
"""Events that each decision adds: the product, the cart, the checkout, the purchase."""
_FIRST_TYPE = (72, 6, 22)
_LATER_TYPE = (44, 12, 44)
"""Page view, search, product view: the first event of a session, and the later ones while browsing."""
_MOST_EVENTS = len(_BROWSED) + int(_DECIDED_EVENTS.max())

EVENTS_PER_SESSION = float(
    sum(n * weight for n, weight in enumerate(_BROWSED, start=1)) / sum(_BROWSED)
    + sum(n * weight for n, weight in zip(_DECIDED_EVENTS, _DECISION, strict=True)) / sum(_DECISION)
)
"""Mean number of events in a session."""

_SHORTEST_THOUGHT, _LONGEST_THOUGHT = 8 * _SECOND, 4 * _MINUTE
_IDLES, _SHORTEST_IDLE, _LONGEST_IDLE = 0.06, 5 * _MINUTE, 25 * _MINUTE
"""Share of the sessions with one idle gap, and its shortest and longest duration."""

_CUSTOMERS = 0.65
"""Probability that the first session in a customer's turn belongs to the customer."""
_STRIDE = 15_485_863
"""A prime above any number of customers: steps of this size visit every customer before they repeat one."""

_PAGES = ("/", *("/category/" + c.name.lower().replace(" & ", "-") for c in CATEGORIES), "/cart", "/account", "/help")
_PAGE_WEIGHTS = (34, *(c.weight // 2 for c in CATEGORIES), 7, 5, 3)
_PAGE_OF = {_SEARCH: "/search", _CHECKOUT: "/checkout", _PURCHASE: "/checkout/complete"}
_DEVICES = ("mobile", "desktop", "tablet")
_DEVICE_WEIGHTS = (58, 36, 6)
_REFERRERS = (None, *(f"https://{site}.example.com/" for site in ("search", "social", "mail", "compare", "news")))
_REFERRER_WEIGHTS = (40, 30, 14, 8, 5, 3)
_CAMPAIGNS = (None, "newsletter", "winter-sale", "come-back", "new-arrivals")
_CAMPAIGN_WEIGHTS = (76, 9, 7, 5, 3)

_OUTSIDE = 1 << 62
"""Added to the number of an event, this gives the number of a malformed message. No event has so high a number."""
_WITH_EVENT_ID = len('{"event_id":"6c93ee35-331f702d872afc0f"')
_UNKNOWN_TYPES = (b"wishlist", b"PAGE_VIEW", b"")
_BAD_TIMES = (b"2026-02-30T25:61:00.000Z", b"half past nine", b"")
_IMPOSSIBLE_TIMES = (b"1970-01-01T00:00:00.000Z", b"2099-12-31T23:59:59.999Z")

_ROWS_PER_SLICE = 32_768
_SHORTEST_SLICE, _LONGEST_SLICE = 5 * _SECOND, 10 * _MINUTE


@dataclass(frozen=True)
class ClickstreamPlan:
    """A clickstream, and the requested time window of it.

    Args:
        seed: the seed of every random stream, 0 or more.
        start: first instant of the window, with a time zone, to the millisecond.
        rate: events per second of event time, 0.001 to 10,000; the mean over a whole day. With hours ``even`` the
            rate is the same at any time of day; with hours ``shop`` it is 0.06 times this at 03:00 and 2.2 times at
            20:00. Duplicates and malformed messages come in addition.
        duration: seconds of event time; None means without end.
        scale: determines the customers and products; scale 1 has 10,000 and 1,000.
        hours: ``even`` or ``shop``, see :data:`HOURS`.
        duplicates: share of the events that are sent twice, 0 to 0.2.
        late: share of the events that are sent late, 0 to 0.2.
        malformed: malformed messages as a share of the events, 0 to 0.2, all kinds equally often.
        schema_version: 2 adds the field ``campaign`` to every event. The events are otherwise the same.

    Raises:
        GeneratorError: if a value is invalid; the message says what was expected and what was given.
    """

    seed: int
    start: datetime
    rate: float = 1.0
    duration: float | None = None
    scale: float = 1.0
    hours: str = "even"
    duplicates: float = 0.01
    late: float = 0.01
    malformed: float = 0.002
    schema_version: int = 1

    def __post_init__(self) -> None:
        _ = self.shop  # raises if the seed or the scale is invalid
        if self.start.tzinfo is None:
            raise GeneratorError(
                f"start must have a time zone, got {self.start.isoformat()}", "for example 2026-01-01T09:00:00Z"
            )
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise GeneratorError(
                f"rate must be {MIN_RATE:g} to {MAX_RATE:,.0f} events per second, got {self.rate!r}",
                "1 is a quiet shop; to send a stretch of event time faster, use a speedup",
            )
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration >= 0.001):
            raise GeneratorError(
                f"duration must be at least 0.001 seconds, got {self.duration!r}",
                "for example 600; leave it out to go on until you stop it",
            )
        if not (self.start >= _EARLIEST and self.start.timestamp() + (self.duration or 0) <= _LATEST.timestamp()):
            raise GeneratorError(
                f"event times must lie in the years {_EARLIEST.year} to {_LATEST.year - 1}, got "
                f"{self.start.isoformat()} and {self.duration or 0:,.0f} seconds after it",
                "choose another start, or a shorter duration",
            )
        if self.hours not in HOURS:
            raise GeneratorError(f"hours must be one of {', '.join(HOURS)}, got {self.hours!r}", "even is the default")
        for name in ("duplicates", "late", "malformed"):
            share = getattr(self, name)
            if not 0 <= share <= MAX_SHARE:
                raise GeneratorError(
                    f"{name} must be a share from 0 to {MAX_SHARE:g}, got {share!r}", "0.01 is one event in a hundred"
                )
        if self.schema_version not in (1, 2):
            raise GeneratorError(f"schema_version must be 1 or 2, got {self.schema_version!r}", "2 adds a field")
        # An event's time has milliseconds only. And 1 and 1.0 must give the same plan.
        start = self.start.astimezone(UTC)
        object.__setattr__(self, "start", start.replace(microsecond=start.microsecond // 1_000 * 1_000))
        for name in ("rate", "scale", "duplicates", "late", "malformed"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def shop(self) -> Plan:
        """The shop whose customers and products these are."""
        return Plan(self.seed, self.scale, 0)

    @property
    def start_ms(self) -> int:
        """The first instant, in milliseconds."""
        return (self.start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

    @property
    def end_ms(self) -> int:
        """The first instant after the window, in milliseconds."""
        if self.duration is None:
            return round(_LATEST.timestamp() * 1_000)
        return self.start_ms + round(self.duration * 1_000)

    @property
    def clickstream(self) -> str:
        """The id of the whole clickstream, eight hexadecimal digits; each event_id begins with them."""
        return hashlib.sha256(f"{self.seed}/{self._name}".encode()).hexdigest()[:8]

    def stream(self, *name: str | int) -> Stream:
        """Return the random stream of this name."""
        return Stream(self.seed, "clickstream", self._name, *name)

    def session_ids(self, session: Ints) -> pa.Array:
        """Return the keys of sessions."""
        return joined("S-", _hexadecimal(self.stream("session").words(session)))

    def user_ids(self, customer: Ints, session: Ints) -> pa.Array:
        """Return the keys of users: of a customer, or of a visitor who is known only by this session."""
        anonymous = joined("V-", _hexadecimal(self.stream("visitor").words(session)))
        return pc.if_else(pa.array(customer >= 0), customer_ids(np.maximum(customer, 0)), anonymous)

    @property
    def _name(self) -> str:
        return f"{VERSION}/{self.scale!r}/{self.rate!r}/{self.hours}"


class Message(NamedTuple):
    """A Kafka message, and the time when it is sent."""

    key: bytes | None
    """The user_id; None if the message has none."""
    value: bytes
    """The event as JSON."""
    send_at: int
    """When it is sent, in milliseconds of event time. Messages are sent in this order."""
    kind: str
    """One of :data:`KINDS`."""


@dataclass(frozen=True)
class Rows(Records):
    """Messages as columns."""

    event: Ints
    """Number of the event, unique in the clickstream."""
    session: Ints
    """Number of the session."""
    customer: Ints
    """Number of the customer, -1 for an anonymous visitor."""
    event_ts: Ints
    send_at: Ints
    """When the message is due. A message that is due after the end of the window is sent at its end."""
    event_type: Ints
    product: Ints
    """Number of the product, -1 for none."""
    kind: Ints
    """Position in :data:`KINDS`."""
    of: Ints
    """How many events of this session lie in the window."""

    @property
    def carries_event(self) -> Bools:
        """Which messages carry a valid event for the first time."""
        first: Bools = self.kind <= _LATE
        return first

    @property
    def is_purchase(self) -> Bools:
        """Which messages have the event type purchase."""
        purchase: Bools = self.event_type == _PURCHASE
        return purchase


@dataclass(frozen=True)
class Batch:
    """Messages in the order in which they are sent; each list has one element per message."""

    rows: Rows
    keys: list[bytes | None]
    values: list[bytes]
    send_at: list[int]

    def __len__(self) -> int:
        return len(self.values)

    def messages(self) -> Iterator[Message]:
        """Yield the messages one by one."""
        kinds = [KINDS[kind] for kind in self.rows.kind.tolist()]
        yield from map(Message, self.keys, self.values, self.send_at, kinds)


class Clickstream:
    """The messages of one time window, generated while the caller iterates.

    Iterate over it for single messages, or over :meth:`batches` for many at a time. Each iteration starts at the
    beginning of the window. An iteration must end before the next one begins.

    Example:
        >>> plan = ClickstreamPlan(seed=42, start=datetime(2026, 1, 1, tzinfo=UTC), duration=60, scale=0.1)
        >>> {message.kind for message in Clickstream(plan)} <= set(KINDS)
        True
    """

    def __init__(self, plan: ClickstreamPlan) -> None:
        self.plan = plan
        self._customers = plan.shop.customers
        self._products = Products(plan.shop)
        self._sessions_per_day = plan.rate * 86_400 / EVENTS_PER_SESSION
        self._weights = _hour_weights(plan.hours)
        self._weight_before = np.concatenate([[0.0], np.cumsum(self._weights)])
        # Customers take turns, and a customer's session begins within that customer's turn. The other customers' turns
        # together are long enough for the longest session and the quiet time after it.
        self._turn = -(-(_LONGEST_SESSION + _QUIET) // (self._customers - 1))
        first = Stream(plan.seed, "clickstream", "turns").below(np.array([0]), self._customers)
        self._first_customer = int(first[0])
        self._waiting = self._no_rows()

    def __iter__(self) -> Iterator[Message]:
        for batch in self.batches():
            yield from batch.messages()

    def batches(self) -> Iterator[Batch]:
        """Yield the messages of each slice of event time in order, without the empty slices."""
        plan = self.plan
        step = min(max(int(_ROWS_PER_SLICE / plan.rate * 1_000), _SHORTEST_SLICE), _LONGEST_SLICE)
        self._waiting = self._no_rows()
        since = plan.start_ms - _LONGEST_SESSION
        while since < plan.end_ms:
            until = min(since + step, plan.end_ms)
            rows = self._waiting + self._messages(since, until)
            due = rows.send_at < until
            self._waiting = rows[~due]
            if due.any():
                yield self._batch(rows[due])
            since = until
        held_back, self._waiting = self._waiting, self._no_rows()
        if len(held_back):
            yield self._batch(held_back)

    def rest(self, batch: Batch, sent: int, end: int) -> Batch:
        """Return the messages still to send if the window ends early, after ``sent`` messages of the current batch.

        They are the late messages that are still waiting. With them, exactly the messages of a window that ends at
        ``end`` have been sent.

        Args:
            batch: the latest batch of :meth:`batches`.
            sent: how many of its messages have been sent.
            end: one millisecond after the last sent message, or the start of the window if no message was sent.
        """
        rows = batch.rows[sent:] + self._waiting
        return self._batch(rows[rows.event_ts < end], end)

    def _no_rows(self) -> Rows:
        return Rows(*(np.empty(0, dtype=np.int64) for _ in range(9)))

    # --- sessions --------------------------------------------------------------------------------------------------

    def _begins(self, session: Ints) -> Ints:
        """Return when each session begins. Sessions are numbered in this order, from 1970 on."""
        days = (session + self.plan.stream("begin").unit(session)) / self._sessions_per_day
        day = np.floor(days)
        weight = (days - day) * self._weight_before[-1]
        hour = np.minimum(np.searchsorted(self._weight_before[1:], weight, side="right"), 23)
        of_hour = (weight - self._weight_before[hour]) / self._weights[hour]
        begins: Ints = day.astype(np.int64) * _DAY + hour * _HOUR + (of_hour * _HOUR).astype(np.int64)
        return begins

    def _sessions_before(self, moment: int) -> int:
        """Return how many sessions begin before a moment, to within one."""
        day, of_day = divmod(moment, _DAY)
        hour, of_hour = divmod(of_day, _HOUR)
        weight = self._weight_before[hour] + self._weights[hour] * (of_hour / _HOUR)
        return int((day + weight / self._weight_before[-1]) * self._sessions_per_day)

    def _begun(self, since: int, until: int) -> tuple[Ints, Ints, Ints]:
        """Return number, beginning and customer (-1 if none) of the sessions that begin in a slice of time."""
        number = np.arange(self._sessions_before(since) - 3, self._sessions_before(until) + 4, dtype=np.int64)
        begin = self._begins(number)
        turn = begin // self._turn
        # Only the first session that begins in a customer's turn may belong to this customer.
        may = np.concatenate([[False], turn[1:] != turn[:-1]]) & self.plan.stream("customer").chance(number, _CUSTOMERS)
        customer = (turn % self._customers * _STRIDE + self._first_customer) % self._customers
        inside = (begin >= since) & (begin < until)
        return number[inside], begin[inside], np.where(may, customer, -1)[inside]

    def _events(self, since: int, until: int) -> Rows:
        """Return the events of the sessions that begin in a slice of time, as far as they lie inside the window."""
        stream = self.plan.stream
        number, begin, customer = self._begun(since, until)
        browsed = 1 + stream("browsed").pick(number, _BROWSED)
        events = browsed + _DECIDED_EVENTS[stream("decision").pick(number, _DECISION)]
        idles = stream("idles").chance(number, _IDLES)
        idle_before = np.where(idles, 1 + stream("idle", "where").below(number, np.maximum(events - 1, 1)), 0)
        idle = _SHORTEST_IDLE + stream("idle").below(number, _LONGEST_IDLE - _SHORTEST_IDLE)

        session = np.repeat(np.arange(len(number)), events)
        first = np.cumsum(events) - events
        place = np.arange(len(session)) - first[session]
        event = number[session] * _MOST_EVENTS + place
        thought = heavy_tail(stream("thought").unit(event), _SHORTEST_THOUGHT, _LONGEST_THOUGHT)
        gap = np.where(place == idle_before[session], idle[session], thought)
        gap[first] = 0
        passed = np.cumsum(gap)
        passed -= passed[first][session]
        event_ts = begin[session] + passed

        inside = (passed <= _LONGEST_SESSION) & (event_ts >= self.plan.start_ms) & (event_ts < self.plan.end_ms)
        session, place, event, event_ts = session[inside], place[inside], event[inside], event_ts[inside]
        decided = place - browsed[session]
        browsing = np.where(
            place == 0, stream("first type").pick(event, _FIRST_TYPE), stream("type").pick(event, _LATER_TYPE)
        )
        event_type = np.where(decided < 0, browsing, decided + _PRODUCT_VIEW)
        # Once the visitor has chosen a product, the product stays the same down to the purchase.
        about = np.where(decided < 0, event, event - decided)
        product = np.full(len(event), -1, dtype=np.int64)
        shows = np.flatnonzero(event_type >= _PRODUCT_VIEW)
        for_sale = np.full(len(shows), demand.HISTORY_ENDS, dtype=np.int64)
        product[shows] = self._products.draw(stream("product"), about[shows], for_sale)
        return Rows(
            event=event,
            session=number[session],
            customer=customer[session],
            event_ts=event_ts,
            send_at=event_ts,
            event_type=event_type,
            product=product,
            kind=np.full(len(event), _EVENT, dtype=np.int64),
            of=np.bincount(session, minlength=len(number))[session],
        )

    # --- messages --------------------------------------------------------------------------------------------------

    def _messages(self, since: int, until: int) -> Rows:
        """Return the messages of the sessions that begin in a slice of time, defects included, in any order."""
        plan, events = self.plan, self._events(since, until)
        late = plan.stream("late").chance(events.event, plan.late)
        delay = _SHORTEST_DELAY + plan.stream("delay").below(events.event, _LONGEST_DELAY - _SHORTEST_DELAY)
        sent = replace(
            events,
            send_at=np.where(late, events.event_ts + delay, events.event_ts),
            kind=np.where(late, _LATE, _EVENT),
        )
        twice = sent[plan.stream("duplicate").chance(sent.event, plan.duplicates)]
        after = _SECOND + plan.stream("duplicate", "after").below(twice.event, 9 * _SECOND)
        twice = replace(twice, send_at=twice.send_at + after, kind=np.full(len(twice), _DUPLICATE))
        beside = events[plan.stream("malformed").chance(events.event, plan.malformed)]
        kind = _NOT_JSON + plan.stream("malformed", "kind").below(beside.event, len(MALFORMED))
        number = beside.event + _OUTSIDE
        nobody = np.full(len(beside), -1, dtype=np.int64)
        beside = replace(beside, event=number, session=number, customer=nobody, kind=kind)
        return sent + twice + beside

    def _batch(self, rows: Rows, end: int | None = None) -> Batch:
        """Return rendered messages in the order in which they are sent."""
        rows = rows[np.lexsort((rows.kind, rows.event, rows.send_at))]
        keys, values = self._render(rows)
        due = np.minimum(rows.send_at, self.plan.end_ms if end is None else end)
        return Batch(rows, keys, values, due.tolist())

    def _render(self, rows: Rows) -> tuple[list[bytes | None], list[bytes]]:
        stream, constants = self.plan.stream, _constants(self.plan.schema_version)
        page = np.where(rows.event_type == _PAGE_VIEW, stream("page").pick(rows.event, _PAGE_WEIGHTS), 0)
        device = stream("device").pick(rows.session, _DEVICE_WEIGHTS)
        referrer = stream("referrer").pick(rows.session, _REFERRER_WEIGHTS)
        campaign = stream("campaign").pick(rows.session, _CAMPAIGN_WEIGHTS)
        shown = product_ids(np.maximum(rows.product, 0))
        shows = pa.array(rows.product >= 0)
        on_product_page = pa.array((rows.event_type == _PRODUCT_VIEW) | (rows.event_type == _ADD_TO_CART))
        user = self.plan.user_ids(rows.customer, rows.session)
        values = joined(
            f'{{"event_id":"{self.plan.clickstream}-',
            _hexadecimal(stream("event").words(rows.event)),
            '","user_id":"',
            user,
            '","session_id":"',
            self.plan.session_ids(rows.session),
            take(constants.type_and_page, rows.event_type * len(_PAGES) + page),
            pc.if_else(on_product_page, shown, ""),
            '","product_id":',
            pc.if_else(shows, joined('"', shown, '"'), "null"),
            take(constants.device_and_referrer, device * len(_REFERRERS) + referrer),
            instants(rows.event_ts),
            take(constants.end, campaign),
        )
        keys: list[bytes | None] = [*_bytes(user)]
        texts = _bytes(values)
        for at in np.flatnonzero(rows.kind >= _NOT_JSON).tolist():
            variant = int(stream("malformed", "variant").below(rows.event[at : at + 1], 1 << 30)[0])
            texts[at], has_user = _spoil(texts[at], KINDS[rows.kind[at]], variant)
            keys[at] = keys[at] if has_user else None
        return keys, texts


@dataclass(frozen=True)
class Sessions(Records):
    """The sent part of sessions; each array has one element per session."""

    session: Ints
    customer: Ints
    first: Ints
    """Earliest event_ts."""
    last: Ints
    """Latest event_ts."""
    events: Ints
    step: Ints
    """Furthest position in :data:`FUNNEL`."""
    of: Ints
    """The total number of events of the session in the window."""

    @property
    def converted(self) -> Bools:
        """Which sessions contain a purchase."""
        bought: Bools = self.step == len(FUNNEL) - 1
        return bought


@dataclass
class SessionAccount:
    """Adds up sessions from their messages, and releases each session when it is complete.

    Duplicates and malformed messages do not count.
    """

    _open: Sessions = field(default_factory=lambda: Sessions(*(np.empty(0, dtype=np.int64) for _ in range(7))))

    def add(self, rows: Rows) -> Sessions:
        """Add messages, and return the sessions that these messages complete, ordered by number."""
        rows = rows[rows.carries_event]
        step = np.maximum(rows.event_type - 1, 0)
        ones = np.ones(len(rows), dtype=np.int64)
        parts = self._open + Sessions(
            rows.session, rows.customer, rows.event_ts, rows.event_ts, events=ones, step=step, of=rows.of
        )
        parts = parts[np.argsort(parts.session, kind="stable")]
        if not len(parts):
            return parts
        begins = np.flatnonzero(np.concatenate([[True], parts.session[1:] != parts.session[:-1]]))
        sessions = Sessions(
            session=parts.session[begins],
            customer=parts.customer[begins],
            first=np.minimum.reduceat(parts.first, begins),
            last=np.maximum.reduceat(parts.last, begins),
            events=np.add.reduceat(parts.events, begins),
            step=np.maximum.reduceat(parts.step, begins),
            of=parts.of[begins],
        )
        complete = sessions.events == sessions.of
        self._open = sessions[~complete]
        return sessions[complete]

    def close(self) -> Sessions:
        """Return the sessions that were not complete when the last message was sent."""
        cut, self._open = self._open, self._open[:0]
        return cut


class _Constants(NamedTuple):
    """The parts that many events share, as JSON."""

    type_and_page: pa.Array
    """The element for a type and a page is at ``type * len(_PAGES) + page``; a product's page still needs its id."""
    device_and_referrer: pa.Array
    end: pa.Array
    """One element for each campaign."""


@lru_cache
def _constants(schema_version: int) -> _Constants:
    def path(event_type: int, page: str) -> str:
        if event_type == _PAGE_VIEW:
            return page
        return _PAGE_OF.get(event_type, "/product/")

    type_and_page = [
        f'","event_type":"{name}","page":"{path(event_type, page)}'
        for event_type, name in enumerate(EVENT_TYPES)
        for page in _PAGES
    ]
    device_and_referrer = [
        f',"device":"{device}","referrer":{json.dumps(referrer)},"event_ts":"'
        for device in _DEVICES
        for referrer in _REFERRERS
    ]
    end = [
        f'","schema_version":{schema_version}'
        + (f',"campaign":{json.dumps(campaign)}' if schema_version > 1 else "")
        + "}"
        for campaign in _CAMPAIGNS
    ]
    return _Constants(pa.array(type_and_page), pa.array(device_and_referrer), pa.array(end))


def instant(moment: int) -> str:
    """Return a moment as text, in the format of the events.

    >>> instant(1_767_258_902_481)
    '2026-01-01T09:15:02.481Z'
    """
    return str(instants(np.array([moment]))[0])


def instants(moments: Ints) -> pa.Array:
    """Return moments as text, in the format of the events."""
    text = pa.array(moments).cast(pa.timestamp("ms")).cast(pa.string())
    return joined(pc.binary_replace_slice(text, start=10, stop=11, replacement="T"), "Z")


_HEX_DIGITS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), dtype=np.uint8).reshape(256, 2)


def _hexadecimal(words: Words) -> pa.Array:
    """Return 16 digits for each word. Different numbers of a stream have different words."""
    digits = _HEX_DIGITS[words.astype(">u8").view(np.uint8)]
    ends = np.arange(len(words) + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(ends), pa.py_buffer(digits))


def _bytes(texts: pa.Array) -> list[bytes]:
    listed: list[bytes] = texts.cast(pa.binary()).to_numpy(zero_copy_only=False).tolist()
    return listed


@lru_cache
def _hour_weights(hours: str) -> npt.NDArray[np.float64]:
    """Return how busy each hour of the day is, midnight to midnight."""
    if hours == "even":
        return np.ones(24)
    orders = 1 << 18
    seconds = demand.time_of_day(np.arange(orders, dtype=np.int64), orders, np.zeros(orders, dtype=np.int64))
    return np.bincount(seconds // 3_600, minlength=24).astype(np.float64)


def _spoil(text: bytes, kind: str, variant: int) -> tuple[bytes, bool]:
    """Return an event with a defect, and whether it still has its user_id."""

    def choose(choices: Sequence[bytes]) -> bytes:
        return choices[variant % len(choices)]

    def with_field(name: bytes, value: bytes) -> bytes:
        before, opening, rest = text.partition(b'"%b":"' % name)
        return before + opening + value + rest[rest.index(b'"') :]

    match kind:
        case "not_json":
            # The rest always contains the event_id, so no two cut events are the same.
            return text[: _WITH_EVENT_ID + variant % (len(text) - _WITH_EVENT_ID)], True
        case "not_utf8":
            return text.replace(b'"page":"/', b'"page":"/\xff\xfe', 1), True
        case "missing_field":
            name = choose((b"event_id", b"user_id"))
            before, _, rest = text.partition(b'"%b":"' % name)
            return before + rest[rest.index(b",") + 1 :], name != b"user_id"
        case "unknown_event_type":
            return with_field(b"event_type", choose(_UNKNOWN_TYPES)), True
        case "bad_timestamp":
            return with_field(b"event_ts", choose(_BAD_TIMES)), True
        case _:
            return with_field(b"event_ts", choose(_IMPOSSIBLE_TIMES)), True
