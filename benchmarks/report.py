"""``make bench``: run every comparison, and write ``docs/performance.md`` from the results.

.venv/bin/python -m benchmarks.report --scale 1 --scale 10 --scale 100
.venv/bin/python -m benchmarks.report --part batch     # measure one part again, and keep the others unchanged
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"

HEAD = """# Performance

Written by the measurements themselves. Times depend on the machine: compare the ratios, each of which was seen in one
run, and measure on your own.

{machine}
"""

PACKAGES = ("pyspark", "delta-spark", "duckdb", "deltalake", "faker")

BATCH = {
    "silver and gold, full": ("Spark + Delta, full", "full"),
    "DuckDB + delta-rs, full": ("DuckDB + delta-rs, full", "DuckDB"),
    "silver and gold, a day": ("Spark + Delta, a day of 1 %", "day"),
}
"""The names of each measurement in the table and in the chart."""


def run(console: Console, module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run one comparison in a process of its own and return its figures."""
    console.print(f"{module} {' '.join(arguments)}")
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--json"],
        env=os.environ | environment,
        cwd=DOCUMENT.parent.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = ended.stdout
    figures: dict[str, Any] = json.loads(answer[answer.index("{") :])
    return figures


def machine() -> str:
    """Return a line that describes the machine of the figures."""
    cores = len(psutil.Process().cpu_affinity()) if psutil.LINUX else psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{platform.system()} on {platform.machine()}, {cores} cores, {memory:.0f} GiB of memory; "
        f"Python {platform.python_version()}; {packages}."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def notebooks_section(figures: dict[str, Any]) -> str:
    """Part (a)."""
    rows, ratios = [], []
    for name, one in figures["days"].items():
        ours, theirs = one["shared"], one["own"]
        ratios.append(theirs["wall"] / ours["wall"])
        numbers = (f"{ours['wall']:.1f}", f"{theirs['wall']:.1f}", f"{ratios[-1]:.1f}", f"{theirs['mb']:,.0f}")
        rows.append([f"`{name}`", *numbers[:3], f"{ours['mb']:,.0f}", numbers[3]])
    head = ["notebook", "shared engine, s", "its own Spark, s", "ratio", "peak MB", "peak MB, its own"]
    peaks = [(one["shared"]["mb"], one["own"]["mb"]) for one in figures["days"].values()]
    is_greater = all(ours > theirs for ours, theirs in peaks)
    why = " The shared engine\nhas run the notebooks before it too, hence its greater peak." if is_greater else ""
    return f"""## A notebook on the shared engine, and on a Spark of its own

Each notebook executed by papermill at scale {figures["scale"]:g}: on the engine that all notebooks share, warm; and on
`local[*]` with Spark's defaults, started for it. Peak MB is kernel and engine together.{why}

{table(head, rows)}
"""


def batch_section(figures: list[dict[str, Any]]) -> str:
    """Part (b)."""
    rows = []
    for one in figures:
        other = one["DuckDB + delta-rs, full"]["wall"]
        for key, (name, _) in BATCH.items():
            seen = one[key]
            ratio = f"{seen['wall'] / other:.1f}"
            rows.append([name, f"{one['orders']:,}", f"{seen['wall']:.1f}", f"{seen['cpu']:.1f}", ratio])
    growth = [
        f"from {one['orders']:,} to {two['orders']:,} orders a full run takes "
        f"{two['silver and gold, full']['wall'] / one['silver and gold, full']['wall']:.1f} times as long, a day "
        f"{two['silver and gold, a day']['wall'] / one['silver and gold, a day']['wall']:.1f} times"
        for one, two in pairwise(figures)
    ]
    is_slower = any(one["silver and gold, a day"]["wall"] > one["silver and gold, full"]["wall"] for one in figures)
    costs = """
Where a day takes longer than a full run, the reason is this: it asks the engine many small questions, which cost the
same however few rows there are.
"""
    memory = ", ".join(
        f"{one['orders']:,} orders: engine {one['engine mb']:,.0f} MB (heap {one['heap']}), "
        f"DuckDB {one['DuckDB + delta-rs, full']['mb']:,.0f} MB"
        for one in figures
    )
    # Only one series: the bars of several series would be drawn over one another, without a legend.
    axis = ", ".join(f'"{one["orders"] / 1e6:g} M: {bar}"' for one in figures for _, bar in BATCH.values())
    bars = ", ".join(f"{one[key]['wall']:.1f}" for one in figures for key in BATCH)
    head = ["run", "orders", "seconds", "CPU seconds", "of DuckDB's full run"]
    return f"""## The batch, full and for a day, beside DuckDB + delta-rs

Silver and gold from the same bronze, in the same run. DuckDB computes all of both in SQL of its own and delta-rs
writes the tables; it keeps no history to go on from, so it has no day of changes.
{costs if is_slower else ""}
{table(head, rows)}

```mermaid
xychart-beta
    title "Millions of orders: seconds of a full run, of DuckDB's, of a day of 1 %"
    x-axis [{axis}]
    y-axis "seconds"
    bar [{bars}]
```

{("; ".join(growth) + ".").capitalize() if growth else ""}

Resident memory: {memory}.
"""


def generators_section(figures: dict[str, Any]) -> str:
    """Part (c)."""
    rows = [
        [one["table"], f"{one['rows']:,}", f"{one['seconds']:.2f}", f"{one['rows'] / one['seconds']:,.0f}",
         f"{one['peak_bytes'] / 1e6:,.0f}"]
        for one in figures["tables"]
    ]  # fmt: skip
    naive = figures["naive_orders"]
    speed = naive["rows_measured"] / naive["seconds_measured"]
    rows.append(
        [
            "orders by Faker, row by row",
            f"{naive['rows']:,}",
            f"{naive['seconds_extrapolated']:,.0f}",
            f"{speed:,.0f}",
            "",
        ]
    )
    orders = next(one for one in figures["tables"] if one["table"] == "orders")
    ratio = orders["rows"] / orders["seconds"] / speed
    return f"""## The generators, and a row-by-row Faker writer

The historical load at scale {figures["scale"]:g}. The rival calls Faker for each field and writes a row at a time; it
was run on {naive["rows_measured"]:,} rows, and its seconds are extrapolated. Orders are written {ratio:,.0f} times as
fast.

{table(["table", "rows", "seconds", "rows/s", "peak MB"], rows)}
"""


def streaming_section(figures: dict[str, Any]) -> str:
    """Part (d)."""
    rows = []
    for one in figures["live"]:
        warm = one["warm"]
        numbers = (warm["median"], warm["p99"], warm["max"], warm["batch seconds"])
        rows.append([f"{one['rate']:g}", *(f"{number:.1f}" for number in numbers)])
    head = ["events/s", "median, s", "99 of 100 within, s", "all within, s", "a micro-batch, s"]
    caught = figures["catch-up"]
    rates = {name: f"{caught[name]['messages/s']:,} messages/s" for name in ("Kafka to bronze", "Kafka to gold")}
    memory = ", ".join(f"{name} {mb:,} MB" for name, mb in figures["memory"].items())
    return f"""## The clickstream

Live: seconds from the producer's timestamp to the row in gold, after a warm-up.

{table(head, rows)}

Catching up with {caught["messages"]:,} messages: {rates["Kafka to bronze"]} from Kafka to bronze, \
{rates["Kafka to gold"]} through to gold. Resident memory afterwards: {memory}.
"""


def soak_section(figures: dict[str, Any]) -> str:
    """Return the effect of an hour, or less, of steady traffic on lag, latency, state and memory."""
    minutes = figures["soak"]
    tenths = [minutes[len(minutes) * tenth // 10] for tenth in range(2, 10, 2)] + minutes[-1:]
    rows = [
        [
            f"{one['minute']}",
            f"{one['lag']:,}",
            f"{one['median'] or 0:.1f}",
            f"{one['open']:,}",
            *(f"{mb:,}" for mb in one["engine, broker MB"]),
        ]
        for one in tenths
    ]
    return f"""## A steady clickstream

{len(minutes)} minutes at {figures["rate"]:g} events/s.

{table(["minute", "lag, messages", "median, s", "open sessions", "engine, MB", "broker, MB"], rows)}
"""


def course_section(figures: dict[str, Any]) -> str:
    """Return each day's time in each run, and the largest memory of each kind of process in any run."""
    runs = figures["runs"]
    rows = []
    for days in zip(*(one["days"] for one in runs), strict=True):
        peaks = [
            max(day[kind] for day in days) for kind in ("engine", "broker", "kernel", "runner", "server", "together")
        ]
        seconds = [f"{day['seconds']:.0f}" for day in days]
        rows.append([f"{days[0]['day']}  {days[0]['title']}", *seconds, *(f"{mb:,}" for mb in peaks)])
    largest = [max(int(row[column].replace(",", "")) for row in rows) for column in range(1 + len(runs), len(rows[0]))]
    totals = [f"{one['seconds']:.0f}" for one in runs]
    rows.append(["**all**", *(f"**{total}**" for total in totals), *(f"**{mb:,}**" for mb in largest)])
    runs_head = [f"run {number}, s" for number in range(1, len(runs) + 1)]
    return f"""## The course, day by day

`shopmetrics course` at scale 1, {len(runs)} times in one home and one engine; a JupyterLab server stands beside it.
Memory profile {figures["profile"]}, heap {figures["heap"]}: everything together may use {figures["limit"]}. Memory is
the largest resident memory in MB of that day, in any run. What processes share, such as libraries, is counted in each
of them, so together they hold less than the sum.

{table(["day", *runs_head, "engine", "broker", "kernel", "runner", "server", "sum"], rows)}
"""


def dashboard_section(figures: dict[str, Any]) -> str:
    """Part (f)."""
    rows = []
    for size, pages in figures.items():
        name = f"{int(size):,}" if int(size) else "snapshot"
        for page, seen in pages.items():
            if isinstance(seen, dict):
                shown = [f"{seen[key]:.2f}" if key in seen else "" for key in ("cold", "filter", "cpu")]
                rows.append([f"{name}: {page}", *shown])
    memory = ", ".join(
        f"{f'{int(size):,} orders' if int(size) else 'the snapshot'} {pages['resident MB']:,.0f} MB"
        for size, pages in figures.items()
    )
    return f"""## The dashboard's pages

Each page run by Streamlit's AppTest, without a browser, on a lakehouse of so many orders. Cold is the first view of the
page in a process; a change of a filter is the median of three. The overview's row includes Python's imports.

{table(["orders: page", "cold, s", "a filter, s", "CPU of the cold page, s"], rows)}

Resident memory of the process that has drawn all pages: {memory}.
"""


def stand(document: str) -> dict[str, str]:
    """Return the sections of a document by heading, in the order of the document."""
    sections = document.split("\n## ")[1:]
    return {section.split("\n", 1)[0]: f"## {section}" for section in sections}


class Part(StrEnum):
    """The parts that can be measured separately, in the order of the document."""

    course = "course"
    notebooks = "notebooks"
    batch = "batch"
    generation = "generation"
    streaming = "streaming"
    soak = "soak"
    dashboard = "dashboard"


def main(
    part: Annotated[list[Part] | None, typer.Option(help="Only this; the other sections stay. Default: all.")] = None,
    scale: Annotated[list[float] | None, typer.Option(help="Scales of the batch; 100 is 10 million orders.")] = None,
    day: Annotated[list[int] | None, typer.Option(help="Days whose notebooks are measured.")] = None,
    runs: Annotated[int, typer.Option(help="Runs of each kind; medians are shown.")] = 3,
    soak: Annotated[float, typer.Option(min=1, help="Minutes of steady clickstream at 200 events/s.")] = 60.0,
) -> None:
    """Measure everything, or some of it, and write the document."""
    console = Console()
    scales, days = scale or [1.0, 10.0, 100.0], day or [4, 5, 7]
    command = " ".join(["python -m benchmarks.report", *sys.argv[1:]])

    def course() -> str:
        return course_section(run(console, "course"))

    def notebooks() -> str:
        each_day = [argument for one in days for argument in ("--day", str(one))]
        return notebooks_section(run(console, "notebooks", *each_day, "--runs", str(runs)))

    def batch() -> str:
        return batch_section(
            [
                run(console, "batch", "--scale", f"{one:g}", "--runs", str(runs if one < 100 else 1),
                    SHOPMETRICS_SERVER_MEMORY="3g" if one >= 100 else "1g")
                for one in scales
            ]
        )  # fmt: skip

    def generation() -> str:
        return generators_section(run(console, "generation", "--scale", f"{min(scales[-1], 100):g}"))

    def streaming() -> str:
        return streaming_section(run(console, "streaming"))

    def steady() -> str:
        return soak_section(run(console, "streaming", "--soak", f"{soak * 60:g}", "--rate", "200"))

    def dashboard() -> str:
        return dashboard_section(run(console, "dashboard"))

    parts = (course, notebooks, batch, generation, streaming, steady, dashboard)
    measures = dict(zip(Part, parts, strict=True))
    sections = stand(DOCUMENT.read_text(encoding="utf-8")) if part else {}
    for one in Part:
        if part and one not in part:
            continue
        heading, _, text = measures[one]().partition("\n")
        seen = f"Seen on {datetime.now(UTC):%Y-%m-%d} by `{command}`."
        sections[heading.removeprefix("## ")] = f"{heading}\n\n{seen}\n{text}"
        # Each section is written as soon as it is measured, so that it is kept if the run ends early.
        DOCUMENT.write_text("\n".join([HEAD.format(machine=machine()), *sections.values()]), encoding="utf-8")
    console.print(f"written: {DOCUMENT}")


if __name__ == "__main__":
    typer.run(main)
