"""What holds after each day, asserted on the tables and files themselves."""

# Each enters its checks when it is imported.
from shared.course.checks import dashboard as dashboard
from shared.course.checks import deployment as deployment
from shared.course.checks import gold as gold
from shared.course.checks import maintenance as maintenance
from shared.course.checks import quality as quality
from shared.course.checks import security as security
from shared.course.checks import silver as silver
from shared.course.checks import streaming as streaming
from shared.course.checks import suite as suite
from shared.course.checks import week1 as week1
from shared.course.checks.registry import BY_DAY
from shared.course.checks.results import (
    Result,
    Verified,
    check_day,
    law_4,
    raise_if_failed,
    receipt_path,
    report,
    verify,
    write_receipt,
)

__all__ = [
    "BY_DAY",
    "Result",
    "Verified",
    "check_day",
    "law_4",
    "raise_if_failed",
    "receipt_path",
    "report",
    "verify",
    "write_receipt",
]
