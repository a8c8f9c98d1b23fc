"""A job's tasks: their order, their problems, and a run of them on this machine's engine.

A task is a call of the wheel's console script. A workspace looks up the task's entry point in the wheel's metadata to
find the function to call. This module does the same in the metadata of the installed package. So it finds before the
run what the wheel's command line would refuse, such as an unknown command or a misspelt option.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from shared.errors import BundleError
from shared.settings import PREFIX, get_settings

PACKAGE = "shopmetrics"
"""Name of the wheel, and of its console script."""

State = Literal["succeeded", "failed", "upstream failed"]

_KINDS = "_task"
"""The suffix of the fields that say what a task does, such as ``python_wheel_task``."""

_CALL = (
    "import sys; from importlib.metadata import distribution; package, name = sys.argv[1:3]; sys.argv[:3] = [name]; "
    "(entry,) = distribution(package).entry_points.select(group='console_scripts', name=name); entry.load()()"
)
"""This program runs a task as a workspace does: it finds the entry point of the installed package, and calls it."""


@dataclass(frozen=True)
class TaskRun:
    """The result of one task of a run."""

    task_key: str
    state: State
    seconds: float
    """0 for a task that was not started."""
    parameters: tuple[str, ...]
    output: str = ""
    """The task's output, both streams in their order, if it was not shown."""


Tell = Callable[[TaskRun], None]


def order(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of a job, each after the tasks that it depends on; otherwise in the order of the file.

    Raises:
        BundleError: if the tasks depend on each other in a cycle, or on a task that does not exist.
    """
    if found := list(_graph_problems(job)):
        raise BundleError("The tasks cannot be put in order: " + "; ".join(found) + ".", "correct depends_on")
    written = {task["task_key"]: task for task in job["tasks"]}
    sorter = TopologicalSorter({key: dict.fromkeys(upstream(task)) for key, task in written.items()})
    sorter.prepare()
    keys: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=list(written).index)
        keys += ready
        sorter.done(*ready)
    return [written[key] for key in keys]


def upstream(task: Mapping[str, Any]) -> list[str]:
    """Return the keys of the tasks that a task depends on."""
    return [one["task_key"] for one in task.get("depends_on") or []]


def problems(job: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of a job's tasks that a deployment does not find.

    Args:
        job: the job, with variables replaced by their values.
        content: the content of ``databricks.yml``.
    """
    yield from _graph_problems(job)
    environments = [one.get("environment_key") for one in job.get("environments") or []]
    for task in job.get("tasks") or []:
        where = f"task {task.get('task_key')}"
        kinds = [field for field in task if field.endswith(_KINDS)]
        if len(kinds) != 1:
            yield f"{where}: it does {' and '.join(kinds) or 'nothing'}, expected exactly one of python_wheel_task, ..."
        if task.get("environment_key") not in environments:
            there = ", ".join(map(str, environments)) or "none"
            yield f"{where}: environment_key {task.get('environment_key')} is not defined, there is {there}"
        if wheel := task.get("python_wheel_task"):
            yield from (f"{where}: {problem}" for problem in _call_problems(wheel))
    if not (content.get("artifacts") or {}):
        yield "no artifact builds the wheel that the tasks call"


def _graph_problems(job: Mapping[str, Any]) -> Iterator[str]:
    keys = [task.get("task_key") for task in job.get("tasks") or []]
    if not keys:
        yield "the job has no task"
    yield from (f"task {key} is there {keys.count(key)} times" for key in dict.fromkeys(keys) if keys.count(key) > 1)
    graph = {str(task.get("task_key")): upstream(task) for task in job.get("tasks") or []}
    for key, needed in graph.items():
        for one in needed:
            if one not in graph:
                yield f"task {key} depends on {one}, which is not a task of the job: {', '.join(graph)}"
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        yield f"the tasks depend on each other in a cycle: {' -> '.join(error.args[1])}"


def _call_problems(wheel: Mapping[str, Any]) -> Iterator[str]:
    try:
        scripts = distribution(str(wheel.get("package_name"))).entry_points.select(group="console_scripts")
    except PackageNotFoundError:
        yield f"package {wheel.get('package_name')} is not installed, expected {PACKAGE}"
        return
    entry_point = wheel.get("entry_point")
    if entry_point not in scripts.names:
        yield f"entry point {entry_point} is not in the wheel, there is {', '.join(sorted(scripts.names))}"
        return
    if refusal := refused(wheel.get("parameters") or []):
        yield f"its parameters are refused: {refusal}"


def command_line() -> Any:
    """Return the wheel's command line as a click command, found by its entry point as in a workspace."""
    from typer.main import get_command

    (entry,) = distribution(PACKAGE).entry_points.select(group="console_scripts", name=PACKAGE)
    return get_command(sys.modules[entry.load().__module__].app)


def commands() -> set[str]:
    """Return the names of the commands that the wheel has."""
    return set(command_line().commands)


def refused(parameters: Sequence[str]) -> str:
    """Return why the wheel's command line refuses these parameters; empty if it accepts them. No command is run."""
    import typer

    # Typer uses its own copy of click or the installed one: the base classes of its errors show which.
    click_exception = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    command, name, rest, parent = command_line(), PACKAGE, list(parameters), None
    try:
        while hasattr(command, "commands"):
            if not rest:
                return f"no command is named after {name!r}"
            # As click does, but without a call: parse the group's own options, then go into the command.
            context = command.make_context(name, rest, parent=parent)
            left = [*context._protected_args, *context.args]
            if not left:
                return f"no command is named after {name!r}"
            parent = context
            name, command, rest = command.resolve_command(context, left)
        command.make_context(name, rest, parent=parent)
    except Exception as error:
        if not isinstance(error, click_exception):
            raise
        return str(error.format_message())  # type: ignore[attr-defined]
    return ""


# Running ------------------------------------------------------------------------------------------------------------


def run(
    job: Mapping[str, Any],
    only: Sequence[str] = (),
    code: Path | None = None,
    tell: Tell | None = None,
    quiet: bool = False,
) -> list[TaskRun]:
    """Run the tasks of a job in their order, each in a process of its own, on the engine of this home.

    A task starts if every task that it depends on has succeeded; otherwise it is skipped. A workspace does the same:
    there ``run_if`` defaults to ``ALL_SUCCESS``. Tasks that do not depend on each other run one after another, because
    there is only this machine.

    Args:
        job: the job, with variables replaced by their values.
        only: keys of the tasks to run; the tasks that they depend on count as succeeded. Defaults to all tasks.
        code: directory of an unpacked wheel to run instead of this checkout.
        tell: called with each task as it ends.
        quiet: return the tasks' output instead of showing it.

    Raises:
        BundleError: if the tasks cannot be put in order, or one of ``only`` does not exist.
    """
    ordered = order(job)
    keys = [task["task_key"] for task in ordered]
    if unknown := [key for key in only if key not in keys]:
        raise BundleError(f"There is no task {', '.join(unknown)} in the job.", f"choose from: {', '.join(keys)}")
    runs: dict[str, TaskRun] = {}
    for task in ordered:
        key, wheel = task["task_key"], task["python_wheel_task"]
        if only and key not in only:
            continue
        parameters = tuple(map(str, wheel.get("parameters") or ()))
        if all(runs[one].state == "succeeded" for one in upstream(task) if one in runs):
            begun = time.perf_counter()
            done = _call(wheel, parameters, code, quiet)
            state: State = "failed" if done.returncode else "succeeded"
            runs[key] = TaskRun(key, state, round(time.perf_counter() - begun, 1), parameters, done.stdout or "")
        else:
            runs[key] = TaskRun(key, "upstream failed", 0.0, parameters)
        if tell:
            tell(runs[key])
    return list(runs.values())


def _call(
    wheel: Mapping[str, Any], parameters: Sequence[str], code: Path | None, quiet: bool
) -> subprocess.CompletedProcess[str]:
    # The wheel's directory comes before the installed package, so its modules are found first. With -P, Python does not
    # search the current directory.
    path = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])] if code else []
    environment = os.environ | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})
    # The default home is beside the code, but the wheel's code is in another place.
    environment[f"{PREFIX}HOME"] = str(get_settings().home)
    if quiet:
        # The output is returned as plain text, but a notebook's environment asks every program for colours and bars.
        environment = {name: value for name, value in environment.items() if name not in _COLOURS} | {"NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", _CALL, wheel["package_name"], wheel["entry_point"], *parameters],
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )


_COLOURS = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PY_COLORS")
"""Variables that make a program write colours even if its output is not a terminal."""
