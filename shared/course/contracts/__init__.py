"""The checks of every day, by week; importing this package enters them into ``checks.CONTRACTS``."""

from shared.course.contracts import week1 as week1
