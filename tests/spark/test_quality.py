"""AC-004 on the engine: the findings of rules in rows and tables, the gate before gold, and no repeated measurement.

The first half applies rules to a few rows without a table. The second half is the life of a small shop, night by night.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import lake
import pytest
from typer.testing import CliRunner

from shared import bronze, catalog, cli, pipeline, quality
from shared.bronze.contracts import CUSTOMERS, ORDERS, PRODUCTS, SOURCES
from shared.errors import MetadataError
from shared.quality import report
from shared.quality.measures import found_in, measuring
from shared.quality.reconciliation import comparing
from shared.quality.rules import Equals, TableRules
from shared.quality.verdicts import verdicts
from shared.settings import get_settings

AT = datetime(2026, 1, 20, 2, tzinfo=UTC)
TARGET = "silver.orders_clean"


def table(*rules: dict[str, Any], target: str = TARGET, **more: Any) -> TableRules:
    named = [{"name": f"r{number}", "severity": "fail"} | rule for number, rule in enumerate(rules)]
    for rule in named:
        if "expect" in rule or "expect_or_fail" in rule:
            del rule["severity"]
            rule.setdefault("limit", "")
    return TableRules.model_validate({"target": target, "rules": named, **more})


def said(spark, rows: str, one: TableRules) -> dict[str, Any]:
    """Return the measured values by name for rows given as VALUES; assert that marked rows give the same values."""
    frame = spark.sql(f"SELECT * FROM VALUES {rows}")
    found = {v.metric_name: v for v in verdicts(one, found_in(measuring(frame, one).collect(), one), AT)}
    marked = quality.with_results(frame, one, "run", AT).collect()
    assert len(marked) == int(found["rows"].metric_value)
    for rule in one.rules:
        if rule.kind in ("row", "matches"):
            told = ([one.name for one in (*(row._errors or ()), *(row._warnings or ()))] for row in marked)
            assert sum(rule.name in names for names in told) == found[rule.name].metric_value, rule.name
    return found


def test_a_line_break_at_the_end_does_not_pass_and_a_null_is_no_match(spark):
    rows = r"('a@b.c'), ('a@b.c\n'), ('a@b.c\nd@e.f'), (CAST(NULL AS STRING)), ('') AS t(email)"
    matches = {"kind": "matches", "column": "email", "pattern": r"[a-z]+@[a-z.]+"}
    found = said(spark, rows, table(matches, matches | {"where": "email <> ''"}))
    assert (found["r0"].metric_value, found["r0"].rows_checked) == (4, 5)
    assert (found["r1"].metric_value, found["r1"].rows_checked) == (2, 3), "a filter without an answer asks nothing"


def test_a_key_is_there_once_among_the_rows_of_the_filter_and_nulls_are_keys_too(spark):
    rows = """('A', 1, true), ('A', 1, false), ('A', 2, true), (NULL, 1, true), (NULL, 1, true), (NULL, NULL, true),
              (NULL, NULL, NULL), ('B', NULL, true), ('B', NULL, true) AS t(k, n, is_current)"""
    unique = {"kind": "unique", "columns": ["n", "k"]}
    one = table(unique, unique | {"where": "is_current", "severity": "warn"})
    found = said(spark, rows, one)
    assert [found[name].metric_value for name in ("r0", "r1")] == [4, 2], "rows more than there are keys"
    assert [found[name].rows_checked for name in ("r0", "r1")] == [9, 7]

    marked = quality.with_results(spark.sql(f"SELECT * FROM VALUES {rows}"), one, "run", AT)
    errors = marked.where("_errors IS NOT NULL").selectExpr("k", "n", "is_current", "_errors[0] AS e").collect()
    assert sorted(map(str, ((row.k, row.n, row.is_current) for row in errors))) == sorted(
        map(str, [("A", 1, True), ("A", 1, False), *[(None, 1, True)] * 2, (None, None, True), (None, None, None),
                  *[("B", None, True)] * 2])
    )  # fmt: skip
    warned = marked.where("_warnings IS NOT NULL").select("k", "n").collect()
    assert sorted(map(str, warned)) == sorted(
        ["Row(k=None, n=1)", "Row(k=None, n=1)", "Row(k='B', n=None)", "Row(k='B', n=None)"]
    )
    first = next(row.e for row in errors if row.k == "B")
    assert first.asDict() == {
        "name": "r0", "message": "k = B, n = NULL is there 2 times", "columns": ["k", "n"], "filter": None,
        "run_time": AT.astimezone().replace(tzinfo=None), "run_id": "run", "fingerprint": one.fingerprints["r0"],
    }  # fmt: skip


def test_a_row_that_breaks_several_rules_says_so_of_each(spark):
    one = table(
        {"expect_or_fail": "net >= 0", "limit": "at least 0"},
        {"expect": "net < 100"},
        {"expect_or_fail": "id IS NOT NULL", "where": "net < 5"},
    )
    rows = "('a', 1), ('b', -1), (NULL, -2), (NULL, 7), ('c', NULL) AS t(id, net)"
    found = said(spark, rows, one)
    assert [found[f"r{n}"].metric_value for n in range(3)] == [3, 1, 1]
    marked = quality.with_results(spark.sql(f"SELECT * FROM VALUES {rows}"), one, "run", AT)
    messages = {
        (row.id, row.net): ([e.message for e in row._errors or ()], [e.name for e in row._warnings or ()])
        for row in marked.collect()
    }
    assert messages == {
        ("a", 1): ([], []),
        ("b", -1): (["net = -1: expected at least 0"], []),
        (None, -2): (["net = -2: expected at least 0", "id = NULL: expected id IS NOT NULL"], []),
        (None, 7): ([], []),
        ("c", None): (["net = NULL: expected at least 0"], ["r1"]),
    }


def test_days_are_measured_by_the_same_statement_and_rows_of_no_day_are_in_the_totals(spark):
    usual = {"kind": "usual", "day": "d", "measure": "avg(x)", "least_points": 2}
    gap = {"kind": "no_gap", "day": "e"}
    one = table(usual, gap, metrics=[{"name": "total", "expression": "sum(x)"}])
    rows = """(DATE '2026-01-18', DATE '2026-01-19', 1.0), (DATE '2026-01-18', NULL, 2.0), (NULL, NULL, 4.5),
              (DATE '2026-01-19', DATE '2026-01-17', 0.0) AS t(d, e, x)"""
    frame = spark.sql(f"SELECT * FROM VALUES {rows}")
    found = found_in(measuring(frame, one).collect(), one)
    assert (found.values["rows"], found.values["total"]) == (4, Decimal("7.5"))
    assert {str(day): (values["rows"], values["r0"]) for day, values in found.by_day["d"].items()} == {
        "2026-01-18": (2, Decimal("1.5")), "2026-01-19": (1, 0),
    }  # fmt: skip
    assert [str(day) for day in sorted(found.by_day["e"])] == ["2026-01-17", "2026-01-19"]
    gaps = {v.metric_name: v.message for v in verdicts(one, found, AT)}
    assert gaps["r1"] == "no rows on 2026-01-18"

    nothing = found_in(measuring(frame.limit(0), one).collect(), one)
    assert [v.status for v in verdicts(one, nothing, AT)] == ["measured", "not judged", "not judged", "measured"]


def test_groups_are_compared_to_the_cent_and_a_group_without_a_key_is_not_lost(spark):
    rule = Equals(
        name="same", severity="fail", kind="equals", source="s", by=("day", "kind"), where="counts",
        measures={"net": "sum(x)", "n": "count(1)"},
    )  # fmt: skip
    source = spark.sql("""
        SELECT * FROM VALUES (1, 'a', 1.10, true), (1, 'a', 2.00, true), (1, NULL, 5.00, true), (2, 'a', 1.00, true),
                             (2, 'b', 9.00, false), (3, NULL, CAST(NULL AS DECIMAL(4,2)), true)
        AS t(day, kind, x, counts)""")

    def compared(rows: str) -> tuple:
        columns = "day, kind, CAST(net AS DECIMAL(18,2)) AS net, n"
        there = spark.sql(f"SELECT {columns} FROM VALUES {rows} AS t(day, kind, net, n)")
        return tuple(comparing(there, source, rule).first())

    right = "(1, 'a', 3.10, 2L), (1, NULL, 5.00, 1L), (2, 'a', 1.00, 1L), (3, NULL, NULL, 1L)"
    assert compared(right) == (4, 0, None)
    assert compared(right.replace("3.10", "3.11")) == (4, 1, '{"day":1,"kind":"a"}')
    assert compared(right.replace("(1, NULL, 5.00, 1L), ", "")) == (4, 1, '{"day":1,"kind":null}'), "a group is missing"
    assert compared(right + ", (2, 'b', 9.00, 1L)")[:2] == (5, 1), "one too many, which does not count"
    assert compared(right + ", (1, 'a', 3.10, 2L)")[:2] == (4, 1), "one twice"


# The life of a shop.

HEADERS = {source.name: ",".join(source.column_names) for source in SOURCES.values()}
TABLES = ("silver.dim_customers", "silver.dim_products", TARGET)
GOLD = ("gold.daily_sales_summary", "gold.customer_ltv", "gold.product_performance")


class Nights:
    """A shop with ten orders a day, its landing volume, and the content of its tables."""

    def __init__(self, spark) -> None:
        self.spark = spark
        self.home = get_settings()

    def deliver(self, source, day: int, name: str, *lines: str) -> None:
        path = self.home.raw / source.name / f"2026-01-{day:02}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([HEADERS[source.name], *lines]) + "\n")

    def orders(self, day: int, numbers: range, name: str = "orders.csv") -> None:
        at = f"2026-01-{day:02} 12:00:00"
        self.deliver(ORDERS, day, name, *(f"O-{day}-{n},C-1,P-1,{at},1,10.00,0,confirmed,card,{at}" for n in numbers))

    def night(self, day: int, segment: str = "Consumer") -> None:
        at = f"2026-01-{day:02} 08:00:00"
        self.deliver(
            CUSTOMERS, day, "c.csv", f"C-1,Ann,Lee,ann{day}@shop.test,,,,,,Norway,{segment},2025-01-01,false,{at}"
        )
        self.deliver(PRODUCTS, day, "p.csv", f"P-1,Kettle,Home,Acme,{day}.90,true,{at}")

    def versions(self) -> dict[str, int]:
        return {name: catalog.version(self.spark, name) for name in catalog.tables(self.spark)}

    def rows(self, query: str) -> list:
        return lake.rows(self.home.lakehouse, query)

    def clear(self) -> None:
        for name in SOURCES:
            bronze.reset(self.spark, name)
        lake.clear(self.spark, self.home)
        shutil.rmtree(self.home.raw, ignore_errors=True)


@pytest.fixture(scope="module")
def nights(spark):
    """Nine nights without problems, in one run of the pipeline."""
    shop = Nights(spark)
    shop.clear()
    for day in range(1, 10):
        shop.night(day)
        shop.orders(day, range(10))
    shop.first = pipeline.run(spark)
    yield shop
    shop.clear()


def with_rule(target: str, **rule: Any) -> list[TableRules]:
    """Return the declared rules and one additional rule."""
    (further,) = table(rule, target=target).rules
    return [
        one.model_copy(update={"rules": (*one.rules, *[further] * (one.target == target))})
        for one in quality.declared()
    ]


def test_a_sound_shop_passes_and_what_was_found_is_in_ops(nights):
    first = nights.first
    assert first.ok, first.quality.reason
    assert first.quality.is_new
    assert first.quality.as_of == datetime(2026, 1, 10, 2, tzinfo=UTC)
    statuses = {(v.table_name, v.metric_name): v.status for v in first.quality.verdicts}
    assert set(statuses.values()) == {"passed", "measured"}
    assert {name for name, _ in statuses} == {one.target for one in quality.declared() if one.layer != "gold"}
    rows = nights.rows("SELECT * FROM ops.quality_metrics WHERE metric_name = 'as_many_orders_as_usual'")
    assert [(r.run_id, r.table_name, r.metric_value, r.low, r.status, r.severity) for r in rows] == [
        (first.run_id, TARGET, 10, 10, "passed", "warn")
    ]
    assert rows[0].table_version == catalog.version(nights.spark, TARGET)
    versions = nights.rows("SELECT count(*) AS n, max(version) AS newest FROM ops.quality_rules")
    declared = sum(len(one.fingerprints) for one in quality.declared())
    assert [tuple(row) for row in versions] == [(declared, 1)]


def test_asked_again_of_the_same_versions_nothing_is_written_and_the_answer_is_the_same(nights):
    spark = nights.spark
    gold = quality.run(spark)
    assert (gold.ok, gold.is_new) == (True, True), "gold was not asked by the pipeline"
    assert {v.table_name for v in gold.verdicts} == {one.target for one in quality.declared()}
    once = "SELECT count(*) AS n FROM ops.quality_metrics WHERE metric_name = 'order_is_there_once'"
    assert nights.rows(once) == [(1,)], "the pipeline had asked it"
    before = nights.versions()
    again = quality.run(spark)
    assert (again.is_new, again.verdicts, again.as_of) == (False, gold.verdicts, gold.as_of)
    repeated = pipeline.run(spark)
    assert (repeated.ok, repeated.quality.is_new) == (True, False)
    # A run of the pipeline without new data makes one commit: its rows in the log.
    assert nights.versions() == before | {"ops.run_log": before["ops.run_log"] + 1}
    # At another moment the verdict differs: nothing has arrived for a week.
    later = quality.run(spark, as_of=datetime(2026, 1, 17, 2, tzinfo=UTC))
    assert later.is_new
    assert {v.metric_name for v in later.warnings} == {
        "customers_came_last_night", "products_came_last_night", "orders_came_last_night", "last_order_is_of_yesterday",
        "no_day_is_without_orders",
    }  # fmt: skip
    kept = [row.metric_value for row in report.history(spark, TARGET, "as_many_orders_as_usual").collect()]
    assert kept == [10, 0]


BAD = (
    ({"kind": "unique", "columns": ["order_nr"]}, "unknown column order_nr"),
    ({"expect_or_fail": "net_amont > 0"}, "rule r0 is not SQL over silver.orders_clean: [UNRESOLVED_COLUMN"),
    ({"expect_or_fail": "net_amount >"}, "rule r0 is not SQL over silver.orders_clean: [PARSE_SYNTAX_ERROR]"),
    ({"expect_or_fail": "net_amount"}, "rule r0 is not SQL over silver.orders_clean: [DATATYPE_MISMATCH"),
    ({"kind": "usual", "day": "order_date", "measure": "net_amount"}, "rule r0 is not SQL over"),
    ({"kind": "unique", "columns": ["order_id"], "where": "is_curent"}, "rule r0 is not SQL over"),
)


def test_a_rule_that_cannot_be_asked_is_refused_before_anything_runs(nights):
    before = nights.versions()
    nights.orders(10, range(10))
    try:
        for rule, told in BAD:
            with pytest.raises(MetadataError) as caught:
                pipeline.run(nights.spark, rules=with_rule(TARGET, **rule))
            assert told in caught.value.problem
            assert "nothing was run" in caught.value.hint
        with pytest.raises(MetadataError, match=r"silver\.ordres: unknown table: expected one of .*orders_clean"):
            quality.run(nights.spark, definitions=[table(target="silver.ordres")])
        assert nights.versions() == before
    finally:
        shutil.rmtree(nights.home.raw / "orders" / "2026-01-10")


def test_half_a_night_warns_or_if_the_rule_says_so_keeps_gold_as_it_is_until_the_rest_has_come(nights):
    spark = nights.spark
    nights.night(10)
    nights.orders(10, range(5))
    stops = with_rule(TARGET, kind="usual", day="order_date", sensitivity=2)
    before = nights.versions()
    held = pipeline.run(spark, rules=stops)
    assert not held.ok
    why = "silver.orders_clean: rule r0 is broken: 5 on 2026-01-10: expected 10 to 10"
    assert held.quality.reason == why
    skipped = {run.table_name: (run.status, run.reason) for run in held.tables if run.status == "skipped"}
    assert skipped == dict.fromkeys(GOLD, ("skipped", f"skipped: {why}"))
    of_it = f"run_id = '{held.run_id}' AND status = 'skipped'"
    logged = nights.rows(f"SELECT table_name, reason FROM ops.run_log WHERE {of_it}")
    assert dict(map(tuple, logged)) == dict.fromkeys(GOLD, f"skipped: {why}")
    assert {name: nights.versions()[name] for name in GOLD} == {name: before[name] for name in GOLD}
    assert catalog.version(spark, TARGET) > before[TARGET], "silver has what came"
    assert {v.metric_name for v in held.quality.warnings} == {"as_many_orders_as_usual"}

    again = pipeline.run(spark, rules=stops)
    assert (again.ok, again.quality.is_new, again.quality.reason) == (False, False, why), "it is remembered"

    nights.orders(10, range(5, 10), "rest.csv")
    done = pipeline.run(spark, rules=stops)
    assert done.ok
    assert not done.quality.warnings
    assert nights.rows("SELECT sum(orders)::INT FROM gold.daily_sales_summary") == [(100,)]
    kept = "SELECT version, definition IS NULL FROM ops.quality_rules WHERE name = 'r0' ORDER BY version"
    assert nights.rows(kept) == [(1, False)]


def test_gold_is_made_all_the_same_if_that_is_asked_for(nights):
    nights.night(11)
    nights.orders(11, range(5))
    stops = with_rule(TARGET, kind="usual", day="order_date")
    assert not pipeline.run(nights.spark, rules=stops).ok
    forced = pipeline.run(nights.spark, rules=stops, is_gated=False)
    assert (forced.ok, forced.quality) == (True, None)
    made = "SELECT orders::INT FROM gold.daily_sales_summary WHERE order_date = DATE '2026-01-11'"
    assert nights.rows(made) == [(5,)]
    assert {v.metric_name for v in quality.run(nights.spark).warnings} == {"as_many_orders_as_usual"}
    kept = "SELECT version, definition IS NULL FROM ops.quality_rules WHERE name = 'r0' ORDER BY version"
    gone = [(1, False), (2, False), (3, True)]
    assert nights.rows(kept) == gone, "another sensitivity, and then the rule is asked no longer"


def test_a_file_without_segments_and_a_night_without_orders_are_noticed(nights):
    nights.night(12, segment="")
    done = pipeline.run(nights.spark)
    assert done.ok, "they warn"
    told = {v.metric_name: v.message for v in done.quality.warnings}
    assert told == {
        "segment_is_filled_as_usual": "1 on 2026-01-12: expected 0 to 0",
        "orders_came_last_night": "the newest ingested_at is 2026-01-12 02:00, "
        "24.0 hours before 2026-01-13 02:00 UTC: expected at most 12",
        "last_order_is_of_yesterday": "the newest order_ts is 2026-01-11 12:00, "
        "38.0 hours before 2026-01-13 02:00 UTC: expected at most 24",
        "as_many_orders_as_usual": "0 on 2026-01-12: expected 8.291 to 11.71",
        "no_day_is_without_orders": "no rows on 2026-01-12",
    }


@pytest.mark.parametrize(
    ("statement", "table_name", "rule", "message"),
    [
        (
            "UPDATE gold.daily_sales_summary SET net_revenue = net_revenue + 0.01 WHERE order_date = DATE '2026-01-02'",
            "gold.daily_sales_summary", "equals_silver",
            'groups differ from silver.orders_clean, for example {"category":"Home","order_date":"2026-01-02"}',
        ),
        (
            "DELETE FROM bronze.orders_raw WHERE order_id = 'O-1-1'",
            TARGET, "bronze_is_accounted_for", "rows read",
        ),
        (
            "INSERT INTO silver.orders_clean SELECT * FROM silver.orders_clean WHERE order_id = 'O-3-1'",
            TARGET, "order_is_there_once", "rows: expected each order_id once",
        ),
    ],
)  # fmt: skip
def test_a_table_that_was_changed_by_hand_is_found(nights, statement, table_name, rule, message):
    changed = statement.split()[2 if statement.startswith(("DELETE", "INSERT")) else 1]
    before = catalog.version(nights.spark, changed)
    assert quality.run(nights.spark).ok
    nights.spark.sql(f"ALTER TABLE {changed} UNSET TBLPROPERTIES IF EXISTS (delta.appendOnly)")
    nights.spark.sql(statement)
    try:
        found = {(v.table_name, v.metric_name): v.message for v in quality.run(nights.spark).failures}
        assert message in found.pop((table_name, rule))
        # A duplicate row of silver is also missing in the totals of gold.
        assert set(found) <= {(name, "equals_silver") for name in GOLD}
        if table_name.startswith("silver"):
            answer = CliRunner().invoke(cli.app, ["quality", "--json"])
            assert answer.exit_code == 1
            told = json.loads(answer.stdout)
            assert (told["ok"], told["is_new"]) == (False, False)
            assert any(message in one["message"] for one in told["verdicts"])
            shown = CliRunner().invoke(cli.app, ["quality"])
            assert f"FAILED {table_name}: {rule} is broken: " in shown.stdout
    finally:
        nights.spark.sql(f"RESTORE TABLE {changed} TO VERSION AS OF {before}")
