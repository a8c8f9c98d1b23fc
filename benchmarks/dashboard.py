"""How much time and memory the dashboard's pages take: on the first view, and after a change of a filter.

    .venv/bin/python benchmarks/dashboard.py --orders 100000 --orders 10000000

DuckDB creates the lakehouse and delta-rs writes it: as many rows as the pipeline would leave, in its columns and types,
with random names and amounts. Each size has a process of its own, in which Streamlit's AppTest runs a page from the
request to the last element, without a browser. *Cold* is the first view of a page in the process, *filter* the median
of three changes of a filter. *CPU* is the CPU time of the cold page on all cores together: it is the most reliable
figure on a machine with other work. Compare the rows of one table, not tables of two machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import duckdb
import typer
from deltalake import write_deltalake
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":  # if this file is run as a script, the checkout is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.dashboard import small_shop

FILTERS = {
    "1_Sales_Performance": ("period", ("30 days", "1 year", "All")),
    "2_Customer_Analytics": ("joined_period", ("1 year", "90 days", "All")),
    "3_Product_Insights": ("period", ("30 days", "1 year", "90 days")),
    "4_Kafka_Traffic": ("traffic_period", ("30 days", "1 year", "90 days")),
}

ORDERS = """
    SELECT printf('O-%09d', i) AS order_id,
           CASE WHEN i % 50 > 0 THEN printf('C-%08d', (power(random(), 3) * {customers})::BIGINT) END AS customer_id,
           printf('P-%07d', p) AS product_id, 'Category ' || (p % 8) AS category,
           TIMESTAMPTZ '2025-01-01 00:00:00+00' + to_seconds(second) AS order_ts,
           (1 + i % 3)::INT AS quantity, ((p % 900) + 3)::DECIMAL(12,2) * (1 + i % 3) AS gross_amount,
           0::DECIMAL(12,2) AS discount_amount, gross_amount AS net_amount,
           ['pending', 'confirmed', 'shipped', 'delivered', 'delivered', 'delivered', 'cancelled',
            'returned'][1 + i % 8] AS status,
           ['card', 'paypal', 'bank_transfer', 'gift_card'][1 + i % 4] AS payment_method,
           DATE '2025-01-01' + (second // 86400)::INT AS order_date
    FROM (SELECT i, (power(random(), 2) * {products})::BIGINT AS p, floor(random() * 368 * 86400)::BIGINT AS second
          FROM range({orders}) t(i))
"""

PAGES = """
import json, statistics, sys, time
begun = time.perf_counter()
import psutil
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("dashboard/streamlit_app.py", default_timeout=300).run()
assert not app.exception and not app.error, (app.exception, app.error)
found = {"imports and overview": {"cold": time.perf_counter() - begun}}
for page, (key, values) in json.loads(sys.argv[1]).items():
    begun, cpu = time.perf_counter(), time.process_time()
    app.switch_page(f"pages/{page}.py").run()
    cold, cpu = time.perf_counter() - begun, time.process_time() - cpu
    assert not app.exception and not app.error and app.get("plotly_chart"), (app.exception, app.error)
    changes = []
    for value in values:
        app.get_by_key(key).set_value(value)
        begun = time.perf_counter()
        app.run()
        changes.append(time.perf_counter() - begun)
        assert not app.exception and app.get_by_key(key).value == value
    found[page] = {"cold": cold, "cpu": cpu, "filter": statistics.median(changes)}
found["resident MB"] = psutil.Process().memory_info().rss / 2**20
print(json.dumps(found))
"""


def build(lakehouse: Path, orders: int) -> None:
    """Write a lakehouse of this size. Customers and products grow with the orders; the clicks are the tests' clicks."""
    small_shop.build(lakehouse, orders=300)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(config={"temp_directory": spill}) as con:
        con.execute("SET TimeZone = 'UTC'; SELECT setseed(0.42)")
        customers, products = max(orders // 10, 10), max(orders // 100, 10)
        con.execute("CREATE TABLE orders AS" + ORDERS.format(orders=orders, customers=customers, products=products))
        con.execute("CREATE VIEW revenue AS FROM orders WHERE status NOT IN ('cancelled', 'returned')")
        tables = {
            "silver.orders_clean": "FROM orders",
            "silver.dim_products": f"""
                SELECT printf('P-%07d', p) AS product_id, 'Thing ' || p AS product_name,
                       'Category ' || (p % 8) AS category,
                       'Brand ' || (p % 50) AS brand, ((p % 900) + 3)::DECIMAL(12,2) AS list_price, true AS is_active
                FROM range({products + 1}) t(p)""",
            **{f"gold.{name}": query for name, query in small_shop.GOLD.items() if name != "hourly_traffic_metrics"},
        }
        for table, query in tables.items():
            write_deltalake(
                str(lakehouse / table.replace(".", "/")),
                con.sql(query).to_arrow_reader(1_000_000),
                mode="overwrite",
                schema_mode="overwrite",
            )


def measure(home: Path) -> dict[str, dict[str, float] | float]:
    """Run every page in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PAGES, json.dumps(FILTERS)],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"SHOPMETRICS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, float] | float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(
    orders: Annotated[list[int] | None, typer.Option(help="Sizes to measure; 0 is the committed snapshot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    found = {}
    for size in orders or [0, 100_000, 1_000_000, 10_000_000]:
        with tempfile.TemporaryDirectory() as home:
            if size:
                build(Path(home, "lakehouse"), size)
            found[size] = measure(Path(home))
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("orders", "page", "cold, s", "CPU, s", "filter, s", title="The dashboard's pages")
    for size, pages in found.items():
        for page, times in pages.items():
            if isinstance(times, dict):
                table.add_row(
                    f"{size:,}", page, *(f"{times[k]:.2f}" if k in times else "" for k in ("cold", "cpu", "filter"))
                )
            else:
                table.add_row(f"{size:,}", page, f"{times:,.0f} MB", "", "")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
