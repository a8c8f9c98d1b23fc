"""A table's log shows whether an append-only table has lost rows, and which commit removed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared import catalog

MADE: dict[str, Any] = {"operation": "CREATE TABLE"}
ADDED: dict[str, Any] = {"operation": "STREAMING UPDATE", "operationParameters": {"outputMode": "Append"}}
BY_HAND: dict[str, Any] = {"operation": "WRITE", "operationParameters": {"mode": "Append"}}
REPLACED: dict[str, Any] = {"operation": "WRITE", "operationParameters": {"mode": "Overwrite"}}
MOVED: dict[str, Any] = {"operation": "OPTIMIZE"}
GONE: dict[str, Any] = {"operation": "DELETE"}


def back_to(version: int | None) -> dict[str, Any]:
    parameters = {"version": version, "timestamp": None if version is not None else "2026-01-01"}
    return {"operation": "RESTORE", "operationParameters": parameters}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([MADE], None),
        ([MADE, ADDED, ADDED], None),
        ([MADE, ADDED, BY_HAND, MOVED], None),
        ([MADE, ADDED, ADDED, back_to(1)], ("RESTORE (version 3)", 2)),
        ([MADE, ADDED, ADDED, MOVED, back_to(1), MOVED], ("RESTORE (version 4)", 2)),
        ([MADE, ADDED, ADDED, back_to(None)], ("RESTORE (version 3)", 2)),
        ([MADE, ADDED, MOVED, GONE], ("DELETE (version 3)", 1)),
        ([MADE, ADDED, REPLACED], ("WRITE (version 2)", 1)),
        # A RESTORE of the lost version makes the table complete again, whatever happened before. The restored version
        # may also be the one after an OPTIMIZE.
        ([MADE, ADDED, ADDED, back_to(1), back_to(2)], None),
        ([MADE, ADDED, GONE, back_to(1), MOVED], None),
        ([MADE, ADDED, MOVED, GONE, back_to(2)], None),
        ([MADE, ADDED, ADDED, back_to(1), back_to(2), back_to(3)], ("RESTORE (version 5)", 2)),
    ],
)
def test_lost_rows_are_told_by_the_commit_that_took_them_and_the_version_that_had_them(
    tmp_path: Path, monkeypatch, history: list[dict[str, Any]], expected: tuple[str, int] | None
) -> None:
    for version, info in enumerate(history):
        (tmp_path / f"{version:020d}.json").write_text(json.dumps({"commitInfo": info}, separators=(",", ":")) + "\n")
    monkeypatch.setattr(catalog, "_require", lambda *_: None)
    monkeypatch.setattr(catalog, "_log", lambda *_: tmp_path)
    found = catalog.undone(None, "bronze.anything")
    assert (found and (str(found[0]), found[1])) == expected
    newest = catalog.last_change(None, "bronze.anything")
    assert newest is not None
    assert newest.version == max(number for number, info in enumerate(history) if info != MOVED)
