"""The batch pipeline: bronze, silver and gold in one run, under one run id."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared import bronze, catalog, gold, quality, run_log, silver
from shared.bronze import Ingested
from shared.bronze.landing import strays
from shared.lock import one_run_at_a_time
from shared.quality import QualityRun
from shared.run_log import GOOD, RuleResult, TableRun
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shared.quality import TableRules

Layer = Literal["bronze", "silver", "gold"]

LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold")

LIMIT_MINUTES = 60
"""NFR-001: the full batch pipeline ends within this many minutes."""


MOST_QUARANTINED = 0.05
"""If more than this share of a table's new rows is set aside, the run's summary warns of it."""


@dataclass(frozen=True)
class PipelineRun:
    """What one run of the pipeline did."""

    run_id: str
    seconds: float
    tables: tuple[TableRun, ...]
    """One for each table, in the order in which they ran; ``ops.run_log`` holds the same under the run id."""
    extra_columns: dict[str, list[str]]
    """Landed file, to its columns that are not in its contract."""
    refused: dict[str, str] = field(default_factory=dict)
    """File that cannot be read, to the reason. The run is not ``ok`` while such a file is there."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Anything else in the landing volume, to the reason why it is ignored."""
    quality: QualityRun | None = None
    """Results of the rules of bronze and silver; None if gold was not run, or was run without the rules."""

    @property
    def ok(self) -> bool:
        """Whether every table is in order, and every file that should be read could be read."""
        return not self.refused and all(table.status in GOOD for table in self.tables)

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
            "refused": self.refused,
            "ignored": self.ignored,
            "quality": self.quality.as_dict() if self.quality else None,
        }


def run(
    spark: SparkSession,
    layers: Sequence[Layer] = LAYERS,
    full: bool = False,
    settings: Settings | None = None,
    on_end: Callable[[TableRun], None] | None = None,
    rules: Sequence[TableRules] | None = None,
    is_gated: bool = True,
) -> PipelineRun:
    """Ingest the landed files, and bring silver and gold up to date.

    Before gold, the quality rules of bronze and silver are checked. If one of severity ``fail`` is broken, gold stays
    as it is: each of its tables is skipped, and ``ops.run_log`` says why.

    Guarantees what each layer guarantees: files are ingested once, and a file that cannot be read does not stop the
    others; tables hold what their sources say, even if rows came late, twice or in another order. A run that was killed
    at any point can be repeated and ends in the same tables: each layer continues from what its tables hold, and does
    not repeat finished work.

    Args:
        spark: the session.
        layers: the layers to run; defaults to all. They run in their order.
        full: rebuild silver and gold from everything, not only from what is new.
        settings: the home; defaults to this process's settings.
        on_end: called with each table as it ends.
        rules: the quality rules; they default to those of ``shared/quality/rules.toml``.
        is_gated: False runs gold without checking the rules.

    Raises:
        MetadataError: if the metadata of a layer or a quality rule is wrong.
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
    refused: dict[str, str] = {}
    ignored: dict[str, str] = {}
    asked: QualityRun | None = None
    is_gated = is_gated and "gold" in layers
    with one_run_at_a_time(settings), run_log.Log(spark) as log:
        if is_gated:
            # Before anything else: a rule that cannot be checked would stop the run halfway.
            rules = quality.declared() if rules is None else rules
            quality.require_known_or_sound(spark, rules)
        if "bronze" in layers:
            started = datetime.now(UTC)
            ingested = bronze.ingest(spark, settings=settings, strict=False)
            tables += [_as_table_run(one, run_id, started, time.perf_counter() - begun) for one in ingested]
            extra = {file: columns for one in ingested for file, columns in one.extra_columns.items()}
            for one in ingested:
                refused |= one.refused
                ignored |= one.ignored
            ignored |= strays(Path(catalog.volume_path(settings)), bronze.SOURCES)
            log.add(tables)
            for table in tables:
                told(table)
        if "silver" in layers:
            tables += silver.run(spark, full=full, settings=settings, run_id=run_id, on_end=told, log=log)
        if is_gated:
            asked = quality.run(spark, quality.BELOW_GOLD, rules, run_id=run_id, settings=settings)
        if asked and not asked.ok:
            held = _held_back(spark, run_id, asked.reason)
            log.add(held)
            tables += held
            for table in held:
                told(table)
        elif "gold" in layers:
            tables += gold.run(spark, full=full, settings=settings, run_id=run_id, on_end=told, log=log)
    return PipelineRun(run_id, time.perf_counter() - begun, tuple(tables), extra, refused, ignored, asked)


def _held_back(spark: SparkSession, run_id: str, reason: str) -> list[TableRun]:
    """Return a skipped run of every table of gold."""
    there = catalog.table_exists(spark, gold.TABLES.name)
    known = gold.TABLES.published(spark) if there else gold.TABLES.declared()
    now = datetime.now(UTC)
    return [
        TableRun(run_id, one.target, "skipped", now, 0.0, f"skipped: {reason}", definition=one.fingerprint)
        for one in known
        if one.is_enabled
    ]


def table_count(layers: Sequence[Layer] = LAYERS) -> int:
    """Return how many tables a run of these layers will report, by the declarations."""
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
        status="succeeded" if ingested.rows or ingested.files or ingested.mended else "unchanged",
        started_at=started,
        # The sources are read in parallel, so each is logged with the time of all.
        seconds=round(seconds, 3),
        reason=ingested.mended,
        rows_read=ingested.rows,
        rows_accepted=ingested.rows,
        rows_inserted=ingested.rows,
        to_version=ingested.version,
        rules=(RuleResult("line_is_well_formed", "warn", ingested.rows, ingested.malformed),) if ingested.rows else (),
    )
