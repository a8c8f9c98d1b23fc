"""How much memory all processes together may use, and how much of it the servers take.

The limit is the smaller of the machine's memory and the limits of the control groups. A container, as on Binder, sees
the whole machine's memory, but is killed at a fraction of it. With little memory the servers start with a profile for
small machines. If ``SHOPMETRICS_SERVER_MEMORY`` is set, it is always the engine's heap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil

from shared.errors import EngineError
from shared.settings import Settings

MB = 2**20

NEEDS = {"engine": 900, "Kafka broker": 150, "JupyterLab": 100, "notebook": 250, "`shopmetrics course`": 150}
"""MB of memory that each process needs when the course runs at scale 1 with the small profile."""

LEAST_MB = sum(NEEDS.values())

SMALL_BELOW_MB = 3_500
"""Below this limit the small profile is used: the standard profile takes 2 GB and would leave no room for notebooks."""


@dataclass(frozen=True)
class Limit:
    """How much memory all processes together may use, and the source of this limit: the machine or a control group."""

    bytes: int
    source: str

    @property
    def mb(self) -> int:
        """The limit in MB."""
        return self.bytes // MB

    def __str__(self) -> str:
        return f"{self.mb:,} MB ({self.source})"


@dataclass(frozen=True)
class Profile:
    """How the servers' memory is set up."""

    name: str
    heap: str
    engine: tuple[str, ...]
    """Options of the engine's JVM, without its heap."""
    broker: tuple[str, ...]
    """Options of the broker's JVM."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the engine."""


_STANDARD = Profile(
    "standard",
    heap="1g",
    engine=(
        # A nightly run executes many short plans, which leave much garbage. G1 needs a tenth more CPU for it.
        "-XX:+UseParallelGC",
        # Most of Spark's code runs too rarely here to repay the time of the optimising compiler. So that compiler
        # starts after four times as many calls as by default.
        "-XX:Tier4InvocationThreshold=20000",
        "-XX:Tier4MinInvocationThreshold=2400",
        "-XX:Tier4CompileThreshold=60000",
        "-XX:Tier4BackEdgeThreshold=160000",
    ),
    broker=("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
)

_SMALL = Profile(
    "small",
    heap="512m",
    engine=(
        # One collector thread, and no tables beside the heap. 300 MB of the heap live long: caches, plans, code.
        "-XX:+UseSerialGC",
        "-XX:MaxNewSize=96m",
        # Without the optimising compiler, which needs working memory and generates more code.
        "-XX:TieredStopAtLevel=1",
        "-XX:ReservedCodeCacheSize=96m",
        # Buffers of Arrow and of the network: by default they may be as large as the heap, with pools for each core.
        "-XX:MaxDirectMemorySize=128m",
        "-Dio.netty.allocator.numDirectArenas=1",
        "-Dio.netty.allocator.numHeapArenas=1",
    ),
    broker=("-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=32m"),
    # The C library keeps freed memory in arenas, by default up to eight per core.
    variables={"MALLOC_ARENA_MAX": "2"},
)


@dataclass(frozen=True)
class Memory:
    """The memory limit, and the profile and heap that follow from it."""

    limit: Limit
    set_heap: str | None
    """The value of ``SHOPMETRICS_SERVER_MEMORY``; None if it is not set."""

    @cached_property
    def profile(self) -> Profile:
        """The profile for this limit."""
        return _SMALL if self.limit.mb < SMALL_BELOW_MB else _STANDARD

    @property
    def heap(self) -> str:
        """The engine's heap."""
        return self.set_heap or self.profile.heap

    def __str__(self) -> str:
        heap = f"heap {self.heap}" + (" as set in SHOPMETRICS_SERVER_MEMORY" if self.set_heap else "")
        return f"profile {self.profile.name}, {heap}: everything together may use {self.limit}"

    def check(self) -> None:
        """Raise EngineError if the limit is too small. There is no check if the user sets the heap."""
        if self.limit.mb < LEAST_MB and not self.set_heap:
            needs = ", ".join(f"{name} {mb} MB" for name, mb in NEEDS.items())
            raise EngineError(
                f"Everything together may use {self.limit} here, which is too little: the course needs at least "
                f"{LEAST_MB:,} MB ({needs}).",
                "give this container or machine 2 GB; or set SHOPMETRICS_SERVER_MEMORY, for example to 400m, and "
                "SHOPMETRICS_SCALE=0.1 to try it with less",
            )


def memory(settings: Settings) -> Memory:
    """Return how much memory all processes together may use, and how much of it the servers take."""
    return Memory(limit(), settings.server_memory)


def limit(proc: Path = Path("/proc")) -> Limit:
    """Return the smallest of the machine's memory and the limits of this process's control groups."""
    machine = Limit(psutil.virtual_memory().total, "the machine's memory")
    return min([machine, *_group_limits(proc)], key=lambda one: one.bytes)


def _group_limits(proc: Path) -> Iterator[Limit]:
    for group, top, names in _groups(proc):
        # A parent group may have a lower limit. The topmost group that a process can see is the mount point.
        for directory in (group, *group.parents):
            text = _read(directory / names.limit).strip()
            if text.isdigit():  # else "max"
                yield Limit(int(text), f"limit in {directory / names.limit}")
            if directory == top:
                break


@dataclass(frozen=True)
class _Names:
    """The file names in one version of the control groups."""

    limit: str
    events: str


_V1 = _Names("memory.limit_in_bytes", "memory.oom_control")
_V2 = _Names("memory.max", "memory.events")


def _groups(proc: Path) -> Iterator[tuple[Path, Path, _Names]]:
    """Find the groups of this process that may limit memory: the group's directory, the topmost one, the file names.

    A machine may have both versions mounted, and one of them may lack the memory controller.
    """
    paths = {}
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            paths["cgroup"] = path
        elif number == "0" and not controllers:
            paths["cgroup2"] = path
    for line in _read(proc / "self" / "mountinfo").splitlines():
        # Fields 4 and 5 are the root of the mount and the mount point. After the hyphen: type, source, options.
        mount, _, system = line.partition(" - ")
        root, where = (_unescaped(field) for field in mount.split()[3:5])
        kind, *_, options = system.split()
        if kind not in paths or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        top, group = Path(where), Path(paths[kind])
        # In a container the root of the mount may be the container's own group, or a group that it cannot see.
        below = group.relative_to(root) if group.is_relative_to(root) and ".." not in group.parts else Path()
        yield top / below, top, _V2 if kind == "cgroup2" else _V1


def _unescaped(field: str) -> str:
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux, or this version of the control groups has no such file
        return ""


@dataclass(frozen=True)
class KillCounter:
    """The file in which the system counts the processes it killed for lack of memory, and its count at a first look."""

    path: str
    count: int

    def now(self) -> int:
        """Return the present count; the earlier count if the file cannot be read."""
        found = re.search(r"^oom_kill (\d+)$", _read(Path(self.path)), re.MULTILINE)
        return int(found[1]) if found else self.count


def kill_counter(proc: Path = Path("/proc")) -> KillCounter:
    """Return the counter of this process's group, or that of the whole machine where the group has none."""
    files = [group / names.events for group, _, names in _groups(proc)]
    for path in (*files, proc / "vmstat"):
        counter = KillCounter(str(path), -1)
        if (count := counter.now()) >= 0:
            return KillCounter(str(path), count)
    return KillCounter("", 0)
