"""The demand over time: customers who sign up, orders per day, orders per hour, promotions.

Times are whole seconds since 1970-01-01 00:00:00 UTC, and curves are whole-number weights. So the arithmetic is exact
on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import accumulate

import numpy as np

from generators.plan import Plan
from generators.random_streams import Ints
from shared import clock

DAY = 86_400
FAR_FUTURE = 1 << 60
"""A moment that never comes."""


def midnight(day: date) -> int:
    """Return the first second of a day.

    >>> midnight(date(1970, 1, 2))
    86400
    """
    return int(datetime.combine(day, time(), UTC).timestamp())


OPENING = midnight(clock.HISTORY_START)
"""The second in which the shop opens and its first customer signs up."""
HISTORY_ENDS = midnight(clock.batch_date(1))
"""First second after the history."""
HISTORY_DAYS = (HISTORY_ENDS - OPENING) // DAY


@dataclass(frozen=True)
class Promotion:
    """A yearly period of days with more orders and higher discounts."""

    name: str
    month: int
    day: int
    days: int
    volume: int
    """Orders in percent of a normal day."""
    discounts: tuple[int, ...]
    """Discounts in percent; six in ten orders get one."""

    def covers(self, day: date) -> bool:
        """Tell whether the promotion runs on this day."""
        first = date(day.year, self.month, self.day)
        return first <= day < first + timedelta(days=self.days)


PROMOTIONS = (
    Promotion("Summer sale", 7, 4, 10, 160, (10, 15, 20)),
    Promotion("Black week", 11, 24, 8, 210, (15, 20, 25, 30)),
)

_WEEKDAY = (98, 94, 93, 95, 102, 118, 122)
"""Orders from Monday to Sunday; people shop at the weekend."""
_SEASON = (88, 86, 92, 95, 97, 95, 90, 88, 97, 103, 116, 136)
"""Orders on the first day of each month; interpolated linearly between them."""
_HOUR = (14, 8, 5, 3, 3, 5, 12, 24, 38, 50, 58, 62, 66, 60, 56, 56, 60, 68, 80, 96, 104, 92, 60, 30)
"""Orders per hour from midnight to midnight: a small peak at lunch, the highest at 20:00."""

_LAUNCH_DAYS = 14
_LAUNCH_SHARE = 40
"""Percentage of the year's customers who sign up in the first two weeks; the others follow evenly."""

_FINE = 1 << 20
"""Steps into which a day or a year is divided."""


def promotion_on(day: date) -> Promotion | None:
    """Return the promotion that runs on a day, if any."""
    return next((p for p in PROMOTIONS if p.covers(day)), None)


def signup_times(positions: Ints, of: int, jitter: Ints) -> Ints:
    """Return when the customers at these positions of ``of`` signed up during the history, ascending.

    The first customer signs up in the first second, so that there is always a customer who can order.

    Args:
        positions: 0 to ``of - 1``.
        of: the number of customers in the historical load.
        jitter: random numbers from 0 to 2**20 - 1, which separate neighbours.
    """
    share = (positions * _FINE + jitter) // of
    launch = _LAUNCH_DAYS * DAY
    knee = _FINE * _LAUNCH_SHARE // 100
    at_launch = share * launch // knee
    later = launch + (share - knee) * (HISTORY_DAYS * DAY - launch) // (_FINE - knee)
    times = OPENING + np.where(share < knee, at_launch, later)
    times[positions == 0] = OPENING
    return times


def signups_on(plan: Plan, day: int) -> int:
    """Return how many customers sign up on an incremental day: as many as on one of the last days of the history."""
    usual = plan.customers * (100 - _LAUNCH_SHARE) // 100 // (HISTORY_DAYS - _LAUNCH_DAYS)
    luck = plan.stream("demand", "signups").below(np.array([day]), 41)
    return max(1, usual * (80 + int(luck[0])) // 100)


def _busyness(plan: Plan, n: int) -> int:
    """Return the relative number of orders on the *n*-th day from the opening on."""
    day = clock.HISTORY_START + timedelta(days=n)
    if n < _LAUNCH_DAYS:
        customers = _LAUNCH_SHARE * (2 * n + 1) * 500 // _LAUNCH_DAYS
    else:
        customers = _LAUNCH_SHARE * 1_000 + (100 - _LAUNCH_SHARE) * 1_000 * (n - _LAUNCH_DAYS) // (
            HISTORY_DAYS - _LAUNCH_DAYS
        )
    this_month, next_month = _SEASON[day.month - 1], _SEASON[day.month % 12]
    season = this_month * (32 - day.day) + next_month * (day.day - 1)
    promotion = promotion_on(day)
    volume = promotion.volume if promotion else 100
    luck = 92 + int(plan.stream("demand", "orders").below(np.array([n]), 17)[0])
    return customers * _WEEKDAY[day.weekday()] * season * volume * luck


@lru_cache(maxsize=8)
def _history(plan: Plan) -> tuple[int, ...]:
    return tuple(_busyness(plan, n) for n in range(HISTORY_DAYS))


def historical_orders(plan: Plan) -> Ints:
    """Return how many orders were placed before each day of the history; the last element counts all orders."""
    weights = _history(plan)
    total = sum(weights)
    # With Python's integers, because the products exceed 64 bits at a large scale.
    return np.array([0, *(plan.orders * w // total for w in accumulate(weights))], dtype=np.int64)


def orders_on(plan: Plan, day: int) -> int:
    """Return how many orders are placed on an incremental day."""
    return max(1, plan.orders * _busyness(plan, HISTORY_DAYS + day - 1) // sum(_history(plan)))


def time_of_day(position: Ints, of: Ints | int, jitter: Ints) -> Ints:
    """Return the second of the day of the orders at these positions of a day's ``of``, ascending.

    Args:
        position: 0 to ``of - 1``, the number of earlier orders on the day.
        of: the number of orders on that day.
        jitter: random numbers from 0 to 2**20 - 1, which separate neighbours.
    """
    weights = np.array(_HOUR, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(weights)])
    share = (position * _FINE + jitter) // of * before[-1]
    hour = np.searchsorted(before[1:] * _FINE, share, side="right")
    second: Ints = hour * 3_600 + (share - before[hour] * _FINE) * 3_600 // (weights[hour] * _FINE)
    return second
