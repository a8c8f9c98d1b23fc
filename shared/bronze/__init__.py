"""Bronze: every row of every file, as delivered, with where it came from."""

from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES, Source
from shared.bronze.ingestion import Ingested, create_table, ingest, reset

__all__ = ["AUDIT_COLUMNS", "SOURCES", "Ingested", "Source", "create_table", "ingest", "reset"]
