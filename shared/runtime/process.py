"""Child processes that outlive the command that started them: a record on disk, a start and a stop.

The record of a server, in ``run/<name>.json`` (mode 0600), holds its pid *and* the creation time of the process. So if
the system has given the pid to another process, that process is never mistaken for the server and never ended.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from shared.errors import EngineError
from shared.private import write_private

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServerRecord:
    """The record of a running server: how to reach it and how to recognise its process."""

    name: str
    pid: int
    started: float
    """When the process started, see :func:`started`: a pid is given to another process later on."""
    port: int
    token: str = field(repr=False)
    command: str
    kills_path: str = ""
    """The file in which the system counts the processes it kills for lack of memory; then its count at the start."""
    kills: int = 0

    def process(self) -> psutil.Process | None:
        """Return the running process of this record, or None if it has ended or its pid belongs to another process."""
        try:
            process = psutil.Process(self.pid)
            same = started(self.pid) == self.started
        except psutil.NoSuchProcess:
            return None
        return process if same and _is_alive(process) else None

    def memory_mb(self) -> float:
        """Return the resident memory of the process in MiB, 0 if it has ended."""
        process = self.process()
        return process.memory_info().rss / 2**20 if process else 0.0


def started(pid: int) -> float:
    """Return when a process started, in seconds: on Linux since the machine started, elsewhere since 1970.

    On Linux the start since 1970 is calculated with the clock of now. It changes when the clock is set, as after a
    virtual machine was paused, and a server that runs would not be recognised any more.

    Raises:
        psutil.NoSuchProcess: if there is no such process.
    """
    if sys.platform != "linux":
        return float(psutil.Process(pid).create_time())
    try:
        # Field 22, in clock ticks. The second field, the program's name in brackets, may contain spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def read_record(path: Path) -> ServerRecord | None:
    """Return the record in this file if its server runs; None if the file is missing or damaged or the server ended."""
    try:
        record = ServerRecord(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return record if record.process() else None


def write_record(path: Path, record: ServerRecord) -> None:
    """Write a record, so that other processes find the server."""
    write_private(path, json.dumps(asdict(record)))


def choose_port(wanted: int, setting: str) -> int:
    """Return a free loopback port: the wanted one, or any if it is 0.

    Raises:
        EngineError: if the wanted port is taken (the message names its setting), or no free port is found.
    """
    if not wanted:
        return _any_free_port()
    with socket.socket() as probe:
        if os.name == "posix":
            # Servers set this option too: a killed server's connections linger for a minute, but do not block its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            raise EngineError(
                f"{setting}={wanted}, but port {wanted} on {LOOPBACK} is already in use.",
                f"unset {setting} to let a free port be picked, or choose another",
            ) from None
    return wanted


def _any_free_port() -> int:
    """Return a free port below 32768: systems give ports from 32768 upwards to outgoing connections at any moment."""
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise EngineError(f"None of 100 ports that were tried on {LOOPBACK} is free.", "end what listens on so many")


def quoted(text: str) -> str:
    """Return a text in double quotes, as Java's argument files and login configurations read it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_listening(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def launch(
    command: Sequence[str | Path], log: Path, cwd: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that continues when this process ends. Its output goes to a log of mode 0600.

    Its environment is this process's environment plus the given variables.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # In a session of its own: Ctrl-C in the notebook or terminal that started it must not end it.
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=os.environ | (variables or {}),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def stop(record: ServerRecord, timeout: float = 30.0) -> bool:
    """End the server of this record and its children, by SIGTERM, else by SIGKILL. Returns whether it was running."""
    process = record.process()
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    process.terminate()
    for survivor in _await_end(family, timeout):
        survivor.kill()
    _await_end(family, 5.0)
    return True


def _await_end(processes: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until these processes have ended; return those that have not.

    A zombie counts as ended once it has no other thread: it exists only until its parent reads the exit code, and the
    parent may be a notebook's kernel that runs for hours. ``psutil.wait_procs`` would wait for the zombie.
    """
    deadline = time.monotonic() + timeout
    while alive := [process for process in processes if _is_alive(process)]:
        if time.monotonic() > deadline:
            return alive
        psutil.wait_procs(alive, timeout=0.05)
    return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        if not process.is_running():
            return False
        # The first thread of a killed JVM may be a zombie before the others have ended. Until then the port is taken.
        return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def log_tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log, indented for an error message."""
    if not log.is_file():
        return "    (no log)"
    text = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(f"    {line[:300]}" for line in text[-lines:]) or "    (the log is empty)"
