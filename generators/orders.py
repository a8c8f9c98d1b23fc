"""Orders: who buys what and when, and what becomes of it.

The historical file has each order once, with its status at the end of the history. A daily file has the orders
whose status changed on that day, with the last status of the day, and those that are new.

Everything about an order follows from its number, so any stretch of orders can be made by itself. The daily
files need only the orders that are still on their way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from generators import demand
from generators.customers import Customers, customer_ids
from generators.defects import Flaws, early_orders, rows_per_kind
from generators.landing import ROWS_PER_CHUNK, Batch, Records, csv_lines, identifiers, money, timestamps, whole_numbers
from generators.plan import Plan
from generators.pools import take
from generators.products import Products, product_ids
from generators.random_streams import Bools, Ints, Stream
from shared import clock

TABLE = "orders"
COLUMNS = (
    "order_id",
    "customer_id",
    "product_id",
    "order_ts",
    "quantity",
    "unit_price",
    "discount_pct",
    "status",
    "payment_method",
    "updated_at",
)

_LIVES = (
    (86, ("pending", "confirmed", "shipped", "delivered")),
    (6, ("pending", "confirmed", "shipped", "delivered", "returned")),
    (4, ("pending", "cancelled")),
    (4, ("pending", "confirmed", "cancelled")),
)
"""How many orders in a hundred go through which statuses."""
_STEPS = max(len(statuses) for _, statuses in _LIVES)
_STATUS_OF = pa.array([status for _, statuses in _LIVES for status in (*statuses, *[None] * (_STEPS - len(statuses)))])
"""Status of a step of a life, at ``life * _STEPS + step``."""
_HOUR = 3_600
_WAIT = ((_HOUR // 12, 10 * _HOUR), (4 * _HOUR, 50 * _HOUR), (20 * _HOUR, 120 * _HOUR), (48 * _HOUR, 336 * _HOUR))
"""Seconds from each status to the next, at least and at most."""
_LONGEST_LIFE = sum(longest for _, longest in _WAIT)

_QUANTITY_WEIGHTS = (64, 20, 8, 5, 3)
_PAYMENT_METHODS = ("card", "paypal", "bank_transfer", "gift_card")
_PAYMENT_WEIGHTS = (58, 27, 10, 5)
_COUPON_SHARE, _COUPONS = 0.08, (5, 10)
"""Outside promotions few orders have a discount, and a small one."""
_PROMOTION_SHARE = 0.6

_EARLY, _SPOILED, _DOUBLED = range(3)
"""Orders are dealt by their number to three families of defects, so that no two defects meet."""
_FAMILIES = 3


def order_ids(numbers: Ints) -> pa.Array:
    """Return the keys of orders."""
    return identifiers("O-", 9, numbers + 1)


@dataclass(frozen=True)
class Rows(Records):
    """Orders."""

    order: Ints
    """Number of the order; 0 is ``O-000000001``."""
    customer: Ints
    product: Ints
    cents: Ints
    quantity: Ints
    discount: Ints
    payment: Ints
    life: Ints
    """Index into the lives that an order can have."""
    reached: Ints
    """When each step of the life is reached; ``reached[0]`` is when the order is placed."""

    def step_before(self, moment: int) -> Ints:
        """Return the step that each order has reached before a moment, -1 if it is not placed yet."""
        reached: Ints = np.count_nonzero(self.reached < moment, axis=0)
        return reached - 1

    def reached_at(self, step: Ints) -> Ints:
        """Return when each order reaches its step."""
        when: Ints = self.reached[step, np.arange(len(self))]
        return when

    def over_before(self, moment: int) -> Bools:
        """Tell which orders have reached their last step before a moment."""
        to_come = (self.reached >= moment) & (self.reached < demand.FAR_FUTURE)
        over: Bools = np.count_nonzero(to_come, axis=0) == 0
        return over


class Orders:
    """All orders at the end of a day, from the end of the history on.

    Args:
        plan: what to generate.
        customers: those of the same day; they go on to the next day before the orders do.
        products: likewise.

    Attributes:
        day: the incremental day, 0 for the historical load.
    """

    def __init__(self, plan: Plan, customers: Customers, products: Products) -> None:
        self.plan = plan
        self.day = 0
        self._customers = customers
        self._products = products
        self._placed_before = demand.historical_orders(plan)
        """Orders before each day from the opening on; the last element is all of them."""
        self._choose_early(0)
        self._moving = self._moving_since(demand.HISTORY_ENDS - demand.DAY)
        """Orders that had a step to come when yesterday began: the ones that daily files are about."""
        self._rows = self._moving[:0]
        self._late = pa.array([], pa.string())

    def next_day(self) -> None:
        """Go on to the next day: new orders, and the next step of those on their way."""
        missed, missed_step, missed_at = self._missed_updates()
        self.day += 1
        stream = self._stream("day", self.day)
        today = demand.midnight(clock.batch_date(self.day))
        placed = int(self._placed_before[-1])
        self._placed_before = np.append(self._placed_before, placed + demand.orders_on(self.plan, self.day))
        self._choose_early(placed)

        on_their_way = self._moving[~self._moving.over_before(today)]
        self._moving = on_their_way + self._place(placed, int(self._placed_before[-1]))
        moved = self._moving.step_before(today) < self._moving.step_before(today + demand.DAY)
        self._rows = self._moving[moved]

        late = rows_per_kind(self.plan, TABLE, self.day, len(self._rows))
        picked = stream.named("late").sample(range(len(missed)), late)
        self._late = self._lines(missed[picked], missed_step[picked], missed_at[picked])

    def batch(self) -> Batch:
        """Return what is delivered at the end of the day; to be written before the next day begins."""
        history = self.day == 0
        rows = self.plan.orders if history else len(self._rows)

        def members(family: int) -> range | Ints:
            """Return the positions in the batch of a family's orders; in the history a position is a number."""
            return _members(family, 0, rows) if history else np.flatnonzero(self._rows.order % _FAMILIES == family)

        flaws = Flaws.choose(
            TABLE,
            COLUMNS,
            self._stream("defects", self.day),
            rows_per_kind(self.plan, TABLE, self.day, rows),
            spoilable=members(_SPOILED),
            doublable=members(_DOUBLED),
        )
        return Batch(
            table=TABLE,
            columns=COLUMNS,
            rows=rows,
            lines=self._historical_lines if history else self._daily_lines,
            flaws=flaws,
            late=self._late,
            early=len(self._early),
        )

    def _stream(self, *name: str | int) -> Stream:
        return self.plan.stream(TABLE, *name)

    def _choose_early(self, first: int) -> None:
        """Choose the early-arriving orders among those of this day, the first of which is given."""
        members = _members(_EARLY, first, int(self._placed_before[-1]))
        stream = self._stream("defects", "early", self.day)
        self._early = stream.sample(members, early_orders(self.plan, self.day))

    def _moving_since(self, moment: int) -> Rows:
        """Return the historical orders that are not over before a moment."""
        first_day = max(0, (moment - _LONGEST_LIFE - demand.OPENING) // demand.DAY)
        first, stop = int(self._placed_before[first_day]), self.plan.orders
        moving = self._place(first, first)
        for start in range(first, stop, ROWS_PER_CHUNK):
            rows = self._place(start, min(start + ROWS_PER_CHUNK, stop))
            moving += rows[~rows.over_before(moment)]
        return moving

    def _place(self, first: int, stop: int) -> Rows:
        """Return the orders with these numbers, each with its whole life."""
        order = np.arange(first, stop, dtype=np.int64)
        day = np.searchsorted(self._placed_before, order, side="right") - 1
        before = self._placed_before[day]
        jitter = self._stream("second").below(order, 1 << 20)
        second = demand.time_of_day(order - before, self._placed_before[day + 1] - before, jitter)
        placed_at = demand.OPENING + day * demand.DAY + second

        customer = self._customers.draw(self._stream("customer"), order, placed_at)
        early = self._early[slice(*np.searchsorted(self._early, [first, stop]))] - first
        customer[early] = self._customers.draw_latecomer(self._stream("latecomer"), order[early], placed_at[early])
        product = self._products.draw(self._stream("product"), order, placed_at)

        life = self._stream("life").pick(order, [weight for weight, _ in _LIVES])
        steps = np.array([len(statuses) for _, statuses in _LIVES])[life]
        reached = np.empty((_STEPS, len(order)), dtype=np.int64)
        reached[0] = placed_at
        for step, (least, most) in enumerate(_WAIT, start=1):
            wait = least + self._stream("wait", step).below(order, most - least)
            reached[step] = np.where(step < steps, reached[step - 1] + wait, demand.FAR_FUTURE)

        return Rows(
            order=order,
            customer=customer,
            product=product,
            cents=self._products.price_at(product, placed_at),
            quantity=1 + self._stream("quantity").pick(order, _QUANTITY_WEIGHTS),
            discount=self._discount(order, day),
            payment=self._stream("payment").pick(order, _PAYMENT_WEIGHTS),
            life=life,
            reached=reached,
        )

    def _discount(self, order: Ints, day: Ints) -> Ints:
        """Return the discount in per cent; days are counted from the opening."""
        luck, which = self._stream("has discount").unit(order), self._stream("discount")
        discount = np.where(luck <= _COUPON_SHARE, np.array(_COUPONS)[which.below(order, len(_COUPONS))], 0)
        calendar = [clock.HISTORY_START + timedelta(days=n) for n in range(len(self._placed_before))]
        for promotion in demand.PROMOTIONS:
            running = np.array([promotion.covers(date) for date in calendar])[day]
            percent = np.array(promotion.discounts)[which.below(order, len(promotion.discounts))]
            discount = np.where(running & (luck <= _PROMOTION_SHARE), percent, discount)
        return discount

    def _missed_updates(self) -> tuple[Rows, Ints, Ints]:
        """Return the orders that moved today and for which an update of before could still arrive late.

        With them the step they were at, and a moment between that step and the one that was delivered.
        """
        tomorrow = demand.midnight(clock.batch_date(self.day + 1))
        step = self._moving.step_before(tomorrow)
        reached = self._moving.reached_at(step)
        since = self._moving.reached_at(np.maximum(step - 1, 0))
        fit = (step > 0) & (reached >= tomorrow - demand.DAY) & (reached - since > 1)
        fit &= self._moving.order % _FAMILIES == _DOUBLED
        missed, since, reached = self._moving[fit], since[fit], reached[fit]
        between = since + 1 + self._stream("late", self.day).below(missed.order, reached - since - 1)
        return missed, step[fit] - 1, between

    def _historical_lines(self, start: int, stop: int) -> pa.Array:
        rows = self._place(start, stop)
        return self._lines_before(rows, demand.HISTORY_ENDS)

    def _daily_lines(self, start: int, stop: int) -> pa.Array:
        return self._lines_before(self._rows[start:stop], demand.midnight(clock.batch_date(self.day + 1)))

    def _lines_before(self, rows: Rows, moment: int) -> pa.Array:
        step = rows.step_before(moment)
        return self._lines(rows, step, rows.reached_at(step))

    def _lines(self, rows: Rows, step: Ints, updated_at: Ints) -> pa.Array:
        """Render orders, at these steps of their lives, as CSV lines."""
        return csv_lines(
            [
                order_ids(rows.order),
                customer_ids(rows.customer),
                product_ids(rows.product),
                timestamps(rows.reached[0]),
                whole_numbers(rows.quantity),
                money(rows.cents),
                whole_numbers(rows.discount),
                take(_STATUS_OF, rows.life * _STEPS + step),
                take(pa.array(_PAYMENT_METHODS), rows.payment),
                timestamps(updated_at),
            ]
        )


def _members(family: int, first: int, stop: int) -> range:
    """Return the order numbers of a family of defects from ``first`` up to ``stop``."""
    return range(first + (family - first) % _FAMILIES, stop, _FAMILIES)
