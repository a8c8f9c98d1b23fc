"""The speed and the memory of the generators: rows/s by wall and by CPU time, peak resident memory.

    python -m benchmarks.generation --scale 100

Each table is generated in a process of its own, so that the peak memory belongs to this table. The naive writer works
like most tutorials, with one Faker call per field and one ``csv`` row at a time. It runs on a sample, and its time for
all rows is extrapolated.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from faker import Faker
from rich.console import Console
from rich.table import Table

from generators.plan import TABLES, Plan

NAIVE_SAMPLE = 5_000

MEASURE = """
import json, sys, time
begun = time.perf_counter()
import psutil
from generators import generate
out, table, scale = sys.argv[1], sys.argv[2], float(sys.argv[3])
loaded, cpu = time.perf_counter(), time.process_time()
manifest = generate(out, scale=scale, seed=42, defects=0.01, days=0, tables=[table], progress=False)
seconds = time.perf_counter() - loaded
memory = psutil.Process().memory_info()
peak = getattr(memory, "peak_wset", None)
if peak is None:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({
    "table": table, "rows": manifest.rows(table), "seconds": seconds,
    "cpu_seconds": time.process_time() - cpu, "start_seconds": loaded - begun,
    "bytes": sum(f.bytes for f in manifest.files(table)), "peak_bytes": peak,
}))
"""


def measure(table: str, scale: float) -> dict[str, Any]:
    """Generate one table in a process of its own, and return its time and memory."""
    with tempfile.TemporaryDirectory() as out:
        ended = subprocess.run(
            [sys.executable, "-c", MEASURE, out, table, str(scale)],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def naive_orders(path: Path, plan: Plan, rows: int) -> float:
    """Write orders row by row with Faker and return the seconds it took."""
    fake = Faker()
    fake.seed_instance(plan.seed)
    first, last = datetime(2025, 1, 1), datetime(2025, 12, 31)
    begun = time.perf_counter()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for n in range(rows):
            placed = fake.date_time_between(first, last)
            writer.writerow(
                [
                    f"O-{n + 1:09}",
                    f"C-{fake.random_int(1, plan.customers):08}",
                    f"P-{fake.random_int(1, plan.products):07}",
                    placed,
                    fake.random_int(1, 5),
                    fake.pydecimal(left_digits=3, right_digits=2, positive=True),
                    fake.random_element((0, 0, 0, 5, 10)),
                    fake.random_element(("pending", "confirmed", "shipped", "delivered", "cancelled", "returned")),
                    fake.random_element(("card", "paypal", "bank_transfer", "gift_card")),
                    fake.date_time_between(placed, last),
                ]
            )
    return time.perf_counter() - begun


def main(
    scale: Annotated[float, typer.Option(help="1 is 100,000 orders.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the generators at a scale, and a naive writer on a sample."""
    results = [measure(table, scale) for table in TABLES]
    plan = Plan(42, scale, 0.01)
    with tempfile.TemporaryDirectory() as folder:
        seconds = naive_orders(Path(folder) / "orders.csv", plan, NAIVE_SAMPLE)
    naive = {
        "rows_measured": NAIVE_SAMPLE,
        "seconds_measured": seconds,
        "rows": plan.orders,
        "seconds_extrapolated": seconds / NAIVE_SAMPLE * plan.orders,
    }
    if as_json:
        print(json.dumps({"scale": scale, "tables": results, "naive_orders": naive}, indent=2))
        return
    view = Table(title=f"Historical load at scale {scale:g}, seed 42, 1 % defects", title_justify="left")
    view.add_column("")
    for column in ("rows", "wall s", "rows/s", "CPU s", "rows/CPU s", "peak MB"):
        view.add_column(column, justify="right")
    for r in results:
        view.add_row(
            r["table"],
            f"{r['rows']:,}",
            f"{r['seconds']:.2f}",
            f"{r['rows'] / r['seconds']:,.0f}",
            f"{r['cpu_seconds']:.2f}",
            f"{r['rows'] / r['cpu_seconds']:,.0f}",
            f"{r['peak_bytes'] / 1e6:,.0f}",
        )
    view.add_row(
        "orders by Faker, row by row*",
        f"{plan.orders:,}",
        f"{naive['seconds_extrapolated']:,.1f}",
        f"{NAIVE_SAMPLE / seconds:,.0f}",
    )
    view.caption = f"* extrapolated from {NAIVE_SAMPLE:,} rows"
    Console().print(view)


if __name__ == "__main__":
    typer.run(main)
