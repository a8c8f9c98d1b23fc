"""What the pipeline did: a row for each run and table in ``ops.run_log``, one for each rule in ``ops.quality_results``.

The log is also the memory of the pipeline. A row says through which version each source was read, so the next run
reads only what came after. It is written after the data, never before: a run that dies in between is repeated, and
repeating changes nothing.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pyspark.sql import functions as F

from shared import catalog
from shared.errors import is_engine_gone
from shared.interpreted import interpreted

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RUN_LOG = "ops.run_log"
QUALITY_RESULTS = "ops.quality_results"

Status = Literal["succeeded", "unchanged", "failed", "skipped"]

GOOD = ("succeeded", "unchanged")
"""Statuses after which the tables that depend on this one may run."""


@dataclass(frozen=True)
class Read:
    """A table that was read: its name, its id, and the versions that were read."""

    table: str
    table_id: str
    from_version: int | None
    """The last version that an earlier run had read; None if everything was read."""
    to_version: int


@dataclass(frozen=True)
class RuleResult:
    """How many new rows broke a rule. Severity ``info`` counts rows without a fault: repeated, tied, late.

    One rule is about rows that earlier runs accepted: that a dimension still has the key that they name. It has a
    result only if it is broken.
    """

    rule: str
    severity: str
    rows_checked: int
    rows_failed: int


@dataclass(frozen=True)
class TableRun:
    """What one run did to one table."""

    run_id: str
    table_name: str
    status: Status
    started_at: datetime
    seconds: float
    reason: str = ""
    """Why everything was read and not only what is new, why the table was skipped, or what failed."""
    rows_read: int = 0
    rows_accepted: int = 0
    rows_quarantined: int = 0
    rows_duplicate: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_released: int = 0
    """Rows of the quarantine that were accepted after all."""
    from_version: int | None = None
    """The table's version before the run; None if there was no table."""
    to_version: int | None = None
    table_id: str | None = None
    definition: str | None = None
    """Fingerprint of the definition that the rows were made by."""
    reads: tuple[Read, ...] = ()
    rules: tuple[RuleResult, ...] = field(default=(), compare=False)
    dependencies: tuple[str, ...] = ()
    """A sentence on each table that it depends on."""

    @property
    def error(self) -> str | None:
        """The reason, if the run failed or was skipped."""
        return self.reason if self.status in ("failed", "skipped") else None

    @property
    def rows_changed(self) -> int:
        """Rows inserted, updated and deleted."""
        return self.rows_inserted + self.rows_updated + self.rows_deleted


@dataclass(frozen=True)
class LastRuns:
    """A table's last run, and its last good run, whose ``reads`` say where the next run continues."""

    last: TableRun
    last_good: TableRun | None


_READ = "STRUCT<table: STRING, table_id: STRING, from_version: BIGINT, to_version: BIGINT>"
_LOG = {
    "run_id": ("STRING", "the run, the same in every table that it wrote"),
    "table_name": ("STRING", "the table"),
    "status": ("STRING", "succeeded, unchanged, failed or skipped"),
    "started_at": ("TIMESTAMP", "when the table's turn came, UTC"),
    "seconds": ("DOUBLE", "how long it took"),
    "reason": ("STRING", "why everything was read again, why it was skipped, or what failed"),
    "rows_read": ("BIGINT", "new rows of the source: accepted + quarantined + duplicate"),
    "rows_accepted": ("BIGINT", "distinct new rows that broke no rule"),
    "rows_quarantined": ("BIGINT", "distinct new rows that broke one"),
    "rows_duplicate": ("BIGINT", "new rows that repeat another"),
    "rows_inserted": ("BIGINT", "rows of the table that the run added"),
    "rows_updated": ("BIGINT", "rows that it changed"),
    "rows_deleted": ("BIGINT", "rows that it removed"),
    "rows_released": ("BIGINT", "quarantined rows that were accepted after all"),
    "from_version": ("BIGINT", "the table's version before, NULL if there was no table"),
    "to_version": ("BIGINT", "the table's version after"),
    "table_id": ("STRING", "which table of that name: another one after it was dropped and made again"),
    "definition": ("STRING", "fingerprint of the definition it was made by"),
    "reads": (f"ARRAY<{_READ}>", "the tables it was made from, and the versions read"),
    "dependencies": ("ARRAY<STRING>", "what was found of each table that it depends on"),
}
_RESULTS = {
    "run_id": ("STRING", "the run"),
    "table_name": ("STRING", "the table the rows were meant for"),
    "rule": ("STRING", "name of the rule"),
    "severity": ("STRING", "info, warn, quarantine or fail"),
    "rows_checked": ("BIGINT", "distinct new rows"),
    "rows_failed": ("BIGINT", "those of them that broke it"),
}


def new_run_id() -> str:
    """Return an id for a run: the pipeline's tables, logs and quarantine carry it."""
    return uuid.uuid4().hex[:12]


def create_tables(spark: SparkSession) -> None:
    """Make sure that the log's two tables exist."""
    for table, structure, comment in (
        (RUN_LOG, _LOG, "What the pipeline did: one row for each run and table."),
        (QUALITY_RESULTS, _RESULTS, "Rules and how many rows broke them: one row for each run, table and rule."),
    ):
        catalog.create_table(spark, table, structure, comment)


def write(spark: SparkSession, runs: Sequence[TableRun]) -> None:
    """Add these runs to the log. Results of rules are written first: they count only once their run is in the log."""
    results = [
        (run.run_id, run.table_name, rule.rule, rule.severity, rule.rows_checked, rule.rows_failed)
        for run in runs
        for rule in run.rules
    ]
    with interpreted(spark):
        if results:
            _append(spark, QUALITY_RESULTS, _RESULTS, results)
        _append(spark, RUN_LOG, _LOG, [_as_row(run) for run in runs])


class Log:
    """The log as one run of the pipeline uses it: read once, and written as rarely as possible.

    A run that left a table unchanged moved no cursor. Its row waits until another row must be written, or until the
    block ends, so a run that finds nothing new makes one commit. If the block ends with an error, the waiting rows are
    written too.

    Example:
        >>> with run_log.Log(spark) as log:
        ...     log.add(silver.run(spark, log=log))
    """

    def __init__(self, spark: SparkSession) -> None:
        create_tables(spark)
        self._spark = spark
        self._last: dict[str, LastRuns] | None = None
        self._waiting: list[TableRun] = []
        self._reading = threading.Lock()

    def last(self, table: str) -> LastRuns | None:
        """Return the last runs of a table, including those added meanwhile; None if it never ran."""
        with self._reading:
            if self._last is None:
                self._last = last_runs(self._spark)
        return self._last.get(table)

    def add(self, runs: Sequence[TableRun]) -> None:
        """Add these runs. They are in the table when this returns, unless each of them changed nothing."""
        if self._last is not None:
            for run in runs:
                before = self._last.get(run.table_name)
                good = run if run.status in GOOD else before.last_good if before else None
                self._last[run.table_name] = LastRuns(run, good)
        self._waiting += runs
        if any(run.status != "unchanged" for run in runs):
            self.write()

    def write(self) -> None:
        """Write the runs that wait, if there are any."""
        if self._waiting:
            # If this fails, do not write the rows a second time: it may have failed after the commit.
            waiting, self._waiting = self._waiting, []
            write(self._spark, waiting)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.write()
        elif not is_engine_gone(error):  # an engine that is gone cannot write
            # Keep the original error.
            with suppress(Exception):
                self.write()


def last_runs(spark: SparkSession) -> dict[str, LastRuns]:
    """Return for each table its last run and its last good one; a table that never ran is not in it."""
    run, started = F.struct(*_LOG), F.col("started_at")
    is_good = F.col("status").isin(*GOOD)
    with interpreted(spark):
        # Spark finds the newest rows: the log grows with every run, and should not be fetched whole.
        rows = (
            spark.table(RUN_LOG)
            .groupBy("table_name")
            .agg(F.max_by(run, started).alias("last"), F.max_by(run, F.when(is_good, started)).alias("last_good"))
            .collect()
        )
    runs = [row.asDict(recursive=True) for row in rows]
    return {
        row["table_name"]: LastRuns(_from_row(row["last"]), _from_row(row["last_good"]) if row["last_good"] else None)
        for row in runs
    }


def _as_row(run: TableRun) -> tuple[Any, ...]:
    values = asdict(run) | {"reads": [asdict(read) for read in run.reads], "dependencies": list(run.dependencies)}
    return tuple(values[name] for name in _LOG)


def _from_row(values: dict[str, Any]) -> TableRun:
    reads = tuple(Read(**read) for read in values.pop("reads") or ())
    return TableRun(**values | {"reads": reads, "dependencies": tuple(values["dependencies"] or ())})


def _append(spark: SparkSession, table: str, structure: catalog.Columns, rows: list[Any]) -> None:
    spark.createDataFrame(rows, catalog.schema_of(structure)).writeTo(table).append()
