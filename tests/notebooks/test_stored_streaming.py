"""Days 10 to 14: every stored output is what a run gives today, and each day's checks pass after its notebook."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import STREAMING, Compared, assert_as_stored, assert_lineage_is_declared

from shared.course.days import Day
from shared.streaming import STREAMS
from shared.streaming.contracts import BRONZE

CHAIN = STREAMING


@pytest.mark.parametrize("day", CHAIN, ids=lambda day: day.name)
def test_stored_outputs_are_what_a_run_gives(compared: dict[str, Compared], day: Day) -> None:
    assert_as_stored(compared, day)


def test_the_lineage_of_every_table_is_what_the_contracts_say(compared: dict[str, Compared], scratch: Path) -> None:
    # Day 13 sends some messages of its own through the streams.
    few = {BRONZE: ("kafka/few-events",)}
    assert_lineage_is_declared(scratch / "home", [table for stream in STREAMS for table in stream.tables], few)
