"""The memory limit, read from the control groups in a fake ``/proc``: v1 and v2, nested."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from memory_group import memory_group

from shared.errors import EngineError, OutOfMemoryError, is_engine_gone
from shared.runtime import doctor
from shared.runtime import memory as memory_module
from shared.runtime import spark as engine
from shared.runtime.memory import LEAST_MB, MB, SMALL_BELOW_MB, Limit, Memory, kill_counter, limit, memory
from shared.runtime.process import ServerRecord, started
from shared.settings import CHECKOUT

MACHINE = psutil.virtual_memory().total
UNLIMITED_V1 = str(9223372036854771712)


def fake_proc(tmp_path: Path, groups: str, mounts: dict[str, tuple[str, str]], files: dict[str, str]) -> Path:
    """A ``/proc`` whose process is in these groups. Each mount has a directory, its root and its file system."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(groups)
    lines = ["21 20 0:19 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"]
    for where, (root, system) in mounts.items():
        name = str(tmp_path / where).replace(" ", "\\040")
        lines.append(f"35 31 0:32 {root} {name} rw,relatime shared:9 - {system}\n")
    (proc / "self" / "mountinfo").write_text("".join(lines))
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return proc


V1 = "cgroup cgroup rw,memory"
V2 = "cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "found"),
    [
        pytest.param(
            "0::/a/b\n", {"fs": ("/", V2)}, {"fs/a/b/memory.max": str(2048 * MB)}, "fs/a/b/memory.max", id="v2"
        ),
        pytest.param(
            "0::/a/b\n",
            {"fs": ("/", V2)},
            {"fs/a/b/memory.max": "max", "fs/a/memory.max": str(2048 * MB)},
            "fs/a/memory.max",
            id="v2, the group around it",
        ),
        pytest.param(
            "0::/a/b\n",
            {"fs": ("/", V2)},
            {"fs/a/b/memory.max": str(3000 * MB), "fs/a/memory.max": str(2048 * MB)},
            "fs/a/memory.max",
            id="v2, both, the smaller one outside",
        ),
        pytest.param(
            "0::/\n", {"fs": ("/", V2)}, {"fs/memory.max": str(2048 * MB)}, "fs/memory.max", id="v2, a namespace"
        ),
        pytest.param(
            "4:memory:/a/b\n",
            {"fs": ("/", V1)},
            {"fs/a/b/memory.limit_in_bytes": UNLIMITED_V1, "fs/a/memory.limit_in_bytes": str(2048 * MB)},
            "fs/a/memory.limit_in_bytes",
            id="v1, the group around it",
        ),
        pytest.param(
            "5:cpu,memory:/docker/1f\n",
            {"fs": ("/docker/1f", "cgroup cgroup rw,cpu,memory")},
            {"fs/memory.limit_in_bytes": str(2048 * MB)},
            "fs/memory.limit_in_bytes",
            id="v1, a container that sees its own group only",
        ),
        pytest.param(
            "4:memory:/../../elsewhere\n",
            {"fs": ("/", V1)},
            {"fs/memory.limit_in_bytes": str(2048 * MB)},
            "fs/memory.limit_in_bytes",
            id="v1, a group outside of what is mounted",
        ),
        pytest.param(
            "4:memory:/a\n3:cpu:/\n0::/\n",
            {"fs/cpu": ("/", "cgroup cgroup rw,cpu"), "fs/memory": ("/", V1), "fs/unified": ("/", V2)},
            {"fs/memory/a/memory.limit_in_bytes": str(2048 * MB), "fs/cpu/memory.limit_in_bytes": "1"},
            "fs/memory/a/memory.limit_in_bytes",
            id="both versions, memory in v1",
        ),
        pytest.param(
            "0::/a b\n", {"f s": ("/", V2)}, {"f s/a b/memory.max": str(2048 * MB)}, "f s/a b/memory.max", id="a space"
        ),
    ],
)
def test_the_limit_is_the_smallest_of_all_groups(tmp_path, groups, mounts, files, found):
    assert limit(fake_proc(tmp_path, groups, mounts, files)) == Limit(2048 * MB, f"limit in {tmp_path / found}")


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("0::/a\n", {"fs/a/memory.max": "max"}),
        ("0::/a\n", {"fs/a/memory.max": str(2 * MACHINE)}),
        ("4:memory:/a\n", {"fs/a/memory.limit_in_bytes": UNLIMITED_V1}),
        ("0::/not/there\n", {}),
    ],
)
def test_without_a_smaller_limit_it_is_the_machines_memory(tmp_path, groups, files):
    mounts = {"fs": ("/", V1 if "memory" in groups else V2)}
    assert limit(fake_proc(tmp_path, groups, mounts, files)) == Limit(MACHINE, "the machine's memory")


def test_a_system_without_proc_has_its_machines_memory(tmp_path):
    assert limit(tmp_path / "nothing").bytes == MACHINE


def test_a_real_group_is_read_and_its_victims_are_counted():
    inside = "from shared.runtime import memory as m; print(m.limit().mb, m.kill_counter().path)"
    with memory_group(100) as group:
        command = group.command(sys.executable, "-c", inside)
        ended = subprocess.run(command, cwd=CHECKOUT, text=True, capture_output=True, check=True)
        assert ended.stdout.split() == ["100", str(group.directory / group.events)]
        greedy = group.command(sys.executable, "-c", "bytearray(200 * 2**20)")
        assert group.killed() == 0
        assert subprocess.run(greedy).returncode == -signal.SIGKILL
        assert group.killed() == 1


def with_limit(monkeypatch: pytest.MonkeyPatch, mb: int) -> None:
    monkeypatch.setattr(memory_module, "limit", lambda: Limit(mb * MB, "limit in /sys/fs/cgroup/memory.max"))


def options(settings, tmp_path: Path) -> str:
    """The options of the engine's command."""
    from shared.runtime.java import find_java

    engine.java_command(settings, find_java(settings), [], {}, [], tmp_path / "engine.args")
    return (tmp_path / "engine.args").read_text()


def test_with_little_memory_the_servers_are_small(settings, tmp_path, monkeypatch):
    with_limit(monkeypatch, 2048)
    small = options(settings, tmp_path)
    assert "UseSerialGC" in small
    assert "MaxDirectMemorySize" in small
    assert "UseParallelGC" not in small
    assert memory(settings).profile.variables["MALLOC_ARENA_MAX"]
    heap = int(memory(settings).heap.removesuffix("m"))
    assert f"-Xmx{heap}m" in small
    assert heap < 1024

    with_limit(monkeypatch, SMALL_BELOW_MB)
    standard = options(settings, tmp_path)
    assert "-Xmx1g" in standard
    assert "UseSerialGC" not in standard


@pytest.mark.parametrize("mb", [800, 2048, 24_000])
def test_a_heap_that_is_set_is_taken_whatever_the_limit(settings, tmp_path, monkeypatch, mb):
    with_limit(monkeypatch, mb)
    chosen = settings.model_copy(update={"server_memory": "700m"})
    memory(chosen).check()
    assert "-Xmx700m" in options(chosen, tmp_path)
    assert "heap 700m as set in SHOPMETRICS_SERVER_MEMORY" in str(memory(chosen))


def test_too_little_is_said_before_anything_starts(settings, monkeypatch):
    with_limit(monkeypatch, 1024)
    monkeypatch.setattr(engine, "launch", lambda *_: pytest.fail("something was started"))
    with pytest.raises(EngineError) as raised:
        engine.up(settings)
    assert "1,024 MB (limit in /sys/fs/cgroup/memory.max)" in raised.value.problem
    assert f"at least {LEAST_MB:,} MB (engine " in raised.value.problem
    assert "2 GB" in raised.value.hint
    assert not settings.lakehouse.exists()


def test_two_gigabytes_are_enough_and_the_guide_says_what_is_not():
    Memory(Limit(2 * 1024 * MB, "2 GB"), None).check()
    guide = (CHECKOUT / "docs" / "deployment-guide.md").read_text()
    assert f"at least {SMALL_BELOW_MB:,} MB" in guide
    assert f"less than {LEAST_MB:,} MB" in guide
    small, standard = (Memory(Limit(mb * MB, ""), None).profile for mb in (LEAST_MB, SMALL_BELOW_MB))
    assert f"heap {small.heap.removesuffix('m')} MB" in guide
    assert f"heap {standard.heap.removesuffix('g')} GB" in guide


@pytest.mark.parametrize(
    ("mb", "is_problem", "words"), [(1024, True, "at least"), (2048, False, "profile small, heap ")]
)
def test_the_doctor_says_which_profile_and_why(settings, monkeypatch, mb, is_problem, words):
    with_limit(monkeypatch, mb)
    finding = doctor._memory(settings)
    assert words in finding.found
    assert "limit in /sys/fs/cgroup/memory.max" in finding.found
    assert (finding.verdict == "problem") == is_problem


# --- killed for memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "system", "name", "text"),
    [
        ("0::/a\n", V2, "fs/a/memory.events", "low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 9"),
        ("4:memory:/a\n", V1, "fs/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2"),
        ("4:memory:/../../elsewhere\n", V1, "fs/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2"),
        ("4:memory:/a\n", V1, "proc/vmstat", "nr_free_pages 7\noom_kill 2"),
    ],
)
def test_the_system_counts_whom_it_kills(tmp_path, groups, system, name, text):
    proc = fake_proc(tmp_path, groups, {"fs": ("/", system)}, {})
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    counter = kill_counter(proc)
    assert (counter.path, counter.count) == (str(path), 2)
    assert counter.now() == 2
    path.write_text("oom_kill 3\n")
    assert counter.now() == 3
    path.unlink()
    assert counter.now() == 2


def test_where_nobody_counts_nobody_was_killed(tmp_path):
    counter = kill_counter(tmp_path)
    assert counter.now() == counter.count == 0


@pytest.fixture
def record(tmp_path) -> ServerRecord:
    """The record of an engine that has ended. In its group the system had killed four processes before."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    began = started(ended.pid)
    ended.wait()
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 4\n")
    return ServerRecord("engine", ended.pid, began, 1, "token", "java", str(counter), 4)


def test_an_engine_that_was_killed_for_memory_is_an_error_that_says_what_to_set(record, settings, monkeypatch):
    with_limit(monkeypatch, 2048)
    Path(record.kills_path).write_text("oom_kill 5\n")
    with pytest.raises(OutOfMemoryError) as raised:
        engine._raise_if_out_of_memory(record, settings)
    assert "needed more than 2,048 MB (limit in /sys/fs/cgroup/memory.max)" in raised.value.problem
    assert "SHOPMETRICS_SERVER_MEMORY to less than " in raised.value.hint
    assert is_engine_gone(raised.value)


def test_an_engine_whose_heap_was_full_is_an_error_that_says_what_to_set(record, settings):
    settings.run.mkdir(parents=True)
    engine.log_path(settings).write_text("java.lang.OutOfMemoryError: Java heap space\n\tat a.B.c(D.java:1)\n")
    with pytest.raises(OutOfMemoryError, match="needs more than its heap of 1g"):
        engine._raise_if_out_of_memory(record, settings)


def test_an_engine_that_ended_otherwise_or_lives_is_no_such_error(record, settings):
    engine._raise_if_out_of_memory(record, settings)
    Path(record.kills_path).write_text("oom_kill 5\n")
    alive = replace(record, pid=os.getpid(), started=started(os.getpid()))
    engine._raise_if_out_of_memory(alive, settings)
