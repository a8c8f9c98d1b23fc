"""The landing volume before Spark reads it: which files can be read, which are refused, and which are left alone.

A file name or a first line that would harm the engine is found here, in Python, and reported in one line. Every file in
the volume is read, refused or reported as ignored, except the manifest and names that begin with a dot.
"""

from __future__ import annotations

import csv
import gzip
import re
import unicodedata
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import BinaryIO, cast

from shared.bronze.contracts import AUDIT_COLUMNS, Source
from shared.errors import SourceError

ENDINGS = (".csv", ".csv.gz")
"""Endings of the names of files that are read."""

MOST_COLUMNS = 500
"""A header with more columns is refused: a plan over thousands of columns needs too much of the engine's memory."""

MOST_BYTES_OF_HEADER = 1 << 20

MANIFEST = "manifest.json"
"""What the generators leave beside the sources' folders."""


@dataclass(frozen=True)
class LandedFile:
    """One CSV file: its path relative to the volume, its first line, and the column names in that line."""

    path: str
    header_line: str
    header: tuple[str, ...]


@dataclass(frozen=True)
class Landed:
    """The files in one source's part of the landing volume."""

    files: list[LandedFile] = field(default_factory=list)
    """Files that can be read, oldest batch first."""
    refused: dict[str, str] = field(default_factory=dict)
    """Path of a file that seems to be meant to be read but cannot be, to the reason."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Path of anything else, to the reason why it is ignored."""


def landed(volume: Path, source: Source, verified: Collection[str] = ()) -> Landed:
    """Return what lies in a source's part of the volume; each path is relative to the volume.

    Args:
        volume: the landing volume.
        source: the contract.
        verified: files that were read before. A compressed one is not decompressed again to check that it is complete.
    """
    found = Landed()
    for folder in _entries(volume / source.name):
        if not folder.is_dir():
            example = f"{source.name}/2026-01-01/"
            found.ignored[_name(volume, folder)] = f"it is in no folder of a batch date, such as {example}"
        elif folder.name.startswith("_"):
            found.ignored[f"{_name(volume, folder)}/"] = _HIDDEN
        elif not _is_batch_date(folder.name):
            if _entries(folder):
                found.refused[f"{_name(volume, folder)}/"] = (
                    f"the folder must be a batch date such as 2026-01-01, found {folder.name!r}"
                )
        else:
            for path in _entries(folder):
                _add(found, volume, path, source, verified)
    return found


def landed_files(volume: Path, source: Source) -> list[LandedFile]:
    """Return the source's files, oldest batch first.

    Raises:
        SourceError: naming every file that cannot be ingested and why, all at once.
    """
    found = landed(volume, source)
    if found.refused:
        raise refusal(found.refused, "correct or remove them")
    return found.files


def refusal(refused: dict[str, str], hint: str) -> SourceError:
    """Return the error that names every file that cannot be ingested and why."""
    lines = [f"  - {path}: {problem}" for path, problem in sorted(refused.items())]
    return SourceError("\n".join(["Files that cannot be ingested:", *lines]), hint)


def strays(volume: Path, sources: Iterable[str]) -> dict[str, str]:
    """Return the entries of the volume that belong to none of these sources: path to the reason why it is ignored."""
    known = list(sources)
    why = f"there is no such source; the folders are {', '.join(known)}"
    return {
        f"{path.name}/" if path.is_dir() else path.name: why
        for path in _entries(volume)
        if path.name not in (*known, MANIFEST)
    }


_HIDDEN = "a name that begins with _ marks what is not finished"


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted, without names that begin with a dot; empty if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _name(volume: Path, path: Path) -> str:
    return _shown(path.relative_to(volume).as_posix())


def _shown(text: str) -> str:
    """Return a text with its control characters escaped, so that it can be printed."""
    return "".join(repr(c)[1:-1] if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    """Whether it is a control character, or Python's substitute for a byte of a file name that is not UTF-8."""
    return unicodedata.category(character) in ("Cc", "Cs")


def _is_batch_date(name: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", name, re.ASCII):  # fromisoformat takes 20260103 as well; Spark does not
        return False
    try:
        date.fromisoformat(name)
    except ValueError:
        return False
    return True


def _add(found: Landed, volume: Path, path: Path, source: Source, verified: Collection[str]) -> None:
    name = _name(volume, path)
    if path.name.startswith("_"):
        found.ignored[name] = _HIDDEN
    elif path.is_dir() and path.name.endswith(ENDINGS):
        found.refused[f"{name}/"] = (
            f"it is a directory, as Spark writes one: move the part files into {_name(volume, path.parent)}/"
        )
    elif path.is_dir():
        inside = [one for one in sorted(path.rglob("*")) if one.is_file() and not one.name.startswith(".")]
        why = f"it is too deep: files are read from {_name(volume, path.parent)}/ itself"
        found.ignored.update({_name(volume, one): why for one in inside} or {f"{name}/": why})
    elif not path.name.endswith(ENDINGS):
        in_capitals = path.name.lower().endswith(ENDINGS)
        found.ignored[name] = f"its name does not end in {' or '.join(ENDINGS)}" + (
            ", which is written in small letters" if in_capitals else ""
        )
    else:
        file, problem = _read_header(path, name, source, name in verified)
        if file:
            found.files.append(file)
        else:
            found.refused[name] = problem


def _read_header(path: Path, name: str, source: Source, is_verified: bool) -> tuple[LandedFile | None, str]:
    """Return the file, or None and why it cannot be read."""
    if any(map(_is_control, path.name)):
        return None, "its name has characters that are no text: rename the file"
    if ":" in path.name:
        return None, "the engine cannot read a name with a colon: rename the file"
    try:
        with opened(path) as content:
            start = content.readline(MOST_BYTES_OF_HEADER)
            if path.name.endswith(".gz") and not is_verified:
                # If the engine found the damage, the file would stop this run and every later one.
                while content.read(1 << 20):
                    pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return None, f"it is no whole gzip file: {error}"
    except OSError as error:
        return None, f"it cannot be read: {error.strerror or error}"
    # The line ends where it ends for the engine's reader: at a single carriage return too.
    line = start.split(b"\r")[0].rstrip(b"\n")
    if guess := _no_text(start):
        return None, guess
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        return None, f"the header is not UTF-8: byte 0x{wrong:02X} at offset {error.start}; save the file as UTF-8"
    if len(start) >= MOST_BYTES_OF_HEADER:
        return None, f"its first line has more than {MOST_BYTES_OF_HEADER:,} bytes"
    if not text.strip():
        return None, "the first line must name the columns, but it is empty"
    try:
        header = tuple(next(csv.reader([text])))
    except csv.Error as error:
        return None, f"the header is no CSV: {error}"
    if problems := header_problems(header, source):
        return None, "; ".join(problems)
    return LandedFile(name, text, header), ""


def opened(path: Path) -> BinaryIO:
    """Open a file of the volume for reading, decompressed if its name says that it is compressed."""
    return cast("BinaryIO", gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb"))


def _no_text(start: bytes) -> str:
    """Guess from its first bytes what a file is if it is not UTF-8 text; empty if it may be UTF-8 text."""
    if start.startswith(b"PK\x03\x04"):
        return "it looks like an Excel workbook or a zip file: save it as CSV"
    if start.startswith(b"\x1f\x8b"):
        return "it looks like gzip: name it .csv.gz"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in start:
        return "it looks like UTF-16: save it as UTF-8"
    return ""


def header_problems(header: tuple[str, ...], source: Source) -> list[str]:
    """Return the problems of a file's column names, each as a sentence; none if its lines can be read by them."""
    if len(header) > MOST_COLUMNS:
        return [f"{len(header):,} columns: at most {MOST_COLUMNS} are read; take out those that nobody needs"]
    wanted = source.column_names
    if not set(header) & set(wanted):
        found = _shown(", ".join(header[:5]))
        other = next((mark for mark in ";\t|" if header[0].count(mark) >= len(wanted) - 1), None)
        if other:
            return [f"none of the columns of {source.name} is there: it looks separated by {other!r} and not by commas"]
        return [
            f"none of the columns of {source.name} is there, found {found}: "
            f"the first line must be the header {','.join(wanted)}"
        ]
    problems = []
    if missing := [column for column in wanted if column not in header]:
        problems.append(
            f"the required column {missing[0]} is missing"
            if len(missing) == 1
            else f"the required columns {', '.join(missing)} are missing"
        )
        alike = {column: next((c for c in header if c.strip().lower() == column), None) for column in missing}
        problems += [f"{one!r} must be written {column}" for column, one in alike.items() if one is not None]
    by_lower: dict[str, list[str]] = {}
    for column in header:
        by_lower.setdefault(column.lower(), []).append(column)
    for columns in by_lower.values():
        if not columns[0].strip() and not "".join(columns).strip():
            places = [str(place) for place, column in enumerate(header, start=1) if not column.strip()]
            problems.append(f"no name in column {', '.join(places)}")
        elif len(set(columns)) < len(columns):
            problems.append(f"the column {_shown(columns[0])} stands there twice")
        elif len(columns) > 1:
            problems.append(f"the columns {_shown(' and '.join(columns))} differ only in case")
    problems += [
        f"the column {_shown(column)} has a backtick or a control character in its name"
        for column in header
        if "`" in column or any(map(_is_control, column))
    ]
    reserved = {column.name for column in AUDIT_COLUMNS if column.name.startswith("_")}
    problems += [f"the column {column} has a name that bronze itself gives" for column in header if column in reserved]
    return problems
