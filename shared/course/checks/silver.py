"""Days 5 and 6: what stands in silver, and how every row of bronze is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import functions as F

from shared.bronze.contracts import SOURCES
from shared.course.checks.registry import Context, Finding, as_declared, check, finding, numbers
from shared.quality import reconciliation
from shared.quality.reconciliation import failures_by_rule
from shared.quarantine import QUARANTINE
from shared.silver import events, gate, metadata, scd2
from shared.silver.metadata import TableDefinition

CUSTOMERS, PRODUCTS, ORDERS = "silver.dim_customers", "silver.dim_products", "silver.orders_clean"

FOUND_AS = {
    "malformed_line": "line_is_well_formed",
    "null_key": "{key}_is_not_null",
    "null_email": "email_is_not_null",
    "malformed_email": "email_is_valid",
    "non_positive_quantity": "quantity_is_positive",
    "impossible_status": "status_is_known",
    "unknown_product": "product_id_is_known",
    "early_arriving_customer": "customer_id_is_known",
    "duplicate_row": "row_is_not_a_duplicate",
    "redelivered_file": "row_is_not_a_duplicate",
    "tie": "updated_at_is_not_tied",
    "late_update": "updated_at_is_in_order",
}
"""Kind of defect to the rule that counts its rows; ``{key}`` is the table's business key."""

# --- Day 5: the framework -------------------------------------------------------------------------------------------


@check(
    5,
    f"{metadata.TABLES.name} holds every declared table as it is declared, and all of it together is sound",
    cause="the table was edited by hand, or tables.toml has changed since; silver.run(spark) brings it up to date",
)
def _metadata(context: Context) -> Finding:
    return as_declared(context, metadata.TABLES, metadata.problems)


@check(
    5,
    "AC-004: of each source, rows read = accepted + quarantined + duplicates, and none is left unread",
    cause="bronze has grown since the last run, or a table was changed by hand; silver.run(spark), or reset the table",
)
def _accounts(context: Context) -> Finding:
    accounts = reconciliation.accounts(context.spark, metadata.TABLES.declared()).values()
    wrong = [one.problem for one in accounts if one.problem]
    right = [f"{one.table} {one.delivered:,}" for one in accounts if not one.problem]
    return Finding("; ".join(wrong) or ", ".join(right), "every row of bronze accounted for", ok=not wrong)


@check(
    5,
    "AC-004: every kind of defect is found as often as it was injected",
    cause="a rule was changed, or bronze does not hold what the manifest says (see day 4); reset the table and run",
)
def _defects(context: Context) -> Finding:
    pairs = injected_and_found(context.manifest, failures_by_rule(context.spark))
    wrong = [
        f"{entry['table']}: {entry['rule']} {entry['found']:,}, injected {entry['injected']:,}"
        for entry in pairs
        if entry["injected"] != entry["found"]
    ]
    total = sum(entry["injected"] for entry in pairs)
    expected = f"{total:,} rows under {len(pairs)} rules"
    return Finding("; ".join(wrong) or expected, expected)


def injected_and_found(manifest: Any, failed: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return one row for each table and rule that has defects to find: table, defects, injected, rule, found.

    Args:
        manifest: of the landing volume.
        failed: what :func:`failures_by_rule` returned.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for definition in metadata.TABLES.declared():
        source = next(source.name for source in SOURCES.values() if source.bronze_table == definition.source)
        for kind, injected in manifest.defects(source).items():
            rule = FOUND_AS[kind].format(key=definition.business_keys[0])
            new = {"table": definition.target, "defects": "", "injected": 0, "rule": rule, "found": 0}
            row = rows.setdefault((definition.target, rule), new)
            row["defects"] = ", ".join(filter(None, (row["defects"], kind)))
            row["injected"] += injected
            row["found"] = failed.get((definition.target, rule), 0)
    return list(rows.values())


@check(
    5,
    f"Law 2: every order is in {ORDERS} exactly once, unless all that was said of it is in the quarantine",
    cause="a join multiplied or lost rows, or the table was changed by hand; silver.reset(spark, ...) and run again",
    tables=(ORDERS, QUARANTINE, "bronze.orders_raw"),
)
def _orders_once(context: Context) -> Finding:
    # An order without any accepted row appears in quarantine alone; what has no key cannot be an order.
    lost, twice, unknown, found = numbers(
        context,
        f"""
        WITH orders AS (SELECT order_id, count(*) AS rows FROM {ORDERS} GROUP BY order_id),
             said AS (SELECT DISTINCT order_id FROM bronze.orders_raw WHERE order_id IS NOT NULL),
             aside AS (SELECT DISTINCT business_key FROM {QUARANTINE}
                       WHERE table_name = '{ORDERS}' AND released_by IS NULL)
        SELECT (SELECT count(*) FROM said ANTI JOIN orders USING (order_id)
                ANTI JOIN aside ON order_id = business_key),
               (SELECT count_if(rows > 1) FROM orders),
               (SELECT count(*) FROM orders ANTI JOIN said USING (order_id)),
               (SELECT count(*) FROM orders)
        """,
    )
    wrong = {"orders lost": lost, "orders more than once": twice, "orders that nobody delivered": unknown}
    expected = f"{found:,} orders, each once"
    return finding(wrong, expected)


@check(
    5,
    "Every order's amounts follow from quantity, price and discount, to the cent",
    cause="the derived columns of the declaration were changed; see Revenue in docs/data-model.md",
)
def _amounts(context: Context) -> Finding:
    gross, net, rest, orders = numbers(
        context,
        f"""
        SELECT count_if(NOT gross_amount <=> quantity * unit_price),
               -- in whole cents, half-up: amounts are never negative
               count_if(NOT net_amount * 100 <=> floor(quantity * unit_price * (100 - discount_pct) + 0.5)),
               count_if(NOT discount_amount <=> gross_amount - net_amount),
               count(*)
        FROM {ORDERS}
        """,
    )
    wrong = {"wrong gross_amount": gross, "wrong net_amount": net, "wrong discount_amount": rest}
    expected = f"{orders:,} orders as computed"
    return finding(wrong, expected)


# --- Day 6: dimensions ----------------------------------------------------------------------------------------------

LAW_1 = """
WITH story AS (
  SELECT *, lead(start_date) OVER w AS next_start, lead({tracked}) OVER w AS next_values, {tracked} AS values
  FROM {table} WINDOW w AS (PARTITION BY {key} ORDER BY start_date)
)
SELECT {key}, start_date, 'is_current contradicts end_date' AS broken FROM story WHERE is_current <> (end_date IS NULL)
UNION ALL
SELECT {key}, start_date, 'ends before it starts' FROM story WHERE end_date <= start_date
UNION ALL
SELECT {key}, start_date, 'open, and yet another follows' FROM story WHERE end_date IS NULL AND next_start IS NOT NULL
UNION ALL
SELECT {key}, start_date, 'overlaps the next' FROM story WHERE end_date > next_start
UNION ALL
SELECT {key}, start_date, 'nothing changes to the next' FROM story WHERE end_date = next_start AND values = next_values
"""
"""Law 1 as a query: a row for each version that breaks it, and what it breaks. Sound tables give no rows.

Structs compare NULL with NULL as equal. To be formatted with the table, its key, and its tracked columns as a struct.
"""


def law_1(definition: TableDefinition) -> str:
    """Return :data:`LAW_1` for a dimension."""
    tracked = f"struct({', '.join(definition.tracked_columns)})"
    return LAW_1.format(table=definition.target, key=definition.business_keys[0], tracked=tracked)


@check(
    6,
    "AC-003: where a customer's email changes, the old version has its end_date and one version at most is current",
    cause="versions were closed or opened by hand; silver.reset(spark, 'silver.dim_customers') and run again",
)
def _email_changes(context: Context) -> Finding:
    changed, still_open, several = numbers(
        context,
        f"""
        WITH story AS (
          SELECT customer_id, email, end_date, is_current,
                 lead(struct(email)) OVER (PARTITION BY customer_id ORDER BY start_date) AS next
          FROM {CUSTOMERS}
        ), customers AS (
          SELECT customer_id, count_if(next IS NOT NULL AND NOT next.email <=> email) AS changes,
                 count_if(next IS NOT NULL AND NOT next.email <=> email AND end_date IS NULL) AS still_open,
                 count_if(is_current) AS current
          FROM story GROUP BY customer_id
        )
        SELECT count(*), coalesce(sum(still_open), 0), count_if(current > 1) FROM customers WHERE changes > 0
        """,
    )
    wrong = {"old versions still open": still_open, "customers with several current versions": several}
    expected = f"{changed:,} customers with another email, as it should be"
    return finding(wrong, expected)


@check(
    6,
    "Law 1: versions neither overlap nor repeat each other, and are open exactly where is_current says so",
    cause=f"{CUSTOMERS} was changed by hand, or by a MERGE of one's own; reset it and run again",
    tables=(CUSTOMERS,),
)
def _law_1(context: Context) -> Finding:
    broken = law_1(metadata.TABLES.definition(CUSTOMERS))
    rows = context.spark.sql(
        f"SELECT broken, count(*) AS rows, min(customer_id) AS example FROM ({broken}) GROUP BY broken ORDER BY broken"
    ).collect()
    versions = context.spark.table(CUSTOMERS).count()
    expected = f"{versions:,} versions, none breaks it"
    wrong = [f"{row.broken}: {row['rows']:,}, as {row.example}" for row in rows]
    return Finding("; ".join(wrong) or expected, expected)


@check(
    6,
    f"{CUSTOMERS} is the same from any order of delivery: it equals the history of its set of events",
    cause="the table was changed by hand, or bronze has grown since the last run; reset it and run again",
)
def _same_from_any_order(context: Context) -> Finding:
    definition, spark = metadata.TABLES.definition(CUSTOMERS), context.spark
    rows = spark.table(definition.source).withColumn("is_new", F.lit(True))
    accepted = gate.accepted(gate.examined(events.distinct_events(rows), definition))
    desired = scd2.versions(accepted, definition)
    # Inferred members come from orders, not from events of customers; the check of orders below is about them.
    there = spark.table(CUSTOMERS).where("NOT is_inferred").select(*desired.columns)
    lacking, surplus = desired.exceptAll(there).count(), there.exceptAll(desired).count()
    expected = f"{there.count():,} versions, the same ones"
    return finding({"versions lacking": lacking, "versions too many": surplus}, expected)


@check(
    6,
    f"{PRODUCTS} has one row for each product: its newest state",
    cause="the table was changed by hand; reset it and run again",
)
def _products(context: Context) -> Finding:
    twice, stale, products = numbers(
        context,
        f"""
        WITH newest AS (
          SELECT product_id, max(updated_at) AS newest FROM bronze.products_raw
          WHERE _malformed IS NULL AND trim(product_id) <> '' AND trim(category) <> '' AND list_price >= 0
            AND updated_at <= ingested_at + INTERVAL 1 DAY
          GROUP BY product_id
        )
        SELECT (SELECT count(*) - count(DISTINCT product_id) FROM {PRODUCTS}),
               (SELECT count_if(NOT p.updated_at <=> n.newest)
                FROM newest AS n FULL JOIN {PRODUCTS} AS p ON n.product_id = p.product_id),
               (SELECT count(*) FROM {PRODUCTS})
        """,
    )
    wrong = {"products more than once": twice, "products missing or not at their newest state": stale}
    expected = f"{products:,} products at their newest state"
    return finding(wrong, expected)


@check(
    6,
    "Every order points at the version of its customer that was valid when it was placed",
    cause=f"{CUSTOMERS} was rebuilt and {ORDERS} was not run since; silver.run(spark)",
)
def _as_of(context: Context) -> Finding:
    # The newest version that had begun; before the first, the first. Said once more, and otherwise, than the pipeline.
    wrong_version, orders = numbers(
        context,
        f"""
        WITH answers AS (
          SELECT o.order_id, any_value(o.customer_sk) AS found, any_value(o.customer_id IS NULL) AS is_guest,
                 coalesce(max_by(v.customer_sk, v.start_date) FILTER (WHERE v.start_date <= o.order_ts),
                          min_by(v.customer_sk, v.start_date)) AS expected
          FROM {ORDERS} AS o LEFT JOIN {CUSTOMERS} AS v ON o.customer_id = v.customer_id
          GROUP BY o.order_id, o.order_ts
        )
        SELECT count_if((expected IS NULL AND NOT is_guest) OR NOT found <=> expected), count(*) FROM answers
        """,
    )
    expected = f"{orders:,} orders, each with the version of its day"
    return finding({"orders with another version": wrong_version}, expected)
