"""Sample notebooks for tests of the tools, which never use the course's own notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from shared.course.days import Day

PARAMETERS = "scale = 1.0"

DAY_2 = """\
import shared
from shared.course import checks, days, display

spark = shared.connect()
frame = spark.createDataFrame(days.as_rows(), days.COLUMNS)
frame.write.mode("overwrite").saveAsTable("ops.course_days")"""
"""A cell that does the work of day 2, which is the smallest day."""


class Notebooks:
    """Makes notebooks and their days below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "notebooks").mkdir()

    def make(
        self,
        *cells: str,
        slug: str = "sample",
        number: int = 2,
        tags: dict[int, list[str]] | None = None,
        spark: bool = True,
    ) -> Day:
        """Write a notebook with a parameters cell and these code cells (tagged by position) and return its day."""
        day = Day(number, slug, "Sample", week=1, minutes=1, spark=spark, root=self.root)
        code = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, id="parameters")]
        for position, source in enumerate(cells):
            metadata = {"tags": (tags or {}).get(position, [])}
            code.append(new_code_cell(source, metadata=metadata, id=f"{slug}-{position}"))
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Sample", id="title"), *code]), day.notebook)
        return day


def read(day: Day) -> Any:
    return nbformat.read(day.notebook, as_version=4)
