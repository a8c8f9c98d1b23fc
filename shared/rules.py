"""Check rules on rows: which rows break a rule, why they do, and whether a rule can be checked at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from shared.errors import first_line

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from shared.control_table import Rule


def is_broken(rule: Rule) -> Column:
    """Return whether a row breaks a rule; a rule that cannot be answered, because of a NULL, is broken."""
    return ~F.coalesce(F.expr(rule.expectation), F.lit(False))


def reason_for(rule: Rule, rows: DataFrame) -> Column:
    """Return the sentence that says why a row breaks a rule: each value the rule looks at, and the limit."""
    if rule.expectation == "_malformed IS NULL":
        # The value is the whole line, which is stored beside the reason. Bronze says what is wrong with it, if it can.
        unknown = F.lit(f"expected {rule.limit}" if rule.limit else "the line does not fit the columns")
        return F.coalesce(F.col("_reason"), unknown) if "_reason" in rows.columns else unknown
    values = [
        F.concat(F.lit(f"{name} = "), F.coalesce(F.col(name).cast("string"), F.lit("NULL")))
        for name in named_in([rule.expectation], rows.columns)
    ]
    expected = F.lit(f"expected {rule.limit or rule.expectation}")
    return F.concat_ws(": ", F.concat_ws(", ", *values), expected)


def examined(rows: DataFrame, rules: Sequence[Rule]) -> DataFrame:
    """Add ``broken_rule STRING`` and ``reason STRING``: the first rule that a row breaks, NULL if it breaks none.

    Rules of severity ``warn`` are not considered. A rule of severity ``fail`` goes before all others if its expectation
    is false for the row: a rule that sets the row aside must not hide one that stops the table. If the expectation is
    NULL, the order of the rules decides.
    """
    asked = [rule for rule in rules if rule.severity != "warn"]
    says_no = [(~F.expr(rule.expectation), rule) for rule in asked if rule.severity == "fail"]
    broken, reason = F.lit(None).cast("string"), F.lit(None).cast("string")
    for is_this, rule in reversed([*says_no, *((is_broken(rule), rule) for rule in asked)]):
        broken = F.when(is_this, F.lit(rule.name)).otherwise(broken)
        reason = F.when(is_this, reason_for(rule, rows)).otherwise(reason)
    return rows.withColumn("broken_rule", broken).withColumn("reason", reason)


def named_in(expressions: list[str], columns: list[str]) -> list[str]:
    """Return which columns SQL expressions name, in the order of the columns."""
    text = "\n".join(expressions)
    return [name for name in columns if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]


def why_not(frame: DataFrame) -> str | None:
    """Return why the engine cannot resolve a frame, None if it can. Nothing is read."""
    try:
        frame.schema  # noqa: B018  asks the engine
    except PySparkException as error:
        return first_line(error)
    return None
