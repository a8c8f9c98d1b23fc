"""Sales Performance (FR-013): revenue over time, and its parts.

The inputs are results of :mod:`dashboard.utils.queries`: ``daily`` is *daily_sales* (gold, orders that count as
revenue), ``mix`` is *order_mix* (every order, by status and payment), ``hours`` is *order_hours*. Amounts are in
dollars.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from dashboard.figures.chart import (
    BLUE,
    GREY,
    NOT_REVENUE,
    ORANGE,
    SCALE,
    Chart,
    drawn,
    each,
    frame,
    highest,
    in_order,
    marked,
    money,
    percent,
    room_for_text,
)
from dashboard.figures.period import Period, selected, spanned

STATUSES = ("pending", "confirmed", "shipped", "delivered", *NOT_REVENUE)

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

DAILY_UP_TO = 92
"""The most days that are drawn one by one. A longer period is drawn by week, so that the line stays readable."""


class Headline(NamedTuple):
    """A period in four numbers.

    Attributes:
        revenue: net revenue in dollars.
        orders: the number of orders that count as revenue.
        units: the units in these orders.
        average_order_value: revenue divided by orders; NaN without orders.
    """

    revenue: float
    orders: int
    units: int
    average_order_value: float


def headline(daily: pa.Table, period: Period, categories: Collection[str] = ()) -> Headline:
    """Return the numbers of a period, to the cent."""
    rows = selected(frame(daily), period, category=categories)
    revenue, orders = round(float(rows["net_revenue"].sum()), 2), int(rows["orders"].sum())
    return Headline(revenue, orders, int(rows["units"].sum()), revenue / orders if orders else float("nan"))


def comparisons(daily: pa.Table, period: Period) -> dict[str, Period]:
    """Return the periods with which this one is compared, if the data cover them."""
    known = spanned(frame(daily)["order_date"])
    named = {"Period before": period.before(), "Year before": period.year_before()}
    return {name: other for name, other in named.items() if other.lies_in(known)}


def by_step(daily: pa.Table, period: Period, categories: Collection[str] = ()) -> pd.DataFrame:
    """Return a period in steps of a day, or of a week if the period is long.

    Steps are counted from the first day. The last step may be shorter, so the revenue is also given per day.

    Returns:
        ``step`` (from 0), ``first_day``, ``days``, ``revenue``, ``orders``, ``units``, ``revenue_per_day``,
        ``average_order_value`` (NaN without orders). A step without orders has zeros.
    """
    length = 1 if period.days <= DAILY_UP_TO else 7
    rows = selected(frame(daily), period, category=categories)
    step = (rows["order_date"] - pd.Timestamp(period.first)).dt.days // length
    sums = rows.groupby(step.rename("step"))[["net_revenue", "orders", "units"]].sum()
    steps = sums.reindex(pd.RangeIndex(-(-period.days // length), name="step"), fill_value=0).reset_index()
    steps["first_day"] = pd.Timestamp(period.first) + pd.to_timedelta(steps["step"] * length, unit="D")
    steps["days"] = np.minimum(length, period.days - steps["step"] * length)
    steps["revenue"] = steps.pop("net_revenue").round(2)
    steps["revenue_per_day"] = steps["revenue"] / steps["days"]
    steps["average_order_value"] = steps["revenue"] / steps["orders"].where(steps["orders"] > 0)
    return steps[["step", "first_day", "days", "revenue", "orders", "units", "revenue_per_day", "average_order_value"]]


def revenue_over_time(daily: pa.Table, period: Period, categories: Collection[str] = ()) -> Chart:
    """Draw revenue per day, with the period before and the same days a year before on the same axis."""
    return _over_time(daily, period, categories, "revenue_per_day", "Revenue per day")


def order_value_over_time(daily: pa.Table, period: Period, categories: Collection[str] = ()) -> Chart:
    """Draw the average order value of each step: revenue divided by orders."""
    return _over_time(daily, period, categories, "average_order_value", "Average order value")


def _over_time(daily: pa.Table, period: Period, categories: Collection[str], column: str, title: str) -> Chart:
    this = by_step(daily, period, categories)
    figure, tables = go.Figure(), [this.assign(period="This period")]
    dashes = {"Period before": ("dot", GREY), "Year before": ("dash", ORANGE)}
    # The comparisons are added first, so that this period is drawn over them.
    for name, other in comparisons(daily, period).items():
        steps = by_step(daily, other, categories)
        tables.append(steps.assign(period=name))
        figure.add_scatter(
            x=this["first_day"],
            y=steps[column],
            name=name,
            line={"color": dashes[name][1], "dash": dashes[name][0], "width": 1.5},
            customdata=steps["first_day"].dt.strftime("%d %b %Y"),
            hovertemplate="%{customdata}: $%{y:,.2f}",
        )
    figure.add_scatter(
        x=this["first_day"],
        y=this[column],
        name="This period",
        mode="lines+markers" if len(this) <= 31 else "lines",
        line={"color": BLUE, "width": 2.5},
        hovertemplate="%{x|%d %b %Y}: $%{y:,.2f}",
    )
    figure.update_xaxes(tickformat="%d %b<br>%Y", nticks=6)
    figure.update_yaxes(title=title, rangemode="tozero" if column == "revenue_per_day" else "normal")
    drawn(figure, money_axis="yaxis")
    figure.update_layout(hovermode="x unified")
    best = highest(this, column) if this[column].notna().any() else None
    by = "day" if period.days <= DAILY_UP_TO else "week"
    said = f"{title}, {period}, in steps of a {by}."
    if best is not None:
        when = f"{'on' if by == 'day' else 'in the week from'} {best['first_day']:%d %b %Y}"
        said += f" Highest {when}: {money(best[column], cents=True)}."
    return Chart(figure, pd.concat(tables, ignore_index=True)[["period", *this.columns]], said)


def categories_table(daily: pa.Table, period: Period, categories: Collection[str] = ()) -> pd.DataFrame:
    """Return one row per category, the highest revenue first.

    Returns:
        ``category``, ``revenue``, ``share`` (of the rows' revenue), ``orders``, ``units``, ``average_order_value``,
        ``revenue_before`` and ``change`` (against the period before; NaN if the data do not reach back so far).
    """
    rows = frame(daily)
    sums = selected(rows, period, category=categories).groupby("category")[["net_revenue", "orders", "units"]].sum()
    table = sums.rename(columns={"net_revenue": "revenue"}).round({"revenue": 2})
    total = table["revenue"].sum()
    table.insert(1, "share", table["revenue"] / total if total else np.nan)
    table["average_order_value"] = table["revenue"] / table["orders"]
    table["revenue_before"] = np.nan
    if "Period before" in comparisons(daily, period):
        before = selected(rows, period.before(), category=categories).groupby("category")["net_revenue"].sum().round(2)
        table["revenue_before"] = before.reindex(table.index, fill_value=0.0)
    table["change"] = table["revenue"] / table["revenue_before"].where(table["revenue_before"] > 0) - 1
    return table.reset_index().sort_values(["revenue", "category"], ascending=[False, True], ignore_index=True)


def revenue_by_category(daily: pa.Table, period: Period, categories: Collection[str] = ()) -> Chart:
    """Draw revenue by category, with a mark for the revenue of the period before."""
    table = categories_table(daily, period, categories)
    shown = table.iloc[::-1]  # plotly draws the first bar at the bottom
    figure = go.Figure(_revenue_bars(shown, shown["category"], name="This period"))
    if shown["revenue_before"].notna().any():
        figure.add_scatter(
            x=shown["revenue_before"],
            y=shown["category"],
            mode="markers",
            name="Period before",
            marker={"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": ORANGE}},
            hovertemplate="%{y}, period before: $%{x:,.2f}<extra></extra>",
        )
    drawn(figure, money_axis="xaxis")
    room_for_text(figure, shown[["revenue", "revenue_before"]].max().max())
    said = ", ".join(f"{row.category} {money(row.revenue)} ({percent(row.share)})" for row in each(table))
    return Chart(figure, table, f"Revenue by category, {period}: {said}.")


def _revenue_bars(shown: pd.DataFrame, labels: pd.Series, name: str | None = None) -> go.Bar:
    """Return bars of ``revenue``, each with its amount beside it and its ``share`` on hover."""
    return go.Bar(
        x=shown["revenue"],
        y=labels,
        orientation="h",
        name=name,
        marker_color=BLUE,
        text=[money(value) for value in shown["revenue"]],
        customdata=shown["share"],
        textposition="outside",
        hovertemplate="%{y}: $%{x:,.2f}, %{customdata:.1%}<extra></extra>",
    )


def orders_by_status(mix: pa.Table, period: Period, categories: Collection[str] = ()) -> Chart:
    """Draw the number of orders by status; statuses that are no revenue are hatched."""
    rows = selected(frame(mix), period, category=categories)
    table = rows.groupby("status")[["orders", "net_amount"]].sum().round({"net_amount": 2})
    table = in_order(table, STATUSES)
    table["is_revenue"] = ~table["status"].isin(NOT_REVENUE)
    shown = table.iloc[::-1]
    figure = go.Figure()
    figure.add_bar(
        x=shown["orders"],
        y=shown["status"],
        orientation="h",
        marker=marked(~shown["is_revenue"], BLUE, GREY),
        text=[f"{orders:,}" for orders in shown["orders"]],
        textposition="outside",
        customdata=shown["net_amount"],
        hovertemplate="%{y}: %{x:,} orders, $%{customdata:,.2f}<extra></extra>",
    )
    figure.update_xaxes(title="Orders")
    room_for_text(figure, shown["orders"].max())
    said = ", ".join(f"{row.status} {row.orders:,}" for row in each(table))
    return Chart(
        drawn(figure, 280), table, f"Orders by status, {period}: {said}. Cancelled and returned are no revenue."
    )


def revenue_by_payment(mix: pa.Table, period: Period, categories: Collection[str] = ()) -> Chart:
    """Draw revenue by payment method."""
    rows = selected(frame(mix), period, category=categories)
    rows = rows[~rows["status"].isin(NOT_REVENUE)]
    table = rows.groupby("payment_method")[["net_amount", "orders"]].sum().round({"net_amount": 2})
    table = table.rename(columns={"net_amount": "revenue"}).reset_index()
    table = table.sort_values(["revenue", "payment_method"], ascending=[False, True], ignore_index=True)
    table["share"] = table["revenue"] / table["revenue"].sum()
    shown = table.iloc[::-1]
    figure = go.Figure(_revenue_bars(shown, shown["payment_method"].str.replace("_", " ")))
    room_for_text(figure, shown["revenue"].max())
    said = ", ".join(f"{row.payment_method} {money(row.revenue)}" for row in each(table))
    return Chart(drawn(figure, 280, "xaxis"), table, f"Revenue by payment, {period}: {said}.")


def orders_by_weekday_and_hour(hours: pa.Table, period: Period, categories: Collection[str] = ()) -> Chart:
    """Draw the average number of orders in each hour of each weekday, UTC."""
    rows = selected(frame(hours), period, category=categories)
    grid = pd.MultiIndex.from_product([range(7), range(24)], names=["weekday", "hour"])
    sums = rows.groupby([rows["order_date"].dt.weekday.rename("weekday"), "hour"])["orders"].sum()
    days = pd.Series([(period.first + timedelta(days=n)).weekday() for n in range(period.days)]).value_counts()
    table = sums.reindex(grid, fill_value=0).reset_index()
    table["days"] = table["weekday"].map(days).fillna(0).astype(int)
    table["orders_per_day"] = (table["orders"] / table["days"].where(table["days"] > 0)).round(3)
    table["weekday"] = table["weekday"].map(dict(enumerate(WEEKDAYS)))
    figure = go.Figure(
        go.Heatmap(
            x=list(range(24)),
            y=list(WEEKDAYS),
            z=table["orders_per_day"].to_numpy().reshape(7, 24),
            colorscale=SCALE,
            colorbar={"title": {"text": "orders"}, "thickness": 10},
            hovertemplate="%{y} %{x}:00 UTC: %{z:.1f} orders<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="Hour of the day, UTC", dtick=4)
    said = f"Orders by weekday and hour, {period}: none."
    if table["orders"].sum():
        peak = highest(table, "orders_per_day")
        said = (
            f"Average orders by weekday and hour, {period}. Most on {peak['weekday']} at {peak['hour']}:00 UTC: "
            f"{peak['orders_per_day']:.1f}."
        )
    return Chart(drawn(figure, 280), table, said)
