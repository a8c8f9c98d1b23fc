"""Customer Analytics (FR-014)."""

from typing import Any

import streamlit as st

from dashboard.figures import customers as figures
from dashboard.figures.chart import frame, money, percent
from dashboard.figures.period import spanned
from dashboard.utils import filters, layout
from dashboard.utils.databricks_connector import connect, with_values
from dashboard.utils.sources import DashboardError, Snapshot

customers, retention, examples = layout.ask("customers", "retention", "changed_customers")
if isinstance(customers, DashboardError) or not customers.num_rows:
    layout.source_line(None)
    if not layout.refused(customers):
        st.info("`gold.customer_ltv` has no rows: nobody has bought yet. Run `shopmetrics pipeline run`.")
    st.stop()

everybody = frame(customers)
known = spanned(everybody["first_order_date"])
through = everybody["last_order_date"].max().date()
layout.source_line(through)
layout.refused(retention, examples)

joined = filters.period(known, "joined_")
segments = filters.chosen("segment", figures.SEGMENTS)

chosen = figures.chosen(everybody, joined, segments)
if chosen.empty:
    st.info(f"No customer in this selection placed a first order from {joined}. The data are from {known}.")
else:
    value = float(chosen["lifetime_value"].sum())
    with st.grid(4, min_column_width=150, gap="small"):
        st.metric("Customers", f"{len(chosen):,}", border=True, height="stretch")
        st.metric("Lifetime value", money(value, cents=value < 100_000), border=True, height="stretch")
        st.metric("Value of one customer", money(value / len(chosen), cents=True), border=True, height="stretch")
        st.metric("Repeat buyers", percent(float((chosen["orders"] > 1).mean())), border=True, height="stretch")
    st.caption("Customers with at least one order that is revenue. Guests have no account, and are in no figure here.")

    filtered: dict[str, Any] = {"joined": joined, "segments": segments}
    layout.card("Segments", figures.segments, everybody, key="segments", **filtered)
    layout.card(
        "Cohorts",
        figures.cohorts,
        retention,
        key="cohorts",
        note="Of 100 customers whose first order was in a month, how many ordered in each later month that has ended",
        through=through,
        **filtered,
    )
    with st.grid(2, min_column_width=330, gap="small"):
        layout.card("Who brings the revenue", figures.lorenz, everybody, key="lorenz", **filtered)
        layout.card(
            "Recency and frequency", figures.recency_and_frequency, everybody, key="recency_frequency", **filtered
        )

st.header("One customer", anchor=False)
if isinstance(examples, DashboardError):
    st.stop()
some = examples["customer_id"].to_pylist()
st.caption(
    "Every version that `silver.dim_customers` keeps, with the orders placed while it was valid. "
    "The filters above do not apply here."
)
customer_id = st.text_input(
    "Customer",
    value=some[0] if some else "",
    key="customer",
    bind="query-params",
    max_chars=40,
    help="For example " + ", ".join(some[:5]),
).strip()
if customer_id:
    history, orders = layout.ask(
        with_values("customer_history", customer_id=customer_id),
        with_values("customer_orders", customer_id=customer_id),
    )
    if not isinstance(history, DashboardError) and not history.num_rows:
        kept = f" The snapshot holds {len(some)} customers only." if isinstance(connect().source(), Snapshot) else ""
        st.info(f"There is no customer with this id.{kept} Try {', '.join(some[:5])}.")
    else:
        layout.refused(history, orders)
        layout.card(f"History of {customer_id}", figures.timeline, history, orders, key="timeline")
