"""Checkpoints: the directory in which a stream keeps its progress, and the tables and topic that it belongs to.

A checkpoint that is used with another table or topic would skip records, or deliver them twice. So each checkpoint has
a note of its tables and topic. A run that finds others in the note stops before it starts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from shared.errors import PipelineError
from shared.private import write_private


def of_query(directory: Path) -> Path:
    """Return the subdirectory of a stream's directory that Spark's query writes."""
    return directory / "stream"


def claimed(directory: Path, identities: Mapping[str, str], filled: Collection[str], advice: str) -> str:
    """Return where a stream keeps its checkpoint, which must belong to what the stream reads and writes.

    Args:
        directory: the stream's directory; created if it does not exist.
        identities: what the stream reads and writes, each name to the id that tells it from another of the same name.
        filled: the tables among them that hold rows.
        advice: how to remove tables and checkpoint together.

    Raises:
        PipelineError: if the checkpoint is gone while tables hold rows, or belongs to others.
    """
    note, stream = directory / "belongs_to.json", of_query(directory)
    has_begun = any(stream.glob("offsets/[0-9]*"))
    if filled and not has_begun:
        raise PipelineError(
            f"Rows are in {', '.join(filled)}, but the checkpoint {directory} is gone: they would come twice.", advice
        )
    if not note.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        # Written whole or not at all: half a note, left by a kill or a full disk, would stop every later run.
        write_private(note, json.dumps(identities))
    there = json.loads(note.read_text())
    other = sorted(name for name in there.keys() | identities.keys() if there.get(name) != identities.get(name))
    if other:
        raise PipelineError(
            f"The checkpoint {directory} belongs to another {' and '.join(other)}: rows would be skipped or doubled.",
            advice,
        )
    if not has_begun and (stream / "offsets").exists():
        # A stream that ends while it plans its first batch may leave half a plan file. Spark then starts no stream
        # there (STATE_STORE_CHECKPOINT_LOCATION_NOT_EMPTY). Only the plan is removed: by the id beside it Spark
        # recognises the stream, and ends it if it still runs.
        shutil.rmtree(stream / "offsets")
    return str(stream)
