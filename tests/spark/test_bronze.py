"""Bronze, tested by deliveries: the files that land, and the tables afterwards."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import lake
import psutil
import pytest
from filelock import FileLock
from pyspark.sql import functions as F

from generators import generate
from shared import bronze, catalog
from shared.bronze import ingestion
from shared.bronze.contracts import AUDIT_COLUMNS, PRODUCTS, SOURCES
from shared.bronze.ingestion import checkpoint_path, ingested_files
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
    """An empty landing volume and no tables, on the engine that all tests share."""
    values = get_settings()
    lake.clear(spark, values)
    shutil.rmtree(values.raw, ignore_errors=True)
    values.raw.mkdir(parents=True)
    return values


def deliver(values, text: str, name: str = "products.csv", batch: str = "2026-01-01") -> Path:
    path = values.raw / "products" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def versions(spark) -> dict[str, int]:
    return {source.bronze_table: catalog.version(spark, source.bronze_table) for source in SOURCES.values()}


def products(columns: str = "*") -> list:
    query = f"SELECT {columns} FROM bronze.products_raw ORDER BY product_id, source_file"
    return lake.rows(get_settings().lakehouse, query)


def rows_by_file(lakehouse: Path, table: str) -> dict[str, int]:
    return {
        row.source_file: row.n
        for row in lake.rows(lakehouse, f"SELECT source_file, count(*) AS n FROM {table} GROUP BY 1")
    }


def test_every_row_of_every_file_is_there_once_and_a_second_run_changes_nothing(spark, shop):
    manifest = generate(shop.raw, scale=0.02, seed=7, defects=0.05, days=2, progress=False)
    results = {result.table: result for result in bronze.ingest(spark)}
    for name, source in SOURCES.items():
        result = results[source.bronze_table]
        counted = "count(*) AS rows, count(_malformed) AS malformed, count(DISTINCT source_file) AS files"
        (table,) = lake.rows(shop.lakehouse, f"SELECT {counted} FROM {source.bronze_table}")
        assert result.rows == table.rows == manifest.rows(name)
        assert result.malformed == table.malformed == manifest.defects(name)["malformed_line"]
        assert result.files == table.files == len(manifest.files(name))

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
    assert sum(rows_by_file(shop.lakehouse, "bronze.orders_raw").values()) == manifest.rows("orders")


def test_audit_columns_follow_from_the_file_and_not_from_the_wall_clock(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n", name="with space+plus.csv", batch="2026-01-01")
    bronze.ingest(spark, ["products"])
    (row,) = products()
    assert row.source_file == "products/2026-01-01/with space+plus.csv"
    assert row.batch_id == "2026-01-01"
    assert row.ingested_at == ingested_at(batch_date(1))


def test_a_file_delivered_again_under_its_name_is_ingested_once(spark, shop):
    path = deliver(shop, f"{HEADER}\n{ROW}\n")
    bronze.ingest(spark, ["products"])
    path.unlink()
    deliver(shop, f"{HEADER}\n{ROW}\n")
    assert bronze.ingest(spark, ["products"])[0].rows == 0
    assert len(products()) == 1


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
    _, first, second = products("product_id, list_price, is_active, _extra AS extra, _malformed AS malformed")
    assert (first.product_id, str(first.list_price), first.is_active, first.extra) == ("P-1", "19.90", True, None)
    assert (second.product_id, str(second.list_price), second.is_active) == ("P-2", "5.00", False)
    assert dict(second.extra) == {"colour": "red"}
    assert first.malformed is second.malformed is None


def test_a_file_that_cannot_be_read_is_told_of_after_the_others_were_read(spark, shop):
    deliver(shop, f"{HEADER}\n{ROW}\n", name="good.csv")
    bad = deliver(shop, "product_id,product_name\nP-3,Lamp\n", name="bad.csv")
    with pytest.raises(SourceError) as raised:
        bronze.ingest(spark, ["products"])
    (told,) = raised.value.problem.splitlines()[1:]
    assert told.startswith("  - products/2026-01-01/bad.csv: the required columns category, brand, list_price")
    assert [row.product_id for row in products()] == ["P-1"]
    (again,) = bronze.ingest(spark, ["products"], strict=False)
    assert (again.rows, list(again.refused)) == (0, ["products/2026-01-01/bad.csv"])
    # The bad file does not count as read, so a new file may have its name.
    bad.write_text(f"{HEADER}\n{ROW.replace('P-1', 'P-3')}\n")
    assert bronze.ingest(spark, ["products"])[0].rows == 1


def test_each_line_is_there_once_whatever_its_file_is_called(spark, shop):
    # Two files with such characters would each have been read as often as all other files together.
    names = ["plain.csv", "orders [EU].csv", "a{b,c}*?\\.csv", "100% + 1, #2 caf\u00e9\u00a0.csv"]
    for number, name in enumerate(names):
        deliver(shop, f"{HEADER}\n{ROW.replace('P-1', f'P-{number}')}\n", name=name)
    zipped = deliver(shop, "", name="zipped.csv.gz")
    zipped.write_bytes(gzip.compress(f"{HEADER}\n{ROW.replace('P-1', 'P-4')}\n".encode()))
    # Beside them are files that the engine must ignore.
    for name in ("night_10:30:00.csv", "part.csv.tmp"):
        deliver(shop, f"{HEADER}\n{ROW}\n", name=name)
    deliver(shop, f"{HEADER}\n{ROW}\n", name="sub/deep.csv")
    (result,) = bronze.ingest(spark, ["products"], strict=False)
    assert (result.files, result.rows, result.malformed) == (5, 5, 0)
    assert list(result.refused) == ["products/2026-01-01/night_10:30:00.csv"]
    assert list(result.ignored) == ["products/2026-01-01/part.csv.tmp", "products/2026-01-01/sub/deep.csv"]
    rows = lake.rows(shop.lakehouse, "SELECT product_id, source_file FROM bronze.products_raw ORDER BY ALL")
    assert rows == [(f"P-{n}", f"products/2026-01-01/{name}") for n, name in enumerate([*names, "zipped.csv.gz"])]
    assert ingested_files(PRODUCTS, shop) == {row.source_file for row in rows}
    assert bronze.ingest(spark, ["products"], strict=False)[0].rows == 0


def test_a_table_of_an_older_version_gets_the_columns_that_were_added_since(spark, shop):
    columns = {one.name: (one.type, "") for one in (*PRODUCTS.columns, *AUDIT_COLUMNS) if one.name != "_reason"}
    feed = {"delta.enableChangeDataFeed": "true"}
    catalog.create_table(spark, PRODUCTS.bronze_table, columns, "", properties=feed)
    deliver(shop, f"{HEADER}\n{ROW.replace('19.90', '19,90')}\n")
    assert bronze.ingest(spark, ["products"])[0].malformed == 1
    assert lake.rows(shop.lakehouse, "SELECT _reason FROM bronze.products_raw") == [("8 fields: expected 7",)]
    names = [column.name for column in (*PRODUCTS.columns, *AUDIT_COLUMNS)]
    assert spark.table(PRODUCTS.bronze_table).columns == names


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
    """Such a stream leaves an incomplete file of its plan; the test creates this state."""
    deliver(shop, f"{HEADER}\n{ROW}\n")
    offsets = checkpoint_path(PRODUCTS, shop) / "stream" / "offsets"
    offsets.mkdir(parents=True)
    (offsets / ".0.6e7a1b0c-0000-4000-8000-000000000000.tmp").write_text("v1\n{")
    assert bronze.ingest(spark, ["products"])[0].rows == 1
    assert bronze.ingest(spark, ["products"])[0].rows == 0


def product_line(**fields: str) -> str:
    """Return a line of the products file with these fields replaced, written unchanged."""
    return ",".join((dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | fields).values())


PRICE = "expected a number such as 1234.00, of at most 12 digits, 2 of them decimals"
INSTANT = "expected an instant such as 2025-03-01 14:03:22"
LINES = {
    "fits": (ROW, None),
    "a quoted comma and a doubled quote": (product_line(product_name='"Kettle, ""big"""'), None),
    "a quote within a text is just a character": (product_line(product_name='Screen 24"'), None),
    "a backslash is just a character": (product_line(product_name="Kettle\\"), None),
    "empty fields are NULL": ("P-1,,,,,,", None),
    "quoted, they are too": ('P-1,"","","","","",""', None),
    "an instant with a zone": (product_line(updated_at="2026-01-01T10:00:00+02:00"), None),
    "too few fields": ("P-1,Kettle,Home", "3 fields: expected 7"),
    "too many fields": (ROW + ",more", "8 fields: expected 7"),
    "too many, one with a comma": (product_line(brand='"A, B"') + ",more", "8 fields: expected 7"),
    "half of a line that was broken within quotes": (
        product_line(updated_at='"2026-01-01'),
        "a quote is opened and not closed: a line break within quotes is not read"),
    "a word where a number must be": (product_line(list_price="cheap"), f"list_price = cheap: {PRICE}"),
    "a decimal comma": (product_line(list_price='"12,99"'), f"list_price = 12,99: {PRICE}"),
    "points between thousands": (product_line(list_price='"1.234,56"'), f"list_price = 1.234,56: {PRICE}"),
    "more decimals than the type holds": (product_line(list_price="0.0149"), f"list_price = 0.0149: {PRICE}"),
    "more digits than the type holds": (product_line(list_price="12345678901"), f"list_price = 12345678901: {PRICE}"),
    "a flag that is none": (product_line(is_active="yes"), "is_active = yes: expected true or false"),
    "a date that is none": (
        product_line(updated_at="2026-02-30 08:00:00"), f"updated_at = 2026-02-30 08:00:00: {INSTANT}"),
    "a time without a date": (product_line(updated_at="10:00"), f"updated_at = 10:00: {INSTANT}"),
    "half a time": (product_line(updated_at="T14:03:22"), f"updated_at = T14:03:22: {INSTANT}"),
    "a date without a time": (product_line(updated_at="2026-01-01"), f"updated_at = 2026-01-01: {INSTANT}"),
    "two that do not fit": (
        product_line(list_price="1e3", updated_at="2025"), f"list_price = 1e3: {PRICE}; updated_at = 2025: {INSTANT}"),
    "a text that was lost before it came": (
        product_line(product_name="Kett\ufffdle"),
        "the replacement character at offset 8 of the line: a text was lost before it came"),
}  # fmt: skip


def parsed(spark, *texts: str | bytes) -> list:
    """Return these lines of a products file as rows."""
    path = "products/2026-01-01/a.csv"
    given = [(text if isinstance(text, bytes) else text.encode(), f"file:/x/{path}") for text in texts]
    lines = spark.createDataFrame(given, "value BINARY, file_path STRING")
    lines = lines.selectExpr("CAST(value AS STRING) AS value", "file_path").coalesce(1)
    return parse_lines(lines, PRODUCTS, [LandedFile(path, HEADER, tuple(HEADER.split(",")))]).collect()


def test_a_line_is_kept_as_it_came_with_the_reason_if_it_does_not_fit(spark):
    rows = parsed(spark, *(line for line, _ in LINES.values()))
    assert {name: row._reason for name, row in zip(LINES, rows, strict=True)} == {
        name: reason for name, (_, reason) in LINES.items()
    }
    kept = [(row.product_id, row._malformed) for row in rows]
    assert kept == [("P-1", line if reason else None) for line, reason in LINES.values()]
    by_name = dict(zip(LINES, rows, strict=True))
    assert by_name["a quoted comma and a doubled quote"].product_name == 'Kettle, "big"'
    assert by_name["a quote within a text is just a character"].product_name == 'Screen 24"'
    assert by_name["quoted, they are too"][1:7] == by_name["empty fields are NULL"][1:7] == (None,) * 6
    assert by_name["an instant with a zone"].updated_at == by_name["fits"].updated_at
    assert by_name["two that do not fit"].list_price is None


def test_a_line_that_is_no_utf_8_is_kept_to_the_byte(spark):
    line = product_line(product_name="caf\u00e9").encode("latin-1")
    row, *blank = parsed(spark, line, HEADER, "", "  ")
    assert row._reason == f"byte 0xE9 at offset {line.index(0xE9)} of the line is not UTF-8"
    assert row._malformed.encode("latin-1") == line
    assert blank == []


def test_what_the_creation_of_a_table_left_when_it_died_is_no_obstacle(spark):
    log = catalog.table_path("ops.unborn") / "_delta_log"
    (log / "_staged_commits").mkdir(parents=True)
    (log / ".00000000000000000000.json.5f0c.tmp").touch()
    assert "ops.unborn" not in catalog.register_tables(spark), "it is no table yet"
    catalog.create_table(spark, "ops.unborn", {"id": ("INT", "a key")}, "Made at the second attempt.")
    assert catalog.version(spark, "ops.unborn") == 0
    catalog.drop_table(spark, "ops.unborn")


def test_an_instant_of_the_year_9999_is_the_same_for_another_engine(spark):
    catalog.create_table(spark, "ops.far", {"at": ("TIMESTAMP", "an instant")}, "Spark's old format ends in 2262.")
    spark.sql("INSERT INTO ops.far VALUES (TIMESTAMP '9999-12-31 23:59:59')")
    (row,) = lake.read(catalog.table_path("ops.far")).to_pylist()
    assert row == {"at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}
    catalog.drop_table(spark, "ops.far")


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
    look = ingestion.landed

    def look_and_land(*where):
        found = look(*where)
        names, values = reversed(HEADER.split(",")), reversed(ROW.split(","))
        deliver(shop, f"{','.join(names)}\n{','.join(values)}\n", name="late.csv", batch="2026-01-02")
        return found

    monkeypatch.setattr(ingestion, "landed", look_and_land)
    assert bronze.ingest(spark, ["products"])[0].rows == 1
    monkeypatch.undo()
    assert bronze.ingest(spark, ["products"])[0].rows == 1
    assert [row[:2] for row in products("product_id, source_file")] == [
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
        assert sum(rows_by_file(shop.lakehouse, source.bronze_table).values()) == expected


@pytest.mark.parametrize("moment", ["offsets", pytest.param("commits", marks=pytest.mark.slow)])
def test_killed_in_the_middle_a_second_run_completes_and_doubles_nothing(settings, moment):
    """The engine is really killed: after the batch was planned, and while its first commit is being written."""
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
            per_file = rows_by_file(settings.lakehouse, source.bronze_table)
            assert per_file == {file.path: file.rows for file in manifest.files(name)}
            assert sum(per_file.values()) == manifest.rows(name)
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
