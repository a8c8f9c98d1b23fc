"""The display of a Spark DataFrame agrees with SQL, whatever the time zone of the notebook's machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from shared import catalog
from shared.course import display

EVERY_TYPE = """
    SELECT 1 AS a, 2 AS a, TIMESTAMP '2025-03-01 14:03:22.5' AS instant, TIMESTAMP_NTZ '2025-01-01 00:00:00' AS wall,
        DATE '2025-01-01' AS day, 1.50BD AS money, 0.1D + 0.2D AS approximate, CAST('NaN' AS DOUBLE) AS nan,
        CAST(NULL AS STRING) AS nothing, MAP('k', 1) AS pairs, ARRAY(STRUCT(1 AS x)) AS structs,
        X'00ff' AS bytes, TRUE AS yes
"""


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_every_type_is_shown_and_an_instant_in_utc(spark: Any, far_from_utc: None) -> None:
    shown = display.shown(spark.sql(EVERY_TYPE))
    assert shown.columns[:3] == ["a", "a", "instant"]
    assert [cell.text for cell in shown.rows[0]] == [
        *("1", "2", "2025-03-01 14:03:22.5", "2025-01-01 00:00:00", "2025-01-01", "1.50", "0.3", "NaN", "NULL"),
        *("{k: 1}", "[{x: 1}]", "0x00ff", "true"),
    ]


def test_only_the_rows_that_are_shown_are_fetched(spark: Any) -> None:
    shown = display.shown(spark.range(10**12), n=2)
    assert [row[0].text for row in shown.rows] == ["0", "1"]
    assert shown.notes == ["first 2 rows; there are more"]


def test_a_snapshot_outlives_a_change_of_the_table(spark: Any) -> None:
    spark.sql("CREATE OR REPLACE TABLE ops.shown AS SELECT 1 AS id, 'a' AS name")
    try:
        table = spark.table("ops.shown")
        before = display.snapshot(table)
        spark.sql("UPDATE ops.shown SET name = 'b'")
        assert display.compared(table, table, key="id").notes == ["1 unchanged"], "a DataFrame asks anew"
        assert display.compared(before, table, key="id").notes == ["1 changed"]
    finally:
        catalog.drop_table(spark, "ops.shown")


def test_the_state_is_of_the_tables_that_the_notebook_changed(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: bundles.append(bundle))
    spark.sql("CREATE OR REPLACE TABLE ops.shown_earlier AS SELECT id FROM range(2000)")
    monkeypatch.setattr(display, "_BEGUN", time.time())
    spark.sql("CREATE OR REPLACE TABLE ops.shown AS SELECT * FROM range(1200)")
    try:
        display.lakehouse_state(spark)
        display.lakehouse_state(spark, all_tables=True)
        monkeypatch.setattr(display, "_BEGUN", time.time())
        display.lakehouse_state(spark)
        spark.sql("DELETE FROM ops.shown_earlier WHERE id < 1500")
        spark.sql("INSERT INTO ops.shown_earlier VALUES (7)")
        display.lakehouse_state(spark)
    finally:
        catalog.drop_table(spark, "ops.shown")
        catalog.drop_table(spark, "ops.shown_earlier")
    changed, everything, nothing, later = ([line.split() for line in b["text/plain"].splitlines()] for b in bundles)
    assert changed[0] == ["State", "of", "your", "lakehouse"]
    assert [line for line in changed if line[:1] == ["ops.shown"]] == [["ops.shown", "0", "1,200"]]
    assert not [line for line in changed if line[:1] == ["ops.shown_earlier"]]
    assert {("ops.shown",), ("ops.shown_earlier",)} <= {tuple(line[:1]) for line in everything}
    assert "changed no table" in bundles[2]["text/plain"], nothing
    assert ["ops.shown_earlier", "2", "-1,499"] in later
