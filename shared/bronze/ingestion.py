"""Ingest landed files into bronze, each exactly once.

A file-source stream with ``availableNow`` reads what is new and stops. Its checkpoint remembers which files it has
read, and Delta's sink records the batch in the same commit as the rows: killed at any point and run again, every
file is there once. Auto Loader on Databricks works the same way.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from shared import catalog, checkpoints
from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES, Source
from shared.bronze.landing import LandedFile, landed_files
from shared.bronze.parsing import parse_lines
from shared.errors import PipelineError, SourceError, first_line, is_engine_gone
from shared.home import one_run_at_a_time
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession
    from pyspark.sql.streaming import StreamingQuery


@dataclass(frozen=True)
class Ingested:
    """What one run did to one table: files and rows read, malformed lines among them, columns beyond the contract."""

    table: str
    files: int
    rows: int
    malformed: int
    version: int
    extra_columns: dict[str, list[str]] = field(default_factory=dict)
    """File read in this run, to the columns it has that the contract does not know."""


def ingest(
    spark: SparkSession, sources: Iterable[str | Source] = tuple(SOURCES), settings: Settings | None = None
) -> list[Ingested]:
    """Ingest every new file of these sources into its bronze table; with nothing new, change nothing.

    Guarantees: each file once, one bronze row per data line, append-only. All headers are checked before the first row
    is written.

    Args:
        spark: the session.
        sources: names out of :data:`~shared.bronze.contracts.SOURCES`, or contracts of one's own.
        settings: the home; left out, this process's.

    Raises:
        SourceError: for an unknown source, and for files without a required column, naming file and column.
        PipelineError: if a stream fails, or if a table and its checkpoint do not belong together.

    Example:
        >>> for result in bronze.ingest(shared.connect()):
        ...     print(result.table, result.files, result.rows, result.malformed)
    """
    settings = settings or get_settings()
    chosen = [_source(source) for source in sources]
    volume = Path(catalog.volume_path(settings))
    landed = _landed(volume, chosen)
    checkpoint: dict[str, str] = {}
    with one_run_at_a_time(settings):
        for source in chosen:
            create_table(spark, source)
            checkpoint[source.name] = _checkpoint(spark, source, volume, settings)
        queries: dict[str, StreamingQuery] = {}
        try:
            # All at once: each is a handful of small jobs, and the engine has cores to spare.
            for source in chosen:
                if files := landed[source.name]:
                    queries[source.name] = _start(spark, source, files, volume, checkpoint[source.name])
            return [_finish(spark, source, landed[source.name], queries.get(source.name), volume) for source in chosen]
        except BaseException as error:
            # None goes on in the engine when another has failed, or after Ctrl-C: the next run would meet it.
            for query in queries.values() if not is_engine_gone(error) else ():
                with suppress(Exception):
                    query.stop()
            raise


def create_table(spark: SparkSession, source: Source) -> None:
    """Make sure that the source's bronze table exists, with its comments; rows can only ever be added to it.

    Its change data feed is on, so that silver can ask for the rows of the versions it has not seen. For a table that
    is only added to, the feed costs nothing: it is read from the files themselves.
    """
    catalog.create_table(
        spark,
        source.bronze_table,
        {column.name: (column.type, column.comment) for column in (*source.columns, *AUDIT_COLUMNS)},
        source.comment,
        properties={"delta.appendOnly": "true", "delta.enableChangeDataFeed": "true"},
    )


def read_lines(spark: SparkSession, source: Source, volume: Path) -> DataFrame:
    """Return the stream of all lines of the source's files: ``value``, ``file_path``."""
    return (
        spark.readStream
        # The default skips a file that is more than seven days older than the newest: a late delivery would be
        # lost without a word.
        .option("maxFileAge", "36500d")
        .text(f"{catalog.uri(volume)}/{source.name}/*/*.csv")
        .select("value", F.col("_metadata.file_path").alias("file_path"))
    )


def checkpoint_path(source: Source, settings: Settings) -> Path:
    """Return the directory in which the source's stream keeps its progress."""
    return settings.checkpoints / "bronze" / source.name


def reset(spark: SparkSession, source: str | Source, settings: Settings | None = None) -> None:
    """Remove a source's bronze table together with its checkpoint; the next run ingests every file again.

    Never one without the other: without its checkpoint a table would be filled twice, without its table a checkpoint
    would skip every file.
    """
    settings = settings or get_settings()
    source = _source(source)
    with one_run_at_a_time(settings):
        catalog.drop_table(spark, source.bronze_table, settings)
        if checkpoint_path(source, settings).exists():
            shutil.rmtree(checkpoint_path(source, settings))


def _source(source: str | Source) -> Source:
    if isinstance(source, Source):
        return source
    if source not in SOURCES:
        raise SourceError(f"There is no source {source!r}. Sources: {', '.join(SOURCES)}.")
    return SOURCES[source]


def _drifted(source: Source, files: list[LandedFile]) -> dict[str, list[str]]:
    """Return the files that have columns beyond the contract, and those columns."""
    known = set(source.column_names)
    return {file.path: sorted(set(file.header) - known) for file in files if set(file.header) - known}


def _landed(volume: Path, sources: list[Source]) -> dict[str, list[LandedFile]]:
    landed, problems, hint = {}, [], ""
    for source in sources:
        try:
            landed[source.name] = landed_files(volume, source)
        except SourceError as error:
            problems += error.problem.splitlines()[1:]
            hint = error.hint
    if problems:
        raise SourceError("\n".join(["Files that cannot be ingested:", *problems]), hint)
    return landed


def _checkpoint(spark: SparkSession, source: Source, volume: Path, settings: Settings) -> str:
    table = source.bronze_table
    table_id, version = catalog.identity(spark, table)
    return checkpoints.claimed(
        checkpoint_path(source, settings),
        {table: table_id, "landing zone": str(volume)},
        [table] if version else [],
        f"run `shopmetrics reset {table}`, then ingest again: the files in {volume} are still there",
    )


def _start(
    spark: SparkSession, source: Source, files: list[LandedFile], volume: Path, checkpoint: str
) -> StreamingQuery:
    headers = [file.header_line for file in files]
    lines = read_lines(spark, source, volume)
    # Counted while the rows pass, instead of by further jobs afterwards. Every file has one header.
    rows = parse_lines(lines.observe("lines", F.count_if(F.col("value").isin(headers)).alias("files")), source, files)
    # Spark lists the files after we have read their headers. One that lands in between has no header here: the batch
    # fails, and the next run, which has it, does it.
    is_known = F.col("source_file").isin([file.path for file in files])
    unknown = F.raise_error(F.concat("source_file", F.lit(" landed after the headers were read")))
    rows = rows.withColumn("source_file", F.when(is_known, F.col("source_file")).otherwise(unknown))
    drifted = [F.bool_or(F.col("source_file") == path).alias(path) for path in _drifted(source, files)]
    counted = rows.observe("rows", F.count(F.lit(1)).alias("rows"), F.count("_malformed").alias("malformed"), *drifted)
    return (
        counted.writeStream.format("delta")
        .queryName(f"bronze_{source.name}")
        .option("checkpointLocation", checkpoint)
        .trigger(availableNow=True)
        .toTable(source.bronze_table)
    )


def _observed(metrics: Row) -> dict[str, int]:
    fields: dict[str, Any] = metrics.asDict()
    if "schema" in fields:  # Spark Connect hands over values and schema side by side
        return dict(zip([field["name"] for field in fields["schema"]["fields"]], fields["values"], strict=True))
    return fields


def _finish(
    spark: SparkSession, source: Source, files: list[LandedFile], query: StreamingQuery | None, volume: Path
) -> Ingested:
    counts = {"files": 0, "rows": 0, "malformed": 0}
    drift: dict[str, list[str]] = {}
    if query:
        from pyspark.errors import StreamingQueryException

        try:
            query.awaitTermination()
        except StreamingQueryException as error:
            late = {file.path for file in landed_files(volume, source)} - {file.path for file in files}
            if late:
                raise PipelineError(
                    f"{', '.join(sorted(late))} landed while the run into {source.bronze_table} began.",
                    "run again: nothing was written, and nothing is lost",
                ) from error
            raise PipelineError(
                f"Ingesting {source.name} into {source.bronze_table} failed: {first_line(error)}",
                "mend the cause and run again; files already ingested are not read twice",
            ) from error
        for progress in query.recentProgress:
            for metrics in progress.get("observedMetrics", {}).values():
                observed = _observed(metrics)
                drift |= {path: columns for path, columns in _drifted(source, files).items() if observed.get(path)}
                for name in counts.keys() & observed.keys():
                    counts[name] += observed[name]
    return Ingested(
        source.bronze_table, **counts, version=catalog.version(spark, source.bronze_table), extra_columns=drift
    )
