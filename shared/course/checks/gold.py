"""Days 7 to 9: what stands in gold, and that it is neither more nor less than what silver holds."""

from __future__ import annotations

from decimal import Decimal

from pyspark.sql import functions as F

from shared import quality
from shared.course.checks.registry import Context, Finding, as_declared, check, finding, numbers
from shared.gold import aggregates, metadata
from shared.pipeline import LAYERS, LIMIT_MINUTES
from shared.quality import reconciliation
from shared.quality.reconciliation import Difference
from shared.quality.rules import Equals
from shared.run_log import RUN_LOG

SALES, LTV, PRODUCTS = "gold.daily_sales_summary", "gold.customer_ltv", "gold.product_performance"
ORDERS = "silver.orders_clean"

_RUN_AGAIN = "silver has changed since the last run, or the table was changed by hand; gold.run(spark, full=True)"


def differing_rows(context: Context, target: str) -> dict[str, int]:
    """Return how many rows a full recompute has that the table lacks, and the other way round: law 5."""
    definition = metadata.TABLES.definition(target)
    rows = context.spark.table(definition.source)
    wanted = aggregates.finished(aggregates.measured(rows, definition), definition)
    there = context.spark.table(target).select(*wanted.columns)
    return {"rows lacking": wanted.exceptAll(there).count(), "rows too many": there.exceptAll(wanted).count()}


def _law_5(context: Context, target: str) -> Finding:
    return finding(differing_rows(context, target), f"{context.spark.table(target).count():,} rows, the same ones")


# --- Day 7: daily sales ---------------------------------------------------------------------------------------------


@check(
    7,
    f"{metadata.TABLES.name} holds every declared table as it is declared, and all of it together is sound",
    cause="the table was edited by hand, or tables.toml has changed since; gold.run(spark) brings it up to date",
)
def _metadata(context: Context) -> Finding:
    return as_declared(
        context, metadata.TABLES, lambda known, columns: metadata.problems(known, columns, below=list(columns))
    )


@check(
    7,
    f"Law 3: {SALES} adds up to {ORDERS}, to the cent, for every day and category",
    cause=_RUN_AGAIN,
    tables=(SALES, ORDERS),
)
def _sales_add_up(context: Context) -> Finding:
    differing = _groups_that_differ(context, SALES).differing
    days, cents = numbers(
        context, f"SELECT count(DISTINCT order_date), coalesce(sum(net_revenue) * 100, 0) FROM {SALES}"
    )
    expected = f"{Decimal(cents) / 100:,.2f} of net revenue on {days:,} days"
    return finding({"days and categories that differ": differing}, expected)


def _groups_that_differ(context: Context, target: str) -> Difference:
    """Return how a table compares with silver by its quality rule, which has SQL of its own beside the declaration."""
    (table,) = (one for one in quality.declared() if one.target == target)
    (rule,) = (one for one in table.rules if isinstance(one, Equals))
    return reconciliation.difference(context.spark, target, rule)


@check(7, f"Law 5: {SALES} holds what a full recompute would", cause=_RUN_AGAIN, tables=(SALES, ORDERS))
def _sales_law_5(context: Context) -> Finding:
    return _law_5(context, SALES)


# --- Day 8: customers -----------------------------------------------------------------------------------------------


@check(
    8,
    "AC-006: three customers at the edges of the thresholds land in High, Medium and Low",
    cause="the thresholds in tables.toml do not fall, or are not three",
)
def _profiles(context: Context) -> Finding:
    definition = metadata.TABLES.definition(LTV)
    bands = definition.bands
    assert bands is not None
    edges = [one.at_least for one in bands.thresholds if one.at_least is not None]
    profiles = [(f"at least {edge}", edge) for edge in edges] + [(f"below {edges[-1]}", edges[-1] - Decimal("0.01"))]
    measures = {one.name: F.lit(None).cast(one.type).alias(one.name) for one in definition.measures}
    measures[bands.of] = F.col(bands.of)
    frame = context.spark.createDataFrame(profiles, f"customer_id STRING, {bands.of} DECIMAL(18,2)")
    rows = aggregates.finished(frame.select("customer_id", *measures.values()), definition).collect()
    found = {row["customer_id"]: row[bands.column] for row in rows}
    wanted = dict(zip((name for name, _ in profiles), ("High", "Medium", "Low"), strict=True))
    told, expected = (", ".join(f"{name}: {label}" for name, label in one.items()) for one in (found, wanted))
    return Finding(told, expected)


@check(8, f"Law 3: {LTV} adds up to {ORDERS}, to the cent, for every customer", cause=_RUN_AGAIN, tables=(LTV, ORDERS))
def _customers_add_up(context: Context) -> Finding:
    found = _groups_that_differ(context, LTV)
    return finding({"customers that differ": found.differing}, f"{found.groups:,} customers as they bought")


@check(8, f"Law 5: {LTV} holds what a full recompute would", cause=_RUN_AGAIN, tables=(LTV, ORDERS))
def _customers_law_5(context: Context) -> Finding:
    return _law_5(context, LTV)


# --- Day 9: products, and the whole pipeline ------------------------------------------------------------------------


@check(
    9,
    f"Law 3: {PRODUCTS} adds up to {ORDERS}, to the cent, for every product",
    cause=_RUN_AGAIN,
    tables=(PRODUCTS, ORDERS),
)
def _products_add_up(context: Context) -> Finding:
    found = _groups_that_differ(context, PRODUCTS)
    return finding({"products that differ": found.differing}, f"{found.groups:,} products as they sold")


@check(9, "A product's rank is one more than the products of its category that made more revenue", cause=_RUN_AGAIN)
def _ranks(context: Context) -> Finding:
    wrong, categories = numbers(
        context,
        f"""
        WITH ranked AS (
          SELECT one.category, one.category_rank, 1 + count(more.product_id) AS place
          FROM {PRODUCTS} one LEFT JOIN {PRODUCTS} more
            ON more.category = one.category AND more.revenue > one.revenue
          GROUP BY one.product_id, one.category, one.category_rank
        )
        SELECT count_if(category_rank <> place), count(DISTINCT category) FROM ranked
        """,
    )
    return finding({"products with another rank": wrong}, f"{categories:,} categories, each ranked")


@check(9, f"Law 5: {PRODUCTS} holds what a full recompute would", cause=_RUN_AGAIN, tables=(PRODUCTS, ORDERS))
def _products_law_5(context: Context) -> Finding:
    return _law_5(context, PRODUCTS)


@check(
    9,
    f"NFR-001: the last run of all layers is in {RUN_LOG} under one run id, and took at most {LIMIT_MINUTES} minutes",
    cause="the pipeline was never run as a whole, or a table of its last run failed; `shopmetrics pipeline run`",
)
def _one_run(context: Context) -> Finding:
    rows = context.spark.sql(
        f"""
        SELECT collect_set(split_part(table_name, '.', 1)) AS layers, count_if(error_status) AS failed,
               timestampdiff(SECOND, min(started_at), max(ended_at)) <= {LIMIT_MINUTES * 60} AS is_within
        FROM (SELECT *, status IN ('failed', 'skipped') AS error_status,
                     timestampadd(MILLISECOND, CAST(seconds * 1000 AS BIGINT), started_at) AS ended_at FROM {RUN_LOG})
        GROUP BY run_id HAVING size(layers) = {len(LAYERS)} ORDER BY min(started_at) DESC LIMIT 1
        """
    ).collect()
    expected = f"{', '.join(LAYERS)} in one run, in time"
    if not rows:
        return Finding("no run of all layers", expected)
    (last,) = rows
    return finding({"tables not in order": last.failed, "runs over time": int(not last.is_within)}, expected)
