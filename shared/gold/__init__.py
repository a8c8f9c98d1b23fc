"""Gold: what the business reads, aggregated from silver as the metadata says, and only where something changed."""

from shared.gold.metadata import TABLES
from shared.gold.runner import reset, run

__all__ = ["TABLES", "reset", "run"]
