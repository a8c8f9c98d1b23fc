"""Silver: correct, deduplicated, historised and joined, as the metadata says."""

from shared.silver.metadata import TABLES
from shared.silver.silver_run import reset, run

__all__ = ["TABLES", "reset", "run"]
