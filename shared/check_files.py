"""Check the files in the landing volume: report what a run would do with them, before it runs.

The lines are read and the rules are checked by the same code as in a run; nothing is written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from shared import bronze, catalog, changes, silver
from shared.bronze.ingestion import ingested_files, lines_of
from shared.bronze.landing import landed, strays
from shared.bronze.parsing import parse_lines
from shared.settings import Settings, get_settings
from shared.silver import facts, gate
from shared.silver.facts import Dimension

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.silver.metadata import TableDefinition

MOST_EXAMPLES = 5
"""The report names at most this many groups of identifiers that are written alike."""


@dataclass
class CheckedFile:
    """What a run would do with the lines of one file. Only the run itself finds repeated rows."""

    path: str
    taken: int = 0
    aside: dict[str, int] = field(default_factory=dict)
    """Rule to how many rows it would set aside."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Rule to the reason of one of them."""
    extra_columns: list[str] = field(default_factory=list)
    """Columns that the contract does not know; bronze keeps them in ``_extra``."""

    @property
    def lines(self) -> int:
        """Lines that are neither header nor blank."""
        return self.taken + sum(self.aside.values())


@dataclass(frozen=True)
class FilesReport:
    """What lies in the landing volume."""

    files: list[CheckedFile]
    """Files that the next run would read."""
    read_before: list[str]
    refused: dict[str, str]
    """File that cannot be read, to the reason."""
    ignored: dict[str, str]
    """Anything that the run would ignore, to the reason."""
    alike: dict[str, list[list[str]]]
    """Identifying column to groups of its values that differ only in white space or case: each value counts as a
    different thing."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for ``--json``."""
        return asdict(self)


def check_files(spark: SparkSession, settings: Settings | None = None) -> FilesReport:
    """Return what the next run would do with every file in the landing volume. Nothing is written.

    Args:
        spark: the session.
        settings: the home; defaults to this process's settings.

    Example:
        >>> for file in check_files(shared.connect()).files:
        ...     print(file.path, file.taken, file.aside)
    """
    settings = settings or get_settings()
    volume = Path(catalog.volume_path(settings))
    report = FilesReport([], [], {}, strays(volume, bronze.SOURCES), {})
    checked: dict[str, DataFrame] = {}
    definitions = silver.TABLES.declared()
    for definition in definitions:
        source = next(one for one in bronze.SOURCES.values() if one.bronze_table == definition.source)
        before = ingested_files(source, settings)
        found = landed(volume, source, before)
        report.refused.update(found.refused)
        report.ignored.update(found.ignored)
        report.read_before.extend(file.path for file in found.files if file.path in before)
        if not (new := [file for file in found.files if file.path not in before]):
            continue
        # Both frames are read several times. Without a checkpoint, every later query would contain their plans.
        rows = changes.kept(parse_lines(lines_of(spark, volume, new), source, new))
        dimensions = []
        for join in definition.dimension_joins:
            dimension = next(one for one in definitions if one.target == join.dimension)
            dimensions.append(Dimension(join, dimension, _keys(spark, dimension, checked)))
        examined = changes.kept(facts.without_unknown(gate.examined(rows, definition), dimensions))
        checked[definition.target] = examined
        files = {file.path: CheckedFile(file.path) for file in new}
        for file in new:
            files[file.path].extra_columns = [name for name in file.header if name not in source.column_names]
        counted = examined.groupBy("source_file", "broken_rule").agg(
            F.count(F.lit(1)).alias("rows"), F.min("reason").alias("reason")
        )
        for row in counted.orderBy("source_file", "broken_rule").collect():
            file_ = files[row["source_file"]]
            if row["broken_rule"] is None:
                file_.taken = row["rows"]
            else:
                file_.aside[row["broken_rule"]] = row["rows"]
                file_.reasons[row["broken_rule"]] = row["reason"]
        report.files.extend(files.values())
    report.alike.update(_alike(checked, [key for one in definitions for key in one.business_keys]))
    return report


def _keys(spark: SparkSession, definition: TableDefinition, checked: dict[str, DataFrame]) -> DataFrame:
    """Return the keys that a dimension has, or would get from new files."""
    key = definition.business_keys[0]
    known = [spark.createDataFrame([], f"`{key}` STRING")]
    if catalog.table_exists(spark, definition.target):
        known.append(spark.table(definition.target).select(key))
    if definition.target in checked:
        known.append(gate.accepted(checked[definition.target]).select(key))
    return reduce(DataFrame.unionByName, known)


def _alike(checked: dict[str, DataFrame], keys: list[str]) -> dict[str, list[list[str]]]:
    """Return the values of identifying columns that differ only in white space or case, in groups by column."""
    named = [
        gate.accepted(frame).select(F.lit(key).alias("key"), F.col(key).alias("value")).distinct()
        for frame in checked.values()
        for key in keys
        if key in frame.columns
    ]
    if not named:
        return {}
    plain = F.lower(F.regexp_replace("value", r"(?U)\s", ""))
    groups = (
        reduce(DataFrame.unionByName, named)
        .groupBy("key", plain.alias("plain"))
        .agg(F.array_sort(F.collect_set("value")).alias("values"))
        .where("size(values) > 1")
    )
    found: dict[str, list[list[str]]] = {}
    for row in groups.orderBy("key", "plain").collect():
        found.setdefault(row["key"], []).append(list(row["values"]))
    return found
