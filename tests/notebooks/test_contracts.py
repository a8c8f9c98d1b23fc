"""The contracts of the days whose work is in tables: each check against tables that are not as they should be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from generators import generate
from shared import bronze, catalog
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


@pytest.fixture(scope="module")
def course(spark: Any) -> Iterator[Settings]:
    """What stands after day 4, small, and gone after this module."""
    settings = get_settings()
    catalog.create_schemas(spark)
    spark.sql(f"CREATE OR REPLACE TABLE {FIRST_TABLE} (id INT, name STRING)")
    spark.sql(f"INSERT INTO {FIRST_TABLE} VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    spark.sql(f"DELETE FROM {FIRST_TABLE} WHERE id = 2")
    write_days(spark, days.as_rows())
    generate(settings.raw, scale=0.01, seed=42, defects=0.1, days=2, progress=False)
    bronze.ingest(spark)
    yield settings
    for source in bronze.SOURCES:
        bronze.reset(spark, source)
    for table in (FIRST_TABLE, COURSE_DAYS):
        catalog.drop_table(spark, table)
    shutil.rmtree(settings.raw)


def write_days(spark: Any, rows: list[Any], columns: str = days.COLUMNS) -> None:
    frame = spark.createDataFrame(rows, columns)
    frame.write.mode("overwrite").option("overwriteSchema", "true").saveAsTable(COURSE_DAYS)


def failures(spark: Any, day: int) -> dict[str, str]:
    return {entry.name: entry.found for entry in check_day(day, spark) if not entry.ok}


@pytest.mark.parametrize("day", [1, 2, 3, 4])
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
    comment = catalog.sql_literal(catalog.SCHEMAS["silver"])
    spark.sql("DROP SCHEMA silver")
    try:
        assert failures(spark, 1) == {SCHEMAS: "silver is missing"}
        spark.sql(f"CREATE SCHEMA silver COMMENT {comment} LOCATION '{tmp_path.as_uri()}'")
        assert "silver is kept in file:" in failures(spark, 1)[SCHEMAS]
        spark.sql("DROP SCHEMA silver")
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
