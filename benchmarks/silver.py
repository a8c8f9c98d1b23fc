"""How long silver takes, full and for a day's changes, beside DuckDB + delta-rs doing the same work in the same run.

    SHOPMETRICS_SERVER_MEMORY=3g .venv/bin/python -m benchmarks.silver --scale 100

In one home: the historical load and full runs, the first one cold; then days of changes, an incremental run each, the
first one cold too. Machines differ and are shared, so compare the ratios. CPU seconds are those of the engine's
process, or of DuckDB's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

DUCKDB = Path(__file__).with_name("duckdb_silver.py")


def timed(engine: psutil.Process, work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds of the engine, and the result."""
    before, begun = engine.cpu_times(), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - begun, engine.cpu_times()
    return wall, after.user + after.system - before.user - before.system, result


def duckdb(home: Path, out: Path, threads: int) -> dict[str, float]:
    """Return wall seconds, CPU seconds and peak MB of the same work by DuckDB + delta-rs, in a process of its own."""
    code = (
        "import json, resource, sys, time; sys.path.insert(0, sys.argv[1]); import duckdb_silver as d; "
        "from pathlib import Path; begun = time.perf_counter(); "
        "d.silver(Path(sys.argv[2]), Path(sys.argv[3]), threads=int(sys.argv[4])); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(json.dumps({'wall': time.perf_counter() - begun, 'cpu': used.ru_utime + used.ru_stime, "
        "'mb': d.peak_mb()}))"
    )
    arguments = [
        sys.executable,
        "-c",
        code,
        str(DUCKDB.parent),
        str(home / "lakehouse" / "bronze"),
        str(out),
        str(threads),
    ]
    answer = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=3600)
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def main(
    scale: Annotated[float, typer.Option(help="100 is 10 million orders.")] = 1.0,
    days: Annotated[int, typer.Option(help="Incremental days after the historical load.")] = 3,
    home: Annotated[Path | None, typer.Option(help="Keep everything here instead of a scratch directory.")] = None,
) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="shopmetrics-bench-") as scratch:
        os.environ["SHOPMETRICS_HOME"] = str(home or Path(scratch) / "home")
        from shared.settings import read_again

        read_again()
        measure(scale, days, Path(scratch))


def measure(scale: float, days: int, scratch: Path) -> None:
    """Run the comparison in this process's home."""
    import shared
    from generators import generate
    from shared import bronze, silver
    from shared.runtime import spark as engine
    from shared.settings import get_settings

    settings = get_settings()
    spark = shared.connect()
    record = engine.running(settings)
    assert record is not None
    process = record.process()
    assert process is not None
    threads = engine.usable_cores()
    rows = []
    try:
        generate(settings.raw, scale=scale, progress=False)
        bronze.ingest(spark)
        for name in ("full, cold", "full"):
            full, cpu, runs = timed(process, lambda: silver.run(spark, full=True))
            assert all(run.status == "succeeded" for run in runs), runs
            rows.append((name, full, cpu, sum(run.rows_read for run in runs)))
        rival = duckdb(settings.home, scratch / "duckdb", threads)
        rows.append(("full, DuckDB + delta-rs", rival["wall"], rival["cpu"], rows[0][3]))
        for day in range(1, days + 1):
            generate(settings.raw, scale=scale, days=day, progress=False)
            bronze.ingest(spark)
            wall, cpu, runs = timed(process, lambda: silver.run(spark))
            assert all(run.status == "succeeded" and not run.reason for run in runs), runs
            rows.append((f"day {day}", wall, cpu, sum(run.rows_read for run in runs)))
        wall, cpu, runs = timed(process, lambda: silver.run(spark))
        assert all(run.status == "unchanged" for run in runs), runs
        rows.append(("no news", wall, cpu, 0))
        memory = record.memory_mb()
    finally:
        engine.down(settings)
    table = Table(title=f"silver, scale {scale:g}, {threads} cores, heap {settings.server_memory}", box=None)
    for name in ("run", "rows in", "seconds", "CPU seconds", "of the full run", "of DuckDB's full run"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for name, wall, cpu, count in rows:
        ratios = (f"{wall / full:.0%}", f"{wall / rival['wall']:.2f}")
        table.add_row(name, f"{count:,}", f"{wall:.1f}", f"{cpu:.1f}", *ratios)
    Console().print(table)
    print(f"resident memory at the end: engine {memory:.0f} MB; DuckDB's peak {rival['mb']:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
