"""The landing directory: CSV files that are either complete or absent.

Every CSV reader understands the format: UTF-8, a header line, line feeds, a comma between fields, quotes only around a
field that needs them (RFC 4180), an empty field for NULL, timestamps in UTC as ``2025-03-01 14:03:22``, dates as
``2025-03-01``, money with two decimals, ``true`` and ``false``. Keys are text.

A file is written under a hidden name, ``.orders_historical.csv.part``, and renamed when it is complete. So a reader
that looks for ``*.csv`` never sees an incomplete file, even if the writer is killed.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from generators.defects import ROW_KINDS, Flaws, csv_text
from generators.plan import PLACES, GeneratorError
from generators.random_streams import Bools, Ints

ROWS_PER_CHUNK = 1 << 16
"""Rows in memory at a time; their columns fit into a processor's cache."""
ROWS_PER_FILE = 2_000_000
"""A larger historical load is split into several files, which Spark reads in parallel."""

_BEHIND_THE_END = 1 << 30


def identifiers(prefix: str, digits: int, numbers: Ints) -> pa.Array:
    """Return business keys such as ``O-000000042``; as text they sort like their numbers."""
    # Adding 10**digits keeps the leading zeros; the prefix then replaces the first digit.
    return pc.binary_replace_slice(whole_numbers(10**digits + numbers), start=0, stop=1, replacement=prefix)


def whole_numbers(values: Ints) -> pa.Array:
    """Return numbers as text."""
    return pa.array(values).cast(pa.string())


def timestamps(seconds: Ints) -> pa.Array:
    """Return seconds since 1970, UTC, as ``2025-03-01 14:03:22``."""
    return pa.array(seconds).cast(pa.timestamp("s")).cast(pa.string())


def dates(seconds: Ints) -> pa.Array:
    """Return the UTC date of seconds since 1970 as ``2025-03-01``."""
    return pa.array((seconds // 86_400).astype(np.int32)).cast(pa.date32()).cast(pa.string())


def money(cents: Ints) -> pa.Array:
    """Return cents as ``12.05``."""
    # Arrow's decimal is a 128-bit integer with a scale. Cents with a second 64-bit word of zeros have the same form.
    wide = np.zeros((len(cents), 2), dtype=np.int64)
    wide[:, 0] = cents
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(wide)]).cast(pa.string())


def flags(values: Bools) -> pa.Array:
    """Return ``true`` and ``false``."""
    return pa.array(values).cast(pa.string())


def joined(*parts: pa.Array | str) -> pa.Array:
    """Return the concatenated text of columns and constants, without a separator."""
    return pc.binary_join_element_wise(*parts, "")


def null_where(mask: pa.Array, values: pa.Array) -> pa.Array:
    """Return the values, but NULL where the mask is true."""
    return pc.if_else(mask, pa.scalar(None, pa.string()), values)


def csv_lines(columns: Sequence[pa.Array]) -> pa.Array:
    """Return one CSV line per row, line feed included.

    The columns are text, quoted where necessary. NULL becomes an empty field, but is not allowed in the last column.
    """
    # This appends the line feed by replacing an empty slice after each end: ten times cheaper than one more join.
    last = pc.binary_replace_slice(columns[-1], start=_BEHIND_THE_END, stop=_BEHIND_THE_END, replacement="\n")
    return pc.binary_join_element_wise(*columns[:-1], last, ",", null_handling="replace", null_replacement="")


@dataclass(frozen=True)
class Records:
    """Base class of records stored as columns: each array has one element per record along its last axis."""

    def __len__(self) -> int:
        return int(self._columns()[0].shape[-1])

    def __getitem__(self, records: slice | Ints | Bools) -> Self:
        return type(self)(*(column[..., records] for column in self._columns()))

    def __add__(self, other: Self) -> Self:
        pairs = zip(self._columns(), other._columns(), strict=True)
        return type(self)(*(np.concatenate(pair, axis=-1) for pair in pairs))

    def _columns(self) -> list[npt.NDArray[Any]]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Batch:
    """The delivery of one table on one day.

    Args:
        columns: the header.
        rows: the number of rows without defects.
        lines: renders the clean rows from one position up to another as CSV lines.
        flaws: the defects of these rows.
        late: the lines of updates that should have come earlier; they are the end of the batch.
        early: the number of rows whose customer is delivered a batch later.
    """

    table: str
    columns: tuple[str, ...]
    rows: int
    lines: Callable[[int, int], pa.Array]
    flaws: Flaws
    late: pa.Array
    early: int = 0

    def defects(self) -> dict[str, int]:
        """Return the number of affected rows by kind."""
        counts = {**self.flaws.counts(), "late_update": len(self.late), "early_arriving_customer": self.early}
        return {kind: counts[kind] for kind in ROW_KINDS[self.table]}

    def parts(self) -> list[range]:
        """Return the positions of the rows in each file of the batch."""
        files = max(1, -(-self.rows // ROWS_PER_FILE))
        return [range(self.rows * n // files, self.rows * (n + 1) // files) for n in range(files)]

    def chunks(self, part: range) -> Iterator[pa.Array]:
        """Yield the CSV lines of one file, defects included."""
        for start in range(part.start, part.stop, ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, part.stop)
            yield self.flaws.inject(self.lines(start, stop), start)
        if part.stop == self.rows:
            yield self.late


@dataclass(frozen=True)
class LandedFile:
    """A complete file, as the manifest describes it."""

    path: str
    """Relative to the landing directory, with forward slashes."""
    bytes: int
    rows: int
    """Lines below the header, defective lines included."""
    sha256: str
    redelivery_of: str | None = None
    """The earlier file of which this is a copy."""


def write_csv(landing: Path, path: str, columns: Sequence[str], chunks: Iterable[pa.Array]) -> LandedFile:
    """Write one CSV file below the landing directory and return its description.

    Args:
        landing: the landing directory.
        path: the path of the file in it, with forward slashes.
        columns: the header.
        chunks: CSV lines; each chunk is written at once and not kept in memory.

    Raises:
        GeneratorError: if the operating system refuses, with the path and the free space. The partial file is removed.
    """
    digest = hashlib.sha256()
    size = rows = 0
    with whole_file(landing / path) as write:
        header = csv_text([columns]).encode()
        for text in _texts(header, chunks):
            write(text)
            digest.update(text)
            size += len(text)
            # No field contains a line feed, so each line feed ends a line.
            rows += int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")))
    return LandedFile(path, size, rows - 1, digest.hexdigest())


def copy_file(landing: Path, original: LandedFile, path: str) -> LandedFile:
    """Deliver a file again under another name and return the description of the copy.

    Raises:
        GeneratorError: if the original has changed since it was written.
    """
    content = (landing / original.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != original.sha256:
        raise GeneratorError(
            f"{landing / original.path} has changed since it was generated: its SHA-256 is not that of the manifest",
            f"delete {landing} and generate again",
        )
    with whole_file(landing / path) as write:
        write(content)
    return replace(original, path=path, redelivery_of=original.path)


@contextmanager
def whole_file(path: Path) -> Iterator[Callable[[bytes | memoryview], object]]:
    """Provide a function that writes bytes. The file gets its name when the block ends without an error.

    Raises:
        GeneratorError: if the operating system refuses, with the path and the free space. The partial file is removed.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            yield file.write
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the partial file may be missing, and the first error is the one to report
            part.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def _texts(header: bytes, chunks: Iterable[pa.Array]) -> Iterator[memoryview]:
    """Yield the bytes of a file, chunk by chunk."""
    yield memoryview(header)
    for lines in chunks:
        if len(lines):
            # An Arrow string array stores its values one after another: lines with line feeds are already the file.
            _, offsets, values = lines.buffers()
            ends = np.frombuffer(offsets, dtype=np.int32)
            yield memoryview(values)[ends[lines.offset] : ends[lines.offset + len(lines)]]


def cannot_write(path: Path, error: OSError) -> GeneratorError:
    """Return an error that says why a path cannot be written, how much space is free, and what to do."""
    existing = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    hint = (
        "free some space, or generate with a smaller --scale or fewer --days"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else f"choose a directory that you may write to ({PLACES})"
    )
    return GeneratorError(
        f"{path} cannot be written: {error.strerror or error} ({free / 1e6:,.0f} MB free in {existing})", hint
    )
