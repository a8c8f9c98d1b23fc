"""A job's tasks run in order and with their parameters, and a failed task stops the tasks that depend on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.delivery import databricks_cli, tasks
from shared.errors import BundleError

SHOPMETRICS = Path(sys.executable).parent / "shopmetrics"
GOOD, BAD = ["settings", "--json"], ["generate", "--scale", "0"]
"""Two calls that need no engine: one succeeds, the other ends in an error."""


def job(**graph: tuple[list[str], list[str]]) -> dict[str, Any]:
    """A job with these tasks; each key has its parameters and the keys that it depends on."""
    return {
        "tasks": [
            {
                "task_key": key,
                "depends_on": [{"task_key": one} for one in needed],
                "python_wheel_task": {
                    "package_name": "shopmetrics",
                    "entry_point": "shopmetrics",
                    "parameters": parameters,
                },
            }
            for key, (parameters, needed) in graph.items()
        ]
    }


def test_tasks_run_after_those_that_they_depend_on_and_else_as_written() -> None:
    graph = job(d=(GOOD, ["b", "c"]), c=(GOOD, ["a"]), b=(GOOD, ["a"]), a=(GOOD, []))
    assert [task["task_key"] for task in tasks.order(graph)] == ["a", "c", "b", "d"]


def test_a_failed_task_stops_those_that_depend_on_it_and_no_others(capfd: pytest.CaptureFixture[str]) -> None:
    graph = job(
        first=(GOOD, []), broken=(BAD, ["first"]), after=(GOOD, ["broken"]), last=(GOOD, ["after"]), beside=(GOOD, [])
    )
    told: list[str] = []
    runs = tasks.run(graph, tell=lambda run: told.append(run.task_key))
    assert {run.task_key: run.state for run in runs} == {
        "first": "succeeded",
        "beside": "succeeded",
        "broken": "failed",
        "after": "upstream failed",
        "last": "upstream failed",
    }
    assert told == [run.task_key for run in runs]
    assert "error: " in capfd.readouterr().err, "the log says why"
    assert [run.seconds for run in runs if run.state == "upstream failed"] == [0.0, 0.0]


def test_a_task_gets_its_parameters(capfd: pytest.CaptureFixture[str]) -> None:
    runs = tasks.run(job(one=(["--catalog", "somewhere", *GOOD], [])))
    assert json.loads(capfd.readouterr().out)["SHOPMETRICS_CATALOG"] == "somewhere"
    assert runs[0].parameters == ("--catalog", "somewhere", *GOOD)


def test_only_the_tasks_that_are_asked_for_run() -> None:
    graph = job(first=(BAD, []), second=(GOOD, ["first"]), third=(GOOD, ["second"]))
    assert [(run.task_key, run.state) for run in tasks.run(graph, only=["second"], quiet=True)] == [
        ("second", "succeeded")
    ]


def test_the_code_of_an_unpacked_wheel_is_run_and_not_the_checkouts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("")
    (tmp_path / "shared" / "cli.py").write_text("def main():\n    print('of the wheel')\n")
    assert tasks.run(job(one=(GOOD, [])), code=tmp_path)[0].state == "succeeded"
    assert capfd.readouterr().out == "of the wheel\n"


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (job(a=(GOOD, ["b"]), b=(GOOD, ["a"])), "in a cycle: "),
        (job(a=(GOOD, ["b"])), "task a depends on b, which is not a task of the job"),
        ({"tasks": []}, "the job has no task"),
    ],
)
def test_what_cannot_be_put_in_order_is_not_run(graph: dict[str, Any], says: str) -> None:
    with pytest.raises(BundleError) as caught:
        tasks.run(graph)
    assert says in caught.value.problem
    assert caught.value.hint == "correct depends_on"


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(BundleError, match="no task gould") as caught:
        tasks.run(job(silver=(GOOD, []), gold=(GOOD, [])), only=["gould"])
    assert caught.value.hint == "choose from: silver, gold"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (["pipeline", "run", "--layer", "gold"], ""),
        (["--catalog", "dev", "stream", "run", "--available-now"], ""),
        (["pipeline", "run", "--layr", "gold"], "No such option: --layr"),
        (["pipeline", "run", "--layer", "golden"], "'golden' is not one of"),
        (["pipelin", "run"], "Did you mean 'pipeline'?"),
        (["pipeline"], "no command is named after 'pipeline'"),
        ([], "no command is named after 'shopmetrics'"),
        (["sql"], "Missing argument"),
    ],
)
def test_parameters_are_asked_of_the_wheels_own_command_line(parameters: list[str], says: str) -> None:
    assert says in tasks.refused(parameters)
    assert bool(tasks.refused(parameters)) == bool(says)


def shopmetrics(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SHOPMETRICS, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nightli"], "There is no job nightli in the bundle.\n  -> choose one of: clickstream, nightly"),
        (["nightly", "--only", "gould"], "There is no task gould in the job.\n  -> choose from: bronze, silver, gold"),
        (["nightly", "--target", "stage"], "databricks.yml has no target stage.\n  -> choose one of: dev, prod"),
    ],
)
def test_the_command_says_what_to_do(arguments: list[str], says: str) -> None:
    answer = shopmetrics("bundle", "run", *arguments)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {says}")


def test_what_databricks_own_command_refuses_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "databricks"
    program.write_text(
        '#!/bin/sh\ntest "$*" = "bundle validate --strict --target dev" && echo "unknown field: x" && exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    assert "no workspace is known" in databricks_cli.validate("dev")
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1")
    with pytest.raises(BundleError, match="refuses the bundle for dev:\nunknown field: x"):
        databricks_cli.validate("dev")


def test_validate_says_what_it_could_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    answer = shopmetrics("bundle", "validate", "--target", "prod")
    assert answer.returncode == 0
    assert "prod: 8 resources, 2 jobs; no problem found in the files" in answer.stdout
    assert "skipped, because the command databricks is not installed" in answer.stdout
