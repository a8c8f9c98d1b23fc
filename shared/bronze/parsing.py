"""From lines of text to typed rows, nothing lost: a pure transformation that needs no Delta and no stream.

Columns are matched by the name in each file's header, never by position. Spark's own CSV reader matches by position
once it is given a schema, so a file whose columns were reordered would be read without complaint and be wrong. It also
takes ``12,99`` for 1299, rounds 0.0149 to 0.01 and completes ``10:00`` by the day of the run; here a text becomes a
value only if it has the form of its column's type.
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

# A byte that is not UTF-8 is shown as this character: the text that was there cannot be had back from it.
_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"

_SHOWN = 60
"""Of a value that does not fit, at most so many characters stand in the reason; the whole is in the line."""


def parse_lines(lines: DataFrame, source: Source, files: list[LandedFile]) -> DataFrame:
    """Parse the lines of a source's files into its typed columns and the audit columns.

    Guarantees one row out for every line in that is neither a header nor blank, and that no value is changed: a text
    that has not the form of its column's type becomes NULL. A line that does not fit the columns keeps its text in
    ``_malformed``, and ``_reason`` says why; what could be parsed of it stands in the other columns.

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
    """Return ``<table>/<batch date>/<file>`` of a file's URI, in which spaces and the like are escaped."""
    tail = F.regexp_extract(uri, "([^/]+/[^/]+/[^/]+)$", 1)
    return F.url_decode(F.replace(tail, F.lit("+"), F.lit("%2B")))


def _told(lines: DataFrame, source: Source, files: list[LandedFile]) -> DataFrame:
    """Add ``line STRUCT``: what each line says, by the header of its own file, as text.

    Its fields: ``text STRUCT`` of the source's columns, an empty field being NULL, quoted or not; ``extra MAP`` of the
    other columns; ``fields INT``: how many the header has; ``is_whole BOOLEAN``: the line has as many.
    """
    layouts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in files:
        layouts[file.header].append(file.path)
    # Usually there is a single one. A column for each, so that a line is parsed once, by its own header.
    headers = sorted(layouts, key=lambda header: (-len(layouts[header]), header))
    is_its = [F.lit(True) if len(headers) == 1 else F.col("source_file").isin(layouts[header]) for header in headers]
    split = [F.when(is_its[place], _split(len(header))).alias(f"row_{place}") for place, header in enumerate(headers)]
    told = [_by_name(F.col(f"row_{place}"), header, source) for place, header in enumerate(headers)]
    line = told[0]
    for place in range(1, len(told)):
        line = F.when(is_its[place], told[place]).otherwise(line)
    return lines.select("value", "source_file", *split).select("value", "source_file", line.alias("line"))


def _split(fields: int) -> Column:
    """Return the fields of a line as texts. By place and not by name: a name may be anything."""
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
    """Return the SQL expression of a field's value; NULL if the text has not the form of the type."""
    text = f"line.text.`{column.name}`"
    if column.type == "STRING":
        return text
    form = column.form
    has_form = f"{text} RLIKE {sql_literal(f'^({form.pattern})$')}" if form else "true"
    # What has the form may still be none: 30 February, or more digits than the type holds.
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
    """Return a line as text from which the bytes that were delivered can be had back.

    In a line that is not UTF-8 each byte becomes the character of its number, as the older Western encoding has it.
    """
    as_latin = F.decode(F.col("value").cast("binary"), "ISO-8859-1")
    return F.when(F.is_valid_utf8("value"), F.col("value")).otherwise(as_latin)
