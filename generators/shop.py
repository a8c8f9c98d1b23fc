"""Runs the shop day by day and writes the files of each day into the landing directory."""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

import pyarrow as pa
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from generators import demand
from generators.customers import Customers
from generators.defects import is_redelivered
from generators.landing import Batch, LandedFile, cannot_write, copy_file, whole_file, write_csv
from generators.manifest import FILE_NAME, BatchEntry, Manifest, read_identity
from generators.orders import Orders
from generators.plan import PLACES, TABLES, GeneratorError, Plan
from generators.products import Products
from shared import clock

UNFINISHED = ".unfinished.json"
"""While a run is incomplete, this file says what the run generates: files that no manifest lists yet belong to it."""


class Source(Protocol):
    """A table of the shop that advances day by day and delivers a batch at the end of each day."""

    def next_day(self) -> None:
        """Advance to the next day."""

    def batch(self) -> Batch:
        """Return the batch that is delivered at the end of the day."""


def generate(
    out: Path | str,
    *,
    scale: float = 1.0,
    seed: int = 42,
    defects: float = 0.01,
    days: int = 0,
    tables: Sequence[str] = TABLES,
    progress: bool = True,
) -> Manifest:
    """Write the source files of the historical load and of ``days`` incremental days.

    Every file is a function of seed, scale, defects, table and day: it has the same bytes on every machine,
    whether it is generated with others or alone. Files that the manifest in ``out`` already lists are not changed,
    so a later call with more days adds the missing days. If a run was killed, the same call completes it.

    Args:
        out: the landing directory. Files go to ``<table>/<batch date>/<table>_historical.csv`` (in parts
            ``..._0001.csv`` and so on above two million rows) and ``<table>_incremental.csv``.
        scale: 1 is 10,000 customers, 1,000 products and 100,000 orders; above 0, at most 1,000.
        seed: the seed of every random stream, 0 or more.
        defects: share of rows with an injected defect, 0 to 0.2; :mod:`generators.defects` lists the kinds.
        days: the number of incremental days after the historical load, 0 or more.
        tables: the tables to write.
        progress: show a progress bar on a terminal if the run takes longer than a second.

    Returns:
        The manifest of everything that ``out`` now holds.

    Raises:
        GeneratorError: if an argument is out of range; if ``out`` holds files of another seed, scale or share of
            defects, or files that do not match its manifest; or if ``out`` cannot be written.

    Example:
        >>> generate("/tmp/raw", scale=0.01, days=3).rows("customers")                  # doctest: +SKIP
        116
    """
    plan = Plan(seed, scale, defects)
    chosen = _check_tables(tables)
    if isinstance(days, bool) or not isinstance(days, int) or days < 0:
        raise GeneratorError(f"days must be a whole number, 0 or more, got {days!r}", "0 is the historical load alone")
    landing = Path(out)
    with _only_run(landing):
        manifest = _open(landing, plan)
        missing = {(table, day) for table in chosen for day in range(days + 1) if not _has(manifest, table, day)}
        if missing:
            resumed = _begin(landing, plan)
            _land(manifest, missing, resumed, progress)
            manifest.save()
            (landing / UNFINISHED).unlink()
    return manifest


def _land(manifest: Manifest, wanted: set[tuple[str, int]], resumed: bool, progress: bool) -> None:
    plan = manifest.plan
    customers, products = Customers(plan), Products(plan)
    sources: dict[str, Source] = {"customers": customers, "products": products}
    if any(table == "orders" for table, _ in wanted):
        sources["orders"] = Orders(plan, customers, products)
    with _Progress(sum(_expected_rows(plan, table, day) for table, day in wanted), progress) as bar:
        for day in range(max(day for _, day in wanted) + 1):
            for table, source in sources.items():
                if day > 0:
                    source.next_day()
                if (table, day) in wanted:
                    entry = _land_batch(manifest, source.batch(), day, resumed, bar)
                    manifest.tables.setdefault(table, {})[clock.batch_date(day).isoformat()] = entry


def _land_batch(manifest: Manifest, batch: Batch, day: int, resumed: bool, bar: _Progress) -> BatchEntry:
    """Write the files of one table and day."""
    folder = f"{batch.table}/{clock.batch_date(day)}"
    kind = "incremental" if day else "historical"
    parts = batch.parts()
    files: list[LandedFile] = []
    for n, part in enumerate(parts, start=1):
        path = f"{folder}/{batch.table}_{kind}.csv" if len(parts) == 1 else f"{folder}/{batch.table}_{kind}_{n:04}.csv"
        _check_free(manifest.landing / path, resumed)
        bar.says(path)
        files.append(write_csv(manifest.landing, path, batch.columns, bar.count(batch.chunks(part))))
    found = {**batch.defects(), "redelivered_file": 0}
    if is_redelivered(manifest.plan, day):
        original = manifest.tables[batch.table][clock.batch_date(day - 1).isoformat()].files[0]
        path = f"{folder}/{batch.table}_{kind}_resent.csv"
        _check_free(manifest.landing / path, resumed)
        files.append(copy_file(manifest.landing, original, path))
        found["redelivered_file"] = original.rows
    return BatchEntry(tuple(files), found)


def _check_tables(tables: Sequence[str]) -> list[str]:
    """Return the chosen tables in the order in which they are written."""
    chosen = [tables] if isinstance(tables, str) else list(tables)
    for table in chosen:
        if table not in TABLES:
            close = difflib.get_close_matches(str(table), TABLES, n=1)
            raise GeneratorError(
                f"{table!r} is not a table" + (f", did you mean {close[0]!r}?" if close else ""),
                f"the tables are {', '.join(TABLES)}",
            )
    if not chosen:
        raise GeneratorError("no table is chosen", f"the tables are {', '.join(TABLES)}")
    return [table for table in TABLES if table in chosen]


def _has(manifest: Manifest, table: str, day: int) -> bool:
    return clock.batch_date(day).isoformat() in manifest.tables.get(table, {})


@contextmanager
def _only_run(landing: Path) -> Iterator[None]:
    """Keep a second run out of the directory. If a run is killed, the operating system releases its lock."""
    try:
        landing.mkdir(parents=True, exist_ok=True)
        lock = FileLock(landing / ".generate.lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise GeneratorError(
            f"another run is generating files in {landing}",
            f"wait until it ends, or choose another directory ({PLACES})",
        ) from error
    except OSError as error:
        raise cannot_write(landing, error) from error
    try:
        yield
    finally:
        lock.release()


def _open(landing: Path, plan: Plan) -> Manifest:
    """Return the manifest of the directory, checked against its files, or an empty one."""
    if not (landing / FILE_NAME).exists():
        return Manifest(landing, plan)
    manifest = Manifest.load(landing)
    _check_same(plan, manifest.plan, landing)
    manifest.check_files()
    return manifest


def _begin(landing: Path, plan: Plan) -> bool:
    """Note in the directory what is being generated. Return whether an incomplete run has left such a note before."""
    note = landing / UNFINISHED
    if note.exists():
        _check_same(plan, read_identity(json.loads(note.read_text(encoding="utf-8")), note), landing)
        return True
    with whole_file(note) as write:
        write(json.dumps(plan.identity()).encode())
    return False


def _check_same(asked: Plan, found: Plan, landing: Path) -> None:
    if asked != found:
        raise GeneratorError(
            f"{landing} holds files of {found}, but {asked} was asked for: they do not belong together",
            f"ask for {found}, choose another directory ({PLACES}), or `shopmetrics reset` to start again",
        )


def _check_free(path: Path, resumed: bool) -> None:
    if path.exists() and not resumed:
        raise GeneratorError(
            f"{path} is there already, but no manifest lists it: it is not overwritten",
            f"move it away, or choose another directory ({PLACES})",
        )


def _expected_rows(plan: Plan, table: str, day: int) -> int:
    """Return about how many rows a batch has, for the progress bar."""
    if day == 0:
        return {"customers": plan.customers, "products": plan.products, "orders": plan.orders}[table]
    if table == "orders":
        return 4 * demand.orders_on(plan, day)
    return {"customers": plan.customers, "products": plan.products}[table] // 40


class _Progress:
    """A progress bar on standard error, if that is a terminal and the run takes longer than a second."""

    _PATIENCE = 1.0

    def __init__(self, rows: int, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._begun = time.monotonic()
        self._bar: Progress | None = None
        self._rows, self._done, self._what = rows, 0, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def says(self, what: str) -> None:
        """Show the name of the file that is being written."""
        self._what = what

    def count(self, chunks: Iterable[pa.Array]) -> Iterator[pa.Array]:
        """Yield the chunks unchanged and count their rows."""
        for lines in chunks:
            yield lines
            self._done += len(lines)
            if self._wanted and time.monotonic() - self._begun > self._PATIENCE:
                self._show()

    def _show(self) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=self._rows)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._done, description=self._what)
