"""A small table that reads the same everywhere: as HTML in JupyterLab and on a code host, as text in a terminal.

The same data gives the same characters on every machine. An instant is shown in UTC whatever the local time zone, a
floating-point number with ten significant digits, and no HTML element has a generated id.
"""

from __future__ import annotations

import datetime as dt
import html
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from shared.errors import CourseError

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

    Tabular: TypeAlias = "DataFrame | pd.DataFrame | Sequence[Mapping[str, Any]] | Rows"

NULL = "NULL"

# Translucent, so that the text keeps the colour of the theme: legible on white as on black.
MARKS = {
    "added": "background-color: rgba(46, 160, 67, 0.25)",
    "removed": "background-color: rgba(248, 81, 73, 0.25)",
    "changed": "background-color: rgba(210, 153, 34, 0.35)",
}
"""The marks of rows and cells, and their styles. The mark's word is always on the page too."""


@dataclass(frozen=True)
class Rows:
    """Rows in memory, as they were when they were read: column names, and one Python value per row and column."""

    columns: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    more: bool = False
    """Whether the source has more rows."""


def take(data: Tabular, n: int) -> Rows:
    """Return the first ``n`` rows of a Spark or pandas DataFrame, or of a list of mappings with the same keys.

    Raises:
        CourseError: if the data is none of these.
    """
    if isinstance(data, Rows):
        return Rows(data.columns, data.values[:n], data.more or len(data.values) > n)
    given: Any = data
    kind = type(given)
    if kind.__name__ == "DataFrame" and kind.__module__.startswith("pyspark.sql"):
        # Arrow keeps the time zone of an instant; `collect` would turn it into this machine's local time.
        arrow = given.limit(n + 1).toArrow()
        columns, series = tuple(arrow.column_names), [column.to_pylist() for column in arrow.columns]
    elif kind.__name__ == "DataFrame" and kind.__module__.startswith("pandas"):
        frame: pd.DataFrame = given.iloc[: n + 1]
        columns = tuple(map(str, frame.columns))
        series = [[_from_pandas(value) for value in frame.iloc[:, i].tolist()] for i in range(len(columns))]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        columns = tuple(given[0]) if given else ()
        series = [[row[column] for row in given[: n + 1]] for column in columns]
    else:
        raise CourseError(
            f"A {kind.__module__}.{kind.__name__} cannot be shown as a table: expected a Spark or pandas DataFrame, "
            "or a list of dictionaries.",
            "a grouped DataFrame needs .agg(...) to be one again, and .write returns none",
        )
    values = tuple(zip(*series, strict=True))
    return Rows(columns, values[:n], len(values) > n)


def _from_pandas(value: Any) -> Any:
    import pandas as pd

    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


def is_number(value: Any) -> bool:
    """Whether a value is shown as a number, that is, right-aligned."""
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def text(value: Any) -> str:
    """Return a value as SQL would print it: ``NULL``, ``true``, ``2025-03-01 14:03:22``, ``[1, 2]``, ``{a: 1}``.

    >>> text(None), text(True), text(Decimal("1.50")), text({"a": [1, None]})
    ('NULL', 'true', '1.50', '{a: [1, NULL]}')
    """
    match value:
        case None:
            return NULL
        case bool():
            return "true" if value else "false"
        case float():
            return "NaN" if math.isnan(value) else format(value, ".10g")
        case Decimal():
            return format(value, "f")
        case dt.datetime():
            return _instant(value)
        case bytes() | bytearray():
            return "0x" + value.hex()
        case Mapping():
            return "{" + ", ".join(f"{text(k)}: {text(v)}" for k, v in value.items()) + "}"
        case list() if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return text(dict(value))  # Arrow's form of a MAP
        case list() | tuple():
            return "[" + ", ".join(map(text, value)) + "]"
    return "".join(_VISIBLE.get(c, c) for c in str(value))


_VISIBLE = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _instant(value: dt.datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(dt.UTC)
    fraction = f".{value.microsecond:06d}".rstrip("0") if value.microsecond else ""
    return f"{value:%Y-%m-%d %H:%M:%S}{fraction}"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and its mark, if it has one."""

    text: str
    mark: str = ""
    is_null: bool = False


@dataclass
class Table:
    """A rendered table. ``numeric`` says which columns are right-aligned; ``notes`` stand below it."""

    columns: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    title: str = ""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Rows, width: int, title: str = "") -> Table:
        """Render rows, each cell cut to ``width`` characters."""
        cells = [[cell(value, width) for value in row] for row in rows.values]
        return cls(list(rows.columns), numeric_columns(rows), cells, title)

    def html(self) -> str:
        """Return the table as HTML that needs no style sheet and no script."""
        lines = [f"<p><b>{html.escape(self.title)}</b></p>"] if self.title else []
        heads = [self._tag("th", i, html.escape(name), "") for i, name in enumerate(self.columns)]
        lines += ["<table>", "<thead>", f"<tr>{''.join(heads)}</tr>", "</thead>", "<tbody>"]
        lines += [f"<tr>{''.join(self._html_cell(i, entry) for i, entry in enumerate(row))}</tr>" for row in self.rows]
        lines += ["</tbody>", "</table>"]
        lines += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        return "\n".join(lines)

    def _html_cell(self, column: int, entry: Cell) -> str:
        body = html.escape(entry.text)
        body = f"<i>{body}</i>" if entry.is_null else f"<b>{body}</b>" if entry.mark == "changed" else body
        return self._tag("td", column, body, entry.mark)

    def _tag(self, tag: str, column: int, body: str, mark: str) -> str:
        side = "right" if self.numeric[column] else "left"
        style = f"text-align: {side}" + (f"; {MARKS[mark]}" if mark else "")
        # Code hosts remove styles and keep `align`; JupyterLab's own style sheet overrides `align`.
        return f'<{tag} align="{side}" style="{style}">{body}</{tag}>'

    def plain(self) -> str:
        """Return the table as text, the columns aligned."""
        grid = [self.columns, *([entry.text for entry in row] for row in self.rows)]
        widths = [max(map(_columns_wide, column)) for column in zip(*grid, strict=True)]
        lines = [self._line(row, widths) for row in grid] if self.columns else []
        lines[1:1] = ["  ".join("-" * width for width in widths)] if self.columns else []
        return "\n".join([*([self.title, ""] if self.title else []), *lines, *self.notes])

    def _line(self, row: Sequence[str], widths: list[int]) -> str:
        padded = []
        for entry, width, numeric in zip(row, widths, self.numeric, strict=True):
            gap = " " * (width - _columns_wide(entry))
            padded.append(gap + entry if numeric else entry + gap)
        return "  ".join(padded).rstrip()


def cell(value: Any, width: int) -> Cell:
    """Return a value as a cell of at most ``width`` characters."""
    return Cell(shortened(text(value), width), is_null=value is None)


def shortened(string: str, width: int) -> str:
    """Return a string, cut to ``width`` characters with an ellipsis as the last one."""
    return string if len(string) <= width else string[: width - 1] + "…"


def numeric_columns(rows: Rows) -> list[bool]:
    """Return for each column whether it holds numbers and nothing else."""
    found = []
    for i in range(len(rows.columns)):
        present = [row[i] for row in rows.values if row[i] is not None]
        found.append(bool(present) and all(map(is_number, present)))
    return found


def _columns_wide(string: str) -> int:
    # An East Asian character takes two columns of a terminal, a combining accent none.
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in string)
