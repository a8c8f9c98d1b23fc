"""The usual range of a value, computed from the days of the window before it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Literal

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of normally distributed values, times this, is their standard deviation."""

MEAN_AD_TO_SIGMA = 1.2533
"""The same factor for the mean absolute deviation."""


def usual_range(window: Sequence[float], method: Literal["mad", "mean"], sensitivity: float) -> tuple[float, float]:
    """Return the least and the greatest value that is usual after the values of a window.

    Args:
        window: the values before, at least two.
        method: ``mad``: median and median absolute deviation; ``mean``: mean and standard deviation.
        sensitivity: how many times the spread a value may be away from the middle.

    The modified z-score of Iglewicz and Hoaglin (1993), solved for the value. Where more than half of the window is one
    value, its median absolute deviation is 0 and would call every other value unusual; so the mean absolute deviation
    takes its place, as they propose.

    Example:
        >>> usual_range([10, 12, 11, 10, 90, 12, 11], "mad", 3)
        (6.5522, 15.4478)
    """
    if method == "mean":
        middle, spread = fmean(window), stdev(window)
    else:
        middle = median(window)
        away = [abs(value - middle) for value in window]
        spread = MAD_TO_SIGMA * median(away) or MEAN_AD_TO_SIGMA * fmean(away)
    return middle - sensitivity * spread, middle + sensitivity * spread
