"""A Delta table as it will be in some days: what a week does to old files, without waiting for a week.

``VACUUM`` asks two clocks how old a file is: the time of the file itself, and the time at which the log says that the
file was replaced. A copy of the table gets both set back by the same stretch. Nothing else is changed, so the copy is
what the table would be if its last commit had been made that long ago.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

from shared.errors import CourseError

_TIMES = {
    "commitInfo": ("timestamp", "inCommitTimestamp"),
    "metaData": ("createdTime",),
    "add": ("modificationTime",),
    "remove": ("deletionTimestamp",),
}
"""Actions of a commit, and those of their fields that are milliseconds since 1970."""


def aged_copy(table: Path, copy: Path, by: timedelta) -> None:
    """Copy a Delta table's directory, and set every time in the copy back.

    Args:
        table: the directory of the table, with its log as JSON files.
        copy: where the copy is put; must not exist.
        by: how much older the copy is.

    Raises:
        CourseError: if there is no such table, or if something is in the place of the copy already.

    Example:
        >>> aged_copy(lakehouse / "week", lakehouse / "week_later", by=timedelta(days=10))
    """
    if not (table / "_delta_log").is_dir():
        problem = f"{table.name} is not a Delta table: expected a directory with a _delta_log."
        raise CourseError(problem, "make the table first")
    if copy.exists():
        raise CourseError(f"There is already something at {copy.name}: expected a free name.", "drop that table first")
    # Checksums describe the bytes of a file, and Delta's own repeat its times.
    shutil.copytree(table, copy, ignore=shutil.ignore_patterns("*.crc"))
    seconds = by.total_seconds()
    for commit in (copy / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in commit.read_text(encoding="utf-8").splitlines()]
        for action in actions:
            for kind, names in _TIMES.items():
                for name in names:
                    if name in action.get(kind, {}):
                        action[kind][name] -= int(seconds * 1000)
        commit.write_text("".join(json.dumps(action) + "\n" for action in actions), encoding="utf-8")
    for file in copy.rglob("*"):
        if file.is_file():
            times = file.stat()
            os.utime(file, (times.st_atime - seconds, times.st_mtime - seconds))
