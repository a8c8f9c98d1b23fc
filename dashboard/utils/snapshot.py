"""Make the snapshot: the answers to the dashboard's questions, as Parquet that is committed.

``make snapshot`` builds the shop of seed 42 in a home of its own (three days of orders, two of clicks), asks it every
question, and writes ``data/gold_snapshot/``. A host that has nothing but the repository shows these.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dashboard.utils.queries import IN_SNAPSHOT
from dashboard.utils.sources import SNAPSHOT, Lakehouse
from shared.settings import get_settings

MOST_BYTES = 2_000_000
"""A repository keeps every version of it for ever."""

NOT_KEPT = {"stream_batches"}
"""Of this only the columns are kept: how long a run took on somebody's machine is no fact of the shop."""


def questions() -> str:
    """Return a fingerprint of the questions, so that a test sees when the snapshot answers others."""
    return hashlib.sha256(json.dumps({name: q.sql for name, q in sorted(IN_SNAPSHOT.items())}).encode()).hexdigest()


def make(lakehouse: Path, directory: Path = SNAPSHOT) -> dict[str, Any]:
    """Write the snapshot of a lakehouse, and return its manifest.

    Raises:
        DashboardError: if a question has no answer there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    through = None
    for name, query in sorted(IN_SNAPSHOT.items()):
        table = Lakehouse(lakehouse).answer(query)
        if name in NOT_KEPT:
            table = table.slice(0, 0)
        if name == "daily_sales":
            through = pc.max(table["order_date"]).as_py()
        path = directory / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", compression_level=19)
        content = path.read_bytes()
        files[name] = {
            "rows": table.num_rows,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "columns": {field.name: str(field.type) for field in table.schema},
        }
    for other in set(directory.glob("*.parquet")) - {directory / f"{name}.parquet" for name in files}:
        other.unlink()
    settings = get_settings()
    manifest = {
        "made_by": "make snapshot",
        "seed": settings.seed,
        "scale": settings.scale,
        "data_through": through.isoformat() if through else None,
        "questions": questions(),
        "files": files,
    }
    (directory / "snapshot.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    total = sum(entry["bytes"] for entry in files.values())
    assert total < MOST_BYTES, f"the snapshot has {total:,} bytes; at most {MOST_BYTES:,} are committed"
    return manifest


if __name__ == "__main__":
    made = make(get_settings().lakehouse, *map(Path, sys.argv[1:]))
    print(f"{len(made['files'])} files, {sum(f['bytes'] for f in made['files'].values()):,} bytes, in {SNAPSHOT}")
