"""A copy of a Delta table that is older than the table."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from shared.course.aged import aged_copy
from shared.errors import CourseError

TEN_DAYS = timedelta(days=10)
MILLISECONDS = int(TEN_DAYS.total_seconds() * 1000)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose first file was replaced by a second one."""
    for number in (1, 2):
        write_deltalake(tmp_path / "table", pa.table({"number": [number]}), mode="overwrite")
    (tmp_path / "table" / "_delta_log" / f".{1:020}.json.crc").write_bytes(b"a checksum of the bytes")
    return tmp_path / "table"


def actions(table: Path) -> list[dict[str, dict[str, object]]]:
    commits = sorted((table / "_delta_log").glob("*.json"))
    return [json.loads(line) for commit in commits for line in commit.read_text().splitlines()]


def test_every_time_in_the_copy_is_earlier_and_nothing_else_differs(table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    aged_copy(table, copy, TEN_DAYS)
    assert DeltaTable(copy).to_pyarrow_table().to_pylist() == [{"number": 2}]
    set_back = set()
    for old, new in zip(actions(copy), actions(table), strict=True):
        for kind in new:
            for name, value in new[kind].items():
                if old[kind][name] != value:
                    assert int(str(value)) - int(str(old[kind][name])) == MILLISECONDS
                    set_back.add((kind, name))
    assert {("commitInfo", "timestamp"), ("add", "modificationTime"), ("remove", "deletionTimestamp")} <= set_back
    for file in copy.rglob("*"):
        if file.is_file():
            its = table / file.relative_to(copy)
            assert its.stat().st_mtime - file.stat().st_mtime == pytest.approx(TEN_DAYS.total_seconds(), abs=1)


def test_checksums_of_the_bytes_are_not_copied(table: Path, tmp_path: Path) -> None:
    aged_copy(table, tmp_path / "copy", TEN_DAYS)
    assert list((tmp_path / "copy").rglob("*.crc")) == []


def test_what_is_no_table_is_refused_and_so_is_a_place_that_is_taken(table: Path, tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=r"table\.parquet is not a Delta table"):
        aged_copy(tmp_path / "table.parquet", tmp_path / "copy", TEN_DAYS)
    with pytest.raises(CourseError, match="There is already something at table"):
        aged_copy(table, table, TEN_DAYS)
