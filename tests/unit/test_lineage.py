"""Lineage of a home, from recorded events of its engine and from its run log, against the metadata."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from rich.console import Console
from rich.tree import Tree
from typer.testing import CliRunner

from shared import delta_log, gold, lineage, silver
from shared.cli import app
from shared.course import lineage_tree
from shared.course.lineage_figure import drawn, lineage_of
from shared.errors import LineageError
from shared.lineage import CapturedEdge, Comparison, DeclaredEdge, Edge, Line
from shared.run_log import Read
from shared.runtime.spark import spark_conf
from shared.settings import Settings, get_settings, read_again
from shared.streaming.contracts import EVENTS, MADE_FROM, SESSIONS, TRAFFIC

RECORDED = Path(__file__).parent / "recorded" / "lineage_events.jsonl"
"""A full run, a run of what is new, and two runs of the clickstream; facets that are not read were taken out."""

CLICKSTREAM = (EVENTS, SESSIONS, TRAFFIC)

HIDDEN = {
    *((source, target) for target, sources in MADE_FROM.items() for source in sources),
    ("bronze.customers_raw", "silver.orders_clean"),
}
"""Edges that the engine does not see: an intermediate result, or rows that were collected, stand between."""

MOMENT = datetime(2026, 1, 2, 2, tzinfo=UTC)


def events(settings: Settings, content: bytes) -> None:
    file = lineage.events_file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def pairs(edges: Sequence[Edge]) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in edges}


LOG_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("table_name", pa.string()),
        ("status", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        (
            "reads",
            pa.list_(
                pa.struct(
                    [
                        ("table", pa.string()),
                        ("table_id", pa.string()),
                        ("from_version", pa.int64()),
                        ("to_version", pa.int64()),
                    ]
                )
            ),
        ),
    ]
)


def logged(settings: Settings, run_id: str, reads: dict[str, Sequence[str]], status: str = "succeeded") -> None:
    """Add a run to the home's run log: table to the tables that it read."""
    rows = [
        {
            "run_id": run_id,
            "table_name": table,
            "status": status,
            "started_at": MOMENT,
            "reads": [vars(Read(source, "id", None, 1)) for source in sources],
        }
        for table, sources in reads.items()
    ]
    write_deltalake(settings.lakehouse / "ops" / "run_log", pa.Table.from_pylist(rows, LOG_SCHEMA), mode="append")


@pytest.fixture
def home(settings: Settings) -> Settings:
    """A home in which the pipeline and the streams have run."""
    events(settings, RECORDED.read_bytes())
    logged(settings, "batch", {"silver.orders_clean": ["bronze.orders_raw", "bronze.customers_raw"]})
    logged(settings, "stream", MADE_FROM)
    return settings


def test_the_recording_tells_of_no_machine() -> None:
    text = RECORDED.read_text()
    assert set(re.findall(r'"name":"(/[^"]*?)/(?:raw|lakehouse)/', text)) == {"/home/learner/data"}


def test_the_engine_shows_what_is_declared_but_for_what_steps_in_between_hide(settings: Settings) -> None:
    events(settings, RECORDED.read_bytes())
    found = lineage.captured(settings)
    due = {(edge.source, edge.target) for edge in lineage.declared() if edge.is_captured}
    assert pairs(found.edges) == due - HIDDEN
    assert {edge.captured_by for edge in found.edges} == {"engine"}
    assert (found.unreadable, found.has_log) == (0, False)


def test_engine_and_run_log_together_show_every_edge_of_every_table(home: Settings) -> None:
    found = lineage.captured(home)
    compared = lineage.compare(captured_edges=found.edges)
    assert [one for one in compared if not one.ok] == []
    by_declaration = {one.target for layer in (silver, gold) for one in layer.TABLES.declared()}
    assert {one.table for one in compared} == by_declaration | {*CLICKSTREAM} | {
        f"bronze.{name}_raw" for name in ("customers", "products", "orders", "clickstream")
    }
    assert {pair for pair in pairs(found.edges) if pair in HIDDEN} == HIDDEN


def test_a_run_that_failed_shows_nothing(settings: Settings) -> None:
    logged(settings, "failed", {"gold.customer_ltv": ["silver.orders_clean"]}, status="failed")
    assert lineage.captured(settings).edges == ()
    logged(settings, "good", {"gold.customer_ltv": ["silver.orders_clean"]}, status="unchanged")
    edge = CapturedEdge("silver.orders_clean", "gold.customer_ltv", "run log", "good", MOMENT)
    assert lineage.captured(settings).edges == (edge,)
    assert lineage.captured(settings).edges[0].seen_at == MOMENT


def event(inputs: Sequence[str], output: str, kind: str = "COMPLETE", **facets: Any) -> bytes:
    def dataset(name: str) -> dict[str, Any]:
        return {"namespace": "file", "name": name}

    content = {
        "eventTime": "2026-01-02T02:00:00.1Z",
        "eventType": kind,
        "run": {"runId": "query", "facets": {"parent": {"run": {"runId": "engine"}}}},
        "inputs": [dataset(name) for name in inputs],
        "outputs": [dataset(output) | {"facets": facets}],
    }
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


HERE, THERE = "/a/lakehouse/silver/orders_clean", "/a/lakehouse/gold/customer_ltv"


@pytest.mark.parametrize(
    ("content", "edges", "unreadable"),
    [
        (event([HERE], THERE), 1, 0),
        (event([HERE], THERE)[:-9], 0, 1),
        (event([HERE], THERE) + event([HERE], THERE)[:200], 1, 1),
        # Killed in the middle of an event; the next engine goes on in the same line.
        (event([HERE], THERE)[:200] + event([HERE], THERE), 1, 0),
        (b"\xff\xfe\n\n[]\n" + event([HERE], THERE), 1, 2),
        (event([HERE], THERE, "START") + event([HERE], THERE, "FAIL") + event([HERE], THERE, "RUNNING"), 0, 0),
        (event([THERE], THERE), 0, 0),
        (event([HERE, "/a/lakehouse/silver/quarantine", "/a/lakehouse/ops/run_log"], THERE), 1, 0),
        (event([HERE], "/a/lakehouse/silver/quarantine") + event([HERE], "/a/lakehouse/ops/quality_metrics"), 0, 0),
        (event(["/a/lakehouse/silver/orders_clean/_delta_log"], THERE), 0, 0),
        (b"", 0, 0),
    ],
)
def test_only_whole_events_of_queries_that_ended_well_show_an_edge(
    settings: Settings, content: bytes, edges: int, unreadable: int
) -> None:
    events(settings, content)
    found = lineage.captured(settings)
    assert pairs(found.edges) == ({("silver.orders_clean", "gold.customer_ltv")} if edges else set())
    assert found.unreadable == unreadable
    assert {edge.run_id for edge in found.edges} <= {"engine"}


def test_the_same_events_again_show_nothing_new(settings: Settings) -> None:
    events(settings, RECORDED.read_bytes())
    once = lineage.captured(settings)
    events(settings, RECORDED.read_bytes() * 20)
    again = lineage.captured(settings)
    assert (again.edges, again.columns) == (once.edges, once.columns)
    assert again.events == 20 * once.events


def test_an_event_that_comes_late_is_waited_for_and_one_that_never_comes_is_named(settings: Settings) -> None:
    edge = ("silver.orders_clean", "gold.customer_ltv")
    logged(settings, "run", {edge[1]: [edge[0]]})
    with pytest.raises(LineageError, match=r"no silver\.orders_clean -> gold\.customer_ltv within 0 s"):
        lineage.captured_with([edge], settings, seconds=0)
    later = threading.Timer(0.3, events, (settings, event([HERE], THERE)))
    later.start()
    found = lineage.captured_with([edge], settings, seconds=60)
    later.join()
    assert {one.captured_by for one in found.edges} == {"engine", "run log"}


@pytest.mark.parametrize(
    ("namespace", "name", "table"),
    [
        ("file", "/any where/lakehouse/gold/customer_ltv", "gold.customer_ltv"),
        ("file", "/any%20where/lakehouse/gold/customer_ltv/", "gold.customer_ltv"),
        ("file", "/home/raw/orders", "landing/orders"),
        ("file", "/home/raw/orders/2026-01-01/orders.csv", "landing/orders"),
        ("kafka://127.0.0.1:9092", "clickstream-events", "kafka/clickstream-events"),
        ("file", "/home/raw/elsewhere", None),
        ("file", "/tmp/anything", None),
        ("file", "/lakehouse/other/customer_ltv", None),
        ("file", "", None),
    ],
)
def test_a_dataset_is_known_by_its_place(namespace: str, name: str, table: str | None) -> None:
    assert lineage.table_of({"namespace": namespace, "name": name}) == table


def test_what_is_missing_and_what_is_unexpected_is_named() -> None:
    declared = [
        DeclaredEdge("a", "t", "its source"),
        DeclaredEdge("b", "t", "looked up"),
        DeclaredEdge("c", "t", "cannot be shown", is_captured=False),
    ]
    found = [Edge("a", "t"), Edge("x", "t"), Edge("y", "not.declared")]
    assert lineage.compare(declared, found) == [Comparison("t", missing=("b",), unexpected=("x",))]
    assert lineage.compare(declared, [Edge("a", "t"), Edge("b", "t"), Edge("c", "t")])[0].ok


def test_declared_edges_follow_the_metadata() -> None:
    known = silver.TABLES.declared()
    declared = {(edge.source, edge.target): edge for edge in lineage.declared()}
    assert len(declared) == 18
    assert [pair for pair, edge in declared.items() if not edge.is_captured] == [
        ("bronze.orders_raw", "silver.dim_customers")
    ]
    assert declared["bronze.customers_raw", "silver.orders_clean"].why.startswith("also read")
    # Without inferred members, no row of the dimension comes from the fact, and the fact need not look into bronze.
    (fact,) = (one for one in known if one.kind == "fact")
    joins = tuple(join.model_copy(update={"unknown": "quarantine"}) for join in fact.dimension_joins)
    strict = [fact.model_copy(update={"dimension_joins": joins}) if one is fact else one for one in known]
    assert declared.keys() - pairs(lineage.declared(strict)) == {
        ("bronze.orders_raw", "silver.dim_customers"),
        ("bronze.customers_raw", "silver.orders_clean"),
    }
    off = [one.model_copy(update={"is_enabled": False}) for one in gold.TABLES.declared()]
    assert declared.keys() - pairs(lineage.declared(gold_tables=off)) == {
        ("silver.orders_clean", one.target) for one in off
    }


def test_columns_of_gold_come_from_the_columns_that_their_expressions_name(settings: Settings) -> None:
    events(settings, RECORDED.read_bytes())
    columns = lineage.captured(settings).columns
    fact = silver.TABLES.definition("silver.orders_clean")
    known = {*fact.carried, "category", *(one.name for one in fact.derived_columns)}
    for table in gold.TABLES.declared():
        found = {
            name: {edge.source_column for edge in edges}
            for name, edges in lineage.column_lines(columns, table.target).items()
        }
        named = {one.name: known & set(re.findall(r"\w+", one.expression)) for one in table.measures}
        named |= {name: {name} for name in table.group_by}
        if table.bands:
            named[table.bands.column] = named[table.bands.of]
        if table.rank:
            named[table.rank.column] = {"category", "net_amount"}
        # A count of rows comes from no column.
        assert found == {name: sources for name, sources in named.items() if sources}
        assert ("status", "filter") in {
            (edge.source_column, edge.transformation)
            for edge in columns
            if edge.target == table.target and not edge.target_column
        }


def test_columns_of_the_fact_come_from_its_source_and_from_its_dimensions(settings: Settings) -> None:
    events(settings, RECORDED.read_bytes())
    fact = silver.TABLES.definition("silver.orders_clean")
    found = lineage.column_lines(lineage.captured(settings).columns, fact.target)
    sources = {name: {(one.source, one.source_column) for one in edges} for name, edges in found.items()}
    for name in fact.carried:
        assert sources[name] == {(fact.source, name)}
    assert sources["category"] == {("silver.dim_products", "category")}
    assert sources["customer_sk"] == {("silver.dim_customers", "customer_sk"), (fact.source, "customer_id")}
    assert sources["gross_amount"] == {(fact.source, "quantity"), (fact.source, "unit_price")}
    assert sources["net_amount"] == sources["gross_amount"] | {(fact.source, "discount_pct")}
    assert sources["order_date"] == {(fact.source, "order_ts")}


def shown(home: Settings) -> list[Line]:
    return lineage.lines(lineage.declared(), lineage.captured(home).edges)


def test_lines_have_every_edge_once_and_say_who_captured_it(home: Settings) -> None:
    edges = shown(home)
    assert len(edges) == len(pairs(edges)) == 18
    by = {(edge.source, edge.target): edge for edge in edges}
    assert by["bronze.orders_raw", "silver.orders_clean"].captured_by == ("engine", "run log")
    assert by["bronze.customers_raw", "silver.orders_clean"].captured_by == ("run log",)
    assert not by["bronze.orders_raw", "silver.dim_customers"].is_captured
    layers = [lineage.layer(edge.target) for edge in edges]
    assert layers == sorted(layers)


def test_lineage_is_followed_to_files_and_topic_and_towards_gold(home: Settings) -> None:
    edges = shown(home)
    traffic = lineage.around(edges, TRAFFIC)
    assert {edge.source for edge in traffic} == {"kafka/clickstream-events", "bronze.clickstream_raw", EVENTS, SESSIONS}
    products = lineage.around(edges, "landing/products", "downstream")
    assert {edge.target for edge in products if edge.target.startswith("gold.")} == {
        one.target for one in gold.TABLES.declared()
    }
    fact = "silver.orders_clean"
    both = lineage.around(edges, fact, "both")
    assert both == [
        edge for edge in edges if edge in lineage.around(edges, fact) + lineage.around(edges, fact, "downstream")
    ]
    assert lineage.around(edges, "landing/products") == []


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("gold.daily_sale_summary", "gold.daily_sales_summary"), ("customer_ltv", "gold.customer_ltv")],
)
def test_an_unknown_table_is_refused_with_the_nearest_name(home: Settings, asked: str, nearest: str) -> None:
    with pytest.raises(LineageError, match=f"did you mean {re.escape(nearest)}"):
        lineage.around(shown(home), asked)


def as_text(tree: Tree) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(tree)
    return capture.get()


def test_the_tree_leads_to_the_files(home: Settings) -> None:
    table = "gold.daily_sales_summary"
    text = as_text(lineage_tree.of_table(lineage.around(shown(home), table), table))
    assert text.startswith(f"{table}\n└── silver.orders_clean")
    assert all(f"landing/{name}" in text for name in ("customers", "products", "orders"))
    assert "bronze.orders_raw  declared only: inferred members" in text
    both = as_text(lineage_tree.of_table(lineage.around(shown(home), EVENTS, "both"), EVENTS, "both"))
    assert "made from" in both
    assert TRAFFIC in both.partition("read by")[2]


def test_a_circle_is_shown_once() -> None:
    edges = [Line("a", "b", ("engine",), ""), Line("b", "a", ("engine",), "")]
    text = as_text(lineage_tree.of_table(lineage.around(edges, "a"), "a"))
    assert [line.split()[-1] for line in text.splitlines()] == ["a", "declared", "(above)"]
    drawn(edges, "a")


def test_the_tree_of_columns_goes_through_the_layers(home: Settings) -> None:
    columns = lineage.captured(home).columns
    text = as_text(lineage_tree.of_columns(columns, "gold.daily_sales_summary"))
    revenue = text.partition("── net_revenue\n")[2].splitlines()
    assert "silver.orders_clean.net_amount  aggregation" in revenue[0]
    assert "bronze.orders_raw.discount_pct  transformation" in revenue[1]
    assert "silver.orders_clean.status  filter" in text
    back = as_text(lineage_tree.of_columns(columns, "bronze.products_raw", "downstream"))
    assert "gold.product_performance.category_rank" in back
    with pytest.raises(LineageError, match=f"No column of {EVENTS}"):
        lineage_tree.of_columns(columns, EVENTS)


@pytest.mark.parametrize("table", ["gold.daily_sales_summary", TRAFFIC])
def test_the_figure_has_every_table_and_edge_from_left_to_right_and_says_so(home: Settings, table: str) -> None:
    figure, alt = lineage_of(table, settings=home)
    edges = lineage.around(shown(home), table)
    names = {name for edge in edges for name in (edge.source, edge.target)}
    assert len(figure.layout.shapes) == len(names)
    assert all(name in alt for name in names)
    assert f"{len(edges)} edges" in alt
    ways = [way for trace in figure.data for way in segments(trace.x)]
    assert len(ways) == len(edges)
    assert all(here <= there for way in ways for here, there in pairwise(way))
    texts = " ".join(one.text for one in figure.layout.annotations)
    assert f"<b>{table.partition('.')[0]}</b>" in texts


def segments(x: Sequence[float | None]) -> list[list[float]]:
    found: list[list[float]] = [[]]
    for value in x:
        if value is None:
            found.append([])
        else:
            found[-1].append(value)
    return [way for way in found if way]


@pytest.fixture
def command(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("SHOPMETRICS_HOME", str(home.home))
    read_again()
    yield lambda *arguments: CliRunner().invoke(app, ["lineage", *arguments])
    monkeypatch.undo()
    read_again()


def test_the_command_needs_no_engine(command: Callable[..., Any]) -> None:
    listed = command()
    assert listed.exit_code == 0, listed.output
    assert sum("its source" in line for line in listed.output.splitlines()) == 10
    tree = command("gold.daily_sales_summary")
    assert "landing/orders" in tree.output
    asked = json.loads(command(TRAFFIC, "--json", "--columns").stdout)
    assert {edge["target"] for edge in asked["edges"]} == {"bronze.clickstream_raw", *CLICKSTREAM}
    assert json.loads(command("--json", "--columns").stdout)["columns"]
    assert "rows of gold.customer_ltv" in command("--columns").output
    refused = command("gold.unknown")
    assert isinstance(refused.exception, LineageError)


def test_where_nothing_was_captured_the_declared_edges_are_shown_and_what_to_do(
    command: Callable[..., Any], home: Settings
) -> None:
    lineage.events_file(home).unlink()
    (home.lakehouse / "ops").rename(home.lakehouse / "gone")
    answer = command("gold.daily_sales_summary")
    assert answer.exit_code == 0
    assert "silver.orders_clean  declared only" in answer.stdout
    assert "SHOPMETRICS_LINEAGE_EVENTS=true" in answer.stderr
    assert "there is no event" in answer.stderr


def test_the_listener_is_on_by_setting() -> None:
    on = get_settings(lineage_events=True, spark_conf="spark.x=1")
    off = get_settings(lineage_events=False, spark_conf="spark.x=1")
    only_on = spark_conf(on).keys() - spark_conf(off).keys()
    assert "spark.extraListeners" in only_on
    assert all(name == "spark.extraListeners" or name.startswith("spark.openlineage.") for name in only_on)


def test_data_files_are_those_of_the_newest_version(tmp_path: Path) -> None:
    rows = [pa.table({"n": [number]}) for number in range(4)]
    for each in rows[:2]:
        write_deltalake(tmp_path / "t", each, mode="append")
    table, log = DeltaTable(tmp_path / "t"), tmp_path / "t" / "_delta_log"
    assert len(delta_log.data_files(log)) == 2
    table.delete("n = 0")
    table.create_checkpoint()
    for number in range(2):
        (log / f"{number:020d}.json").unlink()
    write_deltalake(tmp_path / "t", rows[3], mode="append")
    here = {str(file) for file in delta_log.data_files(log)}
    assert {Path(file).name for file in here} == {Path(uri).name for uri in DeltaTable(tmp_path / "t").file_uris()}
