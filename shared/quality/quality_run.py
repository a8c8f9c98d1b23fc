"""Check the quality rules on the tables as they are, and record the results.

The results depend on the tables' versions, on the rules and on the moment for which they are checked. So they are
recorded once for each state of these three. A repeated check reads them from ``ops.quality_metrics``; it measures
nothing and writes nothing. A run measures each table by one statement, and writes all results by one commit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from pyspark.sql import functions as F

from shared import bronze, catalog, gold, layer, run_log, silver
from shared.catalog import Standing
from shared.control_table import listed
from shared.errors import MetadataError
from shared.interpreted import interpreted
from shared.lock import one_run_at_a_time
from shared.quality import reconciliation, rules
from shared.quality.measures import Measured, found_in, measuring
from shared.quality.reconciliation import Account, Difference
from shared.quality.rules import Accounted, Equals, Fresh, NoGap, TableRules, Usual
from shared.quality.verdicts import Verdict, no_table, verdicts
from shared.rules import why_not
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Layer = Literal["bronze", "silver", "gold"]

LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold")

_SOURCES = tuple(source.bronze_table for source in bronze.SOURCES.values())

BELOW_GOLD: tuple[Layer, ...] = ("bronze", "silver")
"""The layers whose rules are checked before gold is made."""

METRICS, VERSIONS = "ops.quality_metrics", "ops.quality_rules"

_METRICS = {
    "run_id": ("STRING", "the run that measured it"),
    "table_name": ("STRING", "the table"),
    "table_version": ("BIGINT", "its version; NULL if there was no table"),
    "metric_name": ("STRING", "name of the rule or metric; rows for the number of rows"),
    "metric_value": ("DECIMAL(28,6)", "what was measured; NULL if there was nothing to measure"),
    "severity": ("STRING", "info, warn or fail"),
    "status": ("STRING", "measured, passed, failed or not judged"),
    "low": ("DECIMAL(28,6)", "the least value that passes; NULL if there is none"),
    "high": ("DECIMAL(28,6)", "the greatest value that passes; NULL if there is none"),
    "rows_checked": ("BIGINT", "rows or groups of which the rule was asked"),
    "message": ("STRING", "what was found and what was expected, or why it was not judged; empty if it passed"),
    "fingerprint": ("STRING", "which version of the rule, see ops.quality_rules"),
    "as_of": ("TIMESTAMP", "the moment for which the rules were asked, UTC"),
    "run_time": ("TIMESTAMP", "when it was measured, UTC"),
    "state": ("STRING", "what the answer depends on, as one text: a state is recorded once"),
    "place": ("INT", "place among the rows of the state, as the rules are declared"),
}
_VERSIONS = {
    "table_name": ("STRING", "the table"),
    "name": ("STRING", "the rule or metric"),
    "version": ("INT", "1 for its first definition, and one more for each that followed"),
    "fingerprint": ("STRING", "of the definition; NULL once the rule is declared no longer"),
    "definition": ("STRING", "the declaration as JSON; NULL once the rule is declared no longer"),
    "run_id": ("STRING", "the run that found it"),
    "run_time": ("TIMESTAMP", "when, UTC"),
}


@dataclass(frozen=True)
class QualityRun:
    """The results of the quality rules."""

    run_id: str
    """The run that measured it: an earlier one, if nothing has changed since."""
    as_of: datetime | None
    """The moment for which they were checked; None if no rule needed one, or if bronze has no row yet."""
    verdicts: tuple[Verdict, ...]
    is_new: bool
    """Whether something was measured now; else all was read from earlier runs."""
    seconds: float

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """Rules of severity ``fail`` that are broken."""
        return tuple(one for one in self.verdicts if one.is_failure)

    @property
    def warnings(self) -> tuple[Verdict, ...]:
        """Rules of severity ``warn`` that are broken."""
        return tuple(one for one in self.verdicts if one.is_warning)

    @property
    def ok(self) -> bool:
        """Whether no rule of severity ``fail`` is broken."""
        return not self.failures

    @property
    def reason(self) -> str:
        """Which rules of severity ``fail`` are broken, and by what; empty if none is."""
        return "; ".join(f"{one.table_name}: rule {one.metric_name} is broken: {one.message}" for one in self.failures)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for ``--json``."""
        return {
            "run_id": self.run_id,
            "ok": self.ok,
            "as_of": self.as_of.isoformat() if self.as_of else None,
            "is_new": self.is_new,
            "seconds": round(self.seconds, 3),
            "verdicts": [asdict(one) for one in self.verdicts],
        }


def run(
    spark: SparkSession,
    layers: Sequence[Layer] = LAYERS,
    definitions: Sequence[TableRules] | None = None,
    as_of: datetime | None = None,
    run_id: str | None = None,
    settings: Settings | None = None,
) -> QualityRun:
    """Check the rules of these layers' tables, and record the results in ``ops.quality_metrics``.

    Changes no table of bronze, silver and gold. If called again for the same versions, rules and moment, it writes
    nothing and returns what was recorded.

    Args:
        spark: the session.
        layers: the layers whose tables are checked.
        definitions: the rules of all tables; they default to those of ``shared/quality/rules.toml``.
        as_of: the moment for which ``fresh``, ``usual`` and ``no_gap`` are checked, with a zone. Defaults to the newest
            ``ingested_at`` in bronze, which is the same on every machine. The default does not show a night on which
            nothing came at all; a schedule that must notice such a night passes its own moment.
        run_id: the id to run under; defaults to a new one.
        settings: the home; defaults to this process's settings.

    Raises:
        MetadataError: if a rule cannot be checked; then none is.
        PipelineError: if another run does not end in time.

    Example:
        >>> for one in quality.run(shared.connect()).warnings:
        ...     print(one.table_name, one.metric_name, one.message)
    """
    begun = time.perf_counter()
    if as_of is not None and as_of.tzinfo is None:
        raise MetadataError(f"as_of has no zone: {as_of}.", "say which moment it is: datetime(..., tzinfo=UTC)")
    declared = rules.declared() if definitions is None else definitions
    with one_run_at_a_time(settings or get_settings()):
        standings = {name: catalog.standing(spark, name) for name in dict.fromkeys(_read(_of(declared, layers), as_of))}
        is_small = sum(one.bytes or layer.SMALL_BYTES for one in standings.values() if one) <= layer.SMALL_BYTES
        with interpreted(spark, is_small):
            _create_tables(spark)
            parts = _parts(declared, layers, standings, as_of)
            known = _recorded(spark, list(parts))
            new = {state: part for state, part in parts.items() if state not in known}
            if new:
                require_sound(spark, declared)
                id_of_new = run_id or run_log.new_run_id()
                asked = list(chain(*new.values()))
                moment = as_of or (newest_arrival(spark) if _looks_at_time(asked) else None)
                found = _measured(spark, asked, standings, moment)
                for state, part in new.items():
                    targets = {one.target for one in part}
                    own = tuple(one for one in found if one.table_name in targets)
                    known[state] = QualityRun(id_of_new, moment, own, True, 0.0)
                _write(spark, {state: known[state] for state in new}, declared, standings)
    return _joined([known[state] for state in parts], time.perf_counter() - begun)


def recorded(
    spark: SparkSession,
    layers: Sequence[Layer] = LAYERS,
    definitions: Sequence[TableRules] | None = None,
    as_of: datetime | None = None,
) -> QualityRun | None:
    """Return what :func:`run` has recorded of the tables as they are now, None if it was not run since they changed.

    Nothing is measured and nothing is written.
    """
    begun = time.perf_counter()
    declared = rules.declared() if definitions is None else definitions
    if not catalog.table_exists(spark, METRICS):
        return None
    standings = {name: catalog.standing(spark, name) for name in dict.fromkeys(_read(_of(declared, layers), as_of))}
    parts = _parts(declared, layers, standings, as_of)
    known = _recorded(spark, list(parts))
    if known.keys() != parts.keys():
        return None
    return _joined([known[state] for state in parts], time.perf_counter() - begun)


def _of(declared: Sequence[TableRules], layers: Sequence[Layer]) -> list[TableRules]:
    return [one for one in declared if one.layer in layers]


def _parts(
    declared: Sequence[TableRules],
    layers: Sequence[Layer],
    standings: dict[str, Standing | None],
    as_of: datetime | None,
) -> dict[str, list[TableRules]]:
    """Return the rules in the parts in which they are checked and recorded, each under its state.

    The layers below gold are a part of their own: a run of the pipeline checks them, and then only gold is left.
    """
    chosen = _of(declared, layers)
    parts = ([one for one in chosen if (one.layer in BELOW_GOLD) is is_below] for is_below in (True, False))
    return {_state(part, standings, as_of): part for part in parts if part}


def _joined(parts: Sequence[QualityRun], seconds: float) -> QualityRun:
    newest_first = sorted(parts, key=lambda one: not one.is_new)
    return QualityRun(
        run_id=newest_first[0].run_id if parts else "",
        as_of=max((one.as_of for one in parts if one.as_of), default=None),
        verdicts=tuple(chain(*(one.verdicts for one in parts))),
        is_new=any(one.is_new for one in parts),
        seconds=seconds,
    )


def _looks_at_time(asked: Sequence[TableRules]) -> bool:
    return any(isinstance(rule, Fresh | Usual | NoGap) for one in asked for rule in one.rules)


def _read(asked: Sequence[TableRules], as_of: datetime | None) -> list[str]:
    """Return the tables that the results depend on: also those of bronze, if the moment is taken from them."""
    return [*chain(*(one.reads for one in asked)), *(_SOURCES if as_of is None and _looks_at_time(asked) else ())]


def newest_arrival(spark: SparkSession) -> datetime | None:
    """Return when the newest row of bronze came, by the virtual calendar; None if none has come."""
    there = [table for table in _SOURCES if catalog.table_exists(spark, table)]
    if not there:
        return None
    newest = " UNION ALL ".join(f"SELECT max(ingested_at) AS at FROM {table}" for table in there)
    row = spark.sql(f"SELECT max(at) AS at FROM ({newest})").first()
    assert row is not None
    return row["at"].astimezone(UTC) if row["at"] else None


def require_known_or_sound(spark: SparkSession, definitions: Sequence[TableRules]) -> None:
    """Raise an error if these rules cannot be checked, unless they have been checked before as they are.

    Unchanged rules are not parsed again: a run that finds nothing new only compares fingerprints.

    Raises:
        MetadataError: as :func:`require_sound`.
    """
    if catalog.table_exists(spark, VERSIONS):
        with interpreted(spark):
            if not rules.new_versions(definitions, newest_versions(spark)):
                return
    require_sound(spark, definitions)


def require_sound(spark: SparkSession, definitions: Sequence[TableRules]) -> None:
    """Raise an error if one of these rules cannot be checked. No data is read; a missing table is skipped.

    Raises:
        MetadataError: naming every mistake that shows without the engine, all at once; if there is none, every rule
            that is not SQL.
    """
    there = set(catalog.tables(spark))
    declared = [one.target for control in (silver.TABLES, gold.TABLES) for one in control.declared()]
    named = {name for one in definitions for name in one.reads if name in there}
    columns = {name: spark.table(name).columns for name in named}
    found = rules.problems(definitions, columns, sorted(there | {*_SOURCES, *declared}))
    if not found:
        found = [f"{one.target}: {problem}" for one in definitions for problem in _not_sql(spark, one, there)]
    if found:
        raise MetadataError(
            listed("The quality rules cannot be asked", found),
            f"correct shared/quality/{rules.FILE.name}; nothing was run",
        )


def _not_sql(spark: SparkSession, table: TableRules, there: set[str]) -> list[str]:
    """Return which rules are not SQL over the table. Spark parses; nothing is read."""
    if table.target not in there:
        return []
    rows = spark.table(table.target)

    def frames(one: TableRules) -> list[DataFrame]:
        compared = [rule for rule in one.rules if isinstance(rule, Equals) and rule.source in there]
        further = [reconciliation.comparing(rows, spark.table(rule.source), rule) for rule in compared]
        return [measuring(rows, one), *further]

    # All rules of the table together. Only if something is wrong, one by one.
    if all(why_not(frame) is None for frame in frames(table)):
        return []
    alone = {rule.name: table.model_copy(update={"rules": (rule,), "metrics": ()}) for rule in table.rules}
    alone |= {one.name: table.model_copy(update={"rules": (), "metrics": (one,)}) for one in table.metrics}
    wrong = [(name, why_not(frame)) for name, one in alone.items() for frame in frames(one)]
    return [f"rule {name} is not SQL over {table.target}: {why}" for name, why in wrong if why is not None]


def _measured(
    spark: SparkSession, asked: Sequence[TableRules], standings: dict[str, Standing | None], as_of: datetime | None
) -> list[Verdict]:
    """Return the verdicts of the tables, in the order given; the tables are measured in parallel."""
    accounted = [one.target for one in asked if any(isinstance(rule, Accounted) for rule in one.rules)]
    known = [one for one in silver.TABLES.declared() if one.target in accounted and standings[one.target]]

    def measure(table: TableRules) -> Measured:
        return found_in(measuring(spark.table(table.target), table).collect(), table)

    def differences(table: TableRules) -> dict[str, Difference]:
        compared = [rule for rule in table.rules if isinstance(rule, Equals)]
        return {rule.name: reconciliation.difference(spark, table.target, rule) for rule in compared}

    with ThreadPoolExecutor(max_workers=4) as pool:
        there = [one for one in asked if standings[one.target]]
        compared = {one.target: pool.submit(differences, one) for one in there}
        by_table = {one.target: result for one, result in zip(there, pool.map(measure, there), strict=True)}
        rows = {name: int(one.values["rows"]) for name, one in by_table.items()}
        accounts = reconciliation.accounts(spark, known, rows) if known else dict[str, Account]()
        found = [
            verdicts(one, by_table[one.target], as_of, accounts, compared[one.target].result())
            if one.target in by_table
            else no_table(one)
            for one in asked
        ]
    return list(chain(*found))


def _state(asked: Sequence[TableRules], standings: dict[str, Standing | None], as_of: datetime | None) -> str:
    """Return a hash of everything that the results depend on."""
    there = {name: standings[name] for name in _read(asked, as_of)}
    tables = {name: [one.table_id, one.version] if one else None for name, one in there.items()}
    fingerprints = {one.target: one.fingerprints for one in asked}
    meaning = [tables, fingerprints, as_of.isoformat() if as_of else None]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]


def _recorded(spark: SparkSession, states: Sequence[str]) -> dict[str, QualityRun]:
    """Return what earlier runs have recorded of these states; a state that none has recorded is not in it."""
    by_state: dict[str, list[Any]] = {}
    for row in spark.table(METRICS).where(F.col("state").isin(*states)).collect():
        by_state.setdefault(row["state"], []).append(row)
    names = Verdict.__dataclass_fields__
    found = {}
    for state, rows in by_state.items():
        # Two runs at the same time may both have recorded it.
        first = min(rows, key=lambda row: (row["run_time"], row["run_id"]))
        own = sorted((row for row in rows if row["run_id"] == first["run_id"]), key=lambda row: int(row["place"]))
        said = tuple(Verdict(**{name: row[name] for name in names}) for row in own)
        moment = first["as_of"]
        found[state] = QualityRun(first["run_id"], moment.astimezone(UTC) if moment else None, said, False, 0.0)
    return found


def _write(
    spark: SparkSession,
    done: dict[str, QualityRun],
    declared: Sequence[TableRules],
    standings: dict[str, Standing | None],
) -> None:
    now = datetime.now(UTC)
    (run_id,) = {one.run_id for one in done.values()}
    _write_versions(spark, run_id, declared, now)
    rows = []
    for state, part in done.items():
        known = {"run_id": run_id, "as_of": part.as_of, "run_time": now, "state": state}
        for place, one in enumerate(part.verdicts):
            table = standings[one.table_name]
            row = asdict(one) | known | {"place": place, "table_version": table.version if table else None}
            rows.append(tuple(row[name] for name in _METRICS))
    _append(spark, METRICS, _METRICS, rows)


def _write_versions(spark: SparkSession, run_id: str, declared: Sequence[TableRules], now: datetime) -> None:
    added = rules.new_versions(declared, newest_versions(spark))
    if added:
        _append(spark, VERSIONS, _VERSIONS, [(*one, run_id, now) for one in added])


def newest_versions(spark: SparkSession) -> dict[tuple[str, str], tuple[int, str | None]]:
    """Return (table, rule) to the number and the fingerprint of its newest version in ``ops.quality_rules``."""
    newest = F.max_by(F.struct("version", "fingerprint"), "version").alias("newest")
    rows = spark.table(VERSIONS).groupBy("table_name", "name").agg(newest).collect()
    return {(row["table_name"], row["name"]): tuple(row["newest"]) for row in rows}


def _append(spark: SparkSession, table: str, columns: catalog.Columns, rows: list[Any]) -> None:
    spark.createDataFrame(rows, catalog.schema_of(columns)).coalesce(1).writeTo(table).append()


def _create_tables(spark: SparkSession) -> None:
    for table, columns, comment in (
        (
            METRICS,
            _METRICS,
            "What was measured of tables, and what their rules say: a row for each run, table and metric.",
        ),
        (VERSIONS, _VERSIONS, "Every version of every quality rule, the newest last; nothing is overwritten."),
    ):
        catalog.create_table(spark, table, columns, comment)
