"""The figures: each is a function from tables to a :class:`~dashboard.figures.chart.Chart`.

No module here depends on Streamlit, Spark or the source of the rows, so a notebook and a page draw the same figure.
"""
