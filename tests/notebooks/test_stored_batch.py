"""Days 1 to 9, 16, 19 and 20: every stored output equals a run's output, and each day's checks pass afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import BATCH, Compared, assert_as_stored, assert_lineage_is_declared

from shared import gold, silver
from shared.bronze import SOURCES
from shared.course.days import Day

CHAIN = BATCH


@pytest.mark.parametrize("day", CHAIN, ids=lambda day: day.name)
def test_stored_outputs_are_what_a_run_gives(compared: dict[str, Compared], day: Day) -> None:
    assert_as_stored(compared, day)


def test_the_lineage_of_every_table_is_what_the_metadata_says(compared: dict[str, Compared], scratch: Path) -> None:
    tables = [one.bronze_table for one in SOURCES.values()]
    tables += [one.target for layer in (silver, gold) for one in layer.TABLES.declared()]
    assert len(tables) == 9
    assert_lineage_is_declared(scratch / "home", tables)
