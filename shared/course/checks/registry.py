"""What a check is, which checks each day has, and what checks have in common.

A check is a function from a :class:`Context` to a :class:`Finding`, entered into ``BY_DAY`` by the decorator
``@check(day, sentence, cause=...)``. Its findings must read the same on every machine,
because the notebooks store them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shared import catalog
from shared.bronze.contracts import SOURCES
from shared.control_table import ControlTable, Definition
from shared.runtime.spark import connect
from shared.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from generators.manifest import Manifest

D = TypeVar("D", bound=Definition)


@dataclass(frozen=True)
class Finding:
    """What a check found, against what it expected; they agree if they are equal, or if ``ok`` says so."""

    found: str
    expected: str
    ok: bool | None = None


@dataclass(frozen=True)
class Context:
    """What a check looks at.

    Attributes:
        session: the session, or None: one is then made when a check asks for it first, and an engine with it.
        settings: the home.
    """

    session: SparkSession | None
    settings: Settings

    @cached_property
    def spark(self) -> SparkSession:
        """The session."""
        return self.session or connect(self.settings)

    @property
    def landing(self) -> Path:
        """The landing volume."""
        return Path(catalog.volume_path(self.settings))

    @cached_property
    def manifest(self) -> Manifest:
        """The generators' account of the landing volume."""
        from generators.manifest import Manifest

        return Manifest.load(self.landing)

    @cached_property
    def ingested(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Source name to file to (rows, malformed rows) in bronze."""
        return {name: self._ingested(source.bronze_table) for name, source in SOURCES.items()}

    def _ingested(self, table: str) -> dict[str, tuple[int, int]]:
        columns = "source_file, count(*) AS rows, count(_malformed) AS malformed"
        rows = self.spark.sql(f"SELECT {columns} FROM {table} GROUP BY source_file").collect()
        return {row.source_file: (row["rows"], row.malformed) for row in rows}


def numbers(context: Context, query: str) -> list[int]:
    """Return the one row of a query, all of whose columns are whole numbers."""
    row = context.spark.sql(query).first()
    assert row is not None
    return [int(value) for value in row]


def finding(wrong: Mapping[str, int], expected: str) -> Finding:
    """Return what was found: what is wrong, counted, or what was expected if nothing is."""
    found = ", ".join(f"{number:,} {what}" for what, number in wrong.items() if number)
    return Finding(found or expected, expected)


def as_declared(
    context: Context, control: ControlTable[D], problems: Callable[[list[D], dict[str, list[str]]], list[str]]
) -> Finding:
    """Return whether a control table holds every declared table as it is declared, and all of it is sound.

    Args:
        context: what is looked at.
        control: the control table.
        problems: given what it holds and the columns of every source, says what is wrong.
    """
    known = control.published(context.spark)
    there = {definition.target: definition for definition in known}
    declared = control.declared()
    wrong = [
        f"{one.target} {'differs from its declaration' if one.target in there else 'is missing'}"
        for one in declared
        if there.get(one.target) != one
    ]
    wrong += problems(known, {one.source: context.spark.table(one.source).columns for one in known})
    expected = ", ".join(one.target for one in declared)
    return Finding("; ".join(wrong) or expected, expected)


Check = Callable[[Context], Finding]


@dataclass(frozen=True)
class Entry:
    """A check as it was entered."""

    name: str
    cause: str
    run: Check
    local_only: bool
    tables: tuple[str, ...]
    """For a law: the tables that it speaks of. Empty for every other check."""


BY_DAY: dict[int, list[Entry]] = {}
"""Day to its checks, in the order in which they are made."""


def check(
    day: int, name: str, cause: str, local_only: bool = False, tables: tuple[str, ...] = ()
) -> Callable[[Check], Check]:
    """Enter a function into the checks of a day.

    Args:
        day: the number of the day.
        name: what holds, as a sentence.
        cause: what usually lies behind a failure, and what to do.
        local_only: leave it out where another engine than this home's does the work: Databricks, ``SPARK_REMOTE``.
        tables: for a law, the tables that it speaks of. ``verify`` asks a law where all of them exist.
    """

    def enter(function: Check) -> Check:
        BY_DAY.setdefault(day, []).append(Entry(name, cause, function, local_only, tables))
        return function

    return enter
