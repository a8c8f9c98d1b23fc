"""Common parts of all pages: the line that names the source of the figures, and the card that holds a figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.figures.chart import Chart
from dashboard.utils.databricks_connector import PATIENCE, GoldConnection, connect
from dashboard.utils.sources import Ask, DashboardError, OutOfReach, Snapshot

_BEGUN = "_page_begun"


def begin_page() -> None:
    """Store when the page began: the source has a time limit for the whole page, not for each query."""
    st.session_state[_BEGUN] = time.monotonic()


def ask(*questions: str | Ask) -> list[Any]:
    """Return the results of a page's queries. If a query fails, its error takes the place of its result.

    If the source is out of reach, the page starts again and uses the next source.
    """
    gold = connect()
    left = PATIENCE - (time.monotonic() - st.session_state.get(_BEGUN, time.monotonic()))
    try:
        return gold.ask(*questions, within=max(left, 0.5))
    except OutOfReach:
        st.rerun()


def source_line(data_through: date | None) -> None:
    """Show the source of the page, and how old it is."""
    gold = connect()
    if why := gold.why_not_databricks():
        st.warning(f"{why} The figures below are from {gold.source().title}.", icon=":material/cloud_off:")
    st.caption(" · ".join(said_of_source(gold, data_through)))


def said_of_source(gold: GoldConnection, data_through: date | None) -> list[str]:
    """Return source, last day of the data, and age, as parts of a line."""
    source = gold.source()
    parts = [f"Source: {source.title}"]
    if data_through:
        parts.append(f"data through {data_through:%d %b %Y}")
    if isinstance(source, Snapshot):
        parts.append("made from seed 42 and never updated")
    else:
        written = [state.updated_at for state in source.tables() if state.updated_at]
        if written:
            parts.append(f"gold written {ago(max(written))}")
    return parts


def ago(then: datetime, now: datetime | None = None) -> str:
    """Return how long ago an instant is, in the largest unit that fits.

    >>> ago(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 2, 30, tzinfo=UTC))
    '2 hours ago'
    """
    seconds = max(((now or datetime.now(UTC)) - then).total_seconds(), 0)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "less than a minute ago"


def refused(*answers: Any) -> bool:
    """Show the errors among the results once, above the figures. Return whether there was an error."""
    errors = {str(answer): answer for answer in answers if isinstance(answer, DashboardError)}
    for error in errors.values():
        st.error(f"{error.problem}\n\nWhat to do: {error.hint}", icon=":material/error:")
    return bool(errors)


def card(title: str, draw: Callable[..., Chart], *inputs: Any, key: str, note: str = "", **options: Any) -> None:
    """Draw a figure in a frame, with its rows as a table and as a CSV file.

    Args:
        title: what the figure shows.
        draw: one of the functions of :mod:`dashboard.figures`.
        inputs: the arguments of ``draw``; if one of them is an error, the card says that the figure is missing.
        key: unique on the page; also the name of the file.
        note: a sentence below the title.
        options: further arguments of ``draw``.
    """
    with st.container(border=True, key=f"card_{key}", height="stretch"):
        st.header(title, anchor=False)
        if note:
            st.caption(note)
        if any(isinstance(one, DashboardError) for one in inputs):
            st.info("This figure is missing: its table cannot be read. The message above says what to do.")
            return
        chart = draw(*inputs, **options)
        if chart.table.empty:
            st.info("There are no rows for this selection.")
            return
        st.plotly_chart(chart.figure, key=f"figure_{key}", alt=chart.alt, config={"displayModeBar": False})
        rows(chart.table, key, title)


def rows(table: pd.DataFrame, key: str, title: str) -> None:
    """Offer the rows of a figure as a table, which is made when the reader opens it, and as a file."""
    with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        is_open = st.toggle("Table", key=f"table_{key}", persist_state="session")
        st.download_button(
            "CSV",
            data=lambda: table.to_csv(index=False).encode(),
            file_name=f"{key}.csv",
            mime="text/csv",
            key=f"csv_{key}",
            icon=":material/download:",
            on_click="ignore",
            help=f"Download the rows of “{title}”",
        )
    if is_open:
        st.dataframe(table, key=f"rows_{key}", hide_index=True, alt=f"Rows of {title}")
