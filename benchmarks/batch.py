"""How long silver and gold take, full and for a day's changes, compared with DuckDB + delta-rs, which do the same work
from the same bronze in the same run.

    SHOPMETRICS_SERVER_MEMORY=3g .venv/bin/python -m benchmarks.batch --scale 100

One home is used for all steps: the historical load; the whole pipeline, cold; silver and gold rebuilt in full, warm,
which DuckDB does too; then days of changes, about 1 % of the orders each, incrementally. Times depend on the machine,
so compare the ratios. CPU seconds are those of the engine's process, or of DuckDB's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

RIVAL = """
import json, resource, sys, time
from pathlib import Path
from benchmarks import batch
from tests.oracles import duckdb_silver
begun = time.perf_counter()
batch.rival(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall": time.perf_counter() - begun, "cpu": used.ru_utime + used.ru_stime,
                  "mb": duckdb_silver.peak_mb()}))
"""

SALES = """
CREATE VIEW sales AS
SELECT customer_id, product_id, category, order_date, quantity, gross_amount AS gross, net_amount AS net
FROM orders WHERE status NOT IN ('cancelled', 'returned')
"""


def rival(bronze: Path, out: Path, threads: int) -> None:
    """Build silver and gold from bronze with DuckDB, and write them with delta-rs."""
    import duckdb
    from deltalake import write_deltalake

    from shared import gold
    from tests.oracles import duckdb_gold, duckdb_silver

    duckdb_silver.silver(bronze, out, threads=threads)
    con = duckdb.connect(config={"threads": threads})
    con.read_parquet(duckdb_silver.parquet_files(out / "orders_clean")).create_view("orders")
    con.execute(SALES)
    bands = gold.TABLES.definition("gold.customer_ltv").bands
    assert bands is not None
    tables = duckdb_gold.aggregated(con, [(one.label, one.at_least) for one in bands.thresholds])
    for table, rows in tables.items():
        write_deltalake(out / table, rows, mode="overwrite")


def timed(engine: psutil.Process, work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Run the work; return wall seconds, CPU seconds of the engine, and the result."""
    before, begun = engine.cpu_times(), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - begun, engine.cpu_times()
    return wall, after.user + after.system - before.user - before.system, result


def measure(scale: float, days: int, runs: int) -> dict[str, Any]:
    """Run the comparison in this process's home; return the figures, with medians as times."""
    import shared
    from generators import generate
    from shared import bronze, gold, pipeline, silver
    from shared.runtime import spark as engine
    from shared.runtime.memory import memory
    from shared.settings import get_settings

    settings = get_settings()
    spark = shared.connect()
    record = engine.running(settings)
    process = record.process() if record else None
    assert record is not None
    assert process is not None
    threads = engine.usable_cores()
    figures: dict[str, Any] = {"scale": scale, "orders": round(scale * 100_000), "heap": memory(settings).heap}

    def changed() -> list[Any]:
        done = pipeline.run(spark, ("silver", "gold"))
        assert not any(table.reason or table.error for table in done.tables), done
        return list(done.tables)

    try:
        generate(settings.raw, scale=scale, progress=False)
        wall, cpu, done = timed(process, lambda: pipeline.run(spark))
        assert done.ok, done
        figures["bronze to gold, cold"] = {"wall": wall, "cpu": cpu, "rows": sum(t.rows_read for t in done.tables[:3])}
        full = []
        for _ in range(runs):
            wall, cpu, _ = timed(process, lambda: (silver.run(spark, full=True), gold.run(spark, full=True)))
            full.append((wall, cpu))
        figures["silver and gold, full"] = {"wall": median(full, 0), "cpu": median(full, 1)}
        other = []
        with tempfile.TemporaryDirectory(prefix="shopmetrics-rival-") as out:
            for _ in range(runs):
                arguments = [str(settings.lakehouse / "bronze"), out, str(threads)]
                answer = subprocess.run(
                    [sys.executable, "-c", RIVAL, *arguments], capture_output=True, text=True, check=True, timeout=3600
                )
                other.append(json.loads(answer.stdout.splitlines()[-1]))
        figures["DuckDB + delta-rs, full"] = {
            "wall": statistics.median(one["wall"] for one in other),
            "cpu": statistics.median(one["cpu"] for one in other),
            "mb": max(one["mb"] for one in other),
        }
        daily = []
        for day in range(1, days + 1):
            generate(settings.raw, scale=scale, days=day, progress=False)
            bronze.ingest(spark)
            wall, cpu, tables = timed(process, changed)
            daily.append((wall, cpu))
        # The first day is cold: its plans have not been compiled before.
        warm = daily[1:] or daily
        rows = sum(table.rows_read for table in tables if table.table_name.startswith("silver."))
        figures["silver and gold, a day"] = {"wall": median(warm, 0), "cpu": median(warm, 1), "rows": rows}
        figures["engine mb"] = record.memory_mb()
    finally:
        engine.down(settings)
    return figures


def median(pairs: list[tuple[float, float]], place: int) -> float:
    return statistics.median(pair[place] for pair in pairs)


def main(
    scale: Annotated[float, typer.Option(help="100 is 10 million orders.")] = 1.0,
    days: Annotated[int, typer.Option(help="Incremental days after the historical load.")] = 3,
    runs: Annotated[int, typer.Option(help="Full runs of each kind; the median is shown.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure at one scale."""
    with tempfile.TemporaryDirectory(prefix="shopmetrics-bench-") as scratch:
        os.environ["SHOPMETRICS_HOME"] = scratch
        from shared.settings import read_again

        read_again()
        figures = measure(scale, days, runs)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(title=f"scale {scale:g}, heap {figures['heap']}", box=None)
    for name in ("run", "seconds", "CPU seconds", "of DuckDB's full run"):
        table.add_column(name, justify="left" if name == "run" else "right")
    other = figures["DuckDB + delta-rs, full"]["wall"]
    for name, one in figures.items():
        if isinstance(one, dict):
            ratio = Decimal(one["wall"] / other).quantize(Decimal("0.1"))
            table.add_row(name, f"{one['wall']:.1f}", f"{one['cpu']:.1f}", str(ratio))
    Console().print(table)
    print(f"memory: engine {figures['engine mb']:.0f} MB, DuckDB {figures['DuckDB + delta-rs, full']['mb']:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
