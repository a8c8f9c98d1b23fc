"""Tags: what a table is, and which columns hold personal data, told where catalogs and people look for it (FR-012).

On Databricks these are Unity Catalog's tags. Open-source Delta has none, so here a tag is a table property,
``shopmetrics.tag.<name>`` or ``shopmetrics.tag.<column>.<name>``, which every Delta reader can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared import catalog
from shared.settings import on_databricks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PREFIX = "shopmetrics.tag."

PERSONAL_DATA = ("first_name", "last_name", "email", "phone", "address", "city", "postal_code")
"""Columns that say something of a person, in whatever table they are. A quarantined row holds them in ``row_json``."""

ROWS_AS_DELIVERED = ("row_json", "_malformed", "raw_value")
"""Columns that hold a whole row or message, and so whatever is in it."""


@dataclass(frozen=True, order=True)
class Tag:
    """One tag of a table, or of a column of it."""

    table: str
    column: str
    """Empty for a tag of the table itself."""
    name: str
    value: str


def declared(table: str, columns: Sequence[str]) -> list[Tag]:
    """Return the tags that a table of the lakehouse should have.

    ``layer`` is its schema, ``domain`` what it is about; ``personal_data`` marks columns.
    """
    schema, _, name = table.partition(".")
    streamed = "clickstream" in name or "traffic" in name or "stream" in name
    domain = "operations" if schema == "ops" else "traffic" if streamed else "sales"
    personal = [one for one in columns if one in PERSONAL_DATA or one in ROWS_AS_DELIVERED]
    tags = [Tag(table, "", "layer", schema), Tag(table, "", "domain", domain)]
    return sorted([*tags, *(Tag(table, column, "personal_data", "yes") for column in personal)])


def apply(spark: SparkSession, tables: Sequence[str] | None = None) -> list[Tag]:
    """Give tables the tags that are declared; return those that were missing or had another value.

    A table that has its tags gets no new version. Tags that others have set stay.

    Args:
        spark: the session.
        tables: which; defaults to all tables of the lakehouse.
    """
    added = []
    for table in catalog.tables(spark) if tables is None else tables:
        there = set(of_table(spark, table))
        if missing := [tag for tag in declared(table, spark.table(table).columns) if tag not in there]:
            _set(spark, table, missing)
            added += missing
    return added


def find(spark: SparkSession, name: str = "", value: str = "") -> list[Tag]:
    """Return the tags of all tables, or those of this name and value, sorted.

    Example:
        >>> {tag.table for tag in find(shared.connect(), "personal_data")}
        {'bronze.customers_raw', 'silver.dim_customers'}
    """
    tags = [tag for table in catalog.tables(spark) for tag in of_table(spark, table)]
    return sorted(tag for tag in tags if name in ("", tag.name) and value in ("", tag.value))


def of_table(spark: SparkSession, table: str) -> list[Tag]:
    """Return the tags of one table and of its columns."""
    if on_databricks():
        schema, _, name = table.partition(".")
        where = f"WHERE schema_name = '{schema}' AND table_name = '{name}'"
        rows = spark.sql(
            f"SELECT '' AS column_name, tag_name, tag_value FROM information_schema.table_tags {where} UNION ALL "
            f"SELECT column_name, tag_name, tag_value FROM information_schema.column_tags {where}"
        ).collect()
        return [Tag(table, row.column_name, row.tag_name, row.tag_value) for row in rows]
    found = []
    for row in spark.sql(f"SHOW TBLPROPERTIES {table}").collect():
        if row.key.startswith(PREFIX):
            column, _, name = row.key.removeprefix(PREFIX).rpartition(".")
            found.append(Tag(table, column, name, row.value))
    return found


def _set(spark: SparkSession, table: str, tags: Sequence[Tag]) -> None:
    def pairs(tags: Sequence[Tag], prefix: str = "") -> str:
        literal = catalog.sql_literal
        return ", ".join(
            f"{literal(prefix + _key(tag) if prefix else tag.name)} = {literal(tag.value)}" for tag in tags
        )

    if not on_databricks():
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ({pairs(tags, PREFIX)})")
        return
    if of_it := [tag for tag in tags if not tag.column]:
        spark.sql(f"ALTER TABLE {table} SET TAGS ({pairs(of_it)})")
    for tag in tags:
        if tag.column:
            spark.sql(f"ALTER TABLE {table} ALTER COLUMN `{tag.column}` SET TAGS ({pairs([tag])})")


def _key(tag: Tag) -> str:
    return f"{tag.column}.{tag.name}" if tag.column else tag.name
