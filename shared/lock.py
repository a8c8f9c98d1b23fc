"""One writer at a time: the locks that are taken while tables of a home are written.

A lock is a file in the home. It keeps out other processes of this machine. On Databricks a home is a volume, which has
no locks, so nothing is locked: there a job has ``max_concurrent_runs: 1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import PipelineError
from shared.settings import Settings, on_databricks

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another run in the same home to end."""


@contextmanager
def one_run_at_a_time(settings: Settings) -> Iterator[None]:
    """Keep other runs from writing tables of this home during the block.

    A thread that holds the lock may take it again.

    Raises:
        PipelineError: if another run does not end within ``LOCK_TIMEOUT``.
    """
    with locked(settings, "pipeline"):
        yield


@contextmanager
def locked(settings: Settings, name: str) -> Iterator[None]:
    """Hold the lock of that name in this home. A thread that holds it may take it again.

    Raises:
        PipelineError: if another process or thread does not release it within ``LOCK_TIMEOUT``.
    """
    if on_databricks():
        yield
        return
    from filelock import FileLock, Timeout

    settings.run.mkdir(parents=True, exist_ok=True)
    lock = settings.run / f"{name}.lock"
    try:
        with FileLock(lock, timeout=LOCK_TIMEOUT, is_singleton=True):
            yield
    except Timeout:
        raise PipelineError(
            f"Another run holds {lock} and did not end within {LOCK_TIMEOUT:g} s.",
            "wait for it to end, then run again",
        ) from None
