"""The checks of the days whose work is in tables, each against tables with a mistake."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import lake
import pytest
from deltalake import DeltaTable, write_deltalake

from generators import generate
from shared import bronze, catalog, gold, pipeline, quality, silver, tags
from shared.course import days
from shared.course.checks import check_day, law_4, verify, week1
from shared.course.checks.maintenance import BATCH, FILES_READ, GOLD
from shared.course.checks.week1 import COURSE_DAYS, FIRST_TABLE
from shared.maintenance import maintain
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
DIFFERENT = (
    "Every mutant of gold.daily_sales_summary makes another table than the right declaration, "
    "from this home's orders and a guest's"
)
RULES = "ops.quality_rules holds every rule, its newest version as it is declared"
ASKED = "AC-004: the rules were asked of every table as it is now, and none of severity fail is broken"
VERDICTS = "Every verdict in ops.quality_metrics is that of a rule's version in ops.quality_rules, and is there once"
STOPPED = "A rule has kept gold from being made, ops.run_log says which, and gold was made after all"
FEWER = "The same answer from fewer files: ZORDER and clustering read less than the unordered files, for both columns"
RETENTION = "FR-011: no file that was replaced in the last seven days is missing, and no table keeps its files for less"
LAID_OUT = "FR-011: every table of gold is laid out as it is declared, since its rows changed last"
TAGGED = "FR-012: every table of bronze, silver and gold has the tags that are declared for it and its columns"
GONE = "The tables of the experiments are gone"
AS_OF = "Every order points at the version of its customer that was valid when it was placed"


@pytest.fixture(scope="module")
def course(spark: Any) -> Settings:
    """The tables after day 6, at a small scale."""
    settings = get_settings()
    lake.clear(spark, settings)
    shutil.rmtree(settings.raw, ignore_errors=True)
    spark.sql(f"CREATE OR REPLACE TABLE {FIRST_TABLE} (id INT, name STRING)")
    spark.sql(f"INSERT INTO {FIRST_TABLE} VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    spark.sql(f"DELETE FROM {FIRST_TABLE} WHERE id = 2")
    write_days(spark, days.as_rows())
    # The event of the lineage listener, which the tests' engine does not have.
    output = {"facets": {"symlinks": {"identifiers": [{"name": FIRST_TABLE}]}}}
    (settings.lineage / "events.jsonl").write_text(json.dumps({"eventType": "COMPLETE", "outputs": [output]}) + "\n")
    generate(settings.raw, scale=0.01, seed=42, defects=0.1, days=2, progress=False)
    bronze.ingest(spark)
    silver.run(spark)
    return settings


@pytest.fixture(scope="module")
def course_of_nine_days(spark: Any, course: Settings) -> Settings:
    """The tables after day 9."""
    assert pipeline.run(spark).ok
    return course


def write_days(spark: Any, rows: list[Any], columns: str = days.COLUMNS) -> None:
    frame = spark.createDataFrame(rows, columns)
    frame.write.mode("overwrite").option("overwriteSchema", "true").saveAsTable(COURSE_DAYS)


def failures(spark: Any, day: int) -> dict[str, str]:
    return {entry.name: entry.found for entry in check_day(day, spark) if not entry.ok}


@pytest.mark.parametrize("day", [1, 2, 3, 4, 5, 6])
def test_a_day_passes_after_its_work(spark: Any, course: Settings, day: int) -> None:
    assert failures(spark, day) == {}


# Day 1


def test_day_1_fails_if_a_comment_the_landing_volume_or_the_sum_of_the_log_is_wrong(
    spark: Any, course: Settings
) -> None:
    newest = sorted((catalog.table_path(FIRST_TABLE) / "_delta_log").glob("*.json"))[-1]
    content = newest.read_text()
    spark.sql("COMMENT ON SCHEMA gold IS 'mine'")
    try:
        newest.write_text("\n".join(line for line in content.splitlines() if '"remove"' not in line) + "\n")
        with moved(course.raw):
            found = failures(spark, 1)
    finally:
        newest.write_text(content)
        spark.sql(f"COMMENT ON SCHEMA gold IS {catalog.sql_literal(catalog.SCHEMAS['gold'])}")
    assert found.pop(LOG)
    assert found == {SCHEMAS: "gold has the comment 'mine'", VOLUME: "nothing"}


def test_day_1_fails_if_a_schema_or_an_entry_of_the_log_is_missing(spark: Any, course: Settings) -> None:
    log = catalog.table_path(FIRST_TABLE) / "_delta_log"
    spark.sql("DROP SCHEMA gold")
    try:
        with moved(log / f"{1:020d}.json"):
            found = failures(spark, 1)
    finally:
        catalog.create_schemas(spark)
    assert LOG in found
    assert found[SCHEMAS] == "gold is missing"


def test_day_1_fails_if_a_schema_is_elsewhere_or_the_table_was_only_created(
    spark: Any, course: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(week1, "FIRST_TABLE", COURSE_DAYS)
    comment = catalog.sql_literal(catalog.SCHEMAS["gold"])
    spark.sql("DROP SCHEMA gold")
    spark.sql(f"CREATE SCHEMA gold COMMENT {comment} LOCATION '{tmp_path.as_uri()}'")
    try:
        found = failures(spark, 1)
    finally:
        spark.sql("DROP SCHEMA gold")
        catalog.create_schemas(spark)
    assert found[SCHEMAS].startswith("gold is kept in file:")
    assert found[CHANGED] == "versions 0 to 0"


@contextmanager
def moved(path: Path) -> Iterator[None]:
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


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


# Days 5 and 6: each table is changed by hand, and then restored


@contextmanager
def altered(table: str, statement: str) -> Iterator[None]:
    path = catalog.table_path(table)
    version = DeltaTable(path).version()
    lake.change(get_settings().lakehouse, statement.format(table=table, **some()))
    assert DeltaTable(path).version() > version, "it changed no row"
    try:
        yield
    finally:
        DeltaTable(path).restore(version)


def some() -> dict[str, str]:
    """Return the placeholders of the statements: conditions on an order, a product, and a customer with one version."""
    (row,) = lake.rows(
        get_settings().lakehouse,
        """
        SELECT (SELECT min(order_id) FROM silver.orders_clean), (SELECT min(product_id) FROM silver.dim_products),
               (SELECT min(customer_id) FROM (
                  SELECT customer_id FROM silver.dim_customers GROUP BY customer_id
                  HAVING count(*) = 1 AND bool_and(is_current AND NOT is_inferred)
                ) ANTI JOIN silver.orders_clean USING (customer_id))
        """,
    )
    names = ("order", "product", "customer")
    return {name: f"{name}_id = '{value}'" for name, value in zip(names, row, strict=True)}


Alterations = list[tuple[str, str]]
"""Tables, each with a statement that makes a mistake in it."""


def failures_with(spark: Any, day: int, alterations: Alterations) -> dict[str, str]:
    """Return the failures of a day's checks after all these alterations, and undo the alterations."""
    with ExitStack() as stack:
        for table, statement in alterations:
            stack.enter_context(altered(table, statement))
        return failures(spark, day)


def assert_found(spark: Any, day: int, alterations: Alterations, expected: dict[str, str]) -> None:
    """Assert that exactly the expected checks fail after these alterations, with texts that begin as expected."""
    wrong = failures_with(spark, day, alterations)
    assert set(wrong) == set(expected)
    assert all(re.match(found, wrong[name]) for name, found in expected.items()), wrong


# A day's checks take seconds, so alterations for different checks are made together.
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
                    "UPDATE {table} SET updated_at = updated_at - INTERVAL '1 day' WHERE {product}",
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
    overlap = {"email": "'new@example.com'", "end": "start_date + INTERVAL '2 days'", "is_current": False}
    no_change = {"email": "email", "end": "start_date + INTERVAL '1 day'", "is_current": False}
    with ExitStack() as stack:
        for how in (old_is_open, overlap, no_change):
            stack.enter_context(two_versions(**how))
        wrong = failures(spark, 6)
    assert set(wrong) == {EMAIL, LAW_1, ANY_ORDER}
    assert wrong[EMAIL] == "1 old versions still open, 1 customers with several current versions"
    for found in ("open, and yet another follows: 1", "overlaps the next: 1", "nothing changes to the next: 1"):
        assert found in wrong[LAW_1]
    assert "ends before it starts" not in wrong[LAW_1]
    assert "contradicts" not in wrong[LAW_1]


@contextmanager
def two_versions(email: str, end: str, is_current: bool) -> Iterator[None]:
    """Give a customer with one version a second version, a day later, and end the first version at this time."""
    path, customer = catalog.table_path("silver.dim_customers"), some()["customer"]
    delta = DeltaTable(path)
    changed = {
        "customer_sk": "customer_sk + 1",
        "email": email,
        "start_date": "start_date + INTERVAL '1 day'",
    }
    columns = ", ".join(f"{changed.get(name, name)} AS {name}" for name in lake.read(path).column_names)
    second = lake.read(path, f"SELECT {columns} FROM t WHERE {customer}")
    assert len(second) == 1
    version = delta.version()
    delta.update({"end_date": end, "is_current": str(is_current).lower()}, predicate=customer)
    write_deltalake(delta, second, mode="append")
    try:
        yield
    finally:
        DeltaTable(path).restore(version)


@pytest.mark.parametrize("day", [7, 8, 9, 16])
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


def test_the_laws_are_asked_where_their_tables_are_and_a_broken_one_is_told(
    spark: Any, course_of_nine_days: Settings
) -> None:
    verified = verify(spark)
    assert verified.ok
    assert [one.name.partition(":")[0] for one in verified.results] == [
        "Law 1",
        "Law 2",
        *["Law 3"] * 3,
        *["Law 5"] * 3,
    ]
    streamed = ["bronze.clickstream_raw", "silver.clickstream_sessions", "gold.hourly_traffic_metrics"]
    assert list(verified.not_asked.values()) == [streamed, streamed[:1]]
    assert law_4(spark, pipeline.run).ok
    with altered("gold.customer_ltv", "DELETE FROM {table} WHERE segment = 'Low'"):
        broken = [one.name for one in verify(spark).results if not one.ok]
        assert (broken, set(failures(spark, 16))) == ([LTV_3, LTV_5], {"The laws of the batch tables hold"})
        # The run repairs the table that was changed by hand, so it changes something.
        assert law_4(spark, pipeline.run).found == "a new version of gold.customer_ltv"


def test_day_16_fails_if_no_order_tells_a_mutant_from_the_right_table(
    spark: Any, course_of_nine_days: Settings
) -> None:
    only = "DELETE FROM {table} WHERE NOT (status = 'delivered' AND quantity = 1 AND discount_amount = 0)"
    with altered("silver.orders_clean", only):
        found = failures(spark, 16)[DIFFERENT]
    assert "cancelled-orders-count makes the same" in found
    assert "the-average-is-before-discount makes the same" in found


def test_day_8_fails_if_the_thresholds_do_not_fall(
    spark: Any, course_of_nine_days: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = gold.TABLES.definition("gold.customer_ltv")
    assert definition.bands is not None
    swapped = definition.bands.model_copy(update={"thresholds": definition.bands.thresholds[::-1]})
    changed = definition.model_copy(update={"bands": swapped})
    monkeypatch.setattr(type(gold.TABLES), "definition", lambda self, target: changed)
    assert AC_006 in failures(spark, 8)


def test_day_19_passes_once_a_rule_has_stopped_gold_and_fails_if_its_tables_were_tampered_with(
    spark: Any, course_of_nine_days: Settings
) -> None:
    # The alterations of earlier tests have left newer versions of the tables, which the rules have not judged.
    assert set(failures(spark, 19)) == {ASKED, STOPPED}
    never = {"name": "never", "expect_or_fail": "false", "limit": "nothing"}
    one = quality.TableRules.model_validate({"target": "silver.dim_products", "rules": [never]})
    assert not pipeline.run(spark, rules=[one]).ok
    found = failures(spark, 19)
    assert set(found) == {RULES, ASKED, STOPPED}
    assert found[STOPPED] == "3 tables of gold not made since"
    assert pipeline.run(spark).ok
    assert quality.run(spark).ok
    assert failures(spark, 19) == {}

    without = [
        ("ops.quality_rules", "DELETE FROM {table} WHERE name = 'order_is_there_once'"),
        ("ops.run_log", "UPDATE {table} SET reason = 'skipped' WHERE status = 'skipped'"),
    ]
    found = failures_with(spark, 19, without)
    assert set(found) == {RULES, VERDICTS, STOPPED}
    assert found[STOPPED] == "no run that a rule stopped"
    again = "INSERT INTO {table} SELECT * FROM {table} WHERE metric_name = 'order_is_there_once'"
    assert set(failures_with(spark, 19, [("ops.quality_metrics", again)])) == {VERDICTS}
    cent = "UPDATE {table} SET revenue = revenue + 0.01 WHERE {product}"
    assert failures_with(spark, 19, [("gold.product_performance", cent)]) == {ASKED: "tables that have changed since"}


def measured(spark: Any, **read: int) -> None:
    """Write what the notebook measures: how many of 8 files each layout reads for each filter."""
    columns = (
        "layout STRING, filter STRING, files_read BIGINT, files_there BIGINT, orders BIGINT, revenue DECIMAL(18,2)"
    )
    rows = [
        (layout.replace("_", " "), by, files, 8, 5, Decimal("9.99"))
        for layout, files in read.items()
        for by in ("first column", "second column")
    ]
    spark.createDataFrame(rows, columns).coalesce(1).write.mode("overwrite").saveAsTable(FILES_READ)


def test_day_20_passes_after_its_work_and_fails_if_it_was_undone(spark: Any, course_of_nine_days: Settings) -> None:
    assert {FEWER, TAGGED} <= set(failures(spark, 20))
    measured(spark, as_it_arrived=8, ZORDER_BY=3, CLUSTER_BY=2)
    for table in GOLD:
        path = catalog.table_path(table)
        write_deltalake(path, DeltaTable(path).to_pyarrow_table().slice(0, 0), mode="append")
    maintain(spark, GOLD)
    tags.apply(spark, BATCH)
    assert failures(spark, 20) == {}

    further = "INSERT INTO {table} SELECT * FROM {table} LIMIT 1"
    other_revenue = f"UPDATE {FILES_READ} SET revenue = 0 WHERE layout = 'CLUSTER BY' AND filter = 'first column'"
    spark.sql(f"ALTER TABLE {GOLD[0]} UNSET TBLPROPERTIES ('{tags.PREFIX}domain')")
    spark.sql(f"ALTER TABLE {GOLD[1]} SET TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval 1 day')")
    spark.sql("CREATE SCHEMA layout")
    found = failures_with(spark, 20, [(FILES_READ, other_revenue), (GOLD[2], further)])
    assert found == {
        FEWER: "1 filters with different answers",
        RETENTION: f"{GOLD[1]} keeps its files for interval 1 day",
        LAID_OUT: f"{GOLD[2]} waits",
        TAGGED: f"{GOLD[0]} lacks domain",
        GONE: "the schema layout",
    }
    spark.sql("DROP SCHEMA layout")
    spark.sql(f"ALTER TABLE {GOLD[1]} SET TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval 2 weeks')")
    measured(spark, as_it_arrived=4, ZORDER_BY=4, CLUSTER_BY=1)
    with moved(a_replaced_file(catalog.table_path(GOLD[2]))):
        found = failures(spark, 20)
    assert found[FEWER] == "2 measurements that read no smaller share of the files"
    assert found[RETENTION] == f"{GOLD[2]}: 1 files missing"
    measured(spark, as_it_arrived=4, ZORDER_BY=1)
    assert failures(spark, 20)[FEWER] == "2 measurements missing"


def a_replaced_file(table: Path) -> Path:
    commits = sorted((table / "_delta_log").glob("*.json"))
    lines = [line for commit in commits for line in commit.read_text().splitlines()]
    (*_, last) = (json.loads(line)["remove"]["path"] for line in lines if line.startswith('{"remove"'))
    return table / str(last)


def test_days_5_and_6_fail_without_their_tables(spark: Any, course: Settings) -> None:
    for table in ("silver.dim_customers", "silver.dim_products", "silver.orders_clean"):
        silver.reset(spark, table)
    assert {ACCOUNTS, ORDERS, AMOUNTS} <= set(failures(spark, 5))
    assert set(failures(spark, 6)) == {EMAIL, LAW_1, ANY_ORDER, PRODUCTS, AS_OF}


# Day 4. tests/unit/test_course_checks.py tests the comparison of row counts with files, without an engine.


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
