"""From lines of text to typed rows, nothing lost: a pure transformation that needs no Delta and no stream.

Columns are matched by the name in each file's header, never by position. Spark's own CSV reader matches by position
once it is given a schema, so a file whose columns were reordered would be read without complaint and be wrong.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared.bronze.contracts import Source
from shared.bronze.landing import LandedFile

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

CSV_OPTIONS = {
    "columnNameOfCorruptRecord": "_malformed",
    "escape": '"',  # RFC 4180: a quote inside quotes is doubled; Spark's default is a backslash
}

# A byte that is not UTF-8 is read as this character: the text that was there cannot be had back from it.
_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"


def parse_lines(lines: DataFrame, source: Source, files: list[LandedFile]) -> DataFrame:
    """Parse the lines of a source's files into its typed columns and the audit columns.

    Guarantees one row out for every line in that is neither a header nor blank. A line that does not fit the
    columns keeps its text in ``_malformed``; what could be parsed of it stands in the other columns.

    Args:
        lines: ``value STRING`` (one line each) and ``file_path STRING`` (URI of its file).
        source: the contract.
        files: the headers of all files that the lines may come from.

    Returns:
        The source's columns as typed, then :data:`~shared.bronze.contracts.AUDIT_COLUMNS`.
    """
    headers = sorted({file.header_line for file in files})
    located = (
        lines.where(~F.col("value").isin(*headers, *(f"\ufeff{line}" for line in headers)))
        .where(F.trim("value") != "")
        .select("value", _relative_path(F.col("file_path")).alias("source_file"))
    )
    rows = located.select(_parsed(source, files).alias("row"), "value", "source_file")
    batch_date = F.split_part("source_file", F.lit("/"), F.lit(2))
    malformed = F.when(F.contains("value", F.lit(_UNDECODABLE)), F.col("value")).otherwise(F.col("row._malformed"))
    return rows.select(
        *(F.col(f"row.{name}") for name in source.column_names),
        malformed.alias("_malformed"),
        F.col("row._extra").alias("_extra"),
        "source_file",
        batch_date.alias("batch_id"),
        # The nightly run at 02:00 UTC that follows the batch date: shared.clock.ingested_at.
        F.expr(f"CAST(split_part(source_file, '/', 2) AS TIMESTAMP) + INTERVAL '{_NIGHTLY_OFFSET}' HOUR").alias(
            "ingested_at"
        ),
    )


_NIGHTLY_OFFSET = 26


def _relative_path(uri: Column) -> Column:
    """Return ``<table>/<batch date>/<file>`` of a file's URI, in which spaces and the like are escaped."""
    tail = F.regexp_extract(uri, "([^/]+/[^/]+/[^/]+)$", 1)
    return F.url_decode(F.replace(tail, F.lit("+"), F.lit("%2B")))


def _parsed(source: Source, files: list[LandedFile]) -> Column:
    """Return the struct of a line: one way of parsing per distinct header, usually a single one."""
    layouts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in files:
        layouts[file.header].append(file.path)
    most_used, *others = sorted(layouts, key=lambda header: (-len(layouts[header]), header))
    parsed = _parse_with(source, most_used)
    if not others:
        return parsed
    branch = F.when(F.col("source_file").isin(layouts[others[0]]), _parse_with(source, others[0]))
    for header in others[1:]:
        branch = branch.when(F.col("source_file").isin(layouts[header]), _parse_with(source, header))
    return branch.otherwise(parsed)


def _parse_with(source: Source, header: tuple[str, ...]) -> Column:
    types = {column.name: column.type for column in source.columns}
    schema = ", ".join(f"`{name}` {types.get(name, 'STRING')}" for name in header)
    row = F.from_csv("value", f"{schema}, `_malformed` STRING", CSV_OPTIONS)
    extra = [name for name in header if name not in types]
    extra_values = (
        F.create_map(*(part for name in extra for part in (F.lit(name), row.getField(name))))
        if extra
        else F.lit(None).cast("MAP<STRING, STRING>")
    )
    return F.struct(
        *(row.getField(name).alias(name) for name in source.column_names),
        row.getField("_malformed").alias("_malformed"),
        extra_values.alias("_extra"),
    )
