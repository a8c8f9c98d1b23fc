from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from shared.errors import EngineError
from shared.private import private_directory
from shared.runtime import process
from shared.runtime.process import ServerRecord


@pytest.fixture
def child():
    started = subprocess.Popen([sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert started.stdout
    started.stdout.readline()
    yield started
    started.kill()
    started.communicate()


def record_of(pid: int, started: float | None = None) -> ServerRecord:
    return ServerRecord("engine", pid, process.started(pid) if started is None else started, 1, "token", "command")


def test_a_record_survives_the_disk_and_is_private(tmp_path, child):
    path = tmp_path / "engine.json"
    process.write_record(path, record_of(child.pid))
    assert process.read_record(path) == record_of(child.pid)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["engine.json"]


def test_a_record_that_is_shown_hides_its_token(child):
    record = replace(record_of(child.pid), token="hunter2")
    assert "hunter2" not in f"{record} {record!r} {[record]}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_torn_record_counts_as_none(tmp_path, text):
    path = tmp_path / "engine.json"
    path.write_text(text)
    assert process.read_record(path) is None


def test_a_pid_that_now_belongs_to_somebody_else_is_never_ended(child):
    somebody_else = record_of(child.pid, started=process.started(child.pid) - 3600)
    assert somebody_else.process() is None
    assert process.stop(somebody_else) is False
    assert child.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps the time at which a process started")
def test_a_process_is_recognised_after_the_clock_was_set(child, monkeypatch):
    record, before = record_of(child.pid), psutil.Process(child.pid).create_time()
    # As after a pause of a virtual machine. psutil calculates with the time at which the machine started.
    shifted = psutil.boot_time() + 60
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: shifted)
    assert psutil.Process(child.pid).create_time() - before > 50
    assert record.process() is not None


def test_stop_ends_the_process_and_its_children(child):
    assert process.stop(record_of(child.pid), timeout=10) is True
    assert record_of(os.getpid()).process() is not None
    assert not psutil.pid_exists(child.pid) or psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_whose_starter_lives_on_is_ended_without_waiting_for_its_starter():
    # The process stays a zombie until its parent, which may be a notebook's kernel, reads its exit code.
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        record = record_of(int(starter.stdout.readline()))
        begun = time.monotonic()
        assert process.stop(record, timeout=20) is True
        assert psutil.Process(record.pid).status() == psutil.STATUS_ZOMBIE
        assert time.monotonic() - begun < 10


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process whose first thread alone has ended")
def test_a_process_whose_first_thread_has_ended_runs_until_the_last_one_has():
    # So does a killed JVM for a moment, and its port is taken until then.
    code = (
        "import ctypes, os, sys, threading; "
        "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start(); print('ready', flush=True); "
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        record = record_of(child.pid)
        deadline = time.monotonic() + 30
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the first thread did not end within 30 s"
        assert record.process() is not None
        child.stdin.close()
        assert process._await_end([psutil.Process(child.pid)], 30.0) == []
        assert record.process() is None


def test_a_process_that_ignores_the_polite_request_is_ended_all_the_same():
    stubborn = subprocess.Popen(
        [sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
         "print('ready', flush=True); signal.pause()"], stdout=subprocess.PIPE)  # fmt: skip
    assert stubborn.stdout
    stubborn.stdout.readline()
    record = record_of(stubborn.pid)
    assert process.stop(record, timeout=0.2) is True
    assert record.process() is None
    stubborn.communicate()


def test_a_taken_port_is_named_with_the_setting_that_asked_for_it():
    with socket.socket() as taken:
        taken.bind((process.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=rf"SHOPMETRICS_SPARK_PORT={port}, but port {port} .* already in use"):
            process.choose_port(port, "SHOPMETRICS_SPARK_PORT")


def test_a_free_port_is_one_that_no_connection_is_given_meanwhile():
    ports = {process.choose_port(0, "") for _ in range(50)}
    assert len(ports) > 40
    assert all(1024 <= port < 32_768 for port in ports)
    with socket.socket() as server:
        server.bind((process.LOOPBACK, ports.pop()))


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"Cannot make the directory .*file/home(.|\n)*SHOPMETRICS_HOME"):
        private_directory(tmp_path / "file" / "home")
