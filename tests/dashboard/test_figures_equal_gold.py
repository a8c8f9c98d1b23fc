"""AC-010: after every filter, each number on a page equals an independent query over the lakehouse, to the cent.

The shown numbers are read from the data that a page sends to the browser. DuckDB computes the expected numbers from the
tables.
"""

from __future__ import annotations

from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dashboard.utils.apptest import clean, metrics, opened, trace, traces
from tests import lake
from tests.dashboard.small_shop import CATEGORIES, FIRST, LAST

REVENUE = "status NOT IN ('cancelled', 'returned')"

DROP = next(name for name in CATEGORIES if "DROP" in name)

SPANS = {
    "30 days": (LAST - timedelta(29), LAST),
    "90 days": (LAST - timedelta(89), LAST),
    "1 year": (LAST - timedelta(364), LAST),
    "All": (FIRST, LAST),
    "Dates": (date(2025, 2, 1), date(2025, 2, 14)),
}

SELECTIONS = [
    ("90 days", []),
    ("30 days", ["Books"]),
    ("1 year", []),
    ("All", [DROP, "Electronics"]),
    ("Dates", []),
    ("Dates", ["Home & Kitchen"]),
]


def cents(value: Any) -> Decimal:
    return Decimal(str(value)).quantize(Decimal("0.01"), ROUND_HALF_UP)


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def where(first: date, last: date, categories: list[str]) -> str:
    among = f" AND category IN ({', '.join(map(text, categories))})" if categories else ""
    return f"order_date BETWEEN DATE '{first}' AND DATE '{last}'{among}"


def select(app: Any, span: str, categories: list[str]) -> Any:
    """Set the filters of Sales or Products as a reader does."""
    app.get_by_key("period").set_value(span)
    app.multiselect(key="category").set_value(categories)
    clean(app.run())
    if span == "Dates":
        app.date_input(key="from").set_value(SPANS[span][0])
        app.date_input(key="to").set_value(SPANS[span][1])
        clean(app.run())
    return app


@pytest.fixture
def lakehouse(enter: Any, small_home: Path) -> Path:
    return enter(small_home)


def test_sales(lakehouse: Path):
    app = opened("sales")
    for span, categories in SELECTIONS:
        first, last = SPANS[span]
        chosen = where(first, last, categories)
        select(app, span, categories)
        (total,) = lake.rows(
            lakehouse,
            f"""SELECT sum(net_revenue) AS revenue, sum(orders)::BIGINT AS orders, sum(units)::BIGINT AS units
                FROM gold.daily_sales_summary WHERE {chosen}""",
        )
        shown = metrics(app)
        assert shown["Orders"] == f"{total.orders:,}", (span, categories)
        assert shown["Units"] == f"{total.units:,}"
        assert shown["Average order value"] == f"${cents(total.revenue / total.orders):,}"
        by_category = lake.rows(
            lakehouse,
            f"""SELECT category, sum(net_revenue) AS revenue FROM gold.daily_sales_summary WHERE {chosen}
                GROUP BY category""",
        )
        drawn = trace(app, "revenue_by_category", 0)
        assert {c: cents(v) for c, v in zip(drawn["y"], drawn["x"], strict=True)} == dict(by_category)
        table = app.dataframe[-1].value
        assert {row.category: cents(row.revenue) for row in table.itertuples()} == dict(by_category)

        # Steps of one day, or of seven days counted from the first day; the figure draws revenue per day.
        step = 1 if (last - first).days < 92 else 7
        steps = lake.rows(
            lakehouse,
            f"""SELECT (order_date - DATE '{first}') // {step} AS step, sum(net_revenue) AS revenue,
                       sum(orders)::BIGINT AS orders
                FROM gold.daily_sales_summary WHERE {chosen} GROUP BY 1""",
        )
        amounts, orders = {r.step: r.revenue for r in steps}, {r.step: r.orders for r in steps}
        drawn = trace(app, "revenue_over_time")
        days = (last - first).days + 1
        assert len(drawn["y"]) == -(-days // step)
        for number, value in enumerate(drawn["y"]):
            length = min(step, days - number * step)
            assert value == pytest.approx(float(amounts.get(number, 0)) / length, abs=1e-6), (span, number)
        for number, value in enumerate(trace(app, "average_order_value")["y"]):
            if number in orders:
                assert value == pytest.approx(float(amounts[number]) / orders[number], abs=1e-6)
            else:
                assert value != value  # NaN: a gap in the line

        statuses = lake.rows(lakehouse, f"SELECT status, count(*) FROM silver.orders_clean WHERE {chosen} GROUP BY 1")
        drawn = trace(app, "orders_by_status")
        assert dict(zip(drawn["y"], drawn["x"], strict=True)) == dict(statuses)
        payments = lake.rows(
            lakehouse,
            f"""SELECT replace(payment_method, '_', ' '), sum(net_amount) FROM silver.orders_clean
                WHERE {chosen} AND {REVENUE} GROUP BY 1""",
        )
        drawn = trace(app, "revenue_by_payment")
        assert {name: cents(v) for name, v in zip(drawn["y"], drawn["x"], strict=True)} == dict(payments)
        hours = lake.rows(
            lakehouse,
            f"""SELECT isodow(order_ts) - 1 AS weekday, hour(order_ts) AS hour, count(*) AS orders
                FROM silver.orders_clean WHERE {chosen} AND {REVENUE} GROUP BY ALL""",
        )
        weekdays = [(first + timedelta(n)).weekday() for n in range(days)]
        drawn = trace(app, "orders_by_weekday_and_hour")
        expected = {(r.weekday, r.hour): round(r.orders / weekdays.count(r.weekday), 3) for r in hours}
        assert {
            (w, h): value for w, line in enumerate(drawn["z"]) for h, value in enumerate(line) if value
        } == pytest.approx(expected, abs=1e-9)


def test_sales_are_compared_with_whole_periods_only(lakehouse: Path):
    app = opened("sales")
    for span, compared in (("30 days", {"Period before", "Year before"}), ("All", set()), ("1 year", set())):
        select(app, span, [])
        drawn = {one["name"]: one for one in traces(app, "revenue_over_time")}
        assert set(drawn) - {"This period"} == compared
        first, last = SPANS[span]
        shifts = {"Period before": (last - first).days + 1, "Year before": 365}
        for name in compared:
            day = timedelta(shifts[name])
            (expected,) = lake.rows(
                lakehouse,
                f"SELECT sum(net_revenue) FROM gold.daily_sales_summary WHERE {where(first - day, last - day, [])}",
            )
            assert cents(sum(drawn[name]["y"])) == expected[0]


def test_customers(lakehouse: Path):
    app = opened("customers")
    for span, segments in (("All", []), ("All", ["High"]), ("1 year", ["Medium", "Low"]), ("90 days", [])):
        app.get_by_key("joined_period").set_value(span)
        clean(app.multiselect(key="segment").set_value(segments).run())
        (known,) = lake.rows(lakehouse, "SELECT max(first_order_date) AS last FROM gold.customer_ltv")
        first = {"All": FIRST, "1 year": known.last - timedelta(364), "90 days": known.last - timedelta(89)}[span]
        among = f" AND segment IN ({', '.join(map(text, segments))})" if segments else ""
        chosen = f"first_order_date >= DATE '{first}'{among}"
        rows = lake.rows(lakehouse, f"SELECT * FROM gold.customer_ltv WHERE {chosen} ORDER BY lifetime_value")
        total = sum(row.lifetime_value for row in rows)
        shown = metrics(app)
        assert shown["Customers"] == f"{len(rows):,}"
        assert shown["Value of one customer"] == f"${cents(total / len(rows)):,}"
        assert shown["Repeat buyers"] == f"{sum(r.orders > 1 for r in rows) / len(rows) * 100:.1f} %"
        for bar in traces(app, "segments"):
            some = [row.lifetime_value for row in rows if row.segment == bar["name"]]
            assert bar["x"] == pytest.approx([float(sum(some) / total), len(some) / len(rows)])
        assert {bar["name"] for bar in traces(app, "segments")} == {row.segment for row in rows}

        values = [row.lifetime_value for row in rows]
        curve = trace(app, "lorenz")
        for share, height in zip(curve["x"], curve["y"], strict=True):
            assert height == pytest.approx(float(sum(values[: round(share * len(values))]) / total), abs=1e-9)

        # A customer is in one group. Recency counts from the newest order of all customers.
        (newest,) = lake.rows(lakehouse, "SELECT max(last_order_date) AS day FROM gold.customer_ltv")
        drawn = trace(app, "recency_frequency")
        assert sum(map(sum, drawn["z"])) == len(rows)
        recent = [r for r in rows if (newest.day - r.last_order_date).days <= 30]
        assert sum(line[0] for line in drawn["z"]) == len(recent)
        assert drawn["z"][0][0] == sum(r.orders == 1 for r in recent)
        assert drawn["z"][4][0] == sum(r.orders >= 13 for r in recent)

        cohorts = lake.rows(
            lakehouse,
            f"""SELECT strftime(c.first_order_date, '%Y-%m') AS cohort,
                       datediff('month', c.first_order_date, o.order_date) AS later,
                       count(DISTINCT o.customer_id) AS customers
                FROM silver.orders_clean o JOIN gold.customer_ltv c USING (customer_id)
                WHERE o.{REVENUE} AND {chosen.replace("segment", "c.segment")} GROUP BY ALL""",
        )
        size = {r.cohort: r.customers for r in cohorts if r.later == 0}
        # The last month of the data has not ended.
        expected = {
            (r.cohort, r.later): r.customers / size[r.cohort]
            for r in cohorts
            if r.later and _month(r.cohort, r.later) < LAST.strftime("%Y-%m")
        }
        drawn = trace(app, "cohorts")
        assert {
            (cohort.split()[0], later): share
            for cohort, line in zip(drawn["y"], drawn["z"], strict=True)
            for later, share in zip(drawn["x"], line, strict=True)
            if share == share and share is not None
        } == pytest.approx(expected)


def _month(cohort: str, later: int) -> str:
    months = int(cohort[:4]) * 12 + int(cohort[5:]) - 1 + later
    return f"{months // 12}-{months % 12 + 1:02}"


def test_one_customer(lakehouse: Path):
    app = opened("customers")
    for customer in ("C-0002", "C-0005"):
        clean(app.text_input(key="customer").set_value(customer).run())
        versions = lake.rows(lakehouse, f"SELECT * FROM silver.dim_customers WHERE customer_id = '{customer}'")
        orders = lake.rows(lakehouse, f"SELECT * FROM silver.orders_clean WHERE customer_id = '{customer}'")
        *bars, counted, not_counted = traces(app, "timeline")
        assert [len(bar["x"]) for bar in bars] == [len(versions)] * 3
        for marks, taken in ((counted, False), (not_counted, True)):
            expected = sorted(o.net_amount for o in orders if (o.status in ("cancelled", "returned")) == taken)
            assert sorted(map(cents, marks["y"])) == expected
    app.text_input(key="customer").set_value("'; DROP TABLE orders; --").run()
    assert "There is no customer with this id" in clean(app).info[0].value


def test_products(lakehouse: Path):
    app = opened("products")
    for span, categories in SELECTIONS:
        select(app, span, categories)
        first, last = SPANS[span]
        rows = lake.rows(
            lakehouse,
            f"""SELECT p.product_id, p.category, p.list_price, p.is_active, coalesce(s.units, 0)::BIGINT AS units,
                       coalesce(s.revenue, 0) AS revenue
                FROM silver.dim_products p LEFT JOIN (
                  SELECT product_id, sum(quantity) AS units, sum(net_amount) AS revenue FROM silver.orders_clean
                  WHERE {where(first, last, [])} AND {REVENUE} GROUP BY product_id) s USING (product_id)
                WHERE {f"category IN ({', '.join(map(text, categories))})" if categories else "true"}
                ORDER BY revenue DESC, product_id""",
        )
        sold = [row for row in rows if row.units]
        shown = metrics(app)
        assert shown["Products sold"] == f"{len(sold):,}", (span, categories)
        assert shown["Units"] == f"{sum(row.units for row in rows):,}"
        assert shown["Active, but not sold"] == f"{sum(row.is_active and not row.units for row in rows):,}"
        drawn = trace(app, "best_sellers")
        assert [*zip(drawn["y"], map(cents, drawn["x"]), strict=True)] == [
            (r.product_id, r.revenue) for r in sold[:12]
        ][::-1]
        for product, *_, rank in zip(drawn["y"], *zip(*drawn["customdata"], strict=True), strict=True):
            (row,) = (r for r in sold if r.product_id == product)
            assert rank == 1 + sum(r.category == row.category and r.revenue > row.revenue for r in sold)
        drawn = trace(app, "price_units")
        assert sorted(zip(map(cents, drawn["x"]), drawn["y"], strict=True)) == sorted(
            (r.list_price, r.units) for r in sold
        )
        for bar in traces(app, "share_in_category"):
            begin, end = {"first": (0, 1), "2nd to 5th": (1, 5), "6th to 20th": (5, 20), "all others": (20, 99)}[
                bar["name"]
            ]
            for category, share in zip(bar["y"], bar["x"], strict=True):
                ordered = [row.revenue for row in sold if row.category == category]
                assert share == pytest.approx(float(sum(ordered[begin:end]) / sum(ordered)), abs=1e-6)
        active, edges = [row.units for row in rows if row.is_active], [-1, 0, 2, 5, 20, 100, 10**9]
        assert trace(app, "slow_sellers")["y"] == [sum(a < u <= b for u in active) for a, b in pairwise(edges)]
        before = timedelta((last - first).days + 1)
        if first - before >= FIRST:
            then = dict(
                lake.rows(
                    lakehouse,
                    f"""SELECT product_id, sum(net_amount) FROM silver.orders_clean
                        WHERE {where(first - before, last - before, [])} AND {REVENUE} GROUP BY product_id""",
                )
            )
            change = {r.product_id: r.revenue - then.get(r.product_id, 0) for r in rows}
            drawn = trace(app, "movers")
            assert all(cents(x) == change[product] for product, x in zip(drawn["y"], drawn["x"], strict=True))
            assert cents(max(drawn["x"])) == max(change.values())
            assert cents(min(drawn["x"])) == min(change.values())


def test_products_over_all_days_are_those_of_gold(lakehouse: Path):
    app = opened("products", period="All")
    gold = lake.rows(lakehouse, "SELECT product_id, revenue, category_rank FROM gold.product_performance")
    drawn = trace(app, "best_sellers")
    ranks = {product: entry[3] for product, entry in zip(drawn["y"], drawn["customdata"], strict=True)}
    amounts = dict(zip(drawn["y"], map(cents, drawn["x"]), strict=True))
    for row in gold:
        if row.product_id in amounts:
            assert (amounts[row.product_id], ranks[row.product_id]) == (row.revenue, row.category_rank)


def test_traffic(lakehouse: Path):
    app = opened("traffic")
    for days in ((date(2026, 3, 5), date(2026, 3, 6)), (date(2026, 3, 5),) * 2, (date(2026, 3, 6),) * 2):
        app.get_by_key("traffic_period").set_value("Dates").run()
        app.date_input(key="traffic_from").set_value(days[0])
        clean(app.date_input(key="traffic_to").set_value(days[1]).run())

        def chosen(column: str, days: tuple[date, date] = days) -> str:
            first, end = (f"TIMESTAMPTZ '{day} 00:00:00+00'" for day in (days[0], days[1] + timedelta(1)))
            return f"{column} >= {first} AND {column} < {end}"

        hours = lake.rows(
            lakehouse, f"SELECT * FROM gold.hourly_traffic_metrics WHERE {chosen('hour_ts')} ORDER BY hour_ts"
        )
        views, sessions, purchases = traces(app, "visits_by_hour")
        assert views["y"] == [row.page_views for row in hours]
        assert sessions["y"] == [row.sessions for row in hours]
        assert purchases["y"] == [row.purchases for row in hours]
        assert trace(app, "conversion")["y"] == pytest.approx(
            [float("nan") if row.conversion is None else float(row.conversion) for row in hours], nan_ok=True
        )
        shown = metrics(app)
        assert shown["Sessions"] == f"{sum(row.sessions for row in hours):,}"
        assert shown["Purchases"] == f"{sum(row.purchases for row in hours):,}"
        visits = lake.rows(lakehouse, f"SELECT * FROM silver.clickstream_sessions WHERE {chosen('session_start_ts')}")
        steps = ["page_view", "product_view", "add_to_cart", "checkout", "purchase"]
        far = [steps.index(visit.funnel_step) for visit in visits if visit.funnel_step]
        assert trace(app, "funnel")["x"] == [sum(f >= n for f in far) for n in range(5)]
        assert shown["Conversion"] == f"{sum(v.is_converted for v in visits) / len(visits) * 100:.2f} %"
        for column, key in (("device", "devices"), ("referrer", "referrers")):
            expected = lake.rows(
                lakehouse,
                f"""SELECT coalesce(replace(replace({column}, 'https://', ''), '/', ''), 'direct'), count(*)
                    FROM (SELECT DISTINCT s.user_id, e.{column} FROM silver.clickstream_sessions s
                          JOIN silver.clickstream_events e ON e.user_id = s.user_id AND e.event_ts = s.session_start_ts
                          WHERE {chosen("s.session_start_ts")}) GROUP BY 1""",
            )
            drawn = trace(app, key)
            assert dict(zip(drawn["y"], drawn["x"], strict=True)) == dict(expected)
    assert metrics(app)["Latency, median"] == "2.2 s"
    assert trace(app, "latency")["y"] == pytest.approx([1.5 + n / 10 for n in range(8)])


def test_the_landing_page(lakehouse: Path):
    shown = metrics(opened())
    (now,) = lake.rows(
        lakehouse,
        f"""SELECT sum(orders)::BIGINT, sum(units)::BIGINT FROM gold.daily_sales_summary
            WHERE {where(*SPANS["30 days"], [])}""",
    )
    assert (shown["Orders"], shown["Units"]) == (f"{now[0]:,}", f"{now[1]:,}")
    (ltv,) = lake.rows(lakehouse, "SELECT count(*), count(*) FILTER (segment = 'High') FROM gold.customer_ltv")
    assert (shown["Customers who bought"], shown["Segment High"]) == (f"{ltv[0]:,}", f"{ltv[1]:,}")
