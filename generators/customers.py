"""Customers: they sign up, move, change a phone number, leave and come back.

The historical file has one row per customer, with the customer's state at the end of the history. A quarter of the
customers have changed since they signed up. A daily file has the customers who changed on that day, with the state
after the change, and the new customers. One change in twenty happened in two steps on the same day, and has two rows.

An attribute is a function of the customer's number and of a version. Version 0 is the state at sign-up, and each change
adds two. A ``late_update`` delivers the skipped version: a state between two known ones, delivered after both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from generators import demand
from generators.defects import Flaws, early_orders, rows_per_kind
from generators.landing import (
    Batch,
    Records,
    csv_lines,
    dates,
    flags,
    identifiers,
    joined,
    null_where,
    timestamps,
    whole_numbers,
)
from generators.plan import Plan
from generators.pools import COUNTRIES, FIRST_NAMES, LAST_NAMES, PLACES, STREETS, load_pools, take
from generators.random_streams import Bools, Ints, Lottery, Stream, heavy_tail
from shared import clock

TABLE = "customers"
COLUMNS = (
    "customer_id",
    "first_name",
    "last_name",
    "email",
    "phone",
    "address",
    "city",
    "state",
    "postal_code",
    "country",
    "segment",
    "signup_date",
    "is_deleted",
    "updated_at",
)

Versions = npt.NDArray[np.int16]

EMAIL, PHONE, HOME, SEGMENT, NAME = range(5)
"""The attributes that can change. A move changes address, city, state and postal code together. The name is an
untracked column."""
_CHANGE_WEIGHTS = (25, 20, 30, 15, 10)

_DOMAINS = ("example.com", "example.net", "example.org", "mail.example.com", "post.example.net", "box.example.org")
_SEGMENTS = ("Consumer", "Small Business", "Corporate", None)
_SEGMENT_WEIGHTS = (68, 19, 10, 3)
_NO_PHONE_EVERY, _NO_ADDRESS_EVERY = 20, 30
"""One customer in 20 has no phone number, and one in 30 has no address."""

_CHANGED_IN_HISTORY = 0.25
_CHANGED_PER_DAY = 0.02
_TWICE_A_DAY = 0.05
_LEAVES_INSTEAD = 0.05
"""Share of a day's changes that close the account."""
_COMES_BACK = 0.2
"""Share of the closed accounts that are reopened on a day."""

_NEVER_ORDERS = 0.2
_FEWEST_TICKETS, _MOST_TICKETS = 4, 100
_ORDERS_PER_LATECOMER = 4


def customer_ids(numbers: Ints) -> pa.Array:
    """Return the keys of customers."""
    return identifiers("C-", 8, numbers + 1)


@dataclass(frozen=True)
class Rows(Records):
    """Rows of a customers file."""

    customer: Ints
    """Number of the customer; 0 is ``C-00000001``."""
    version: Versions
    """The version of each attribute that can change: ``version[EMAIL]`` and so on."""
    deleted: Bools
    updated_at: Ints


class Customers:
    """All customers at the end of a day, from the end of the history on. Each array has one element per customer.

    Attributes:
        day: the incremental day, 0 for the historical load.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.day = 0
        everyone = np.arange(plan.customers, dtype=np.int64)
        jitter = self._stream("signup").below(everyone, 1 << 20)
        self._signed_up = demand.signup_times(everyone, plan.customers, jitter)
        # The time from which an ordinary order may name the customer. For a latecomer this is the day of the batch
        # that delivers the customer.
        self._known_from = self._signed_up
        self._version = np.zeros((len(_CHANGE_WEIGHTS), plan.customers), dtype=np.int16)
        self._deleted = np.zeros(plan.customers, dtype=bool)
        self._updated_at = self._signed_up.copy()
        self._tickets = self._tickets_of(everyone)
        # Customers whose account is closed at the beginning or at the end of the day. They place no order on that day.
        self._away = self._deleted

        lifetime = demand.HISTORY_ENDS - self._signed_up
        changes = self._stream("history", "changes").chance(everyone, _CHANGED_IN_HISTORY)
        changed = np.flatnonzero(changes & (lifetime > demand.DAY))
        what = self._stream("history", "what").pick(changed, _CHANGE_WEIGHTS)
        after = 1 + self._stream("history", "when").below(changed, lifetime[changed] - 1)
        self._version[what, changed] = 2
        self._updated_at[changed] += after

        self._rows = Rows(everyone, self._version, self._deleted, self._updated_at)
        self._late = self._rows[:0]
        self._changes = (changed, what, self._signed_up[changed])
        self._open_the_shop()

    def next_day(self) -> None:
        """Advance to the next day: changes, closed accounts, returns and new customers."""
        missed = self._missed_updates()
        self.day += 1
        stream = self._stream("day", self.day)
        today = demand.midnight(clock.batch_date(self.day))
        known = len(self._signed_up)
        was_deleted = self._deleted.copy()

        chosen = stream.sample(range(known), max(1, round(known * _CHANGED_PER_DAY)))
        chosen = chosen[~was_deleted[chosen]]
        # The first customer never leaves, so that at any scale at least one customer can order.
        leaves = stream.named("leaves").chance(chosen, _LEAVES_INSTEAD) & (chosen > 0)
        leaving, changed = chosen[leaves], chosen[~leaves]
        closed = np.flatnonzero(was_deleted)
        returning = closed[stream.named("returns").chance(closed, _COMES_BACK)]
        self._deleted[leaving] = True
        self._deleted[returning] = False

        what = stream.named("what").pick(changed, _CHANGE_WEIGHTS)
        updated_before = self._updated_at[changed]
        self._version[what, changed] += 2
        touched = np.sort(np.concatenate([changed, leaving, returning]))
        self._updated_at[touched] = today + 1 + stream.named("when").below(touched, demand.DAY - 1)
        twice = stream.named("twice").chance(changed, _TWICE_A_DAY)
        halfway = self._halfway(changed[twice], what[twice], np.full(int(twice.sum()), today - 1), stream)
        self._changes = (changed[~twice], what[~twice], updated_before[~twice])

        signups = np.arange(demand.signups_on(self.plan, self.day), dtype=np.int64)
        signups = today + np.sort(stream.named("signup").below(signups, demand.DAY))
        self._add(self._latecomers, known_from=np.full(len(self._latecomers), today))
        self._add(signups, known_from=signups)
        self._away = self._deleted.copy()
        self._away[:known] |= was_deleted
        self._open_the_shop()

        added = np.arange(known, len(self._signed_up), dtype=np.int64)
        rows = halfway + self._as_they_are(np.concatenate([touched, added]))
        self._rows = rows[np.argsort(rows.customer, kind="stable")]
        late = rows_per_kind(self.plan, TABLE, self.day, len(self._rows))
        self._late = missed[stream.named("late").sample(range(len(missed)), late)]

    def batch(self) -> Batch:
        """Return the batch of the day. It must be written before :meth:`next_day` is called again."""
        rows = self._rows
        orders = self._tickets[rows.customer] > 0
        flaws = Flaws.choose(
            TABLE,
            COLUMNS,
            self._stream("defects", self.day),
            rows_per_kind(self.plan, TABLE, self.day, len(rows)),
            spoilable=np.flatnonzero(~orders),
            doublable=np.flatnonzero(orders),
        )
        return Batch(
            table=TABLE,
            columns=COLUMNS,
            rows=len(rows),
            lines=lambda start, stop: self._lines(rows[start:stop]),
            flaws=flaws,
            late=self._lines(self._late),
        )

    def draw(self, stream: Stream, orders: Ints, placed_at: Ints) -> Ints:
        """Return the customer of each order: a known customer with an open account, frequent buyers more often."""
        members = np.searchsorted(self._known_from, placed_at, side="right")
        return self._lottery.draw(stream, orders, members, lambda customer, _: ~self._away[customer])

    def draw_latecomer(self, stream: Stream, orders: Ints, placed_at: Ints) -> Ints:
        """Return the customer of each early-arriving order: one who has signed up and is in the next batch."""
        members = np.searchsorted(self._latecomers, placed_at, side="right")
        return len(self._signed_up) + stream.below(orders, members)

    def _stream(self, *name: str | int) -> Stream:
        return self.plan.stream(TABLE, *name)

    def _tickets_of(self, customers: Ints) -> Ints:
        tickets = heavy_tail(self._stream("tickets").unit(customers), _FEWEST_TICKETS, _MOST_TICKETS)
        tickets[self._stream("orders").chance(customers, _NEVER_ORDERS) & (customers > 0)] = 0
        return tickets

    def _open_the_shop(self) -> None:
        """Prepare the draws of this day's orders."""
        self._lottery = Lottery(self._tickets)
        latecomers = -(-early_orders(self.plan, self.day) // _ORDERS_PER_LATECOMER)
        until = demand.midnight(clock.batch_date(self.day + 1))
        since = demand.OPENING if self.day == 0 else until - demand.DAY
        self._latecomers = since + (until - since) * np.arange(latecomers, dtype=np.int64) // max(1, latecomers)

    def _add(self, signed_up: Ints, known_from: Ints) -> None:
        """Add customers. Those who become known only after their sign-up have already ordered, so they get tickets."""
        customers = len(self._signed_up) + np.arange(len(signed_up), dtype=np.int64)
        tickets = self._tickets_of(customers)
        tickets[(known_from > signed_up) & (tickets == 0)] = _FEWEST_TICKETS
        self._tickets = np.concatenate([self._tickets, tickets])
        self._signed_up = np.concatenate([self._signed_up, signed_up])
        self._known_from = np.concatenate([self._known_from, known_from])
        self._updated_at = np.concatenate([self._updated_at, signed_up])
        self._deleted = np.concatenate([self._deleted, np.zeros(len(signed_up), dtype=bool)])
        self._version = np.pad(self._version, ((0, 0), (0, len(signed_up))))

    def _as_they_are(self, customers: Ints) -> Rows:
        return Rows(customers, self._version[:, customers], self._deleted[customers], self._updated_at[customers])

    def _halfway(self, customers: Ints, what: Ints, since: Ints, stream: Stream) -> Rows:
        """Return the customers in a state between two known ones: after ``since`` and before their last update."""
        rows = self._as_they_are(customers)
        rows.version[what, np.arange(len(customers))] -= 1
        between = stream.named("halfway").below(customers, rows.updated_at - since - 1)
        return replace(rows, updated_at=since + 1 + between)

    def _missed_updates(self) -> Rows:
        """Return the updates that could still arrive late: each lies between two delivered states."""
        customers, what, since = self._changes
        fit = (self._tickets[customers] > 0) & (self._updated_at[customers] - since > 1)
        return self._halfway(customers[fit], what[fit], since[fit], self._stream("late", self.day))

    def _lines(self, rows: Rows) -> pa.Array:
        """Render rows as CSV lines."""
        pools, who, version = load_pools(), rows.customer, rows.version.astype(np.int64)
        country = self._stream("country").pick(who, [c.weight for c in COUNTRIES])

        def cycle(name: str, version_of: int, size: int, step: int = 1) -> Ints:
            """Return a position below ``size`` that differs between neighbouring versions."""
            position: Ints = (self._stream(name).below(who, size) + version[version_of] * step) % size
            return position

        first_name = country * FIRST_NAMES + self._stream("first name").below(who, FIRST_NAMES)
        last_name = country * LAST_NAMES + cycle("last name", NAME, LAST_NAMES)
        name_at_signup = country * LAST_NAMES + self._stream("last name").below(who, LAST_NAMES)
        place = country * PLACES + cycle("place", HOME, PLACES)
        street = country * STREETS + cycle("street", HOME, STREETS, step=7)
        house = 1 + cycle("house", HOME, 160, step=11)
        digits = 100_000_000 + cycle("phone", PHONE, 900_000_000, step=123_456_789)
        domain = cycle("domain", EMAIL, len(_DOMAINS))
        segment = (self._stream("segment").pick(who, _SEGMENT_WEIGHTS) + version[SEGMENT]) % len(_SEGMENTS)
        no_address = pa.array(cycle("no address", HOME, _NO_ADDRESS_EVERY) == 0)
        no_phone = pa.array(cycle("no phone", PHONE, _NO_PHONE_EVERY) == 0)

        email = joined(
            take(pools.first_in_email, first_name),
            ".",
            take(pools.last_in_email, name_at_signup),
            ".",
            whole_numbers(who + 1),
            "@",
            take(pa.array(_DOMAINS), domain),
        )
        phone = joined(take(pools.calling_code, country), " ", whole_numbers(digits))
        address = joined(
            take(pools.street_before_number, street), whole_numbers(house), take(pools.street_after_number, street)
        )
        return csv_lines(
            [
                customer_ids(who),
                take(pools.first_name, first_name),
                take(pools.last_name, last_name),
                email,
                null_where(no_phone, phone),
                null_where(no_address, address),
                null_where(no_address, take(pools.city, place)),
                null_where(no_address, take(pools.state, place)),
                null_where(no_address, take(pools.postal_code, place)),
                take(pools.country, country),
                take(pa.array(_SEGMENTS), segment),
                dates(self._signed_up[who]),
                flags(rows.deleted),
                timestamps(rows.updated_at),
            ]
        )
