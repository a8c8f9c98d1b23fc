"""Product Insights (FR-015)."""

import streamlit as st

from dashboard.figures import products as figures
from dashboard.figures.chart import frame, money
from dashboard.figures.period import spanned
from dashboard.utils import filters, layout
from dashboard.utils.databricks_connector import with_values
from dashboard.utils.sources import DashboardError

products, daily = layout.ask("products", "daily_sales")
if (
    isinstance(products, DashboardError)
    or isinstance(daily, DashboardError)
    or not (products.num_rows and daily.num_rows)
):
    layout.source_line(None)
    if not layout.refused(products, daily):
        st.info("No product has been sold yet. Run `shopmetrics generate`, then `shopmetrics pipeline run`.")
    st.stop()

catalogue = frame(products)
known = spanned(frame(daily)["order_date"])
layout.source_line(known.last)

period = filters.period(known)
categories = filters.chosen("category", sorted(catalogue["category"].unique()))

before = period.before()
sales, sales_before = layout.ask(
    with_values("product_sales", first_date=period.first, last_date=period.last),
    with_values("product_sales", first_date=before.first, last_date=before.last),
)
if layout.refused(sales, sales_before):
    st.stop()

rows = figures.ranked(products, sales, categories)
if not rows["units"].sum():
    st.info(f"Nothing sold from {period} in this selection. The data are from {known}.", icon=":material/search_off:")
    st.stop()
with st.grid(4, min_column_width=150, gap="small"):
    revenue = float(rows["revenue"].sum())
    st.metric("Products sold", f"{(rows['units'] > 0).sum():,}", border=True, height="stretch")
    st.metric("Units", f"{rows['units'].sum():,}", border=True, height="stretch")
    st.metric("Revenue", money(revenue, cents=revenue < 100_000), border=True, height="stretch")
    st.metric(
        "Active, but not sold", f"{((rows['units'] == 0) & rows['is_active']).sum():,}", border=True, height="stretch"
    )
st.caption(f"{period}. Rank 1 is the highest revenue in its category.")

with st.grid(2, min_column_width=330, gap="small"):
    layout.card("Best sellers", figures.best_sellers, products, sales, key="best_sellers", categories=categories)
    if before.lies_in(known):
        layout.card(
            "Movers",
            figures.movers,
            products,
            sales,
            sales_before,
            key="movers",
            note=f"Against {before}",
            categories=categories,
        )
    else:
        with st.container(border=True):
            st.header("Movers", anchor=False)
            st.info(
                f"The data begin on {known.first:%d %b %Y}: there is no whole period before {period} to compare with."
            )
    layout.card(
        "Price against units", figures.price_against_units, products, sales, key="price_units", categories=categories
    )
    layout.card(
        "Share in the category",
        figures.share_in_category,
        products,
        sales,
        key="share_in_category",
        categories=categories,
    )
layout.card(
    "Slow sellers",
    figures.slow_sellers,
    products,
    sales,
    key="slow_sellers",
    note="Products that are still sold; the table begins with the slowest",
    categories=categories,
)
