"""Maintenance of Delta tables: small files are compacted, rows are laid out for the queries, old files are deleted.

The last task of a night. It changes files and never rows: every query gives the same answer before and after, and the
pipeline knows its commits for what they are. What is done already is not done again, so a second run in a row makes no
new version of any table.

**Layout.** ``OPTIMIZE`` writes small files together into large ones. With ``ZORDER BY`` it also sorts rows along a
curve through several columns, so that rows with close values are in the same file, and a query that filters by one of
these columns can skip files by their minimum and maximum. The columns are declared: ``optimize_by`` in the metadata of
gold.

**VACUUM.** An UPDATE, a MERGE and an OPTIMIZE leave the files that they replace, for time travel and for readers that
are still at work. ``VACUUM`` deletes those that no version of the last days needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from shared import catalog, gold
from shared.errors import MaintenanceError, PipelineError
from shared.interpreted import configured
from shared.lock import one_run_at_a_time
from shared.settings import Settings, get_settings
from shared.streaming import queries
from shared.streaming.contracts import EVENTS, SESSIONS, TRAFFIC

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RETENTION = timedelta(days=7)
"""Files that were replaced less than this ago are kept (FR-011). Less is refused, because a reader or a writer that is
still at work may need them; and a cursor that is older than this finds its change data feed gone."""

_IGNORES_RETAIN = "spark.databricks.delta.vacuum.retentionWindowIgnore.enabled"
"""Delta 4.4 goes by the table property ``delta.deletedFileRetentionDuration``, seven days by default, and ignores every
``RETAIN`` but one of 0 hours, unless this is false."""

_FILES = (".parquet", ".bin")
"""What the names of a table's data files, change files and deletion vectors end in."""


@dataclass(frozen=True)
class Maintained:
    """What was done to one table. Files and bytes are those of its newest version."""

    table: str
    layout: str
    """``ordered by <columns>``, ``compacted``, or empty if the files were left as they are."""
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    deleted: int
    """Files that VACUUM has deleted; with ``dry_run`` those that it would delete."""


def maintain(
    spark: SparkSession,
    tables: Sequence[str] | None = None,
    retention: timedelta = RETENTION,
    dry_run: bool = False,
    settings: Settings | None = None,
) -> list[Maintained]:
    """Lay out the files of tables for their queries, and delete files that no version of the last days needs.

    A table is laid out if its rows have changed since the last OPTIMIZE and it has more than one file. No run of the
    pipeline is at work meanwhile. A stream may be: then a table of the clickstream is not laid out, because the
    stream's MERGE would find its files replaced.

    Args:
        spark: the session.
        tables: which; defaults to all tables of the lakehouse.
        retention: files that were replaced longer ago than this are deleted.
        dry_run: change nothing; ``layout`` says what would be done, and ``deleted`` counts what would be deleted.
        settings: the home; defaults to this process's settings.

    Raises:
        MaintenanceError: if the retention is less than seven days.
        CatalogError: if there is no such table.
        PipelineError: if a run of the pipeline does not end.

    Example:
        >>> [one.table for one in maintain(shared.connect(), dry_run=True) if one.layout]
        ['gold.daily_sales_summary']
    """
    if retention < RETENTION:
        raise MaintenanceError(
            f"A retention of {retention / timedelta(hours=1):g} hours is refused: expected at least "
            f"{RETENTION / timedelta(hours=1):g}, seven days.",
            "a query that is still reading an older version would lose its files; to free space now, drop the table",
        )
    settings = settings or get_settings()
    ordered_by = {one.target: one.optimize_by for one in gold.TABLES.declared()}
    with one_run_at_a_time(settings), ExitStack() as streams:
        merged_into: set[str] = set()
        try:
            streams.enter_context(queries.alone(settings))
        except PipelineError:
            merged_into = {EVENTS, SESSIONS, TRAFFIC}
        return [
            _maintained(spark, table, ordered_by.get(table, ()), retention, dry_run, table not in merged_into)
            for table in (catalog.tables(spark) if tables is None else tables)
        ]


def _maintained(
    spark: SparkSession, table: str, columns: Sequence[str], retention: timedelta, dry_run: bool, may_lay_out: bool
) -> Maintained:
    files, size = _files(spark, table)
    layout = ""
    if may_lay_out and files > 1 and not _is_laid_out(spark, table):
        layout = f"ordered by {', '.join(columns)}" if columns else "compacted"
    if layout and not dry_run:
        names = ", ".join(f"`{name}`" for name in columns)
        spark.sql(f"OPTIMIZE {table}" + (f" ZORDER BY ({names})" if columns else "")).collect()
    deleted = _vacuumed(spark, table, retention, dry_run)
    files_after, size_after = _files(spark, table) if layout and not dry_run else (files, size)
    return Maintained(table, layout, files, files_after, size, size_after, deleted)


def waits_for_layout(spark: SparkSession, table: str) -> bool:
    """Return whether :func:`maintain` would lay out the files of a table that no stream is writing.

    Raises:
        CatalogError: if there is no such table.
    """
    return _files(spark, table)[0] > 1 and not _is_laid_out(spark, table)


def _is_laid_out(spark: SparkSession, table: str) -> bool:
    """Return whether there was an OPTIMIZE after the last commit that changed rows."""
    changed = catalog.last_change(spark, table)
    since = catalog.commits(spark, table, changed.version) if changed else []
    return any(one.operation == "OPTIMIZE" for one in since)


def _files(spark: SparkSession, table: str) -> tuple[int, int]:
    detail = spark.sql(f"DESCRIBE DETAIL {table}").first()
    assert detail is not None
    return int(detail["numFiles"]), int(detail["sizeInBytes"])


def _vacuumed(spark: SparkSession, table: str, retention: timedelta, dry_run: bool) -> int:
    """Delete old files, and return how many; if there are none, nothing is written to the log either."""
    # VACUUM lists every file, also of a table that is younger than the retention and so has no old file.
    first = catalog.first_commit_at(spark, table)
    if first and datetime.now(UTC) - first < retention:
        return 0
    hours, longer = retention / timedelta(hours=1), retention > RETENTION
    with configured(spark, {_IGNORES_RETAIN: "false"} if longer else {}):
        paths = [str(row["path"]) for row in spark.sql(f"VACUUM {table} RETAIN {hours:g} HOURS DRY RUN").collect()]
        # A directory in which no file is old enough is listed too, and would not be deleted, because it is not empty.
        there = len([path for path in paths if path.endswith(_FILES)])
        if there and not dry_run:
            spark.sql(f"VACUUM {table} RETAIN {hours:g} HOURS").collect()
    return there
