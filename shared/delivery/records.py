"""Records of what was delivered and run in this home, one JSON file per kind. The checks of days 15 to 18 read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.errors import BundleError
from shared.private import write_private
from shared.settings import Settings, get_settings


def path(name: str, settings: Settings | None = None) -> Path:
    """Return the file of a record."""
    return (settings or get_settings()).delivery / f"{name}.json"


def keep(name: str, value: Any, settings: Settings | None = None) -> None:
    """Write a record; it replaces the earlier record of this name."""
    file = path(name, settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, json.dumps(value, indent=2) + "\n")


def last(name: str, settings: Settings | None = None) -> Any:
    """Return the latest record of this name.

    Raises:
        BundleError: if there is no record.
    """
    file = path(name, settings)
    if not file.is_file():
        raise BundleError(f"There is no record {name} in this home.", "run the day's notebook from its first cell on")
    return json.loads(file.read_text(encoding="utf-8"))
