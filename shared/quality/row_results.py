"""Show beside each row which rules it breaks, to find the rows behind a broken rule."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pyspark.sql import functions as F
from pyspark.sql.window import Window

from shared.quality.measures import where
from shared.quality.rules import AnyRule, Matches, RowRule, TableRules, Unique
from shared.rules import is_broken, named_in, reason_for

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

RESULT = (
    "STRUCT<name: STRING, message: STRING, columns: ARRAY<STRING>, filter: STRING, run_time: TIMESTAMP, "
    "run_id: STRING, fingerprint: STRING>"
)


def with_results(rows: DataFrame, table: TableRules, run_id: str, run_time: datetime) -> DataFrame:
    """Add what each row breaks: ``_errors`` for severity ``fail``, ``_warnings`` for ``warn``; NULL if it breaks none.

    Each is an array of ``name, message, columns, filter, run_time, run_id, fingerprint``, in the order of the rules.
    Only rules of rows and of keys are checked: no single row breaks a rule about a whole table. Every row is returned
    once, with the columns that it had.

    Args:
        rows: rows of the table.
        table: its rules.
        run_id: the run id that the results carry.
        run_time: the time that the results carry.

    Example:
        >>> marked = with_results(spark.table("silver.orders_clean"), rules, "by hand", datetime.now(UTC))
        >>> marked.where("_errors IS NOT NULL").select("order_id", "_errors.message").show()
    """
    fingerprints = table.fingerprints

    def results(severity: Literal["warn", "fail"]) -> Column:
        broken = [
            F.when(
                is_it,
                F.struct(
                    F.lit(rule.name),
                    message,
                    F.lit(columns).cast("array<string>"),
                    F.lit(rule.where),
                    F.lit(run_time.astimezone(UTC)).cast("timestamp"),
                    F.lit(run_id),
                    F.lit(fingerprints[rule.name]),
                ).cast(RESULT),
            )
            for rule in table.rules
            if isinstance(rule, RowRule | Matches | Unique) and rule.severity == severity
            for is_it, message, columns in [_asked(rule, rows)]
        ]
        if not broken:
            return F.lit(None).cast(f"ARRAY<{RESULT}>")
        found = F.filter(F.array(*broken), lambda one: one.isNotNull())
        return F.when(F.size(found) > 0, found)

    return rows.select("*", results("fail").alias("_errors"), results("warn").alias("_warnings"))


def _asked(rule: AnyRule, rows: DataFrame) -> tuple[Column, Column, list[str]]:
    """Return whether a row breaks a rule, the message, and the columns that the rule uses."""
    if isinstance(rule, Unique):
        # By a window and not by a join: rows whose key is NULL are one group, and no row is lost.
        same = Window.partitionBy(*(F.col(f"`{name}`") for name in rule.columns))
        asked = where(rule.where)
        times = F.count_if(asked).over(same)
        key = F.concat_ws(", ", *(_value(name) for name in rule.columns))
        return asked & (times > 1), F.concat(key, F.lit(" is there "), times, F.lit(" times")), list(rule.columns)
    assert isinstance(rule, RowRule | Matches)
    row = rule.as_row_rule if isinstance(rule, Matches) else rule
    columns = [rule.column] if isinstance(rule, Matches) else named_in([row.expectation], rows.columns)
    return where(row.where) & is_broken(row), reason_for(row, rows), columns


def _value(name: str) -> Column:
    return F.concat(F.lit(f"{name} = "), F.coalesce(F.col(f"`{name}`").cast("string"), F.lit("NULL")))
