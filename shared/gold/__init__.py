"""Gold: what the business reads, aggregated from silver as the metadata says, and only where something changed."""

from shared.gold.gold_run import reset, run
from shared.gold.metadata import TABLES

__all__ = ["TABLES", "reset", "run"]
