"""The gate: which rule an event breaks, what becomes of it, and what is counted.

``expect`` counts and ``expect_or_fail`` stops, as in Databricks' declarative pipelines; ``expect_or_quarantine`` sets
rows aside, where they have ``expect_or_drop``. The quarantine keeps the whole row, with the value found and the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared import rules
from shared.rules import is_broken
from shared.silver.events import payload

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from shared.silver.metadata import TableDefinition


def examined(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Add ``broken_rule STRING`` and ``reason STRING``: the first rule that the event breaks, NULL if it breaks none.

    A rule that stops the table goes before rules that set rows aside, see :func:`shared.rules.examined`. Rules of
    severity ``warn`` break nothing; :func:`counts` counts them.
    """
    return rules.examined(events, definition.gate)


def accepted(events: DataFrame) -> DataFrame:
    """Return the events that broke no rule."""
    return events.where("broken_rule IS NULL").drop("broken_rule", "reason")


def business_key(definition: TableDefinition) -> Column:
    """Return a row's key as one text: the key itself, or if it has several columns, these as JSON.

    The columns are not joined as texts: ("a, b", "c") and ("a", "b, c") are two keys, and so are (NULL, "a") and ("a",
    NULL).
    """
    if len(definition.business_keys) == 1:
        return F.col(definition.business_keys[0]).cast("string")
    return F.to_json(F.struct(*definition.business_keys), {"ignoreNullFields": "false"})


def quarantined(events: DataFrame, definition: TableDefinition, run_id: str) -> DataFrame:
    """Return the events that broke a rule, as rows of ``silver.quarantine``."""
    return events.where("broken_rule IS NOT NULL").select(
        F.lit(definition.target).alias("table_name"),
        business_key(definition).alias("business_key"),
        F.col("broken_rule").alias("rule"),
        F.lit("quarantine").alias("severity"),
        "reason",
        F.to_json(F.struct(*payload(events)), {"ignoreNullFields": "false"}).alias("row_json"),
        F.col("source_file").alias("source"),
        F.lit(run_id).alias("run_id"),
        F.lit(None).cast("string").alias("released_by"),
    )


def counts(definition: TableDefinition, further: tuple[str, ...] = ()) -> list[Column]:
    """Return aggregates over examined events that account for every new row.

    ``rows_read = accepted + quarantined + duplicates``; then one number for each rule: new events that broke it.

    Args:
        definition: whose rules are counted.
        further: names of rules beyond the definition's that ``broken_rule`` may hold.
    """
    new, passed = F.col("is_new"), F.col("broken_rule").isNull()
    columns = [
        F.coalesce(F.sum("new_rows"), F.lit(0)).alias("rows_read"),
        F.count_if(new & passed).alias("accepted"),
        F.count_if(new & ~passed).alias("quarantined"),
        F.coalesce(F.sum(F.col("new_rows") - new.cast("bigint")), F.lit(0)).alias("duplicates"),
    ]
    for rule in definition.gate:
        failed = passed & is_broken(rule) if rule.severity == "warn" else F.col("broken_rule") == rule.name
        columns.append(F.count_if(new & failed).alias(rule.name))
    columns += [F.count_if(new & (F.col("broken_rule") == name)).alias(name) for name in further]
    return columns
