"""The checks of every day; importing this package enters them into ``checks.CONTRACTS``."""

from shared.course.contracts import gold as gold
from shared.course.contracts import silver as silver
from shared.course.contracts import streaming as streaming
from shared.course.contracts import week1 as week1
