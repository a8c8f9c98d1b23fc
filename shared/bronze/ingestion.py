"""Ingest landed files into bronze, each exactly once.

A file-source stream with ``availableNow`` reads new files and stops. Its checkpoint remembers which files it has read,
and Delta's sink records the batch in the same commit as the rows. So every file is there once, even if a run is killed
at any point and repeated. Auto Loader on Databricks works the same way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pyspark.sql import functions as F

from shared import catalog, checkpoints
from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES, Source
from shared.bronze.landing import Landed, LandedFile, landed, refusal
from shared.bronze.parsing import parse_lines
from shared.errors import PipelineError, SourceError, first_line, is_engine_gone
from shared.lock import one_run_at_a_time
from shared.settings import Settings, get_settings, on_databricks

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
    """File read in this run, to its columns that are not in the contract."""
    mended: str = ""
    """Which rows were restored, if some had been removed from the table; else empty."""
    refused: dict[str, str] = field(default_factory=dict)
    """File that cannot be read, to the reason. A later run reads it once it is corrected."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Anything else in the source's folder, to the reason why it is ignored."""


def ingest(
    spark: SparkSession,
    sources: Iterable[str | Source] = tuple(SOURCES),
    settings: Settings | None = None,
    strict: bool = True,
) -> list[Ingested]:
    """Ingest every new file of these sources into its bronze table; with nothing new, change nothing.

    Guarantees: each file once, one bronze row per data line, append-only. All headers are checked before the engine
    starts; a file that cannot be read does not stop the others. If rows have been removed from a table, by a RESTORE
    for instance, they are restored first.

    Args:
        spark: the session.
        sources: names out of :data:`~shared.bronze.contracts.SOURCES`, or contracts of your own.
        settings: the home; defaults to this process's settings.
        strict: raise an error at the end if a file was refused; if False, only the results report it.

    Raises:
        SourceError: for an unknown source; and, after all other files were read, for files that cannot be read, naming
            file and column.
        PipelineError: if a stream fails, or if a table and its checkpoint do not belong together.

    Example:
        >>> for result in bronze.ingest(shared.connect()):
        ...     print(result.table, result.files, result.rows, result.malformed)
    """
    settings = settings or get_settings()
    chosen = [_source(source) for source in sources]
    volume = Path(catalog.volume_path(settings))
    found = {source.name: landed(volume, source, ingested_files(source, settings)) for source in chosen}
    checkpoint: dict[str, str] = {}
    mended: dict[str, str] = {}
    with one_run_at_a_time(settings):
        for source in chosen:
            create_table(spark, source)
            checkpoint[source.name] = _checkpoint(spark, source, volume, settings)
            mended[source.name] = catalog.mended(spark, source.bronze_table)
        queries: dict[str, StreamingQuery] = {}
        try:
            # All in parallel: each stream is a handful of small jobs, and the engine has spare cores.
            for source in chosen:
                if files := found[source.name].files:
                    queries[source.name] = _start(spark, source, files, volume, checkpoint[source.name])
            done = [_finish(spark, source, found[source.name], queries.get(source.name)) for source in chosen]
            results = [replace(one, mended=mended[source.name]) for source, one in zip(chosen, done, strict=True)]
        except BaseException as error:
            # After a failure or Ctrl-C, stop all streams: one that ran on in the engine would disturb the next run.
            for query in queries.values() if not is_engine_gone(error) else ():
                with suppress(Exception):
                    query.stop()
            raise
    refused = {file: problem for one in results for file, problem in one.refused.items()}
    if refused and strict:
        raise refusal(refused, "correct or remove them and run again; all other files have been ingested")
    return results


def create_table(spark: SparkSession, source: Source) -> None:
    """Make sure that the source's bronze table exists, with its comments. The table is append-only.

    Its change data feed is on, so that silver can read the rows of the versions that it has not read yet. For an
    append-only table the feed costs nothing: Delta reads it from the data files.
    """
    catalog.create_table(
        spark,
        source.bronze_table,
        {column.name: (column.type, column.comment) for column in (*source.columns, *AUDIT_COLUMNS)},
        source.comment,
        properties={"delta.appendOnly": "true", "delta.enableChangeDataFeed": "true"},
    )
    # A table made by an older version of this package lacks the audit columns that were added since.
    there = spark.table(source.bronze_table).columns
    for before, column in pairwise((source.columns[-1], *AUDIT_COLUMNS)):
        if column.name not in there:
            described = f"{column.ddl} COMMENT {catalog.sql_literal(column.comment)} AFTER `{before.name}`"
            spark.sql(f"ALTER TABLE {source.bronze_table} ADD COLUMNS ({described})")


def read_lines(spark: SparkSession, source: Source, volume: Path, files: list[LandedFile]) -> DataFrame:
    """Return the stream of all lines of these files: ``value``, ``file_path``."""
    reader = (
        spark.readStream
        # The default skips a file that is more than seven days older than the newest: a late delivery would be
        # lost without a word.
        .option("maxFileAge", "36500d")
    )
    if _one_by_one(volume, files):
        reader = reader.option("maxFilesPerTrigger", "1")
    # By their names and not by `*/*.csv`: what else lies beside them cannot get in the way, and a file that is refused
    # does not count as read.
    names = ",".join(_as_choice(file.path) for file in files)
    return _with_paths(reader.text(f"{_literally(_root(volume))}/{{{names}}}"))


def lines_of(spark: SparkSession, volume: Path, files: list[LandedFile]) -> DataFrame:
    """Return the same columns as :func:`read_lines`, but as a batch: the lines of these files as they are now."""
    return _with_paths(spark.read.text([_literally(f"{_root(volume)}/{file.path}") for file in files]))


def _with_paths(lines: DataFrame) -> DataFrame:
    return lines.select("value", F.col("_metadata.file_path").alias("file_path"))


def _root(volume: Path) -> str:
    # Without a scheme, a cluster looks in its own file system. Not a URI: Spark would not decode its escapes.
    return str(volume) if on_databricks() else f"file:{volume}"


_OF_PATTERNS = set("{}[]*?\\")


def _one_by_one(volume: Path, files: list[LandedFile]) -> bool:
    """Whether each file must have a micro-batch of its own.

    If a path has a pattern character, Spark treats the path as a pattern once more, and reads all other files of the
    micro-batch twice.
    """
    return any(set(str(volume / file.path)) & _OF_PATTERNS for file in files)


def _literally(path: str) -> str:
    """Return the pattern that matches this path and no other."""
    return "".join(f"\\{c}" if c in _OF_PATTERNS else c for c in path)


def _as_choice(path: str) -> str:
    """Return that pattern for the inside of ``{...,...}``: Spark splits it first, then reads each part as a pattern."""
    return "".join(f"\\{c}" if c in "{},\\" else c for c in _literally(path))


def ingested_files(source: Source, settings: Settings) -> set[str]:
    """Return the files that the source's stream has read or will read, by its checkpoint, as paths in the volume."""
    found = set()
    for note in (checkpoint_path(source, settings) / "stream" / "sources" / "0").glob("[0-9]*"):
        for line in note.read_text(encoding="utf-8").splitlines()[1:]:
            with suppress(ValueError):
                found.add("/".join(unquote(json.loads(line)["path"]).split("/")[-3:]))
    return found


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


def _checkpoint(spark: SparkSession, source: Source, volume: Path, settings: Settings) -> str:
    table = source.bronze_table
    standing = catalog.standing(spark, table)
    assert standing is not None
    # A table may have versions and no row yet.
    is_filled = standing.version > 0 and standing.bytes != 0
    return checkpoints.claimed(
        checkpoint_path(source, settings),
        {table: standing.table_id, "landing zone": str(volume)},
        [table] if is_filled else [],
        f"run `shopmetrics reset {table}`, then ingest again: the files in {volume} are still there",
    )


def _start(
    spark: SparkSession, source: Source, files: list[LandedFile], volume: Path, checkpoint: str
) -> StreamingQuery:
    headers = [file.header_line for file in files]
    lines = read_lines(spark, source, volume, files)
    # Counted while the rows are read, which saves further jobs. Every file has one header.
    rows = parse_lines(lines.observe("lines", F.count_if(F.col("value").isin(headers)).alias("files")), source, files)
    # A run that was killed may have planned a batch with a file that is gone now, or was changed and is refused.
    is_known = F.col("source_file").isin([file.path for file in files])
    unknown = F.raise_error(F.concat("source_file", F.lit(" was to be read by a run that died, and was changed since")))
    rows = rows.withColumn("source_file", F.when(is_known, F.col("source_file")).otherwise(unknown))
    drifted = [F.bool_or(F.col("source_file") == path).alias(path) for path in _drifted(source, files)]
    counted = rows.observe("rows", F.count(F.lit(1)).alias("rows"), F.count("_malformed").alias("malformed"), *drifted)
    writer = (
        counted.writeStream.format("delta")
        .queryName(f"bronze_{source.name}")
        .option("checkpointLocation", checkpoint)
        .trigger(availableNow=True)
    )
    if not _one_by_one(volume, files):
        return writer.toTable(source.bronze_table)
    # The counts are in the progress of each micro-batch; by default Spark keeps only the last hundred.
    spark.conf.set(_PROGRESS_KEPT, str(len(files) + 1))
    try:
        return writer.toTable(source.bronze_table)
    finally:
        spark.conf.unset(_PROGRESS_KEPT)


_PROGRESS_KEPT = "spark.sql.streaming.numRecentProgressUpdates"


def _observed(metrics: Row) -> dict[str, int]:
    fields: dict[str, Any] = metrics.asDict()
    if "schema" in fields:  # Spark Connect returns values and schema separately
        return dict(zip([field["name"] for field in fields["schema"]["fields"]], fields["values"], strict=True))
    return fields


def _finish(spark: SparkSession, source: Source, found: Landed, query: StreamingQuery | None) -> Ingested:
    counts = {"files": 0, "rows": 0, "malformed": 0}
    drift: dict[str, list[str]] = {}
    if query:
        from pyspark.errors import StreamingQueryException

        try:
            query.awaitTermination()
        except StreamingQueryException as error:
            raise PipelineError(
                f"Ingesting {source.name} into {source.bronze_table} failed: {first_line(error)}",
                "mend the cause and run again; files already ingested are not read twice",
            ) from error
        for progress in query.recentProgress:
            for metrics in progress.get("observedMetrics", {}).values():
                observed = _observed(metrics)
                drift |= {
                    path: columns for path, columns in _drifted(source, found.files).items() if observed.get(path)
                }
                for name in counts.keys() & observed.keys():
                    counts[name] += observed[name]
    return Ingested(
        source.bronze_table,
        counts["files"],
        counts["rows"],
        counts["malformed"],
        version=catalog.version(spark, source.bronze_table),
        extra_columns=drift,
        refused=found.refused,
        ignored=found.ignored,
    )
