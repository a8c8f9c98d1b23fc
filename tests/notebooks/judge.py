"""nbval in a process of its own, which also checks each day after its notebook. `gate.py` runs this file.

A notebook runs its day's checks in its last cell. This program runs them once more, in another session and after the
notebook's kernel has ended. So a notebook fails if it wrote to another home, or if its check cell does nothing.
"""

from __future__ import annotations

import sys

import pytest

import shared
from shared.course import checks
from shared.course.days import DAYS


class DayChecks:
    """Runs the checks of a day after the last cell of its notebook has been compared."""

    # This hook runs last, after the kernel of the notebook has ended.
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if nextitem is None or nextitem.path != item.path:
            (day,) = (day for day in DAYS if day.notebook == item.path)
            checks.raise_if_failed(checks.check_day(day.number, shared.connect() if day.spark else None))


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:], plugins=[DayChecks()]))
