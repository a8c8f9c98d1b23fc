"""What a query read is added up from the steps of its plan; no engine is asked here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql.metrics import ExecutionInfo, MetricValue, PlanMetrics

from shared.errors import MaintenanceError
from shared.files_read import FilesRead, files_read


def step(number: int, parent: int, **counts: int) -> PlanMetrics:
    return PlanMetrics("a step", number, parent, [MetricValue(name, value, "sum") for name, value in counts.items()])


def query(*steps: PlanMetrics) -> Any:
    info = ExecutionInfo(list(steps), None)
    return SimpleNamespace(collect=lambda: ["a row"], executionInfo=info)


def test_scans_are_added_up_and_other_steps_are_none() -> None:
    join = step(1, 1, numOutputRows=5)
    scans = (
        step(2, 1, numFiles=3, filesSize=100, numOutputRows=30),
        step(3, 1, numFiles=1, filesSize=7, numOutputRows=2),
    )
    assert files_read(query(join, *scans)) == (["a row"], FilesRead(4, 107, 32))


def test_a_query_that_the_log_answers_reads_nothing() -> None:
    assert files_read(query(step(1, 1, numOutputRows=0)))[1] == FilesRead(0, 0, 0)


def test_an_engine_that_counts_nothing_is_an_error() -> None:
    with pytest.raises(MaintenanceError, match="did not say what the query read"):
        files_read(SimpleNamespace(collect=list, executionInfo=None))  # type: ignore[arg-type]
