"""List the classes that an engine loads, in ``engine.classes.gz``. Every machine makes its start-up cache from it.

    make classes

Run it when the version of Spark, Delta or Java changes. An old list only makes a start slower: the JVM skips a class
that is no longer in the jars.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from shared.errors import EngineError
from shared.runtime import spark
from shared.runtime.startup_cache import CLASSES
from shared.settings import PREFIX, Settings, get_settings

WORK = (
    "generate --scale 0.01 --days 1",
    "pipeline run",
    "generate --scale 0.01 --days 2",
    "pipeline run",
    "produce --day 1 --speedup 0",
    "stream run",
)
"""The engine's work in the meantime: a history of a thousand orders, a day's changes to it, and a day of clicks."""


def rehearse(settings: Settings | None = None) -> None:
    """Run the commands in ``WORK`` on an engine in a temporary home, and store the list of the classes that it loaded.

    Raises:
        EngineError: if a step fails.
    """
    with tempfile.TemporaryDirectory(prefix="shopmetrics-") as directory:
        home, listed = Path(directory, "home"), Path(directory, "classes")
        rehearsal = (settings or get_settings()).model_copy(update={"home": home, "spark_port": 0, "kafka_port": 0})
        spark.start(rehearsal, ["-Xshare:off", f"-XX:DumpLoadedClassList={listed}"])
        try:
            for number, command in enumerate(WORK, 1):
                print(f"{number} of {len(WORK)}: shopmetrics {command}", flush=True)
                _shopmetrics(command, home)
        finally:
            _shopmetrics("down", home)
        # A class from one of Spark's own class loaders has a "source" with a path of this machine. Resolved
        # constants ("@cp") would double the list.
        lines = [
            line
            for line in listed.read_text().splitlines(keepends=True)
            if " source: " not in line and not line.startswith("@cp ")
        ]
    CLASSES.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"{len(lines):,} lines in {CLASSES.name}, {CLASSES.stat().st_size / 2**10:.0f} KB")


def _shopmetrics(command: str, home: Path) -> None:
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_REMOTE", "KAFKA_"))}
    result = subprocess.run(
        [sys.executable, "-c", "from shared.cli import main; main()", *command.split()],
        env=elsewhere | {f"{PREFIX}HOME": str(home)},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise EngineError(
            f"`shopmetrics {command}` failed:\n{result.stdout}{result.stderr}",
            "read the message; `shopmetrics doctor` looks for what a run needs",
        )


if __name__ == "__main__":
    rehearse()
