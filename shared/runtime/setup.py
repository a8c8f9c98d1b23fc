"""Prepare a machine: fetch the jars, then let the JVM record what the engine loads and does on a day.

``make setup`` ends with this. Running it again when everything is there takes a fraction of a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from shared.errors import EngineError
from shared.runtime import spark, startup_cache
from shared.runtime.jars import ensure_jars, wanting
from shared.runtime.java import find_java
from shared.runtime.process import stop
from shared.settings import PREFIX, Settings, get_settings

DUMP_TIMEOUT = 180.0
"""Seconds that the JVM may take to write its cache when it ends."""

REHEARSAL = (
    "generate --scale 0.01 --days 1",
    "pipeline run",
    "generate --scale 0.01 --days 2",
    "pipeline run",
)
"""What is run for the JVM to watch: a history of a thousand orders, and a day's changes to it."""


def prepare(settings: Settings | None = None, *, quiet: bool = False) -> None:
    """Make everything ready that a first start needs; leaves nothing running.

    Args:
        settings: of this process by default.
        quiet: say only what takes time or did not work.

    Raises:
        EngineError: if the jars cannot be had. A start-up cache that cannot be made is reported, not raised:
            the engine works without one.
    """
    settings = settings or get_settings()
    java = find_java(settings)
    missing = wanting(settings)
    if missing:
        print(f"Fetching {len(missing)} jars ({sum(jar.bytes for jar in missing) / 2**20:.0f} MB)", flush=True)
    jars = ensure_jars(settings)
    if not quiet:
        print(f"Java {java.major}, {java.source}; {len(jars)} jars verified")
    if not settings.startup_cache or java.major < startup_cache.OLDEST_JAVA:
        if not quiet:
            why = "switched off" if not settings.startup_cache else f"needs Java {startup_cache.OLDEST_JAVA}"
            print(f"No start-up cache: {why}")
        return
    class_path = spark.class_path_if_complete(settings)
    cache = startup_cache.cache_path(settings, java, class_path)
    with FileLock(settings.cache_dir / ".startup-cache.lock"):
        if not cache.is_file():
            print("Recording the engine's start-up cache: a rehearsal of two days, some four minutes, once", flush=True)
            _train(settings, cache)
            if not cache.is_file():
                print("No start-up cache was written; the engine starts without one, some seconds slower")
                return
            startup_cache.remove_others(cache, class_path)
    if not quiet:
        print(f"Start-up cache ready ({cache.stat().st_size / 2**20:.0f} MB)")


def _train(settings: Settings, cache: Path) -> None:
    """Let an engine do a day's work, and the JVM write down what classes that takes and how they are used."""
    scratch = cache.with_suffix(f".{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="shopmetrics-setup-") as home:
        rehearsal = settings.model_copy(update={"home": Path(home), "spark_port": 0})
        server = spark.start(rehearsal, startup_cache.record(scratch))
        try:
            for command in REHEARSAL:
                print(f"  shopmetrics {command}", flush=True)
                _shopmetrics(command, home)
            print("  writing it down", flush=True)
        finally:
            stop(server, timeout=DUMP_TIMEOUT)
        if scratch.is_file():
            os.replace(scratch, cache)


def _shopmetrics(command: str, home: str) -> None:
    elsewhere = {name: value for name, value in os.environ.items() if name != "SPARK_REMOTE"}
    result = subprocess.run(
        [sys.executable, "-c", "from shared.cli import main; main()", *command.split()],
        env=elsewhere | {f"{PREFIX}HOME": home},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise EngineError(
            f"The rehearsal `shopmetrics {command}` failed:\n{result.stdout}{result.stderr}",
            "read the message; `shopmetrics doctor` looks for what a run needs",
        )


if __name__ == "__main__":
    prepare()
