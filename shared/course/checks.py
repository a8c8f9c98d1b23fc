"""What holds after each day, asserted on the tables and files themselves.

The last cell of a notebook shows these checks with :func:`report`, and the runner asks :func:`check_day` again after
the notebook has ended: a notebook that ran to its end without doing its work is found out.

A check is a function from a :class:`Context` to a :class:`Finding`, entered into ``CONTRACTS`` by the decorator
``@check(day, sentence, cause=...)``; the checks themselves are in ``shared/course/contracts``. Their findings must read
the same on every machine, because the notebooks store them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shared import catalog
from shared.bronze.contracts import SOURCES
from shared.control_table import ControlTable, Definition
from shared.course import days
from shared.course.table import Cell, Table
from shared.errors import CourseError, ShopMetricsError, first_line
from shared.private import write_private
from shared.runtime import spark as spark_server
from shared.settings import Settings, get_settings, on_databricks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from generators.manifest import Manifest

D = TypeVar("D", bound=Definition)


@dataclass(frozen=True)
class Result:
    """One check of a day, as it went. ``found`` and ``expected`` are sentences or lists for people."""

    day: int
    name: str
    ok: bool
    found: str
    expected: str
    cause: str
    """What usually lies behind a failure, and what to do."""


@dataclass(frozen=True)
class Finding:
    """What a check found, against what it expected; they agree if they are equal, or if ``ok`` says so."""

    found: str
    expected: str
    ok: bool | None = None


@dataclass(frozen=True)
class Context:
    """What a check looks at."""

    spark: SparkSession
    settings: Settings

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
class _Entry:
    name: str
    cause: str
    run: Check
    local_only: bool


CONTRACTS: dict[int, list[_Entry]] = {}
"""Day to its checks, in the order in which they are made."""


def check(day: int, name: str, cause: str, local_only: bool = False) -> Callable[[Check], Check]:
    """Enter a function into the contract of a day.

    Args:
        day: the number of the day.
        name: what holds, as a sentence.
        cause: what usually lies behind a failure, and what to do.
        local_only: leave it out where another engine than this home's does the work: Databricks, ``SPARK_REMOTE``.
    """

    def enter(function: Check) -> Check:
        CONTRACTS.setdefault(day, []).append(_Entry(name, cause, function, local_only))
        return function

    return enter


def check_day(number: int, spark: SparkSession, settings: Settings | None = None) -> list[Result]:
    """Check what a day promises, and return one result per check, passed or not. Changes nothing.

    Raises:
        CourseError: if there is no such day, or it has no contract.

    Example:
        >>> all(result.ok for result in check_day(4, shared.connect()))
        True
    """
    import shared.course.contracts  # noqa: F401  enters the checks

    days.day(number)
    if not CONTRACTS.get(number):
        raise CourseError(
            f"Day {number} has no check: expected one in shared/course/contracts.", "a day is built when its check is"
        )
    context = Context(spark, settings or get_settings())
    is_elsewhere = on_databricks() or spark_server.named() is not None
    entries = [entry for entry in CONTRACTS[number] if not (entry.local_only and is_elsewhere)]
    return [_run(number, entry, context) for entry in entries]


def _run(number: int, entry: _Entry, context: Context) -> Result:
    from pyspark.errors import PySparkException

    try:
        finding = entry.run(context)
    except (ShopMetricsError, PySparkException, OSError) as error:
        # What is to be checked is not there, or cannot be read: that is an answer too, and not a good one.
        finding = Finding(first_line(error), "a readable answer", ok=False)
    ok = finding.found == finding.expected if finding.ok is None else finding.ok
    return Result(number, entry.name, ok, finding.found, finding.expected, entry.cause)


def report(number: int, spark: SparkSession, settings: Settings | None = None) -> None:
    """Check a day, show the results, and note them in the home for the runner: a notebook's last cell.

    Raises:
        CourseError: if a check failed, naming each with its usual cause.

    Example:
        >>> checks.report(4, spark)
    """
    from shared.course.display import put_table

    settings = settings or get_settings()
    results = check_day(number, spark, settings)
    put_table(as_table(results))
    if not on_databricks():
        write_receipt(number, results, settings)
    raise_if_failed(results)


def as_table(results: list[Result]) -> Table:
    """Return results as a table; what was expected, and why it usually fails, only where something failed."""
    failed = any(not result.ok for result in results)
    columns = ["check", "result", "found", *(["expected", "usual cause"] if failed else [])]
    rows = []
    for result in results:
        verdict = Cell("passed", "added") if result.ok else Cell("FAILED", "removed")
        reasons = [Cell(result.expected), Cell(result.cause)] if not result.ok else [Cell(""), Cell("")]
        rows.append([Cell(result.name), verdict, Cell(result.found), *(reasons if failed else [])])
    passed = sum(result.ok for result in results)
    title = f"Day {results[0].day}: {passed} of {len(results)} checks passed"
    return Table(columns, [False] * len(columns), rows, title)


def raise_if_failed(results: list[Result]) -> None:
    """Do nothing if every check passed.

    Raises:
        CourseError: naming each check that failed, what was found and what was expected.
    """
    failed = [result for result in results if not result.ok]
    if not failed:
        return
    lines = [f"Day {failed[0].day}: {len(failed)} of {len(results)} checks failed."]
    for result in failed:
        lines += [f"  - {result.name}", f"      found:       {result.found}", f"      expected:    {result.expected}"]
        lines += [f"      usual cause: {result.cause}"]
    raise CourseError("\n".join(lines), f"run the notebook of day {failed[0].day} again from its top")


# What a notebook leaves behind for the runner: that it reached its last cell, in this home.


def receipt_path(number: int, settings: Settings) -> Path:
    """Return the file that :func:`report` writes for a day."""
    return settings.run / "course" / f"day_{number:02d}.json"


def write_receipt(number: int, results: list[Result], settings: Settings) -> None:
    """Note that the check cell of a day was reached in this home, and what it found."""
    path = receipt_path(number, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps([asdict(result) for result in results], indent=2))
