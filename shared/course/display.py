"""Display functions for notebooks.

Each function puts one output on the page, in a rich form and as ``text/plain``. Both forms are the same on every
machine, so a test can compare a stored output with a fresh one, character by character. Rows are shown in the order
in which they are given, so **sort by a total order first**. A path below the project's home is shown as
``$SHOPMETRICS_HOME/...``; a path below the checkout is shown relative to it.

Example:
    >>> from shared.course import display
    >>> display.show(spark.table("bronze.orders_raw").orderBy("order_id", "updated_at"), n=5)
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared.course.table import Cell, Rows, Table, numeric_columns, shortened, take, text
from shared.errors import CourseError
from shared.settings import CHECKOUT, get_settings

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pyspark.sql import SparkSession

    from shared.course.table import Tabular

_BEGUN = time.time()
"""A notebook imports this module in its first cells, before it changes a table."""

PICTURE_WIDTH = 760
"""The width of a figure's picture on the page, in pixels; the picture itself has a higher resolution."""

PLOTLY_MIME = "application/vnd.plotly.v1+json"

MOST_COMPARED = 1_000
"""The most rows that :func:`compare` accepts: it is for tables that a person can check by eye."""


def show(data: Tabular, n: int = 10, title: str = "", width: int = 60) -> None:
    """Show the first ``n`` rows of a table.

    Numbers are right-aligned, a missing value is NULL, an instant is in UTC. If there are more rows, a line below the
    table says so, without counting them.

    Args:
        data: a Spark or pandas DataFrame (its index is not shown), or a list of dictionaries; sorted by the caller.
        n: the number of rows to show.
        title: a line above the table.
        width: the most characters per cell; a longer value is cut and ends in an ellipsis.

    Raises:
        CourseError: if the data is not a table.

    Example:
        >>> show(spark.sql("SELECT status, count(*) AS orders FROM bronze.orders_raw GROUP BY 1 ORDER BY 1"))
    """
    put_table(shown(data, n, title, width))


def shown(data: Tabular, n: int = 10, title: str = "", width: int = 60) -> Table:
    """Return the table that :func:`show` puts on the page."""
    rows = take(data, n)
    table = Table.of(rows, width, title)
    if not rows.columns or not rows.values:
        table.notes.append("no rows")
    elif rows.more:
        table.notes.append(f"first {n} rows; there are more" if n > 1 else "first row; there are more")
    return table


def snapshot(data: Tabular) -> Rows:
    """Return the rows as they are now, for a later :func:`compare`.

    A Spark DataFrame is a query, not its result: after a MERGE, the same DataFrame returns the new rows.

    Raises:
        CourseError: if there are more than 1,000 rows.

    Example:
        >>> before = snapshot(spark.table("silver.dim_customers"))
    """
    rows = take(data, MOST_COMPARED)
    if rows.more:
        raise CourseError(
            f"The table has more than {MOST_COMPARED:,} rows: expected one that a person can check by eye.",
            "filter it to a few keys first",
        )
    return rows


def compare(before: Tabular, after: Tabular, key: str | Sequence[str], title: str = "", width: int = 60) -> None:
    """Show two states of a table as one, sorted by key, with what changed marked.

    The first column says ``added``, ``removed`` or ``changed``; a changed cell reads ``old → new`` and is bold. Each
    side may have columns that the other lacks. NULL equals NULL here.

    Args:
        before: the earlier state: :func:`snapshot`, or ``SELECT ... VERSION AS OF n``.
        after: the later state.
        key: the column or columns that identify a row on each side.
        title: a line above the table.
        width: characters per cell.

    Raises:
        CourseError: if a key is missing or not unique, or if there are more than 1,000 rows.

    Example:
        >>> before = snapshot(people)
        >>> spark.sql("MERGE INTO ...")
        >>> compare(before, people, key="customer_id")
    """
    put_table(compared(before, after, key, title, width))


def compared(before: Tabular, after: Tabular, key: str | Sequence[str], title: str = "", width: int = 60) -> Table:
    """Return the table that :func:`compare` puts on the page."""
    keys = (key,) if isinstance(key, str) else tuple(key)
    old_rows, new_rows = snapshot(before), snapshot(after)
    old, new = _by_key(old_rows, keys, "before"), _by_key(new_rows, keys, "after")
    columns = list(dict.fromkeys([*new_rows.columns, *old_rows.columns]))
    counts = dict.fromkeys(("added", "removed", "changed", "unchanged"), 0)
    lines = []
    for identity in sorted(old.keys() | new.keys(), key=_order):
        was, now = old.get(identity), new.get(identity)
        if was is None or now is None:
            change = "added" if was is None else "removed"
            present = now or was or {}
            cells = [_value(present.get(column), width, change) for column in columns]
        else:
            cells = [_change(was.get(column), now.get(column), width) for column in columns]
            change = "changed" if any(entry.mark for entry in cells) else "unchanged"
        counts[change] += 1
        lines.append(
            [Cell("" if change == "unchanged" else change, "" if change == "changed" else cells[0].mark), *cells]
        )
    right = {
        c
        for rows in (old_rows, new_rows)
        for c, number in zip(rows.columns, numeric_columns(rows), strict=True)
        if number
    }
    headers = [
        c
        if c in old_rows.columns and c in new_rows.columns
        else f"{c} (new column)"
        if c in new_rows.columns
        else f"{c} (column gone)"
        for c in columns
    ]
    summary = ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "no rows"
    return Table(["change", *headers], [False, *(c in right for c in columns)], lines, title, [summary])


def _by_key(rows: Rows, keys: tuple[str, ...], side: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    if not rows.values:
        return {}
    missing = [key for key in keys if key not in rows.columns]
    if missing:
        raise CourseError(
            f"The rows {side} have no column {', '.join(missing)}: expected the key among {', '.join(rows.columns)}.",
            "pass the column that identifies a row as key",
        )
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for values in rows.values:
        row = dict(zip(rows.columns, values, strict=True))
        identity = tuple(row[key] for key in keys)
        if identity in found:
            named = ", ".join(f"{key}={text(value)}" for key, value in zip(keys, identity, strict=True))
            raise CourseError(
                f"The key {named} occurs more than once in the rows {side}: expected one row per key.",
                "add columns to the key until it identifies a row",
            )
        found[identity] = row
    return found


def _order(identity: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple((value is None, 0 if value is None else value) for value in identity)


def _value(value: Any, width: int, mark: str) -> Cell:
    return Cell(shortened(text(value), width), mark, value is None)


def _change(was: Any, now: Any, width: int) -> Cell:
    if was == now or (was != was and now != now):  # NaN is the one value that differs from itself
        return _value(now, width, "")
    return Cell(f"{shortened(text(was), width)} → {shortened(text(now), width)}", "changed")


class Described(Protocol):
    """A figure with its alt text, as the functions of ``dashboard.figures`` return it."""

    @property
    def figure(self) -> go.Figure:
        """The figure."""

    @property
    def alt(self) -> str:
        """A sentence that says what the figure shows, with its numbers."""


def figure(fig: go.Figure | Described, alt: str = "", height: int = 360) -> None:
    """Show a plotly figure: interactive in JupyterLab, a picture on a code host, a sentence for readers without either.

    The picture is drawn later, when the stored outputs are refreshed, so running a notebook needs no browser. Nothing
    is loaded from the network.

    Args:
        fig: the figure, or a chart of the dashboard, which has its own alt text. Settings that the figure lacks come
            from the course's template.
        alt: a sentence that says what the figure shows, with its numbers; screen readers read it, tests compare it.
        height: in pixels.

    Raises:
        CourseError: if ``alt`` is empty.

    Example:
        >>> figure(px.line(daily, x="order_date", y="orders"), alt="Orders per day: 219 to 512, highest in December.")
    """
    import plotly.graph_objects as go

    if not isinstance(fig, go.Figure):
        fig, alt = fig.figure, alt or fig.alt
    if not alt.strip():
        raise CourseError("A figure has no alt text: expected a sentence that says what it shows.", "pass alt=...")
    # Through JSON and back: numpy values and dates become plain JSON values, as in a stored notebook.
    content = json.loads(styled(fig, height).to_json())
    bundle = {
        "data": content["data"],
        "layout": content["layout"],
        "config": {"displaylogo": False, "responsive": True},
    }
    _put({PLOTLY_MIME: bundle, "text/plain": alt}, {"image/png": {"alt": alt, "width": PICTURE_WIDTH}})


def styled(fig: go.Figure, height: int) -> go.Figure:
    """Return a copy of a figure in the course's look: small, on white, so that it is legible in every theme."""
    import plotly.graph_objects as go

    copy = go.Figure(fig)
    copy.layout.template = go.layout.Template(layout=TEMPLATE)
    if copy.layout.height is None:
        copy.layout.height = height
    return copy


_AXIS = {"gridcolor": "#e4e7eb", "linecolor": "#818b98", "zerolinecolor": "#c9d1d9", "automargin": True}

TEMPLATE = {
    "paper_bgcolor": "#ffffff",
    "plot_bgcolor": "#ffffff",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1f2328"},
    # Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
    "colorway": ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"],
    "margin": {"l": 64, "r": 24, "t": 48, "b": 48},
    "xaxis": _AXIS,
    "yaxis": _AXIS,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    "title": {"x": 0, "xref": "paper", "font": {"size": 15}},
}
"""The course's plotly template. Every stored figure contains its template, and plotly's own is ten times as large."""


def diagram(name: str, alt: str = "") -> None:
    """Show the medallion diagram with the box of this name lit: ``workspace``, ``bronze``, ``gold``, ...

    Args:
        name: the box.
        alt: what the diagram says; defaults to the picture's own description.

    Raises:
        CourseError: if there is no such diagram; the message lists the existing ones.
    """
    found = {path.stem.split("-", 2)[2]: path for path in (CHECKOUT / "docs" / "img").glob("medallion-*-*.svg")}
    if name not in found:
        raise CourseError(f"There is no diagram {name!r}: expected one of {', '.join(sorted(found))}.")
    svg = found[name].read_text(encoding="utf-8")
    _put({"image/svg+xml": svg, "text/plain": alt or _description(svg)})


def _description(svg: str) -> str:
    root = ET.fromstring(svg)
    return " ".join(root.findtext(f"{{http://www.w3.org/2000/svg}}{tag}", "") for tag in ("title", "desc"))


def lakehouse_state(spark: SparkSession, all_tables: bool = False) -> None:
    """Show what this notebook has changed, layer by layer: the versions and the rows that it added to each table.

    The result does not depend on what other days did: versions and rows that a table already had are not counted. The
    creation of a table does not count as an added version.

    Args:
        spark: the session.
        all_tables: show every table instead, with its current version and its number of rows.
    """
    from shared import catalog

    before = dict.fromkeys(catalog.tables(spark)) if all_tables else catalog.changed_since(spark, _BEGUN)
    rows = []
    for entry in catalog.state(spark, list(before)) if before else []:
        version, count, earlier = entry.version, entry.rows, before[entry.table]
        if earlier is not None:
            version -= earlier
            count -= spark.read.option("versionAsOf", str(earlier)).table(entry.table).count()
        rows.append([Cell(entry.table), Cell(str(version)), Cell(f"{count:,}")])
    columns = ["table", "version", "rows"] if all_tables else ["table", "versions added", "rows added"]
    table = Table(columns, [False, True, True], rows, "State of your lakehouse")
    if not all_tables:
        changed = "what this notebook changed" if rows else "this notebook changed no table"
        table.notes.append(f"{changed}; all tables: display.lakehouse_state(spark, all_tables=True)")
    put_table(table)


def source(function: Callable[..., Any] | type, docstring: bool = True) -> None:
    """Show the source code of a function or class of this project, with a link to its module.

    Args:
        function: the function or class to show.
        docstring: False hides its docstring.

    Example:
        >>> source(catalog.create_schemas)
    """
    file = Path(inspect.getsourcefile(function) or "").resolve()
    code = textwrap.dedent(inspect.getsource(function)).rstrip()
    if not docstring:
        code = _without_docstring(code)
    where = file.relative_to(CHECKOUT).as_posix() if file.is_relative_to(CHECKOUT) else ""
    link = f"From [{where}](../{where}):\n\n" if where else ""
    _put({"text/markdown": f"{link}```python\n{code}\n```", "text/plain": code})


def _without_docstring(code: str) -> str:
    body = ast.parse(code).body[0]
    if not isinstance(body, (ast.FunctionDef, ast.ClassDef)) or ast.get_docstring(body) is None or len(body.body) == 1:
        return code
    first, lines = body.body[0], code.splitlines()
    return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])


@contextmanager
def expect_error(*kinds: type[BaseException], lines: int | None = None) -> Iterator[None]:
    """Show the error that the block raises on purpose, and continue. Fail if it raises none, or one of another class.

    Args:
        kinds: the expected error classes.
        lines: how many lines of its message to show; defaults to all.

    Raises:
        CourseError: if the block ends without an error.

    Example:
        >>> with expect_error(SourceError):
        ...     ingest(spark, ["orders"])
    """
    try:
        yield
    except kinds as error:
        message = "\n".join(str(error).split("\n\nJVM stacktrace:")[0].strip().splitlines()[:lines])
        shown_error = _portable(f"{type(error).__name__}: {message}")
        _put({"text/markdown": f"```\n{shown_error}\n```", "text/plain": shown_error})
    else:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise CourseError(f"The block was to raise {wanted}, but it ended without an error.")


def _portable(string: str) -> str:
    home, checkout = str(get_settings().home), str(CHECKOUT)
    string = string.replace(home, "$SHOPMETRICS_HOME").replace(checkout + "/", "")
    # A local server has a different port on each machine.
    return re.sub(r"(?<![\d.])127\.0\.0\.1:\d+\b", "127.0.0.1:PORT", string)


def put_table(table: Table) -> None:
    """Show a table that other code has built."""
    _put({"text/html": _portable(table.html()), "text/plain": _portable(table.plain())})


def _put(bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    from IPython.display import display

    display(bundle, raw=True, metadata=metadata or {})
