"""How long an event takes from the producer to gold, live; and how fast the streams catch up with a full topic.

    .venv/bin/python -m benchmarks.streaming --rate 1 --rate 20 --rate 50 --seconds 120 --catch-up 1000000

The benchmark has a home of its own, with its own engine and broker. The stream itself measures the latency of every
micro-batch, from the producer's timestamp in Kafka to the moment after the commit to gold. The first third of each
rate's micro-batches, during which the JVM is still compiling, is shown separately. With ``--soak 3600 --rate 200`` the
benchmark runs for an hour and shows state, lag and memory every minute.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def produce(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the producer in a process of its own."""
    command = [sys.executable, "-m", "generators.produce_clickstream", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def batches(spark: Any, after: int) -> list[Any]:
    rows: list[Any] = spark.table("ops.stream_log").where(f"batch_id > {after}").orderBy("batch_id").collect()
    return rows


def latencies(rows: list[Any]) -> dict[str, float]:
    """Return the latencies over all micro-batches; in the median each counts as often as it had messages."""
    weighted = sorted((row["latency_median"], row["rows_read"]) for row in rows)
    total, seen, median = sum(count for _, count in weighted), 0, 0.0
    for value, count in weighted:
        seen += count
        if seen * 2 >= total:
            median = value
            break
    return {
        "median": round(median, 2),
        "p99": round(max(row["latency_p99"] for row in rows), 2),
        "max": round(max(row["latency_max"] for row in rows), 2),
        "batch seconds": round(statistics.median(row["seconds"] for row in rows), 2),
    }


def live(spark: Any, console: Console, rate: float, seconds: float) -> dict[str, Any]:
    """Produce at a rate while the streams run; return the latencies of the first third of the batches and the rest."""
    from shared import streaming

    before = spark.table("ops.stream_log").count() and batches(spark, -1)[-1]["batch_id"]
    with streaming.Live(spark) as stream:
        producer = produce("--rate", str(rate), "--duration", str(seconds), "--seed", str(round(rate * 1000)))
        producer.wait()
        while stream.status().lag:
            time.sleep(0.5)
    rows = batches(spark, before)
    third = max(1, len(rows) // 3)
    figures = {
        "rate": rate,
        "batches": len(rows),
        "warming up": latencies(rows[:third]),
        "warm": latencies(rows[third:]),
    }
    console.print(figures)
    return figures


def catch_up(spark: Any, console: Console, messages: int) -> dict[str, Any]:
    """Fill the topic, then let bronze catch up with it, and after that silver and gold."""
    from shared.runtime import kafka
    from shared.streaming import queries

    produce("--day", "1", "--rate", "100", "--duration", str(messages / 100), "--speedup", "0").wait()
    bronze = spark.table("bronze.clickstream_raw")
    before, begun = bronze.count(), time.perf_counter()
    queries.start_bronze(spark, kafka.connect()).awaitTermination()
    to_bronze, rows = time.perf_counter() - begun, bronze.count() - before
    begun = time.perf_counter()
    queries.start_silver_gold(spark).awaitTermination()
    to_gold = time.perf_counter() - begun
    figures = {
        "messages": rows,
        "Kafka to bronze": {"seconds": round(to_bronze, 1), "messages/s": round(rows / to_bronze)},
        "Kafka to gold": {"seconds": round(to_bronze + to_gold, 1), "messages/s": round(rows / (to_bronze + to_gold))},
    }
    console.print(figures)
    return figures


def soak(spark: Any, console: Console, rate: float, seconds: float) -> list[dict[str, Any]]:
    """Produce at a rate for a long time, and return the status of the streams at every minute.

    The status holds the lag, the latency of gold, the number of open sessions, which are the streams' only state, and
    the memory of engine and broker.
    """
    from shared import streaming
    from shared.runtime import kafka
    from shared.runtime import spark as engine

    minutes = []
    with streaming.Live(spark) as stream:
        producer = produce("--rate", str(rate), "--duration", str(seconds))
        while producer.poll() is None:
            time.sleep(60)
            status, servers = stream.status(), (engine.running(), kafka.running())
            memory = [round(server.memory_mb()) if server else 0 for server in servers]
            minutes.append(
                {
                    "minute": len(minutes) + 1,
                    "lag": status.lag,
                    "median": status.latency_median,
                    "open": status.open_sessions,
                    "engine, broker MB": memory,
                }
            )
            console.print(minutes[-1])
    return minutes


def main(
    rate: Annotated[list[float], typer.Option(help="Events per second, live.")] = [1.0, 20.0, 50.0],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="How long at each rate.")] = 120.0,
    messages: Annotated[
        int, typer.Option("--catch-up", help="Messages to catch up with; 0 leaves it out.")
    ] = 1_000_000,
    soaking: Annotated[float, typer.Option("--soak", help="Seconds at the last rate instead.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,
) -> None:
    """Measure in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="shopmetrics-bench-") as scratch:
        os.environ["SHOPMETRICS_HOME"] = str(Path(scratch))
        from shared.settings import read_again

        read_again()
        import shared
        from shared import streaming
        from shared.runtime import kafka
        from shared.runtime import spark as engine

        console = Console(stderr=True)
        figures: dict[str, Any] = {}
        try:
            spark = shared.connect()
            kafka.connect()
            streaming.create_tables(spark)
            if soaking:
                figures |= {"rate": rate[-1], "soak": soak(spark, console, rate[-1], soaking)}
            else:
                figures["live"] = [live(spark, console, one, seconds) for one in rate]
                if messages:
                    figures["catch-up"] = catch_up(spark, console, messages)
            servers = {"engine": engine.running(), "broker": kafka.running()}
            figures["memory"] = {name: round(one.memory_mb()) for name, one in servers.items() if one}
        finally:
            engine.down()
            kafka.down()
    print(json.dumps(figures) if as_json else figures["memory"])


if __name__ == "__main__":
    typer.run(main)
