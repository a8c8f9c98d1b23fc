"""The manifest beside the files: what was generated, from which seed, and how many defects of each kind.

The results of a pipeline are checked against it: the rows that arrived and the defects that were found. It lists only
complete files, and is replaced atomically when a run is complete.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from generators.landing import LandedFile, whole_file
from generators.plan import PLACES, VERSION, GeneratorError, Plan

FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class BatchEntry:
    """The delivery of one table on one batch date."""

    files: tuple[LandedFile, ...]
    defects: dict[str, int]
    """The number of affected rows by kind; ``generators.defects.HOW_TO_FIND`` describes the rows of each kind."""

    @property
    def rows(self) -> int:
        """Rows in all files of the batch."""
        return sum(file.rows for file in self.files)


@dataclass
class Manifest:
    """The contents of a landing directory, by table and batch date (``2026-01-01``).

    Example:
        >>> manifest = Manifest.load(settings.raw)                                      # doctest: +SKIP
        >>> manifest.rows("orders"), manifest.defects("orders", "2025-12-31")["tie"]    # doctest: +SKIP
        (104473, 125)
    """

    landing: Path
    plan: Plan
    tables: dict[str, dict[str, BatchEntry]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The path of the manifest."""
        return self.landing / FILE_NAME

    def rows(self, table: str, batch_date: str | None = None) -> int:
        """Return the number of rows in the files of a table, for one batch or for all."""
        return sum(entry.rows for entry in self._entries(table, batch_date))

    def defects(self, table: str, batch_date: str | None = None) -> dict[str, int]:
        """Return the number of affected rows of a table by kind, for one batch or for all."""
        total: dict[str, int] = {}
        for entry in self._entries(table, batch_date):
            for kind, rows in entry.defects.items():
                total[kind] = total.get(kind, 0) + rows
        return total

    def files(self, table: str | None = None) -> list[LandedFile]:
        """Return the files of one table, or of all, in the order in which they were delivered."""
        tables = self.tables if table is None else [table]
        return [file for name in tables for entry in self._entries(name, None) for file in entry.files]

    def _entries(self, table: str, batch_date: str | None) -> list[BatchEntry]:
        batches = self.tables.get(table, {})
        return list(batches.values()) if batch_date is None else [batches[batch_date]]

    def save(self) -> None:
        """Write the manifest atomically.

        Raises:
            GeneratorError: if the operating system refuses.
        """
        tables = {
            table: {
                batch_date: {
                    "rows": entry.rows,
                    "files": [asdict(file) for file in entry.files],
                    "defects": entry.defects,
                }
                for batch_date, entry in sorted(batches.items())
            }
            for table, batches in sorted(self.tables.items())
        }
        content = json.dumps({**self.plan.identity(), "tables": tables}, indent=2) + "\n"
        with whole_file(self.path) as write:
            write(content.encode())

    @classmethod
    def load(cls, landing: Path) -> Manifest:
        """Read the manifest of a landing directory.

        Raises:
            GeneratorError: if the manifest is missing or cannot be read.
        """
        path = landing / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            plan = read_identity(content, path)
            tables = {
                table: {
                    batch_date: BatchEntry(tuple(LandedFile(**file) for file in entry["files"]), entry["defects"])
                    for batch_date, entry in batches.items()
                }
                for table, batches in content["tables"].items()
            }
        except FileNotFoundError as error:
            raise GeneratorError(
                f"{path} does not exist: nothing was generated here", "shopmetrics generate"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GeneratorError(
                f"{path} is not a manifest of this generator: {error!r}", f"delete {landing} and generate again"
            ) from error
        return cls(landing, plan, tables)

    def check_files(self) -> None:
        """Check that every listed file exists and still has its size.

        Raises:
            GeneratorError: if a file does not; the message names the first one.
        """
        for file in self.files():
            path = self.landing / file.path
            size = path.stat().st_size if path.is_file() else None
            if size != file.bytes:
                found = "it is missing" if size is None else f"it has {size:,} bytes"
                raise GeneratorError(
                    f"{self.path} lists {path} with {file.bytes:,} bytes, but {found}",
                    f"put the file back, or delete {self.landing} and generate again",
                )


def read_identity(content: dict[str, Any], path: Path) -> Plan:
    """Return the plan that a manifest states.

    Raises:
        GeneratorError: if another version of the generators wrote it.
    """
    if content["version"] != VERSION:
        raise GeneratorError(
            f"{path} was written by version {content['version']} of the generators, this is version {VERSION}",
            f"`shopmetrics reset` and generate again, or choose another directory ({PLACES})",
        )
    return Plan(content["seed"], content["scale"], content["defects"])
