"""The contracts of the days whose work is in tables: each check against tables that are not as they should be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from generators import generate
from shared import bronze, catalog, gold, pipeline, silver
from shared.course import days
from shared.course.checks import check_day
from shared.course.contracts import week1
from shared.course.contracts.week1 import COURSE_DAYS, FIRST_TABLE
from shared.settings import Settings, get_settings

SCHEMAS = "The four schemas exist, each with its comment and its directory"
VOLUME = "The landing volume is there"
CHANGED = "ops.first_table was created, filled and changed"
LOG = "The log of ops.first_table has one entry per version and adds up to the rows of the table"
DAYS = "ops.course_days lists every day of the course once"
COLUMNS = "AC-001: the columns and types of every bronze table are those of the data model"
ROWS = "AC-001: every bronze table has as many rows as its files have lines, by the manifest"
ONCE = "Every file in the landing volume was ingested, and exactly once"
MALFORMED = "Malformed lines are kept, as many as were injected"
METADATA = "ops.table_metadata holds every declared table as it is declared, and all of it together is sound"
ACCOUNTS = "AC-004: of each source, rows read = accepted + quarantined + duplicates, and none is left unread"
DEFECTS = "AC-004: every kind of defect is found as often as it was injected"
ORDERS = (
    "Law 2: every order is in silver.orders_clean exactly once, unless all that was said of it is in the quarantine"
)
AMOUNTS = "Every order's amounts follow from quantity, price and discount, to the cent"
EMAIL = "AC-003: where a customer's email changes, the old version has its end_date and one version at most is current"
LAW_1 = "Law 1: versions neither overlap nor repeat each other, and are open exactly where is_current says so"
ANY_ORDER = "silver.dim_customers is the same from any order of delivery: it equals the history of its set of events"
PRODUCTS = "silver.dim_products has one row for each product: its newest state"
GOLD_METADATA = "ops.gold_metadata holds every declared table as it is declared, and all of it together is sound"
SALES_3, LTV_3, PERFORMANCE_3 = (
    f"Law 3: gold.{table} adds up to silver.orders_clean, to the cent, for every {group}"
    for table, group in (
        ("daily_sales_summary", "day and category"), ("customer_ltv", "customer"), ("product_performance", "product"),
    )
)  # fmt: skip
SALES_5, LTV_5, PERFORMANCE_5 = (
    f"Law 5: gold.{table} holds what a full recompute would"
    for table in ("daily_sales_summary", "customer_ltv", "product_performance")
)
AC_006 = "AC-006: three customers at the edges of the thresholds land in High, Medium and Low"
RANKS = "A product's rank is one more than the products of its category that made more revenue"
NFR_001 = "NFR-001: the last run of all layers is in ops.run_log under one run id, and took at most 60 minutes"
AS_OF = "Every order points at the version of its customer that was valid when it was placed"


@pytest.fixture(scope="module")
def course(spark: Any) -> Iterator[Settings]:
    """What stands after day 6, small, and gone after this module."""
    settings = get_settings()
    catalog.create_schemas(spark)
    spark.sql(f"CREATE OR REPLACE TABLE {FIRST_TABLE} (id INT, name STRING)")
    spark.sql(f"INSERT INTO {FIRST_TABLE} VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    spark.sql(f"DELETE FROM {FIRST_TABLE} WHERE id = 2")
    write_days(spark, days.as_rows())
    # What the lineage listener would have written: the tests' engine has none.
    output = {"facets": {"symlinks": {"identifiers": [{"name": FIRST_TABLE}]}}}
    (settings.lineage / "events.jsonl").write_text(json.dumps({"eventType": "COMPLETE", "outputs": [output]}) + "\n")
    generate(settings.raw, scale=0.01, seed=42, defects=0.1, days=2, progress=False)
    bronze.ingest(spark)
    silver.run(spark)
    yield settings
    for table in catalog.tables(spark, ("silver",)):
        silver.reset(spark, table)
    for table in ("ops.table_metadata", "ops.run_log", "ops.quality_results"):
        catalog.drop_table(spark, table)
    for source in bronze.SOURCES:
        bronze.reset(spark, source)
    for table in (FIRST_TABLE, COURSE_DAYS):
        catalog.drop_table(spark, table)
    shutil.rmtree(settings.raw)


@pytest.fixture(scope="module")
def course_of_nine_days(spark: Any, course: Settings) -> Iterator[Settings]:
    """What stands after day 9."""
    assert pipeline.run(spark).ok
    yield course
    for table in catalog.tables(spark, ("gold",)):
        gold.reset(spark, table)
    catalog.drop_table(spark, "ops.gold_metadata")


def write_days(spark: Any, rows: list[Any], columns: str = days.COLUMNS) -> None:
    frame = spark.createDataFrame(rows, columns)
    frame.write.mode("overwrite").option("overwriteSchema", "true").saveAsTable(COURSE_DAYS)


def failures(spark: Any, day: int) -> dict[str, str]:
    return {entry.name: entry.found for entry in check_day(day, spark) if not entry.ok}


@pytest.mark.parametrize("day", [1, 2, 3, 4, 5, 6])
def test_a_day_passes_after_its_work(spark: Any, course: Settings, day: int) -> None:
    assert failures(spark, day) == {}


# Day 1


def test_day_1_fails_if_a_schema_has_another_comment(spark: Any, course: Settings) -> None:
    spark.sql("COMMENT ON SCHEMA gold IS 'mine'")
    try:
        assert failures(spark, 1) == {SCHEMAS: "gold has the comment 'mine'"}
    finally:
        spark.sql(f"COMMENT ON SCHEMA gold IS {catalog.sql_literal(catalog.SCHEMAS['gold'])}")


def test_day_1_fails_if_a_schema_is_missing_or_elsewhere(spark: Any, course: Settings, tmp_path: Path) -> None:
    comment = catalog.sql_literal(catalog.SCHEMAS["gold"])
    spark.sql("DROP SCHEMA gold")
    try:
        assert failures(spark, 1) == {SCHEMAS: "gold is missing"}
        spark.sql(f"CREATE SCHEMA gold COMMENT {comment} LOCATION '{tmp_path.as_uri()}'")
        assert "gold is kept in file:" in failures(spark, 1)[SCHEMAS]
        spark.sql("DROP SCHEMA gold")
    finally:
        catalog.create_schemas(spark)


def test_day_1_fails_without_a_landing_volume(spark: Any, course: Settings) -> None:
    with moved(course.raw):
        assert failures(spark, 1) == {VOLUME: "nothing"}


@contextmanager
def moved(path: Path) -> Iterator[None]:
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_day_1_fails_if_the_log_lost_an_entry(spark: Any, course: Settings) -> None:
    log = catalog.table_path(FIRST_TABLE) / "_delta_log"
    with moved(log / f"{1:020d}.json"):
        assert LOG in failures(spark, 1)


def test_day_1_fails_if_the_log_does_not_add_up(spark: Any, course: Settings) -> None:
    newest = sorted((catalog.table_path(FIRST_TABLE) / "_delta_log").glob("*.json"))[-1]
    content = newest.read_text()
    newest.write_text("\n".join(line for line in content.splitlines() if '"remove"' not in line) + "\n")
    try:
        assert LOG in failures(spark, 1)
    finally:
        newest.write_text(content)


def test_day_1_fails_if_the_table_was_only_created(
    spark: Any, course: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(week1, "FIRST_TABLE", COURSE_DAYS)
    assert failures(spark, 1)[CHANGED] == "versions 0 to 0"


# Day 2


@pytest.mark.parametrize("spoil", ["a day is there twice", "a column is missing", "no table"])
def test_day_2_fails_if(spark: Any, course: Settings, spoil: str) -> None:
    rows = days.as_rows()
    try:
        match spoil:
            case "a day is there twice":
                write_days(spark, [*rows, rows[0]])
            case "a column is missing":
                write_days(spark, [row[:4] for row in rows], "day INT, name STRING, title STRING, week INT")
            case "no table":
                catalog.drop_table(spark, COURSE_DAYS)
        assert set(failures(spark, 2)) == {DAYS}
    finally:
        write_days(spark, rows)


# Days 5 and 6: each table changed by hand, and brought back


@contextmanager
def altered(spark: Any, table: str, statement: str) -> Iterator[None]:
    version = catalog.version(spark, table)
    spark.sql(statement.format(table=table, **some(spark)))
    assert catalog.version(spark, table) > version
    try:
        yield
    finally:
        spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF {version}")


def some(spark: Any) -> dict[str, str]:
    """Return what the statements name: conditions on an order, a product, and a customer who has one version."""
    row = spark.sql("""
        SELECT (SELECT min(order_id) FROM silver.orders_clean), (SELECT min(product_id) FROM silver.dim_products),
               (SELECT min(customer_id) FROM (
                  SELECT customer_id FROM silver.dim_customers GROUP BY customer_id
                  HAVING count(*) = 1 AND every(is_current AND NOT is_inferred)
                ) ANTI JOIN silver.orders_clean USING (customer_id))
    """).first()
    names = ("order", "product", "customer")
    return {name: f"{name}_id = '{value}'" for name, value in zip(names, row, strict=True)}


Alterations = list[tuple[str, str]]
"""Tables, each with a statement that spoils it."""


def failures_with(spark: Any, day: int, alterations: Alterations) -> dict[str, str]:
    """Return what a day's checks find after all these alterations, which are taken back."""
    with ExitStack() as stack:
        for table, statement in alterations:
            stack.enter_context(altered(spark, table, statement))
        return failures(spark, day)


def assert_found(spark: Any, day: int, alterations: Alterations, expected: dict[str, str]) -> None:
    """See that after these alterations the expected checks fail and no others, each with a text that begins so."""
    wrong = failures_with(spark, day, alterations)
    assert set(wrong) == set(expected)
    assert all(re.match(found, wrong[name]) for name, found in expected.items()), wrong


# A day's checks take seconds, so that alterations which different checks must find are made together.
@pytest.mark.parametrize(
    ("alterations", "expected"),
    [
        (
            [
                (
                    "ops.table_metadata",
                    "UPDATE {table} SET processing_order = 5 WHERE target = 'silver.orders_clean'",
                ),
                (
                    "silver.quarantine",
                    "DELETE FROM {table} WHERE table_name = 'silver.dim_customers' AND rule = 'email_is_valid'",
                ),
                (
                    "ops.quality_results",
                    "UPDATE {table} SET rows_failed = rows_failed + 1 WHERE rule = 'email_is_valid'",
                ),
                ("silver.orders_clean", "DELETE FROM {table} WHERE {order}"),
                ("silver.orders_clean", "UPDATE {table} SET net_amount = net_amount + 0.01 WHERE {order}"),
            ],
            {
                METADATA: "silver.orders_clean differs from its declaration; silver.orders_clean: processing_order 5 ",
                ACCOUNTS: r"silver.dim_customers: \d+ rows in silver.quarantine, \d+ set aside$",
                DEFECTS: "silver.dim_customers: email_is_valid ",
                ORDERS: "1 orders lost",
                AMOUNTS: "1 wrong net_amount, 1 wrong discount_amount",
            },
        ),
        (
            [
                ("ops.table_metadata", "DELETE FROM {table} WHERE target = 'silver.orders_clean'"),
                (
                    "ops.run_log",
                    "UPDATE {table} SET rows_accepted = rows_accepted - 1 WHERE table_name = 'silver.dim_products'",
                ),
                ("ops.quality_results", "DELETE FROM {table} WHERE rule = 'status_is_known'"),
                ("silver.orders_clean", "INSERT INTO {table} SELECT * FROM {table} WHERE {order}"),
            ],
            {
                METADATA: "silver.orders_clean is missing",
                ACCOUNTS: r"silver.dim_products: \d+ rows read, \d+ accounted for$",
                DEFECTS: "silver.orders_clean: status_is_known 0, injected ",
                ORDERS: "1 orders more than once",
            },
        ),
        (
            [
                (
                    "ops.run_log",
                    "UPDATE {table} SET rows_read = rows_read - 1 WHERE table_name = 'silver.orders_clean'",
                ),
                ("silver.orders_clean", "UPDATE {table} SET order_id = 'O-0' WHERE {order}"),
                ("silver.orders_clean", "UPDATE {table} SET gross_amount = NULL WHERE {order}"),
            ],
            {
                ACCOUNTS: r"silver.orders_clean: [\d,]+ of [\d,]+ rows read$",
                ORDERS: "1 orders lost, 1 orders that nobody delivered",
                AMOUNTS: "1 wrong gross_amount, 1 wrong discount_amount",
            },
        ),
    ],
)
def test_day_5_fails_if(spark: Any, course: Settings, alterations: Alterations, expected: dict[str, str]) -> None:
    assert_found(spark, 5, alterations, expected)


@pytest.mark.parametrize(
    ("alterations", "expected"),
    [
        (
            [
                ("silver.dim_customers", "UPDATE {table} SET is_current = false WHERE is_current AND {customer}"),
                ("silver.dim_products", "DELETE FROM {table} WHERE {product}"),
                ("silver.orders_clean", "UPDATE {table} SET customer_sk = customer_sk + 1 WHERE {order}"),
            ],
            {
                LAW_1: "is_current contradicts end_date: 1",
                ANY_ORDER: "1 versions lacking, 1 versions too many",
                PRODUCTS: "1 products missing or not at their newest state",
                AS_OF: "1 orders with another version",
            },
        ),
        (
            [
                (
                    "silver.dim_customers",
                    "UPDATE {table} SET end_date = start_date, is_current = false WHERE is_current AND {customer}",
                ),
                (
                    "silver.dim_products",
                    "UPDATE {table} SET updated_at = updated_at - INTERVAL 1 DAY WHERE {product}",
                ),
                ("silver.orders_clean", "UPDATE {table} SET customer_id = 'C-0' WHERE {order}"),
            ],
            {
                LAW_1: "ends before it starts: 1",
                ANY_ORDER: "1 versions lacking, 1 versions too many",
                PRODUCTS: "1 products missing or not at their newest state",
                AS_OF: "1 orders with another version",
            },
        ),
        (
            [
                ("silver.dim_customers", "UPDATE {table} SET city = 'Atlantis' WHERE {customer}"),
                ("silver.dim_products", "INSERT INTO {table} SELECT * FROM {table} WHERE {product}"),
            ],
            {
                ANY_ORDER: "1 versions lacking, 1 versions too many",
                PRODUCTS: "1 products more than once",
            },
        ),
    ],
)
def test_day_6_fails_if(spark: Any, course: Settings, alterations: Alterations, expected: dict[str, str]) -> None:
    assert_found(spark, 6, alterations, expected)


def test_day_6_fails_if_versions_of_a_customer_contradict_each_other(spark: Any, course: Settings) -> None:
    old_is_open = {"email": "'new@example.com'", "end": "NULL", "is_current": True}
    overlap = {"email": "'new@example.com'", "end": "start_date + INTERVAL 2 DAYS", "is_current": False}
    no_change = {"email": "email", "end": "start_date + INTERVAL 1 DAY", "is_current": False}
    with ExitStack() as stack:
        for how in (old_is_open, overlap, no_change):
            stack.enter_context(two_versions(spark, **how))
        wrong = failures(spark, 6)
    assert set(wrong) == {EMAIL, LAW_1, ANY_ORDER}
    assert wrong[EMAIL] == "1 old versions still open, 1 customers with several current versions"
    for found in ("open, and yet another follows: 1", "overlaps the next: 1", "nothing changes to the next: 1"):
        assert found in wrong[LAW_1]
    assert "ends before it starts" not in wrong[LAW_1]
    assert "contradicts" not in wrong[LAW_1]


@contextmanager
def two_versions(spark: Any, email: str, end: str, is_current: bool) -> Iterator[None]:
    """Give a customer of one version a second one, a day later, and the first version this end."""
    table = "silver.dim_customers"
    customer = some(spark)["customer"]
    first = spark.table(table).where(customer).first().start_date
    changed = {
        "customer_sk": "customer_sk + 1",
        "email": email,
        "start_date": "start_date + INTERVAL 1 DAY",
    }
    columns = ", ".join(changed.get(name, name) for name in spark.table(table).columns)
    version = catalog.version(spark, table)
    spark.sql(f"INSERT INTO {table} SELECT {columns} FROM {table} WHERE {customer}")
    spark.sql(
        f"UPDATE {table} SET end_date = {end}, is_current = {is_current} "
        f"WHERE {customer} AND start_date = TIMESTAMP'{first}'"
    )
    try:
        yield
    finally:
        spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF {version}")


@pytest.mark.parametrize("day", [7, 8, 9])
def test_a_day_of_gold_passes_after_its_work(spark: Any, course_of_nine_days: Settings, day: int) -> None:
    assert failures(spark, day) == {}


@pytest.mark.parametrize(
    ("day", "alterations", "expected"),
    [
        (
            7,
            [
                ("ops.gold_metadata", "DELETE FROM {table} WHERE target = 'gold.customer_ltv'"),
                ("gold.daily_sales_summary", "UPDATE {table} SET net_revenue = net_revenue + 0.01"),
            ],
            {GOLD_METADATA, SALES_3, SALES_5},
        ),
        (8, [("gold.customer_ltv", "UPDATE {table} SET lifetime_value = lifetime_value + 0.01")], {LTV_3, LTV_5}),
        (8, [("gold.customer_ltv", "UPDATE {table} SET segment = 'High'")], {LTV_5}),
        (
            9,
            [
                ("gold.product_performance", "UPDATE {table} SET units_sold = units_sold + 1"),
                ("ops.run_log", "UPDATE {table} SET status = 'failed' WHERE table_name = 'gold.customer_ltv'"),
            ],
            {PERFORMANCE_3, PERFORMANCE_5, NFR_001},
        ),
        (
            9,
            [
                ("gold.product_performance", "UPDATE {table} SET category_rank = category_rank + 1"),
                ("ops.run_log", "UPDATE {table} SET seconds = 3601 WHERE table_name = 'bronze.orders_raw'"),
            ],
            {RANKS, PERFORMANCE_5, NFR_001},
        ),
        (9, [("ops.run_log", "DELETE FROM {table} WHERE table_name LIKE 'bronze.%'")], {NFR_001}),
    ],
)
def test_days_7_to_9_fail_if(
    spark: Any, course_of_nine_days: Settings, day: int, alterations: Alterations, expected: set[str]
) -> None:
    assert set(failures_with(spark, day, alterations)) == expected


def test_day_8_fails_if_the_thresholds_do_not_fall(
    spark: Any, course_of_nine_days: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = gold.TABLES.definition("gold.customer_ltv")
    assert definition.bands is not None
    swapped = definition.bands.model_copy(update={"thresholds": definition.bands.thresholds[::-1]})
    changed = definition.model_copy(update={"bands": swapped})
    monkeypatch.setattr(type(gold.TABLES), "definition", lambda self, target: changed)
    assert AC_006 in failures(spark, 8)


def test_days_5_and_6_fail_without_their_tables(spark: Any, course: Settings) -> None:
    for table in ("silver.dim_customers", "silver.dim_products", "silver.orders_clean"):
        silver.reset(spark, table)
    assert {ACCOUNTS, ORDERS, AMOUNTS} <= set(failures(spark, 5))
    assert set(failures(spark, 6)) == {EMAIL, LAW_1, ANY_ORDER, PRODUCTS, AS_OF}


# Day 4. How rows are counted against files is tried out in tests/unit/test_course_checks.py, which needs no engine.


def test_day_4_fails_if_tables_were_tampered_with(spark: Any, course: Settings) -> None:
    file = spark.table("bronze.products_raw").orderBy("source_file").first().source_file
    spark.sql(f"INSERT INTO bronze.products_raw SELECT * FROM bronze.products_raw WHERE source_file = '{file}'")
    spark.sql("ALTER TABLE bronze.customers_raw ADD COLUMN note STRING")
    spark.sql("ALTER TABLE bronze.orders_raw ALTER COLUMN quantity FIRST")
    found = failures(spark, 4)
    assert set(found) == {COLUMNS, ROWS, ONCE}
    assert found[COLUMNS] == "bronze.customers_raw with note string; bronze.orders_raw in another order"
    assert found[ONCE].startswith(f"{file}: ")


def test_day_4_fails_without_its_tables(spark: Any, course: Settings) -> None:
    for source in bronze.SOURCES:
        bronze.reset(spark, source)
    assert set(failures(spark, 4)) == {COLUMNS, ROWS, ONCE, MALFORMED}
