"""Days 1 to 9, 16, 19, 20: every stored output is what a run gives, and each day's checks pass after its notebook."""

from __future__ import annotations

import pytest
from gate import BATCH, Compared, assert_as_stored

from shared.course.days import Day

CHAIN = BATCH


@pytest.mark.parametrize("day", CHAIN, ids=lambda day: day.name)
def test_stored_outputs_are_what_a_run_gives(compared: dict[str, Compared], day: Day) -> None:
    assert_as_stored(compared, day)
