"""The queries of the pages on the lakehouse.

A page never reads a whole table. It runs a query whose result stays small when the number of orders grows: for a year
and eight categories, ten million orders have as many rows by day and category as a hundred thousand orders. Filters
then act on the result, in memory.

Every source runs the same text, so it uses only the SQL that DataFusion (delta-rs), Databricks and DuckDB have in
common. A value from a user is never part of the text: ``:name`` is a parameter, which the source binds. The committed
snapshot holds the results themselves, one Parquet file per query.

A total would be wrong if one of its rows had no value. So a sum is NULL if one of its values is NULL, and a result with
a NULL in a column that must not have one is refused. :attr:`Query.nullable` lists the columns that may be NULL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

COUNTS = "status NOT IN ('cancelled', 'returned')"
"""The condition of orders that count as revenue, as in ``docs/data-model.md`` and ``shared/gold/tables.toml``."""


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        name: the name of the query for the pages, and of its file in the snapshot.
        sql: the text, with tables by their two-part names and parameters as ``:name``.
        reads: the columns that the query needs, by table.
        nullable: columns of the result that may be NULL.
        parameters: names of the parameters.
        from_snapshot: the text that gives the same result from the snapshot's files; only for queries with parameters.
    """

    name: str
    sql: str
    reads: Mapping[str, tuple[str, ...]]
    nullable: frozenset[str] = frozenset()
    parameters: tuple[str, ...] = ()
    from_snapshot: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        asked = set(re.findall(r"(?<!:):(\w+)", self.sql))
        assert asked == set(self.parameters), (self.name, asked)
        assert set(re.findall(r"\b(?:bronze|silver|gold|ops)\.\w+", self.sql)) == set(self.reads), self.name


def _sum(column: str) -> str:
    """Return the SQL of a SUM that is NULL if one of the values is NULL."""
    return f"CASE WHEN COUNT(*) = COUNT({column}) THEN SUM({column}) END"


_CUSTOMER_COLUMNS = ("customer_id", "segment", "city", "state", "country", "email", "phone", "address", "start_date")
_VERSIONS = """
    SELECT customer_id, start_date, end_date, segment, city, state, country, is_inferred,
           email IS DISTINCT FROM LAG(email) OVER w AS email_changed,
           phone IS DISTINCT FROM LAG(phone) OVER w AS phone_changed,
           address IS DISTINCT FROM LAG(address) OVER w AS address_changed
    FROM silver.dim_customers {where}
    WINDOW w AS (PARTITION BY customer_id ORDER BY start_date)
    ORDER BY customer_id, start_date
"""
_CUSTOMER_ORDERS = """
    SELECT customer_id, order_id, order_ts, category, status, net_amount
    FROM silver.orders_clean WHERE {where} ORDER BY customer_id, order_ts, order_id
"""
_VERSION_READS = {"silver.dim_customers": (*_CUSTOMER_COLUMNS, "end_date", "is_inferred")}
_ORDER_READS = {"silver.orders_clean": ("customer_id", "order_id", "order_ts", "category", "status", "net_amount")}
_EXAMPLES = """
    SELECT customer_id FROM silver.dim_customers GROUP BY customer_id ORDER BY COUNT(*) DESC, customer_id LIMIT 40
"""

QUERIES = {
    query.name: query
    for query in (
        # Sales
        Query(
            "daily_sales",
            """SELECT order_date, category, orders, units, gross_revenue, discount, net_revenue
               FROM gold.daily_sales_summary ORDER BY order_date, category""",
            {
                "gold.daily_sales_summary": (
                    *("order_date", "category", "orders", "units", "gross_revenue", "discount", "net_revenue"),
                )
            },
        ),
        Query(
            "order_mix",
            f"""SELECT order_date, category, status, payment_method, COUNT(*) AS orders,
                       {_sum("net_amount")} AS net_amount
                FROM silver.orders_clean GROUP BY order_date, category, status, payment_method
                ORDER BY order_date, category, status, payment_method""",
            {"silver.orders_clean": ("order_date", "category", "status", "payment_method", "net_amount")},
        ),
        Query(
            "order_hours",
            f"""SELECT order_date, category, CAST(EXTRACT(HOUR FROM order_ts) AS INT) AS hour, COUNT(*) AS orders,
                       {_sum("net_amount")} AS net_revenue
                FROM silver.orders_clean WHERE {COUNTS}
                GROUP BY order_date, category, CAST(EXTRACT(HOUR FROM order_ts) AS INT)
                ORDER BY order_date, category, hour""",
            {"silver.orders_clean": ("order_date", "order_ts", "category", "status", "net_amount")},
        ),
        # Customers
        Query(
            "customers",
            # Without the ids: for a million customers they would be half of the result, and no figure shows them.
            """SELECT segment, orders, first_order_date, last_order_date, lifetime_value
               FROM gold.customer_ltv ORDER BY customer_id""",
            {
                "gold.customer_ltv": (
                    *("customer_id", "segment", "orders", "first_order_date", "last_order_date", "lifetime_value"),
                )
            },
        ),
        Query(
            "retention",
            f"""SELECT c.first_order_date, c.segment, a.order_month, COUNT(*) AS customers
                FROM (SELECT DISTINCT customer_id, CAST(date_trunc('month', order_date) AS DATE) AS order_month
                      FROM silver.orders_clean WHERE {COUNTS} AND customer_id IS NOT NULL) a
                JOIN gold.customer_ltv c ON c.customer_id = a.customer_id
                GROUP BY c.first_order_date, c.segment, a.order_month
                ORDER BY c.first_order_date, c.segment, a.order_month""",
            {
                "silver.orders_clean": ("customer_id", "order_date", "status"),
                "gold.customer_ltv": ("customer_id", "first_order_date", "segment"),
            },
        ),
        Query("changed_customers", _EXAMPLES, {"silver.dim_customers": ("customer_id",)}),
        Query(
            "customer_history",
            _VERSIONS.format(where="WHERE customer_id = :customer_id"),
            _VERSION_READS,
            frozenset({"end_date", "segment", "city", "state", "country"}),
            ("customer_id",),
            "SELECT * FROM customer_versions WHERE customer_id = :customer_id",
        ),
        Query(
            "customer_orders",
            _CUSTOMER_ORDERS.format(where="customer_id = :customer_id"),
            _ORDER_READS,
            parameters=("customer_id",),
            from_snapshot="SELECT * FROM example_orders WHERE customer_id = :customer_id",
        ),
        # Products
        Query(
            "products",
            """SELECT p.product_id, p.product_name, p.category, p.brand, p.list_price, p.is_active,
                      COALESCE(g.units_sold, 0) AS units_sold, COALESCE(g.revenue, 0) AS revenue, g.category_rank
               FROM silver.dim_products p LEFT JOIN gold.product_performance g ON g.product_id = p.product_id
               ORDER BY p.product_id""",
            {
                "silver.dim_products": (
                    *("product_id", "product_name", "category", "brand", "list_price", "is_active"),
                ),
                "gold.product_performance": ("product_id", "units_sold", "revenue", "category_rank"),
            },
            frozenset({"category_rank"}),
        ),
        Query(
            "product_sales",
            f"""SELECT product_id, COUNT(*) AS orders, CAST({_sum("quantity")} AS BIGINT) AS units,
                       {_sum("net_amount")} AS revenue
                FROM silver.orders_clean
                WHERE {COUNTS} AND order_date BETWEEN :first_date AND :last_date
                GROUP BY product_id ORDER BY product_id""",
            {"silver.orders_clean": ("product_id", "order_date", "status", "quantity", "net_amount")},
            parameters=("first_date", "last_date"),
            from_snapshot="""SELECT product_id, CAST(SUM(orders) AS BIGINT) AS orders,
                      CAST(SUM(units) AS BIGINT) AS units, SUM(revenue) AS revenue
               FROM product_days WHERE order_date BETWEEN :first_date AND :last_date
               GROUP BY product_id ORDER BY product_id""",
        ),
        # Traffic
        Query(
            "traffic",
            """SELECT hour_ts, events, page_views, visitors, sessions, add_to_carts, purchases, conversion
               FROM gold.hourly_traffic_metrics ORDER BY hour_ts""",
            {
                "gold.hourly_traffic_metrics": (
                    *("hour_ts", "events", "page_views", "visitors", "sessions", "add_to_carts", "purchases"),
                    "conversion",
                )
            },
            frozenset({"conversion"}),
        ),
        Query(
            "visits",
            """SELECT date_trunc('hour', session_start_ts) AS hour_ts, device, referrer, funnel_step,
                      COUNT(*) AS sessions,
                      COUNT(CASE WHEN is_converted THEN 1 END) AS converted,
                      COUNT(CASE WHEN is_open THEN 1 END) AS open_sessions
               FROM (SELECT s.user_id, s.session_start_ts, s.funnel_step, s.is_converted, s.is_open,
                            MIN(e.device) AS device, MIN(e.referrer) AS referrer
                     FROM silver.clickstream_sessions s LEFT JOIN silver.clickstream_events e
                     ON e.user_id = s.user_id AND e.event_ts = s.session_start_ts
                     GROUP BY s.user_id, s.session_start_ts, s.funnel_step, s.is_converted, s.is_open) f
               GROUP BY date_trunc('hour', session_start_ts), device, referrer, funnel_step
               ORDER BY hour_ts, device, referrer, funnel_step""",
            {
                "silver.clickstream_sessions": (
                    *("user_id", "session_start_ts", "funnel_step", "is_converted", "is_open"),
                ),
                "silver.clickstream_events": ("user_id", "event_ts", "device", "referrer"),
            },
            frozenset({"device", "referrer", "funnel_step"}),
        ),
        Query(
            "stream_batches",
            """SELECT batch_id, finished_at, seconds, rows_read, latency_median, latency_p99
               FROM ops.stream_log ORDER BY finished_at DESC, batch_id DESC LIMIT 200""",
            {
                "ops.stream_log": (
                    *("batch_id", "finished_at", "seconds", "rows_read", "latency_median", "latency_p99"),
                )
            },
            frozenset({"latency_median", "latency_p99"}),
        ),
    )
}
"""Every query, by name."""

SNAPSHOT_ONLY = {
    query.name: query
    for query in (
        Query(
            "product_days",
            f"""SELECT order_date, product_id, COUNT(*) AS orders, CAST({_sum("quantity")} AS BIGINT) AS units,
                       {_sum("net_amount")} AS revenue
                FROM silver.orders_clean WHERE {COUNTS}
                GROUP BY order_date, product_id ORDER BY order_date, product_id""",
            {"silver.orders_clean": ("product_id", "order_date", "status", "quantity", "net_amount")},
        ),
        Query(
            "customer_versions",
            _VERSIONS.format(where=f"WHERE customer_id IN ({_EXAMPLES})"),
            _VERSION_READS,
            frozenset({"end_date", "segment", "city", "state", "country"}),
        ),
        Query(
            "example_orders",
            _CUSTOMER_ORDERS.format(where=f"customer_id IN ({_EXAMPLES})"),
            _ORDER_READS | {"silver.dim_customers": ("customer_id",)},
        ),
    )
}
"""Files of the snapshot for the queries with parameters; they hold only some example customers."""

IN_SNAPSHOT = {name: query for name, query in QUERIES.items() if not query.parameters} | SNAPSHOT_ONLY
"""The queries whose results are in the snapshot."""
