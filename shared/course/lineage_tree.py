"""Lineage as a tree, for a terminal and for the text of a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text
from rich.tree import Tree

from shared.errors import LineageError
from shared.lineage import ColumnEdge, Direction, Line, column_lines


def of_table(edges: Sequence[Line], table: str, direction: Direction = "upstream") -> Tree:
    """Return the tree of what a table is made from, and of what is made from it.

    A table that leads there on two ways stands in the tree twice. An edge that no run has shown says that it is
    declared only.

    Args:
        edges: those around the table.
        table: the root.
        direction: ``upstream`` grows towards files and topic, ``downstream`` towards gold.
    """
    root = Tree(Text(table, style="bold"))
    if direction == "both":
        _grow(root.add("made from"), edges, table, "upstream", (table,))
        _grow(root.add("read by"), edges, table, "downstream", (table,))
    else:
        _grow(root, edges, table, direction, (table,))
    return root


def _grow(node: Tree, edges: Sequence[Line], table: str, direction: Direction, path: tuple[str, ...]) -> None:
    for edge in edges:
        near, far = (edge.target, edge.source) if direction == "upstream" else (edge.source, edge.target)
        if near != table:
            continue
        label = Text(far)
        label.append(f"  {_note(edge)}", style="dim")
        if far in path:
            node.add(label.append("  (above)", style="dim"))
        else:
            _grow(node.add(label), edges, far, direction, (*path, far))


def _note(edge: Line) -> str:
    if not edge.is_captured:
        return f"declared only: {edge.why}"
    why = "" if edge.why in ("", "its source", "its files", "its messages") else f": {edge.why}"
    return f"{', '.join(edge.captured_by)}{why}" + ("" if edge.why else ", not declared")


def of_columns(columns: Iterable[ColumnEdge], table: str, direction: Direction = "upstream") -> Tree:
    """Return the tree of the columns that each column of a table comes from, value by value.

    Columns that only decide which rows there are are listed at the end.

    Args:
        columns: the captured edges.
        table: the root.
        direction: ``upstream`` or ``downstream``; ``both`` is upstream.

    Raises:
        LineageError: if no column of the table was captured.
    """
    columns = list(columns)
    if direction == "downstream":
        # The same tree, seen from the other end.
        turned = [
            ColumnEdge(
                e.target, e.target_column, e.source, e.source_column, e.kind, e.transformation, e.run_id, e.seen_at
            )
            for e in columns
            if e.target_column
        ]
        return _tree_of_columns(turned, table, "goes to")
    return _tree_of_columns(columns, table, "comes from")


def _tree_of_columns(columns: list[ColumnEdge], table: str, verb: str) -> Tree:
    found = column_lines(columns, table)
    if not found:
        raise LineageError(
            f"No column of {table} was captured.",
            "the engine tells columns where one query reads and writes, as in `shopmetrics pipeline run --full`; a "
            "micro-batch of the clickstream, and a run of what is new, keep results in between",
        )
    root = Tree(Text(f"{table}: each column, and what it {verb}", style="bold"))
    for name in found:
        _grow_column(root.add(Text(name)), columns, table, name, ((table, name),))
    rows = sorted(
        {(e.source, e.source_column, e.transformation) for e in columns if (e.target, e.kind) == (table, "indirect")}
    )
    decide = [f"{source}.{column}  {how}" for source, column, how in rows]
    if decide and verb == "comes from":
        branch = root.add(Text("which rows there are, or which value is taken", style="dim"))
        for one in decide:
            branch.add(Text(one))
    return root


def _grow_column(
    node: Tree, columns: list[ColumnEdge], table: str, column: str, path: tuple[tuple[str, str], ...]
) -> None:
    for edge in columns:
        there = (edge.source, edge.source_column)
        if (edge.target, edge.target_column, edge.kind) != (table, column, "direct") or there in path:
            continue
        label = Text(f"{edge.source}.{edge.source_column}")
        label.append(f"  {edge.transformation}", style="dim")
        _grow_column(node.add(label), columns, *there, (*path, there))
