"""Common parts of the figures: their form, their colours, and the conversion of a source's table for drawing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

BLUE, ORANGE, GREY, GREEN = "#2f7fc1", "#d9730d", "#8a8f98", "#1a9a76"
"""Distinguishable with any kind of colour vision, on a light and on a dark background. Colour is never the only sign: a
line also has its dash, a bar its label."""

SCALE = "Cividis"
"""Colours of heatmaps from low to high, made for readers who cannot distinguish red and green."""

UNDER_TEXT = [[0.0, "#eef4fa"], [1.0, "#5ca5e0"]]
"""Colours of heatmaps whose cells contain numbers: :data:`DARK` text is readable on each of these shades."""

DARK = "#10202f"

HEIGHT = 320
"""Pixels."""

ROOM_FOR_100 = 28
"""Pixels right of an axis that ends at 100 %: half of its last label, which plotly leaves out where it does not fit."""

NOT_REVENUE = ("cancelled", "returned")
"""Statuses of orders that are no revenue."""


class Chart(NamedTuple):
    """A figure, and its content in two other forms.

    Attributes:
        figure: the figure to show.
        table: the rows that are drawn; the figure's CSV file holds them.
        alt: a sentence with the figure's numbers, for readers who cannot see the figure.
    """

    figure: go.Figure
    table: pd.DataFrame
    alt: str


def frame(table: pa.Table | pd.DataFrame) -> pd.DataFrame:
    """Return a table for drawing: money as float64, dates as datetime64.

    A float64 is exact to the cent up to 90 billion, and a sum is right to the cent if it is rounded to cents. It is for
    display only: the tables of the lakehouse keep DECIMAL.
    """
    if isinstance(table, pd.DataFrame):
        return table
    for index, column in enumerate(table.schema):
        if pa.types.is_decimal(column.type):
            table = table.set_column(index, column.name, table[column.name].cast(pa.float64()))
        elif pa.types.is_date(column.type):
            table = table.set_column(index, column.name, table[column.name].cast(pa.timestamp("s")))
    rows: pd.DataFrame = table.to_pandas()
    return rows


def each(table: pd.DataFrame) -> Iterator[Any]:
    """Return the rows of a table as named tuples."""
    return iter(table.itertuples(index=False))


def highest(table: pd.DataFrame, column: str) -> Any:
    """Return the first row with the highest value of a column, which has at least one value."""
    return table.iloc[int(table[column].argmax())]


def drawn(figure: go.Figure, height: int = HEIGHT, money_axis: str = "") -> go.Figure:
    """Return a figure with the common layout: tight margins, one legend above, hover by position."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hovermode="closest",
        # For notebooks. On a page Streamlit's own template sets background and font.
        template="plotly_white",
    )
    figure.update_xaxes(automargin=True, title_standoff=8)
    figure.update_yaxes(automargin=True, title_standoff=8)
    if money_axis:
        figure.update_layout({money_axis: {"tickformat": "$~s"}})
    return figure


def in_order(table: pd.DataFrame, known: Sequence[str]) -> pd.DataFrame:
    """Return a table sorted by its index, which becomes a column: known values in their order, then the others."""
    first = [name for name in known if name in table.index]
    return table.reindex([*first, *sorted(set(table.index) - set(first))]).reset_index()


def marked(flags: Iterable[bool], plain: str, hatched: str) -> dict[str, Any]:
    """Return the marker of bars; flagged bars have another colour and are hatched."""
    told = list(flags)
    return {
        "color": [hatched if flag else plain for flag in told],
        "pattern": {"shape": ["/" if flag else "" for flag in told]},
    }


def room_for_text(figure: go.Figure, largest: float, share: float = 0.45) -> None:
    """Make the axis of horizontal bars long enough for the text beside the longest bar, on a phone too."""
    if largest > 0:
        figure.update_xaxes(range=[0, largest * (1 + share)])


def money(value: float, cents: bool = False) -> str:
    """Return an amount as text: with cents, or rounded to dollars, thousands or millions.

    >>> money(1234.5, cents=True), money(1234567.0), money(950.0), money(-1500)
    ('$1,234.50', '$1.23 M', '$950', '-$1,500')
    """
    sign, value = "-" if value < 0 else "", abs(value)
    if cents:
        return f"{sign}${value:,.2f}"
    if value >= 1_000_000:
        return f"{sign}${value / 1_000_000:,.2f} M"
    if value >= 100_000:
        return f"{sign}${value / 1_000:,.0f} k"
    return f"{sign}${value:,.0f}"


def percent(share: float, decimals: int = 1) -> str:
    """Return a share as text.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{share * 100:.{decimals}f} %"


def listed(values: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(values[:-1]), values[-1]])) if values else "none"
