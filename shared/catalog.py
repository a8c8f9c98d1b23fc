"""Names: the schemas of the lakehouse, where their tables are kept, and what is in them.

Two-part names (``bronze.orders_raw``) are the same everywhere. On Databricks the catalog is set once per session and
the landing zone is the volume ``bronze.raw_data``; locally a table is the plain Delta directory
``lakehouse/<schema>/<table>``, which DuckDB and delta-rs can read too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from shared import delta_log
from shared.errors import CatalogError
from shared.settings import VOLUME, Settings, get_settings, on_databricks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

SCHEMAS = {
    "bronze": "As delivered: every row of every file, with where it came from. Append-only.",
    "silver": "Cleaned and historised: dimensions, facts, and a quarantine for what broke a rule.",
    "gold": "Aggregates that the business reads.",
    "ops": "Control tables, run logs and quality results of the pipeline itself.",
}
"""The schemas and their comments, in the order in which data passes through them."""

Columns = Mapping[str, tuple[str, str]]
"""Name to Spark SQL type and comment, in table order."""


@dataclass(frozen=True)
class TableState:
    """One table at one moment: its full name, its newest Delta version and its row count."""

    table: str
    version: int
    rows: int


@dataclass(frozen=True)
class Standing:
    """Which table one is, and how it stands."""

    table_id: str
    """Given by Delta when it was made: one that was dropped and made again under its name has another."""
    version: int
    """Its newest Delta version."""
    bytes: int | None
    """Size of its data as of about that version; None where only the engine could tell."""


def create_schemas(spark: SparkSession, settings: Settings | None = None) -> None:
    """Make sure that every schema exists, with its comment; on Databricks the landing volume too."""
    settings = settings or get_settings()
    for name, comment in SCHEMAS.items():
        location = "" if on_databricks() else f" LOCATION '{uri(settings.lakehouse / name)}'"
        spark.sql(f"CREATE SCHEMA IF NOT EXISTS {name} COMMENT {sql_literal(comment)}{location}")
    if on_databricks():
        spark.sql(f"CREATE VOLUME IF NOT EXISTS {VOLUME}")


def volume_path(settings: Settings | None = None) -> str:
    """Return the path of the landing volume: ``<volume>/<table>/<batch date>/*.csv``."""
    return str((settings or get_settings()).raw)


def uri(path: Path) -> str:
    """Return how Spark is told of a path of the home."""
    # Without a scheme a cluster would look in its own file system; Databricks has its volumes there, and nowhere else.
    return str(path) if on_databricks() else path.as_uri()


def register_tables(spark: SparkSession, settings: Settings | None = None) -> list[str]:
    """Enter every Delta directory of this home into the engine's catalog; return the names.

    The engine's catalog lives in memory, because that starts seconds sooner than a Hive metastore. The directories are
    the truth, so a home that was copied or moved needs no repair.
    """
    settings = settings or get_settings()
    create_schemas(spark, settings)
    logs = (log for log in settings.lakehouse.glob("*/*/_delta_log") if delta_log.newest_version(log) is not None)
    found = sorted(log.parent for log in logs)

    def register(directory: Path) -> str:
        name = f"{directory.parent.name}.`{directory.name}`"
        spark.sql(f"CREATE TABLE IF NOT EXISTS {name} USING delta LOCATION '{uri(directory)}'")
        return f"{directory.parent.name}.{directory.name}"

    known = [directory for directory in found if directory.parent.name in SCHEMAS]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(register, known))


def tables(spark: SparkSession, schemas: tuple[str, ...] = tuple(SCHEMAS)) -> list[str]:
    """Return the full names of all tables in these schemas, sorted."""
    names = []
    for schema in schemas:
        rows = spark.sql(f"SHOW TABLES IN {schema}").collect()
        names += sorted(f"{schema}.{row.tableName}" for row in rows if not row.isTemporary)
    return names


def create_table(
    spark: SparkSession,
    table: str,
    columns: Columns,
    comment: str,
    *,
    properties: Mapping[str, str] | None = None,
    partitioned_by: str | None = None,
    replace: bool = False,
) -> None:
    """Make an empty Delta table with a comment on each column.

    A table of that name is left as it is, or with ``replace`` becomes the new one, its history kept.
    """
    if not replace and table_exists(spark, table):
        return
    described = ", ".join(f"`{name}` {kind} COMMENT {sql_literal(text)}" for name, (kind, text) in columns.items())
    create = "CREATE OR REPLACE TABLE" if replace else "CREATE TABLE IF NOT EXISTS"
    partition = f" PARTITIONED BY ({partitioned_by})" if partitioned_by else ""
    set_to = ", ".join(f"{sql_literal(name)} = {sql_literal(value)}" for name, value in (properties or {}).items())
    run = get_settings().run
    run.mkdir(parents=True, exist_ok=True)
    # One at a time: a table that somebody is about to make looks like one whose creation died.
    with FileLock(run / "create_table.lock"):
        log = _log(spark, table)
        if log and delta_log.newest_version(log) is None:
            # What a creation left that died before its first commit. Delta makes no table where anything is.
            shutil.rmtree(log)
        spark.sql(
            f"{create} {table} ({described}) USING delta{partition} "
            f"COMMENT {sql_literal(comment)}" + (f" TBLPROPERTIES ({set_to})" if set_to else "")
        )


def schema_of(columns: Columns) -> str:
    """Return columns as the schema of a frame, for ``spark.createDataFrame``."""
    return ", ".join(f"`{name}` {kind}" for name, (kind, _) in columns.items())


def table_exists(spark: SparkSession, table: str) -> bool:
    """Whether the catalog knows this table."""
    return bool(spark.catalog.tableExists(table))


def version(spark: SparkSession, table: str) -> int:
    """Return the newest Delta version of a table.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    return _version(spark, table, _log(spark, table))


def identity(spark: SparkSession, table: str) -> tuple[str, int]:
    """Return the id that Delta gave a table when it was made, and its newest version.

    A table that was dropped and made again under the same name has another id, and its versions begin anew.

    Raises:
        CatalogError: if there is no such table.
    """
    found = standing(spark, table)
    if found is None:
        raise _missing(spark, table)
    return found.table_id, found.version


def standing(spark: SparkSession, table: str) -> Standing | None:
    """Return how a table stands now, None if there is none."""
    if not table_exists(spark, table):
        return None
    log = _log(spark, table)
    table_id = delta_log.table_id(log) if log else None
    if table_id is None:
        detail = spark.sql(f"DESCRIBE DETAIL {table}").first()
        assert detail is not None
        table_id = str(detail["id"])
    size = delta_log.bytes_of_data(log) if log else None
    return Standing(table_id, _version(spark, table, log), size)


def rows_written(spark: SparkSession, table: str) -> int:
    """Return how many rows the newest version of a table wrote, by its log.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    log = _log(spark, table)
    if log:
        _, metrics = delta_log.operation(log, _version(spark, table, log)) or ("", {})
    else:
        metrics = _history(spark, table, limit=1)[0].operationMetrics
    return _rows_written(metrics) or 0


def changes_since(spark: SparkSession, table: str, version: int) -> dict[str, int]:
    """Return how many rows the commits after a version inserted, updated and deleted, by the table's history.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    log = _log(spark, table)
    newest = _version(spark, table, log)
    names = {
        "inserted": ("numOutputRows", "numTargetRowsInserted"),
        "updated": ("numUpdatedRows", "numTargetRowsUpdated"),
        "deleted": ("numDeletedRows", "numTargetRowsDeleted"),
    }
    counts = dict.fromkeys(names, 0)
    for operation, metrics in _commits(spark, table, log, version + 1, newest):
        for what, (alone, in_merge) in names.items():
            # A MERGE counts under numOutputRows the rows that it copied, too.
            counts[what] += int(metrics.get(in_merge if operation == "MERGE" else alone, 0))
        if operation == "WRITE":
            # So does an overwrite of some rows.
            counts["inserted"] -= int(metrics.get("numCopiedRows", 0))
    return counts


def state(spark: SparkSession, names: list[str] | None = None) -> list[TableState]:
    """Return version and row count of these tables, or of all."""
    return [TableState(table, version(spark, table), spark.table(table).count()) for table in names or tables(spark)]


def describe(spark: SparkSession, table: str) -> DataFrame:
    """Return the columns of a table as a DataFrame ``column, type, nullable, comment``, in table order.

    Raises:
        CatalogError: if there is no such table.

    Example:
        >>> catalog.describe(spark, "bronze.orders_raw").show(truncate=False)
    """
    _require(spark, table)
    rows = [
        (field.name, field.dataType.simpleString(), field.nullable, field.metadata.get("comment", ""))
        for field in spark.table(table).schema.fields
    ]
    return spark.createDataFrame(rows, "column STRING, type STRING, nullable BOOLEAN, comment STRING")


def history(spark: SparkSession, table: str) -> DataFrame:
    """Return a table's versions as a DataFrame ``version, operation, rows_written``, oldest first.

    Only what is the same on every machine: no timestamps, no ids. ``rows_written`` counts all rows in the files that a
    version wrote, copied ones too, and is NULL where the log does not say.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    rows = [
        (int(row.version), row.operation, _rows_written(row.operationMetrics))
        for row in reversed(_history(spark, table))
    ]
    return spark.createDataFrame(rows, "version LONG, operation STRING, rows_written LONG")


def _rows_written(metrics: dict[str, str]) -> int | None:
    if "numOutputRows" in metrics:
        return int(metrics["numOutputRows"])
    parts = [int(metrics[name]) for name in ("numUpdatedRows", "numCopiedRows") if name in metrics]
    return sum(parts) if parts else None


def table_path(table: str, settings: Settings | None = None) -> Path:
    """Return the local Delta directory of a table.

    Raises:
        CatalogError: if the name is not ``schema.table`` with one of the known schemas.
    """
    schema, _, name = table.partition(".")
    if schema not in SCHEMAS or not name or "/" in name or name.startswith("."):
        raise CatalogError(
            f"{table!r} is not the name of a table here: expected <schema>.<table>, "
            f"with a schema of {', '.join(SCHEMAS)}."
        )
    return (settings or get_settings()).lakehouse / schema / name


def drop_table(spark: SparkSession, table: str, settings: Settings | None = None) -> None:
    """Remove a table: its name, and locally its files too, which ``DROP TABLE`` leaves if an earlier engine made it."""
    directory = None if on_databricks() else table_path(table, settings)
    spark.sql(f"DROP TABLE IF EXISTS {table}")
    if directory and directory.exists():
        shutil.rmtree(directory)


def _log(spark: SparkSession, table: str) -> Path | None:
    """Return the directory of a table's log, None if it is not on a disk of this machine."""
    schema, _, name = table.partition(".")
    if on_databricks():
        return None
    location = urlsplit(spark.catalog.getDatabase(schema).locationUri)
    log = Path(url2pathname(location.path)) / name / "_delta_log"
    return log if location.scheme == "file" and log.is_dir() else None


def _version(spark: SparkSession, table: str, log: Path | None) -> int:
    newest = delta_log.newest_version(log) if log else None
    return int(_history(spark, table, limit=1)[0].version) if newest is None else newest


def _commits(
    spark: SparkSession, table: str, log: Path | None, first: int, last: int
) -> list[tuple[str, Mapping[str, str]]]:
    """Return of each commit from one version through another its operation, and what it says of itself."""
    told = [delta_log.operation(log, one) for one in range(first, last + 1)] if log else [None]
    if None not in told:
        return [one for one in told if one]
    there = _history(spark, table)
    return [(one.operation, one.operationMetrics) for one in there if first <= one.version <= last]


def _history(spark: SparkSession, table: str, limit: int | None = None) -> list[Row]:
    rows: list[Row] = spark.sql(f"DESCRIBE HISTORY {table}" + (f" LIMIT {limit}" if limit else "")).collect()
    return rows


def _require(spark: SparkSession, table: str) -> None:
    if not table_exists(spark, table):
        raise _missing(spark, table)


def _missing(spark: SparkSession, table: str) -> CatalogError:
    return CatalogError(
        f"There is no table {table}. Tables here: {', '.join(tables(spark)) or 'none'}.",
        "run the day that makes it: docs/implementation-plan.md says which",
    )


def sql_literal(text: str) -> str:
    """Return a text as a SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def instant(moment: datetime) -> str:
    """Return an instant as a SQL literal, in UTC. Without a zone it is this machine's local time, as rows have it."""
    return f"TIMESTAMP {sql_literal(moment.astimezone(UTC).isoformat(sep=' '))}"
