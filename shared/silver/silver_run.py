"""Run silver as its metadata says: in order, after what a table depends on, reading only what is new.

Each table goes the same way. Which versions of its sources are new? Which keys do their rows name? All events of these
keys, from every batch, pass the gate; from them follow the rows that the table should hold; one MERGE makes the
difference. The run log is written last. Killed anywhere before, the next run starts from the same place and ends in
the same table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import Observation
from pyspark.sql import functions as F

from shared import catalog, changes, layer, quarantine
from shared.bronze.contracts import SOURCES
from shared.errors import PipelineError
from shared.layer import LayerRun, Work
from shared.lock import one_run_at_a_time
from shared.quarantine import QUARANTINE, QUARANTINE_COLUMNS
from shared.rules import is_broken, why_not
from shared.run_log import Log, RuleResult, TableRun
from shared.settings import Settings, get_settings
from shared.silver import events, facts, gate, metadata, scd1, scd2
from shared.silver.facts import Dimension
from shared.silver.metadata import TableDefinition

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SilverWork = Work[TableDefinition]

BROADCAST_KEYS = 2_000_000
"""Up to so many keys are sent to every task, some 100 MB; beyond it both sides are shuffled."""


def run(
    spark: SparkSession,
    tables: Sequence[str] | None = None,
    full: bool = False,
    settings: Settings | None = None,
    run_id: str | None = None,
    definitions: Sequence[TableDefinition] | None = None,
    on_end: Callable[[TableRun], None] | None = None,
    log: Log | None = None,
) -> list[TableRun]:
    """Bring silver up to what bronze holds, and return what was done to each table, in processing order.

    Guarantees that the tables depend on the set of events in bronze alone: not on the order in which they came, on how
    they were cut into runs, or on runs that died. A table that fails leaves the others to run, except those that depend
    on it. Every table's run is in ``ops.run_log``.

    Args:
        spark: the session.
        tables: targets to run; defaults to all that are enabled.
        full: make the tables from everything in bronze, not only from what is new.
        settings: the home; defaults to this process's settings.
        run_id: the id to run under; defaults to a new one.
        definitions: declarations to publish first; defaults to those of ``shared/silver/tables.toml``.
        on_end: told of each table as it ends.
        log: the log of the pipeline's run that this is a part of; defaults to one of its own.

    Raises:
        MetadataError: if the metadata cannot be run; then nothing was.
        PipelineError: if another run does not end.

    Example:
        >>> for table in silver.run(shared.connect()):
        ...     print(table.table_name, table.status, table.rows_changed)
    """
    settings = settings or get_settings()
    with one_run_at_a_time(settings), nullcontext(log) if log else Log(spark) as its_log:
        known = layer.published(spark, metadata.TABLES, definitions, _require_sound)
        quarantine.create_table(spark)
        return _SilverRun(spark, known, full, its_log, run_id, on_end).run(layer.chosen(known, tables))


def reset(spark: SparkSession, table: str, settings: Settings | None = None) -> None:
    """Remove a silver table and what was set aside on the way to it; the next run rebuilds it from bronze."""
    settings = settings or get_settings()
    with one_run_at_a_time(settings):
        catalog.drop_table(spark, table, settings)
        quarantine.forget(spark, table)


def _require_sound(spark: SparkSession, known: Sequence[TableDefinition]) -> None:
    contracts = {source.bronze_table: source.column_names for source in SOURCES.values()}
    there = {
        source: spark.table(source).columns
        for source in {definition.source for definition in known}
        if catalog.table_exists(spark, source)
    }
    found = metadata.problems(known, contracts | there)
    found += [f"{one.target}: {problem}" for one in known if one.source in there for problem in _not_sql(spark, one)]
    if found:
        raise metadata.TABLES.unsound(found)


def _not_sql(spark: SparkSession, definition: TableDefinition) -> list[str]:
    """Return which rules and derived columns are not SQL over the table's columns. Spark parses; nothing is read."""
    rows = spark.table(definition.source)
    rules = [(f"rule {rule.name}", F.expr(f"CAST(({rule.expectation}) AS BOOLEAN) AS r_")) for rule in definition.rules]
    derived = [
        (f"derived column {one.name}", F.expr(f"CAST({one.expression} AS {one.type}) AS `{one.name}`"))
        for one in definition.derived_columns
    ]
    # All at once, which is one question to the engine. Only if something is wrong, one by one.
    everything = rows.select("*", *(column for _, column in rules))
    for _, column in derived:
        everything = everything.select("*", column)
    if why_not(everything) is None:
        return []
    wrong = [(what, why_not(rows.select("*", column))) for what, column in rules]
    for what, column in derived:
        extended = rows.select("*", column)
        wrong.append((what, why_not(extended)))
        rows = extended if wrong[-1][1] is None else rows
    return [f"{what} is not SQL over {definition.source}: {why}" for what, why in wrong if why is not None]


class _SilverRun(LayerRun[TableDefinition]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inferring = threading.Lock()
        """Held by a fact that adds members to a dimension: another at its side may lack the same ones."""

    def also_read(self, definition: TableDefinition) -> tuple[str, ...]:
        """Return the sources of dimensions that take inferred members: they say when a thing was first delivered."""
        return metadata.looked_into(definition, self.known)

    def _dimensions(self, work: SilverWork) -> list[Dimension]:
        dimensions = []
        for join in work.definition.dimension_joins:
            after, through = work.cursors[join.dimension], work.targets[join.dimension]
            before = None if after is None or after == through else self.snapshot(join.dimension, after)
            table = self.snapshot(join.dimension, through)
            dimensions.append(Dimension(join, self.known[join.dimension], table, before))
        return dimensions

    def make_anew(self, work: SilverWork) -> None:
        """Make the table from everything in its source.

        Most keys were delivered once, in a row that nothing is wrong with. For these there is nothing to sort, to
        compare or to set aside, so they go straight through; a first pass over few columns finds the others.
        """
        definition = work.definition
        keys = list(definition.business_keys)
        rows = self.snapshot(definition.source, work.targets[definition.source]).withColumn("is_new", F.lit(True))
        special = changes.kept(self._special_keys(work, rows))
        special = F.broadcast(special) if special.count() <= BROADCAST_KEYS else special
        once = events.events_of_single_rows(_matching(rows, special, keys, "left_anti"))
        others = changes.kept(_matching(rows, special, keys, "left_semi"))
        dimensions = self._with_arrivals(work, others)
        examined = self._examined(events.distinct_events(others), definition, dimensions)
        examined = changes.kept(events.in_question(examined, definition))
        self._count(work, examined, dimensions)
        self._set_aside(work, examined)

        desired = (
            self._desired(definition, once, single=True)
            .withColumn("is_single", F.lit(True))
            .unionByName(
                self._desired(definition, gate.accepted(examined), single=False).withColumn("is_single", F.lit(False))
            )
        )
        if definition.kind == "fact":
            unknown = F.count_if(F.col("is_unknown") & F.col("is_single")).alias("is_early")
            found = Observation()
            desired = facts.looked_up(desired, definition, dimensions, also=("is_single",))
            desired = desired.observe(found, *_lookup_counts(), unknown).select(*facts.column_order(definition))
        else:
            desired = desired.drop("is_single")
            if definition.kind == "scd2" and definition.target in self.states:
                desired = self._with_inferred(desired, definition)
        self._overwrite(work, desired)
        single = rows.count() - others.count()
        work.counts["rows_read"] += single
        work.counts["accepted"] += single
        if definition.kind == "fact":
            work.found = {name: int(value or 0) for name, value in found.get.items()}
            work.counts["is_early"] += work.found["is_early"]
            if work.counts["is_unknown"] or work.found["is_unknown"]:
                self._infer(work, [gate.accepted(examined), *self._pointing_at_nothing(work, dimensions)], dimensions)
        work.released = self._release(work, examined)

    def _pointing_at_nothing(self, work: SilverWork, dimensions: list[Dimension]) -> list[DataFrame]:
        """Return the facts of the table that carry the key of an inferred member, if there are any."""
        if not work.found["is_unknown"]:
            return []
        carries_one = F.lit(False)
        for dimension in (one for one in dimensions if one.join.unknown == "infer"):
            name = str(dimension.definition.surrogate_key)
            carries_one |= F.col(name) == scd2.inferred_key(F.col(dimension.join.key))
        return [self.spark.table(work.definition.target).where(carries_one)]

    def _special_keys(self, work: SilverWork, rows: DataFrame) -> DataFrame:
        """Return the keys that have several rows, or one that breaks a rule or came before what it refers to."""
        definition = work.definition
        is_special = F.lit(False)
        for rule in definition.gate:
            is_special |= is_broken(rule)
        for number, join in enumerate(definition.dimension_joins):
            dimension = self.known[join.dimension]
            (key,) = dimension.business_keys
            if join.unknown == "quarantine":
                known = self.snapshot(join.dimension, work.targets[join.dimension]).select(
                    F.col(key).alias(f"known_{number}")
                )
                rows = rows.join(F.broadcast(known), F.col(join.key) == F.col(f"known_{number}"), "left")
                is_special |= F.col(f"known_{number}").isNull()
            else:
                late = changes.kept(self._delivered_late(work, rows, dimension, number))
                if late.isEmpty():
                    continue
                rows = rows.join(F.broadcast(late), F.col(join.key) == F.col(f"late_{number}"), "left")
                is_special |= F.coalesce(F.col(f"since_{number}") > F.col("ingested_at"), F.lit(False))
        return (
            rows.groupBy(*definition.business_keys)
            .agg(F.count(F.lit(1)).alias("rows"), F.max(is_special).alias("is_special"))
            .where("rows > 1 OR is_special")
            .select(*definition.business_keys)
        )

    def _delivered_late(self, work: SilverWork, rows: DataFrame, dimension: TableDefinition, number: int) -> DataFrame:
        """Return the few keys of a dimension that its source first delivered after the first of these rows came."""
        (key,) = dimension.business_keys
        since = F.min("ingested_at")
        first = rows.agg(since.alias("first")).first()
        assert first is not None
        return (
            self.snapshot(dimension.source, work.targets[dimension.source])
            .groupBy(F.col(key).alias(f"late_{number}"))
            .agg(since.alias(f"since_{number}"))
            .where(F.col(f"since_{number}") > F.lit(first["first"]))
        )

    def _count(self, work: SilverWork, examined: DataFrame, dimensions: list[Dimension]) -> None:
        """Account for every new row, and stop the table if a rule says so."""
        found = examined.agg(*self._counters(work.definition, dimensions)).first()
        assert found is not None
        work.counts = {name: int(value or 0) for name, value in found.asDict().items()}
        self._stop_if_broken(work, examined)

    def _desired(self, definition: TableDefinition, accepted: DataFrame, single: bool) -> DataFrame:
        if definition.kind == "scd2":
            return (scd2.versions_of_single_events if single else scd2.versions)(accepted, definition)
        return (scd1.newest_of_single_events if single else scd1.newest)(accepted, definition)

    def make_changes(self, work: SilverWork) -> None:
        """Bring the table up to what its sources hold now, by way of the keys that the new rows touch."""
        definition = work.definition
        keys = list(definition.business_keys)
        cursor, version = work.cursors[definition.source], work.targets[definition.source]
        new = self._feed(definition.source, cursor, version)
        touched = [new.select(*keys, F.lit(False).alias("is_releasable"))] if new is not None else []
        touched += self._to_look_up_again(work)
        every = touched[0]
        for more in touched[1:]:
            every = every.unionByName(more)
        touched_keys = changes.kept(every.groupBy(*keys).agg(F.some("is_releasable").alias("is_releasable")))
        bounds = touched_keys.agg(
            F.min(keys[0]).alias("low"),
            F.max(keys[0]).alias("high"),
            F.count(F.lit(1)).alias("keys"),
            F.count_if("is_releasable").alias("releasable"),
        ).first()
        assert bounds is not None
        if bounds["keys"] == 0:
            return
        stretches = changes.spans(touched_keys, keys[0], (bounds["low"], bounds["high"]), bounds["keys"])
        within = changes.within(keys[0], stretches)
        touched_now = touched_keys.select(*keys)
        touched_now = F.broadcast(touched_now) if bounds["keys"] <= BROADCAST_KEYS else touched_now
        seen = self.snapshot(definition.source, cursor).where(f"{within} OR {keys[0]} IS NULL")
        rows = _matching(seen, touched_now, keys, "left_semi").withColumn("is_new", F.lit(False))
        if new is not None:
            # A column may have come to the source since.
            rows = rows.unionByName(new.withColumn("is_new", F.lit(True)), allowMissingColumns=True)
        if definition.dimension_joins:
            # Read twice: for what they say, and for what they name.
            rows = changes.kept(rows)
        dimensions = self._with_arrivals(work, rows)
        examined = self._examined(events.distinct_events(rows), definition, dimensions)
        examined = changes.kept(events.in_question(examined, definition))
        self._count(work, examined, dimensions)
        self._set_aside(work, examined)
        accepted = gate.accepted(examined)
        if work.counts["is_unknown"]:
            self._infer(work, [accepted], dimensions)
            dimensions = self._dimensions(work)
        self._merge_desired(work, accepted, touched_now, within, dimensions)
        if bounds["releasable"]:
            self._release(work, examined, touched_keys.where("is_releasable"))
        # Not what was marked just now: a run that died may have marked it, and only this one will be in the log.
        work.released = work.counts["released"]

    def _merge_desired(
        self, work: SilverWork, accepted: DataFrame, touched: DataFrame, within: str, dimensions: list[Dimension]
    ) -> None:
        definition = work.definition
        keys = list(definition.business_keys)
        current = self.spark.table(definition.target).where(within).join(touched, keys, "left_semi")
        desired = self._desired(definition, accepted, single=False)
        identity = [*keys, "start_date"] if definition.kind == "scd2" else keys
        flags: tuple[str, ...] = ()
        if definition.kind == "scd2":
            desired = self._with_inferred(desired, definition, current)
        if definition.kind == "fact":
            desired = facts.looked_up(desired, definition, dimensions, among=accepted)
            flags = facts.FLAGS
        differing = changes.kept(changes.differences(desired, current, identity, flags))

        def before() -> None:
            if not self.is_small:
                _mark_rows(self.spark, definition.target)

        work.changed, work.found = changes.merge(self.spark, definition.target, differing, identity, flags, before)

    # Pieces of the work.

    def _feed(self, table: str, after: int | None, through: int) -> DataFrame | None:
        """Return the rows that a bronze table got after one version through another, or None if there is none."""
        if after == through:
            return None
        feed = self.change_feed(table, after, through)
        # A copy of a row that OPTIMIZE moved is not in the feed; a bronze row is never updated or deleted.
        return feed.drop(*changes.FEED_COLUMNS)

    def _with_arrivals(self, work: SilverWork, rows: DataFrame) -> list[Dimension]:
        """Return the dimensions; those that take inferred members with what is known of each key that rows name."""
        prepared = []
        for dimension in self._dimensions(work):
            if dimension.join.unknown == "infer":
                key = dimension.key
                named = rows.select(F.col(dimension.join.key).alias(key)).distinct()
                source = dimension.definition.source
                delivered = self.snapshot(source, work.targets[source]).select(key, "ingested_at")
                members = dimension.table.select(key, F.lit(True).alias("has_member"))
                known = (
                    delivered.unionByName(members, allowMissingColumns=True)
                    .join(F.broadcast(named), key, "left_semi")
                    .groupBy(key)
                    .agg(F.min("ingested_at").alias("known_since"), F.some("has_member").alias("has_member"))
                )
                dimension = replace(dimension, known=known)
            prepared.append(dimension)
        return prepared

    def _examined(self, rows: DataFrame, definition: TableDefinition, dimensions: list[Dimension]) -> DataFrame:
        examined = facts.without_unknown(gate.examined(rows, definition), dimensions)
        examined = facts.early(examined, dimensions)
        return examined.withColumn("is_tied", F.lit(False)).withColumn("is_late", F.lit(False))

    def _counters(self, definition: TableDefinition, dimensions: list[Dimension]) -> list[Any]:
        barring = [one.join for one in dimensions if one.join.unknown == "quarantine"]
        passed = F.col("broken_rule").isNull()
        was_accepted = ~F.col("is_new") & ~F.col("was_broken")
        return [
            *gate.counts(definition, tuple(join.known_rule for join in barring)),
            F.count_if(~passed).alias("broken"),
            F.count_if(passed & ~F.col("is_new") & F.col("was_broken")).alias("released"),
            F.count_if(was_accepted).alias("was_accepted"),
            *(
                F.count_if(was_accepted & (F.col("broken_rule") == join.known_rule)).alias(join.still_known_rule)
                for join in barring
            ),
            *(F.count_if(passed & F.col(name)).alias(name) for name in ("is_tied", "is_late")),
            F.count_if(passed & F.col("is_early") & F.col("is_new")).alias("is_early"),
            F.count_if(passed & F.col("is_unknown")).alias("is_unknown"),
        ]

    def _stop_if_broken(self, work: SilverWork, examined: DataFrame) -> None:
        """Stop the table if a rule says ``expect_or_fail`` and a new event breaks it."""
        broken = [rule.name for rule in work.definition.gate if rule.severity == "fail" and work.counts[rule.name]]
        if not broken:
            return
        found = examined.where(F.col("broken_rule").isin(broken) & F.col("is_new"))
        example = found.select("broken_rule", "reason", "source_file").orderBy("source_file", "reason").first()
        assert example is not None
        raise PipelineError(
            f"{work.definition.target}: rule {example.broken_rule} is broken in {example.source_file}: "
            f"{example.reason}. Nothing was written.",
            "correct the source, or make the rule expect_or_quarantine",
        )

    def _set_aside(self, work: SilverWork, examined: DataFrame) -> None:
        """Add to the quarantine the events that break a rule, before the table does without them.

        Old ones too: one that was accepted breaks a rule now if a dimension has lost what it names.
        """
        if not work.counts["broken"]:
            return
        aside = gate.quarantined(examined, work.definition, self.run_id)
        # What an earlier run has left here, also one that died after this step, is set aside already.
        fresh = aside.join(self._aside(work).select(*_ASIDE), list(_ASIDE), "left_anti")
        fresh.select(*QUARANTINE_COLUMNS).coalesce(1).writeTo(QUARANTINE).append()

    def _release(self, work: SilverWork, examined: DataFrame, keys: DataFrame | None = None) -> int:
        """Mark what was set aside and is accepted now as released by this run; return how many rows that were.

        After the table has them: if they were marked before, a run that died in between would leave them in neither.

        Args:
            work: the table's turn.
            examined: the examined events, among them all of these keys.
            keys: the business keys whose rows may be released; None for those of the whole table.
        """
        aside, broken = self._aside(work), gate.quarantined(examined, work.definition, self.run_id)
        if keys is not None:
            aside = aside.join(
                keys.select(gate.business_key(work.definition).alias("business_key")), "business_key", "left_semi"
            )
        accepted = changes.kept(aside.join(broken.select(*_ASIDE), list(_ASIDE), "left_anti").select(*_ASIDE))
        released: int = accepted.count()
        if released:
            same = " AND ".join(f"q.{name} = a.{name}" for name in _ASIDE)
            self.spark.sql(
                f"MERGE INTO {QUARANTINE} AS q USING {{accepted}} AS a "
                f"ON q.table_name = {catalog.sql_literal(work.definition.target)} AND {same} "
                f"WHEN MATCHED AND q.released_by IS NULL THEN UPDATE SET q.released_by = '{self.run_id}'",
                accepted=accepted,
            )
        return released

    def _aside(self, work: SilverWork) -> DataFrame:
        """Return what is set aside now of the table's rows."""
        is_its = F.col("table_name") == work.definition.target
        return self.spark.table(QUARANTINE).where(is_its & F.col("released_by").isNull())

    def _with_inferred(
        self, desired: DataFrame, definition: TableDefinition, current: DataFrame | None = None
    ) -> DataFrame:
        """Add the inferred members that still wait for their thing to be delivered."""
        keys = list(definition.business_keys)
        if len(keys) > 1:
            return desired  # a fact names a thing by one key, so none was ever inferred
        if current is not None:
            return desired.unionByName(current.where("is_inferred").join(desired.select(*keys), keys, "left_anti"))
        # As it was: the table may be about to be replaced, by one with other columns.
        there = self.snapshot(definition.target, self.states[definition.target].version)
        waiting = there.where("is_inferred").select(*keys).join(desired.select(*keys), keys, "left_anti")
        return desired.unionByName(scd2.inferred_members(waiting, desired, definition))

    def _infer(self, work: SilverWork, mentioned_in: list[DataFrame], dimensions: list[Dimension]) -> None:
        """Give each key that an accepted event names and its dimension lacks an inferred member.

        Of all events and not only of the facts as they are now: an event that another one has superseded was
        superseded later on another day, or on the same, and the dimension must not depend on which.
        """
        for dimension in (one for one in dimensions if one.join.unknown == "infer"):
            with self.inferring:
                name, key = dimension.join.dimension, dimension.key
                there = self.spark.table(name)
                named = [rows.select(F.col(dimension.join.key).alias(key)).dropna() for rows in mentioned_in]
                keys = named[0]
                for more in named[1:]:
                    keys = keys.unionByName(more)
                missing = changes.kept(keys.distinct().join(there.select(key), key, "left_anti"))
                if missing.isEmpty():
                    continue
                inferred = scd2.inferred_members(missing, there, dimension.definition).coalesce(1)
                # After the dimension's own turn: noted, also where a session cannot be told to note everything.
                inferred.writeTo(name).option("userMetadata", self.note).append()
                version = catalog.version(self.spark, name)
                self.states[name] = replace(self.states[name], version=version)
                work.reads = [replace(read, to_version=version) if read.table == name else read for read in work.reads]

    def _to_look_up_again(self, work: SilverWork) -> list[DataFrame]:
        """Return the keys of facts that may find something else now than they did, and which may have to be released.

        If a dimension may lack what a fact names, also the keys of all events that name what came to it or left it:
        the fact as it is tells its newest event alone, and none if that was set aside.
        """
        definition = work.definition
        fact = self.spark.table(definition.target) if definition.dimension_joins else None
        found = []
        for dimension in self._dimensions(work):
            join, name = dimension.join, dimension.join.dimension
            after, through = work.cursors[name], work.targets[name]
            if after == through or fact is None:
                continue
            feed = self.change_feed(name, after, through)
            if join.as_of:
                moved = facts.moved_boundaries(feed, dimension.table, dimension.definition, join.take)
            else:
                moved = facts.changed_values(feed, dimension.definition, join.take)
            moved = F.broadcast(moved.withColumnRenamed(dimension.key, "moved_key"))
            is_theirs = F.col(join.key) == F.col("moved_key")
            if join.as_of:
                since = F.col("touched_from")
                is_theirs &= since.isNull() | (F.col(join.as_of) >= since)
            again = fact.join(moved, is_theirs, "left_semi")
            found.append(again.select(*definition.business_keys, F.lit(False).alias("is_releasable")))
            if join.unknown == "quarantine":
                came = feed.where("_change_type = 'insert'").select(dimension.key)
                naming = [_naming(came, dimension, self._ever_aside(definition, dimension))]
                gone = feed.where("_change_type = 'delete'").select(dimension.key)
                # Asked first, since it is rare: which events name such a key is found only by looking at all of them.
                if not gone.isEmpty():
                    left = gone.distinct().join(dimension.table, dimension.key, "left_anti")
                    seen = self.snapshot(definition.source, work.cursors[definition.source])
                    naming.append(_naming(left, dimension, seen))
                found += [rows.select(*definition.business_keys, F.lit(True).alias("is_releasable")) for rows in naming]
        return found

    def _ever_aside(self, definition: TableDefinition, dimension: Dimension) -> DataFrame:
        """Return the rows that were set aside because a dimension lacked what they name: business and join keys.

        Released ones too: if the run that released one died, it counts as waiting until a run is in the log.
        """
        schema = self.spark.table(definition.source).select(*definition.business_keys, dimension.join.key).schema
        aside = self.spark.table(QUARANTINE).where(
            (F.col("table_name") == definition.target) & (F.col("rule") == dimension.join.known_rule)
        )
        return aside.select(F.from_json("row_json", schema).alias("row")).select("row.*")

    def _overwrite(self, work: SilverWork, desired: DataFrame) -> None:
        definition = work.definition
        stands = definition.target in self.states
        if stands and self.has_columns_of(definition.target, desired):
            desired.writeTo(definition.target).overwrite(F.lit(True))
        else:
            _create(self.spark, definition, desired, replace_it=stands, is_small=self.is_small)
            desired.writeTo(definition.target).append()
        work.changed = self.counted(definition.target)

    def rule_results(self, work: SilverWork) -> tuple[RuleResult, ...]:
        definition, counts = work.definition, work.counts
        checked = counts["accepted"] + counts["quarantined"]
        results = [RuleResult(rule.name, rule.severity, checked, counts[rule.name]) for rule in definition.gate]
        for join in definition.dimension_joins:
            name = join.known_rule
            if join.unknown == "infer":
                results.append(RuleResult(name, "warn", checked, counts["is_early"]))
            else:
                results.append(RuleResult(name, "quarantine", checked, counts[name]))
                if lost := counts[join.still_known_rule]:
                    results.append(RuleResult(join.still_known_rule, "info", counts["was_accepted"], lost))
            if join.as_of:
                found = work.found
                results.append(RuleResult(f"{join.key}_had_begun_at_{join.as_of}", "info", checked, found["is_before"]))
                results.append(RuleResult(f"{join.key}_was_open_at_{join.as_of}", "info", checked, found["is_in_gap"]))
        results += [
            RuleResult("row_is_not_a_duplicate", "info", counts["rows_read"], counts["duplicates"]),
            RuleResult(f"{definition.sequence_column}_is_not_tied", "info", checked, counts["is_tied"]),
            RuleResult(f"{definition.sequence_column}_is_in_order", "info", checked, counts["is_late"]),
        ]
        return tuple(results)


_ASIDE = ("rule", "row_json")
"""What names a row of a table's quarantine."""


def _naming(some_keys: DataFrame, dimension: Dimension, rows: DataFrame) -> DataFrame:
    """Return those of a fact's rows that name one of these keys of a dimension."""
    some_keys = some_keys.withColumnRenamed(dimension.key, "named_key")
    return rows.join(F.broadcast(some_keys), F.col(dimension.join.key) == F.col("named_key"), "left_semi")


def _lookup_counts() -> list[Column]:
    return [F.count_if(name).alias(name) for name in facts.FLAGS]


def _matching(rows: DataFrame, some_keys: DataFrame, keys: list[str], how: str) -> DataFrame:
    """Join by keys of which NULL equals NULL, so that rows without a key are not lost on the way."""
    theirs = some_keys.toDF(*(f"their_{key}" for key in keys))
    return rows.join(theirs, [F.col(key).eqNullSafe(F.col(f"their_{key}")) for key in keys], how)


def _create(
    spark: SparkSession, definition: TableDefinition, rows: DataFrame, replace_it: bool, is_small: bool
) -> None:
    """Make the target with the columns of these rows, and a comment on each."""
    its_own_last = sorted(SOURCES.values(), key=lambda source: source.bronze_table == definition.source)
    comments = {column.name: column.comment for source in its_own_last for column in source.columns}
    comments |= {derived.name: derived.comment for derived in definition.derived_columns}
    comments |= _VERSION_COMMENTS if definition.kind == "scd2" else {}
    if definition.surrogate_key:
        comments[definition.surrogate_key] = "key of the version, computed from business key and start_date"
    for join in definition.dimension_joins:
        comments |= {
            name: f"of {join.dimension}" + (f", as of {join.as_of}" if join.as_of else "") for name in join.take
        }
    catalog.create_table(
        spark,
        definition.target,
        {field.name: (field.dataType.simpleString(), comments.get(field.name, "")) for field in rows.schema.fields},
        definition.comment,
        properties={
            "delta.enableChangeDataFeed": "true",
            _MARKS_ROWS: str(not is_small).lower(),
            # A quarter of the time to write a table goes into statistics that no query asks for.
            "delta.dataSkippingStatsColumns": ",".join(_looked_up_by(definition, rows.columns)),
        },
        replace=replace_it,
    )


_MARKS_ROWS = "delta.enableDeletionVectors"
"""Whether a MERGE marks the rows that it replaces and writes new ones, instead of every file that holds one. For a
table of millions of rows it is a fifth of the work; for a small one, two Spark jobs more. Not all readers know it."""


def _mark_rows(spark: SparkSession, table: str) -> None:
    """Let the MERGEs of a table mark rows from now on: it was made when it was small."""
    (shown,) = spark.sql(f"SHOW TBLPROPERTIES {table} ('{_MARKS_ROWS}')").collect()
    if shown["value"] != "true":
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('{_MARKS_ROWS}' = 'true')")


def _looked_up_by(definition: TableDefinition, columns: list[str]) -> list[str]:
    """Return the columns by which rows are found: keys, what is joined on, and instants."""
    instants = [name for name in columns if name.endswith(("_date", "_ts", "_at"))]
    joined = [join.key for join in definition.dimension_joins]
    return list(dict.fromkeys((*definition.business_keys, *joined, *instants)))


_VERSION_COMMENTS = {
    "start_date": "first instant of the version, included, UTC",
    "end_date": "first instant after it; NULL while it is open",
    "is_current": "end_date IS NULL",
    "is_inferred": "made from a fact, before the thing itself was delivered",
}
