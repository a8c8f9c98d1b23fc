"""The course by its one command, at small scale: to the first lakehouse. Every notebook runs in test_stored_outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from shared.course.days import DAYS
from shared.course.execution import environment
from shared.runtime import kafka, spark
from shared.settings import Settings

THROUGH = 4
"""Later days pass through the same runner, and would cost as long again as to compare the outputs of all."""


def test_the_course_runs_day_by_day(settings: Settings) -> None:
    # Interpreted, which takes a fifth less time, but with the lineage of day 1. The stored outputs are compared on the
    # engine that a learner has.
    interpreted = "spark.sql.codegen.wholeStage=false spark.sql.codegen.factoryMode=NO_CODEGEN"
    variables = environment(settings) | {"SHOPMETRICS_SPARK_CONF": interpreted}
    arguments = f"course --through {THROUGH} --scale 0.1 --json".split()
    command = [Path(sys.executable).with_name("shopmetrics"), *arguments]
    try:
        ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=3_000)
    finally:
        spark.down(settings)
        kafka.down(settings)
    assert ended.returncode == 0, ended.stderr[-4000:]
    result = json.loads(ended.stdout)
    assert result["ok"]
    assert [day["day"] for day in result["days"]] == [day.number for day in DAYS if day.number <= THROUGH]
    assert all(day["checks_passed"] > 0 for day in result["days"])
    shutil.rmtree(result["directory"])
