"""Read a Delta table's log directly from its files.

``DESCRIBE HISTORY`` and ``DESCRIBE DETAIL`` are Spark jobs of 0.2 to 1 s, and a run asks for the version of every
table several times. If this process can read the log's directory, it finds the answer there in a millisecond. The
format is that of the Delta transaction log protocol: one JSON file per commit, named by its version.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote


def newest_version(log: Path) -> int | None:
    """Return the number of the newest commit in a ``_delta_log`` directory, None if there is none."""
    return _newest(log, "json")


def table_id(log: Path) -> str | None:
    """Return the id that a table was given when it was made; None if that commit has been cleaned up already."""
    newest = newest_version(log)
    checksum = _checksum(log, newest) if newest is not None else {}
    if "metadata" in checksum:
        return str(checksum["metadata"]["id"])
    for commit in sorted(log.glob("*.json"), reverse=True):
        if commit.stem.isdigit() and (metadata := _action(commit, "metaData")):
            return str(metadata["id"])
    return None


def bytes_of_data(log: Path) -> int | None:
    """Return the size of a table's data files by the newest checksum in its log, None if there is none.

    Delta writes a checksum after each commit. A process that was killed in between leaves a commit without one.
    """
    newest = _newest(log, "crc")
    size: int | None = _checksum(log, newest).get("tableSizeBytes") if newest is not None else None
    return size


def operation(log: Path, version: int) -> tuple[str, dict[str, str]] | None:
    """Return a commit's operation and its metrics, under the names that ``DESCRIBE HISTORY`` uses.

    None if the commit has been cleaned up already, or has no commit information.
    """
    info = commit_info(log, version)
    return (info["operation"], info.get("operationMetrics", {})) if info else None


def committed_at(log: Path, version: int) -> float | None:
    """Return when a commit was made, in seconds since 1970 by the engine's clock; None if the log does not say."""
    info = commit_info(log, version)
    return info["timestamp"] / 1000 if info and "timestamp" in info else None


def commit_info(log: Path, version: int) -> dict[str, Any] | None:
    """Return a commit's ``commitInfo``; None if the commit has been cleaned up already, or has none."""
    commit = log / f"{version:020d}.json"
    return _action(commit, "commitInfo") if commit.is_file() else None


def data_files(log: Path) -> list[Path]:
    """Return the data files of a table's newest version, for callers that read a small table without an engine.

    The table must have no deletion vectors, as those of ``ops`` have none.
    """
    begun, there = -1, set()
    with suppress(OSError, ValueError, KeyError):
        begun = int(json.loads((log / "_last_checkpoint").read_text(encoding="utf-8"))["version"])
    if begun >= 0:
        import pyarrow.parquet as pq

        for file in log.glob(f"{begun:020d}.checkpoint*.parquet"):
            rows = pq.ParquetFile(file).read(columns=["add"]).column("add").to_pylist()
            there |= {row["path"] for row in rows if row}
    for commit in sorted(file for file in log.glob("*.json") if file.stem.isdigit() and int(file.stem) > begun):
        actions = [json.loads(line) for line in commit.read_text(encoding="utf-8").splitlines()]
        there -= {action["remove"]["path"] for action in actions if "remove" in action}
        there |= {action["add"]["path"] for action in actions if "add" in action}
    return sorted(log.parent / unquote(path) for path in there)


def _newest(log: Path, suffix: str) -> int | None:
    return max((int(file.stem) for file in log.glob(f"*.{suffix}") if file.stem.isdigit()), default=None)


def _checksum(log: Path, version: int) -> dict[str, Any]:
    """Return the checksum file of a commit: the table's metadata, protocol and sizes; empty if there is none."""
    try:
        checksum: dict[str, Any] = json.loads((log / f"{version:020d}.crc").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return checksum


def _action(commit: Path, kind: str) -> dict[str, Any] | None:
    """Return the action of this kind in a commit, if it has one."""
    with commit.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(f'{{"{kind}"'):
                action: dict[str, Any] = json.loads(line)[kind]
                return action
    return None
