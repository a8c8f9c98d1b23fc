"""Runs of gold: an incremental run equals a full recompute, after any change, rollback, crash or mistake.

The source is a table of a few orders. The tests change it by SQL, as silver would by its MERGE.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import lake
import pytest

from shared import catalog, gold, run_log
from shared.errors import MetadataError
from shared.gold import metadata
from shared.gold.metadata import GoldDefinition
from shared.interpreted import configured
from shared.run_log import TableRun
from shared.settings import CHECKOUT, get_settings

SALES, LTV, PRODUCTS = "gold.daily_sales_summary", "gold.customer_ltv", "gold.product_performance"
ORDERS = "silver.orders_clean"
COLUMNS = {
    "order_id": "STRING", "customer_id": "STRING", "product_id": "STRING", "category": "STRING", "order_date": "DATE",
    "quantity": "INT", "status": "STRING", "gross_amount": "DECIMAL(12,2)", "discount_amount": "DECIMAL(12,2)",
    "net_amount": "DECIMAL(12,2)",
}  # fmt: skip


class Sales:
    """A few orders, gold's runs over them, and the content of the tables."""

    def __init__(self, spark) -> None:
        self.spark = spark
        self.number = 0

    def begin(self, *orders: tuple) -> None:
        """Create the source with these orders, as after a run of silver."""
        columns = {name: (kind, "") for name, kind in COLUMNS.items()}
        feed = {"delta.enableChangeDataFeed": "true"}
        catalog.create_table(self.spark, ORDERS, columns, "Orders.", properties=feed)
        self.order(*orders)
        run_log.create_tables(self.spark)
        self.silver("succeeded")

    def silver(self, status: run_log.Status) -> None:
        now = datetime.now(UTC)
        run_log.write(self.spark, [TableRun("silver-run", ORDERS, status, now, 0.1, to_version=self.version(ORDERS))])

    def order(self, *orders: tuple) -> None:
        """Add orders: id, customer, product, category, day of January, quantity, net amount, status."""
        rows = ", ".join(
            f"('{key}', '{customer}', '{product}', '{category}', DATE '2026-01-{day:02}', {quantity}, '{status}', "
            f"{Decimal(net) + 1}, 1, {net})"
            for key, customer, product, category, day, quantity, net, status in orders
        )
        if rows:
            self.sql(f"INSERT INTO {ORDERS} VALUES {rows}")

    def sql(self, statement: str) -> None:
        """Change a table, as one commit."""
        lake.change(get_settings().lakehouse, statement)

    def run(self, **how) -> dict[str, TableRun]:
        return {run.table_name: run for run in gold.run(self.spark, **how)}

    def version(self, table: str) -> int:
        return catalog.version(self.spark, table)

    def rows(self, table: str, columns: str = "*") -> list[tuple]:
        found = lake.rows(get_settings().lakehouse, f"SELECT {columns} FROM {table}")
        return sorted(map(tuple, found))

    def differences(self) -> dict[str, int]:
        """Return for each table how many rows differ from a full recompute, without tables that have no difference."""
        wanted = recomputed(lake.rows(get_settings().lakehouse, f"SELECT * FROM {ORDERS}"))
        assert wanted.keys() == {one.target for one in metadata.TABLES.declared()}
        found = {
            table: sum(((there := Counter(self.rows(table))) - rows).values()) + sum((rows - there).values())
            for table, rows in wanted.items()
        }
        return {table: rows for table, rows in found.items() if rows}


def recomputed(orders: list) -> dict[str, Counter[tuple]]:
    """Return the rows that gold must hold, computed from these orders with lists and dictionaries."""
    counted = [one for one in orders if one.status is not None and one.status not in ("cancelled", "returned")]

    def groups(*names: str) -> dict[tuple, list]:
        found: dict[tuple, list] = defaultdict(list)
        for one in counted:
            found[tuple(getattr(one, name) for name in names)].append(one)
        return found

    def total(orders: list, name: str):
        return sum(getattr(one, name) for one in orders)

    sales, values, products = Counter(), Counter(), []
    for group, of_it in groups("order_date", "category").items():
        net = total(of_it, "net_amount")
        average = (net / len(of_it)).quantize(Decimal("0.01"), ROUND_HALF_UP)
        amounts = (total(of_it, "gross_amount"), total(of_it, "discount_amount"), net)
        sales[
            *group,
            len(of_it),
            total(of_it, "quantity"),
            *amounts,
            len({o.customer_id for o in of_it} - {None}),
            average,
        ] += 1
    for group, of_it in groups("customer_id").items():
        if group == (None,):
            continue  # guests
        value, dates = total(of_it, "net_amount"), [one.order_date for one in of_it]
        segment = "High" if value >= 5000 else "Medium" if value >= 1000 else "Low"
        values[*group, len(of_it), min(dates), max(dates), value, segment] += 1
    for group, of_it in groups("product_id").items():
        category = max(one.category for one in of_it)
        products.append((*group, category, total(of_it, "quantity"), total(of_it, "net_amount")))
    ranked = Counter(
        (*one, 1 + sum(other[1] == one[1] and other[3] > one[3] for other in products)) for one in products
    )
    return {SALES: sales, LTV: values, PRODUCTS: ranked}


@pytest.fixture
def sales(spark):
    lake.clear(spark, get_settings())
    return Sales(spark)


STANDING = (
    ("O-1", "C-1", "P-1", "Home", 1, 2, "100.00", "delivered"),
    ("O-2", "C-1", "P-2", "Home", 1, 1, "50.00", "pending"),
    ("O-3", "C-2", "P-2", "Home", 2, 1, "50.00", "shipped"),
    ("O-4", "C-3", "P-3", "Toys", 2, 4, "5000.00", "confirmed"),
    ("O-5", "C-4", "P-3", "Toys", 3, 1, "999.99", "cancelled"),
)


def test_every_column_is_as_worked_out_by_hand_and_an_average_is_rounded_half_up(sales):
    sales.begin(
        *STANDING,
        ("O-6", "C-5", "P-3", "Toys", 2, 1, "1000.00", "pending"),
        ("O-9", "C-2", "P-2", "Home", 2, 1, "70.00", "returned"),
    )
    # The average of the amounts, 0.015, is rounded half up.
    sales.order(("O-7", "C-6", "P-4", "Pens", 4, 1, "0.01", "pending"))
    sales.order(("O-8", "C-6", "P-4", "Pens", 4, 1, "0.02", "pending"))
    done = sales.run()
    assert {run.status for run in done.values()} == {"succeeded"}
    assert {run.reason for run in done.values()} == {"first run"}
    day = datetime(2026, 1, 1).date()
    money = Decimal
    assert sales.rows(SALES) == [
        (day, "Home", 2, 3, money("152.00"), money("2.00"), money("150.00"), 1, money("75.00")),
        (day.replace(day=2), "Home", 1, 1, money("51.00"), money("1.00"), money("50.00"), 1, money("50.00")),
        (day.replace(day=2), "Toys", 2, 5, money("6002.00"), money("2.00"), money("6000.00"), 2, money("3000.00")),
        (day.replace(day=4), "Pens", 2, 2, money("2.03"), money("2.00"), money("0.03"), 1, money("0.02")),
    ]
    assert sales.rows(LTV) == [
        ("C-1", 2, day, day, money("150.00"), "Low"),
        ("C-2", 1, day.replace(day=2), day.replace(day=2), money("50.00"), "Low"),
        ("C-3", 1, day.replace(day=2), day.replace(day=2), money("5000.00"), "High"),
        ("C-5", 1, day.replace(day=2), day.replace(day=2), money("1000.00"), "Medium"),
        ("C-6", 2, day.replace(day=4), day.replace(day=4), money("0.03"), "Low"),
    ]
    assert sales.rows(PRODUCTS) == [
        ("P-1", "Home", 2, money("100.00"), 1),
        ("P-2", "Home", 2, money("100.00"), 1),
        ("P-3", "Toys", 5, money("6000.00"), 1),
        ("P-4", "Pens", 2, money("0.03"), 1),
    ]
    comments = {row["column"]: row["comment"] for row in catalog.describe(sales.spark, SALES).collect()}
    assert all(comments[name] for name in ("orders", "net_revenue", "average_order_value"))


CHANGES = {
    "an amount is corrected": f"UPDATE {ORDERS} SET net_amount = 49.98, gross_amount = 50.98 WHERE order_id = 'O-2'",
    "the only order of a group is cancelled": f"UPDATE {ORDERS} SET status = 'returned' WHERE order_id = 'O-4'",
    "an order moves to another day": f"UPDATE {ORDERS} SET order_date = DATE '2026-01-09' WHERE order_id = 'O-3'",
    "a late order of a day long past": (
        f"INSERT INTO {ORDERS} VALUES ('O-9', 'C-9', 'P-1', 'Home', DATE '2026-01-01', 1, 'pending', 8, 1, 7)"
    ),
    "a cancelled order comes back": f"UPDATE {ORDERS} SET status = 'confirmed' WHERE order_id = 'O-5'",
    "an order is cancelled": f"UPDATE {ORDERS} SET status = 'cancelled' WHERE order_id = 'O-1'",
    "an order is removed": f"DELETE FROM {ORDERS} WHERE order_id = 'O-3'",
    "an order turns out to be of another customer": f"UPDATE {ORDERS} SET customer_id = 'C-9' WHERE order_id = 'O-2'",
    "an order turns out to be a guest's": f"UPDATE {ORDERS} SET customer_id = NULL WHERE order_id = 'O-2'",
    "a product moves to another category": f"UPDATE {ORDERS} SET category = 'Toys' WHERE product_id = 'P-2'",
    "everything is removed": f"DELETE FROM {ORDERS}",
}

TOGETHER = (slice(0, 3), slice(3, 5), slice(5, 7), slice(7, 8), slice(8, 9), slice(9, 10), slice(10, 11))
"""The changes of each run. Changes of one slice affect different groups of sales, because a group is recomputed as a
whole."""


def test_after_each_kind_of_change_incremental_equals_recomputed(sales):
    sales.begin(*STANDING)
    sales.run()
    before = [sales.rows(table) for table in (SALES, LTV, PRODUCTS)]
    for part in TOGETHER:
        names = list(CHANGES)[part]
        for name in names:
            sales.sql(CHANGES[name])
        done = sales.run()
        assert {run.error for run in done.values()} == {None}, names
        assert {run.reason for run in done.values()} == {""}, f"{names}: it was not incremental"
        assert sales.differences() == {}, names
        after = [sales.rows(table) for table in (SALES, LTV, PRODUCTS)]
        assert after != before, f"{names}: nothing changed"
        before = after


def test_any_sequence_of_changes_ends_in_what_a_full_recompute_gives(sales):
    """Four random batches of several changes, with a run after each batch."""
    chance = random.Random(7)
    sales.begin(*STANDING)
    sales.run()
    statuses = ("pending", "confirmed", "delivered", "cancelled", "returned")
    for batch in range(4):
        for _ in range(chance.randint(3, 8)):
            key = f"O-{chance.randint(1, 12)}"
            kind = chance.randint(0, 5)
            if kind == 0:
                sales.sql(f"DELETE FROM {ORDERS} WHERE order_id = '{key}'")
                amount = f"{chance.randint(0, 300_000) / 100:.2f}"
                product = chance.randint(1, 4)
                sales.order((
                    key, f"C-{chance.randint(1, 4)}", f"P-{product}", "Home" if product < 3 else "Toys",
                    chance.randint(1, 4), chance.randint(1, 5), amount, chance.choice(statuses),
                ))  # fmt: skip
            elif kind == 1:
                sales.sql(f"UPDATE {ORDERS} SET status = '{chance.choice(statuses)}' WHERE order_id = '{key}'")
            elif kind == 2:
                sales.sql(f"UPDATE {ORDERS} SET net_amount = {chance.randint(0, 9000)} WHERE order_id = '{key}'")
            elif kind == 3:
                day = chance.randint(1, 5)
                sales.sql(f"UPDATE {ORDERS} SET order_date = DATE '2026-01-{day:02}' WHERE order_id = '{key}'")
            elif kind == 4:
                category = chance.choice(("Home", "Toys", "Garden"))
                sales.sql(f"UPDATE {ORDERS} SET category = '{category}' WHERE product_id = 'P-{chance.randint(1, 4)}'")
            else:
                sales.sql(f"DELETE FROM {ORDERS} WHERE order_id = '{key}'")
        done = sales.run()
        assert {run.reason for run in done.values()} == {""}, "it was not incremental"
        assert {run.error for run in done.values()} == {None}
        assert sales.differences() == {}, f"after batch {batch}"


def test_a_run_reads_and_writes_only_what_a_change_concerns(sales):
    sales.begin(*STANDING)
    sales.run()

    # A change that affects no figure makes no version.
    versions = {table: sales.version(table) for table in (SALES, LTV, PRODUCTS)}
    sales.sql(f"UPDATE {ORDERS} SET status = 'delivered' WHERE status NOT IN ('cancelled', 'returned')")
    sales.sql(f"UPDATE {ORDERS} SET net_amount = 1 WHERE order_id = 'O-5'")  # a cancelled order is no revenue
    done = sales.run()
    assert [run.status for run in done.values()] == ["succeeded"] * 3
    assert [run.rows_changed for run in done.values()] == [0, 0, 0]
    assert all(run.rows_read > 0 for run in done.values())
    assert {run.status for run in sales.run().values()} == {"unchanged"}
    assert {table: sales.version(table) for table in versions} == versions

    # Only the touched groups are read, and reported.
    sales.order(("O-9", "C-2", "P-2", "Home", 2, 1, "60.00", "pending"))
    done = sales.run()
    assert {run.rows_read for run in done.values()} == {1}
    assert (done[SALES].rows_inserted, done[SALES].rows_updated, done[SALES].rows_deleted) == (0, 1, 0)
    assert (done[LTV].rows_inserted, done[LTV].rows_updated) == (0, 1)
    # P-1 has no new sale, but falls from a shared first place to the second.
    assert (done[PRODUCTS].rows_inserted, done[PRODUCTS].rows_updated) == (0, 2)
    assert sales.rows(PRODUCTS, "product_id, category_rank") == [("P-1", 2), ("P-2", 1), ("P-3", 1)]

    # A full run that finds no difference makes no version.
    versions = [sales.version(table) for table in (SALES, LTV, PRODUCTS)]
    done = sales.run(full=True)
    assert [(run.reason, run.rows_changed) for run in done.values()] == [("full run asked for", 0)] * 3
    assert [sales.version(table) for table in (SALES, LTV, PRODUCTS)] == versions

    # A run recomputes ranks only in the categories that a change affects. The wrong ranks show this: a run corrects
    # those in its categories. The commit has a run's note, because a table with a foreign change would be rebuilt.
    with configured(sales.spark, {catalog.NOTE: "run that marks"}):
        sales.spark.sql(f"UPDATE {PRODUCTS} SET category_rank = 99 WHERE product_id IN ('P-1', 'P-3')")
    sales.order(("O-10", "C-2", "P-2", "Home", 2, 1, "60.00", "pending"))
    done = sales.run()
    assert sales.rows(PRODUCTS, "product_id, category_rank") == [("P-1", 2), ("P-2", 1), ("P-3", 99)]
    assert done[PRODUCTS].rows_updated == 2


def test_when_the_feed_is_gone_everything_is_recomputed_and_the_run_says_so(sales, spark):
    sales.begin(*STANDING)
    sales.run()
    sales.sql(f"UPDATE {ORDERS} SET net_amount = 70 WHERE order_id = 'O-2'")
    shutil.rmtree(catalog.table_path(ORDERS) / "_change_data")
    done = sales.run()
    assert {run.status for run in done.values()} == {"succeeded"}
    assert all(run.reason.startswith("what is new cannot be read any more") for run in done.values())
    assert sales.differences() == {}
    sales.order(("O-9", "C-9", "P-1", "Home", 1, 1, "7.00", "pending"))
    assert {run.reason for run in sales.run().values()} == {""}, "it did not go on incrementally"


def test_a_changed_definition_and_a_dropped_table_are_made_anew(sales):
    sales.begin(*STANDING)
    sales.run()
    (ltv,) = (one for one in metadata.TABLES.declared() if one.target == LTV)
    thresholds = ({"label": "High", "at_least": 40}, {"label": "Low"})
    lower = ltv.model_copy(
        update={"bands": metadata.Bands(column="segment", of="lifetime_value", thresholds=thresholds)}
    )
    done = sales.run(definitions=[lower])
    assert (done[LTV].reason, done[LTV].rows_updated) == ("its definition has changed", 2)
    assert {row[-1] for row in sales.rows(LTV)} == {"High"}
    gold.reset(sales.spark, SALES)
    done = sales.run()
    assert done[SALES].reason == f"{SALES} is not the table that the last run left"
    assert done[LTV].reason == "its definition has changed"
    assert done[PRODUCTS].status == "unchanged"
    assert sales.differences() == {}


def test_a_row_in_the_control_table_is_a_table_and_cursor_none_recomputes(sales):
    sales.begin(*STANDING)
    sales.run()
    sales.spark.sql(
        f"""INSERT INTO {metadata.TABLES.name}
            (target, source, processing_order, depends_on, cursor, group_by, measures)
        VALUES ('gold.by_status', '{ORDERS}', 40, array('{ORDERS}'), 'none', array('status'),
                array(named_struct('name', 'orders', 'type', 'BIGINT', 'expression', 'COUNT(*)', 'comment', '')))"""
    )
    done = sales.run()["gold.by_status"]
    assert (done.status, done.reason, done.rows_changed) == ("succeeded", "first run", 5)
    sales.sql(f"DELETE FROM {ORDERS} WHERE status = 'pending'")
    done = sales.run()["gold.by_status"]
    assert (done.reason, done.rows_inserted, done.rows_deleted) == ("its cursor is none", 0, 1)
    assert ("pending", 1) not in sales.rows("gold.by_status")


# Every problem is reported, and no result is silently wrong.


def test_a_broken_rule_stops_the_table_and_leaves_it_as_it_was(sales):
    sales.begin(*STANDING)
    sales.run()
    rows, version = sales.rows(SALES), sales.version(SALES)
    # One after another: a problem that is corrected before the next run no longer stops the table.
    for change, rule, told in (
        ("net_amount = -5", "net_amount_is_not_negative", "net_amount = -5.00: expected at least 0"),
        (
            "net_amount = 50, order_date = DATE '2099-12-31'",
            "order_date_is_not_in_the_future",
            "order_date = 2099-12-31: expected at most today",
        ),
        (
            "order_date = DATE '2026-01-01', category = NULL",
            "category_is_not_null",
            "category = NULL: expected a value",
        ),
    ):
        sales.sql(f"UPDATE {ORDERS} SET {change} WHERE order_id = 'O-2'")
        done = sales.run()
        assert done[SALES].status == "failed"
        assert done[SALES].reason == (
            f"{SALES}: rule {rule} is broken by 1 row of {ORDERS}, as order_id = O-2: {told}. Nothing was written."
        )
        assert (sales.rows(SALES), sales.version(SALES)) == (rows, version)
    sales.sql(f"DELETE FROM {ORDERS} WHERE order_id = 'O-2'")
    done = sales.run()
    assert {run.status for run in done.values()} == {"succeeded"}, "the corrected source does not heal it"
    assert sales.differences() == {}


def test_a_table_is_skipped_if_silver_failed_and_the_run_says_when_and_how(sales):
    sales.begin(*STANDING)
    sales.silver("failed")
    done = sales.run()
    assert {run.status for run in done.values()} == {"skipped"}
    assert done[SALES].reason.startswith(f"skipped: {ORDERS} failed in run silver-run at ")
    assert not catalog.table_exists(sales.spark, SALES)
    sales.silver("succeeded")
    assert {run.status for run in sales.run().values()} == {"succeeded"}


def test_all_that_is_wrong_with_the_definitions_is_told_at_once_and_nothing_runs(sales):
    sales.begin(*STANDING)
    wrong = GoldDefinition.model_validate(
        {
            "target": "gold.wrong", "source": ORDERS, "depends_on": [ORDERS], "processing_order": 30,
            "group_by": ["order_day"], "measures": [{"name": "n", "type": "BIGINT", "expression": "COUNT(*)"}],
            "optimize_by": ["m"],
            "bands": {"column": "size", "of": "amount",
                      "thresholds": [{"label": "a", "at_least": 1}, {"label": "b", "at_least": 2}, {"label": "c"}]},
        }
    )  # fmt: skip
    not_sql = GoldDefinition.model_validate(
        {
            "target": "gold.not_sql", "source": ORDERS, "depends_on": [ORDERS], "processing_order": 30,
            "group_by": ["category"], "where": "stat = 'new'",
            "measures": [{"name": "n", "type": "BIGINT", "expression": "SUM(quantities)"}],
            "rules": [{"name": "price_is_there", "expect": "price IS NOT", "limit": "a price"}],
        }
    )  # fmt: skip
    with pytest.raises(MetadataError) as raised:
        sales.run(definitions=[wrong, not_sql])
    text = str(raised.value)
    for part in (
        "gold.wrong: unknown column order_day in group_by: silver.orders_clean has order_id, customer_id",
        "gold.wrong: unknown column amount in bands.of: expected one of order_day, n",
        "gold.wrong: bands.thresholds must fall from one to the next, found 1.00, 2.00",
        "gold.wrong: unknown column m in optimize_by: expected one of order_day, n, size",
        "gold.not_sql: where is not SQL over silver.orders_clean:",
        "gold.not_sql: measure n is not SQL over silver.orders_clean:",
        "gold.not_sql: rule price_is_there is not SQL over silver.orders_clean:",
        "correct gold/tables.toml or ops.gold_metadata; nothing was run",
    ):
        assert part in text, text
    assert not catalog.table_exists(sales.spark, SALES)
    assert sales.spark.table(metadata.TABLES.name).isEmpty()


# Killed.

CUT_OFF = """
import os, signal, sys, threading
import shared
from shared import changes, gold, run_log

def stop(module, name, number):
    original, seen, one_at_a_time = getattr(module, name), [], threading.Lock()
    def replacement(*given, **named):
        with one_at_a_time:  # the tables run side by side
            seen.append(1)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)
    setattr(module, name, replacement)

point = sys.argv[1]
if point == "before any MERGE":
    stop(changes, "merge", 1)
elif point == "after one MERGE":
    stop(changes, "merge", 2)
elif point == "tables written, log not":
    stop(run_log, "write", 1)
gold.run(shared.connect())
"""


def test_killed_between_its_writes_a_run_converges(sales):
    """Runs are killed at one point after another; each run finds the state that the run before it left."""
    sales.begin(*STANDING)
    sales.run()
    for change in list(CHANGES.values())[:-1]:
        sales.sql(change)
    written = []
    for point in ("before any MERGE", "after one MERGE", "tables written, log not"):
        ended = subprocess.run(
            [sys.executable, "-c", CUT_OFF, point], env=os.environ, cwd=CHECKOUT, timeout=240, capture_output=True
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        written.append(sum(sales.version(table) == 2 for table in (SALES, LTV, PRODUCTS)))
    assert written == [0, 1, 3]
    done = sales.run()
    assert {run.status for run in done.values()} == {"succeeded"}
    assert sales.differences() == {}
    assert {run.status for run in sales.run().values()} == {"unchanged"}
    # One version for the creation, one for the changes: rows that were written before a kill were not written again.
    assert [sales.version(table) for table in (SALES, LTV, PRODUCTS)] == [2, 2, 2]
