"""Sales Performance (FR-013)."""

from typing import Any

import streamlit as st

from dashboard.figures import sales
from dashboard.figures.chart import frame, money
from dashboard.figures.period import selected, spanned
from dashboard.utils import filters, layout
from dashboard.utils.sources import DashboardError

daily, mix, hours = layout.ask("daily_sales", "order_mix", "order_hours")
if isinstance(daily, DashboardError) or not daily.num_rows:
    layout.source_line(None)
    if not layout.refused(daily):
        st.info(
            "`gold.daily_sales_summary` has no rows: no order has been loaded yet. Run `shopmetrics generate`, then "
            "`shopmetrics pipeline run`."
        )
    st.stop()

rows = frame(daily)
known = spanned(rows["order_date"])
layout.source_line(known.last)
layout.refused(mix, hours)

period = filters.period(known)
categories = filters.chosen("category", sorted(rows["category"].unique()))

now = sales.headline(daily, period, categories)
placed = now.orders
if not isinstance(mix, DashboardError):
    placed = int(selected(frame(mix), period, category=categories)["orders"].sum())
if not placed:
    st.info(f"No order from {period} in this selection. The data are from {known}.", icon=":material/search_off:")
    st.stop()

compared = sales.comparisons(daily, period)
before = sales.headline(daily, compared["Period before"], categories) if "Period before" in compared else None
with st.grid(4, min_column_width=150, gap="small"):
    for label, value, field in (
        ("Revenue", money(now.revenue, cents=now.revenue < 100_000), "revenue"),
        ("Orders", f"{now.orders:,}", "orders"),
        (
            "Average order value",
            money(now.average_order_value, cents=True) if now.orders else "none",
            "average_order_value",
        ),
        ("Units", f"{now.units:,}", "units"),
    ):
        earlier = getattr(before, field) if before else None
        st.metric(
            label,
            value,
            f"{(getattr(now, field) / earlier - 1) * 100:+.1f} %" if earlier and now.orders else None,
            border=True,
            height="stretch",
        )
st.caption(
    f"{period}"
    + (
        f", change against {compared['Period before']}."
        if before
        else ". The data do not reach back to a period to compare with."
    )
    + " Revenue is net of discounts; cancelled and returned orders are no revenue."
)

filtered: dict[str, Any] = {"period": period, "categories": categories}
layout.card("Revenue over time", sales.revenue_over_time, daily, key="revenue_over_time", **filtered)
with st.grid(2, min_column_width=330, gap="small"):
    layout.card("Revenue by category", sales.revenue_by_category, daily, key="revenue_by_category", **filtered)
    layout.card("Average order value", sales.order_value_over_time, daily, key="average_order_value", **filtered)
    layout.card("Orders by status", sales.orders_by_status, mix, key="orders_by_status", **filtered)
    layout.card("Revenue by payment", sales.revenue_by_payment, mix, key="revenue_by_payment", **filtered)
layout.card(
    "Orders by weekday and hour",
    sales.orders_by_weekday_and_hour,
    hours,
    key="orders_by_weekday_and_hour",
    note="Average of the days of the period",
    **filtered,
)

with st.container(border=True):
    st.header("The figures as a table", anchor=False)
    table = sales.categories_table(daily, period, categories)
    st.dataframe(
        table,
        key="sales_table",
        hide_index=True,
        alt="Revenue, share, orders, units and average order value of each category",
        column_config={
            "category": "Category",
            "revenue": st.column_config.NumberColumn("Revenue", format="dollar"),
            "share": st.column_config.NumberColumn("Share", format="percent"),
            "orders": st.column_config.NumberColumn("Orders", format="localized"),
            "units": st.column_config.NumberColumn("Units", format="localized"),
            "average_order_value": st.column_config.NumberColumn("Average order", format="dollar"),
            "revenue_before": st.column_config.NumberColumn("Period before", format="dollar"),
            "change": st.column_config.NumberColumn("Change", format="percent"),
        },
    )
