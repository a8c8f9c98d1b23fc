"""How long a day's notebook takes on the shared, warm engine, and on a Spark of its own with Spark's defaults.

    .venv/bin/python -m benchmarks.notebooks --day 4 --day 5 --scale 0.1

The rival does what a notebook usually does: it starts ``local[*]``, and sets only what Delta requires. Its start counts
as part of its time, as for a person who opens the notebook. Both run the same notebook in the same home, alternately,
and papermill executes both.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer
from rich.console import Console
from rich.table import Table

DEFAULTS = {
    "spark.master": "local[*]",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # Without these two settings the notebooks would print different outputs.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.sources.default": "delta",
    # The driver is reachable only from this machine. This setting costs and saves no time.
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.connect.grpc.binding.address": "127.0.0.1",
}


def measure(days: list[int], scale: float, runs: int) -> dict[str, Any]:
    """Return for each day the median seconds and peak MB of both."""
    from shared.course import execution
    from shared.course.days import day, select
    from shared.runtime import spark as engine
    from shared.settings import get_settings

    with tempfile.TemporaryDirectory(prefix="shopmetrics-bench-") as scratch:
        settings = get_settings(home=Path(scratch), scale=scale)
        figures: dict[str, Any] = {"scale": scale, "days": {}}

        def run(number: int, begun: float) -> tuple[float, float]:
            done = execution.execute(day(number).notebook, settings, {"scale": scale})
            assert done.failure is None, done.failure
            return time.perf_counter() - begun, done.peak_mb

        try:
            for before in select(None, max(days)):  # also makes the engine warm
                run(before.number, time.perf_counter())
            taken: dict[tuple[int, str], list[tuple[float, float]]] = {}
            for _ in range(runs):
                for number in days:
                    taken.setdefault((number, "shared"), []).append(run(number, time.perf_counter()))
                for number in days:
                    engine.down(settings)
                    begun = time.perf_counter()
                    with patch.object(engine, "spark_conf", lambda settings: dict(DEFAULTS)):
                        engine.start(settings, jvm_options=[])
                    taken.setdefault((number, "own"), []).append(run(number, begun))
                engine.down(settings)
                engine.up(settings)
                run(days[0], time.perf_counter())
        finally:
            engine.down(settings)
    for number in days:
        figures["days"][day(number).name] = {
            kind: {
                "wall": statistics.median(one for one, _ in taken[number, kind]),
                "mb": max(mb for _, mb in taken[number, kind]),
            }
            for kind in ("shared", "own")
        }
    return figures


def main(
    day: Annotated[list[int], typer.Option(help="Days to measure; those before them are run first.")],
    scale: Annotated[float, typer.Option(help="1 is 100,000 orders.")] = 0.1,
    runs: Annotated[int, typer.Option(help="Runs of each; the median is shown.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure these days."""
    figures = measure(day, scale, runs)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(title=f"notebooks at scale {scale:g}", box=None)
    for name in ("notebook", "shared engine, s", "its own, s", "ratio", "shared, MB", "own, MB"):
        table.add_column(name, justify="left" if name == "notebook" else "right")
    for name, one in figures["days"].items():
        ours, theirs = one["shared"], one["own"]
        ratio = theirs["wall"] / ours["wall"]
        numbers = (ours["wall"], theirs["wall"], ratio, ours["mb"], theirs["mb"])
        table.add_row(
            name, *(f"{number:,.1f}" for number in numbers[:3]), *(f"{number:,.0f}" for number in numbers[3:])
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
