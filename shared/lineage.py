"""Lineage: which table is made from which, by declaration, by what the engine saw, and by what the run log says.

There are three accounts, so that they can be compared:

* *Declared*: what the metadata of silver and gold says, and the contracts of the sources and of the streams.
* *Captured by the engine*: what its OpenLineage listener wrote, one event for each query that ended. An event names the
  tables that the query read and the one that it wrote, column by column.
* *Captured by the run log*: the tables that each run noted in ``ops.run_log`` as read.

The engine does not see everything. Where a step keeps an intermediate result (a local checkpoint), or collects rows and
writes them again, the query that writes has no source any more. The run log knows no columns. Together the two have
every edge of the pipeline that can be captured, and :func:`compare` names an edge that is missing or unexpected.

Events and log are files, read without an engine. Only :func:`record`, which keeps the edges in ``ops``, needs one.

What counts as an edge:

* A query that ended well (``COMPLETE``), from each table that it read to the table that it wrote.
* Not from a table to itself: a MERGE reads its target.
* Not from or to ``silver.quarantine`` and the tables of ``ops``: they are the pipeline's own bookkeeping.
* Not from or to a place that is neither a table of the lakehouse, nor a folder of the landing volume, nor a Kafka
  topic; a table's ``_delta_log`` is none.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from shared import catalog, delta_log, gold, silver
from shared.bronze.contracts import SOURCES
from shared.errors import LineageError
from shared.gold.metadata import GoldDefinition
from shared.quarantine import QUARANTINE
from shared.run_log import GOOD, RUN_LOG
from shared.runtime.kafka import TOPIC
from shared.settings import Settings, get_settings, on_databricks
from shared.silver.metadata import TableDefinition, looked_into
from shared.streaming.contracts import BRONZE, MADE_FROM

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EDGES = "ops.lineage_edges"
COLUMNS = "ops.lineage_columns"

EDGE_COLUMNS = {
    "run_id": ("STRING", "the run in ops.run_log; of what the engine saw, the run of the engine in its events"),
    "source_table": ("STRING", "table that was read, landing/<source> or kafka/<topic>"),
    "target_table": ("STRING", "table that was written"),
    "captured_by": ("STRING", "engine or run log"),
    "seen_at": ("TIMESTAMP", "when the run showed the edge first, UTC"),
}

COLUMN_COLUMNS = {
    "source_table": ("STRING", "table that was read"),
    "source_column": ("STRING", "its column"),
    "target_table": ("STRING", "table that was written"),
    "target_column": ("STRING", "its column; NULL where the source decides which rows there are"),
    "kind": ("STRING", "direct: the value comes from it; indirect: it decides which value, or which rows"),
    "transformation": ("STRING", "by OpenLineage: identity, transformation, aggregation; filter, group_by, join, ..."),
    "run_id": ("STRING", "the run of the engine that showed the edge first"),
    "seen_at": ("TIMESTAMP", "when it did, UTC"),
}

CapturedBy = Literal["engine", "run log"]
Direction = Literal["upstream", "downstream", "both"]


@dataclass(frozen=True, order=True)
class Edge:
    """One table is made from another."""

    source: str
    target: str


@dataclass(frozen=True, order=True)
class DeclaredEdge(Edge):
    """An edge that follows from the metadata, and why it is one."""

    why: str
    is_captured: bool = True
    """False for one that neither the engine nor the run log can show; ``why`` says what it is for."""


@dataclass(frozen=True, order=True)
class CapturedEdge(Edge):
    """An edge that a run has shown."""

    captured_by: CapturedBy
    run_id: str
    seen_at: datetime = field(compare=False)


@dataclass(frozen=True, order=True)
class ColumnEdge:
    """A column follows from a column of another table."""

    source: str
    source_column: str
    target: str
    target_column: str
    """Empty where the source column decides which rows there are, as a filter does, and so stands behind all."""
    kind: str
    """``direct``: the value comes from it. ``indirect``: it decides which value it is, or which rows there are."""
    transformation: str
    run_id: str = field(compare=False)
    seen_at: datetime = field(compare=False)


@dataclass(frozen=True)
class Captured:
    """All that the events and the run log of a home show."""

    edges: tuple[CapturedEdge, ...] = ()
    """Of each run the first showing; sorted."""
    columns: tuple[ColumnEdge, ...] = ()
    """Of each the first showing; sorted."""
    events: int = 0
    """Events of queries that ended well."""
    unreadable: int = 0
    """Lines that hold no event: the end of one that an engine was killed at."""
    has_log: bool = False
    """Whether there is a run log with a run in it."""


@dataclass(frozen=True, order=True)
class Comparison:
    """How what was captured of one table stands to what is declared."""

    table: str
    missing: tuple[str, ...]
    """Sources that are declared, and that no run has shown."""
    unexpected: tuple[str, ...]
    """Sources that a run has shown, and that are not declared."""

    @property
    def ok(self) -> bool:
        """Whether they are equal."""
        return not self.missing and not self.unexpected


@dataclass(frozen=True)
class Line:
    """One edge as it is shown: by whom it was captured, and why it is declared."""

    source: str
    target: str
    captured_by: tuple[str, ...]
    """Empty if no run has shown it."""
    why: str
    """Empty if it is not declared."""

    @property
    def is_captured(self) -> bool:
        """Whether a run has shown it."""
        return bool(self.captured_by)


# What is declared ----------------------------------------------------------------------------------------------------


def landing(source: str) -> str:
    """Return the name of a source's folder in the landing volume, as an edge has it."""
    return f"landing/{source}"


def topic(name: str = TOPIC) -> str:
    """Return the name of a Kafka topic, as an edge has it."""
    return f"kafka/{name}"


def declared(
    silver_tables: Sequence[TableDefinition] | None = None, gold_tables: Sequence[GoldDefinition] | None = None
) -> list[DeclaredEdge]:
    """Return the edges that follow from the metadata, for every table of the pipeline, batch and streaming, sorted.

    Args:
        silver_tables: silver's declarations; they default to ``shared/silver/tables.toml``.
        gold_tables: gold's; they default to ``shared/gold/tables.toml``.
    """
    of_silver = silver.TABLES.declared() if silver_tables is None else silver_tables
    of_gold = gold.TABLES.declared() if gold_tables is None else gold_tables
    edges = [DeclaredEdge(landing(one.name), one.bronze_table, "its files") for one in SOURCES.values()]
    edges.append(DeclaredEdge(topic(), BRONZE, "its messages"))
    edges += [DeclaredEdge(one, target, "its source") for target, sources in MADE_FROM.items() for one in sources]
    known = {one.target: one for one in of_silver}
    for one in of_silver:
        if one.is_enabled:
            edges += _of_silver(one, known)
    edges += [DeclaredEdge(one.source, one.target, "its source") for one in of_gold if one.is_enabled]
    # Of one edge that is there for two reasons the first is enough.
    first = {(edge.source, edge.target): edge for edge in reversed(edges)}
    return sorted(first.values())


def _of_silver(one: TableDefinition, known: dict[str, TableDefinition]) -> Iterator[DeclaredEdge]:
    yield DeclaredEdge(one.source, one.target, "its source")
    for join in one.dimension_joins:
        yield DeclaredEdge(join.dimension, one.target, f"looked up by {join.key}")
    for source in looked_into(one, known):
        yield DeclaredEdge(source, one.target, "also read: when a thing was first delivered")
    for join in one.dimension_joins:
        if join.unknown == "infer" and one.source != known[join.dimension].source:
            # The rows come by way of a local checkpoint, in the turn of another table: the engine sees no source, and
            # the run log notes what a turn reads, and not what it writes beside its own table.
            why = f"inferred members: things that {one.target} names before they are delivered"
            yield DeclaredEdge(one.source, join.dimension, why, is_captured=False)


# What was captured ---------------------------------------------------------------------------------------------------


def events_file(settings: Settings | None = None) -> Path:
    """Return the file in which this home's engine writes its OpenLineage events."""
    return (settings or get_settings()).lineage / "events.jsonl"


def captured(settings: Settings | None = None) -> Captured:
    """Return what the events and the run log of a home show. Neither asks the engine.

    The events are read line by line and only what they say of edges is kept, so their file may be large. The last line,
    which an engine may be writing just now, counts once it is whole.

    Args:
        settings: the home; defaults to this process's settings.

    Example:
        >>> sorted({(edge.source, edge.target) for edge in lineage.captured().edges})[0]
        ('bronze.customers_raw', 'silver.dim_customers')
    """
    settings = settings or get_settings()
    reader = _Reader()
    file = events_file(settings)
    if file.is_file():
        with file.open("rb") as lines:
            for line in lines:
                reader.take(line)
    has_log = False
    for run in _logged_runs(settings):
        has_log = True
        if run["status"] in GOOD:
            for read in run["reads"] or ():
                reader.add(read["table"], run["table_name"], "run log", run["run_id"], run["started_at"])
    return Captured(
        tuple(sorted(reader.edges.values())),
        tuple(sorted(reader.columns.values())),
        reader.events,
        reader.unreadable,
        has_log,
    )


def captured_with(
    edges: Iterable[tuple[str, str]], settings: Settings | None = None, seconds: float = 15.0
) -> Captured:
    """Return what was captured as soon as the engine has shown these edges, each a source and a target.

    The engine writes an event after it has answered the query, so an edge may come a moment later than its rows.

    Raises:
        LineageError: if they are not there after so many seconds, with those that are missing.

    Example:
        >>> lineage.captured_with([("silver.orders_clean", "gold.daily_sales_summary")])
    """
    due, end = set(edges), time.monotonic() + seconds
    while True:
        found = captured(settings)
        missing = due - {(edge.source, edge.target) for edge in found.edges if edge.captured_by == "engine"}
        if not missing:
            return found
        if time.monotonic() > end:
            named = ", ".join(f"{source} -> {target}" for source, target in sorted(missing))
            raise LineageError(
                f"The engine has shown no {named} within {seconds:g} s.",
                "SHOPMETRICS_LINEAGE_EVENTS=true, `shopmetrics down`, then make the table in full once more",
            )
        Event().wait(0.2)


def table_of(dataset: dict[str, Any]) -> str | None:
    """Return the name by which an edge knows a dataset of an OpenLineage event; None if it is none of the pipeline's.

    Args:
        dataset: with ``namespace`` and ``name``: of a table its directory, whatever the home is called.
    """
    if dataset["namespace"].startswith("kafka:"):
        return topic(dataset["name"])
    parts = [part for part in unquote(dataset["name"]).split("/") if part]
    match parts:
        case [*_, "lakehouse", schema, name] if schema in catalog.SCHEMAS and not name.startswith("_"):
            return f"{schema}.{name}"
        case [*_, "raw", source] if source in SOURCES:
            return landing(source)
        case [*_, "raw", source, _] | [*_, "raw", source, _, _] if source in SOURCES:
            return landing(source)  # a batch's folder, or a file: who reads some of them by name
    return None


def is_bookkeeping(table: str) -> bool:
    """Whether a table is the pipeline's own: results, logs, control tables and the quarantine."""
    return table == QUARANTINE or table.startswith("ops.")


class _Reader:
    """Takes events one after the other, and keeps the first showing of each edge."""

    def __init__(self) -> None:
        self.edges: dict[tuple[str, ...], CapturedEdge] = {}
        self.columns: dict[tuple[str, ...], ColumnEdge] = {}
        self.events = self.unreadable = 0

    def take(self, line: bytes) -> None:
        """Take a line of the file."""
        # An engine that was killed while it wrote has left half an event in front of the next engine's first one.
        line = line[max(line.rfind(b'{"eventTime"'), 0) :]
        # Half of the events say only that a query begins. They need not be parsed.
        if not line.strip() or b'"eventType":"START"' in line[:500]:
            return
        try:
            event = json.loads(line)
            is_complete = event["eventType"] == "COMPLETE"
            moment = datetime.fromisoformat(event["eventTime"].replace("Z", "+00:00"))
            facets = event["run"].get("facets", {})
            run_id = str(facets.get("parent", event)["run"]["runId"])
            inputs, outputs = event.get("inputs") or [], event.get("outputs") or []
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unreadable += 1
            return
        if not is_complete:
            return
        self.events += 1
        for output in outputs:
            target = table_of(output)
            if target is None:
                continue
            for one in inputs:
                self.add(table_of(one), target, "engine", run_id, moment)
            self._add_columns(output, target, run_id, moment)

    def add(self, source: str | None, target: str, by: CapturedBy, run_id: str, moment: datetime) -> None:
        """Add an edge, if it is one."""
        if source is not None and _is_edge(source, target):
            self.edges.setdefault((source, target, by, run_id), CapturedEdge(source, target, by, run_id, moment))

    def _add_columns(self, output: dict[str, Any], target: str, run_id: str, moment: datetime) -> None:
        facet = output.get("facets", {}).get("columnLineage", {})
        named = [(name, one) for name, entry in facet.get("fields", {}).items() for one in entry["inputFields"]]
        for column, one in (*named, *(("", one) for one in facet.get("dataset", ()))):
            source = table_of(one)
            if source is None or not _is_edge(source, target):
                continue
            for how in one.get("transformations", ()):
                kind, transformation = how["type"].lower(), (how.get("subtype") or "").lower()
                # What decides which rows there are is the value of no column.
                if kind == "indirect" or (kind == "direct" and column):
                    key = (source, one["field"], target, column, kind, transformation)
                    self.columns.setdefault(key, ColumnEdge(*key, run_id, moment))


def _is_edge(source: str, target: str) -> bool:
    return source != target and not is_bookkeeping(source) and not is_bookkeeping(target)


def _logged_runs(settings: Settings) -> Iterator[dict[str, Any]]:
    """Return the rows of the run log, from its files."""
    log = catalog.table_path(RUN_LOG, settings) / "_delta_log" if not on_databricks() else None
    if log is None or not log.is_dir():
        return
    import pyarrow.parquet as pq

    wanted = ["run_id", "table_name", "status", "started_at", "reads"]
    for file in delta_log.data_files(log):
        for row in pq.ParquetFile(file).read(columns=wanted).to_pylist():
            yield row | {"started_at": row["started_at"].astimezone(UTC)}


# The two together ----------------------------------------------------------------------------------------------------


def compare(
    declared_edges: Iterable[DeclaredEdge] | None = None, captured_edges: Iterable[Edge] | None = None
) -> list[Comparison]:
    """Return for each table that has a declared source what is missing among the captured edges, and what is too much.

    Edges that cannot be captured are not missed. Tables that are not declared, such as those of a notebook, are not
    compared.

    Args:
        declared_edges: they default to those of the metadata.
        captured_edges: they default to those of this home, all runs together.
    """
    expected = declared() if declared_edges is None else list(declared_edges)
    found = {(edge.source, edge.target) for edge in (captured().edges if captured_edges is None else captured_edges)}
    results = []
    for table in sorted({edge.target for edge in expected}):
        sources = {edge.source for edge in expected if edge.target == table}
        due = {edge.source for edge in expected if edge.target == table and edge.is_captured}
        shown = {source for source, target in found if target == table}
        results.append(Comparison(table, tuple(sorted(due - shown)), tuple(sorted(shown - sources))))
    return results


def lines(declared_edges: Iterable[DeclaredEdge], captured_edges: Iterable[CapturedEdge]) -> list[Line]:
    """Return every edge once, sorted as data passes through: by its target's layer, then by name."""
    why = {(edge.source, edge.target): edge.why for edge in declared_edges}
    by: dict[tuple[str, str], set[str]] = {}
    for edge in captured_edges:
        by.setdefault((edge.source, edge.target), set()).add(edge.captured_by)
    pairs = sorted(why.keys() | by.keys(), key=lambda pair: (layer(pair[1]), pair[1], layer(pair[0]), pair[0]))
    return [Line(*pair, tuple(sorted(by.get(pair, ()))), why.get(pair, "")) for pair in pairs]


def layer(table: str) -> int:
    """Return the place of a table's layer on the way of the data: 0 for files and topics, then bronze, silver, gold."""
    schema = table.partition(".")[0]
    return 1 + list(catalog.SCHEMAS).index(schema) if schema in catalog.SCHEMAS else 0


def around(edges: Sequence[Line], table: str, direction: Direction = "upstream") -> list[Line]:
    """Return the edges on all ways that lead to a table, or from it, in the order in which they are given.

    Raises:
        LineageError: if no edge has the table, with the name that is nearest.
    """
    require_known(edges, table)
    kept: set[tuple[str, str]] = set()
    for near, far in (("target", "source"), ("source", "target")):
        if direction not in ("both", "upstream" if near == "target" else "downstream"):
            continue
        reached, following = {table}, [table]
        while following:
            name = following.pop()
            for edge in edges:
                if getattr(edge, near) == name:
                    kept.add((edge.source, edge.target))
                    if getattr(edge, far) not in reached:
                        reached.add(getattr(edge, far))
                        following.append(getattr(edge, far))
    return [edge for edge in edges if (edge.source, edge.target) in kept]


def require_known(edges: Iterable[Line], table: str) -> None:
    """See that an edge has the table.

    Raises:
        LineageError: if none has, with the name that is nearest.
    """
    known = sorted({name for edge in edges for name in (edge.source, edge.target)})
    if table not in known:
        close = difflib.get_close_matches(table, known, n=1, cutoff=0.3)
        # `daily_sales_summary` for `gold.daily_sales_summary` is the likeliest slip.
        close = [name for name in known if re.split(r"[./]", name)[-1] == table] or close
        hint = f"did you mean {close[0]}?" if close else ""
        raise LineageError(
            f"No lineage of {table}: expected one of {', '.join(known)}.",
            hint or "`shopmetrics lineage` lists every edge",
        )


def column_lines(columns: Iterable[ColumnEdge], table: str) -> dict[str, list[ColumnEdge]]:
    """Return a table's columns, each with the columns that its value comes from directly; sorted by name."""
    found: dict[str, list[ColumnEdge]] = {}
    for edge in columns:
        if edge.target == table and edge.kind == "direct":
            found.setdefault(edge.target_column, []).append(edge)
    return dict(sorted(found.items()))


def why_nothing(found: Captured) -> str:
    """Return why nothing was captured and what to do; empty if something was."""
    if found.edges:
        return ""
    if on_databricks():
        return (
            "Nothing is captured here. Unity Catalog records lineage by itself: ask system.access.table_lineage and "
            "system.access.column_lineage."
        )
    what = "no event" if not found.events else "no event with a table of the pipeline"
    log = "and no run of the pipeline" if not found.has_log else "and no run that read a table"
    return (
        f"Nothing is captured: there is {what} of the engine in this home, {log}. `shopmetrics pipeline run` makes the "
        "tables. If it has run, the engine was started without its listener: SHOPMETRICS_LINEAGE_EVENTS=true, then "
        "`shopmetrics down`, and run again with --full."
    )


# Kept in ops ---------------------------------------------------------------------------------------------------------


def record(spark: SparkSession, settings: Settings | None = None) -> tuple[int, int]:
    """Keep what was captured in ``ops.lineage_edges`` and ``ops.lineage_columns``; return the rows that came to each.

    An edge that is there stays as it is, so the same events twice add nothing and make no version.
    """
    found = captured(settings)
    edges = [(one.run_id, one.source, one.target, one.captured_by, one.seen_at) for one in found.edges]
    columns = [
        (
            one.source,
            one.source_column,
            one.target,
            one.target_column or None,
            one.kind,
            one.transformation,
            one.run_id,
            one.seen_at,
        )
        for one in found.columns
    ]
    return (
        _added(spark, EDGES, EDGE_COLUMNS, "Which table was made from which: one row for each run and edge.", edges, 4),
        _added(spark, COLUMNS, COLUMN_COLUMNS, "Which column follows from which: one row for each edge.", columns, 6),
    )


def _added(
    spark: SparkSession, table: str, columns: catalog.Columns, comment: str, rows: list[Any], key_columns: int
) -> int:
    """Add the rows whose key, the first columns, is not there; return how many there were."""
    catalog.create_table(spark, table, columns, comment)
    keys = list(columns)[:key_columns]
    there = {tuple(row) for row in spark.table(table).select(*keys).collect()}
    new = [row for row in rows if row[:key_columns] not in there]
    if new:
        spark.createDataFrame(new, catalog.schema_of(columns)).coalesce(1).writeTo(table).append()
    return len(new)


def as_dict(edges: Iterable[Line], columns: Iterable[ColumnEdge] = ()) -> dict[str, Any]:
    """Return edges as plain values, for ``--json``."""
    return {"edges": [asdict(edge) for edge in edges], "columns": [asdict(edge) for edge in columns]}
