"""The landing volume before Spark reads it: which files are there, and whether their headers can serve."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from shared.bronze.contracts import Source
from shared.errors import SourceError


@dataclass(frozen=True)
class LandedFile:
    """One CSV file: its path relative to the volume, the first line as it stands there, and the names in it."""

    path: str
    header_line: str
    header: tuple[str, ...]


def landed_files(volume: Path, source: Source) -> list[LandedFile]:
    """Return the source's files, oldest batch first.

    Raises:
        SourceError: naming every file that cannot be ingested and why, all at once.
    """
    files, problems = [], []
    for path in sorted(volume.glob(f"{source.name}/*/*.csv")):
        if path.name.startswith((".", "_")):  # Spark does not see these either
            continue
        name = path.relative_to(volume).as_posix()
        file, found = _read_header(path, name, source)
        problems += found
        if file:
            files.append(file)
    if problems:
        raise SourceError(
            "Files that cannot be ingested:\n" + "\n".join(f"  - {problem}" for problem in problems),
            "correct or remove them and run again; nothing has been ingested in this run",
        )
    return files


def _read_header(path: Path, name: str, source: Source) -> tuple[LandedFile | None, list[str]]:
    try:
        date.fromisoformat(path.parent.name)
    except ValueError:
        return None, [f"{name}: the folder must be a batch date such as 2026-01-01, found {path.parent.name!r}"]
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        line = lines.readline().rstrip("\r\n")
    if not line:
        return None, [f"{name}: the first line must name the columns, but it is empty"]
    header = tuple(next(csv.reader([line])))
    problems = [
        f"{name}: the required column {column} is missing" for column in source.column_names if column not in header
    ]
    problems += [
        f"{name}: the column {column} stands there twice"
        for column in sorted({c for c in header if header.count(c) > 1})
    ]
    if len(problems) == len(source.columns):
        problems = [f"{name}: none of the columns of {source.name} is there, found {', '.join(header[:5])}"]
    return LandedFile(name, line, header), problems
