"""What a table's turn asks the session for is what the metadata declares and the run log notes; edges are kept once.

The engine's events do not show a read behind an intermediate result. Here the session itself tells of each table that
is asked for, whatever becomes of the rows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spark.silver_cases import MIDNIGHT, Shop, customer, order, product

from shared import catalog, gold, lineage, silver
from shared.layer import LayerRun
from shared.streaming import events, queries, sessions, traffic
from shared.streaming.contracts import BRONZE, BRONZE_COLUMNS, EVENTS, MADE_FROM, SESSIONS, TRAFFIC

RECORDED = Path(__file__).parents[1] / "unit" / "recorded" / "lineage_events.jsonl"


class Asked:
    """The tables that each table's turn asks the session for."""

    def __init__(self) -> None:
        self.turn = threading.local()
        self.tables: dict[str, set[str]] = {}
        self.unpinned: set[tuple[str, str]] = set()
        """Target and table that was asked for as it is at the moment, and not at a version."""

    def during(self, target_of: Callable[..., str], method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method, during which what is asked for counts as asked for by the table."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.turn.table = target_of(*args)
            try:
                return method(*args, **kwargs)
            finally:
                self.turn.table = None

        return noted

    def note(self, table: str, is_pinned: bool = False) -> None:
        if turn := getattr(self.turn, "table", None):
            self.tables.setdefault(turn, set()).add(table)
            if not is_pinned:
                self.unpinned.add((turn, table))

    def sources(self) -> dict[str, set[str]]:
        """Return what was asked for but for the table itself and the pipeline's bookkeeping."""
        return {
            target: {one for one in tables if one != target and not lineage.is_bookkeeping(one)}
            for target, tables in self.tables.items()
        }


@pytest.fixture
def asked(spark, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Everything that the turns of tables ask this session for, from now on."""
    found = Asked()
    reader = type(spark.read)
    table, sql = reader.table, type(spark).sql

    def asked_by_name(self: Any, name: str) -> Any:
        found.note(name, is_pinned=bool(self._options))
        return table(self, name)

    def asked_by_sql(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        # Not a name in a comment.
        for name in re.findall(rf"\b(?:FROM|INTO|JOIN|USING|TABLE) ((?:{'|'.join(catalog.SCHEMAS)})\.\w+)", query):
            found.note(name)
        return sql(self, query, *args, **kwargs)

    monkeypatch.setattr(reader, "table", asked_by_name)
    monkeypatch.setattr(type(spark), "sql", asked_by_sql)
    run_table = found.during(lambda run, definition: definition.target, LayerRun._run_table)
    monkeypatch.setattr(LayerRun, "_run_table", run_table)
    return found


def declared(*schemas: str) -> dict[str, set[str]]:
    """Return the declared sources of the tables of some schemas, but for those that cannot be captured."""
    found: dict[str, set[str]] = {}
    for edge in lineage.declared():
        if edge.is_captured and edge.target.partition(".")[0] in schemas:
            found.setdefault(edge.target, set()).add(edge.source)
    return found


BATCH = {target: sources for target, sources in declared("silver", "gold").items() if target not in MADE_FROM}


@pytest.mark.slow
def test_every_table_that_a_turn_asks_for_is_declared_and_logged_and_edges_are_kept_once(
    spark, shop: Shop, asked: Asked
) -> None:
    shop.deliver(product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15), order("O-2", "C-unknown", 16))
    for rows in ([], [customer("C-unknown", 12), product("P-2", 3), order("O-3", "C-2", 17, of="P-2")]):
        shop.deliver(*rows)
        asked.tables.clear()
        done = [*silver.run(spark, settings=shop.home), *gold.run(spark, settings=shop.home)]
        assert {run.status for run in done} == {"succeeded"}
        assert asked.sources() == BATCH
        assert {run.table_name: {read.table for read in run.reads} for run in done} == BATCH
    # At one version, which the log names: what comes meanwhile is for the next run.
    assert ("silver.orders_clean", "bronze.customers_raw") not in asked.unpinned

    found = lineage.captured(shop.home)
    logged: dict[str, set[str]] = {}
    for edge in found.edges:
        logged.setdefault(edge.target, set()).add(edge.source)
    assert logged == BATCH

    file = lineage.events_file(shop.home)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(RECORDED.read_bytes())
    try:
        both = lineage.captured(shop.home)
        assert lineage.record(spark, shop.home) == (len(both.edges), len(both.columns))
        versions = [catalog.version(spark, table) for table in (lineage.EDGES, lineage.COLUMNS)]
        assert lineage.record(spark, shop.home) == (0, 0)
        assert [catalog.version(spark, table) for table in (lineage.EDGES, lineage.COLUMNS)] == versions
    finally:
        file.unlink()
    kept = shop.rows(f"SELECT source_table, target_table, captured_by FROM {lineage.EDGES}")
    assert {(row.source_table, row.target_table, row.captured_by) for row in kept} == {
        (edge.source, edge.target, edge.captured_by) for edge in both.edges
    }
    rows_decided = shop.rows(f"SELECT source_column FROM {lineage.COLUMNS} WHERE target_column IS NULL")
    assert "status" in {row.source_column for row in rows_decided}


def test_every_table_that_a_micro_batch_asks_for_is_declared(
    spark, shop: Shop, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, target in (
        (events, "append_new", EVENTS),
        (sessions, "update", SESSIONS),
        (traffic, "update", TRAFFIC),
    ):
        step = asked.during(lambda *args, target=target: target, getattr(module, name))
        monkeypatch.setattr(module, name, step)
    queries.create_tables(spark)
    message = {
        "event_id": "E-1",
        "user_id": "U-1",
        "event_type": "page_view",
        "event_ts": MIDNIGHT,
        "kafka_ts": MIDNIGHT,
        "ingested_at": MIDNIGHT,
        "topic": "clicks",
        "partition": 0,
        "offset": 0,
        "raw_value": b"{}",
    }
    row = tuple(message.get(name) for name in BRONZE_COLUMNS)
    queries.apply(spark.createDataFrame([row], catalog.schema_of(BRONZE_COLUMNS)), 0)
    # The first one is handed the rows of its source.
    assert asked.sources() == {target: {*sources} - {BRONZE} for target, sources in MADE_FROM.items()}
