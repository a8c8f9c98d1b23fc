"""Maintenance: files change, rows never; finished work is not repeated."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import lake
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from filelock import FileLock

from shared import catalog, tags
from shared.errors import MaintenanceError
from shared.maintenance import maintain
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
    path = in_files(standing, SHELF, 1)
    replaced = {"week old": next(path.glob("*.parquet"))}
    write_deltalake(path, pa.table({"order_date": ["2026-02-01"], "number": [1]}), mode="overwrite")
    entry = path / "_delta_log" / f"{1:020}.json"
    long_ago = time.time() - timedelta(days=8).total_seconds()
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "remove" in action:
            action["remove"]["deletionTimestamp"] = int(long_ago * 1000)
    entry.write_text("".join(json.dumps(action) + "\n" for action in actions))
    os.utime(replaced["week old"], (long_ago, long_ago))
    replaced["yesterday"] = next(one for one in path.glob("*.parquet") if one != replaced["week old"])
    write_deltalake(path, pa.table({"order_date": ["2026-02-02"], "number": [2]}), mode="overwrite")

    assert [one.deleted for one in maintain(standing, [SHELF], dry_run=True)] == [1]
    assert replaced["week old"].exists()
    assert [one.deleted for one in maintain(standing, [SHELF])] == [1]
    assert (replaced["week old"].exists(), replaced["yesterday"].exists()) == (False, True)
    assert standing.table(SHELF).collect()[0]["number"] == 2


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
