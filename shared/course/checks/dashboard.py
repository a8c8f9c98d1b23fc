"""Days 21 to 27: the pages of the dashboard load, keep to the source in use, and show what gold says.

Pages are opened without a browser, in this process. They are filled from the source that the notebook chose
(``connect().use(...)``); where nobody chose one, from this home's lakehouse, or from the snapshot if it has no gold.
No check here asks for a Spark session. The dashboard is imported inside of the functions: a machine that only runs the
pipeline does not have its packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.course.checks.registry import Context, Finding, check
from shared.errors import first_line

if TYPE_CHECKING:
    from dashboard.utils.sources import Source

BOOKS = {"period": "30 days", "category": "Books"}
"""Filters as they stand in an address."""


@contextmanager
def pages_filled(context: Context) -> Iterator[Source]:
    """Within the block every page is filled from one source of this machine, which is given."""
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
        old = apptest.opened("sales", **(BOOKS | {"category": "Vinyl"}))
        app.multiselect(key="category").set_value([])
        usual = apptest.run(app)
    wrong = []
    if shown != {"period": BOOKS["period"], "category": [BOOKS["category"]]}:
        wrong.append(f"the link sets {shown}")
    if not any("category=Vinyl" in text for text in apptest.texts(old)):
        wrong.append("the page does not say that Vinyl is not there")
    if apptest.metrics(old) != apptest.metrics(usual):
        wrong.append("an unknown category changes the figures")
    expected = "a link with a filter, and one with a filter value that is not there"
    return Finding("; ".join(wrong) or expected, expected)
