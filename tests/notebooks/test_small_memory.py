"""The course in Binder's 2 GB for all processes together, and an engine that is killed for lack of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from memory_group import memory_group
from notebook_samples import Notebooks

from shared.course.days import DAYS
from shared.course.execution import execute
from shared.runtime import spark as engine
from shared.settings import CHECKOUT, Settings

BINDER_MB = 2048

ENTER = """\
import os, pathlib
pathlib.Path({group!r}, "cgroup.procs").write_text(str(os.getpid()))
import shared
spark = shared.connect()"""
"""Starts the engine in the group: a process starts in the group of its parent."""

SQUEEZE = """\
held = dict(line.split() for line in pathlib.Path({stat!r}).read_text().splitlines())
pathlib.Path({limit!r}).write_text(str(int(held.get("anon", held.get("rss"))) + 60 * 2**20))"""
"""Sets the limit to 60 MB more than the present memory of the group's processes."""

NEED_MORE = 'spark.range(5_000_000).selectExpr("collect_list(id) AS all").selectExpr("size(all)").collect()'
"""Needs more memory than these 60 MB, but less than the engine's heap."""


def learners_environment() -> dict[str, str]:
    """This process's variables without those that the tests set: a learner's environment."""
    return {
        name: text for name, text in os.environ.items() if name not in ("SHOPMETRICS_SPARK_CONF", "SHOPMETRICS_HOME")
    }


@pytest.mark.slow
def test_the_whole_course_runs_in_two_gigabytes_beside_a_jupyterlab_server() -> None:
    with memory_group(BINDER_MB) as group:
        command = group.command(sys.executable, "-m", "benchmarks.course", "--runs", "1", "--json")
        ended = subprocess.run(command, cwd=CHECKOUT, env=learners_environment(), text=True, capture_output=True)
        killed = group.killed()
    assert ended.returncode == 0, ended.stderr[-3000:]
    figures = json.loads(ended.stdout)
    assert killed == 0
    assert figures["profile"] == "small"
    assert [day["day"] for day in figures["runs"][0]["days"]] == [day.number for day in DAYS]


def test_a_kernel_that_was_killed_for_memory_is_told_from_one_that_died_otherwise(notebooks: Notebooks) -> None:
    day = notebooks.make("kept = bytearray(600 * 2**20)")
    program = (
        "import sys; from pathlib import Path; from shared.course.execution import execute; "
        "from shared.settings import get_settings; print(execute(Path(sys.argv[1]), get_settings()).failure.error)"
    )
    with memory_group(500) as group:
        command = group.command(sys.executable, "-c", program, str(day.notebook))
        ended = subprocess.run(command, cwd=CHECKOUT, text=True, capture_output=True)
        assert group.killed() == 1
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(
        "the kernel died: the system killed it, because everything together needed more than 500 MB"
    )


@pytest.mark.slow
def test_a_notebook_whose_engine_was_killed_for_memory_says_so_and_what_to_set(
    notebooks: Notebooks, settings: Settings
) -> None:
    with memory_group(BINDER_MB) as group:
        enter = ENTER.format(group=str(group.directory))
        files = {"stat": group.directory / "memory.stat", "limit": group.directory / group.limit}
        squeeze = SQUEEZE.format(**{name: str(path) for name, path in files.items()})
        day = notebooks.make(enter, squeeze, NEED_MORE)
        try:
            execution = execute(day.notebook, settings)
        finally:
            engine.down(settings)
        assert group.killed() == 1
    assert execution.failure is not None
    assert execution.failure.cell == 4
    assert execution.failure.error.startswith("OutOfMemoryError: The system killed the engine, because everything"), (
        execution.failure.error
    )
    assert "SHOPMETRICS_SERVER_MEMORY" in execution.failure.error
