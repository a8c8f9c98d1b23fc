"""How long the engine takes until it is usable: cold with and without its start-up cache, and warm.

    .venv/bin/python benchmarks/engine.py --runs 3

Each run is a process of its own, like a notebook's kernel. Cold means that no server of this home was running. Times
are seconds since the start of the process. Compare the rows of one table, not tables of two machines.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

STEPS = ("connect", "first write read back", "merge", "query")

NOTEBOOK = """
import json, os, time
begun = time.time()
import shared
done = {}
spark = shared.connect()
done["connect"] = time.time() - begun
spark.sql("CREATE OR REPLACE TABLE ops.bench AS SELECT id, id * 2 AS twice FROM range(1000)")
assert spark.table("ops.bench").count() == 1000
done["first write read back"] = time.time() - begun
spark.sql("MERGE INTO ops.bench t USING (SELECT 5L AS id, 7L AS twice) s ON t.id = s.id "
          "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *")
done["merge"] = time.time() - begun
assert spark.sql("SELECT count(*) AS n FROM ops.bench").toPandas().n[0] == 1000
done["query"] = time.time() - begun
from shared.runtime.spark import running
import psutil
done["server MB"] = running().memory_mb()
done["kernel MB"] = psutil.Process().memory_info().rss / 2**20
print(json.dumps(done))
"""


def measure(home: Path, **environment: str) -> dict[str, float]:
    variables = os.environ | {"SHOPMETRICS_HOME": str(home)} | environment
    answer = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], env=variables, capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(answer.stdout)


def main(runs: Annotated[int, typer.Option(help="Runs of each kind; the median is shown.")] = 3) -> None:
    from shared.runtime import spark
    from shared.runtime.setup import prepare
    from shared.settings import get_settings

    prepare(quiet=True, wait=True)
    kinds: dict[str, list[dict[str, float]]] = {"cold, no cache": [], "cold, cache": [], "warm": []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(runs):
            for kind, cache in (("cold, no cache", "false"), ("cold, cache", "true")):
                home = Path(scratch) / f"{number}-{cache}"
                kinds[kind].append(measure(home, SHOPMETRICS_STARTUP_CACHE=cache))
                if cache == "true":
                    kinds["warm"].append(measure(home))
                spark.down(get_settings(home=home))
    columns = (*STEPS, "server MB", "kernel MB")
    table = Table("", *columns, box=None, header_style="bold")
    for kind, measured in kinds.items():
        medians = [statistics.median(entry[column] for entry in measured) for column in columns]
        table.add_row(kind, *(f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in medians))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
