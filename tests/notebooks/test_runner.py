"""The runner stops at a failing cell, at a notebook that did nothing, and at failing checks."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from notebook_samples import DAY_2, Notebooks, read
from rich.console import Console

from shared import catalog
from shared.course.checks import Result, write_receipt
from shared.course.checks.week1 import COURSE_DAYS
from shared.course.course_run import CourseRun, print_run, run
from shared.course.days import DAYS
from shared.course.execution import RAISES, environment, execute, parameters_of
from shared.errors import CourseError
from shared.runtime import spark as engine
from shared.settings import Settings, get_settings

REPORT = "checks.report(2, spark)"
PRETEND = "from shared.course import checks, course_run; checks.write_receipt(2, [], course_run.get_settings())"


def run_days(notebooks: Notebooks, *days: Any, **options: Any) -> CourseRun:
    return run(days, runs=notebooks.root / "runs", **options)


def test_days_run_in_order_and_what_they_cost_is_told(spark: Any, notebooks: Notebooks) -> None:
    catalog.drop_table(spark, COURSE_DAYS)
    first = notebooks.make(DAY_2, REPORT, slug="first")
    second = notebooks.make(DAY_2, "print('again')", REPORT, slug="second")
    before = first.notebook.read_bytes()
    result = run_days(notebooks, first, second)
    assert result.ok, result.error
    assert [day.name for day in result.days] == ["02_first", "02_second"]
    (table,) = result.days[0].tables
    assert (table.table, table.version, table.rows) == (COURSE_DAYS, 0, len(DAYS))
    assert result.days[1].tables[0].version == 1
    assert all(day.peak_mb > 100 and day.seconds > 0 and day.checks_passed == 1 for day in result.days)
    assert first.notebook.read_bytes() == before, "the source notebook is left alone"
    copy = nbformat.read(result.days[1].executed_copy, as_version=4)
    assert copy.cells[3].outputs[0].text == "again\n"
    # The report for people and the report for programs.
    console = Console(record=True, width=120, file=io.StringIO())
    print_run(result, console)
    line = rf"2\s+Sample\s+[\d.]+\s+[\d,]+\s+1 ok\s+ops\.course_days\s+0\s+{len(DAYS)}"
    assert re.search(line, console.export_text())
    content = json.loads(json.dumps(result.as_dict()))
    assert content["ok"]
    assert content["days"][0]["tables"] == [{"table": COURSE_DAYS, "version": 0, "rows": len(DAYS)}]


def test_a_day_that_needs_its_own_engine_is_left_out_where_another_is_named(
    spark: Any, notebooks: Notebooks, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = engine.running()
    assert record
    monkeypatch.setenv("SPARK_REMOTE", f"sc://localhost:{record.port}/;token={record.token}")
    other = notebooks.make(DAY_2, REPORT)
    own = replace(notebooks.make("raise SystemError", slug="own", number=3), own_engine=True)
    console = Console(record=True, width=120, file=io.StringIO())
    result = run_days(notebooks, own, other, console=console)
    assert result.ok, result.error
    assert ([day.day for day in result.days], result.left_out) == ([2], [3])
    assert "day  3  skipped: it needs an engine of its own" in console.export_text()
    assert result.as_dict()["left_out"] == [3]
    with pytest.raises(CourseError, match=r"Day 3 needs(.|\n)*SPARK_REMOTE unset"):
        run_days(notebooks, own)


def test_for_days_without_spark_no_engine_is_started(notebooks: Notebooks, here: None, settings: Settings) -> None:
    asked: list[Any] = []

    def check_day(number: int, spark: Any, settings: Settings) -> list[Result]:
        asked.append(spark)
        return [Result(number, "It holds", True, "", "", "")]

    pretend = PRETEND.replace("get_settings()", f"get_settings(home={str(settings.home)!r})")
    day = notebooks.make(pretend, number=2, spark=False)
    result = run_days(notebooks, day, settings=settings, check_day=check_day, console=Console(file=io.StringIO()))
    assert result.ok, result.error
    assert (asked, result.days[0].tables) == ([None], ())
    assert not engine.log_path(settings).exists()


def test_a_failing_cell_stops_the_run_and_is_shown(spark: Any, notebooks: Notebooks) -> None:
    bad = notebooks.make("x = {}\nx['missing']", "print('not reached')", slug="bad")
    after = notebooks.make("print('not reached either')", slug="after")
    result = run_days(notebooks, bad, after)
    assert not result.ok
    assert result.days == []
    error = result.error
    assert (error.failure.cell, error.failure.source, error.failure.error) == (
        2,
        "x = {}\nx['missing']",
        "KeyError: 'missing'",
    )
    assert "stopped in cell [2]" in error.problem
    assert "shopmetrics course --from 2" in error.hint
    copies = list((notebooks.root / "runs").rglob("*.ipynb"))
    assert [copy.name for copy in copies] == ["02_bad.ipynb"]
    assert nbformat.read(copies[0], as_version=4).cells[3].execution_count is None
    console = Console(record=True, width=120, file=io.StringIO())
    print_run(result, console)
    shown = console.export_text()
    assert "x['missing']" in shown
    assert "KeyError: 'missing'" in shown
    assert json.loads(json.dumps(result.as_dict()))["failed"]["cell"]["cell"] == 2


def test_a_notebook_that_does_nothing_does_not_pass(spark: Any, notebooks: Notebooks, here: None) -> None:
    # Tables and receipt exist from an earlier run, so a check of these alone would pass.
    write_receipt(2, [], get_settings())
    lazy = run_days(notebooks, notebooks.make("print('all done')"))
    assert "left no result of its checks" in lazy.error.problem
    assert "checks.report(2, spark)" in lazy.error.problem


def test_a_notebook_that_ran_in_another_home_does_not_pass(
    spark: Any, notebooks: Notebooks, here: None, tmp_path: Path
) -> None:
    elsewhere = PRETEND.replace("get_settings()", f"get_settings(home={str(tmp_path / 'other')!r})")
    result = run_days(notebooks, notebooks.make(elsewhere))
    assert list(tmp_path.glob("other/**/*.json")), "it left none there either"
    assert "left no result of its checks" in result.error.problem


def test_checks_that_fail_stop_the_run(spark: Any, notebooks: Notebooks, here: None) -> None:
    def check_day(number: int, *_: Any) -> list[Result]:
        return [Result(number, "The table is filled", False, "0 rows", "4 rows", "the insert was skipped")]

    result = run_days(notebooks, notebooks.make(PRETEND), check_day=check_day)
    assert "The table is filled" in result.error.problem
    assert "expected:    4 rows" in result.error.problem
    assert result.error.failure is None


@pytest.mark.slow
def test_a_notebook_may_restart_the_engine(notebooks: Notebooks, settings: Settings) -> None:
    restart = "import shared; from shared.runtime import spark; spark.down(); shared.connect()"
    asked: list[str] = []

    def check_day(number: int, spark: Any, settings: Settings) -> list[Result]:
        asked.append(spark.version)
        return []

    try:
        assert run_days(notebooks, notebooks.make(restart, PRETEND), settings=settings, check_day=check_day).ok
    finally:
        engine.down(settings)
    assert len(asked) == 1


def test_the_notebooks_own_check_stops_the_run_too(spark: Any, notebooks: Notebooks, here: None) -> None:
    spoil = f"spark.sql('INSERT INTO {COURSE_DAYS} SELECT * FROM {COURSE_DAYS} LIMIT 1')"
    result = run_days(notebooks, notebooks.make(DAY_2, spoil, REPORT))
    assert result.error.failure.cell == 4
    assert "CourseError: Day 2: 1 of 1 checks failed" in result.error.problem


def test_a_notebook_that_is_missing_or_none_is_refused_before_anything_runs(notebooks: Notebooks) -> None:
    good, gone = notebooks.make("print('ran')", slug="good"), notebooks.make(slug="gone")
    gone.notebook.unlink()
    with pytest.raises(CourseError, match=r"There is no notebook .*02_gone"):
        run_days(notebooks, good, gone)
    gone.notebook.write_text("{")
    with pytest.raises(CourseError, match=r"02_gone\.ipynb is not a notebook"):
        run_days(notebooks, good, gone)
    assert not (notebooks.root / "runs").exists()


# One notebook


def outputs(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


TELLING = """\
import os, sys, time
from shared.settings import get_settings

print(sys.executable, os.getcwd(), get_settings().home, get_settings().scale, time.tzname[0], hash("a"), sep="\\n")"""


def test_a_kernel_is_this_python_with_the_settings_of_the_run_and_goes_on_after_an_error_on_purpose(
    notebooks: Notebooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        json.dumps({"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(other.parent.parent))
    monkeypatch.chdir(tmp_path)
    settings = get_settings().model_copy(update={"home": tmp_path / "a $HOME", "scale": 0.25})
    day = notebooks.make(TELLING, "1 / 0", "print('reached')", "1 / 1", tags={1: [RAISES], 3: [RAISES]})
    execution = execute(day.notebook, settings)
    # Even the hash of a string is the same in every run.
    command = [sys.executable, "-c", "print(hash('a'))"]
    seeded = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True)
    told = [sys.executable, str(day.notebook.parent), f"{tmp_path}/a $HOME", "0.25", "UTC", seeded.stdout.strip()]
    assert outputs(execution.notebook).splitlines() == [*told, "reached"]
    # The error of the second cell is expected and no failure. The missing error of the last cell is the failure.
    assert execution.failure.cell == 5
    assert execution.failure.error == "the cell is tagged raises-exception, but ended without an error"


def test_a_parameter_is_put_below_its_cell_only_if_it_differs(spark: Any, notebooks: Notebooks, here: None) -> None:
    def check_day(*_: Any) -> list[Result]:
        return []

    day = notebooks.make("print('scale', scale)", PRETEND)
    default = run_days(notebooks, day, check_day=check_day)
    smaller = run_days(notebooks, day, check_day=check_day, settings=get_settings().model_copy(update={"scale": 0.5}))
    copies = [nbformat.read(result.days[0].executed_copy, as_version=4) for result in (default, smaller)]
    assert [outputs(copy) for copy in copies] == ["scale 1.0\n", "scale 0.5\n"]
    assert [cell.source for cell in copies[0].cells] == [cell.source for cell in read(day).cells]
    assert copies[1].cells[2].source == "# Parameters\nscale = 0.5\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("scale = settings.scale", "the line `scale = settings.scale`"),
        ("a, b = 1, 2", "the line `a, b = (1, 2)`"),
        ("import os", "the line `import os`"),
    ],
)
def test_a_parameters_cell_holds_literals_only(notebooks: Notebooks, source: str, message: str) -> None:
    notebook = read(notebooks.make())
    notebook.cells[1].source = source
    with pytest.raises(CourseError, match=re.escape(message)):
        parameters_of(notebook)


def test_parameters_are_read_with_their_values(notebooks: Notebooks) -> None:
    notebook = read(notebooks.make())
    notebook.cells[1].source = "# the default run\nscale: float = 1.0\nseed = 42\nnames = ['a', None]\n"
    assert parameters_of(notebook) == {"scale": 1.0, "seed": 42, "names": ["a", None]}


@pytest.mark.parametrize(
    "source",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        pytest.param("import os; os._exit(1)", marks=pytest.mark.slow),
    ],
)
def test_a_kernel_that_dies_is_a_failure_of_its_cell(notebooks: Notebooks, source: str) -> None:
    execution = execute(notebooks.make("1 + 1", source, "2 + 2").notebook, get_settings())
    assert (execution.failure.cell, execution.failure.source) == (3, source)
    assert execution.failure.error.startswith("the kernel died")


def test_ctrl_c_leaves_no_kernel_behind(notebooks: Notebooks, tmp_path: Path) -> None:
    started = tmp_path / "kernel"
    source = f"import os, threading; open({str(started)!r}, 'w').write(str(os.getpid())); threading.Event().wait()"
    day = notebooks.make(source)
    program = (
        "import sys; from pathlib import Path; from shared.course.execution import execute; "
        "from shared.settings import get_settings; execute(Path(sys.argv[1]), get_settings())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(day.notebook)],
        env=os.environ | environment(get_settings()),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: started.is_file() and started.read_text(), "the cell to start")
    kernel = psutil.Process(int(started.read_text()))
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode != 0
    assert "KeyboardInterrupt" in errors
    psutil.wait_procs([kernel], timeout=10)
    assert not kernel.is_running()


def wait_for(condition: Any, what: str, timeout: float = 60.0) -> None:
    import threading
    import time

    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        threading.Event().wait(0.05)
