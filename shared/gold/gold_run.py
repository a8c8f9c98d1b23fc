"""Run gold as its metadata says: recompute the groups that a change touched, and only those.

The cursor is the version of the source up to which a table has been computed. Later changes are in the source's change
data feed, and the feed names the touched groups. Each of these is recomputed from a snapshot of the source and compared
with what the table holds; one MERGE applies the difference. A group that has no rows any more is deleted. A business
date cannot be the cursor: an order of March that is cancelled in May changes a row of March.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared import catalog, changes, layer
from shared.errors import PipelineError
from shared.gold import aggregates, metadata
from shared.gold.metadata import GoldDefinition
from shared.layer import LayerRun, Work
from shared.lock import one_run_at_a_time
from shared.rules import is_broken, reason_for, why_not
from shared.run_log import Log, RuleResult, TableRun
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from shared.control_table import Rule

GoldWork = Work[GoldDefinition]


def run(
    spark: SparkSession,
    tables: Sequence[str] | None = None,
    full: bool = False,
    settings: Settings | None = None,
    run_id: str | None = None,
    definitions: Sequence[GoldDefinition] | None = None,
    on_end: Callable[[TableRun], None] | None = None,
    log: Log | None = None,
) -> list[TableRun]:
    """Bring gold up to what silver holds, and return what was done to each table, in processing order.

    Guarantees that a table holds what a full recompute would give, also after changed, late or deleted rows; that a run
    without a difference makes no version; that a run that was killed leaves nothing half done. If a table fails, the
    others still run. Every table's run is in ``ops.run_log``.

    Args:
        spark: the session.
        tables: targets to run; defaults to all that are enabled.
        full: compute every group, not only the touched ones.
        settings: the home; defaults to this process's settings.
        run_id: the id to run under; defaults to a new one.
        definitions: declarations to publish first; defaults to those of ``shared/gold/tables.toml``.
        on_end: called with each table as it ends.
        log: the log of the pipeline run that this run is part of; defaults to a new one.

    Raises:
        MetadataError: if the metadata is wrong; then nothing is run.
        PipelineError: if another run does not end in time.

    Example:
        >>> for table in gold.run(shared.connect()):
        ...     print(table.table_name, table.status, table.rows_changed)
    """
    settings = settings or get_settings()
    with one_run_at_a_time(settings), nullcontext(log) if log else Log(spark) as its_log:
        known = layer.published(spark, metadata.TABLES, definitions, _require_sound)
        return _GoldRun(spark, known, full, its_log, run_id, on_end).run(layer.chosen(known, tables))


def reset(spark: SparkSession, table: str, settings: Settings | None = None) -> None:
    """Remove a gold table; the next run rebuilds it from silver."""
    settings = settings or get_settings()
    with one_run_at_a_time(settings):
        catalog.drop_table(spark, table, settings)


def _require_sound(spark: SparkSession, known: Sequence[GoldDefinition]) -> None:
    below = catalog.tables(spark, ("bronze", "silver"))
    there = {source: spark.table(source).columns for source in {one.source for one in known} if source in below}
    # A source that does not exist yet is not a mistake in the metadata: its table is skipped, and the run says why.
    missing = [name for one in known for name in (one.source, *one.depends_on) if name not in below]
    ready = [one for one in known if one.source in there]
    found = metadata.problems(ready, there, [*below, *dict.fromkeys(missing), *(one.target for one in known)])
    found += [f"{one.target}: {problem}" for one in ready for problem in _not_sql(spark, one)]
    if found:
        raise metadata.TABLES.unsound(found)


def _not_sql(spark: SparkSession, definition: GoldDefinition) -> list[str]:
    """Return which expressions are not SQL over the source's columns. Spark parses; nothing is read."""
    rows = spark.table(definition.source)
    if any(name not in rows.columns for name in definition.group_by):
        return []  # reported already
    grouped = rows.groupBy(*definition.group_by)
    # Selected, not filtered by: a filter has the schema of its input, so pyspark would not ask the engine.
    asked = [("where", rows.select(F.expr(f"CAST(({definition.where}) AS BOOLEAN)")))]
    asked += [
        (f"rule {rule.name}", rows.select(F.expr(f"CAST(({rule.expectation}) AS BOOLEAN)"))) for rule in definition.gate
    ]
    asked += [
        (f"measure {one.name}", grouped.agg(F.expr(f"CAST({one.expression} AS {one.type})").alias(one.name)))
        for one in definition.measures
    ]
    # All in one request to the engine. Only if something is wrong, one by one.
    checked = rows.where(definition.where)
    for rule in definition.gate:
        checked = checked.where(rule.expectation)
    if why_not(aggregates.finished(aggregates.measured(checked, definition), definition)) is None:
        return []
    wrong = [(what, why_not(frame)) for what, frame in asked]
    told = [f"{what} is not SQL over {definition.source}: {why}" for what, why in wrong if why is not None]
    if told:
        return told
    return [f"bands or rank: {why_not(aggregates.finished(aggregates.measured(rows, definition), definition))}"]


class _GoldRun(LayerRun[GoldDefinition]):
    def why_anew(self, definition: GoldDefinition) -> str:
        return "its cursor is none" if definition.cursor == "none" else ""

    def make_anew(self, work: GoldWork) -> None:
        definition = work.definition
        rows = self.snapshot(definition.source, work.targets[definition.source])
        self._check(work, rows.withColumn("came", F.lit(1)).withColumn("difference", F.lit(1)))
        desired = aggregates.finished(aggregates.measured(rows, definition), definition)
        if definition.target in self.states and self.has_columns_of(definition.target, desired):
            self._merge(work, desired, self.spark.table(definition.target))
            return
        _create(self.spark, definition, desired, replace=definition.target in self.states)
        desired.coalesce(1).writeTo(definition.target).append()
        work.changed = self.counted(definition.target)

    def make_changes(self, work: GoldWork) -> None:
        definition = work.definition
        groups = list(definition.group_by)
        source, through = definition.source, work.targets[definition.source]
        feed = self.change_feed(source, work.cursors[source], through)
        self._check(work, changes.net(feed))
        touched = changes.kept(aggregates.touched_groups(feed, definition))
        bounds = touched.agg(F.min(groups[0]).alias("low"), F.max(groups[0]).alias("high")).first()
        assert bounds is not None
        if bounds["low"] is None:
            return
        within = changes.between(f"`{groups[0]}`", bounds["low"], bounds["high"])
        touched = F.broadcast(touched)
        rows = self.snapshot(source, through).where(within).join(touched, groups, "left_semi")
        desired = aggregates.measured(rows, definition)
        current = self.spark.table(definition.target).where(within).join(touched, groups, "left_semi")
        if definition.rank:
            desired, current = self._whole_partitions(definition, desired, current, touched)
        self._merge(work, aggregates.finished(desired, definition), current)

    def _whole_partitions(
        self, definition: GoldDefinition, desired: DataFrame, current: DataFrame, touched: DataFrame
    ) -> tuple[DataFrame, DataFrame]:
        """Extend both to all groups of every partition in which a touched group was or is: other ranks may change."""
        assert definition.rank is not None
        within = list(definition.rank.within)
        desired = changes.kept(desired)
        table = self.spark.table(definition.target)
        if within:
            partitions = F.broadcast(desired.select(*within).unionByName(current.select(*within)).distinct())
            table = table.join(partitions, within, "left_semi")
        untouched = table.join(touched, list(definition.group_by), "left_anti")
        return desired.unionByName(untouched.select(*desired.columns)), table

    def _merge(self, work: GoldWork, desired: DataFrame, current: DataFrame) -> None:
        identity = list(work.definition.group_by)
        differing = changes.kept(changes.differences(desired, current.select(*desired.columns), identity))
        work.changed, _ = changes.merge(self.spark, work.definition.target, differing, identity)

    def _check(self, work: GoldWork, rows: DataFrame) -> None:
        """Check the rules on added rows that are still there; stop the table if one of severity ``fail`` is broken."""
        gate = work.definition.gate
        there = F.col("difference") > 0
        counted = rows.agg(
            F.sum("came").alias("rows_read"),
            *(F.count_if(there & _breaks(rule, work.definition)).alias(rule.name) for rule in gate),
        ).first()
        assert counted is not None
        work.counts = {name: int(value or 0) for name, value in counted.asDict().items()}
        work.counts["accepted"] = work.counts["rows_read"]
        for rule in gate:
            count = work.counts[rule.name]
            if rule.severity == "fail" and count:
                key, *_ = rows.columns
                why = reason_for(rule, rows).alias("why")
                broken = rows.where(there & _breaks(rule, work.definition)).select(F.col(key).alias("key"), why)
                example = broken.orderBy("key").first()
                assert example is not None
                broken_by = f"{count:,} {'row' if count == 1 else 'rows'} of {work.definition.source}"
                raise PipelineError(
                    f"{work.definition.target}: rule {rule.name} is broken by {broken_by}, as "
                    f"{key} = {example['key']}: {example['why']}. Nothing was written.",
                    "correct the source, or make the rule expect",
                )

    def rule_results(self, work: GoldWork) -> tuple[RuleResult, ...]:
        checked = work.counts["rows_read"]
        return tuple(
            RuleResult(rule.name, rule.severity, checked, work.counts[rule.name]) for rule in work.definition.gate
        )


def _breaks(rule: Rule, definition: GoldDefinition) -> Column:
    """Return whether a row breaks a rule. Key rules ignore a row that does not count, since it is in no group."""
    broken = is_broken(rule)
    return broken & F.coalesce(F.expr(definition.where), F.lit(False)) if rule in definition.key_rules else broken


def _create(spark: SparkSession, definition: GoldDefinition, rows: DataFrame, replace: bool) -> None:
    comments = {measure.name: measure.comment for measure in definition.measures}
    comments |= {part.column: part.comment for part in (definition.bands, definition.rank) if part}
    source = {one.name: one.metadata.get("comment", "") for one in spark.table(definition.source).schema}
    catalog.create_table(
        spark,
        definition.target,
        {
            one.name: (one.dataType.simpleString(), comments.get(one.name) or source.get(one.name, ""))
            for one in rows.schema
        },
        definition.comment,
        replace=replace,
    )
