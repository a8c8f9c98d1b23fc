"""Child processes that outlive the command that started them: a record on disk, a start and a stop.

A server is known by a record in ``run/<name>.json`` (mode 0600) that holds its pid *and* the instant the process
was created, so that a pid that the system has given to somebody else is never mistaken for ours, let alone ended.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from shared.errors import EngineError
from shared.private import write_private

LOOPBACK = "127.0.0.1"
_CLOCK_TOLERANCE = 2.0  # seconds; the creation time is derived from the boot time, which is adjusted now and then


@dataclass(frozen=True)
class ServerRecord:
    """What is known of a running server: how to reach it and how to recognise its process."""

    name: str
    pid: int
    created: float
    port: int
    token: str = field(repr=False)
    command: str
    kills_path: str = ""
    """Where the system counts the processes that it kills for lack of memory, and how many there were at the start."""
    kills: int = 0

    def process(self) -> psutil.Process | None:
        """Return the living process of this record, or None if it has ended or its pid is somebody else's."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _CLOCK_TOLERANCE
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def memory_mb(self) -> float:
        """Return the resident memory of the process in MiB, 0 if it has ended."""
        process = self.process()
        return process.memory_info().rss / 2**20 if process else 0.0


def read_record(path: Path) -> ServerRecord | None:
    """Return the record in this file if its server is alive; None for no file, a torn one or a dead server."""
    try:
        record = ServerRecord(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return record if record.process() else None


def write_record(path: Path, record: ServerRecord) -> None:
    """Keep a record for other processes to find."""
    write_private(path, json.dumps(asdict(record)))


def choose_port(wanted: int, setting: str) -> int:
    """Return a free loopback port: the wanted one, or any if it is 0.

    Raises:
        EngineError: if the wanted port is taken, naming the setting that asked for it; or none can be found.
    """
    if not wanted:
        return _any_free_port()
    with socket.socket() as probe:
        if os.name == "posix":
            # As servers do: the connections of one that was killed linger for a minute, and keep nobody out.
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
    """Return a free port that no connection is given meanwhile: systems take those from 32768 upwards."""
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
    """Start a process that lives on when this one ends, its output in a log of mode 0600.

    Its environment is that of this process, with the variables in addition.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # Its own session: Ctrl-C in the notebook or terminal that happened to start it must not end it.
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
    """End the server of this record and its children, politely first. Returns whether there was one to end."""
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

    A zombie has ended: it is kept only until the process that started it asks for its exit code, and that may be a
    notebook's kernel that lives on for hours. ``psutil.wait_procs`` would wait for it.
    """
    deadline = time.monotonic() + timeout
    while alive := [process for process in processes if _is_alive(process)]:
        if time.monotonic() > deadline:
            return alive
        psutil.wait_procs(alive, timeout=0.05)
    return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def log_tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log, indented for an error message."""
    if not log.is_file():
        return "    (no log)"
    text = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(f"    {line[:300]}" for line in text[-lines:]) or "    (the log is empty)"
