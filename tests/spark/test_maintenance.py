"""Maintenance: files change, rows never; finished work is not repeated."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import lake
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from filelock import FileLock

from shared import catalog, tags
from shared.course.aged import aged_copy
from shared.errors import MaintenanceError
from shared.files_read import files_read, files_there
from shared.maintenance import maintain, waits_for_layout
from shared.settings import get_settings
from shared.tags import Tag

SALES, SHELF, SESSIONS = "gold.daily_sales_summary", "ops.shelf", "silver.clickstream_sessions"


def in_files(spark, table: str, files: int, column: str = "order_date") -> Path:
    """Create a table of this many small files, and return its directory."""
    path = catalog.table_path(table)
    for number in range(files):
        days = [f"2026-01-{1 + (number + 3 * step) % 28:02}" for step in range(8)]
        write_deltalake(path, pa.table({column: days, "number": list(range(8))}), mode="append")
    catalog.register_tables(spark)
    return path


@pytest.fixture
def standing(spark):
    lake.clear(spark, get_settings())
    return spark


def test_small_files_are_put_together_once_and_no_row_changes(standing):
    paths = {table: in_files(standing, table, 3) for table in (SALES, SHELF)}
    before = {table: sorted(map(str, lake.read(path).to_pylist())) for table, path in paths.items()}

    planned = maintain(standing, dry_run=True)
    assert [(one.table, one.layout, one.files_after) for one in planned] == [
        (SALES, "ordered by order_date", 3), (SHELF, "compacted", 3),
    ]  # fmt: skip
    assert [catalog.version(standing, table) for table in paths] == [2, 2]

    done = maintain(standing)
    assert [(one.layout, one.files_before, one.files_after) for one in done] == [
        ("ordered by order_date", 3, 1), ("compacted", 3, 1),
    ]  # fmt: skip
    assert {table: sorted(map(str, lake.read(path).to_pylist())) for table, path in paths.items()} == before
    newest = catalog.commits(standing, SALES, 2)[0]
    assert (newest.operation, json.loads(str(newest.parameters["zOrderBy"]))) == ("OPTIMIZE", ["order_date"])

    versions = [catalog.version(standing, table) for table in paths]
    assert [(one.layout, one.deleted) for one in maintain(standing)] == [("", 0), ("", 0)]
    assert [catalog.version(standing, table) for table in paths] == versions

    # New rows give maintenance new work.
    in_files(standing, SHELF, 1)
    assert [one.layout for one in maintain(standing, [SHELF])] == ["compacted"]


def test_only_files_that_were_replaced_more_than_a_week_ago_are_deleted(standing):
    young = in_files(standing, "ops.young", 1)
    name = next(young.glob("*.parquet")).name
    write_deltalake(young, pa.table({"order_date": ["2026-02-01"], "number": [1]}), mode="overwrite")
    path = catalog.table_path(SHELF)
    aged_copy(young, path, timedelta(days=8))
    catalog.register_tables(standing)
    replaced = {"week old": path / name}
    replaced["yesterday"] = next(one for one in path.glob("*.parquet") if one != replaced["week old"])
    write_deltalake(path, pa.table({"order_date": ["2026-02-02"], "number": [2]}), mode="overwrite")

    assert [one.deleted for one in maintain(standing, [SHELF], dry_run=True)] == [1]
    assert replaced["week old"].exists()
    assert [one.deleted for one in maintain(standing, [SHELF])] == [1]
    assert (replaced["week old"].exists(), replaced["yesterday"].exists()) == (False, True)
    assert standing.table(SHELF).collect()[0]["number"] == 2


def test_a_longer_retention_keeps_files_longer_and_a_directory_of_young_files_is_no_old_file(standing):
    path = in_files(standing, "ops.young", 1)
    standing.sql("ALTER TABLE ops.young SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")
    standing.sql("UPDATE ops.young SET number = number + 1 WHERE number < 3")
    aged_copy(path, catalog.table_path(SHELF), timedelta(days=10))
    catalog.register_tables(standing)
    old = len(list(catalog.table_path(SHELF).rglob("*.parquet"))) - files_there(standing, SHELF)
    assert old == 2  # a file that was replaced, and one of changes

    # Delta would go by the property of the table, whatever is asked for.
    assert [one.deleted for one in maintain(standing, [SHELF], timedelta(days=30), dry_run=True)] == [0]
    assert [one.deleted for one in maintain(standing, [SHELF, "ops.young"], dry_run=True)] == [old, 0]
    version = catalog.version(standing, "ops.young")
    assert [one.deleted for one in maintain(standing, [SHELF, "ops.young"])] == [old, 0]
    assert catalog.version(standing, "ops.young") == version
    assert len(list(catalog.table_path(SHELF).rglob("*.parquet"))) == files_there(standing, SHELF)


def test_files_are_counted_as_the_engine_reads_them(standing):
    path = in_files(standing, SHELF, 4)
    (answer,), read = files_read(standing.sql(f"SELECT count(number) AS n FROM {SHELF}"))
    sizes = [file.stat().st_size for file in path.glob("*.parquet")]
    assert (answer.n, read.files, read.bytes, read.rows) == (32, 4, sum(sizes), 32)
    assert files_there(standing, SHELF) == 4

    # Each file holds one day that no other does, and its minimum and maximum exclude others.
    one = files_read(standing.sql(f"SELECT count(number) FROM {SHELF} WHERE order_date = '2026-01-01'"))[1]
    assert (one.files, one.rows) == (1, 8)
    none = files_read(standing.sql(f"SELECT count(number) FROM {SHELF} WHERE order_date = '2027-01-01'"))[1]
    assert (none.files, none.bytes, none.rows) == (0, 0, 0)
    assert files_read(standing.sql(f"SELECT count(*) FROM {SHELF}"))[1].files == 0  # by the log alone

    # A table that is read twice counts twice, in whatever part of the query.
    twice = f"SELECT count(*) FROM {SHELF} AS a JOIN {SHELF} AS b USING (number, order_date)"
    assert files_read(standing.sql(twice))[1].files in (4, 8)  # a scan may be used a second time
    within = f"SELECT count(number) FROM {SHELF} WHERE number = (SELECT max(number) FROM {SHELF} WHERE number < 3)"
    assert files_read(standing.sql(within))[1].files >= 4


def test_a_table_waits_for_its_layout_until_it_has_it(standing):
    in_files(standing, SHELF, 1)
    assert not waits_for_layout(standing, SHELF)
    in_files(standing, SHELF, 1)
    assert waits_for_layout(standing, SHELF)
    maintain(standing, [SHELF])
    assert not waits_for_layout(standing, SHELF)


def test_less_than_a_week_is_refused_before_anything_is_done(standing):
    in_files(standing, SHELF, 2)
    with pytest.raises(MaintenanceError, match="A retention of 24 hours is refused: expected at least 168, seven days"):
        maintain(standing, [SHELF], retention=timedelta(days=1))
    assert catalog.version(standing, SHELF) == 1


def test_what_a_stream_writes_is_left_alone_while_it_runs(standing):
    for table in (SESSIONS, SHELF):
        in_files(standing, table, 2)
    get_settings().run.mkdir(parents=True, exist_ok=True)
    with FileLock(get_settings().run / "stream.lock"):
        assert [(one.table, one.layout) for one in maintain(standing)] == [(SESSIONS, ""), (SHELF, "compacted")]
    assert [(one.table, one.layout) for one in maintain(standing)] == [(SESSIONS, "compacted"), (SHELF, "")]


def test_tags_are_set_once_and_found_again_and_those_of_others_stay(standing):
    in_files(standing, SALES, 1)
    in_files(standing, "silver.dim_customers", 1, column="email")
    standing.sql(
        f"ALTER TABLE {SALES} SET TBLPROPERTIES ('shopmetrics.tag.owner' = 'Ada''s team')".replace("''", "\\'")
    )
    added = tags.apply(standing)
    assert Tag("silver.dim_customers", "email", "personal_data", "yes") in added
    assert len(added) == 5
    versions = [catalog.version(standing, table) for table in (SALES, "silver.dim_customers")]
    assert tags.apply(standing) == []
    assert [catalog.version(standing, table) for table in (SALES, "silver.dim_customers")] == versions
    assert [(tag.table, tag.column) for tag in tags.find(standing, "personal_data")] == [
        ("silver.dim_customers", "email")
    ]
    assert [tag.table for tag in tags.find(standing, "layer", "gold")] == [SALES]
    assert tags.find(standing, "owner") == [Tag(SALES, "", "owner", "Ada's team")]


def test_a_change_of_tags_changes_no_row_for_the_pipeline(standing):
    in_files(standing, SALES, 1)
    tags.apply(standing)
    (commit,) = catalog.commits(standing, SALES, 0)
    assert commit.keeps_rows
