"""What a query reads: files, bytes and rows, by the engine's own count.

Seconds say how fast one machine was at one moment. How many files a query opens says how well the files of a table fit
the query, and is the same on every machine. Delta skips a file if its partition, or the minimum and maximum of a
column in it, shows that no row of it can meet the filter. The engine counts what is left when it runs the query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.errors import MaintenanceError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession


@dataclass(frozen=True)
class FilesRead:
    """What one run of a query read, all of its tables together."""

    files: int
    """Data files that were opened. 0 if the log alone had the answer, as it has for ``count(*)``."""
    bytes: int
    """Size of these files. Of a columnar file a query reads only the columns that it names."""
    rows: int
    """Rows that came out of these files before any filter, those that a deletion vector marks included."""


def files_read(frame: DataFrame) -> tuple[list[Row], FilesRead]:
    """Run a query; return its rows, and what it read.

    Args:
        frame: the query. All of its rows are collected, so it should be an aggregate.

    Raises:
        MaintenanceError: if the engine counts nothing, as one does that is not reached over Spark Connect.

    Example:
        >>> rows, read = files_read(spark.sql("SELECT sum(orders) FROM gold.daily_sales_summary"))
        >>> read.files
        1
    """
    rows = frame.collect()
    info = frame.executionInfo
    if info is None:
        raise MaintenanceError(
            "The engine did not say what the query read: expected the metrics of its plan.",
            "shared.connect() returns a session whose queries are counted",
        )
    _, nodes = info.metrics.extract_graph()
    counts = [{metric.name: int(metric.value) for metric in node.metrics} for node in nodes.values()]
    return rows, _added_up(counts)


def files_there(spark: SparkSession, table: str) -> int:
    """Return how many data files the newest version of a table has."""
    detail = spark.sql(f"DESCRIBE DETAIL {table}").first()
    assert detail is not None
    return int(detail["numFiles"])


def _added_up(counts: list[dict[str, Any]]) -> FilesRead:
    # Only the scan of a table's files counts files. A plan whose answer stands in the log has none.
    scans = [count for count in counts if "numFiles" in count]
    return FilesRead(*(sum(scan.get(name, 0) for scan in scans) for name in ("numFiles", "filesSize", "numOutputRows")))
