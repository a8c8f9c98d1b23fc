"""Filters: they act on every figure of a page, keep their values when the page changes, and are stored in the URL.

The entry script draws them (:func:`show`) and the pages read them (:func:`period`, :func:`chosen`). To Streamlit a
widget of the entry script is the same widget on all pages, but a widget of a page exists on that page only. So only the
former keeps its value and its place in the URL when the page changes.

Streamlit synchronises a bound widget with the URL. This module adds two things: a warning if a link asks for a value
that does not exist (any more), and the rule that a value is used only if it is one of the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import streamlit as st

from dashboard.figures.chart import frame
from dashboard.figures.customers import SEGMENTS
from dashboard.figures.period import Period, spanned
from dashboard.utils import layout
from dashboard.utils.sources import DashboardError

SPANS = {"30 days": 30, "90 days": 90, "1 year": 365}
"""Periods that end with the last day of the data, and their lengths in days."""

EVERYTHING, OWN = "All", "Dates"

DEFAULTS = {"": "90 days", "joined_": EVERYTHING, "traffic_": EVERYTHING}
"""The default period by the prefix of the widgets' keys; sales and products share their period."""


def show(page: str) -> None:
    """Draw the filters of a page, if there are rows to filter. If rows are missing, the page itself says so.

    Args:
        page: the path of the page in the URL.
    """
    tables = {"sales": "daily_sales", "products": "daily_sales", "customers": "customers", "traffic": "traffic"}
    if page not in tables:
        return
    (rows,) = layout.ask(tables[page])
    if isinstance(rows, DashboardError) or not rows.num_rows:
        return
    data = frame(rows)
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        if page in ("sales", "products"):
            _choose_period("", "Period", spanned(data["order_date"]))
            _choose("Category", "category", sorted(data["category"].unique()))
        elif page == "customers":
            _choose_period("joined_", "First order", spanned(data["first_order_date"]))
            _choose("Segment by lifetime value", "segment", SEGMENTS)
        else:
            _choose_period("traffic_", "Period", spanned(data["hour_ts"]))


def period(known: Period, what: str = "") -> Period:
    """Return the days that the reader chose, never outside the days of the data.

    Args:
        known: the first and the last day of the data.
        what: prefix of the widgets' keys.
    """
    span = st.session_state.get(f"{what}period")
    if span == OWN:
        first, last = (
            min(max(st.session_state.get(f"{what}{end}") or usual, known.first), known.last)
            for end, usual in (("from", known.first), ("to", known.last))
        )
        return Period(min(first, last), max(first, last))
    days = SPANS.get(span if span in SPANS else DEFAULTS[what])
    if span == EVERYTHING or days is None:
        return known
    return Period(max(known.last - timedelta(days=days - 1), known.first), known.last)


def chosen(key: str, options: Sequence[str]) -> list[str]:
    """Return the chosen values that are among the options; an empty list means all."""
    return [value for value in st.session_state.get(key, []) if value in options]


def _choose_period(what: str, label: str, known: Period) -> None:
    key, options = f"{what}period", [*SPANS, EVERYTHING, OWN]
    _say_if_unknown(key, options)
    span = st.segmented_control(
        label,
        options,
        default=DEFAULTS[what],
        required=True,
        key=key,
        bind="query-params",
        help=f"Ends on {known.last:%d %b %Y}",
    )
    if span != OWN:
        return
    days = [_choose_day("From", f"{what}from", known.first, known), _choose_day("To", f"{what}to", known.last, known)]
    if days[0] > days[1]:
        st.warning(f"{days[0]:%d %b %Y} is after {days[1]:%d %b %Y}: the two dates are swapped.")


def _choose_day(label: str, key: str, usual: date, known: Period) -> date:
    for text in st.query_params.get_all(key):
        try:
            fits = known.first <= date.fromisoformat(text) <= known.last
        except ValueError:
            fits = False
        if not fits:
            _say(f"{key}={text}", f"the data are from {known}")
    day: date | None = st.date_input(
        label, usual, known.first, known.last, key=key, bind="query-params", format="YYYY-MM-DD", width=150
    )
    return day or usual


def _choose(label: str, key: str, options: Sequence[str]) -> None:
    _say_if_unknown(key, options)
    st.multiselect(label, options, key=key, bind="query-params", placeholder="All")


def _say_if_unknown(key: str, options: Sequence[str]) -> None:
    for text in st.query_params.get_all(key):
        if text and text not in options:
            _say(f"{key}={text}", "that value is not there")


def _say(asked: str, why: str) -> None:
    # As code, because the text of a link must not be read as Markdown.
    st.warning(f"The link asks for `{asked.replace('`', ' ')}`: {why}. The usual selection is shown instead.")
