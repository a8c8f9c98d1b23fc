"""What every page must show, asked of DuckDB: another way to each number than the one that the page takes.

The queries read the answers of a source (:data:`~dashboard.utils.queries.QUERIES`), amounts as DECIMAL. With
:mod:`dashboard.figures` they share how an amount is written, and nothing else. The acceptance of the dashboard compares
both after each choice of filters (AC-010); the app itself does not use this module.

>>> compared("customers", apptest.opened("customers"), Rows(Snapshot()), {}).wrong
()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb

from dashboard.figures.chart import money, percent
from dashboard.utils import apptest
from dashboard.utils.queries import IN_SNAPSHOT
from dashboard.utils.sources import Lakehouse, Snapshot

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

Filters = Mapping[str, Any]
"""Filters as they stand in an address: ``{"period": "30 days", "category": ["Books"]}``."""

DAYS = {"30 days": 30, "90 days": 90, "1 year": 365}

USUAL = {"sales": "90 days", "products": "90 days", "customers": "All", "traffic": "All"}
"""What a page shows if nobody has chosen a period."""

KEYS = {"sales": "period", "products": "period", "customers": "joined_period", "traffic": "traffic_period"}

STEPS = ("page_view", "product_view", "add_to_cart", "checkout", "purchase")

CHOICES: tuple[tuple[str, Filters], ...] = (
    ("sales", {}),
    ("sales", {"period": "30 days", "category": ["Books", "Electronics"]}),
    ("customers", {}),
    ("customers", {"joined_period": "1 year", "segment": ["High", "Medium"]}),
    ("products", {}),
    ("products", {"period": "30 days", "category": ["Books", "Electronics"]}),
    ("traffic", {}),
    ("traffic", {"traffic_period": "Dates", "traffic_from": "first", "traffic_to": "first"}),
)
"""Pages with filters: each page without, and with one of every kind. ``first`` is the first day of the data."""


class Rows:
    """DuckDB over the answers of one source, each read once."""

    def __init__(self, source: Lakehouse | Snapshot) -> None:
        self._source = source
        self._con = duckdb.connect()
        self._con.execute("SET TimeZone = 'UTC'")
        self._there: set[str] = set()

    def __call__(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query in which the answer to each question is a table."""
        for name in sorted((set(re.findall(r"\w+", query)) & set(IN_SNAPSHOT)) - self._there):
            self._con.register(name, self._source.answer(IN_SNAPSHOT[name]))
            self._there.add(name)
        return self._con.sql(query).fetchall()

    def one(self, query: str) -> tuple[Any, ...]:
        """Return the only row of a query."""
        (row,) = self(query)
        return row


@dataclass(frozen=True)
class Figure:
    """A figure of a page: what is drawn, and the query that gives the same. Both as a mapping from mark to number."""

    drawn: Callable[[AppTest], dict[Any, Any]]
    asked: Callable[[Rows, Chosen], Mapping[Any, Any]]


@dataclass(frozen=True)
class Chosen:
    """What filters choose, as conditions of SQL.

    Attributes:
        first, last: the days of the period.
        among: the categories or segments; empty: all.
    """

    first: date
    last: date
    among: Sequence[str] = ()

    def where(self, column: str, kind: str = "") -> str:
        """Return the condition: a day within the period, and one of the values of ``kind``."""
        begin, end = (f"TIMESTAMP '{day} 00:00:00'" for day in (self.first, self.last + timedelta(1)))
        values = ", ".join("'" + value.replace("'", "''") + "'" for value in self.among)
        return f"{column} >= {begin} AND {column} < {end}" + (f" AND {kind} IN ({values})" if kind and values else "")

    def before(self) -> Chosen:
        """Return as many days right before."""
        days = (self.last - self.first).days + 1
        return Chosen(self.first - timedelta(days), self.first - timedelta(1), self.among)


def known(rows: Rows, page: str) -> tuple[date, date]:
    """Return the first and the last day of a page's data."""
    table, column = {
        "customers": ("customers", "first_order_date"),
        "traffic": ("traffic", "hour_ts"),
    }.get(page, ("daily_sales", "order_date"))
    first, last = rows.one(f"SELECT min({column})::DATE, max({column})::DATE FROM {table}")
    return first, last


def chosen(rows: Rows, page: str, filters: Filters) -> Chosen:
    """Return what these filters choose of a page's data."""
    first, last = known(rows, page)
    span = filters.get(KEYS[page], USUAL[page])
    if span == "Dates":
        prefix = KEYS[page].removesuffix("period")
        begin, end = (date.fromisoformat(filters[f"{prefix}{what}"]) for what in ("from", "to"))
    else:
        end = last
        begin = first if span == "All" else max(first, last - timedelta(DAYS[span] - 1))
    return Chosen(begin, end, tuple(filters.get("category", filters.get("segment", ()))))


def dated(rows: Rows, page: str, filters: Filters) -> dict[str, Any]:
    """Return filters with ``first`` replaced by the first day of the page's data."""
    first, _ = known(rows, page)
    return {key: first.isoformat() if value == "first" else value for key, value in filters.items()}


def tiles(rows: Rows, page: str, of: Chosen) -> dict[str, str]:
    """Return what the tiles of a page must say."""
    if page == "sales":
        revenue, orders, units = rows.one(
            f"""SELECT coalesce(sum(net_revenue), 0), coalesce(sum(orders), 0)::BIGINT, coalesce(sum(units), 0)::BIGINT
                FROM daily_sales WHERE {of.where("order_date", "category")}"""
        )
        return {
            "Revenue": _amount(revenue),
            "Orders": f"{orders:,}",
            "Average order value": money(float(revenue / orders), cents=True),
            "Units": f"{units:,}",
        }
    if page == "customers":
        count, value, again = rows.one(
            f"""SELECT count(*), sum(lifetime_value), count(*) FILTER (orders > 1) FROM customers
                WHERE {of.where("first_order_date", "segment")}"""
        )
        return {
            "Customers": f"{count:,}",
            "Lifetime value": _amount(value),
            "Value of one customer": money(float(value / count), cents=True),
            "Repeat buyers": percent(again / count),
        }
    if page == "products":
        found = _products(rows, of)
        units, revenue = sum(units for *_, units, _ in found), sum((amount for *_, amount in found), Decimal(0))
        return {
            "Products sold": f"{sum(units > 0 for *_, units, _ in found):,}",
            "Units": f"{units:,}",
            "Revenue": _amount(revenue),
            "Active, but not sold": f"{sum(active and not units for *_, active, units, _ in found):,}",
        }
    sessions, views, purchases = rows.one(
        f"""SELECT sum(sessions)::BIGINT, sum(page_views)::BIGINT, sum(purchases)::BIGINT FROM traffic
            WHERE {of.where("hour_ts")}"""
    )
    (converted,) = rows.one(f"SELECT sum(converted)::BIGINT FROM visits WHERE {of.where('hour_ts')}")
    return {
        "Sessions": f"{sessions:,}",
        "Page views": f"{views:,}",
        "Purchases": f"{purchases:,}",
        "Conversion": percent(converted / sessions, 2),
    }


@dataclass(frozen=True)
class Comparison:
    """A page beside DuckDB.

    Attributes:
        numbers: how many numbers were compared: tiles, and marks of figures.
        wrong: each tile and each figure that differs, in words.
    """

    numbers: int
    wrong: tuple[str, ...]


def compared(page: str, app: AppTest, rows: Rows, filters: Filters) -> Comparison:
    """Compare what a page shows with what DuckDB finds in the same source.

    Args:
        page: its path in the address.
        app: the page, with these filters chosen.
        rows: of the source that the page is filled from.
        filters: as in the address.
    """
    of = chosen(rows, page, filters)
    shown, expected = apptest.metrics(app), tiles(rows, page, of)
    wrong = [
        f"tile {label}: {shown.get(label, 'none')} instead of {value}"
        for label, value in expected.items()
        if shown.get(label) != value
    ]
    numbers = len(expected)
    for key, figure in FIGURES[page].items():
        asked = _rounded(figure.asked(rows, of))
        try:
            drawn = _rounded(figure.drawn(app))
        except KeyError:  # the page has no such figure
            drawn = {}
        numbers += len(asked)
        if marks := [mark for mark in [*asked, *(drawn.keys() - asked.keys())] if drawn.get(mark) != asked.get(mark)]:
            mark = marks[0]
            wrong.append(f"figure {key}: {mark} is {drawn.get(mark)} instead of {asked.get(mark)}")
    return Comparison(numbers, tuple(wrong))


def _amount(value: Decimal) -> str:
    return money(float(value), cents=value < 100_000)


def _rounded(marks: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the marks to the sixth decimal, without those of no value: a gap of a figure is a row less of a query."""
    return {mark: round(float(value), 6) for mark, value in marks.items() if value is not None and value == value}


def _products(rows: Rows, of: Chosen) -> list[tuple[Any, ...]]:
    """Return the catalogue with what each product sold: id, category, price, is active, units, revenue."""
    return rows(
        f"""SELECT p.product_id, p.category, p.list_price, p.is_active, coalesce(s.units, 0)::BIGINT,
                   coalesce(s.revenue, 0)
            FROM products p LEFT JOIN (
              SELECT product_id, sum(units) AS units, sum(revenue) AS revenue FROM product_days
              WHERE {of.where("order_date")} GROUP BY product_id) s USING (product_id)
            WHERE {Chosen(of.first, of.last, of.among).where("DATE '" + str(of.first) + "'", "p.category")}
            ORDER BY 6 DESC, 1"""
    )


def _bars(key: str, number: int = 0) -> Callable[[AppTest], dict[Any, Any]]:
    """Read horizontal bars: label to length."""
    return lambda app: _points(app, key, number, "y", "x")


def _points(app: AppTest, key: str, number: int, mark: str = "x", value: str = "y") -> dict[Any, Any]:
    found = apptest.trace(app, key, number)
    return dict(zip(found[mark], found[value], strict=True))


def _grid(app: AppTest, key: str) -> dict[Any, Any]:
    found = apptest.trace(app, key)
    return {
        (row, column): value
        for row, line in zip(found["y"], found["z"], strict=True)
        for column, value in zip(found["x"], line, strict=True)
    }


def _stacked(key: str) -> Callable[[AppTest], dict[Any, Any]]:
    """Read bars of several parts: (label, part) to length."""
    return lambda app: {
        (label, part["name"]): value
        for part in apptest.traces(app, key)
        for label, value in zip(part["y"], part["x"], strict=True)
    }


# Sales


def _revenue_over_time(rows: Rows, of: Chosen) -> dict[Any, Any]:
    """Revenue per day of each step: of a day, or of a week counted from the first day if the period is long."""
    days = (of.last - of.first).days + 1
    step = 1 if days <= 92 else 7
    amounts = dict(
        rows(
            f"""SELECT datediff('day', DATE '{of.first}', order_date) // {step}, sum(net_revenue) FROM daily_sales
                WHERE {of.where("order_date", "category")} GROUP BY 1"""
        )
    )
    return {
        number: float(amounts.get(number, 0)) / min(step, days - number * step) for number in range(-(-days // step))
    }


def _order_value(rows: Rows, of: Chosen) -> dict[Any, Any]:
    step = 1 if (of.last - of.first).days < 92 else 7
    return dict(
        rows(
            f"""SELECT datediff('day', DATE '{of.first}', order_date) // {step}, sum(net_revenue) / sum(orders)
                FROM daily_sales WHERE {of.where("order_date", "category")} GROUP BY 1"""
        )
    )


def _by_number(key: str, value: str = "y") -> Callable[[AppTest], dict[Any, Any]]:
    return lambda app: dict(enumerate(apptest.trace(app, key)[value]))


def _weekday_hours(rows: Rows, of: Chosen) -> dict[Any, Any]:
    weekdays = [(of.first + timedelta(n)).weekday() for n in range((of.last - of.first).days + 1)]
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    orders = {
        (day, hour): count
        for day, hour, count in rows(
            f"""SELECT isodow(order_date) - 1, hour, sum(orders)::BIGINT FROM order_hours
                WHERE {of.where("order_date", "category")} GROUP BY ALL"""
        )
    }
    return {
        (name, hour): round(orders.get((day, hour), 0) / weekdays.count(day), 3)
        for day, name in enumerate(names)
        if day in weekdays
        for hour in range(24)
    }


# Customers


def _shares(rows: Rows, of: Chosen) -> dict[Any, Any]:
    found = rows(
        f"""SELECT segment, sum(lifetime_value), count(*) FROM customers
            WHERE {of.where("first_order_date", "segment")} GROUP BY 1"""
    )
    value, count = sum(row[1] for row in found), sum(row[2] for row in found)
    return {("Revenue", name): part / value for name, part, _ in found} | {
        ("Customers", name): part / count for name, _, part in found
    }


def _retention(rows: Rows, of: Chosen) -> dict[Any, Any]:
    """Share of each cohort in each later month, without the month in which the data end, unless they end with it."""
    counts = {
        (cohort, later): count
        for cohort, later, count in rows(
            f"""SELECT strftime(first_order_date, '%Y-%m'), datediff('month', first_order_date, order_month),
                       sum(customers)::BIGINT
                FROM retention, (SELECT max(last_order_date) + 1 AS day_after FROM customers)
                WHERE {of.where("first_order_date", "segment")} AND order_month + INTERVAL 1 MONTH <= day_after
                GROUP BY ALL"""
        )
    }
    sizes = dict(
        rows(
            f"""SELECT strftime(first_order_date, '%Y-%m'), sum(customers)::BIGINT FROM retention
                WHERE {of.where("first_order_date", "segment")}
                AND order_month = date_trunc('month', first_order_date) GROUP BY 1"""
        )
    )
    return {
        (f"{cohort} ({sizes[cohort]:,})", later): count / sizes[cohort]
        for (cohort, later), count in counts.items()
        if later
    }


def _lorenz_drawn(app: AppTest) -> dict[Any, Any]:
    """The curve at ten places, from its points: a figure has at most 400 of them."""
    found = apptest.trace(app, "lorenz")
    places = range(0, len(found["x"]), max(1, len(found["x"]) // 10))
    return {round(found["x"][n], 9): found["y"][n] for n in places}


def _lorenz(rows: Rows, of: Chosen) -> dict[Any, Any]:
    values = [
        row[0]
        for row in rows(
            f"""SELECT sum(lifetime_value) OVER (ORDER BY lifetime_value ROWS UNBOUNDED PRECEDING) FROM customers
                WHERE {of.where("first_order_date", "segment")} ORDER BY 1"""
        )
    ]
    together = [Decimal(0), *values]
    points = min(400, len(values) + 1)
    # The points as the figure spreads them: evenly over the customers.
    at = sorted({round(n * len(values) / (points - 1)) for n in range(points)})
    return {
        round(at[n] / len(values), 9): together[at[n]] / together[-1] for n in range(0, len(at), max(1, len(at) // 10))
    }


def _groups(rows: Rows, of: Chosen) -> dict[Any, Any]:
    found = {
        (frequency, recency): count
        for frequency, recency, count in rows(
            f"""SELECT CASE WHEN orders = 1 THEN '1' WHEN orders <= 3 THEN '2 to 3' WHEN orders <= 6 THEN '4 to 6'
                            WHEN orders <= 12 THEN '7 to 12' ELSE '13 and more' END,
                       CASE WHEN newest - last_order_date <= 30 THEN 'up to 30'
                            WHEN newest - last_order_date <= 90 THEN '31 to 90'
                            WHEN newest - last_order_date <= 180 THEN '91 to 180'
                            WHEN newest - last_order_date <= 365 THEN '181 to 365' ELSE 'more than 365' END,
                       count(*)
                FROM customers, (SELECT max(last_order_date) AS newest FROM customers)
                WHERE {of.where("first_order_date", "segment")} GROUP BY ALL"""
        )
    }
    frequencies = ("1", "2 to 3", "4 to 6", "7 to 12", "13 and more")
    recencies = ("up to 30", "31 to 90", "91 to 180", "181 to 365", "more than 365")
    return {(f, r): found.get((f, r), 0) for f in frequencies for r in recencies}


# Products


def _best(rows: Rows, of: Chosen) -> dict[Any, Any]:
    return {product: revenue for product, *_, units, revenue in _products(rows, of)[:12] if units}


def _moved(rows: Rows, of: Chosen) -> dict[Any, Any]:
    """The six largest rises and falls of revenue; nothing if the data do not reach back to a period to compare with."""
    if of.before().first < known(rows, "products")[0]:
        return {}
    then = {product: revenue for product, *_, revenue in _products(rows, of.before())}
    changes = [(revenue - then[product], product) for product, *_, revenue in _products(rows, of)]
    up = sorted((-change, product) for change, product in changes if change > 0)[:6]
    down = sorted((change, product) for change, product in changes if change < 0)[:6]
    return {product: -change for change, product in up} | {product: change for change, product in down}


def _prices(rows: Rows, of: Chosen) -> dict[Any, Any]:
    """Products by price and units: how many stand at each place."""
    places: dict[Any, int] = {}
    for _, _, price, _, units, _ in _products(rows, of):
        if units and price:
            places[float(price), units] = places.get((float(price), units), 0) + 1
    return places


def _prices_drawn(app: AppTest) -> dict[Any, Any]:
    found = apptest.trace(app, "price_units")
    places: dict[Any, int] = {}
    for price, units in zip(found["x"], found["y"], strict=True):
        # A price in cents has no exact float.
        places[round(price, 2), units] = places.get((round(price, 2), units), 0) + 1
    return places


def _bands(rows: Rows, of: Chosen) -> dict[Any, Any]:
    by_category: dict[str, list[Decimal]] = {}
    for _, category, *_, units, revenue in _products(rows, of):
        if units:
            by_category.setdefault(category, []).append(revenue)
    edges = {"first": (0, 1), "2nd to 5th": (1, 5), "6th to 20th": (5, 20), "all others": (20, None)}
    return {
        (category, name): sum(amounts[begin:end], Decimal(0)) / sum(amounts)
        for category, amounts in by_category.items()
        for name, (begin, end) in edges.items()
    }


def _slow(rows: Rows, of: Chosen) -> dict[Any, Any]:
    edges = {"none": 0, "1 to 2": 2, "3 to 5": 5, "6 to 20": 20, "21 to 100": 100, "more than 100": 10**12}
    counts, below = {}, -1
    active = [units for *_, is_active, units, _ in _products(rows, of) if is_active]
    for name, edge in edges.items():
        counts[name] = sum(below < units <= edge for units in active)
        below = edge
    return counts


# Traffic


def _by_hour(column: str) -> Callable[[Rows, Chosen], dict[Any, Any]]:
    return lambda rows, of: dict(
        enumerate(row[0] for row in rows(f"SELECT {column} FROM traffic WHERE {of.where('hour_ts')} ORDER BY hour_ts"))
    )


def _reached(rows: Rows, of: Chosen) -> dict[Any, Any]:
    furthest = dict(
        rows(f"SELECT funnel_step, sum(sessions)::BIGINT FROM visits WHERE {of.where('hour_ts')} GROUP BY 1")
    )
    return {place: sum(furthest.get(step, 0) for step in STEPS[place:]) for place in range(len(STEPS))}


def _sessions_by(column: str, unknown: str) -> Callable[[Rows, Chosen], dict[Any, Any]]:
    return lambda rows, of: dict(
        rows(
            f"""SELECT coalesce(regexp_replace({column}, '^https?://([^/]+).*$', '\\1'), '{unknown}') AS name,
                       sum(sessions)::BIGINT AS sessions
                FROM visits WHERE {of.where("hour_ts")} GROUP BY 1 ORDER BY sessions DESC, name LIMIT 10"""
        )
    )


def _numbered(key: str, number: int) -> Callable[[AppTest], dict[Any, Any]]:
    return lambda app: dict(enumerate(apptest.trace(app, key, number)["y"]))


FIGURES: dict[str, dict[str, Figure]] = {
    "sales": {
        "revenue_over_time": Figure(_by_number("revenue_over_time"), _revenue_over_time),
        "average_order_value": Figure(_by_number("average_order_value"), _order_value),
        "revenue_by_category": Figure(
            _bars("revenue_by_category"),
            lambda rows, of: dict(
                rows(
                    f"""SELECT category, sum(net_revenue) FROM daily_sales WHERE {of.where("order_date", "category")}
                        GROUP BY 1"""
                )
            ),
        ),
        "orders_by_status": Figure(
            _bars("orders_by_status"),
            lambda rows, of: dict(
                rows(
                    f"""SELECT status, sum(orders)::BIGINT FROM order_mix WHERE {of.where("order_date", "category")}
                        GROUP BY 1"""
                )
            ),
        ),
        "revenue_by_payment": Figure(
            _bars("revenue_by_payment"),
            lambda rows, of: dict(
                rows(
                    f"""SELECT replace(payment_method, '_', ' '), sum(net_amount) FROM order_mix
                        WHERE {of.where("order_date", "category")} AND status NOT IN ('cancelled', 'returned')
                        GROUP BY 1"""
                )
            ),
        ),
        "orders_by_weekday_and_hour": Figure(lambda app: _grid(app, "orders_by_weekday_and_hour"), _weekday_hours),
    },
    "customers": {
        "segments": Figure(_stacked("segments"), _shares),
        "cohorts": Figure(lambda app: _grid(app, "cohorts"), _retention),
        "lorenz": Figure(_lorenz_drawn, _lorenz),
        "recency_frequency": Figure(lambda app: _grid(app, "recency_frequency"), _groups),
    },
    "products": {
        "best_sellers": Figure(_bars("best_sellers"), _best),
        "movers": Figure(_bars("movers"), _moved),
        "price_units": Figure(_prices_drawn, _prices),
        "share_in_category": Figure(_stacked("share_in_category"), _bands),
        "slow_sellers": Figure(lambda app: _points(app, "slow_sellers", 0), _slow),
    },
    "traffic": {
        "visits_by_hour, page views": Figure(_numbered("visits_by_hour", 0), _by_hour("page_views")),
        "visits_by_hour, sessions": Figure(_numbered("visits_by_hour", 1), _by_hour("sessions")),
        "visits_by_hour, purchases": Figure(_numbered("visits_by_hour", 2), _by_hour("purchases")),
        "conversion": Figure(_numbered("conversion", 0), _by_hour("conversion")),
        "funnel": Figure(lambda app: dict(enumerate(apptest.trace(app, "funnel")["x"])), _reached),
        "devices": Figure(_bars("devices"), _sessions_by("device", "unknown")),
        "referrers": Figure(_bars("referrers"), _sessions_by("referrer", "direct")),
    },
}
"""The figures of each page on which its filters act. The latency of the stream and one customer's history have none."""
