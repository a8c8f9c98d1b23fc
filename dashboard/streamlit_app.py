"""The dashboard's entrance: one navigation over the landing page and the four pages.

make dashboard
"""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this directory on the path; a host that installed only the requirements needs the checkout as well.
if (checkout := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, checkout)

from dashboard.utils import filters, layout

HEADINGS = {
    "": "ShopMetrics",
    "sales": "Sales performance",
    "customers": "Customer analytics",
    "products": "Product insights",
    "traffic": "Kafka traffic",
}

st.set_page_config(page_title="ShopMetrics", page_icon=Path(__file__).with_name("icon.png"), layout="wide")
layout.begin_page()

page = st.navigation(
    [
        st.Page(
            "pages/0_Overview.py",
            title="Overview",
            icon=":material/home:",
            default=True,
            help="Headline figures, and the state of the lakehouse they are from.",
        ),
        st.Page(
            "pages/1_Sales_Performance.py",
            title="Sales",
            icon=":material/payments:",
            url_path="sales",
            help="Revenue over time, by category, status, payment, weekday and hour.",
        ),
        st.Page(
            "pages/2_Customer_Analytics.py",
            title="Customers",
            icon=":material/group:",
            url_path="customers",
            help="Segments, retention, concentration, and the history of one customer.",
        ),
        st.Page(
            "pages/3_Product_Insights.py",
            title="Products",
            icon=":material/inventory_2:",
            url_path="products",
            help="Ranks and movers, price against units, shares, slow sellers.",
        ),
        st.Page(
            "pages/4_Kafka_Traffic.py",
            title="Traffic",
            icon=":material/sensors:",
            url_path="traffic",
            help="Visits by the hour, funnel, conversion, and the stream behind them.",
        ),
    ],
    position="top",
)
st.title(HEADINGS[page.url_path], anchor=False)
filters.show(page.url_path)
page.run()
