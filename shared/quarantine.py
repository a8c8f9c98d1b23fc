"""The quarantine: where silver and the streams put the rows that broke a rule, until a run accepts them after all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import catalog

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

QUARANTINE = "silver.quarantine"

QUARANTINE_COLUMNS = {
    "table_name": ("STRING", "table the row was meant for"),
    "business_key": ("STRING", "its key, NULL if that is what is missing"),
    "rule": ("STRING", "the first rule it broke"),
    "severity": ("STRING", "quarantine"),
    "reason": ("STRING", "the value found and the limit"),
    "row_json": ("STRING", "the whole row"),
    "source": ("STRING", "file, or topic, partition and offset"),
    "run_id": ("STRING", "run that set it aside"),
    "released_by": ("STRING", "run that accepted the row after all; NULL while it is set aside"),
}


def create_table(spark: SparkSession) -> None:
    """Make sure that ``silver.quarantine`` exists."""
    catalog.create_table(
        spark,
        QUARANTINE,
        QUARANTINE_COLUMNS,
        "Rows that broke a rule, each with the reason.",
        # Two tables that run in parallel can write here without a conflict.
        partitioned_by="table_name",
    )


def forget(spark: SparkSession, table: str) -> None:
    """Remove the quarantined rows of a table."""
    if catalog.table_exists(spark, QUARANTINE):
        spark.sql(f"DELETE FROM {QUARANTINE} WHERE table_name = {catalog.sql_literal(table)}")
