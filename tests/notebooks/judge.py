"""nbval in a process of its own, which checks a day after its notebook. `gate.py` runs this file.

A notebook makes its day's checks in its last cell. They are made once more here, in another session and after the
notebook's kernel has ended, so that a notebook which wrote to another home, or whose check cell does nothing, fails.
"""

from __future__ import annotations

import sys

import pytest

import shared
from shared.course import checks
from shared.course.days import DAYS


class DayChecks:
    """Makes the checks of a day when the last cell of its notebook has been compared."""

    # Last: the kernel of the notebook has ended by then.
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if nextitem is None or nextitem.path != item.path:
            (day,) = (day for day in DAYS if day.notebook == item.path)
            checks.raise_if_failed(checks.check_day(day.number, shared.connect() if day.spark else None))


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:], plugins=[DayChecks()]))
