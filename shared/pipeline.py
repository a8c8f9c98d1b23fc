"""The batch pipeline: bronze, silver and gold in one run, under one run id."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from shared import bronze, gold, run_log, silver
from shared.bronze import Ingested
from shared.home import one_run_at_a_time
from shared.run_log import GOOD, RuleResult, TableRun
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Layer = Literal["bronze", "silver", "gold"]

LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold")

LIMIT_MINUTES = 60
"""NFR-001: the full batch pipeline ends within so many minutes."""


@dataclass(frozen=True)
class PipelineRun:
    """What one run of the pipeline did."""

    run_id: str
    seconds: float
    tables: tuple[TableRun, ...]
    """One for each table, in the order in which they ran; ``ops.run_log`` holds the same under the run id."""
    extra_columns: dict[str, list[str]]
    """Landed file, to the columns it has that its contract does not know."""

    @property
    def ok(self) -> bool:
        """Whether every table is in order."""
        return all(table.status in GOOD for table in self.tables)

    @property
    def is_within_limit(self) -> bool:
        """Whether NFR-001 is met."""
        return self.seconds <= LIMIT_MINUTES * 60

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for ``--json``."""
        return {
            "run_id": self.run_id,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "nfr_001": {"limit_seconds": LIMIT_MINUTES * 60, "is_met": self.is_within_limit},
            "tables": [asdict(table) | {"rows_changed": table.rows_changed} for table in self.tables],
            "extra_columns": self.extra_columns,
        }


def run(
    spark: SparkSession,
    layers: Sequence[Layer] = LAYERS,
    full: bool = False,
    settings: Settings | None = None,
    on_end: Callable[[TableRun], None] | None = None,
) -> PipelineRun:
    """Ingest what has landed, and bring silver and gold up to it.

    Guarantees what each layer does: files are ingested once; tables hold what their sources say, whatever came late,
    twice or in another order. Killed at any point and run again, it ends in the same tables: each layer goes on from
    what its tables hold, and what was finished is not done again.

    Args:
        spark: the session.
        layers: the layers to run; left out, all. They run in their order.
        full: make silver and gold from everything, not only from what is new.
        settings: the home; left out, this process's.
        on_end: told of each table as it ends.

    Raises:
        SourceError: if a landed file lacks a column; nothing was run then.
        MetadataError: if the metadata of a layer cannot be run.
        PipelineError: if another run does not end, or a stream fails.

    Example:
        >>> done = pipeline.run(shared.connect())
        >>> print(done.run_id, done.ok, round(done.seconds))
    """
    settings = settings or get_settings()
    told = on_end or (lambda table: None)
    run_id, begun = run_log.new_run_id(), time.perf_counter()
    tables: list[TableRun] = []
    extra: dict[str, list[str]] = {}
    with one_run_at_a_time(settings):
        if "bronze" in layers:
            started = datetime.now(UTC)
            ingested = bronze.ingest(spark, settings=settings)
            tables += [_as_table_run(one, run_id, started, time.perf_counter() - begun) for one in ingested]
            extra = {file: columns for one in ingested for file, columns in one.extra_columns.items()}
            run_log.create_tables(spark)
            run_log.write(spark, tables)
            for table in tables:
                told(table)
        if "silver" in layers:
            tables += silver.run(spark, full=full, settings=settings, run_id=run_id, on_end=told)
        if "gold" in layers:
            tables += gold.run(spark, full=full, settings=settings, run_id=run_id, on_end=told)
    return PipelineRun(run_id, time.perf_counter() - begun, tuple(tables), extra)


def table_count(layers: Sequence[Layer] = LAYERS) -> int:
    """Return how many tables a run of these layers will tell of, by the declarations."""
    tables = {
        "bronze": len(bronze.SOURCES),
        "silver": sum(one.is_enabled for one in silver.TABLES.declared()),
        "gold": sum(one.is_enabled for one in gold.TABLES.declared()),
    }
    return sum(tables[layer] for layer in layers)


def _as_table_run(ingested: Ingested, run_id: str, started: datetime, seconds: float) -> TableRun:
    return TableRun(
        run_id=run_id,
        table_name=ingested.table,
        status="succeeded" if ingested.rows or ingested.files else "unchanged",
        started_at=started,
        # The sources are read side by side, so each takes as long as all.
        seconds=round(seconds, 3),
        rows_read=ingested.rows,
        rows_accepted=ingested.rows,
        rows_inserted=ingested.rows,
        to_version=ingested.version,
        rules=(RuleResult("line_is_well_formed", "warn", ingested.rows, ingested.malformed),) if ingested.rows else (),
    )
