"""The dashboard: Streamlit pages on the learner's own gold. No module here imports Spark."""
