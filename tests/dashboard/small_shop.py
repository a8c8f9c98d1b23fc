"""A lakehouse small enough to be created for a test, by delta-rs: 14 months of orders, two days of clicks.

Silver is generated from a seed. DuckDB computes gold from it, with the definitions of ``docs/data-model.md`` and not
those of the dashboard. One category has a hostile name.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

FIRST, DAYS = date(2025, 1, 1), 430

STATUSES = {"pending": 0.02, "confirmed": 0.03, "shipped": 0.05, "delivered": 0.78, "cancelled": 0.07, "returned": 0.05}
"""The statuses and their shares of the orders."""

LAST = FIRST + timedelta(days=DAYS - 1)

CATEGORIES = ("Books", "Electronics", "Home & Kitchen", "'; DROP TABLE orders; --", "Toys <b>& Games</b>")

GOLD = {
    "daily_sales_summary": """
        SELECT order_date, category, count(*) AS orders, sum(quantity)::BIGINT AS units,
               sum(gross_amount)::DECIMAL(18,2) AS gross_revenue, sum(discount_amount)::DECIMAL(18,2) AS discount,
               sum(net_amount)::DECIMAL(18,2) AS net_revenue, count(DISTINCT customer_id) AS customers,
               round(sum(net_amount) / count(*), 2)::DECIMAL(12,2) AS average_order_value
        FROM revenue GROUP BY ALL""",
    "customer_ltv": """
        SELECT customer_id, count(*) AS orders, min(order_date) AS first_order_date, max(order_date) AS last_order_date,
               sum(net_amount)::DECIMAL(18,2) AS lifetime_value,
               CASE WHEN sum(net_amount) >= 5000 THEN 'High' WHEN sum(net_amount) >= 1000 THEN 'Medium' ELSE 'Low' END
                   AS segment
        FROM revenue WHERE customer_id IS NOT NULL GROUP BY customer_id""",
    "product_performance": """
        SELECT product_id, max(category) AS category, sum(quantity)::BIGINT AS units_sold,
               sum(net_amount)::DECIMAL(18,2) AS revenue,
               rank() OVER (PARTITION BY max(category) ORDER BY sum(net_amount) DESC)::INT AS category_rank
        FROM revenue GROUP BY product_id""",
    "hourly_traffic_metrics": """
        SELECT e.*, coalesce(s.sessions, 0) AS sessions, s.conversion
        FROM (SELECT date_trunc('hour', event_ts) AS hour_ts, count(*) AS events,
                     count(*) FILTER (event_type = 'page_view') AS page_views, count(DISTINCT user_id) AS visitors,
                     count(*) FILTER (event_type = 'add_to_cart') AS add_to_carts,
                     count(*) FILTER (event_type = 'purchase') AS purchases FROM events GROUP BY 1) e
        LEFT JOIN (SELECT date_trunc('hour', session_start_ts) AS hour_ts, count(*) AS sessions,
                          (count(*) FILTER (is_converted) / count(*))::DECIMAL(9,4) AS conversion
                   FROM sessions GROUP BY 1) s USING (hour_ts)""",
}


def build(lakehouse: Path, orders: int = 6_000, seed: int = 7, finished_at: datetime | None = None) -> None:
    """Write the tables that the dashboard reads."""
    rng = np.random.default_rng(seed)
    products = _products(rng)
    silver = {
        "dim_products": products,
        "orders_clean": _orders(rng, orders, products),
        "dim_customers": _customers(rng),
        **_clicks(rng),
    }
    for name, table in silver.items():
        write(lakehouse, f"silver.{name}", table)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for name, table in (
            ("orders", silver["orders_clean"]),
            ("events", silver["clickstream_events"]),
            ("sessions", silver["clickstream_sessions"]),
        ):
            con.register(name, table)
        con.execute("CREATE VIEW revenue AS FROM orders WHERE status NOT IN ('cancelled', 'returned')")
        for name, query in GOLD.items():
            write(lakehouse, f"gold.{name}", con.sql(query).to_arrow_table())
    batches = 8
    end = finished_at or datetime(2026, 3, 6, 12, tzinfo=UTC)
    write(
        lakehouse,
        "ops.stream_log",
        pa.table(
            {
                "batch_id": pa.array(range(batches), pa.int64()),
                "finished_at": pa.array(
                    [end - timedelta(seconds=5 * (batches - 1 - n)) for n in range(batches)], pa.timestamp("us", "UTC")
                ),
                "seconds": [2.0 + n / 10 for n in range(batches)],
                "rows_read": pa.array([100 * n for n in range(batches)], pa.int64()),
                "latency_median": [1.5 + n / 10 for n in range(batches)],
                "latency_p99": [4.0 + n / 10 for n in range(batches)],
            }
        ),
    )


def write(lakehouse: Path, table: str, rows: pa.Table) -> None:
    """Write a table; it replaces the existing one."""
    write_deltalake(str(lakehouse / table.replace(".", "/")), rows, mode="overwrite", schema_mode="overwrite")


def _products(rng: np.random.Generator) -> pa.Table:
    count = 60
    return pa.table(
        {
            "product_id": [f"P-{n:04}" for n in range(count)],
            "product_name": [f"Thing {n}" for n in range(count)],
            "category": [CATEGORIES[n % len(CATEGORIES)] for n in range(count)],
            "brand": [f"Brand {n % 7}" for n in range(count)],
            "list_price": pa.array(
                [Decimal(int(p)) / 100 for p in rng.integers(300, 90_000, count)], pa.decimal128(12, 2)
            ),
            "is_active": [n % 11 != 0 for n in range(count)],
        }
    )


def _orders(rng: np.random.Generator, count: int, products: pa.Table) -> pa.Table:
    days = rng.integers(0, DAYS, count)
    # Only 50 of the 60 products are ever ordered, some often. One day has no orders, and February no orders of Books.
    which = np.minimum((rng.pareto(1.2, count) * 6).astype(int), 49)
    category = np.array(products["category"].to_pylist(), object)[which]
    keep = (days != 200) & ~((category == "Books") & (days >= 31) & (days < 59))
    days, which, category = days[keep], which[keep], category[keep]
    count = len(days)
    price = np.array([int(p * 100) for p in products["list_price"].to_pylist()])[which]
    quantity, discount = rng.integers(1, 4, count), rng.choice([0, 0, 0, 10, 15], count)
    gross = quantity * price
    net = (gross * (100 - discount) * 2 + 100) // 200  # half up, to the cent
    seconds = rng.integers(0, 86_400, count)
    moment = np.datetime64(FIRST, "us") + days.astype("timedelta64[D]") + seconds.astype("timedelta64[s]")
    buyer = rng.zipf(1.3, count) % 240

    def cents(values: np.ndarray) -> pa.Array:
        return pa.array([Decimal(int(v)) / 100 for v in values], pa.decimal128(12, 2))

    return pa.table(
        {
            "order_id": [f"O-{n:06}" for n in range(count)],
            "customer_id": [None if b == 0 else f"C-{b:04}" for b in buyer],
            "product_id": [f"P-{n:04}" for n in which],
            "category": category.tolist(),
            "order_ts": pa.array(moment).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
            "order_date": pa.array(moment.astype("datetime64[D]")),
            "quantity": pa.array(quantity, pa.int32()),
            "gross_amount": cents(gross),
            "discount_amount": cents(gross - net),
            "net_amount": cents(net),
            "status": rng.choice(list(STATUSES), count, p=list(STATUSES.values())).tolist(),
            "payment_method": rng.choice(["card", "paypal", "bank_transfer", "gift_card"], count).tolist(),
        }
    )  # fmt: skip


def _customers(rng: np.random.Generator) -> pa.Table:
    rows = []
    for n in range(1, 240):
        begun = datetime(2025, 1, 1, tzinfo=UTC)
        for version in range(1 + n % 3):
            ends = begun + timedelta(days=int(rng.integers(40, 120)))
            last = version == n % 3
            rows.append(
                {
                    "customer_id": f"C-{n:04}",
                    "start_date": begun,
                    "end_date": None if last else ends,
                    "segment": ("Consumer", "Corporate", None)[version % 3],
                    "city": f"City {n % 9}",
                    "state": None,
                    "country": "Germany",
                    "email": f"{n}.{version}@example.com",
                    "phone": None,
                    "address": f"Street {n}",
                    "is_inferred": False,
                }
            )
            begun = ends
    stamp = pa.timestamp("us", "UTC")
    text = ("customer_id", "segment", "city", "state", "country", "email", "phone", "address")
    schema = pa.schema(
        [(name, pa.string()) for name in text]
        + [("start_date", stamp), ("end_date", stamp), ("is_inferred", pa.bool_())]
    )
    return pa.Table.from_pylist(rows, schema)


def _clicks(rng: np.random.Generator) -> dict[str, pa.Table]:
    steps = ["page_view", "product_view", "add_to_cart", "checkout", "purchase"]
    events, sessions = [], []
    for n in range(900):
        begun = datetime(2026, 3, 5, tzinfo=UTC) + timedelta(seconds=int(rng.integers(0, 2 * 86_400 - 7_200)))
        far = int(rng.choice([-1, 0, 1, 2, 3, 4], p=[0.05, 0.4, 0.3, 0.12, 0.06, 0.07]))
        kinds = ["search"] if far < 0 else steps[: far + 1]
        device, referrer = (
            str(rng.choice(["mobile", "desktop"])),
            rng.choice(["https://search.example.com/", ""]) or None,
        )
        for place, kind in enumerate(kinds):
            events.append((f"U-{n}", begun + timedelta(minutes=4 * place), kind, device, referrer))
        end = begun + timedelta(minutes=4 * (len(kinds) - 1))
        sessions.append((f"U-{n}", begun, end, steps[far] if far >= 0 else None, far == 4, n % 50 == 0))
    stamp = pa.timestamp("us", "UTC")
    text = pa.string()
    shapes = {
        "clickstream_events": (
            events,
            {"user_id": text, "event_ts": stamp, "event_type": text, "device": text, "referrer": text},
        ),
        "clickstream_sessions": (
            sessions,
            {
                **{"user_id": text, "session_start_ts": stamp, "session_end_ts": stamp, "funnel_step": text},
                **{"is_converted": pa.bool_(), "is_open": pa.bool_()},
            },
        ),
    }
    return {
        name: pa.table(
            [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds.values(), strict=True)],
            names=list(kinds),
        )
        for name, (rows, kinds) in shapes.items()
    }
