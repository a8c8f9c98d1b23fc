"""The lakehouse's schemas and tables: their names, where they are stored, and what their logs say.

Two-part names (``bronze.orders_raw``) are the same everywhere. On Databricks the catalog is set once per session and
the landing zone is the volume ``bronze.raw_data``; locally a table is the plain Delta directory
``lakehouse/<schema>/<table>``, which DuckDB and delta-rs can read too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname
from weakref import WeakKeyDictionary

from shared import delta_log
from shared.errors import CatalogError, first_line
from shared.lock import locked
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
    """A table's identity, and its state at one moment."""

    table_id: str
    """The id that Delta gives a table when it creates it. A table that is dropped and created again has another id."""
    version: int
    """The newest Delta version."""
    bytes: int | None
    """Size of the data files at about that version; None if only the engine can tell."""


NOTE = "spark.databricks.delta.commitInfo.userMetadata"
"""Session setting. Delta stores its value in each commit of the session; a run notes its id there."""

_KEEPS_ROWS = {
    "ADD CONSTRAINT",
    "CHANGE COLUMN",
    "CHANGE COLUMNS",
    "CLUSTER BY",
    "COMPUTE STATS",
    "DROP CONSTRAINT",
    "DROP FEATURE",
    "FSCK",
    "OPTIMIZE",
    "REORG",
    "ROW TRACKING BACKFILL",
    "SET TBLPROPERTIES",
    "UNSET TBLPROPERTIES",
    "UPGRADE PROTOCOL",
    "VACUUM END",
    "VACUUM START",
}
"""Operations, by Delta's names, after which a table has the same rows and columns as before. An operation that is not
listed counts as one that changes rows."""


_ADDS_ROWS = {"ADD COLUMNS", "CREATE TABLE", "CREATE TABLE AS SELECT", "STREAMING UPDATE"}
"""Operations that keep every row and value of a table, and may add rows or columns."""


@dataclass(frozen=True)
class Commit:
    """One commit of a table, as recorded in the table's log."""

    version: int
    operation: str
    parameters: Mapping[str, object]
    note: str | None
    """What the session noted in the commit, see :data:`NOTE`; None if it noted nothing."""

    @property
    def keeps_rows(self) -> bool:
        """Whether the table has the same rows after the commit as before."""
        return self.operation in _KEEPS_ROWS

    @property
    def adds_rows(self) -> bool:
        """Whether the commit added rows or created the table, and removed nothing."""
        is_append = self.operation == "WRITE" and self.parameters.get("mode") == "Append"
        return is_append or self.operation in _ADDS_ROWS

    @property
    def restored(self) -> int | None:
        """The version that a RESTORE restored; None for other commits, and for a RESTORE to a timestamp."""
        to = self.parameters.get("version")
        return int(str(to)) if self.operation == "RESTORE" and str(to).isdigit() else None

    def __str__(self) -> str:
        return f"{self.operation} (version {self.version})"


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
    """Return a path of the home in the form that Spark needs."""
    # A path without a scheme means a cluster's own file system. On Databricks the volumes are there, and only there.
    return str(path) if on_databricks() else path.as_uri()


def register_tables(spark: SparkSession, settings: Settings | None = None) -> list[str]:
    """Register every Delta directory of this home in the engine's catalog; return the names.

    The engine's catalog is in memory, because it starts seconds sooner than a Hive metastore. The directories are the
    source of truth, so a home that was copied or moved needs no repair.
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


_PROPERTIES = {
    # A commit that also writes a checkpoint of the log costs as much as six others. By default every tenth commit does.
    # Up to a hundred small log files are read in a few milliseconds.
    "delta.checkpointInterval": "100",
}
"""Default properties of every table that is created here."""


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

    An existing table of that name stays as it is. With ``replace`` the new table takes its place and keeps its history.
    """
    if not replace and table_exists(spark, table):
        return
    described = ", ".join(f"`{name}` {kind} COMMENT {sql_literal(text)}" for name, (kind, text) in columns.items())
    create = "CREATE OR REPLACE TABLE" if replace else "CREATE TABLE IF NOT EXISTS"
    partition = f" PARTITIONED BY ({partitioned_by})" if partitioned_by else ""
    given = _PROPERTIES | dict(properties or {})
    set_to = ", ".join(f"{sql_literal(name)} = {sql_literal(value)}" for name, value in given.items())
    # One at a time: a table that another process is creating looks like one whose creation was killed.
    with locked(get_settings(), "create_table"):
        log = _log(spark, table)
        if log and delta_log.newest_version(log) is None:
            # Left by a creation that was killed before its first commit. Delta makes tables only in empty directories.
            shutil.rmtree(log)
        spark.sql(
            f"{create} {table} ({described}) USING delta{partition} "
            f"COMMENT {sql_literal(comment)} TBLPROPERTIES ({set_to})"
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

    A table that was dropped and made again under the same name has another id, and its versions start again at 0.

    Raises:
        CatalogError: if there is no such table.
    """
    found = standing(spark, table)
    if found is None:
        raise _missing(spark, table)
    return found.table_id, found.version


def standing(spark: SparkSession, table: str) -> Standing | None:
    """Return a table's identity and state now; None if there is no such table."""
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
            # A MERGE counts copied rows under numOutputRows too.
            counts[what] += int(metrics.get(in_merge if operation == "MERGE" else alone, 0))
        if operation == "WRITE":
            # An overwrite of some rows counts copied rows too.
            counts["inserted"] -= int(metrics.get("numCopiedRows", 0))
    return counts


def commits(spark: SparkSession, table: str, after: int) -> list[Commit]:
    """Return the commits of a table after a version, oldest first, as far as the log still has them.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    log = _log(spark, table)
    return _commits_of(spark, table, log, after + 1, _version(spark, table, log))


def last_change(spark: SparkSession, table: str) -> Commit | None:
    """Return the newest commit of a table that made or changed rows; None if the log no longer has it.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    log = _log(spark, table)
    for version in range(_version(spark, table, log), -1, -1):
        one = next(iter(_commits_of(spark, table, log, version, version)), None)
        if one is None or not one.keeps_rows:
            return one
    return None


def first_commit_at(spark: SparkSession, table: str) -> datetime | None:
    """Return when a table's first commit was made; None if its log is not on this machine, or no longer has it.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    log = _log(spark, table)
    commit = delta_log.commit_info(log, 0) if log else None
    return datetime.fromtimestamp(commit["timestamp"] / 1000, UTC) if commit and "timestamp" in commit else None


def undone(spark: SparkSession, table: str) -> tuple[Commit, int] | None:
    """Find the commit by which an append-only table lost or changed rows.

    Returns the commit, and the newest version that added rows, to which the table can be restored. None if the table
    holds all rows that were added. A later RESTORE to the newest rows repairs an earlier loss.

    Raises:
        CatalogError: if there is no such table.
    """
    _require(spark, table)
    log = _log(spark, table)
    newest = _version(spark, table, log)
    # One commit at a time, newest first: most often the newest one added rows.
    later: dict[int, Commit] = {}
    for added in range(newest, -1, -1):
        one = next(iter(_commits_of(spark, table, log, added, added)), None)
        if one is None or one.adds_rows:
            break
        later[added] = one
    holds = newest
    while holds in later:
        one = later[holds]
        if one.keeps_rows:
            holds -= 1
        elif one.restored is None:
            return one, added
        else:
            holds = one.restored
    if holds == added:
        return None
    return next(one for one in later.values() if not one.keeps_rows), added


def mended(spark: SparkSession, table: str) -> str:
    """Restore the rows of an append-only table if some were removed or changed.

    Returns what was done, empty if nothing was.

    Raises:
        CatalogError: if there is no such table, or if its former rows can no longer be restored.
    """
    from pyspark.errors import PySparkException

    found = undone(spark, table)
    if found is None:
        return ""
    by, added = found
    try:
        spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF {added}")
    except PySparkException as error:
        raise CatalogError(
            f"{table} has lost rows by {by}, and its version {added} cannot be restored: {first_line(error)}",
            f"`shopmetrics reset {table}` removes the table, and the next run makes it of what its source still has",
        ) from error
    return f"rows that were lost by {by} were restored, as of version {added}"


def state(spark: SparkSession, names: list[str] | None = None) -> list[TableState]:
    """Return version and row count of these tables, or of all."""
    return [TableState(table, version(spark, table), spark.table(table).count()) for table in names or tables(spark)]


def changed_since(spark: SparkSession, moment: float) -> dict[str, int | None]:
    """Return the tables that have a version made at this moment or later, layer by layer.

    Args:
        spark: the session.
        moment: seconds since 1970.

    Returns:
        Table to its newest version before that moment, None if it was made since.
    """
    found: dict[str, int | None] = {}
    for table in tables(spark):
        newest = version(spark, table)
        before = next((one for one, at in _commits_backwards(spark, table, newest) if at < moment), None)
        if before != newest:
            found[table] = before
    return found


def _commits_backwards(spark: SparkSession, table: str, newest: int) -> Iterator[tuple[int, float]]:
    """Yield versions, the newest first, and when each was made, in seconds since 1970."""
    log = _log(spark, table)
    for one in range(newest, -1, -1) if log else ():
        at = delta_log.committed_at(log, one) if log else None
        yield one, 0.0 if at is None else at  # cleaned up, so it is old
    if not log:
        yield from ((int(row.version), row.timestamp.timestamp()) for row in _history(spark, table))


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
    """Remove a table and its files. Locally, ``DROP TABLE`` leaves the files of a table that an earlier engine made."""
    directory = None if on_databricks() else table_path(table, settings)
    spark.sql(f"DROP TABLE IF EXISTS {table}")
    if directory and directory.exists():
        shutil.rmtree(directory)


def _log(spark: SparkSession, table: str) -> Path | None:
    """Return the directory of a table's log, None if it is not on a disk of this machine."""
    schema, _, name = table.partition(".")
    if on_databricks():
        return None
    directory = _directory(spark, schema)
    log = directory / name / "_delta_log" if directory else None
    return log if log and log.is_dir() else None


_directories: WeakKeyDictionary[SparkSession, dict[str, Path | None]] = WeakKeyDictionary()
"""The location of each session's schemas: a location never changes, and a run reads some thirty logs."""


def _directory(spark: SparkSession, schema: str) -> Path | None:
    """Return where a schema's tables are, None if that is not on a disk of this machine."""
    known = _directories.setdefault(spark, {})
    if schema not in known:
        location = urlsplit(spark.catalog.getDatabase(schema).locationUri)
        known[schema] = Path(url2pathname(location.path)) if location.scheme == "file" else None
    return known[schema]


def _version(spark: SparkSession, table: str, log: Path | None) -> int:
    newest = delta_log.newest_version(log) if log else None
    return int(_history(spark, table, limit=1)[0].version) if newest is None else newest


def _commits(
    spark: SparkSession, table: str, log: Path | None, first: int, last: int
) -> list[tuple[str, Mapping[str, str]]]:
    """Return the operation and the metrics of each commit from one version through another."""
    told = [delta_log.operation(log, one) for one in range(first, last + 1)] if log else [None]
    if None not in told:
        return [one for one in told if one]
    there = _history(spark, table)
    return [(one.operation, one.operationMetrics) for one in there if first <= one.version <= last]


def _commits_of(spark: SparkSession, table: str, log: Path | None, first: int, last: int) -> list[Commit]:
    """Return the commits from one version through another that the log still has."""
    told = {one: delta_log.commit_info(log, one) for one in range(first, last + 1)} if log else {first: None}
    if None not in told.values():
        return [
            Commit(version, one["operation"], one.get("operationParameters", {}), one.get("userMetadata"))
            for version, one in told.items()
            if one
        ]
    return [
        Commit(int(one.version), one.operation, one.operationParameters or {}, one.userMetadata)
        for one in reversed(_history(spark, table))
        if first <= one.version <= last
    ]


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
    """Return an instant as a SQL literal, in UTC. A value without a zone is local time, as in rows from Spark."""
    return f"TIMESTAMP {sql_literal(moment.astimezone(UTC).isoformat(sep=' '))}"
