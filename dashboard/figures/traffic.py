"""Kafka Traffic (FR-016): visits by hour, their way through the funnel, and the stream that counts them.

The inputs are results of :mod:`dashboard.utils.queries`: ``traffic`` is *traffic* (``gold.hourly_traffic_metrics``),
``visits`` is *visits* (sessions by hour, device, referrer and furthest step), ``batches`` is *stream_batches*. Hours
are UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
from plotly.subplots import make_subplots

from dashboard.figures.chart import BLUE, GREEN, ORANGE, Chart, drawn, each, frame, highest, percent, room_for_text
from dashboard.figures.period import Period, selected

STEPS = {
    "page_view": "Any page",
    "product_view": "A product",
    "add_to_cart": "Cart",
    "checkout": "Checkout",
    "purchase": "Purchase",
}
"""The funnel, from the first step to the last."""

LIVE_WITHIN = 60
"""The stream counts as live up to this many seconds after its newest micro-batch."""


class Stream(NamedTuple):
    """The state of the stream.

    Attributes:
        is_live: a micro-batch ended less than a minute ago.
        seconds_ago: seconds since the end of the newest micro-batch; None if there was no micro-batch.
        latency_median, latency_p99: seconds from the producer's clock to the row in gold, in the newest micro-batch
            with a latency; None if no micro-batch has one.
    """

    is_live: bool
    seconds_ago: float | None
    latency_median: float | None
    latency_p99: float | None


def stream_state(batches: pa.Table, now: datetime | None = None) -> Stream:
    """Return the state of the stream: whether it is live, and its latest latency."""
    rows = frame(batches)
    if rows.empty:
        return Stream(False, None, None, None)
    newest = rows.sort_values(["finished_at", "batch_id"]).iloc[-1]
    ago = ((now or datetime.now(UTC)) - newest["finished_at"].to_pydatetime()).total_seconds()
    told = rows.dropna(subset=["latency_median"]).sort_values(["finished_at", "batch_id"]).tail(1)
    median, p99 = (float(told[column].iloc[0]) if len(told) else None for column in ("latency_median", "latency_p99"))
    return Stream(ago < LIVE_WITHIN, ago, median, p99)


def hours(table: pa.Table, period: Period) -> pd.DataFrame:
    """Return the rows of a period, with ``hour_ts`` in UTC but without a time zone, for a figure."""
    rows = frame(table)
    return selected(rows.assign(hour_ts=rows["hour_ts"].dt.tz_localize(None)), period, column="hour_ts")


def visits_by_hour(traffic: pa.Table, period: Period) -> Chart:
    """Draw the sessions, page views and purchases of each hour."""
    rows = hours(traffic, period)
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.08)
    for column, name, colour, dash, row in (
        ("page_views", "Page views", ORANGE, "dot", 1),
        ("sessions", "Sessions", BLUE, "solid", 1),
    ):
        figure.add_scatter(
            x=rows["hour_ts"], y=rows[column], name=name, line={"color": colour, "dash": dash}, row=row, col=1,
            hovertemplate="%{y:,}",
        )  # fmt: skip
    figure.add_bar(
        x=rows["hour_ts"],
        y=rows["purchases"],
        name="Purchases",
        marker_color=GREEN,
        row=2,
        col=1,
        hovertemplate="%{y:,}",
    )
    figure.update_yaxes(rangemode="tozero")
    drawn(figure, 380)
    figure.update_layout(hovermode="x unified")
    said = f"Traffic by the hour, {period}."
    if len(rows):
        peak = highest(rows, "sessions")
        said += (
            f" {int(rows['sessions'].sum()):,} sessions and {int(rows['purchases'].sum()):,} purchases. Most sessions "
            f"at {peak['hour_ts']:%d %b %H:%M} UTC: {peak['sessions']:,}."
        )
    return Chart(figure, rows.reset_index(drop=True), said)


def funnel(visits: pa.Table, period: Period) -> Chart:
    """Draw how many sessions reached each step; a session with searches only is in no step."""
    reached = hours(visits, period).groupby("funnel_step")["sessions"].sum().reindex(list(STEPS), fill_value=0)
    table = pd.DataFrame({"step": list(STEPS), "sessions": reached[::-1].cumsum()[::-1].to_numpy()})
    first = table["sessions"].iloc[0]
    table["share_of_first"] = table["sessions"] / first if first else float("nan")
    table["share_of_step_before"] = table["sessions"] / table["sessions"].shift().where(lambda before: before > 0)
    if not first:
        return Chart(go.Figure(), table.iloc[:0], f"No session, {period}.")
    figure = go.Figure(
        go.Funnel(
            y=list(STEPS.values()),
            x=table["sessions"],
            marker={"color": BLUE},
            texttemplate="%{value:,}<br>%{percentInitial:.1%}",
            textposition="auto",
            connector={"fillcolor": "rgba(138,143,152,0.25)"},
            hovertemplate="%{y}: %{x:,} sessions, %{percentPrevious:.1%} of the step before<extra></extra>",
        )
    )
    said = ", ".join(f"{STEPS[row.step]} {row.sessions:,} ({percent(row.share_of_first)})" for row in each(table))
    return Chart(drawn(figure, 360), table, f"Sessions that reached each step, {period}: {said}.")


def conversion_by_hour(traffic: pa.Table, period: Period) -> Chart:
    """Draw the share of each hour's sessions with a purchase; an hour without sessions is a gap."""
    rows = hours(traffic, period)[["hour_ts", "sessions", "conversion"]].reset_index(drop=True)
    figure = go.Figure()
    figure.add_scatter(
        x=rows["hour_ts"],
        y=rows["conversion"],
        mode="lines+markers" if len(rows) <= 72 else "lines",
        line={"color": BLUE},
        customdata=rows["sessions"],
        hovertemplate="%{x|%d %b %H:%M}: %{y:.2%} of %{customdata:,} sessions<extra></extra>",
    )
    figure.update_yaxes(tickformat=".1%", rangemode="tozero", title="Sessions with a purchase")
    said = f"Conversion by the hour, {period}."
    if rows["sessions"].sum():
        bought = (rows["conversion"].fillna(0) * rows["sessions"]).sum() / rows["sessions"].sum()
        said += f" {percent(bought, 2)} over all hours."
    return Chart(drawn(figure, 360), rows, said)


def by_device(visits: pa.Table, period: Period) -> Chart:
    """Draw sessions and conversion by kind of device."""
    return _by(visits, period, "device", "Device")


def by_referrer(visits: pa.Table, period: Period) -> Chart:
    """Draw sessions and conversion by referrer; a session without a referrer is *direct*."""
    return _by(visits, period, "referrer", "Referrer")


def _by(visits: pa.Table, period: Period, column: str, label: str) -> Chart:
    rows = hours(visits, period)
    names = rows[column].fillna("direct" if column == "referrer" else "unknown")
    names = names.str.replace(r"^https?://([^/]+).*$", r"\1", regex=True)
    table = rows.groupby(names)[["sessions", "converted"]].sum().reset_index()
    table["conversion"] = table["converted"] / table["sessions"]
    table = table.sort_values(["sessions", column], ascending=[False, True], ignore_index=True)
    shown = table.head(10).iloc[::-1]
    figure = go.Figure()
    figure.add_bar(
        x=shown["sessions"],
        y=shown[column],
        orientation="h",
        marker_color=BLUE,
        text=[f"{n:,}, {percent(c)} buy" for n, c in zip(shown["sessions"], shown["conversion"], strict=True)],
        textposition="outside",
        hovertemplate="%{y}: %{x:,} sessions<extra></extra>",
    )
    figure.update_xaxes(title="Sessions")
    room_for_text(figure, shown["sessions"].max() if len(shown) else 0, 0.6)
    said = ", ".join(f"{getattr(r, column)} {r.sessions:,} ({percent(r.conversion)} buy)" for r in each(table))
    return Chart(drawn(figure, 320), table, f"Sessions by {label.lower()}, {period}: {said}.")


def latency(batches: pa.Table) -> Chart:
    """Draw seconds from the producer's clock to the row in gold, by micro-batch, against the limit of NFR-002."""
    table = frame(batches).sort_values(["finished_at", "batch_id"], ignore_index=True)
    rows = table.dropna(subset=["latency_median"])
    figure = go.Figure()
    for column, name, colour, dash in (
        ("latency_p99", "99 of 100 events", ORANGE, "dot"),
        ("latency_median", "Half of the events", BLUE, "solid"),
    ):
        figure.add_scatter(
            x=rows["finished_at"],
            y=rows[column],
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            hovertemplate="%{x|%H:%M:%S}: %{y:.1f} s<extra></extra>",
        )
    figure.update_yaxes(title="Seconds to gold", rangemode="tozero")
    if len(rows) == 1:  # around a single point plotly would draw an axis of milliseconds
        minute, at = pd.Timedelta(minutes=1), rows["finished_at"].iloc[0]
        figure.update_xaxes(range=[at - minute, at + minute])
    said = "Seconds from the event to its row in gold."
    if len(rows):
        newest = rows.iloc[-1]
        said += f" Newest micro-batch: median {newest['latency_median']:.1f}, p99 {newest['latency_p99']:.1f}."
    return Chart(drawn(figure, 320), table, said)
