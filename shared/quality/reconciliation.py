"""Reconciliation: compare a table with the layer below, by the laws of the data model that concern two layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from shared.quality.rules import Equals
from shared.quarantine import QUARANTINE
from shared.run_log import QUALITY_RESULTS, RUN_LOG
from shared.silver.metadata import TableDefinition

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# --- Silver against bronze: every row accounted for (law 2) ----------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """What became of the rows of a silver table's source, over all runs since the table was last rebuilt."""

    table: str
    delivered: int
    """Rows in the source."""
    has_run: bool = True
    read: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicate: int = 0
    released: int = 0
    """Rows of the quarantine that were accepted after all."""
    lost: int = 0
    """Rows that were accepted, and set aside when a dimension lost their key."""
    aside: int = 0
    """Rows that are in the quarantine now."""

    @property
    def held(self) -> int:
        """Rows that should be in the quarantine now."""
        return self.quarantined - self.released + self.lost

    @property
    def parts(self) -> int:
        """Rows whose fate is known."""
        return self.accepted + self.quarantined + self.duplicate

    @property
    def unaccounted(self) -> int:
        """How many rows are too many or too few, at the first place where the account does not add up; 0 if it does."""
        if not self.has_run:
            return max(self.delivered, 1)
        if self.read != self.delivered:
            return abs(self.read - self.delivered)
        return abs(self.parts - self.read) or abs(self.aside - self.held)

    @property
    def problem(self) -> str:
        """Where the account does not add up, as a sentence; empty if it does."""
        if not self.has_run:
            return f"{self.table} has never run"
        if self.read != self.delivered:
            return f"{self.table}: {self.read:,} of {self.delivered:,} rows read"
        if self.parts != self.read:
            return f"{self.table}: {self.read:,} rows read, {self.parts:,} accounted for"
        if self.aside != self.held:
            return f"{self.table}: {self.aside:,} rows in {QUARANTINE}, {self.held:,} set aside"
        return ""


def accounts(
    spark: SparkSession, definitions: Sequence[TableDefinition], rows: Mapping[str, int] | None = None
) -> dict[str, Account]:
    """Return the account of each of these silver tables, by name. Law 2: each has no problem.

    Args:
        spark: the session.
        definitions: the tables.
        rows: the number of rows of tables, as far as it is known; other tables are counted.
    """
    counts = rows or {}
    counted = ("read", "accepted", "quarantined", "duplicate", "released")
    is_later = F.col("started_at") > F.col("since")
    # What the rebuilding run released was set aside by earlier runs, which are not in the account.
    later = {"released": F.when(is_later, F.col("rows_released")).otherwise(0)}
    sums = [F.sum(later.get(name, F.col(f"rows_{name}"))).alias(name) for name in counted]
    by_table = _runs_that_made_it(spark).groupBy("table_name").agg(*sums)
    aside = spark.table(QUARANTINE).where("released_by IS NULL").groupBy("table_name").agg(F.count("*").alias("aside"))
    joined = by_table.join(aside, "table_name", "left").na.fill(0, ["aside"]).collect()
    logged = {row["table_name"]: {name: int(row[name]) for name in (*counted, "aside")} for row in joined}
    failed = failures_by_rule(spark) if any(one.dimension_joins for one in definitions) else {}
    found = {}
    for one in definitions:
        delivered = counts[one.source] if one.source in counts else spark.table(one.source).count()
        lost = sum(failed.get((one.target, join.still_known_rule), 0) for join in one.dimension_joins)
        known = logged.get(one.target)
        found[one.target] = Account(one.target, delivered, known is not None, lost=lost, **(known or {}))
    return found


def failures_by_rule(spark: SparkSession) -> dict[tuple[str, str], int]:
    """Return (table, rule) to the rows that broke the rule, over the same runs as :func:`accounts`."""
    runs = _runs_that_made_it(spark).select("run_id", "table_name")
    results = spark.table(QUALITY_RESULTS).join(runs, ["run_id", "table_name"])
    rows = results.groupBy("table_name", "rule").agg(F.sum("rows_failed").alias("rows_failed")).collect()
    return {(row.table_name, row.rule): int(row.rows_failed) for row in rows}


def _runs_that_made_it(spark: SparkSession) -> DataFrame:
    good: DataFrame = spark.table(RUN_LOG).where("status = 'succeeded'")
    rebuilt_at = F.when(F.get("reads", F.lit(0))["from_version"].isNull(), F.col("started_at"))
    since = good.groupBy("table_name").agg(F.max(rebuilt_at).alias("since"))
    return good.join(since, "table_name").where("started_at >= since")


# --- Gold against silver: every group, to the cent (law 3) -----------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How the groups of a table differ from those of another table."""

    groups: int
    differing: int
    example: str | None = None
    """The least of the groups that differ, as JSON."""


def comparing(there: DataFrame, source: DataFrame, rule: Equals) -> DataFrame:
    """Return one row ``groups, differing, example``: the groups of a table against those of its source.

    Both sides are counted in one table and nothing is joined, so a group whose key is NULL is compared like any other.

    Args:
        there: the table.
        source: the rows of the layer below.
        rule: the groups and their measures.
    """
    columns = [*rule.by, *rule.measures]
    kinds = {field.name: field.dataType for field in there.schema.fields}
    measures = [F.expr(measure).cast(kinds[name]).alias(name) for name, measure in rule.measures.items()]
    said = source.where(rule.where).groupBy(*rule.by).agg(*measures)
    sides = there.select(*columns, F.lit(1).alias("side")).unionByName(
        said.select(*columns, F.lit(-1).alias("side")),
    )
    group = F.struct(*rule.by)
    rows = sides.groupBy(*columns).agg(F.sum("side").alias("surplus"))
    differs = F.col("surplus") != 0
    return rows.agg(
        F.count_distinct(group).alias("groups"),
        F.count_distinct(F.when(differs, group)).alias("differing"),
        F.min(F.when(differs, F.to_json(group, {"ignoreNullFields": "false"}))).alias("example"),
    )


def difference(spark: SparkSession, target: str, rule: Equals) -> Difference:
    """Return how a table compares with its source now. Law 3: no group differs."""
    row = comparing(spark.table(target), spark.table(rule.source), rule).first()
    assert row is not None
    return Difference(row["groups"], row["differing"], row["example"])
