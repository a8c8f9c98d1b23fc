"""The gate that every stored output goes through: nbval, strict, on the engine of one home."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.course.execution import environment
from shared.settings import CHECKOUT, Settings

SANITIZE = Path(__file__).with_name("sanitize.cfg")
TROUBLE = ("failure", "error", "skipped")
LONGEST_CELL, LONGEST_CHECK = 300, 3_000
"""Seconds, of a cell and of all notebooks."""


@dataclass(frozen=True)
class Compared:
    """What became of the code cells of one notebook: their number, and the report of each that differed."""

    cells: int
    differences: tuple[str, ...]


def compare(notebooks: Sequence[Path], settings: Settings, scratch: Path) -> dict[str, Compared]:
    """Run the notebooks, in order, in this home, and compare every output with the stored one. Name to result."""
    report = scratch / "nbval.xml"
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    options += [f"--nbval-cell-timeout={LONGEST_CELL}", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    # The project's own pytest configuration is about the project's own tests.
    options += ["-c", os.devnull, f"--rootdir={CHECKOUT}", "-p", "no:cacheprovider", "--color=no", "-q"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, notebooks)],
        env=os.environ | environment(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_CHECK,
    )
    if not report.is_file():
        raise AssertionError(f"nbval did not run:\n{result.stdout}\n{result.stderr}")
    compared = {path.stem: Compared(0, ()) for path in notebooks}
    for case in ET.parse(report).getroot().iter("testcase"):
        name = Path(case.attrib["file"]).stem
        troubles = [f"{case.attrib['name']}\n{entry.text}" for entry in case if entry.tag in TROUBLE]
        before = compared[name]
        compared[name] = Compared(before.cells + 1, (*before.differences, *troubles))
    return compared
