"""Tables read by others than the engine under test: delta-rs reads them, DuckDB computes, in milliseconds.

What Spark writes, deletion vectors and all, is there for others too, and a check that costs little can be made often.
"""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

NAME = re.compile(r"\b(bronze|silver|gold|ops)\.(\w+)")


def read(table: Path, query: str = "SELECT * FROM t") -> pa.Table:
    """Return a table's rows, or those of a query that calls it ``t``."""
    return pa.table(QueryBuilder().register("t", DeltaTable(table)).execute(query).read_all())


def rows(lakehouse: Path, query: str) -> list[Any]:
    """Return the rows of a query as named tuples, instants in UTC: DuckDB's SQL, tables by their two-part names."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for schema, name in sorted(set(NAME.findall(re.sub("'[^']*'", "", query)))):
            con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            con.from_arrow(read(lakehouse / schema / name)).to_table(f"{schema}.{name}")
        found = con.sql(query).to_arrow_table()
    kind = namedtuple("Row", found.column_names, rename=True)  # type: ignore[misc]
    return [kind(*row.values()) for row in found.to_pylist()]
