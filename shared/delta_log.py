"""A Delta table's log, read as the files that it is.

``DESCRIBE HISTORY`` and ``DESCRIBE DETAIL`` are Spark jobs of 0.2 to 1 s, and a run asks for the version of every
table several times. Where the log lies in a directory that this process can read, it reads the answer there, in a
millisecond. The format is that of the Delta transaction log protocol: one JSON file a commit, named by its version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def newest_version(log: Path) -> int | None:
    """Return the number of the newest commit in a ``_delta_log`` directory, None if there is none."""
    return max((int(file.stem) for file in log.glob("*.json") if file.stem.isdigit()), default=None)


def table_id(log: Path) -> str | None:
    """Return the id that a table was given when it was made; None if that commit has been cleaned up already."""
    for commit in sorted(log.glob("*.json"), reverse=True):
        if commit.stem.isdigit() and (metadata := _action(commit, "metaData")):
            return str(metadata["id"])
    return None


def bytes_of_data(log: Path) -> int | None:
    """Return the size of a table's data files by the newest checksum in its log, None if there is none.

    Delta writes one beside each commit, or hardly ever fails to.
    """
    newest = max(log.glob("*.crc"), default=None)
    if newest is None:
        return None
    size: int = json.loads(newest.read_text(encoding="utf-8"))["tableSizeBytes"]
    return size


def operation_metrics(log: Path, version: int) -> dict[str, str]:
    """Return what a commit says of itself: rows and files written, by the names of ``DESCRIBE HISTORY``."""
    info = _action(log / f"{version:020d}.json", "commitInfo") or {}
    metrics: dict[str, str] = info.get("operationMetrics", {})
    return metrics


def _action(commit: Path, kind: str) -> dict[str, Any] | None:
    """Return the action of this kind in a commit, if it has one."""
    with commit.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(f'{{"{kind}"'):
                action: dict[str, Any] = json.loads(line)[kind]
                return action
    return None
