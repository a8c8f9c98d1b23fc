"""AC-005: the sales of a day agree with plain Python to the cent. The tests need the engine, but no table."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

import pytest

from shared import gold
from shared.gold import aggregates

SALES = "gold.daily_sales_summary"
CENT = Decimal("0.01")
DAY = date(2026, 1, 5)
STATUSES = ("pending", "confirmed", "shipped", "delivered", "cancelled", "returned")


class Order(NamedTuple):
    """The columns of ``silver.orders_clean`` from which sales are computed."""

    order_date: date = DAY
    category: str = "Toys"
    customer_id: str | None = "C-1"
    quantity: int = 1
    gross_amount: Decimal = Decimal("10.00")
    discount_amount: Decimal = Decimal("0.00")
    net_amount: Decimal = Decimal("10.00")
    status: str = "delivered"


SCHEMA = (
    "order_date DATE, category STRING, customer_id STRING, quantity INT, gross_amount DECIMAL(12,2), "
    "discount_amount DECIMAL(12,2), net_amount DECIMAL(12,2), status STRING"
)


def worked_out(orders: Iterable[Order]) -> dict[tuple[date, str], tuple]:
    """Return the summary of these orders, computed in plain Python: the other columns by day and category."""
    groups: dict[tuple[date, str], list[Order]] = defaultdict(list)
    for order in orders:
        if order.status not in ("cancelled", "returned"):
            groups[order.order_date, order.category].append(order)
    return {
        key: (
            len(of_it),
            sum(one.quantity for one in of_it),
            sum(one.gross_amount for one in of_it),
            sum(one.discount_amount for one in of_it),
            (net := sum(one.net_amount for one in of_it)),
            len({one.customer_id for one in of_it if one.customer_id is not None}),
            (net / len(of_it)).quantize(CENT, ROUND_HALF_UP),
        )
        for key, of_it in groups.items()
    }


@pytest.fixture(scope="module")
def sales(spark):
    """Returns a function that computes the declared table from orders: the other columns by day and category."""
    definition = gold.TABLES.definition(SALES)

    def computed(orders: Iterable[Order]) -> dict[tuple[date, str], tuple]:
        rows = spark.createDataFrame(list(orders), SCHEMA)
        made = aggregates.finished(aggregates.measured(rows, definition), definition).collect()
        found = {tuple(row)[:2]: tuple(row)[2:] for row in made}
        assert len(found) == len(made), "a day and category has two rows"
        return found

    return computed


def test_daily_revenue_is_what_plain_python_computes(sales):
    chance = random.Random(5)
    orders = []
    for _ in range(3_000):
        gross = Decimal(chance.randint(1, 999_999)) / 100
        discount = (gross * chance.choice((0, 0, 5, 12, 33)) / 100).quantize(CENT, ROUND_HALF_UP)
        buyer = chance.choice((None, *(f"C-{number}" for number in range(40))))
        when, category = DAY + timedelta(days=chance.randrange(60)), chance.choice(("Toys", "Home", "Books"))
        orders.append(
            Order(
                when, category, buyer, chance.randint(1, 9), gross, discount, gross - discount, chance.choice(STATUSES)
            )
        )
    expected = worked_out(orders)
    assert len(expected) > 100
    assert sales(orders) == expected


def test_two_orders_of_the_same_amount_are_two(sales):
    assert sales([Order(), Order(customer_id="C-2")]) == {
        (DAY, "Toys"): (2, 2, Decimal("20.00"), Decimal("0.00"), Decimal("20.00"), 2, Decimal("10.00"))
    }


def test_a_customer_with_two_orders_is_one_and_a_guest_is_none(sales):
    orders = [Order(), Order(), Order(customer_id=None)]
    ((orders_placed, *_, customers, _),) = sales(orders).values()
    assert (orders_placed, customers) == (3, 1)


def test_an_average_is_rounded_half_up(sales):
    amounts = [Decimal("0.01"), Decimal("0.02")]
    orders = [Order(gross_amount=amount, net_amount=amount) for amount in amounts]
    ((*_, average),) = sales(orders).values()
    assert average == Decimal("0.02")


def test_a_day_without_an_order_that_counts_has_no_row(sales):
    assert sales([Order(status="cancelled"), Order(status="returned"), Order(DAY, "Home")]).keys() == {(DAY, "Home")}
