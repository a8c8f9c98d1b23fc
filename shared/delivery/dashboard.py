"""The Lakeview dashboard: its file examined, and the figures of its widgets asked of any engine.

A dashboard file (``.lvdash.json``) has datasets, which are queries, and widgets, which aggregate a dataset. A
deployment takes the file as it is; a widget whose column no query has stays empty, and nobody is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import gold, silver
from shared.errors import first_line

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FILE = "resources/daily_sales.lvdash.json"


def read(file: Path) -> dict[str, Any]:
    """Return the content of a dashboard file.

    Raises:
        ValueError: if it is not JSON.
    """
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def datasets(content: Mapping[str, Any]) -> dict[str, str]:
    """Return name to query of each dataset."""
    return {one["name"]: "".join(one.get("queryLines") or [one.get("query", "")]) for one in content["datasets"]}


def widgets(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the widgets that show data, in the order of pages and layout."""
    for page in content["pages"]:
        yield from (entry["widget"] for entry in page["layout"] if "spec" in entry["widget"])


def widget_query(content: Mapping[str, Any], name: str) -> str:
    """Return the query that a widget asks: its fields over its dataset, grouped by those that are no aggregates.

    The text is SQL that Spark, DuckDB and a SQL warehouse take alike.
    """
    widget = next(one for one in widgets(content) if one["name"] == name)
    query = widget["queries"][0]["query"]
    fields = ", ".join(f"{_plain(field['expression'])} AS {field['name']}" for field in query["fields"])
    text = f"SELECT {fields} FROM ({datasets(content)[query['datasetName']]}) AS dataset"
    groups = [_plain(field["expression"]) for field in query["fields"] if "(" not in field["expression"]]
    return text if query.get("disaggregated") or not groups else f"{text} GROUP BY {', '.join(groups)}"


def problems(file: Path) -> Iterator[str]:
    """Yield what is wrong with a dashboard file, by its own text and the declared columns of gold."""
    if not file.is_file():
        return  # told by the resource's path
    try:
        content = read(file)
        names = [widget["name"] for widget in widgets(content)]
        known = datasets(content)
    except (ValueError, KeyError, TypeError) as error:
        yield f"{file.name} is no dashboard: {type(error).__name__} {error}"
        return
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{names.count(name)} widgets are called {name}"
    with _empty_gold() as connection:
        for widget in widgets(content):
            where = f"widget {widget['name']}"
            yield from (f"{where}: {problem}" for problem in _widget_problems(widget, known, content, connection))


def _widget_problems(
    widget: Mapping[str, Any], known: Mapping[str, str], content: Mapping[str, Any], connection: DuckDBPyConnection
) -> Iterator[str]:
    for one in widget["queries"]:
        query = one["query"]
        if query["datasetName"] not in known:
            yield f"unknown dataset {query['datasetName']}, expected one of {', '.join(known)}"
            return
        names = {field["name"] for field in query["fields"]}
        for field in sorted(_encoded(widget["spec"].get("encodings", {})) - names):
            yield f"it shows the field {field}, which its query does not have: {', '.join(sorted(names))}"
    import duckdb

    try:
        connection.execute(widget_query(content, widget["name"]))
    except duckdb.Error as error:
        yield first_line(error)


def _encoded(encodings: Any) -> set[str]:
    """Return the fields that a widget shows, wherever in its encodings they stand."""
    if isinstance(encodings, list):
        return set().union(*map(_encoded, encodings))
    if not isinstance(encodings, dict):
        return set()
    own = {encodings["fieldName"]} if "fieldName" in encodings else set()
    return own.union(*map(_encoded, encodings.values()))


@contextmanager
def _empty_gold() -> Iterator[DuckDBPyConnection]:
    """Open a database of empty tables with the declared columns of gold."""
    # Here: the course's checks import this module in every notebook, and only two ask a database.
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA gold")
        for definition in gold.TABLES.declared():
            connection.execute(f"CREATE TABLE {definition.target} ({', '.join(_columns(definition))})")
        yield connection


def _columns(definition: Any) -> Iterator[str]:
    """Yield the columns of a gold table with their types: of those it groups by, as silver derives them, else text."""
    derived = {column.name: column.type for one in silver.TABLES.declared() for column in one.derived_columns}
    measures = {measure.name: measure.type for measure in definition.measures}
    for name in definition.columns:
        yield f"{name} {measures.get(name) or derived.get(name, 'VARCHAR')}"


def _plain(expression: str) -> str:
    """Return an expression without the backticks, which DuckDB does not know."""
    return expression.replace("`", "")
