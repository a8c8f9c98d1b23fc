"""The gate for all stored outputs: strict nbval on the engine of one home.

The days form chains. A chain begins in an empty home and needs nothing from another chain, so two chains can run at the
same time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import lineage
from shared.course.days import DAYS, Day, day, select
from shared.course.execution import environment, read
from shared.course.refresh import default_settings
from shared.runtime import kafka, spark
from shared.settings import CHECKOUT, Settings

BATCH, STREAMING = (*select(1, 9), day(16), day(19), day(20)), select(10, 14)
DELIVERY = (day(15), day(17), day(18))
DASHBOARD = tuple(one for one in DAYS if not one.spark)
"""Days 21 to 27. No engine is started for them."""
CHAINS: tuple[tuple[Day, ...], ...] = (BATCH, STREAMING, DELIVERY, DASHBOARD)
"""Every day is in one chain, so its notebook is executed once. Each `test_stored_*.py` compares one chain."""

SANITIZE = Path(__file__).with_name("sanitize.cfg")
JUDGE = Path(__file__).with_name("judge.py")
TROUBLE = ("failure", "error", "skipped")
LONGEST_CELL, LONGEST_CHECK = 300, 3_000
"""Time limits in seconds, for a cell and for all notebooks of a chain."""


@dataclass(frozen=True)
class Compared:
    """The result for the code cells of one notebook: their number, and the report of each differing cell."""

    cells: int
    differences: tuple[str, ...]


def compared_chain(days: Sequence[Day], scratch: Path) -> dict[str, Compared]:
    """Compare the notebooks of a chain in a fresh home, and check each day after its notebook. Results by name."""
    settings = default_settings(scratch / "home")
    try:
        found = compare([day.notebook for day in days], settings, scratch, checks=True)
        if not any(day.spark for day in days):
            assert not spark.log_path(settings).exists(), "a chain of days without Spark has started an engine"
        return found
    finally:
        spark.down(settings)
        kafka.down(settings)


def compare(notebooks: Sequence[Path], settings: Settings, scratch: Path, checks: bool = False) -> dict[str, Compared]:
    """Run the notebooks in order in this home, and compare every output with the stored one. Return results by name.

    With ``checks`` a day is checked once more after its notebook. If a check fails, the last cell counts as differing.
    """
    report = scratch / "nbval.xml"
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    options += [f"--nbval-cell-timeout={LONGEST_CELL}", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    # Without the project's own pytest configuration, which is for the project's own tests.
    options += ["-c", os.devnull, f"--rootdir={CHECKOUT}", "-p", "no:cacheprovider", "--color=no", "-q"]
    result = subprocess.run(
        [sys.executable, *([str(JUDGE)] if checks else ["-m", "pytest"]), *options, *map(str, notebooks)],
        # With the engine options of a learner, not those of the tests.
        env={name: value for name, value in os.environ.items() if name != "JDK_JAVA_OPTIONS"} | environment(settings),
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


def assert_lineage_is_declared(
    home: Path, tables: Sequence[str], beside: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """See that what the notebooks' engine and run log have shown of these tables is what the metadata says.

    Read from the files of the home: its engine has ended.

    Args:
        home: the home of the chain.
        tables: the tables that the chain's days make.
        beside: table to the sources from which a notebook fills it beside those of the pipeline.
    """
    found = lineage.captured(default_settings(home))
    assert {edge.captured_by for edge in found.edges} == {"engine", "run log"}
    compared = {one.table: one for one in lineage.compare(captured_edges=found.edges)}
    expected = [lineage.Comparison(table, (), (beside or {}).get(table, ())) for table in tables]
    assert [compared[table] for table in tables] == expected


def assert_as_stored(compared: dict[str, Compared], day: Day) -> None:
    """Assert that every cell of a day was run and gave its stored output."""
    result = compared[day.name]
    assert not result.differences, "\n".join(result.differences) + "\nif this is meant: make notebooks"
    assert result.cells == sum(cell.cell_type == "code" for cell in read(day.notebook).cells)
