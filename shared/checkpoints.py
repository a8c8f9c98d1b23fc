"""Checkpoints: the directory in which a stream keeps its progress, and what it belongs to.

A checkpoint beside another table or topic than its own would skip records, or bring them twice. So each keeps a note
of them, and a run that finds others there stops before it starts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from shared.errors import PipelineError
from shared.private import write_private


def of_query(directory: Path) -> Path:
    """Return the directory within a stream's own that Spark's query writes."""
    return directory / "stream"


def claimed(directory: Path, identities: Mapping[str, str], filled: Collection[str], advice: str) -> str:
    """Return where a stream keeps its checkpoint, after making sure that it tells of what the stream reads and writes.

    Args:
        directory: the stream's own; made if it is not there.
        identities: what the stream reads and writes, each name to what tells it from another of that name.
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
        # Whole or not at all: half a note, left by a kill or a full disk, would keep every later run from starting.
        write_private(note, json.dumps(identities))
    there = json.loads(note.read_text())
    other = sorted(name for name in there.keys() | identities.keys() if there.get(name) != identities.get(name))
    if other:
        raise PipelineError(
            f"The checkpoint {directory} belongs to another {' and '.join(other)}: rows would be skipped or doubled.",
            advice,
        )
    if not has_begun and (stream / "offsets").exists():
        # A stream that is ended while it plans its first batch may leave half a file of the plan, and then Spark starts
        # none there any more (STATE_STORE_CHECKPOINT_LOCATION_NOT_EMPTY). Nothing else goes: by the id beside it Spark
        # knows the stream, and ends one that still runs.
        shutil.rmtree(stream / "offsets")
    return str(stream)
