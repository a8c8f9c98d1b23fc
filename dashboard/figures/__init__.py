"""The figures: each a function from tables to a :class:`~dashboard.figures.chart.Chart`.

Nothing here knows of Streamlit, Spark, or where the rows come from, so a notebook draws what a page draws.
"""
