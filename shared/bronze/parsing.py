"""Parse lines of text into typed rows, nothing lost: a pure transformation that needs no Delta and no stream.

Columns are matched by the name in each file's header, never by position. Spark's own CSV reader matches by position
once it is given a schema: it would read a file with reordered columns without an error, and wrongly. It also reads
``12,99`` as 1299, rounds 0.0149 to 0.01 and completes ``10:00`` with the day of the run. Here a text becomes a value
only if it has the form of its column's type.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared.bronze import contracts
from shared.bronze.contracts import Source
from shared.bronze.landing import LandedFile
from shared.catalog import sql_literal

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

CSV_OPTIONS = {
    "columnNameOfCorruptRecord": "_malformed",
    "escape": '"',  # RFC 4180: a quote inside quotes is doubled; Spark's default is a backslash
}

# Decoding puts this character in place of bytes that are not UTF-8; the original text cannot be recovered from it.
_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"

_SHOWN = 60
"""The reason quotes at most this many characters of a value that does not fit; the line holds all of it."""


def parse_lines(lines: DataFrame, source: Source, files: list[LandedFile]) -> DataFrame:
    """Parse the lines of a source's files into its typed columns and the audit columns.

    Guarantees one row for every line that is neither a header nor blank, and that no value is changed: a text that does
    not have the form of its column's type becomes NULL. A line that does not fit the columns keeps its text in
    ``_malformed``, and ``_reason`` says why; the other columns hold what could be parsed of it.

    Args:
        lines: ``value STRING`` (one line each) and ``file_path STRING`` (URI of its file).
        source: the contract.
        files: the headers of all files that the lines may come from.

    Returns:
        The source's typed columns, then :data:`~shared.bronze.contracts.AUDIT_COLUMNS`.
    """
    headers = sorted({file.header_line for file in files})
    located = (
        lines.where(~F.col("value").isin(*headers, *(f"\ufeff{line}" for line in headers)))
        .where(F.trim("value") != "")
        .select("value", _relative_path(F.col("file_path")).alias("source_file"))
    )
    # One step after the other, so that what is used twice is computed once.
    lines_told = _told(located, source, files)
    typed = F.struct(*(F.expr(_typed(column)).alias(column.name) for column in source.columns))
    rows = lines_told.withColumn("typed", typed).withColumn("reason", _reason(source))
    batch_date = F.split_part("source_file", F.lit("/"), F.lit(2))
    return rows.select(
        *(F.col("typed").getField(name).alias(name) for name in source.column_names),
        F.when(F.col("reason").isNotNull(), _delivered()).alias("_malformed"),
        F.col("reason").alias("_reason"),
        F.col("line.extra").alias("_extra"),
        "source_file",
        batch_date.alias("batch_id"),
        # The nightly run at 02:00 UTC that follows the batch date: shared.clock.ingested_at.
        F.expr(f"CAST(split_part(source_file, '/', 2) AS TIMESTAMP) + INTERVAL '{_NIGHTLY_OFFSET}' HOUR").alias(
            "ingested_at"
        ),
    )


_NIGHTLY_OFFSET = 26


def _relative_path(uri: Column) -> Column:
    """Return ``<table>/<batch date>/<file>`` from a file's URI, with the URI's escapes decoded."""
    tail = F.regexp_extract(uri, "([^/]+/[^/]+/[^/]+)$", 1)
    return F.url_decode(F.replace(tail, F.lit("+"), F.lit("%2B")))


def _told(lines: DataFrame, source: Source, files: list[LandedFile]) -> DataFrame:
    """Add ``line STRUCT``: the fields of each line as text, named by the header of its own file.

    ``text STRUCT`` has the source's columns; an empty field, quoted or not, is NULL. ``extra MAP`` has the other
    columns. ``fields INT`` is the number of fields in the header. ``is_whole BOOLEAN`` says whether the line has as
    many.
    """
    layouts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in files:
        layouts[file.header].append(file.path)
    # Usually there is a single header. Each header has a column of its own, so that a line is parsed once.
    headers = sorted(layouts, key=lambda header: (-len(layouts[header]), header))
    is_its = [F.lit(True) if len(headers) == 1 else F.col("source_file").isin(layouts[header]) for header in headers]
    split = [F.when(is_its[place], _split(len(header))).alias(f"row_{place}") for place, header in enumerate(headers)]
    told = [_by_name(F.col(f"row_{place}"), header, source) for place, header in enumerate(headers)]
    line = told[0]
    for place in range(1, len(told)):
        line = F.when(is_its[place], told[place]).otherwise(line)
    return lines.select("value", "source_file", *split).select("value", "source_file", line.alias("line"))


def _split(fields: int) -> Column:
    """Return the fields of a line as texts, named by position: a name in a header may be any text."""
    schema = ", ".join(f"_{place} STRING" for place in range(fields))
    return F.from_csv("value", f"{schema}, _malformed STRING", CSV_OPTIONS)


def _by_name(row: Column, header: tuple[str, ...], source: Source) -> Column:
    field = {name: row.getField(f"_{place}") for place, name in enumerate(header)}
    extra = [name for name in header if name not in source.column_names]
    return F.struct(
        F.struct(*(F.nullif(field[name], F.lit("")).alias(name) for name in source.column_names)).alias("text"),
        (
            F.create_map(*(part for name in extra for part in (F.lit(name), field[name])))
            if extra
            else F.lit(None).cast("MAP<STRING, STRING>")
        ).alias("extra"),
        F.lit(len(header)).alias("fields"),
        row.getField("_malformed").isNull().alias("is_whole"),
    )


def _typed(column: contracts.Column) -> str:
    """Return the SQL expression of a field's value; NULL if the text does not have the form of the type."""
    text = f"line.text.`{column.name}`"
    if column.type == "STRING":
        return text
    form = column.form
    has_form = f"{text} RLIKE {sql_literal(f'^({form.pattern})$')}" if form else "true"
    # A text of the right form may still be no value: 30 February, or more digits than the type holds.
    return f"CASE WHEN {has_form} THEN try_cast({text} AS {column.type}) END"


def _reason(source: Source) -> Column:
    """Return why a line does not fit, naming every value that does not; NULL if the line fits."""
    value = F.col("value")
    readable = F.make_valid_utf8(value)
    offset = F.octet_length(F.split_part(readable, F.lit(_UNDECODABLE), F.lit(1)))
    byte = F.hex(F.substring(value.cast("binary"), offset + 1, F.lit(1)))
    not_utf8 = F.concat(F.lit("byte 0x"), byte, F.lit(" at offset "), offset, F.lit(" of the line is not UTF-8"))
    lost = F.concat(
        F.lit("the replacement character at offset "), offset, F.lit(" of the line: a text was lost before it came")
    )
    quotes = F.length(value) - F.length(F.replace(value, F.lit('"'), F.lit("")))
    is_open = F.contains(value, F.lit('"')) & (quotes % 2 == 1) & value.rlike('(^|,)"')
    found = F.regexp_count(F.regexp_replace(value, '"[^"]*"', ""), F.lit(",")) + 1
    misfits = []
    for column in (one for one in source.columns if one.type != "STRING"):
        text = F.col("line.text").getField(column.name)
        expected = column.form.expected if column.form else column.type
        sentence = F.concat(F.lit(f"{column.name} = "), F.left(text, F.lit(_SHOWN)), F.lit(f": expected {expected}"))
        misfits.append(F.when(text.isNotNull() & F.col("typed").getField(column.name).isNull(), sentence))
    return (
        F.when(~F.is_valid_utf8(value), not_utf8)
        .when(F.contains(value, F.lit(_UNDECODABLE)), lost)
        .when(is_open, F.lit("a quote is opened and not closed: a line break within quotes is not read"))
        .when(~F.col("line.is_whole"), F.concat(found, F.lit(" fields: expected "), F.col("line.fields")))
        .otherwise(F.nullif(F.concat_ws("; ", *misfits), F.lit("")) if misfits else F.lit(None).cast("string"))
    )


def _delivered() -> Column:
    """Return a line as text from which the delivered bytes can be recovered.

    A line that is not UTF-8 is decoded as ISO-8859-1, which makes one character of each byte.
    """
    as_latin = F.decode(F.col("value").cast("binary"), "ISO-8859-1")
    return F.when(F.is_valid_utf8("value"), F.col("value")).otherwise(as_latin)
