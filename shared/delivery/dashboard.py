"""The Lakeview dashboard: checks of its file, and its widgets' queries as SQL for any engine.

A dashboard file (``.lvdash.json``) has datasets, which are queries, and widgets, which aggregate a dataset. A
deployment accepts any file. If a widget uses a column that no query has, the widget stays empty and nothing reports it.
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
    """Return the query of each dataset by the dataset's name."""
    return {one["name"]: "".join(one.get("queryLines") or [one.get("query", "")]) for one in content["datasets"]}


def widgets(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the widgets that show data, in the order of pages and layout."""
    for page in content["pages"]:
        yield from (entry["widget"] for entry in page["layout"] if "spec" in entry["widget"])


def widget_query(content: Mapping[str, Any], name: str) -> str:
    """Return the query of a widget: its fields over its dataset, grouped by the fields that are not aggregates.

    Spark, DuckDB and a SQL warehouse all accept this SQL.
    """
    widget = next(one for one in widgets(content) if one["name"] == name)
    query = widget["queries"][0]["query"]
    fields = ", ".join(f"{_plain(field['expression'])} AS {field['name']}" for field in query["fields"])
    text = f"SELECT {fields} FROM ({datasets(content)[query['datasetName']]}) AS dataset"
    groups = [_plain(field["expression"]) for field in query["fields"] if "(" not in field["expression"]]
    return text if query.get("disaggregated") or not groups else f"{text} GROUP BY {', '.join(groups)}"


def problems(file: Path) -> Iterator[str]:
    """Yield the problems of a dashboard file, found from its text and the declared columns of gold."""
    if not file.is_file():
        return  # the check of the resource's path reports a missing file
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
    """Return the fields that a widget shows, at any depth of its encodings."""
    if isinstance(encodings, list):
        return set().union(*map(_encoded, encodings))
    if not isinstance(encodings, dict):
        return set()
    own = {encodings["fieldName"]} if "fieldName" in encodings else set()
    return own.union(*map(_encoded, encodings.values()))


@contextmanager
def _empty_gold() -> Iterator[DuckDBPyConnection]:
    """Open a database of empty tables with the declared columns of gold."""
    # Imported here: the course's checks import this module in every notebook, but only two checks need DuckDB.
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA gold")
        for definition in gold.TABLES.declared():
            connection.execute(f"CREATE TABLE {definition.target} ({', '.join(_columns(definition))})")
        yield connection


def _columns(definition: Any) -> Iterator[str]:
    """Yield the columns of a gold table with their types: the type of the measure or of silver's column, else text."""
    derived = {column.name: column.type for one in silver.TABLES.declared() for column in one.derived_columns}
    measures = {measure.name: measure.type for measure in definition.measures}
    for name in definition.columns:
        yield f"{name} {measures.get(name) or derived.get(name, 'VARCHAR')}"


def _plain(expression: str) -> str:
    """Return an expression without backticks, which DuckDB does not accept."""
    return expression.replace("`", "")
