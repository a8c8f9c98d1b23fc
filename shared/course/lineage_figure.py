"""Lineage as a figure: files and topic on the left, gold on the right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared import lineage
from shared.lineage import Direction, Line
from shared.settings import Settings

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LAYER_COLOURS = {
    "landing": "#f0f1f3",
    "kafka": "#f0f1f3",
    "bronze": "#f3dfc9",
    "silver": "#e3e8ee",
    "gold": "#f8ecb8",
}
_ENGINE, _LOG, _DECLARED = "captured by the engine", "captured by the run log alone", "declared only"
_LOOKS = {
    _ENGINE: {"color": "#0072b2", "width": 2},
    _LOG: {"color": "#d55e00", "width": 2, "dash": "dash"},
    _DECLARED: {"color": "#818b98", "width": 1.5, "dash": "dot"},
}
"""The lines differ in their dashes too, for readers who cannot see the colours."""

_HALF_WIDTH, _HALF_HEIGHT = 0.36, 0.27
"""Of a box, where columns and rows are 1 apart."""

_MOST_LETTERS = 14
"""In one line of a box."""


def lineage_of(
    table: str, direction: Direction = "upstream", settings: Settings | None = None
) -> tuple[go.Figure, str]:
    """Return the figure of a table's lineage as captured in this home and as declared, and its alt text.

    Args:
        table: two-part name.
        direction: ``upstream`` towards files and topic, ``downstream`` towards gold, or ``both``.
        settings: the home; defaults to this process's settings.

    Raises:
        LineageError: if no edge has the table, with the name that is nearest.

    Example:
        >>> fig, alt = lineage_of("gold.daily_sales_summary")
        >>> display.figure(fig, alt, height=fig.layout.height)
    """
    every = lineage.lines(lineage.declared(), lineage.captured(settings).edges)
    return drawn(lineage.around(every, table, direction), table)


def drawn(edges: Sequence[Line], table: str) -> tuple[go.Figure, str]:
    """Return the figure of these edges, and its alt text.

    Args:
        edges: what :func:`shared.lineage.around` returned.
        table: the table that the figure is of; its frame is bold.
    """
    import plotly.graph_objects as go

    places = _places(edges, table)
    figure = go.Figure()
    for kind, look in _LOOKS.items():
        x: list[float | None] = []
        y: list[float | None] = []
        for edge in edges:
            if _kind(edge) == kind:
                way = _way(edge, places)
                # None lifts the pen.
                x += [*(point[0] for point in way), None]
                y += [*(point[1] for point in way), None]
                (x0, y0), (x1, y1) = way[-2:]
                figure.add_annotation(
                    x=x1,
                    y=y1,
                    # The last bit of the way only, so that its dashes are seen.
                    ax=x1 - (x1 - x0) * 0.1,
                    ay=y1 - (y1 - y0) * 0.1,
                    xref="x",
                    yref="y",
                    axref="x",
                    ayref="y",
                    text="",
                    arrowhead=2,
                    arrowwidth=2,
                    arrowcolor=look["color"],
                )
        if x:
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=look, name=kind, hoverinfo="skip"))
    for name, (x0, y0) in places.items():
        schema, _, short = name.replace("/", ".").partition(".")
        figure.add_shape(
            type="rect",
            x0=x0 - _HALF_WIDTH,
            x1=x0 + _HALF_WIDTH,
            y0=y0 - _HALF_HEIGHT,
            y1=y0 + _HALF_HEIGHT,
            fillcolor=_LAYER_COLOURS.get(schema, "#ffffff"),
            line={"color": "#1f2328", "width": 3 if name == table else 1},
        )
        figure.add_annotation(
            x=x0, y=y0, text=f"<b>{schema}</b><br>{_wrapped(short)}", showarrow=False, font={"size": 10.5}
        )
    rows = {y for _, y in places.values()}
    axis = {"visible": False, "showgrid": False, "zeroline": False}
    figure.update_layout(
        xaxis=axis | {"range": [-0.5, max(x for x, _ in places.values()) + 0.5]},
        yaxis=axis | {"range": [min(rows) - 0.6, max(rows) + 0.6]},
        height=int(110 + 80 * (max(rows) - min(rows) + 1)),
        margin={"l": 8, "r": 8, "t": 40, "b": 8},
        showlegend=True,
    )
    return figure, _alt(edges, table, places)


def _wrapped(name: str) -> str:
    """Return a name in two lines if it is too long for its box."""
    words = re.split(r"(?<=[_-])", name)
    if len(name) <= _MOST_LETTERS or len(words) == 1:
        return name
    cut = min(range(1, len(words)), key=lambda at: abs(len("".join(words[:at])) - len(name) / 2))
    return "".join(words[:cut]) + "<br>" + "".join(words[cut:])


def _way(edge: Line, places: dict[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of an edge: straight, and past the boxes of the columns between."""
    (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
    points = [(x0 + _HALF_WIDTH, y0)]
    for column in range(int(x0) + 1, int(x1)):
        straight = y0 + (y1 - y0) * (column - x0) / (x1 - x0)
        boxes = [y for x, y in places.values() if x == column]
        free = [straight, *(y + side * (_HALF_HEIGHT + 0.18) for y in boxes for side in (1, -1))]
        free = [y for y in free if all(abs(y - box) > _HALF_HEIGHT + 0.1 for box in boxes)]
        y = min(free, key=lambda y: abs(y - straight))
        points += [(column - _HALF_WIDTH, y), (column + _HALF_WIDTH, y)]
    return [*points, (x1 - _HALF_WIDTH, y1)]


def _kind(edge: Line) -> str:
    if not edge.is_captured:
        return _DECLARED
    return _ENGINE if "engine" in edge.captured_by else _LOG


def _places(edges: Sequence[Line], table: str) -> dict[str, tuple[float, float]]:
    """Return where each table stands: right of all that it is made from, and at their height."""
    names = sorted({name for edge in edges for name in (edge.source, edge.target)} or {table})
    column = dict.fromkeys(names, 0)
    for _ in names:
        # A circle would push its tables on and on; no way is longer than there are tables.
        for edge in edges:
            column[edge.target] = max(column[edge.target], min(column[edge.source] + 1, len(names)))
    # A source stands next to what is made from it, not far off at the left.
    for name in names:
        made = [column[edge.target] for edge in edges if edge.source == name]
        if made and not any(edge.target == name for edge in edges):
            column[name] = min(made) - 1
    place: dict[str, tuple[float, float]] = {}
    for number in sorted(set(column.values())):
        here = [name for name in names if column[name] == number]

        def height(name: str) -> float:
            above = [place[edge.source][1] for edge in edges if edge.target == name and edge.source in place]
            return sum(above) / len(above) if above else 0.0

        here.sort(key=lambda name: (-height(name), name))
        for row, name in enumerate(here):
            place[name] = (float(number), (len(here) - 1) / 2 - row)
    return place


def _alt(edges: Sequence[Line], table: str, places: dict[str, tuple[float, float]]) -> str:
    """Return the figure as sentences."""
    if not edges:
        return f"Lineage of {table}: no edge."
    counts = {kind: sum(_kind(edge) == kind for edge in edges) for kind in _LOOKS}
    said = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
    made: dict[str, list[str]] = {}
    for edge in edges:
        made.setdefault(edge.target, []).append(edge.source)
    order = sorted(made, key=lambda name: (places[name][0], name))
    each = "; ".join(f"{name} from {', '.join(made[name])}" for name in order)
    return f"Lineage of {table}: {len(places)} tables, folders and topics, {len(edges)} edges ({said}). {each}."
