"""AC-004, without an engine: quality rules as data, their verdicts on measured values, and refused rules."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES
from shared.errors import MetadataError
from shared.quality import rules
from shared.quality.measures import Measured
from shared.quality.quality_run import QualityRun
from shared.quality.reconciliation import Account, Difference
from shared.quality.report import as_rows
from shared.quality.rules import FILE, Matches, TableRules, declared, new_versions, problems
from shared.quality.verdicts import Verdict, last_whole_day, no_table, verdicts
from shared.quality.windows import usual_range

NIGHT = datetime(2026, 1, 20, 2, tzinfo=UTC)
YESTERDAY = date(2026, 1, 19)
ORDERS = "silver.orders_clean"


def table(*rules: dict[str, Any], target: str = ORDERS, **more: Any) -> TableRules:
    return TableRules.model_validate({"target": target, "rules": list(rules), **more})


def judged(rule: dict[str, Any], values: dict[str, Any] | None = None, by_day: Any = None, **more: Any) -> Verdict:
    """Return the verdict of one rule."""
    one = table({"name": "it", "severity": "fail", **rule}, target=more.pop("target", ORDERS))
    found = Measured({"rows": 1} | (values or {}), {one.days[0]: by_day or {}} if one.days else {})
    _, said = verdicts(one, found, more.pop("as_of", NIGHT), **more)
    return said


def series(*values: float | None, name: str = "it", last: date = YESTERDAY) -> dict[date, dict[str, Any]]:
    """Return values by day, up to the last whole day, without days whose value is None."""
    days = [last - timedelta(days=back) for back in reversed(range(len(values)))]
    return {day: {name: value} for day, value in zip(days, values, strict=True) if value is not None}


# Rules as data


def test_the_declared_rules_fit_the_declared_tables():
    tables = declared()
    known = {
        source.bronze_table: [*source.column_names, *(c.name for c in AUDIT_COLUMNS)] for source in SOURCES.values()
    }
    assert problems([one for one in tables if one.layer == "bronze"], known, list(known)) == []
    kinds = {rule.kind for one in tables for rule in one.rules}
    assert kinds == {"row", "matches", "unique", "fresh", "usual", "no_gap", "accounted", "equals"}
    assert {one.layer for one in tables} == {"bronze", "silver", "gold"}
    assert all(rule.severity == "fail" for one in tables for rule in one.rules if rule.kind in ("accounted", "equals"))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            {"name": "it", "expect_or_die": "true", "limit": ""},
            "expected exactly one of expect, expect_or_",
        ),
        (
            {"name": "it", "expect_or_quarantine": "true", "limit": ""},
            "severity: input should be 'warn' or 'fail', found 'quarantine'",
        ),
        ({"name": "it", "kind": "unique", "severity": "error", "columns": ["a"]}, "'warn' or 'fail', found 'error'"),
        (
            {"name": "it", "kind": "uniq", "severity": "fail"},
            "'row', 'matches', 'unique', 'fresh', 'usual', ",
        ),
        ({"name": "it", "kind": "unique", "severity": "fail", "columns": []}, "columns: tuple should have at least 1"),
        ({"name": "it", "kind": "fresh", "severity": "fail", "column": "a"}, "within_hours: field required"),
        ({"name": "It", "expect": "true", "limit": ""}, "name: string should match pattern"),
        ({"name": "it", "expect": "true", "limit": "", "filter": "a"}, "filter: extra inputs are not permitted"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_choices(tmp_path: Path, rule: dict[str, Any], told: str):
    with pytest.raises(MetadataError) as caught:
        rules.validated(
            TableRules, [{"target": ORDERS, "rules": [rule]}, {"target": ORDERS, "rulez": []}], "rules.toml"
        )
    assert told in caught.value.problem
    assert f"{ORDERS}: rules.0" in caught.value.problem
    assert "rulez" in caught.value.problem, "all that is wrong is told at once"


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path):
    file = tmp_path / "rules.toml"
    file.write_text("[[table]\n")
    with pytest.raises(MetadataError, match=r"rules\.toml is not TOML"):
        declared(file)


def test_rules_are_checked_against_the_tables_before_anything_runs():
    unique = {"name": "once", "kind": "unique", "severity": "fail", "columns": ["order_id", "nr"]}
    fresh = {"name": "new", "kind": "fresh", "severity": "warn", "column": "at", "within_hours": 1}
    equals = {"kind": "equals", "severity": "fail", "by": ["day"], "measures": {"revenue": "sum(a)"}}
    found = problems(
        [
            table(unique, fresh, {"name": "once", "expect": "true", "limit": ""}),
            table(target=ORDERS),
            table(target="silver.order_clean"),
            table({"name": "same", "source": "silver.nothing", **equals}, target="gold.sales"),
            table({"name": "all", "kind": "accounted", "severity": "fail"}, target="gold.sales_2"),
            table(
                {"name": "text", "expect": "email RLIKE '^.+@.+$' AND true", "limit": ""},
                {"name": "never", "kind": "usual", "severity": "warn", "day": "d", "window": 5},
                target="bronze.customers_raw",
            ),
        ],
        {ORDERS: ["order_id", "order_ts"], "gold.sales": ["day", "net"]},
        [ORDERS, "gold.sales", "gold.sales_2", "bronze.customers_raw"],
    )
    assert found == [
        "silver.orders_clean: declared more than once",
        "silver.orders_clean: once is there more than once",
        "silver.orders_clean: rule once: unknown column nr: silver.orders_clean has order_id, order_ts",
        "silver.orders_clean: rule new: unknown column at: silver.orders_clean has order_id, order_ts",
        "silver.order_clean: unknown table: expected one of "
        "silver.orders_clean, gold.sales, gold.sales_2, bronze.customers_raw",
        "gold.sales: rule same: unknown source silver.nothing: expected one of "
        "silver.orders_clean, gold.sales, gold.sales_2, bronze.customers_raw",
        "gold.sales: rule same: unknown column revenue: gold.sales has day, net",
        "gold.sales_2: rule all: its source's rows have no account: expected one of "
        "silver.dim_customers, silver.dim_products, silver.orders_clean",
        "bronze.customers_raw: rule text: its pattern ends in $, which lets a line break at the end pass: "
        r"end it in \\z, or use kind = matches",
        "bronze.customers_raw: rule never: least_points 7 is more than the 5 days of its window: it is never judged",
    ]


def test_a_pattern_is_matched_as_a_whole_and_its_quotes_do_not_end_the_text():
    rule = Matches(name="it", severity="fail", kind="matches", column="c", pattern=r"a|it's \d$").as_row_rule
    assert rule.expectation == r"`c` RLIKE '\\A(?:a|it\'s \\d$)\\z'"


# Fingerprints and versions


def test_a_fingerprint_is_the_same_in_every_process_and_for_every_order_of_a_set():
    one, other = (
        table({"name": "it", "kind": "unique", "severity": "fail", "columns": columns})
        for columns in (["b", "a", "c"], ["c", "b", "a", "a"])
    )
    assert one.fingerprints == other.fingerprints
    program = "from shared.quality import declared; print([one.fingerprints for one in declared()])"
    answers = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert answers == {f"{[one.fingerprints for one in declared()]}\n".encode()}


def test_every_part_of_a_rule_is_in_its_fingerprint():
    base = {"name": "it", "kind": "usual", "severity": "warn", "day": "d"}
    others = [
        {"name": "that"}, {"severity": "fail"}, {"day": "e"}, {"measure": "sum(a)"}, {"window": 28}, {"method": "mean"},
        {"sensitivity": 4}, {"least_points": 8},
    ]  # fmt: skip
    found = [table(base | other).fingerprints.popitem()[1] for other in ({}, *others)]
    found.append(table(base, target="gold.daily_sales_summary").fingerprints["it"])
    assert len(set(found)) == len(found)


def test_versions_are_added_and_none_is_taken_away():
    first = table({"name": "a", "expect": "x > 0", "limit": ""}, {"name": "b", "expect": "true", "limit": ""})
    second = table({"name": "a", "expect": "x > 1", "limit": ""})
    newest: dict[tuple[str, str], tuple[int, str | None]] = {}

    def publish(*tables: TableRules) -> list[tuple[str, int, bool]]:
        added = new_versions(tables, newest)
        newest.update({(one[0], one[1]): (one[2], one[3]) for one in added})
        return [(name, version, definition is not None) for _, name, version, _, definition in added]

    assert publish(first) == [("a", 1, True), ("b", 1, True)]
    assert publish(first) == []
    assert publish(second) == [("a", 2, True), ("b", 2, False)]
    assert publish(second) == []
    assert publish(first) == [("a", 3, True), ("b", 3, True)], "as it was long ago, and yet another version"
    assert newest[ORDERS, "a"] == (3, first.fingerprints["a"])


# The usual range


def test_the_median_is_not_moved_by_one_odd_day_and_the_mean_is():
    calm, odd = [10, 12, 11, 10, 12, 11, 12], [10, 12, 11, 10, 90, 12, 11]
    assert usual_range(odd, "mad", 3) == pytest.approx((6.5522, 15.4478))
    assert usual_range(calm, "mad", 3) == pytest.approx((6.5522, 15.4478))
    low, high = usual_range(odd, "mean", 3)
    assert (low, high) == pytest.approx((22.2857 - 3 * stdev(odd), 22.2857 + 3 * stdev(odd)), abs=1e-3)
    assert low < 0 < 90 < high, "the odd day has made itself usual"


def test_a_window_of_mostly_one_value_still_has_a_spread():
    assert usual_range([5] * 7, "mad", 3) == (5, 5)
    low, high = usual_range([5] * 6 + [12], "mad", 3)
    assert (low, high) == pytest.approx((5 - 3 * 1.2533, 5 + 3 * 1.2533))


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=30), st.sampled_from(["mad", "mean"]), st.integers(1, 5))
def test_a_range_widens_with_its_sensitivity_and_holds_its_middle(window: list[int], method: Any, sensitivity: int):
    low, high = usual_range(window, method, sensitivity)
    wider = usual_range(window, method, sensitivity + 1)
    assert wider[0] <= low <= high <= wider[1]
    assert min(window) <= (low + high) / 2 + 1e-6
    assert (low + high) / 2 - 1e-6 <= max(window)


USUAL = {"kind": "usual", "severity": "warn", "day": "d"}


def test_half_a_day_is_unusual_and_the_message_says_what_was_expected():
    said = judged(USUAL, by_day=series(300, 310, 290, 305, 295, 300, 310, 290, 305, 295, 150))
    assert (said.status, said.is_warning, said.is_failure) == ("failed", True, False)
    assert said.message == "150 on 2026-01-19: expected 277.8 to 322.2"
    assert (said.metric_value, said.low) == (Decimal("150.000000"), Decimal("277.761000"))
    assert judged(USUAL, by_day=series(300, 310, 290, 305, 295, 300, 310, 290, 305, 295, 280)).status == "passed"


def test_a_day_without_rows_counts_as_none_and_days_before_the_first_count_not():
    assert judged(USUAL, by_day=series(*[300, 310] * 5, None)).message == "0 on 2026-01-19: expected 282.8 to 327.2"
    assert judged(USUAL, by_day=series(300, None, *[300, 310] * 4, 290)).status == "passed"
    few = judged(USUAL, by_day=series(*[300] * 6, 3))
    assert (few.status, few.metric_value) == ("not judged", 3)
    assert few.message == "6 days before 2026-01-19 in the window of 14: expected 7 or more"
    assert judged(USUAL, by_day=series(*[300] * 7, 3)).status == "failed"


def test_only_the_window_is_looked_at_and_neither_today_nor_tomorrow():
    old = series(*[9_000] * 30, last=date(2026, 1, 4))
    today = {date(2026, 1, 20): {"it": 4}, date(2027, 1, 1): {"it": 9_000}}
    said = judged(USUAL, by_day=old | series(*[300, 310] * 7, 305) | today)
    assert (said.status, said.metric_value) == ("passed", 305)
    high = old | series(*[300, 310] * 7, 9_000)
    assert judged(USUAL, by_day=high).status == "failed"
    assert judged(USUAL | {"window": 28}, by_day=high).status == "passed"


def test_another_measure_has_no_value_on_a_day_without_rows():
    share = USUAL | {"measure": "avg(x)", "least_points": 2}
    nothing = judged(share, by_day=series(0.1, 0.2, 0.1, None))
    assert (nothing.status, nothing.message) == ("not judged", "no row is of 2026-01-19")
    assert judged(share, by_day=series(0.1, None, None, 0.1)).status == "not judged"
    assert judged(share, by_day=series(0.1, 0.12, None, 1.0)).status == "failed"


# The other kinds


@pytest.mark.parametrize(("hours", "status"), [(0, "passed"), (12, "passed"), (12.01, "failed")])
def test_fresh_is_measured_from_the_moment_that_is_asked_for(hours: float, status: str):
    # In the form of the engine's rows: this machine's local time, without a time zone.
    newest = (NIGHT - timedelta(hours=hours)).astimezone().replace(tzinfo=None)
    said = judged({"kind": "fresh", "column": "at", "within_hours": 12}, {"it": newest})
    assert said.status == status
    assert bool(said.message) == (status == "failed")
    assert float(said.metric_value or 0) == pytest.approx(hours, abs=1e-3)


def test_what_cannot_be_judged_says_so_and_does_not_pass():
    fresh = {"kind": "fresh", "column": "at", "within_hours": 12}
    for said in (
        judged(fresh),
        judged(fresh, as_of=None),
        judged({"kind": "no_gap", "day": "d"}),
        judged(USUAL),
        *no_table(table(fresh | {"name": "it", "severity": "fail"})),
    ):
        assert (said.status, said.is_failure) == ("not judged", False)
        assert said.message


def test_a_missing_day_is_a_gap_wherever_in_the_window_it_is():
    gap = {"kind": "no_gap", "day": "d", "window": 7}
    assert judged(gap, by_day=series(None, *[1] * 7)).status == "passed"
    assert judged(gap, by_day=series(1, None, 1)).message == "no rows on 2026-01-18"
    assert judged(gap, by_day=series(1, 1, None)).message == "no rows on 2026-01-19"
    assert judged(gap, by_day=series(1, *[None] * 5, 1)).metric_value == 5
    assert judged(gap, by_day=series(1, *[None] * 7)).message.endswith("2026-01-17, ...")
    assert judged(gap, by_day=series(1, 1)).rows_checked == 2, "days before the first are no gap"


def test_rows_that_break_a_rule_are_counted_among_those_it_is_asked_of():
    rule = {"expect_or_fail": "a > 0", "limit": "more than 0", "where": "b"}
    one = table({"name": "it", **rule})
    _, said = verdicts(one, Measured({"rows": 9, "it": 2, "it.asked": 5}), NIGHT)
    assert (said.metric_value, said.rows_checked, said.is_failure) == (2, 5, True)
    assert said.message == "2 of 5 rows where b: expected more than 0"
    assert said.fingerprint == one.fingerprints["it"]
    _, said = verdicts(one, Measured({"rows": 0}), NIGHT)
    assert (said.status, said.rows_checked) == ("passed", 0), "an empty table"
    said = judged({"kind": "unique", "columns": ["b", "a"]}, {"it": 1, "it.asked": 5})
    assert said.message == "1 of 5 rows: expected each a, b once"


def test_groups_that_differ_from_the_layer_below_break_a_rule():
    equals = {"kind": "equals", "source": ORDERS, "by": ["day"], "measures": {"net": "sum(net)"}}
    same, other = Difference(10, 0), Difference(10, 2, '{"day":"2026-01-01"}')
    assert judged(equals, differences={"it": same}).status == "passed"
    said = judged(equals, differences={"it": other})
    assert said.is_failure
    assert said.message == '2 of 10 groups differ from silver.orders_clean, for example {"day":"2026-01-01"}'


SOUND = Account(ORDERS, 10, read=10, accepted=6, quarantined=3, duplicate=1, released=1, lost=1, aside=3)


@pytest.mark.parametrize(
    ("changes", "problem", "rows"),
    [
        ({}, "", 0),
        ({"delivered": 12}, "silver.orders_clean: 10 of 12 rows read", 2),
        ({"duplicate": 0}, "silver.orders_clean: 10 rows read, 9 accounted for", 1),
        ({"aside": 1}, "silver.orders_clean: 1 rows in silver.quarantine, 3 set aside", 2),
        ({"has_run": False}, "silver.orders_clean has never run", 10),
    ],
)
def test_every_row_of_bronze_is_accounted_for(changes: dict[str, Any], problem: str, rows: int):
    account = Account(**(SOUND.__dict__ | changes))
    said = judged({"kind": "accounted"}, accounts={ORDERS: account})
    assert (said.message, said.metric_value, said.is_failure) == (problem, rows, bool(problem))


def test_metrics_are_kept_and_judged_by_nobody():
    one = table(metrics=[{"name": "net", "expression": "sum(net)"}])
    rows, net = verdicts(one, Measured({"rows": 3, "net": Decimal("10.10")}), None)
    assert (rows.metric_name, rows.metric_value, rows.status, rows.severity) == ("rows", 3, "measured", "info")
    assert (net.metric_value, net.status, net.fingerprint) == (Decimal("10.1"), "measured", one.fingerprints["net"])


def test_the_last_whole_day_is_that_of_utc():
    assert last_whole_day(NIGHT) == YESTERDAY
    assert last_whole_day(datetime.fromisoformat("2026-01-20T01:00:00+02:00")) == date(2026, 1, 18)


def test_a_run_says_why_gold_is_not_made_and_shows_the_broken_rules_first():
    said = [
        judged(USUAL, by_day=series(*[300, 310] * 5, 0)),
        judged({"kind": "unique", "columns": ["a"]}, {"it": 1, "it.asked": 5}),
        judged({"kind": "unique", "columns": ["b"]}, {"it": 0, "it.asked": 5}),
    ]
    done = QualityRun("r", NIGHT, tuple(said), True, 0.1)
    assert not done.ok
    assert done.reason == "silver.orders_clean: rule it is broken: 1 of 5 rows: expected each a once"
    assert [(row["severity"], row["status"]) for row in as_rows(done)] == [
        ("fail", "failed"), ("warn", "failed"), ("fail", "passed"),
    ]  # fmt: skip
    assert QualityRun("r", NIGHT, (said[0], said[2]), True, 0.1).ok, "a warning stops nothing"
    assert FILE.is_file()
