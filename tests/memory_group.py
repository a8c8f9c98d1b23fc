"""A control group with little memory, like a container's, for tests that run in one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from shared.runtime import memory


@dataclass(frozen=True)
class MemoryGroup:
    """A control group, given by its directory; ``limit`` is the file with the number of bytes that it may use."""

    directory: Path
    limit: str
    events: str

    def set_limit(self, bytes: int) -> None:
        (self.directory / self.limit).write_text(str(bytes))

    def command(self, *command: str) -> list[str]:
        """Return a command that runs this command and its child processes in the group."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.directory / "cgroup.procs"), *command]

    def killed(self) -> int:
        """Return how many processes of the group the system has killed for lack of memory."""
        lines = (self.directory / self.events).read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))


@contextmanager
def memory_group(mb: int) -> Iterator[MemoryGroup]:
    """A group with this much memory and no swap, whose processes must end in it. Skips the test if none can be made."""
    made = None
    for own, top, names in memory._groups(Path("/proc")):
        is_v1 = names == memory._V1
        # In v2 a group with processes cannot have limited child groups, except for the topmost group.
        directory = (own if is_v1 else top) / f"shopmetrics-{time.monotonic_ns()}"
        with suppress(OSError):
            directory.mkdir()
            made = MemoryGroup(directory, names.limit, names.events)
            try:
                made.set_limit(mb * 2**20)
                made.killed()
                break
            except (OSError, StopIteration):
                directory.rmdir()
                made = None
    if made is None:
        pytest.skip("no control group of memory can be made here")
    with suppress(OSError):  # a system without swap has no such limit
        (made.directory / ("memory.memsw.limit_in_bytes" if is_v1 else "memory.swap.max")).write_text(
            str(mb * 2**20 if is_v1 else 0)
        )
    try:
        yield made
    finally:
        pids = [int(pid) for pid in (made.directory / "cgroup.procs").read_text().split()]
        alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        _, left = psutil.wait_procs(alive, timeout=30)
        if not left:
            made.directory.rmdir()
        assert not left, f"still running in the group: {left}"
