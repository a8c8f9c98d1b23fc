"""How long each day of the course takes, and how much memory its processes use; the course runs twice in one home.

    .venv/bin/python -m benchmarks.course

The benchmark has a home of its own, with its own engine and broker. A JupyterLab server runs beside the course, as on a
learner's machine. The first run creates everything; the second finds a warm engine and the tables of the first. Memory
is resident memory, measured several times a second. The engine's child processes, such as the Python of a stream's
steps, count as the engine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

KINDS = ("engine", "broker", "kernel", "runner", "server")
"""The kinds of processes; ``runner`` is ``shopmetrics course``, ``server`` is JupyterLab."""

SAMPLE_EVERY = 0.3

_DAY = re.compile(r"day +(\d+) .* \.\.\.$")


class Peaks:
    """The largest resident memory by day: of each kind of process, and of all together, in MB."""

    def __init__(self, home: Path, server: int) -> None:
        self.by_day: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.day = 0
        self.runner = 0
        self._records = [
            (kind, home / "run" / f"{name}.json") for kind, name in (("engine", "engine"), ("broker", "kafka"))
        ]
        self._server = server

    def _pids(self) -> dict[str, int]:
        from shared.runtime.process import read_record

        records = {kind: read_record(path) for kind, path in self._records}
        servers = {kind: record.pid for kind, record in records.items() if record}
        return {"server": self._server, **servers, "runner": self.runner}

    def look(self) -> None:
        """Measure the resident memory now."""
        held: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        seen: set[int] = set()
        # The runner comes last, because it may have started the others.
        for kind, pid in self._pids().items():
            for process in _family(pid):
                if process.pid not in seen:
                    seen.add(process.pid)
                    held["kernel" if kind == "runner" and process.pid != pid else kind] += _resident_mb(process)
        peaks = self.by_day[self.day]
        for kind, mb in (*held.items(), ("together", sum(held.values()))):
            peaks[kind] = max(peaks[kind], mb)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def jupyterlab(home: Path) -> Iterator[int]:
    """Run an idle JupyterLab server on the loopback interface, and provide its pid."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
    with (home.parent / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield server.pid
    finally:
        server.terminate()
        server.wait(30)


def run(peaks: Peaks, console: Console, *arguments: str) -> dict[str, Any]:
    """Run the course in a process of its own; return its figures, with the memory of each day."""
    command = [sys.executable, "-c", "from shared.cli import main; main()", "course", "--json", *arguments]
    peaks.by_day.clear()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks.runner = child.pid
    answer: list[str] = []
    assert child.stdout
    assert child.stderr
    reader = threading.Thread(target=lambda out: answer.append(out.read()), args=(child.stdout,))
    reader.start()

    def follow(lines: Any) -> None:
        for line in lines:
            console.print(line.rstrip(), markup=False, highlight=False)
            if begun := _DAY.match(line):
                peaks.day = int(begun[1])

    follower = threading.Thread(target=follow, args=(child.stderr,))
    follower.start()
    while child.poll() is None:
        peaks.look()
        time.sleep(SAMPLE_EVERY)
    reader.join()
    follower.join()
    done: dict[str, Any] = json.loads(answer[0]) if answer[0] else {"failed": {"problem": f"exit {child.returncode}"}}
    if done.get("failed"):
        raise SystemExit(f"the course did not get to its end: {done['failed']['problem']}")
    days = [
        {"day": one["day"], "title": one["title"], "seconds": one["seconds"]}
        | {kind: round(mb) for kind, mb in peaks.by_day[one["day"]].items()}
        for one in done["days"]
    ]
    return {"days": days, "seconds": sum(one["seconds"] for one in days)}


def measure(console: Console, first: int, through: int | None, runs: int) -> dict[str, Any]:
    """Return the figures of each run, and the memory profile that was used."""
    from shared.runtime import kafka, spark
    from shared.runtime.memory import memory
    from shared.settings import get_settings, read_again

    with tempfile.TemporaryDirectory(prefix="shopmetrics-bench-") as scratch:
        home = Path(scratch) / "home"
        os.environ["SHOPMETRICS_HOME"] = str(home)
        read_again()
        days = ["--from", str(first), *(["--through", str(through)] if through else [])]
        here = memory(get_settings())
        figures: dict[str, Any] = {
            "profile": here.profile.name,
            "heap": here.heap,
            "limit": str(here.limit),
            "runs": [],
        }
        try:
            with jupyterlab(home) as server:
                peaks = Peaks(home, server)
                for _ in range(runs):
                    figures["runs"].append(run(peaks, console, *days))
        finally:
            spark.down()
            kafka.down()
    return figures


def main(
    first: Annotated[int, typer.Option("--from", help="First day; it must not need an earlier one.")] = 1,
    through: Annotated[int | None, typer.Option(help="Last day. Default: the last there is.")] = None,
    runs: Annotated[int, typer.Option(help="How often, in one home and one engine.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,
) -> None:
    """Run the course, and say what each day took."""
    console = Console(stderr=True)
    figures = measure(console, first, through, runs)
    if as_json:
        print(json.dumps(figures))
        return
    for number, one in enumerate(figures["runs"], start=1):
        console.print(f"run {number}: {one['seconds']:.0f} s, profile {figures['profile']}", highlight=False)
        for day in one["days"]:
            console.print(day, highlight=False)


if __name__ == "__main__":
    typer.run(main)
