"""The landing page: headline figures with their change, and the state of what they are from."""

import pandas as pd
import streamlit as st

from dashboard.figures import sales
from dashboard.figures import traffic as visits
from dashboard.figures.chart import frame, money
from dashboard.figures.period import Period, spanned
from dashboard.utils import layout
from dashboard.utils.databricks_connector import connect
from dashboard.utils.filters import SPANS
from dashboard.utils.sources import DashboardError, Lakehouse, Snapshot

daily, customers, traffic = layout.ask("daily_sales", "customers", "traffic")
known = spanned(frame(daily)["order_date"]) if not isinstance(daily, DashboardError) and daily.num_rows else None
layout.source_line(known.last if known else None)
layout.refused(daily, customers, traffic)


def change(now: float, before: float | None) -> str | None:
    """Return the change as a metric shows it; nothing where there is nothing to compare with."""
    return f"{(now / before - 1) * 100:+.1f} %" if before else None


if known:
    span = SPANS["30 days"]
    last = Period(max(known.first, known.last - pd.Timedelta(days=span - 1)), known.last)
    now = sales.headline(daily, last)
    before = sales.headline(daily, last.before()) if last.before().lies_in(known) else None
    st.header(f"The last {last.days} days", anchor=False)
    st.caption(f"{last}" + (f", against the {last.days} days before." if before else ""))
    with st.grid(4, min_column_width=150, gap="small"):
        # Without Streamlit's small charts: a screen reader meets a hundred marks without a name in each.
        for label, value, field in (
            ("Revenue", money(now.revenue), "revenue"),
            ("Orders", f"{now.orders:,}", "orders"),
            ("Average order value", money(now.average_order_value, cents=True), "average_order_value"),
            ("Units", f"{now.units:,}", "units"),
        ):
            st.metric(
                label,
                value,
                change(getattr(now, field), getattr(before, field) if before else None),
                border=True,
                height="stretch",
            )

if not isinstance(customers, DashboardError) and customers.num_rows:
    owners = frame(customers)
    best = owners[owners["segment"] == "High"]
    st.header("Customers and visitors", anchor=False)
    with st.grid(4, min_column_width=150, gap="small"):
        st.metric("Customers who bought", f"{len(owners):,}", border=True, height="stretch")
        st.metric(
            "Segment High",
            f"{len(best):,}",
            border=True,
            height="stretch",
            help="Lifetime value of 5,000 or more",
        )
        if not isinstance(traffic, DashboardError) and traffic.num_rows:
            day = frame(traffic)["hour_ts"].max().date()
            today = visits.hours(traffic, Period(day, day))
            st.metric(f"Sessions on {day:%d %b}", f"{int(today['sessions'].sum()):,}", border=True, height="stretch")
            st.metric(f"Purchases on {day:%d %b}", f"{int(today['purchases'].sum()):,}", border=True, height="stretch")

st.header("State of the lakehouse", anchor=False)
source = connect().source()
try:
    states = source.tables()
except DashboardError as error:
    layout.refused(error)
    states = []
if isinstance(source, Lakehouse):
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "Table": state.name,
                    "Version": state.version,
                    "Written": state.updated_at,
                    "State": state.problem or "ready",
                }
                for state in states
            ]
        ),
        hide_index=True,
        key="tables",
        column_config={"Written": st.column_config.DatetimeColumn("Written, UTC", timezone="UTC")},
        alt="Every table that the pages read, with its version and the time of its newest commit",
    )
elif isinstance(source, Snapshot):
    st.dataframe(
        pd.DataFrame([{"Query": state.name, "Rows": state.rows} for state in states]),
        hide_index=True,
        key="tables",
        alt="The query results that the snapshot holds, with their numbers of rows",
    )
    st.caption("Build your own: `shopmetrics generate`, then `shopmetrics pipeline run`. This page then shows it.")
else:
    st.markdown(
        f"Asked in the workspace, through its SQL warehouse: {', '.join(f'`{state.name}`' for state in states)}."
    )
