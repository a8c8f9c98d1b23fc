"""Customer Analytics (FR-014): how much and how often customers buy, and which come back.

The inputs are results of :mod:`dashboard.utils.queries`: ``customers`` is *customers* (``gold.customer_ltv``),
``retention`` is *retention*, ``history`` and ``orders`` are *customer_history* and *customer_orders* of one customer. A
customer has one day of the first order and one segment, so both filters act on every figure.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
from plotly.subplots import make_subplots

from dashboard.figures.chart import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    NOT_REVENUE,
    ORANGE,
    ROOM_FOR_100,
    UNDER_TEXT,
    Chart,
    drawn,
    each,
    frame,
    highest,
    in_order,
    money,
    percent,
)
from dashboard.figures.period import Period, selected

SEGMENTS = ("High", "Medium", "Low")

COLOURS = {"High": BLUE, "Medium": GREEN, "Low": GREY}

RECENCY = {"up to 30": 30, "31 to 90": 90, "91 to 180": 180, "181 to 365": 365, "more than 365": np.inf}
"""Days since the last order."""

FREQUENCY = {"1": 1, "2 to 3": 3, "4 to 6": 6, "7 to 12": 12, "13 and more": np.inf}
"""Number of orders."""

LINE_POINTS = 400
"""Points of a curve over customers. More cannot be seen, and without this limit a million would go to the browser."""


def chosen(customers: pa.Table, joined: Period, segments: Collection[str] = ()) -> pd.DataFrame:
    """Return the customers of these segments whose first order is in the period; no segment means all."""
    return selected(frame(customers), joined, column="first_order_date", segment=segments)


def segments(customers: pa.Table, joined: Period, segments: Collection[str] = ()) -> Chart:
    """Draw each segment's share of the customers, and beside it its share of the revenue."""
    rows = chosen(customers, joined, segments)
    table = rows.groupby("segment").agg(
        customers=("segment", "size"), orders=("orders", "sum"), lifetime_value=("lifetime_value", "sum")
    )
    table = in_order(table, SEGMENTS).round({"lifetime_value": 2})
    table["share_of_customers"] = table["customers"] / table["customers"].sum()
    table["share_of_value"] = table["lifetime_value"] / table["lifetime_value"].sum()
    figure = go.Figure()
    for row in each(table):
        shares = [row.share_of_value, row.share_of_customers]
        figure.add_bar(
            y=["Revenue", "Customers"],
            x=shares,
            name=row.segment,
            orientation="h",
            marker_color=COLOURS.get(row.segment, ORANGE),
            text=[f"{row.segment}<br>{percent(share, 0)}" for share in shares],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=[money(row.lifetime_value, cents=True), f"{row.customers:,} customers"],
            hovertemplate="%{fullData.name}: %{customdata} (%{x:.1%})<extra></extra>",
        )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    said = "; ".join(
        f"{row.segment}: {row.customers:,} customers ({percent(row.share_of_customers)}), {money(row.lifetime_value)} "
        f"({percent(row.share_of_value)})"
        for row in each(table)
    )
    figure = drawn(figure, 240).update_layout(margin_r=ROOM_FOR_100)
    return Chart(figure, table, f"Segments by lifetime value, first order {joined}. {said}.")


def cohorts(retention: pa.Table, joined: Period, segments: Collection[str] = (), through: date | None = None) -> Chart:
    """Draw for each month of first order the percentage of its customers who ordered in each later month.

    Args:
        retention: customers by first order, segment and month in which they ordered.
        joined: the period of the first order.
        segments: the segments; no segment means all.
        through: last day of the data. A month that has not ended by then is only in the table, not in the figure,
            because its share is not comparable yet.
    """
    rows = selected(frame(retention), joined, column="first_order_date", segment=segments)
    cohort, month = rows["first_order_date"].dt.to_period("M"), rows["order_month"].dt.to_period("M")
    rows = rows.assign(cohort=cohort.astype(str), months_later=(month.astype("int64") - cohort.astype("int64")))
    table = rows.groupby(["cohort", "months_later"])["customers"].sum().reset_index()
    size = table[table["months_later"] == 0].set_index("cohort")["customers"]
    table["cohort_size"] = table["cohort"].map(size)
    table["retention"] = table["customers"] / table["cohort_size"]
    ends = pd.PeriodIndex(table["cohort"], freq="M") + table["months_later"].to_numpy()
    table["month_has_ended"] = ends.end_time < pd.Timestamp(through) + pd.Timedelta(days=1) if through else True
    ended = table[table["month_has_ended"]]
    grid = ended.pivot(index="cohort", columns="months_later", values="retention")
    later = grid.drop(columns=0, errors="ignore")
    figure = go.Figure(
        go.Heatmap(
            z=later.to_numpy(),
            x=[int(column) for column in later.columns],
            y=[f"{label} ({size.get(label, 0):,})" for label in later.index],
            colorscale=UNDER_TEXT,
            text=[["" if np.isnan(share) else f"{share * 100:.0f}" for share in line] for line in later.to_numpy()],
            texttemplate="%{text}",
            textfont={"size": 11, "color": DARK},
            showscale=False,
            hovertemplate="first order %{y}, month %{x}: %{z:.1%} ordered again<extra></extra>",
        )
    )
    figure.update_xaxes(title="Months after the first order", dtick=1)
    figure.update_yaxes(autorange="reversed", type="category")
    said = f"Retention of monthly cohorts, first order {joined}."
    first = ended[ended["months_later"] == 1]
    if len(first):
        average = first["customers"].sum() / first["cohort_size"].sum()
        said += f" In the month after the first order {percent(average)} ordered again."
    return Chart(drawn(figure, 420), table, said)


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient: 0 if all values are equal, near 1 if one value is the sum; NaN if the sum is 0."""
    ordered = np.sort(values)
    total = ordered.sum()
    if not total:
        return float("nan")
    count = len(ordered)
    return float(2 * (np.arange(1, count + 1) * ordered).sum() / (count * total) - (count + 1) / count)


def lorenz(customers: pa.Table, joined: Period, segments: Collection[str] = ()) -> Chart:
    """Draw the concentration of revenue: the share of the revenue that the smallest customers bring, up to all."""
    values = np.sort(chosen(customers, joined, segments)["lifetime_value"].to_numpy())
    if not values.sum():
        return Chart(go.Figure(), pd.DataFrame(columns=["customers", "revenue"]), "No revenue in this selection.")
    cumulative = np.concatenate([[0.0], np.cumsum(values)]) / values.sum()
    at = np.unique(np.linspace(0, len(values), min(LINE_POINTS, len(values) + 1)).round().astype(int))
    table = pd.DataFrame({"share_of_customers": at / len(values), "share_of_revenue": cumulative[at]})
    top = 1 - cumulative[len(values) - max(1, round(len(values) / 10))]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        name="If all were equal",
        mode="lines",
        line={"dash": "dot", "color": GREY},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=table["share_of_customers"],
        y=table["share_of_revenue"],
        name="Customers",
        line={"color": BLUE, "width": 2.5},
        hovertemplate="the smallest %{x:.0%} of the customers bring %{y:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="Share of customers, smallest first", tickformat=".0%")
    figure.update_yaxes(title="Share of revenue", tickformat=".0%")
    said = (
        f"Lorenz curve, first order {joined}: the top 10 % of {len(values):,} customers bring {percent(top)} of the "
        f"revenue. Gini coefficient {gini(values):.2f}."
    )
    figure = drawn(figure, 360).update_layout(margin_r=ROOM_FOR_100)
    return Chart(figure, table, said)


def recency_and_frequency(
    customers: pa.Table, joined: Period, segments: Collection[str] = (), as_of: pd.Timestamp | None = None
) -> Chart:
    """Draw the number of customers by number of orders and days since the last order.

    Args:
        customers: all customers.
        joined: the period of the first order.
        segments: the segments; no segment means all.
        as_of: the day from which days are counted back; defaults to the day of the newest order of all customers.
    """
    rows, day = chosen(customers, joined, segments), as_of or frame(customers)["last_order_date"].max()
    recency = pd.cut(
        (day - rows["last_order_date"]).dt.days, [-np.inf, *RECENCY.values()], labels=list(RECENCY), ordered=True
    )
    frequency = pd.cut(rows["orders"], [0, *FREQUENCY.values()], labels=list(FREQUENCY), ordered=True)
    groups = rows.groupby(
        [recency.rename("days_since_last_order"), frequency.rename("number_of_orders")], observed=False
    )
    table = groups.agg(customers=("orders", "size"), lifetime_value=("lifetime_value", "sum")).reset_index()
    grid = table.pivot(index="number_of_orders", columns="days_since_last_order", values="customers")
    value = table.pivot(index="number_of_orders", columns="days_since_last_order", values="lifetime_value")
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(),
            x=list(RECENCY),
            y=list(FREQUENCY),
            customdata=value.to_numpy(),
            colorscale=UNDER_TEXT,
            showscale=False,
            textfont={"color": DARK},
            texttemplate="%{z:,}",
            hovertemplate="%{y} orders, last one %{x} days ago: %{z:,} customers, $%{customdata:,.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="Days since the last order", type="category")
    figure.update_yaxes(title="Orders", type="category")
    largest = highest(table, "customers")
    said = (
        f"Customers by recency and frequency, first order {joined}. Largest group: {largest['customers']:,} with "
        f"{largest['number_of_orders']} orders, the last one {largest['days_since_last_order']} days ago."
    )
    if rows.empty:
        table = table.iloc[:0]
    return Chart(drawn(figure, 360), table, said)


TRACKS = {"segment": "Segment", "place": "Place", "contact": "Contact"}


def timeline(history: pa.Table, orders: pa.Table) -> Chart:
    """Draw one customer's versions as bars, each from its start to its end, and the orders below them.

    An order appears under the version that was open when the order was placed: this is the purpose of SCD type 2. For
    e-mail, telephone and address the figure knows only that they changed, not their values.
    """
    versions, placed = frame(history), frame(orders)
    if versions.empty:
        return Chart(go.Figure(), versions, "No such customer.")
    versions = versions.sort_values("start_date", ignore_index=True)
    versions["version"] = versions.index + 1
    versions["place"] = [
        ", ".join(part for part in (row.city, row.state, row.country) if part) for row in each(versions)
    ]
    end = max([versions["start_date"].max(), *placed["order_ts"].tail(1), *versions["end_date"].dropna()])
    changed = [
        [name for name in ("email", "phone", "address") if number and getattr(row, f"{name}_changed")]
        for number, row in enumerate(each(versions))
    ]
    versions["changed"] = [", ".join(names) for names in changed]
    versions["contact"] = ["first known" if not n else (c or "unchanged") for n, c in enumerate(versions["changed"])]
    begin = versions["start_date"].clip(lower=min([*placed["order_ts"].head(1), versions["start_date"].max()]))
    until = versions["end_date"].fillna(end + pd.Timedelta(days=7))
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.5, 0.5], vertical_spacing=0.06)
    shades = [BLUE, GREEN, ORANGE, GREY]
    for column, label in TRACKS.items():
        values = versions[column].fillna("unknown")
        figure.add_bar(
            y=[label] * len(versions),
            base=begin,
            x=(until - begin).dt.total_seconds() * 1000,
            orientation="h",
            marker={"color": [shades[i % 4] for i in values.factorize()[0]], "line": {"width": 1, "color": "white"}},
            text=values,
            textposition="inside",
            insidetextanchor="start",
            textangle=0,
            customdata=[f"{a:%d %b %Y} to {'now' if pd.isna(b) else f'{b:%d %b %Y}'}" for a, b in
                        zip(versions["start_date"], versions["end_date"], strict=True)],
            hovertemplate=f"{label}: %{{text}}<br>%{{customdata}}<extra></extra>",
            showlegend=False,
            row=1,
            col=1,
        )  # fmt: skip
    revenue = ~placed["status"].isin(NOT_REVENUE)
    for counts, name, symbol, colour in (
        (True, "Order", "circle", BLUE),
        (False, "Cancelled or returned", "circle-open", GREY),
    ):
        some = placed[revenue == counts]
        figure.add_scatter(
            x=some["order_ts"],
            y=some["net_amount"],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "color": colour, "size": 9, "line": {"width": 2, "color": colour}},
            customdata=some[["order_id", "category", "status"]],
            hovertemplate="%{x|%d %b %Y}: $%{y:,.2f}<br>%{customdata[0]}, %{customdata[1]}, %{customdata[2]}"
            "<extra></extra>",
            row=2,
            col=1,
        )
    # A name that does not fit into its bar is hidden, not rotated or shrunk; the table shows it.
    figure.update_layout(barmode="overlay", bargap=0.25, uniformtext={"minsize": 10, "mode": "hide"})
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(title="Order, $", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(type="date")
    name = str(versions["customer_id"][0])
    said = (
        f"History of {name}: {len(versions)} versions, {len(placed)} orders, of which {int(revenue.sum())} are "
        f"revenue, {money(float(placed.loc[revenue, 'net_amount'].sum()), cents=True)}."
    )
    table = versions[["version", "start_date", "end_date", "segment", "city", "state", "country", "changed"]]
    return Chart(drawn(figure, 420), table, said)
