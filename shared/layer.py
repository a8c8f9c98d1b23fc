"""Run the tables of a layer: in order, after what they depend on, each from what is new in its sources.

What silver and gold have in common. A table's turn goes the same way in both: look at what it depends on, find from
which version of each source it goes on, make the difference, say what was done. The run log is written last. Killed
anywhere before, the next run starts from the same place and ends in the same table.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Generic, TypeVar

from pyspark.errors import PySparkException

from shared import catalog, changes, run_log
from shared.catalog import Commit, Standing
from shared.changes import Changed
from shared.control_table import ControlTable, Definition
from shared.errors import MetadataError, PipelineError, ShopMetricsError, first_line, is_engine_gone
from shared.interpreted import configured, interpreted
from shared.run_log import Log, Read, RuleResult, TableRun

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_FEED_GONE = (
    "DELTA_MISSING_CHANGE_DATA",
    "DELTA_CHANGE_TABLE_FEED_DISABLED",
    "DELTA_VERSION_NOT_CONTIGUOUS",
    "DELTA_CHANGE_DATA_FEED_INCOMPATIBLE",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_FILE_NOT_FOUND",
    "DELTA_INVALID_CDC_RANGE",
    "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION",
    "FAILED_READ_FILE",
    "VERSION_NOT_FOUND",
    "VERSION_NOT_EXIST",
)
"""In the error when versions that are wanted are not to be had any more."""


_NOTED = "run "
"""How what a run notes in its commits begins; its id follows."""

_ROWS_ONLY = ("DELETE", "MERGE", "RESTORE", "UPDATE", "WRITE")
"""Operations of which a change data feed tells all that they did."""

SMALL_BYTES = 20_000_000
"""Up to so much, in the data files of all its tables, a run is small: some 200,000 orders."""

D = TypeVar("D", bound=Definition)


@dataclass
class Work(Generic[D]):
    """What is known of one table while its turn lasts."""

    definition: D
    reads: list[Read] = field(default_factory=list)
    reason: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    """What the lookups of a fact have said of it."""
    changed: Changed = field(default_factory=Changed)
    released: int = 0
    also_read: list[Read] = field(default_factory=list)
    """Tables that are looked into at one version, and that no cursor goes on from: the run log names them too."""

    @property
    def cursors(self) -> dict[str, int | None]:
        """Through which version each source was read before."""
        return {read.table: read.from_version for read in self.reads}

    @property
    def targets(self) -> dict[str, int]:
        """Through which version each source, and each table that is looked into, is read now."""
        return {read.table: read.to_version for read in (*self.reads, *self.also_read)}


class LayerRun(ABC, Generic[D]):
    """One run of a layer's tables. A layer says how a table is rebuilt, and how from what is new."""

    def __init__(
        self,
        spark: SparkSession,
        known: Sequence[D],
        full: bool,
        log: Log,
        run_id: str | None = None,
        on_end: Callable[[TableRun], None] | None = None,
    ) -> None:
        self.spark = spark
        self.log = log
        self.known = {definition.target: definition for definition in known}
        self.full = full
        self.run_id = run_id or run_log.new_run_id()
        self.on_end = on_end or (lambda table: None)
        self.done: dict[str, TableRun] = {}
        self.states: dict[str, Standing] = {}
        self.is_small = False
        """Whether the run's tables hold so little that its cost is that of its steps, however few rows pass them."""
        self.feeds: dict[tuple[str, int, int], DataFrame] = {}
        self._reading_a_feed = threading.Lock()

    @abstractmethod
    def make_anew(self, work: Work[D]) -> None:
        """Make the table from all that is in its sources at ``work.targets``."""

    @abstractmethod
    def make_changes(self, work: Work[D]) -> None:
        """Bring the table from ``work.cursors`` to ``work.targets`` of its sources."""

    @abstractmethod
    def rule_results(self, work: Work[D]) -> tuple[RuleResult, ...]:
        """Return what was found of each rule."""

    def why_anew(self, definition: D) -> str:
        """Return why a table of this layer is to be rebuilt although its cursor holds; empty if it is not."""
        return ""

    def also_read(self, definition: D) -> tuple[str, ...]:
        """Return the tables that a table's turn looks into beside its sources; news in them alone is no reason to run.

        Without them the lineage in the run log would lack an edge.
        """
        return ()

    def run(self, chosen: Sequence[D]) -> list[TableRun]:
        """Run these tables and write the log; return what was done to each, in processing order."""
        mentioned = sorted(
            {name for one in chosen for name in (one.target, *one.sources, *one.depends_on, *self.also_read(one))}
        )
        with ThreadPoolExecutor(max_workers=4) as pool:
            # Read at the side of the rest; the tables' turns then find it read.
            read = pool.submit(self.log.last, mentioned[0])
            states = pool.map(lambda name: catalog.standing(self.spark, name), mentioned)
            self.states = {name: state for name, state in zip(mentioned, states, strict=True) if state}
            read.result()
            sizes = [state.bytes for state in self.states.values()]
            self.is_small = None not in sizes and sum(size or 0 for size in sizes) < SMALL_BYTES
            with interpreted(self.spark, self.is_small), configured(self.spark, {catalog.NOTE: self.note}):
                try:
                    for _, level in groupby(chosen, key=lambda definition: definition.processing_order):
                        for table in pool.map(self._run_table, list(level)):
                            self.done[table.table_name] = table
                            self.on_end(table)
                except BaseException as error:
                    if not is_engine_gone(error):  # else there is nobody left to ask
                        # Keep the original error.
                        with suppress(Exception):
                            self.log.add(list(self.done.values()))
                    raise
                self.log.add(list(self.done.values()))
        return list(self.done.values())

    def has_columns_of(self, table: str, rows: DataFrame) -> bool:
        """Whether a table has the names and types of these rows, in their order."""
        there, wanted = self.spark.table(table).schema, rows.schema
        return [(one.name, one.dataType) for one in there] == [(one.name, one.dataType) for one in wanted]

    @property
    def note(self) -> str:
        """What a commit of this run notes, by which later runs know it for the pipeline's own."""
        return f"{_NOTED}{self.run_id}"

    def counted(self, table: str) -> Changed:
        """Return the rows of the commit that was just made."""
        return Changed(inserted=catalog.rows_written(self.spark, table))

    def snapshot(self, table: str, version: int | None) -> DataFrame:
        """Return a table as it was at a version."""
        return self.spark.read.option("versionAsOf", str(version)).table(table)

    def change_feed(self, table: str, after: int | None, through: int) -> DataFrame:
        """Return a table's change data feed after one version through another, read once for all who ask in this run.

        Each mention of a feed in a plan makes Spark read the commits of the log again: kept, it is read once.
        """
        assert after is not None
        with self._reading_a_feed:
            if (table, after, through) not in self.feeds:
                feed = (
                    self.spark.read.option("readChangeFeed", "true")
                    .option("startingVersion", after + 1)
                    .option("endingVersion", through)
                    .table(table)
                )
                self.feeds[table, after, through] = changes.kept(feed)
        return self.feeds[table, after, through]

    def _run_table(self, definition: D) -> TableRun:
        started, clock = datetime.now(UTC), time.perf_counter()
        before = self.states.get(definition.target)
        work = Work(definition)
        dependencies, unmet = self._dependencies(definition)
        result = TableRun(
            run_id=self.run_id,
            table_name=definition.target,
            status="succeeded",
            started_at=started,
            seconds=0.0,
            from_version=before.version if before else None,
            to_version=before.version if before else None,
            table_id=before.table_id if before else None,
            definition=definition.fingerprint,
            dependencies=tuple(dependencies),
        )
        if unmet:
            return replace(result, status="skipped", reason="skipped: " + "; ".join(unmet))
        try:
            self._plan(work)
            if work.reason or any(read.from_version != read.to_version for read in work.reads):
                self._make(work)
                after = catalog.standing(self.spark, definition.target)
                assert after is not None
                self.states[definition.target] = after
                result = replace(result, to_version=after.version, table_id=after.table_id)
            else:
                result = replace(result, status="unchanged")
        except (ShopMetricsError, PySparkException) as error:
            if is_engine_gone(error):
                raise  # the engine is gone: there is nobody left to run the rest
            reason = error.problem if isinstance(error, ShopMetricsError) else first_line(error)
            result = replace(result, status="failed", reason=reason)
        return replace(
            result,
            seconds=round(time.perf_counter() - clock, 3),
            reason=result.reason or work.reason,
            reads=(*work.reads, *work.also_read),
            rows_read=work.counts.get("rows_read", 0),
            rows_accepted=work.counts.get("accepted", 0),
            rows_quarantined=work.counts.get("quarantined", 0),
            rows_duplicate=work.counts.get("duplicates", 0),
            rows_inserted=work.changed.inserted,
            rows_updated=work.changed.updated,
            rows_deleted=work.changed.deleted,
            rows_released=work.released,
            rules=self.rule_results(work) if result.status == "succeeded" and work.counts else (),
        )

    def _dependencies(self, definition: D) -> tuple[list[str], list[str]]:
        """Return what was found of each dependency, and which are not met."""
        found, unmet = [], []
        for needed in definition.depends_on:
            before = self.log.last(needed)
            result = self.done.get(needed) or (before.last if before else None)
            if result is None:
                sentence = f"{needed} has never run"
            else:
                here = result.run_id == self.run_id
                when = "in this run" if here else f"in run {result.run_id} at {result.started_at:%Y-%m-%d %H:%M} UTC"
                at = "" if result.to_version is None else f", version {result.to_version}"
                sentence = f"{needed} {result.status} {when}{at}"
            found.append(sentence)
            if result is None or result.status not in run_log.GOOD:
                unmet.append(sentence)
        return found, unmet

    def _plan(self, work: Work[D]) -> None:
        """Decide from which versions of its sources the table goes on, or why it must be rebuilt."""
        definition = work.definition
        also = [name for name in self.also_read(definition) if name not in definition.sources]
        for source in (*definition.sources, *also):
            if source not in self.states:
                raise PipelineError(
                    f"The source table {source} of {definition.target} does not exist.",
                    "`shopmetrics pipeline run` makes the layer before first",
                )
        last = self.log.last(definition.target)
        before = last.last_good if last else None
        known = {read.table: read for read in before.reads} if before else {}
        work.reason = self._why_anew(definition, before, known)
        work.reads = [
            Read(
                source,
                self.states[source].table_id,
                None if work.reason else known[source].to_version,
                self.states[source].version,
            )
            for source in definition.sources
        ]
        work.also_read = [
            Read(
                name,
                self.states[name].table_id,
                known[name].to_version if name in known and not work.reason else None,
                self.states[name].version,
            )
            for name in also
        ]

    def _why_anew(self, definition: D, before: TableRun | None, known: dict[str, Read]) -> str:
        target = self.states.get(definition.target)
        if before is None:
            return "first run"
        if self.full:
            return "full run asked for"
        if target is None or target.table_id != before.table_id:
            return f"{definition.target} is not the table that the last run left"
        if before.definition != definition.fingerprint:
            return "its definition has changed"
        assert before.to_version is not None
        if by := self._changed_by(definition.target, before.to_version, target.version):
            return f"{definition.target} is not as the last run left it: changed by {by}"
        for source in definition.sources:
            state = self.states[source]
            if source not in known or known[source].table_id != state.table_id:
                return f"{source} is not the table that the last run read"
            if known[source].to_version > state.version:
                return f"{source} has gone back from version {known[source].to_version} to {state.version}"
            if source.startswith("bronze.") and (by := self._taken_from(source, known[source].to_version)):
                return f"{source} has not only been added to: changed by {by}"
        return self.why_anew(definition)

    def _changed_by(self, target: str, left: int, now: int) -> str:
        """Return which commit that is not the pipeline's own has changed a table since a run left it; empty if none.

        Own commits are those of runs that died or failed, and the members that a fact adds to its dimension.
        """
        if now < left:
            return f"a return from version {left} to {now}"
        if now == left:
            return ""
        there = catalog.commits(self.spark, target, left)
        if len(there) < now - left:
            return "commits that its log no longer has"
        others = [one for one in there if not one.keeps_rows and not (one.note or "").startswith(_NOTED)]
        return str(others[0]) if others and not self._comes_to_nothing(target, left, now, others) else ""

    def _comes_to_nothing(self, table: str, left: int, now: int, others: Sequence[Commit]) -> bool:
        """Whether a table holds the same rows again, by its change data feed; one without a feed does not say."""
        if any(one.operation not in _ROWS_ONLY for one in others):
            return False
        try:
            is_same: bool = changes.net(self.change_feed(table, left, now)).where("difference <> 0").isEmpty()
        except PySparkException as error:
            if is_engine_gone(error):
                raise
            return False  # to make the table again is always right
        return is_same

    def _taken_from(self, source: str, read: int) -> str:
        """Return which commit has taken rows from a source that is only added to, or changed some; empty if none."""
        if self.states[source].version == read:
            return ""
        there = catalog.commits(self.spark, source, read)
        return next((str(one) for one in there if not one.keeps_rows and not one.adds_rows), "")

    def _make(self, work: Work[D]) -> None:
        if work.reason:
            self.make_anew(work)
            return
        try:
            self.make_changes(work)
        except PySparkException as error:
            if not any(sign in str(error) for sign in _FEED_GONE):
                raise
            work.reads = [replace(read, from_version=None) for read in work.reads]
            work.reason = f"what is new cannot be read any more ({first_line(error)})"
            self.make_anew(work)


def published(
    spark: SparkSession,
    control: ControlTable[D],
    definitions: Sequence[D] | None,
    require: Callable[[SparkSession, Sequence[D]], None],
) -> list[D]:
    """Publish declarations and return all that the control table then holds.

    Args:
        spark: the session.
        control: the layer's control table.
        definitions: the declarations; defaults to those of the layer's file.
        require: is handed what the table will hold, and raises if that must not be.
    """
    declared = control.declared() if definitions is None else definitions
    with interpreted(spark):
        return control.publish(spark, declared, lambda known: require(spark, known))


def chosen(known: Sequence[D], tables: Sequence[str] | None) -> list[D]:
    """Return the definitions to run: those of the named tables, or all that are enabled.

    Raises:
        MetadataError: for a name that no enabled definition has.
    """
    enabled = [definition for definition in known if definition.is_enabled]
    if tables is None:
        return enabled
    unknown = sorted(set(tables) - {definition.target for definition in enabled})
    if unknown:
        there = ", ".join(definition.target for definition in enabled)
        raise MetadataError(f"There is no enabled table {', '.join(unknown)}. Tables: {there}.")
    return [definition for definition in enabled if definition.target in tables]
