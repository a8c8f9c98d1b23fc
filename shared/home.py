"""The home directory as a whole: who may write in it, and everything that runs have made in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from shared.errors import PipelineError
from shared.runtime import kafka, spark
from shared.settings import Settings, get_settings

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another run in the same home to end."""


@contextmanager
def one_run_at_a_time(settings: Settings) -> Iterator[None]:
    """Let nobody else write tables of this home meanwhile. A thread that holds the lock may ask for it again.

    Raises:
        PipelineError: if another run does not end within ``LOCK_TIMEOUT``.
    """
    settings.run.mkdir(parents=True, exist_ok=True)
    lock = settings.run / "pipeline.lock"
    try:
        with FileLock(lock, timeout=LOCK_TIMEOUT, is_singleton=True):
            yield
    except Timeout:
        raise PipelineError(
            f"Another run holds {lock} and did not end within {LOCK_TIMEOUT:g} s.",
            "wait for it to end, then run again",
        ) from None


def clear(settings: Settings | None = None) -> list[str]:
    """End engine and broker and remove all that runs have made in the home; return the names of what was removed.

    Only the directories that this project makes are removed. Secrets and whatever else lies in the home stay.
    """
    settings = settings or get_settings()
    spark.down(settings)
    kafka.down(settings)
    made = [settings.raw, settings.lakehouse, settings.checkpoints, settings.kafka, settings.lineage, settings.run]
    removed = [directory.name for directory in made if directory.is_dir()]
    for name in removed:
        shutil.rmtree(settings.home / name)
    return removed
