"""The independent calculation of gold, on deliveries small enough to work out by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from oracles import duckdb_gold

from shared.bronze.contracts import SOURCES

BANDS = [("High", Decimal("100")), ("Medium", Decimal("50.00")), ("Low", None)]

PRODUCT = {
    "product_id": "P-1",
    "product_name": "Cup",
    "category": "Home",
    "brand": "Acme",
    "list_price": "10.00",
    "is_active": "true",
    "updated_at": "2025-12-01 00:00:00",
}
ORDER = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "product_id": "P-1",
    "order_ts": "2026-01-01 10:00:00",
    "quantity": "1",
    "unit_price": "10.00",
    "discount_pct": "0",
    "status": "delivered",
    "payment_method": "card",
    "updated_at": "2026-01-01 12:00:00",
}


class Shop:
    """A landing volume to which lines are delivered; at first it has one product."""

    def __init__(self, raw):
        self.raw = raw
        self.products({})

    def products(self, *changes, day=1, file="products.csv"):
        self.lines("products", *(",".join({**PRODUCT, **change}.values()) for change in changes), day=day, file=file)

    def orders(self, *changes, day=1, file="orders.csv"):
        self.lines("orders", *(",".join({**ORDER, **change}.values()) for change in changes), day=day, file=file)

    def lines(self, source, *lines, day=1, file):
        self.text(source, "\n".join([",".join(SOURCES[source].column_names), *lines, ""]), day=day, file=file)

    def text(self, source, text, day=1, file="orders.csv"):
        path = self.raw / source / f"2026-01-{day:02}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())

    def gold(self, bands=BANDS):
        tables = duckdb_gold.gold(self.raw, bands)
        return {name: [tuple(row.values()) for row in table.to_pylist()] for name, table in tables.items()}

    def daily(self):
        return self.gold()["daily_sales_summary"]

    def units(self):
        """Return the units of all orders that count; they show which state of an order was used."""
        return sum(row[2] for row in self.gold()["product_performance"])


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path / "raw")


def test_every_figure_of_a_small_shop(shop):
    shop.products(
        {},
        {"product_id": "P-2"},
        {"product_id": "P-3", "category": "Toys"},
        {"product_id": "P-4"},
        {"product_id": "P-5"},
    )
    shop.orders(
        {"order_id": "O-1", "quantity": "2", "discount_pct": "12.5"},  # 20.00, of which 2.50 off
        {"order_id": "O-2", "unit_price": "10.02"},  # the same customer on the same day
        {"order_id": "O-3", "customer_id": "C-2", "unit_price": "50.00", "product_id": "P-3", "status": "pending"},
        {"order_id": "O-4", "customer_id": "C-3", "unit_price": "27.52", "product_id": "P-2"},
        {"order_id": "O-5", "customer_id": "C-3", "unit_price": "5.00", "product_id": "P-4", "order_ts": "2026-01-02"},
        {"order_id": "O-6", "customer_id": "C-4", "quantity": "10", "product_id": "P-5"},
    )
    first, second = date(2026, 1, 1), date(2026, 1, 2)
    assert shop.gold() == {
        "daily_sales_summary": [
            # orders, units, gross, discount, net, customers, average: 155.04 / 4
            (first, "Home", 4, 14, money("157.54"), money("2.50"), money("155.04"), 3, money("38.76")),
            (first, "Toys", 1, 1, money("50.00"), money("0.00"), money("50.00"), 1, money("50.00")),
            (second, "Home", 1, 1, money("5.00"), money("0.00"), money("5.00"), 1, money("5.00")),
        ],
        "customer_ltv": [
            ("C-1", 2, first, first, money("27.52"), "Low"),
            ("C-2", 1, first, first, money("50.00"), "Medium"),
            ("C-3", 2, first, second, money("32.52"), "Low"),
            ("C-4", 1, first, first, money("100.00"), "High"),
        ],
        "product_performance": [
            # P-1 and P-2 share the second place of their category, so no product has the third place.
            ("P-1", "Home", 3, money("27.52"), 2),
            ("P-2", "Home", 1, money("27.52"), 2),
            ("P-3", "Toys", 1, money("50.00"), 1),
            ("P-4", "Home", 1, money("5.00"), 4),
            ("P-5", "Home", 10, money("100.00"), 1),
        ],
    }


def money(text):
    return Decimal(text)


def test_the_columns_have_the_types_of_the_gold_tables(shop):
    shop.orders({})
    tables = duckdb_gold.gold(shop.raw, BANDS)
    assert {name: [f"{field.name} {field.type}" for field in table.schema] for name, table in tables.items()} == {
        "daily_sales_summary": [
            "order_date date32[day]", "category string", "orders int64", "units int64",
            "gross_revenue decimal128(18, 2)", "discount decimal128(18, 2)", "net_revenue decimal128(18, 2)",
            "customers int64", "average_order_value decimal128(12, 2)",
        ],
        "customer_ltv": [
            "customer_id string", "orders int64", "first_order_date date32[day]", "last_order_date date32[day]",
            "lifetime_value decimal128(18, 2)", "segment string",
        ],
        "product_performance": [
            "product_id string", "category string", "units_sold int64", "revenue decimal128(18, 2)",
            "category_rank int32",
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("price", "discount", "net"),
    [
        ("1.10", "5", "1.05"),  # 1.045: half even is 1.04
        ("1.01", "50", "0.51"),  # 0.505
        ("1.15", "10", "1.04"),  # 1.035: as doubles, a little less
        ("1.00", "0.51", "0.99"),  # 0.9949
        ("1.00", "0.5", "1.00"),  # 0.995
        ("0.01", "100", "0.00"),
    ],
)
def test_half_a_cent_is_rounded_up(shop, price, discount, net):
    shop.orders({"unit_price": price, "discount_pct": discount})
    ((*_, gross, off, revenue, _, _),) = shop.daily()
    assert (gross, off, revenue) == (money(price), money(price) - money(net), money(net))


def test_each_order_is_rounded_not_their_sum(shop):
    shop.orders(*({"order_id": f"O-{n}", "unit_price": "1.10", "discount_pct": "5"} for n in range(2)))
    assert [row[6] for row in shop.daily()] == [money("2.10")]


def test_an_average_of_half_a_cent_is_rounded_up(shop):
    shop.orders({"order_id": "O-1", "unit_price": "1.00"}, {"order_id": "O-2", "unit_price": "1.01"})
    assert [row[8] for row in shop.daily()] == [money("1.01")]  # 1.005, as a double a little less


def test_the_latest_state_of_an_order_counts(shop):
    shop.orders({})
    shop.orders({"quantity": "2", "updated_at": "2026-01-02 12:00:00"}, day=2)
    assert shop.units() == 2


def test_a_late_update_changes_nothing(shop):
    shop.orders({})
    shop.orders({"status": "cancelled", "updated_at": "2026-01-01 11:59:59"}, day=2)
    assert shop.units() == 1


@pytest.mark.parametrize("status", ["cancelled", "returned"])
def test_a_cancelled_or_returned_order_leaves_no_row(shop, status):
    shop.orders({})
    shop.orders({"status": status, "updated_at": "2026-01-02 12:00:00"}, day=2)
    assert shop.gold() == {"daily_sales_summary": [], "customer_ltv": [], "product_performance": []}


@pytest.mark.parametrize("status", ["pending", "confirmed", "shipped", "delivered"])
def test_every_other_status_counts(shop, status):
    shop.orders({"status": status})
    assert shop.units() == 1


def test_of_a_tie_the_latest_arrival_counts(shop):
    shop.orders({"quantity": "9"})
    shop.orders({"quantity": "1"}, day=2)
    assert shop.units() == 1


def test_of_a_tie_in_one_batch_the_last_file_counts(shop):
    shop.orders({"quantity": "9"}, file="a.csv")
    shop.orders({"quantity": "1"}, file="b.csv")
    assert shop.units() == 1


@pytest.mark.parametrize("quantities", [("9", "10"), ("10", "9")])
def test_of_a_tie_in_one_file_the_greatest_payload_counts_column_by_column(shop, quantities):
    prices = {"9": "99.00", "10": "1.00"}
    shop.orders(*({"quantity": quantity, "unit_price": prices[quantity]} for quantity in quantities))
    assert shop.units() == 10  # as a number, and before the price


@pytest.mark.parametrize("names", [("", "Cup"), ("Cup", "")])
def test_null_is_the_least_of_a_payload(shop, names):
    category = {"": "Unnamed", "Cup": "Home"}
    shop.products(*({"product_name": name, "category": category[name]} for name in names))
    shop.orders({})
    assert [row[1] for row in shop.daily()] == ["Home"]


def test_duplicates_and_redelivered_files_count_once(shop):
    shop.orders({}, {})
    shop.orders({}, {}, day=2, file="orders_resent.csv")
    assert shop.units() == 1


def test_a_redelivered_file_does_not_win_a_tie(shop):
    shop.orders({"quantity": "9"})
    shop.orders({"quantity": "1"}, day=2)
    shop.orders({"quantity": "9"}, day=3, file="orders_resent.csv")
    assert shop.units() == 1


def test_a_product_that_moves_takes_its_past_orders_along(shop):
    shop.products({"product_id": "P-2", "category": "Toys"}, day=2)
    shop.orders({}, {"order_id": "O-2", "product_id": "P-2", "unit_price": "30.00"})
    assert [row[1::3] for row in shop.gold()["product_performance"]] == [("Home", 1), ("Toys", 1)]
    shop.products({"category": "Toys", "updated_at": "2026-01-03 00:00:00"}, day=3)
    shop.products({"category": "Late", "updated_at": "2026-01-02 00:00:00"}, day=4)
    gold = shop.gold()
    assert [row[1::3] for row in gold["product_performance"]] == [("Toys", 2), ("Toys", 1)]
    assert [row[1:3] for row in gold["daily_sales_summary"]] == [("Toys", 2)]


def test_a_product_may_arrive_after_its_order(shop):
    shop.orders({"product_id": "P-2"})
    assert shop.units() == 0
    shop.products({"product_id": "P-2"}, day=2)
    assert shop.units() == 1


BROKEN_ORDERS = {
    "a blank customer": {"customer_id": " "},
    "a change of the year 9999": {"updated_at": "9999-12-31 23:59:59"},
    "an amount that does not fit": {"quantity": "2000000000"},
    "no product": {"product_id": ""},
    "unknown product": {"product_id": "P-9"},
    "no instant": {"order_ts": ""},
    "an instant after the nightly run": {"order_ts": "2026-01-03 02:00:01"},
    "quantity 0": {"quantity": "0"},
    "quantity below 0": {"quantity": "-5"},
    "no quantity": {"quantity": ""},
    "a price below 0": {"unit_price": "-0.01"},
    "no price": {"unit_price": ""},
    "a discount above 100": {"discount_pct": "100.01"},
    "a discount below 0": {"discount_pct": "-1"},
    "no discount": {"discount_pct": ""},
    "impossible status": {"status": "DELIVERED"},
    "no status": {"status": ""},
    "no updated_at": {"updated_at": ""},
    "text for a number": {"quantity": "n/a"},
    "text for an instant": {"updated_at": "yesterday"},
    "a field too many": {"updated_at": "2026-01-02 12:00:00,?"},
}


@pytest.mark.parametrize("broken", BROKEN_ORDERS.values(), ids=BROKEN_ORDERS)
def test_a_broken_row_counts_neither_as_an_order_nor_as_the_latest_state_of_one(shop, broken):
    shop.orders({})
    shop.orders(
        {"quantity": "5", "updated_at": "2026-01-02 12:00:00", **broken},
        {"order_id": "O-2", "quantity": "5", "updated_at": "2026-01-02 12:00:00", **broken},
        {"order_id": "O-3"},
        day=2,
    )
    assert shop.units() == 2


def test_a_row_without_a_key_and_one_with_a_field_too_few_count_nothing(shop):
    short = ",".join(list({**ORDER, "order_id": "O-2"}.values())[:-1])
    shop.lines("orders", short, ",".join({**ORDER, "order_id": ""}.values()), ",".join(ORDER.values()), file="a.csv")
    assert shop.units() == 1


@pytest.mark.parametrize(
    "broken",
    [{"list_price": "-1"}, {"list_price": ""}, {"category": ""}, {"updated_at": ""}, {"is_active": "n/a"}],
    ids=str,
)
def test_a_broken_product_is_not_known(shop, broken):
    shop.products({"product_id": "P-2", **broken}, day=2)
    shop.orders({}, {"order_id": "O-2", "product_id": "P-2"})
    assert shop.units() == 1


def test_an_order_of_the_very_instant_of_the_nightly_run_is_not_in_the_future(shop):
    shop.orders({"order_ts": "2026-01-02 02:00:00"})
    assert shop.units() == 1


def test_delivering_an_order_from_the_future_again_does_not_make_it_good(shop):
    shop.orders({"order_ts": "2026-01-02 02:00:01"})
    shop.orders({"order_ts": "2026-01-02 02:00:01"}, day=3)
    assert shop.units() == 0


def test_columns_are_matched_by_the_header_of_each_file(shop):
    shop.orders({})
    columns = {**dict(reversed({**ORDER, "order_id": "O-2", "quantity": "3"}.items())), "note": '"a, b"'}
    # As some editors write it: with a byte order mark, and without a line end after the last line.
    shop.text("orders", "\ufeff" + ",".join(columns) + "\r\n" + ",".join(columns.values()), file="b.csv")
    assert shop.units() == 4


def test_a_line_with_a_field_too_few_is_malformed_though_the_column_may_be_null(shop):
    shop.orders({"payment_method": ""})
    columns = {name: value for name, value in ORDER.items() if name != "payment_method"} | {"order_id": "O-2"}
    shop.text("orders", ",".join([*columns, "payment_method"]) + "\n" + ",".join(columns.values()) + "\n", file="b.csv")
    assert shop.units() == 1


def test_a_free_order_counts(shop):
    shop.orders({"unit_price": "0.00"})
    assert shop.units() == 1


def test_a_path_is_no_pattern(tmp_path):
    Shop(tmp_path / "raw1").orders({"quantity": "9"})
    shop = Shop(tmp_path / "raw[1]")
    shop.orders({})
    assert shop.units() == 1


def test_days_are_those_of_utc(shop):
    shop.orders({"order_ts": "2026-01-01T00:30:00+02:00"})
    assert [row[0] for row in shop.daily()] == [date(2025, 12, 31)]


@pytest.mark.parametrize("hidden", [".orders.csv", "_orders.csv", "orders.csv.part"])
def test_hidden_and_unfinished_files_are_not_read(shop, hidden):
    shop.orders({})
    shop.orders({"order_id": "O-2"}, file=hidden)
    assert shop.units() == 1


def test_a_source_without_files_is_an_error(shop):
    with pytest.raises(FileNotFoundError, match="orders has no <batch date>"):
        shop.gold()


def test_a_column_that_stands_twice_is_an_error(shop):
    shop.text("orders", ",".join([*ORDER, "status"]) + "\n")
    with pytest.raises(ValueError, match="twice in the header order_id, "):
        shop.gold()


@pytest.mark.parametrize(
    "bands",
    [
        [],
        [("High", Decimal(100))],
        [("Rest", None), ("High", Decimal(100))],
        [("High", None), ("Low", None)],
        [("Low", Decimal(1)), ("High", Decimal(100)), ("None", None)],
    ],
    ids=str,
)
def test_bands_that_do_not_fall_to_one_without_a_threshold_are_an_error(shop, bands):
    with pytest.raises(ValueError, match="bands must fall"):
        shop.gold(bands)


def test_one_band_takes_everyone(shop):
    shop.orders({})
    assert [row[5] for row in shop.gold([("All", None)])["customer_ltv"]] == ["All"]
