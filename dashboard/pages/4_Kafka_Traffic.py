"""Kafka Traffic (FR-016): refreshes itself while the stream runs."""

from typing import Any

import streamlit as st

from dashboard.figures import traffic as figures
from dashboard.figures.chart import frame, percent
from dashboard.figures.period import spanned
from dashboard.utils import filters, layout
from dashboard.utils.databricks_connector import connect
from dashboard.utils.sources import DashboardError, Snapshot

# Seconds between two looks at the tables' versions; rows are read only if there is a new one.
EVERY = 5


def missing(*answers: Any) -> bool:
    """Explain why there is nothing to see, if there is not."""
    if layout.refused(*answers):
        return True
    if not all(answer.num_rows for answer in answers):
        st.info(
            "No event has come through the stream yet. Run `shopmetrics produce --day 1 --speedup 0`, then "
            "`shopmetrics stream run`.",
            icon=":material/sensors_off:",
        )
        return True
    return False


def state_of_stream(batches: Any, open_sessions: int) -> None:
    """Say whether the stream is live, how far behind it is, and how many sessions are open."""
    if isinstance(batches, DashboardError):
        layout.refused(batches)
        return
    stream = figures.stream_state(batches)
    if stream.is_live:
        st.badge("Live", icon=":material/sensors:", color="green")
    else:
        st.badge("Not live", icon=":material/sensors_off:", color="gray")
        if isinstance(connect().source(), Snapshot):
            st.caption("A snapshot has no stream.")
        else:
            st.caption("`shopmetrics stream run --live` makes it live; this page then refreshes itself.")
    with st.grid(4, min_column_width=150, gap="small"):
        # After its end nobody knows of a session whether it went on.
        st.metric(
            "Sessions open now", f"{open_sessions:,}" if stream.is_live else "none", border=True, height="stretch"
        )
        seconds = stream.seconds_ago
        st.metric("Newest micro-batch", "none" if seconds is None else said(seconds), border=True, height="stretch")
        for label, value in (("Latency, median", stream.latency_median), ("Latency, 99 of 100", stream.latency_p99)):
            st.metric(label, "none" if value is None else f"{value:.1f} s", border=True, height="stretch")


def said(seconds: float) -> str:
    """Return an age as short text."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@st.fragment(run_every=EVERY)
def page() -> None:
    """Draw everything that a new micro-batch may change."""
    layout.begin_page()
    traffic, visits, batches = layout.ask("traffic", "visits", "stream_batches")
    if isinstance(traffic, DashboardError) or not traffic.num_rows:
        layout.source_line(None)
        missing(traffic)
        return
    known = spanned(frame(traffic)["hour_ts"])
    layout.source_line(known.last)
    layout.refused(visits)
    usable = not isinstance(visits, DashboardError)
    state_of_stream(batches, int(frame(visits)["open_sessions"].sum()) if usable else 0)

    period = filters.period(known, "traffic_")
    rows = figures.hours(traffic, period)
    if rows.empty:
        st.info(f"No event from {period}. The data are from {known}.", icon=":material/search_off:")
        return
    sessions = int(rows["sessions"].sum())
    with st.grid(4, min_column_width=150, gap="small"):
        st.metric("Sessions", f"{sessions:,}", border=True, height="stretch")
        st.metric("Page views", f"{int(rows['page_views'].sum()):,}", border=True, height="stretch")
        st.metric("Purchases", f"{int(rows['purchases'].sum()):,}", border=True, height="stretch")
        if usable:
            converted = int(figures.hours(visits, period)["converted"].sum())
            st.metric(
                "Conversion", percent(converted / sessions, 2) if sessions else "none", border=True, height="stretch"
            )
    st.caption(f"{period}, UTC. A session ends after 30 minutes without an event.")

    layout.card("Visits by the hour", figures.visits_by_hour, traffic, key="visits_by_hour", period=period)
    with st.grid(2, min_column_width=330, gap="small"):
        layout.card(
            "Funnel",
            figures.funnel,
            visits,
            key="funnel",
            note="Sessions that reached at least this step",
            period=period,
        )
        layout.card("Conversion by the hour", figures.conversion_by_hour, traffic, key="conversion", period=period)
        layout.card("Devices", figures.by_device, visits, key="devices", period=period)
        layout.card("Referrers", figures.by_referrer, visits, key="referrers", period=period)
    layout.card(
        "Latency", figures.latency, batches, key="latency", note="From the event to its row in gold, by micro-batch"
    )


page()
