"""Silver: correct, deduplicated, historised and joined, as the metadata says."""

from shared.silver.runner import run

__all__ = ["run"]
