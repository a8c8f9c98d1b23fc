"""What came of a day's checks: asked, shown, and left for the course runner.

The last cell of a notebook shows them with :func:`report`, and the course runner asks :func:`check_day` again after the
notebook has ended: a notebook that ran to its end without doing its work is found out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared import catalog
from shared.course import days
from shared.course.checks import registry
from shared.course.checks.registry import Context, Entry, Finding
from shared.course.table import Cell, Table
from shared.errors import CourseError, ShopMetricsError, first_line
from shared.private import write_private
from shared.runtime import spark as spark_server
from shared.settings import Settings, get_settings, on_databricks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


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


def check_day(number: int, spark: SparkSession | None = None, settings: Settings | None = None) -> list[Result]:
    """Check what a day promises, and return one result per check, passed or not. Changes nothing.

    Args:
        number: of the day.
        spark: the session; without it one is made where a check asks for one.
        settings: the home; defaults to this process's settings.

    Raises:
        CourseError: if there is no such day, or it has no check.

    Example:
        >>> all(result.ok for result in check_day(4, shared.connect()))
        True
    """
    days.day(number)
    if not registry.BY_DAY.get(number):
        raise CourseError(
            f"Day {number} has no check: expected one in shared/course/checks.", "a day is built when its check is"
        )
    context = Context(spark, settings or get_settings())
    is_elsewhere = on_databricks() or spark_server.named() is not None
    entries = [entry for entry in registry.BY_DAY[number] if not (entry.local_only and is_elsewhere)]
    return [_run(number, entry, context) for entry in entries]


def _run(number: int, entry: Entry, context: Context) -> Result:
    from pyspark.errors import PySparkException

    try:
        finding = entry.run(context)
    except (ShopMetricsError, PySparkException, OSError) as error:
        # What is to be checked is not there, or cannot be read: that is an answer too, and not a good one.
        finding = Finding(first_line(error), "a readable answer", ok=False)
    ok = finding.found == finding.expected if finding.ok is None else finding.ok
    return Result(number, entry.name, ok, finding.found, finding.expected, entry.cause)


@dataclass(frozen=True)
class Verified:
    """The laws of ``docs/data-model.md``, as they hold in a home."""

    results: list[Result]
    """One for each law that was asked, in their order."""
    not_asked: dict[str, list[str]]
    """Each law that was not asked, to the tables that it speaks of and that do not exist yet."""

    @property
    def ok(self) -> bool:
        """Whether every law that was asked holds, and at least one was."""
        return bool(self.results) and all(result.ok for result in self.results)


def verify(spark: SparkSession, settings: Settings | None = None, through: int | None = None) -> Verified:
    """Ask every law whose tables exist in this home, whichever days were worked through. Changes nothing.

    Law 6 starts the broker if it does not run. Law 4 says what running again does, and so it is not seen in the tables:
    ``shopmetrics verify --run-again`` asks it.

    Args:
        spark: the session.
        settings: the home; defaults to this process's settings.
        through: ask only laws of the days up to this one; 9 is the batch pipeline. Defaults to all.

    Example:
        >>> verify(shared.connect()).ok
        True
    """
    context = Context(spark, settings or get_settings())
    there = set(catalog.tables(spark))
    entries = [(day, entry) for day, of_day in registry.BY_DAY.items() for entry in of_day if entry.tables]
    entries = [(day, entry) for day, entry in entries if through is None or day <= through]
    verified = Verified([], {})
    for day, entry in sorted(entries, key=lambda one: (one[1].name.partition(":")[0], one[0])):
        if missing := [table for table in entry.tables if table not in there]:
            verified.not_asked[entry.name] = missing
        else:
            verified.results.append(_run(day, entry, context))
    return verified


def law_4(spark: SparkSession, run_again: Callable[[SparkSession], object]) -> Result:
    """Run the pipeline once more, and return whether it left every table as it was: law 4.

    Files that have landed since the last run are news, and change tables rightly; run the pipeline before.

    Args:
        spark: the session.
        run_again: runs it, for example :func:`shared.pipeline.run`.
    """

    def versions() -> dict[str, int]:
        tables = catalog.tables(spark, ("bronze", "silver", "gold"))
        return {table: catalog.version(spark, table) for table in tables}

    before = versions()
    run_again(spark)
    changed = sorted(table for table, version in versions().items() if before.get(table) != version)
    expected = "no table has a new version"
    found = f"a new version of {', '.join(changed)}" if changed else expected
    cause = "files had landed since the last run; or a run is not idempotent: see the reason in ops.run_log"
    return Result(0, "Law 4: running again changes nothing", not changed, found, expected, cause)


def report(number: int, spark: SparkSession | None = None, settings: Settings | None = None) -> None:
    """Check a day, show the results, and note them in the home for the runner: a notebook's last cell.

    Args:
        number: of the day.
        spark: the session; a day that uses no Spark has none.
        settings: the home; defaults to this process's settings.

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
    """Return results as a table. What was expected, and why it usually fails, is in the error that follows."""
    columns = ["check", "result", "found"]
    rows = []
    for result in results:
        verdict = Cell("passed", "added") if result.ok else Cell("FAILED", "removed")
        rows.append([Cell(result.name), verdict, Cell(result.found)])
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
