"""The command `shopmetrics course`, on sample notebooks, and on the course's own at a scale without stored outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from notebook_samples import DAY_2, Notebooks

from shared.course.days import DAYS
from shared.course.execution import environment
from shared.runtime import kafka
from shared.runtime import spark as engine
from shared.settings import Settings, get_settings

IN_FOLDER = """
import sys
from dataclasses import replace
from pathlib import Path
from shared.course import days

root = Path(sys.argv.pop(1))
days.DAYS = tuple(replace(day, root=root) for day in days.DAYS)
from shared.cli import main
main()
"""
"""A program like `shopmetrics` that takes the course's notebooks from another folder."""

DAY_3 = """\
import shared
from generators import generate
from shared.course import checks
from shared.settings import get_settings

generate(get_settings().raw, scale=scale, days=1, progress=False)
spark = shared.connect()"""

SLOW_THROUGH = 4
"""Later days use the same runner; to run them all would take as long as the comparison of all outputs."""


def course(command: list[str | Path], settings: Settings, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run the course with a command, assert that it succeeds, and return its JSON report."""
    environ = os.environ | environment(settings) | variables
    line = [*command, "course", *arguments, "--json"]
    ended = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=3_000)
    assert ended.returncode == 0, ended.stderr[-4000:]
    result: dict[str, Any] = json.loads(ended.stdout)
    assert result["ok"]
    assert all(day["checks_passed"] > 0 for day in result["days"])
    return result


def test_the_course_runs_day_by_day(spark: Any, notebooks: Notebooks) -> None:
    here = get_settings()
    shutil.rmtree(here.raw, ignore_errors=True)
    notebooks.make(DAY_2, "checks.report(2, spark)", slug=DAYS[1].slug, number=2)
    notebooks.make(DAY_3, "checks.report(3, spark)", slug=DAYS[2].slug, number=3)
    command = [sys.executable, "-c", IN_FOLDER, notebooks.root]
    result = course(command, here, "--from", "2", "--through", "3", "--scale", "0.01")
    directory = Path(result["directory"])
    assert [(day["day"], day["checks_passed"]) for day in result["days"]] == [(2, 1), (3, 3)]
    assert sorted(path.name for path in directory.iterdir()) == [f"{day.name}.ipynb" for day in DAYS[1:3]]
    assert "scale = 0.01" in (directory / f"{DAYS[2].name}.ipynb").read_text(encoding="utf-8")
    assert result["home"] == str(here.home)
    shutil.rmtree(directory)


@pytest.mark.slow
def test_the_courses_own_notebooks_run_at_another_scale_too(settings: Settings) -> None:
    """At scale 1 ``test_stored_*.py`` runs them."""
    # Interpreted, which takes a fifth less time, but with the lineage that day 1 needs.
    interpreted = "spark.sql.codegen.wholeStage=false spark.sql.codegen.factoryMode=NO_CODEGEN"
    command: list[str | Path] = [Path(sys.executable).with_name("shopmetrics")]
    arguments = ("--through", str(SLOW_THROUGH), "--scale", "0.1")
    try:
        result = course(command, settings, *arguments, SHOPMETRICS_SPARK_CONF=interpreted)
    finally:
        engine.down(settings)
        kafka.down(settings)
    assert [day["day"] for day in result["days"]] == [day.number for day in DAYS if day.number <= SLOW_THROUGH]
    shutil.rmtree(result["directory"])
