"""Every stored output is what a run gives today: nbval, strict, all notebooks in order, in a home of their own."""

from __future__ import annotations

import pytest
from gate import Compared, compare
from hygiene import code

from shared.course.days import DAYS, Day
from shared.course.execution import read
from shared.course.refresh import default_settings
from shared.runtime import kafka, spark


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compared]:
    scratch = tmp_path_factory.mktemp("stored-outputs")
    settings = default_settings(scratch / "home")
    try:
        return compare([day.notebook for day in DAYS], settings, scratch)
    finally:
        spark.down(settings)
        kafka.down(settings)


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.name)
def test_stored_outputs_are_what_a_run_gives(compared: dict[str, Compared], day: Day) -> None:
    result = compared[day.name]
    assert not result.differences, "\n".join(result.differences) + "\nif this is meant: make notebooks"
    assert result.cells == len(code(read(day.notebook)))
