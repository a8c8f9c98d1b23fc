"""Bronze told as deliveries: what lands, what is in the tables afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from pyspark.sql import functions as F

from generators import generate
from shared import bronze, catalog
from shared.bronze import ingestion
from shared.bronze.contracts import AUDIT_COLUMNS, PRODUCTS, SOURCES
from shared.bronze.ingestion import checkpoint_path
from shared.bronze.landing import LandedFile
from shared.bronze.parsing import parse_lines
from shared.clock import batch_date, ingested_at
from shared.errors import PipelineError, SourceError
from shared.runtime import spark as engine
from shared.settings import get_settings

HEADER = "product_id,product_name,category,brand,list_price,is_active,updated_at"
ROW = "P-1,Kettle,Home & Kitchen,Acme,19.90,true,2026-01-01 08:00:00"


@pytest.fixture
def shop(spark):
    """An empty landing volume and no bronze tables, on the engine that all tests share."""
    values = get_settings()

    def clean():
        for name in SOURCES:
            bronze.reset(spark, name)
        shutil.rmtree(values.raw, ignore_errors=True)

    clean()
    values.raw.mkdir(parents=True)
    yield values
    clean()


def deliver(values, text: str, name: str = "products.csv", batch: str = "2026-01-01") -> Path:
    path = values.raw / "products" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def versions(spark) -> dict[str, int]:
    return {source.bronze_table: catalog.version(spark, source.bronze_table) for source in SOURCES.values()}


def products(spark, columns: str = "*") -> list:
    return spark.sql(f"SELECT {columns} FROM bronze.products_raw ORDER BY product_id, source_file").collect()


def test_every_row_of_every_file_is_there_once_and_a_second_run_changes_nothing(spark, shop):
    manifest = generate(shop.raw, scale=0.02, seed=7, defects=0.05, days=2, progress=False)
    results = {result.table: result for result in bronze.ingest(spark)}
    for name, source in SOURCES.items():
        result, table = results[source.bronze_table], spark.table(source.bronze_table)
        assert result.rows == table.count() == manifest.rows(name)
        assert result.malformed == table.where("_malformed IS NOT NULL").count()
        assert result.malformed == manifest.defects(name)["malformed_line"]
        assert result.files == table.select("source_file").distinct().count() == len(manifest.files(name))

    assert sum(result.malformed for result in results.values()) > 0

    before = versions(spark)
    assert [(result.files, result.rows) for result in bronze.ingest(spark)] == [(0, 0)] * 3
    assert versions(spark) == before


def test_the_tables_are_as_the_contract_says(spark, shop):
    for source in SOURCES.values():
        bronze.create_table(spark, source)
        described = catalog.describe(spark, source.bronze_table).collect()
        assert [(row.column, row.type, row.comment) for row in described] == [
            (column.name, column.type.lower().replace(", ", ","), column.comment)
            for column in (*source.columns, *AUDIT_COLUMNS)
        ]


def test_a_later_day_adds_its_own_files_only(spark, shop):
    generate(shop.raw, scale=0.01, seed=7, defects=0, days=1, progress=False)
    bronze.ingest(spark)
    manifest = generate(shop.raw, scale=0.01, seed=7, defects=0, days=2, progress=False)
    assert [result.files for result in bronze.ingest(spark)] == [1, 1, 1]
    assert spark.table("bronze.orders_raw").count() == manifest.rows("orders")


def test_audit_columns_follow_from_the_file_and_not_from_the_wall_clock(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n", name="with space+plus.csv", batch="2026-01-01")
    bronze.ingest(spark, ["products"])
    (row,) = products(spark)
    assert row.source_file == "products/2026-01-01/with space+plus.csv"
    assert row.batch_id == "2026-01-01"
    assert row.ingested_at.isoformat() == ingested_at(batch_date(1)).replace(tzinfo=None).isoformat()


def test_a_file_delivered_again_under_its_name_is_ingested_once(spark, shop):
    path = deliver(shop, f"{HEADER}\n{ROW}\n")
    bronze.ingest(spark, ["products"])
    path.unlink()
    deliver(shop, f"{HEADER}\n{ROW}\n")
    assert bronze.ingest(spark, ["products"])[0].rows == 0
    assert len(products(spark)) == 1


def test_a_file_that_is_years_older_than_the_newest_is_not_passed_over(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n", name="new.csv")
    bronze.ingest(spark, ["products"])
    late = deliver(shop, f"{HEADER}\n{ROW}\n", name="late.csv")
    os.utime(late, (0, 0))
    assert bronze.ingest(spark, ["products"])[0].rows == 1


def test_columns_are_matched_by_name_and_unknown_ones_kept_aside_and_reported(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n", name="a.csv")
    reordered = "updated_at,colour,list_price,product_id,product_name,category,brand,is_active"
    deliver(shop, f"{reordered}\n2026-01-01 09:00:00,red,5.00,P-2,Cup,Home,Acme,false\n", name="b.csv")
    (result,) = bronze.ingest(spark, ["products"])
    assert result.extra_columns == {"products/2026-01-01/b.csv": ["colour"]}
    deliver(shop, f"{HEADER}\n{ROW}\n".replace("P-1", "P-0"), name="c.csv")
    assert bronze.ingest(spark, ["products"])[0].extra_columns == {}, "drift is reported by the run that read it"
    _, first, second = products(spark, "product_id, list_price, is_active, _extra, _malformed")
    assert (first.product_id, str(first.list_price), first.is_active, first._extra) == ("P-1", "19.90", True, None)
    assert (second.product_id, str(second.list_price), second.is_active) == ("P-2", "5.00", False)
    assert second._extra == {"colour": "red"}
    assert first._malformed is second._malformed is None


def test_a_missing_column_stops_the_run_before_anything_is_written(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n", name="good.csv")
    bad = deliver(shop, "product_id,product_name\nP-3,Lamp\n", name="bad.csv")
    with pytest.raises(SourceError, match=r"products/2026-01-01/bad\.csv: the required column category is missing"):
        bronze.ingest(spark)
    bad.unlink()
    assert bronze.ingest(spark, ["products"])[0].rows == 1


def test_an_unknown_source_is_refused_with_the_valid_ones(spark):
    with pytest.raises(SourceError, match=r"'payments'\. Sources: customers, products, orders"):
        bronze.ingest(spark, ["payments"])


def test_bronze_refuses_to_change_or_forget_a_row(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n")
    bronze.ingest(spark, ["products"])
    with pytest.raises(Exception, match="DELTA_CANNOT_MODIFY_APPEND_ONLY"):
        spark.sql("DELETE FROM bronze.products_raw")


def test_a_table_without_its_checkpoint_is_not_filled_twice(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n")
    bronze.ingest(spark, ["products"])
    shutil.rmtree(checkpoint_path(PRODUCTS, shop))
    with pytest.raises(PipelineError, match=r"is gone(.|\n)*shopmetrics reset bronze\.products_raw"):
        bronze.ingest(spark, ["products"])
    bronze.reset(spark, "products")
    assert bronze.ingest(spark, ["products"])[0].rows == 1


def test_a_checkpoint_without_its_table_does_not_skip_files(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n")
    bronze.ingest(spark, ["products"])
    catalog.drop_table(spark, "bronze.products_raw")
    with pytest.raises(PipelineError, match=r"belongs to another bronze\.products_raw(.|\n)*shopmetrics reset"):
        bronze.ingest(spark, ["products"])


def test_a_stream_ended_while_it_planned_its_first_batch_starts_anew(spark, shop):
    """Such a stream leaves the half-written file of its plan, here as a stop in that moment does."""
    deliver(shop, f"{HEADER}\n{ROW}\n")
    offsets = checkpoint_path(PRODUCTS, shop) / "stream" / "offsets"
    offsets.mkdir(parents=True)
    (offsets / ".0.6e7a1b0c-0000-4000-8000-000000000000.tmp").write_text("v1\n{")
    assert bronze.ingest(spark, ["products"])[0].rows == 1
    assert bronze.ingest(spark, ["products"])[0].rows == 0


LINES = {
    "fits": (ROW, False),
    "a quoted comma and a doubled quote": ('P-1,"Kettle, ""big""",Home,Acme,19.90,true,2026-01-01 08:00:00', False),
    "a backslash is just a character": ("P-1,Kettle\\,Home,Acme,19.90,true,2026-01-01 08:00:00", False),
    "empty fields are NULL": ("P-1,,,,,,", False),
    "too few fields": ("P-1,Kettle,Home", True),
    "too many fields": (ROW + ",more", True),
    "a word where a number must be": (ROW.replace("19.90", "cheap"), True),
    "a date that is none": (ROW.replace("2026-01-01", "2026-13-45"), True),
    "a byte that is not UTF-8": (ROW.replace("Kettle", "Kett\ufffdle"), True),
}


@pytest.mark.parametrize(("line", "is_malformed"), LINES.values(), ids=LINES.keys())
def test_a_line_is_kept_as_it_came_if_it_does_not_fit(spark, line, is_malformed):
    path = "products/2026-01-01/a.csv"
    lines = spark.createDataFrame([(line, f"file:/x/{path}")], "value STRING, file_path STRING")
    row = parse_lines(lines, PRODUCTS, [LandedFile(path, HEADER, tuple(HEADER.split(",")))]).first()
    assert row._malformed == (line if is_malformed else None)
    assert row.product_id == "P-1"


def test_quoted_fields_arrive_as_they_were_meant(spark):
    path = "products/2026-01-01/a.csv"
    texts = [LINES["a quoted comma and a doubled quote"][0], LINES["empty fields are NULL"][0], HEADER, "", "  "]
    lines = spark.createDataFrame([(text, f"file:/x/{path}") for text in texts], "value STRING, file_path STRING")
    rows = parse_lines(lines, PRODUCTS, [LandedFile(path, HEADER, tuple(HEADER.split(",")))]).collect()
    assert [row.product_name for row in rows] == ['Kettle, "big"', None]


def test_what_the_creation_of_a_table_left_when_it_died_is_no_obstacle(spark):
    log = catalog.table_path("ops.unborn") / "_delta_log"
    (log / "_staged_commits").mkdir(parents=True)
    (log / ".00000000000000000000.json.5f0c.tmp").touch()
    assert "ops.unborn" not in catalog.register_tables(spark), "it is no table yet"
    catalog.create_table(spark, "ops.unborn", {"id": ("INT", "a key")}, "Made at the second attempt.")
    assert catalog.version(spark, "ops.unborn") == 0
    catalog.drop_table(spark, "ops.unborn")


def test_a_table_that_somebody_else_is_making_is_waited_for(spark):
    half_made = catalog.table_path("ops.nascent") / "_delta_log" / ".00000000000000000000.json.5f0c.tmp"
    half_made.parent.mkdir(parents=True)
    half_made.touch()
    columns = {"id": ("INT", "a key")}
    with ThreadPoolExecutor(1) as other, FileLock(get_settings().run / "create_table.lock"):
        making = other.submit(catalog.create_table, spark, "ops.nascent", columns, "Made by the second.")
        with pytest.raises(TimeoutError):
            making.result(timeout=2)
        assert half_made.exists()
    making.result()
    assert catalog.version(spark, "ops.nascent") == 0
    catalog.drop_table(spark, "ops.nascent")


def test_a_file_that_lands_while_the_headers_are_being_read_is_left_to_the_next_run(shop, spark, monkeypatch):
    deliver(shop, f"{HEADER}\n{ROW}\n")
    names, values = reversed(HEADER.split(",")), reversed(ROW.split(","))
    deliver(shop, f"{','.join(names)}\n{','.join(values)}\n", name="late.csv", batch="2026-01-02")
    look, looks = ingestion.landed_files, iter([slice(1), slice(None)])
    monkeypatch.setattr(ingestion, "landed_files", lambda *where: look(*where)[next(looks)])
    with pytest.raises(PipelineError, match=r"products/2026-01-02/late\.csv landed while"):
        bronze.ingest(spark, ["products"])
    monkeypatch.undo()
    bronze.ingest(spark, ["products"])
    assert [row[:2] for row in products(spark, "product_id, source_file")] == [
        ("P-1", "products/2026-01-01/products.csv"),
        ("P-1", "products/2026-01-02/late.csv"),
    ]


def test_when_one_source_fails_none_goes_on_in_the_engine(shop, spark, monkeypatch):
    generate(shop.raw, scale=0.02, seed=7, progress=False)
    finish = ingestion._finish

    def fails(spark, source, *given):
        if source.name == "customers":
            raise PipelineError("no")
        return finish(spark, source, *given)

    monkeypatch.setattr(ingestion, "_finish", fails)
    with pytest.raises(PipelineError, match="no"):
        bronze.ingest(spark)
    assert spark.streams.active == []
    monkeypatch.undo()
    bronze.ingest(spark)
    for name, source in SOURCES.items():
        expected = sum(len(path.read_text().splitlines()) - 1 for path in shop.raw.glob(f"{name}/*/*.csv"))
        assert spark.table(source.bronze_table).count() == expected


@pytest.mark.parametrize("moment", ["offsets", pytest.param("commits", marks=pytest.mark.slow)])
def test_killed_in_the_middle_a_second_run_completes_and_doubles_nothing(settings, moment):
    """The engine is really killed: when the batch has been planned, and when its first commit is being written."""
    manifest = generate(settings.raw, scale=0.2, seed=7, defects=0.01, days=1, progress=False)
    started = engine.up(settings)
    session = engine.session(started)
    run = subprocess.Popen(["shopmetrics", "pipeline", "run", "--layer", "bronze"], env=_environment(settings))
    stream = checkpoint_path(SOURCES["orders"], settings) / "stream"
    log = catalog.table_path("bronze.orders_raw", settings)
    deadline = time.monotonic() + 240
    while not (any((stream / "offsets").glob("[0-9]*")) if moment == "offsets" else any(log.glob("*.parquet"))):
        assert run.poll() is None, f"the run ended before {moment} appeared"
        assert time.monotonic() < deadline, f"no {moment} appeared"
        time.sleep(0.005)
    os.kill(started.pid, signal.SIGKILL)
    session.client.close()
    psutil.wait_procs([process] if (process := started.process()) else [], timeout=10)
    run.kill()
    run.wait()
    assert not (stream / "commits" / "0").exists(), "the run was over before it could be killed"

    done = _resumed_by_command(settings) if moment == "commits" else None
    session = engine.session(engine.up(settings))
    try:
        if done:
            logged = session.table("ops.run_log").where(F.col("run_id") == done["run_id"]).collect()
            assert {row.table_name for row in logged} == {table["table_name"] for table in done["tables"]}
        else:
            bronze.ingest(session, settings=settings)
        for name, source in SOURCES.items():
            table = session.table(source.bronze_table)
            assert table.count() == manifest.rows(name)
            per_file = dict(
                session.sql(f"SELECT source_file, count(*) FROM {source.bronze_table} GROUP BY 1").collect()
            )
            assert per_file == {file.path: file.rows for file in manifest.files(name)}
    finally:
        session.stop()
        engine.down(settings)


def _resumed_by_command(settings) -> dict:
    resumed = subprocess.run(
        ["shopmetrics", "pipeline", "run", "--json"],
        env=_environment(settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    done = json.loads(resumed.stdout)
    assert resumed.returncode == 0, done
    assert done["ok"], done
    assert done["nfr_001"]["is_met"]
    return done


def _environment(settings) -> dict[str, str]:
    import sys

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"SHOPMETRICS_HOME": str(settings.home), "PATH": path}
