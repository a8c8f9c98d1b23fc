"""Reads tables with other engines than the one under test: delta-rs reads them, DuckDB computes, in milliseconds.

This proves that other readers understand Spark's tables, deletion vectors included; and a cheap check can run often.
Where it does not matter which engine changes rows, delta-rs does it. :func:`clear` empties a lakehouse: a test that
needs an empty one clears it before it begins, and does not remove its own tables at the end.
"""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from shared import catalog, delta_log

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.settings import Settings

NAME = re.compile(r"\b(bronze|silver|gold|ops)\.(\w+)")


def read(table: Path, query: str = "SELECT * FROM t") -> pa.Table:
    """Return a table's rows, or those of a query that calls it ``t``."""
    # With an explicit version, the rows are never older than the newest file of the log.
    newest = DeltaTable(table, version=delta_log.newest_version(table / "_delta_log"))
    return pa.table(QueryBuilder().register("t", newest).execute(query).read_all())


def rows(lakehouse: Path, query: str) -> list[Any]:
    """Return the rows of a query in DuckDB's SQL, with two-part table names, as named tuples; instants are in UTC."""
    found = _found(lakehouse, query)
    kind = namedtuple("Row", found.column_names, rename=True)  # type: ignore[misc]
    return [kind(*row.values()) for row in found.to_pylist()]


def _found(lakehouse: Path, query: str) -> pa.Table:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for schema, name in sorted(set(NAME.findall(re.sub("'[^']*'", "", query)))):
            con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            con.from_arrow(read(lakehouse / schema / name)).to_table(f"{schema}.{name}")
        return con.sql(query).to_arrow_table()


CHANGE = re.compile(r"(?:UPDATE|DELETE FROM) ([\w.]+)(?: SET (.+?))?(?: WHERE (.+))?", re.DOTALL)
INSERT = re.compile(r"INSERT INTO ([\w.]+) (.+)", re.DOTALL)


def change(lakehouse: Path, statement: str) -> None:
    """Execute an UPDATE, a DELETE, or an INSERT of the rows of a query, as one commit of delta-rs.

    An UPDATE or a DELETE that affects no row makes no commit.
    """
    insert = INSERT.fullmatch(statement)
    name, new, condition = CHANGE.fullmatch(statement).groups() if insert is None else (insert[1], None, None)
    delta = DeltaTable(lakehouse / name.replace(".", "/"))
    if insert:
        schema = pa.schema(delta.schema())
        write_deltalake(delta, _found(lakehouse, insert[2]).rename_columns(schema.names).cast(schema), mode="append")
    elif new:
        delta.update(dict(part.split(" = ", 1) for part in new.split(", ")), predicate=condition)
    else:
        delta.delete(condition)


def append(lakehouse: Path, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows as one commit of delta-rs. Columns that a row does not name are NULL; decimals may be texts."""
    delta = DeltaTable(lakehouse / table.replace(".", "/"))
    schema = pa.schema(delta.schema())
    exact = {field.name for field in schema if pa.types.is_decimal(field.type)}
    given = [
        {name: Decimal(value) if name in exact and value is not None else value for name, value in row.items()}
        for row in rows
    ]
    write_deltalake(delta, pa.Table.from_pylist(given, schema), mode="append")


def clear(spark: SparkSession, home: Settings) -> None:
    """Remove every table, and the checkpoints of the streams that filled them; landed files stay."""
    for schema in catalog.SCHEMAS:
        spark.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    for directory in (home.lakehouse, home.checkpoints):
        shutil.rmtree(directory, ignore_errors=True)
    catalog.create_schemas(spark, home)
