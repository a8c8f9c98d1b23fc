"""Prepare a machine: fetch the jars, and make the engine's start-up cache.

This is the last step of ``make setup``. If everything exists already, it takes a fraction of a second.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from shared.errors import ShopMetricsError
from shared.runtime import spark, startup_cache
from shared.runtime.install import Line
from shared.runtime.jars import SERVERS, ensure_jars, listed_jars, shared_pyspark_jars, wanting
from shared.runtime.java import find_java
from shared.runtime.memory import memory
from shared.runtime.process import launch
from shared.settings import CHECKOUT, PREFIX, Settings, get_settings

MAKING_NEEDS = 3 * 2**30
"""Bytes of memory for an engine and for the JVM that makes the start-up cache beside it; the latter needs 1.1 GB."""


def prepare(settings: Settings | None = None, *, quiet: bool = False, wait: bool = False) -> None:
    """Prepare everything that a first start needs.

    The jars are fetched before this returns. The engine's start-up cache is made in the background, because a start
    without it is only slower, and nothing else waits for it.

    Args:
        settings: defaults to this process's settings.
        quiet: print only what takes time or fails.
        wait: make the start-up cache before returning, as the build of an image needs it.

    Raises:
        EngineError: if the jars cannot be fetched; or, with ``wait``, if the start-up cache cannot be made.
    """
    settings = settings or get_settings()
    java = find_java(settings)
    _fetch_jars(settings)
    shared_pyspark_jars(settings)
    class_path = spark.class_path_if_complete(settings)
    if not quiet:
        listed = sum(len(listed_jars(server)) for server in SERVERS)
        print(f"Java {java.major}, {java.source}; {listed} jars verified")
    cache = startup_cache.cache_path(settings, java, class_path)
    obstacle = startup_cache.why_not(settings, java)
    if not obstacle and not cache.is_file() and not os.access(settings.cache_dir, os.W_OK):
        obstacle = f"{settings.cache_dir} cannot be written"
    if obstacle:
        if not quiet:
            print(f"No start-up cache: {obstacle}")
        return
    if not cache.is_file():
        startup_cache.remove_unused(settings)
        if not wait and min(memory(settings).limit.bytes, psutil.virtual_memory().available) < MAKING_NEEDS:
            print(
                "No start-up cache: too little memory to make it beside an engine; `shopmetrics setup --wait` makes it"
            )
            return
        if not wait:
            print("The engine's start-up cache is made in the background; until then the engine starts without it")
            _prepare_later(settings)
            return
        print("Making the engine's start-up cache, a minute or two, once", flush=True)
        startup_cache.make(cache, java, spark.java_options(settings, java, class_path))
    if not quiet:
        print(f"Start-up cache ready ({cache.stat().st_size / 2**20:.0f} MB)")


def _fetch_jars(settings: Settings) -> None:
    missing = wanting(settings)
    if not missing:
        return
    total = sum(jar.bytes for jar in missing) / 2**20
    print(f"Fetching {len(missing)} jars ({total:.0f} MB)", flush=True)
    line = Line()
    try:
        ensure_jars(settings, told=lambda arrived: line.say(f"{arrived / 2**20:.0f} of {total:.0f} MB"))
    finally:
        line.clear()


def log_path(settings: Settings) -> Path:
    """Return the log of the background process that makes the start-up cache; it says why the process failed."""
    return settings.cache_dir / "startup-cache.log"


def _prepare_later(settings: Settings) -> None:
    if not startup_cache.is_being_made(settings):
        variables = {f"{PREFIX}CACHE_DIR": str(settings.cache_dir)}
        launch([sys.executable, "-m", __name__], log_path(settings), CHECKOUT, variables)


if __name__ == "__main__":
    # Every other process has priority on the processor, and survives this one if memory is short.
    os.nice(19)
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        prepare(quiet=True, wait=True)
    except ShopMetricsError as error:
        sys.exit(f"error: {error}")
