"""Gold computed by DuckDB directly from the CSV files: the reference and the rival of the Spark pipeline.

    .venv/bin/python tests/oracles/duckdb_gold.py data --threads 2 --band High=5000 --band Medium=1000 --band Low

The results must agree to the cent. This program reads neither bronze nor silver, and has rules of its own: only the
names and types of the source columns come from ``shared``. It does not read customers, because no figure depends on
them.

It is fast because most orders are delivered once. Such a row is the latest state of its order; only the rows of the
other orders are grouped and sorted.
"""

from __future__ import annotations

import argparse
import csv
import glob
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

if __name__ == "__main__":  # if this file is run as a script, the checkout is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shared.bronze.contracts import ORDERS, PRODUCTS, Source

ACCEPTED = {
    "products": """
        trim(product_id) <> ''
        AND updated_at <= parse_path(arrival)[-2]::TIMESTAMPTZ + INTERVAL 50 HOURS
        AND list_price >= 0
        AND trim(category) <> ''
    """,
    # The nightly run starts at 02:00 UTC of the day after the batch date, which is the name of the file's folder. A
    # change may be up to a day later than the run.
    "orders": """
        trim(order_id) <> ''
        AND updated_at <= parse_path(arrival)[-2]::TIMESTAMPTZ + INTERVAL 50 HOURS
        AND (customer_id IS NULL OR trim(customer_id) <> '')
        AND order_ts <= parse_path(arrival)[-2]::TIMESTAMPTZ + INTERVAL 26 HOURS
        AND quantity > 0
        AND unit_price >= 0
        AND discount_pct BETWEEN 0 AND 100
        AND quantity * unit_price < 10_000_000_000
        AND status IN ('pending', 'confirmed', 'shipped', 'delivered', 'cancelled', 'returned')
        AND product_id IN (SELECT product_id FROM products)
    """,
}
"""The SQL condition of the accepted events of each source; ``arrival`` is the file of the first delivery."""

# With ignore_errors, a line that does not fit the columns is skipped; without it, such a line would end the query.
READ = """
SELECT {columns}, arrival
FROM read_csv(?, columns = ?, auto_detect = false, header = true, delim = ',', quote = '"', escape = '"',
    ignore_errors = true, filename = 'arrival')
"""

# An event is a distinct payload. Paths sort by batch date first: the least path of an event is its first delivery, and
# the event with the greatest one has arrived last.
LATEST = """
CREATE TEMP VIEW {name} AS
WITH repeated AS (SELECT {key} FROM {name}_delivered GROUP BY {key} HAVING count(*) > 1)
SELECT {columns}, arrival FROM {name}_delivered ANTI JOIN repeated USING ({key})
WHERE {accepted}
UNION ALL (
    FROM (
        SELECT {columns}, min(arrival) AS arrival FROM {name}_delivered SEMI JOIN repeated USING ({key})
        GROUP BY {columns}
    )
    WHERE {accepted}
    QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY updated_at DESC, arrival DESC, {greatest_first}) = 1
)
"""

# No division, so that all values stay decimals: DuckDB divides decimals as doubles. For values that are not negative,
# round is half-up.
SALES = """
CREATE TEMP TABLE sales AS
SELECT customer_id, orders.product_id, category, order_ts::DATE AS order_date, quantity,
    (quantity * unit_price)::DECIMAL(12,2) AS gross,
    round(gross * (100 - discount_pct) * 0.01, 2)::DECIMAL(12,2) AS net
FROM orders JOIN products ON orders.product_id = products.product_id
WHERE status NOT IN ('cancelled', 'returned')
"""

# The average in whole cents: with n orders, (2 * cents + n) // 2n is cents / n, rounded half up.
DAILY_SALES_SUMMARY = """
SELECT order_date, category, count(*) AS orders, sum(quantity)::BIGINT AS units,
    sum(gross)::DECIMAL(18,2) AS gross_revenue, sum(gross - net)::DECIMAL(18,2) AS discount,
    sum(net)::DECIMAL(18,2) AS net_revenue, count(DISTINCT customer_id) AS customers,
    (((200 * net_revenue + orders)::HUGEINT // (2 * orders))::DECIMAL(12,0) * 0.01)::DECIMAL(12,2)
        AS average_order_value
FROM sales GROUP BY order_date, category ORDER BY order_date, category
"""

CUSTOMER_LTV = """
SELECT customer_id, count(*) AS orders, min(order_date) AS first_order_date, max(order_date) AS last_order_date,
    sum(net)::DECIMAL(18,2) AS lifetime_value, CASE {segments} END AS segment
FROM sales WHERE customer_id IS NOT NULL GROUP BY customer_id ORDER BY customer_id
"""

PRODUCT_PERFORMANCE = """
SELECT product_id, category, sum(quantity)::BIGINT AS units_sold, sum(net)::DECIMAL(18,2) AS revenue,
    rank() OVER (PARTITION BY category ORDER BY sum(net) DESC)::INT AS category_rank
FROM sales GROUP BY product_id, category ORDER BY product_id
"""


def gold(
    raw: Path, bands: Sequence[tuple[str, Decimal | None]], threads: int = 2, memory_limit: str | None = None
) -> dict[str, pa.Table]:
    """Compute the three gold tables from the CSV files of a landing volume.

    Nothing is written. Lines that do not fit the columns are skipped. DuckDB's reader differs from Spark's only for
    lines that the generators do not write: it rounds ``1.5`` to a whole number, accepts blanks around a number and an
    empty extra field, and a stray quote may make it lose the following lines.

    Args:
        raw: the landing volume, ``<home>/raw``.
        bands: each segment and its least lifetime value, highest first; the last one has ``None`` and takes the rest.
        threads: the number of DuckDB's threads.
        memory_limit: the memory that DuckDB may use, for example ``2GB``; beyond it, DuckDB spills to disk.

    Returns:
        ``daily_sales_summary`` by order_date and category, ``customer_ltv`` by customer_id, ``product_performance``
        by product_id; each sorted by its key. Money is decimal with two digits.

    Raises:
        FileNotFoundError: if products or orders have no file.
        ValueError: if the bands do not have this form, or a header names a column twice.

    Example:
        >>> gold(Path("data/raw"), [("High", Decimal(5000)), ("Low", None)])["customer_ltv"].num_rows # doctest: +SKIP
        8132
    """
    thresholds = [at_least for _, at_least in bands[:-1] if at_least is not None]
    if len(thresholds) != len(bands) - 1 or bands[-1][1] is not None or thresholds != sorted(thresholds, reverse=True):
        raise ValueError(f"bands must fall, and the last alone has no threshold, found {list(bands)}")
    config: dict[str, Any] = {"threads": threads, "preserve_insertion_order": False}
    config |= {"memory_limit": memory_limit} if memory_limit else {}
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(config={**config, "temp_directory": spill}) as con:
        con.execute("SET TimeZone = 'UTC'")
        for source in (PRODUCTS, ORDERS):
            _latest(con, raw, source)
        con.execute(SALES)
        return aggregated(con, bands)


def aggregated(con: duckdb.DuckDBPyConnection, bands: Sequence[tuple[str, Decimal | None]]) -> dict[str, pa.Table]:
    """Return the three gold tables of a connection's ``sales``: the orders that count, with ``gross`` and ``net``."""
    ltv = CUSTOMER_LTV.format(segments=" ".join("WHEN coalesce(lifetime_value >= ?, true) THEN ?" for _ in bands))
    segments = [value for label, at_least in bands for value in (at_least, label)]
    return {
        "daily_sales_summary": con.sql(DAILY_SALES_SUMMARY).to_arrow_table(),
        "customer_ltv": con.sql(ltv, params=segments).to_arrow_table(),
        "product_performance": con.sql(PRODUCT_PERFORMANCE).to_arrow_table(),
    }


def _latest(con: duckdb.DuckDBPyConnection, raw: Path, source: Source) -> None:
    """Create a view with the name of the source: the last accepted event of each key."""
    # A table and not a view: the reader does not detect a malformed value in a column that a query does not use.
    _delivered(con, raw, source).create(f"{source.name}_delivered")
    names = source.column_names
    con.execute(
        LATEST.format(
            name=source.name,
            key=names[0],
            columns=", ".join(names),
            accepted=ACCEPTED[source.name],
            greatest_first=", ".join(f"{name} DESC NULLS LAST" for name in names),
        )
    )


def _delivered(con: duckdb.DuckDBPyConnection, raw: Path, source: Source) -> duckdb.DuckDBPyRelation:
    """Return the well-formed rows of a source's files with their ``arrival``; the files' headers name the columns."""
    files_of: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in sorted(raw.glob(f"{source.name}/*/*.csv")):
        if not path.name.startswith((".", "_")):
            files_of[_header(path)].append(glob.escape(str(path)))
    if not files_of:
        raise FileNotFoundError(f"{raw / source.name} has no <batch date>/*.csv")
    # DuckDB respects an offset from UTC only in a timestamp with a time zone.
    types = {column.name: column.type.replace("TIMESTAMP", "TIMESTAMPTZ") for column in source.columns}
    layouts = [
        con.sql(
            READ.format(columns=", ".join(types)),
            params=[files, {name: types.get(name, "STRING") for name in header}],
        )
        for header, files in files_of.items()
    ]
    return reduce(duckdb.DuckDBPyRelation.union, layouts)


def _header(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = tuple(next(csv.reader(lines), ()))
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: a column stands twice in the header {', '.join(header)}")
    return header


def _band(text: str) -> tuple[str, Decimal | None]:
    label, _, at_least = text.partition("=")
    return label, Decimal(at_least) if at_least else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute gold with DuckDB from the CSV files, and print its totals.")
    parser.add_argument("home", type=Path, metavar="HOME", help="the home whose raw directory is read")
    parser.add_argument("--threads", type=int, default=2, help="of DuckDB; default: 2")
    parser.add_argument("--memory-limit", help="of DuckDB, for example 2GB; default: most of the memory")
    parser.add_argument(
        "--band",
        dest="bands",
        action="append",
        required=True,
        type=_band,
        metavar="SEGMENT[=AT_LEAST]",
        help="a segment and its least lifetime value; highest first, the last without one",
    )
    given = parser.parse_args()
    begun = time.perf_counter()
    tables = gold(given.home / "raw", given.bands, given.threads, given.memory_limit)
    seconds = time.perf_counter() - begun
    revenue = {"daily_sales_summary": "net_revenue", "customer_ltv": "lifetime_value", "product_performance": "revenue"}
    for name, table in tables.items():
        total = pc.sum(table[revenue[name]]).as_py() or Decimal("0.00")
        print(f"{name:24}{table.num_rows:>12,} rows  {total:>20,} revenue")
    print(f"{'total':24}{seconds:12.2f} s")


if __name__ == "__main__":
    main()
