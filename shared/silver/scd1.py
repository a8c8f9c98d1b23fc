"""SCD type 1 and facts: one row per key, from its newest event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.silver.events import is_deleted, latest_events

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from shared.silver.metadata import TableDefinition


def newest(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return the carried columns of each key's newest event; a deleted key has no row.

    Args:
        events: accepted events of *all* batches for each key that occurs in them.
        definition: keys, sequence, delete flag, carried columns.
    """
    return newest_of_single_events(latest_events(events, definition), definition)


def newest_of_single_events(events: DataFrame, definition: TableDefinition) -> DataFrame:
    """Return what :func:`newest` does, for events that are known to have different keys."""
    carried = [name for name in events.columns if name in definition.carried]
    return events.where(~is_deleted(definition)).select(*carried)
