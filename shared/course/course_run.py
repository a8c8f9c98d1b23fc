"""Run the days in order, check each day's tables, and report the cost of each day.

A day is done when its notebook ran to its end in this home *and* its checks pass. The notebook must have reached
its own check cell, which writes a receipt. Then the same checks run again outside the notebook. So a notebook that ran
in another home, skipped its work or lost a cell does not pass.

Papermill passes a parameter of the run to a notebook as a cell below the one tagged ``parameters``, and only if its
value differs from the literal there. So the default run is exactly the committed notebook, which is what the tests
compare, and the executed copy shows which value was used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from shared.course import checks
from shared.course.days import Day, select
from shared.course.execution import Failure, execute, parameters_of, read
from shared.errors import CourseError
from shared.runtime.spark import connect, named, running
from shared.settings import CHECKOUT, Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.catalog import TableState

RUNS = CHECKOUT / "build" / "runs"
"""Executed copies: one numbered directory per run."""

FROM_SETTINGS = ("scale", "seed", "defects")
"""Parameters of a notebook that get their values from the settings of the same names."""

MOST_LINES = 15
"""The number of printed lines of an error; the executed copy has all lines."""

NO_TABLE = "none changed"

CheckDay = Callable[[int, "SparkSession | None", Settings], list[checks.Result]]


@dataclass(frozen=True)
class DayRun:
    """How one day went."""

    day: int
    name: str
    title: str
    seconds: float
    peak_mb: float
    """Largest resident memory of kernel and engine together, in MiB."""
    tables: tuple[TableState, ...]
    """The tables that this day created or changed, with their state after it."""
    checks_passed: int
    executed_copy: Path


class DayFailed(CourseError):
    """A day's notebook did not run to its end, or the day's checks failed.

    ``failure`` names the cell, if a cell failed.
    """

    def __init__(self, day: Day, problem: str, hint: str, failure: Failure | None = None) -> None:
        super().__init__(problem, hint)
        self.day = day
        self.failure = failure


@dataclass
class CourseRun:
    """A run of several days: the cost of each day, and the error that stopped the run, if there was one."""

    home: Path
    directory: Path
    days: list[DayRun] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    """Days that are skipped because they need the home's own engine and ``SPARK_REMOTE`` names another."""
    error: DayFailed | None = None

    @property
    def ok(self) -> bool:
        """Whether every day is done."""
        return self.error is None

    def as_dict(self) -> dict[str, Any]:
        """Return the run for programs; everything in it is JSON."""
        failed = None
        if self.error:
            cell = asdict(self.error.failure) if self.error.failure else None
            failed = {"day": self.error.day.number, "problem": self.error.problem, "hint": self.error.hint}
            failed |= {"cell": cell}
        days = [asdict(entry) | {"executed_copy": str(entry.executed_copy)} for entry in self.days]
        places = {"home": str(self.home), "directory": str(self.directory)}
        return {"ok": self.ok, **places, "days": days, "left_out": self.left_out, "failed": failed}


def run(
    days: Sequence[Day] | None = None,
    settings: Settings | None = None,
    console: Console | None = None,
    check_day: CheckDay = checks.check_day,
    runs: Path = RUNS,
) -> CourseRun:
    """Run these days in order, and stop at the first that fails.

    Executed copies go to ``build/runs/<n>/``; nothing is written into ``notebooks/``. Works from any directory.

    Args:
        days: the days to run, for example ``select(3, 4)``; defaults to all.
        settings: the home, and the scale, seed and defects for the notebooks; defaults to this process's settings.
        console: shows progress; without it no progress is shown.
        check_day: the checks that run after each day.
        runs: the directory in which the numbered directory is created.

    Returns:
        The cost of each finished day; ``error`` is the error that stopped the run, if there was one.

    Raises:
        CourseError, EngineError: if the run cannot start, because a notebook or the engine is missing.

    Example:
        >>> result = run(select(1, 4), console=Console())
        >>> result.ok
        True
    """
    chosen = select() if days is None else tuple(days)
    settings = settings or get_settings()
    for day in chosen:
        read(day.notebook)  # a missing notebook of a later day is an error now, not after minutes
    left_out = [day.number for day in chosen if named() and day.own_engine]
    chosen = tuple(day for day in chosen if day.number not in left_out)
    if left_out and not chosen:
        raise CourseError(
            f"Day {left_out[0]} needs an engine of its own, which it may end.", "run it with SPARK_REMOTE unset"
        )
    result = CourseRun(settings.home, _new_directory(runs), left_out=left_out)
    before: dict[str, TableState] = {}
    if any(day.spark for day in chosen):
        if console and not named() and not running(settings):
            console.print("Starting the engine, some ten seconds ...", highlight=False)
        before = _states(connect(settings))
    for number in left_out:
        if console:
            reason = "it needs an engine of its own, so run it with SPARK_REMOTE unset"
            console.print(f"day {number:>2}  skipped: {reason}", highlight=False)
    for day in chosen:
        if console and not console.is_terminal:  # there is no progress bar here
            console.print(f"day {day.number:>2}  {day.title} ...", highlight=False)
        try:
            finished, before = _run_day(day, settings, check_day, result.directory, before, console)
        except DayFailed as error:
            result.error = error
            break
        result.days.append(finished)
        if console:
            console.print(f"day {day.number:>2}  {day.title:<40} {finished.seconds:6.1f} s", highlight=False)
    return result


def _run_day(
    day: Day,
    settings: Settings,
    check_day: CheckDay,
    directory: Path,
    before: dict[str, TableState],
    console: Console | None,
) -> tuple[DayRun, dict[str, TableState]]:
    receipt = checks.receipt_path(day.number, settings)
    receipt.unlink(missing_ok=True)
    copy = directory / day.notebook.name
    again = f"mend it, then go on with `shopmetrics course --from {day.number}`"
    started = time.monotonic()
    execution = execute(
        day.notebook,
        settings,
        parameters=_parameters(day, settings),
        save_to=copy,
        progress=f"day {day.number}" if console else "",
    )
    if execution.failure:
        failure = execution.failure
        problem = f"Day {day.number} stopped in cell [{failure.cell}] of {day.notebook}: {_shortened(failure.error)}"
        raise DayFailed(day, problem, f"{again}; the executed copy is {copy}", failure)
    if not receipt.is_file():
        raise DayFailed(
            day,
            f"Day {day.number} ran to its end, but left no result of its checks in {settings.home}: expected "
            f"{day.check_cell} in the last cell of {day.notebook}, run in this home.",
            again,
        )
    spark = connect(settings) if day.spark else None  # again: the notebook may have restarted the engine
    results = check_day(day.number, spark, settings)
    try:
        checks.raise_if_failed(results)
    except CourseError as error:
        raise DayFailed(day, error.problem, again) from error
    after = _states(spark) if spark else before
    changed = tuple(state for table, state in after.items() if before.get(table) != state)
    seconds = time.monotonic() - started
    finished = DayRun(day.number, day.name, day.title, seconds, execution.peak_mb, changed, len(results), copy)
    return finished, after


def _shortened(error: str) -> str:
    lines = error.splitlines()
    return "\n".join(lines[:MOST_LINES] + ["..."] * (len(lines) > MOST_LINES))


def _parameters(day: Day, settings: Settings) -> dict[str, Any]:
    declared = parameters_of(read(day.notebook))
    wanted = {name: getattr(settings, name) for name in FROM_SETTINGS}
    return {name: value for name, value in wanted.items() if name in declared and declared[name] != value}


def _states(spark: SparkSession) -> dict[str, TableState]:
    from shared import catalog

    return {state.table: state for state in catalog.state(spark)}


def _new_directory(runs: Path) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in runs.iterdir() if path.name.isdigit()), default=0)
    while True:
        number += 1
        try:
            (runs / str(number)).mkdir()
        except FileExistsError:  # another run took the number
            continue
        return runs / str(number)


def print_run(result: CourseRun, console: Console) -> None:
    """Print the cost of each day of a run, and the error that stopped the run, if there was one."""
    if result.days:
        console.print(_summary(result))
        total = sum(day.seconds for day in result.days)
        number = f"{len(result.days)} day{'s' * (len(result.days) != 1)}"
        console.print(f"{number} in {total:.1f} s; executed copies in {_short(result.directory)}")
    if result.error:
        console.print(_failure_panel(result.error))


def _summary(result: CourseRun) -> Table:
    columns: dict[str, list[list[str]]] = {
        "seconds": [[f"{day.seconds:.1f}"] for day in result.days],
        "peak MB": [[f"{day.peak_mb:,.0f}"] for day in result.days],
        "checks": [[f"{day.checks_passed} ok"] for day in result.days],
        "tables": [[state.table for state in day.tables] or [NO_TABLE] for day in result.days],
        "version": [[str(state.version) for state in day.tables] for day in result.days],
        "rows": [[f"{state.rows:,}" for state in day.tables] for day in result.days],
    }
    table = Table(box=None, header_style="bold", pad_edge=False)
    # In a narrow window a title is wrapped, but a number or a table's name is never cut: that would change its meaning.
    table.add_column("day", overflow="fold")
    for name, cells in columns.items():
        widest = max(map(len, [name, *chain.from_iterable(cells)]))
        table.add_column(name, justify="left" if name == "tables" else "right", no_wrap=True, min_width=widest)
    for number, day in enumerate(result.days):
        table.add_row(f"{day.day}  {day.title}", *("\n".join(cells[number]) for cells in columns.values()))
    return table


def _failure_panel(error: DayFailed) -> Panel:
    parts: list[Any] = [Text(error.problem)]
    if error.failure and error.failure.source:
        parts += [Text(""), Syntax(error.failure.source, "python", background_color="default", word_wrap=True)]
    parts += [Text(""), Text(f"-> {error.hint}")]
    return Panel(Group(*parts), title=f"day {error.day.number}: {error.day.title}", border_style="red")


def _short(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix() if path.is_relative_to(CHECKOUT) else str(path)
