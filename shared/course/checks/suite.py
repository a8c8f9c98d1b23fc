"""Day 16: the laws hold, and what is wrong on purpose is noticed."""

from __future__ import annotations

import re
import tomllib

from pyspark.sql import functions as F

from shared import gold
from shared.course import mutants
from shared.course.checks import results
from shared.course.checks.gold import ORDERS, SALES
from shared.course.checks.registry import Context, Finding, check, finding
from shared.gold import aggregates
from shared.settings import CHECKOUT

LAST_BATCH_DAY = 9


@check(
    16,
    "Every mutant fits the sources, and names tests that exist",
    cause="a source or a test has changed since; correct the entry in tests/mutants/mutants.toml",
    local_only=True,
)
def _mutants_fit(context: Context) -> Finding:
    wrong = []
    for mutant in mutants.declared():
        try:
            mutant.applied_to((CHECKOUT / mutant.file).read_text(encoding="utf-8"))
        except mutants.MutantError as error:
            wrong.append(str(error))
        for test in mutant.tests:
            file, _, name = test.partition("[")[0].partition("::")
            if not re.search(rf"^def {re.escape(name)}\(", (CHECKOUT / file).read_text(encoding="utf-8"), re.MULTILINE):
                wrong.append(f"{mutant.name}: there is no test {test}")
    expected = "each of them"
    return Finding("; ".join(wrong) or expected, expected)


@check(
    16,
    f"Every mutant of {SALES} makes another table than the right declaration, from this home's orders and a guest's",
    cause=f"{ORDERS} holds too few orders to tell them apart: none was cancelled, or none has a discount",
    local_only=True,
)
def _mutants_differ(context: Context) -> Finding:
    orders, text = context.spark.table(ORDERS), gold.TABLES.file.read_text(encoding="utf-8")
    # The generated shop has no orders without a customer.
    orders = orders.unionByName(
        orders.where("status = 'delivered'")
        .orderBy("order_id")
        .limit(1)
        .withColumn("customer_id", F.lit(None).cast("string"))
    )
    right = gold.TABLES.definition(SALES)
    made = aggregates.finished(aggregates.measured(orders, right), right)
    equal = []
    for mutant in mutants.of_declaration(gold.TABLES.file):
        declared = gold.TABLES.parse(tomllib.loads(mutant.applied_to(text))["table"], mutant.name)
        (wrong,) = (one for one in declared if one.target == SALES)
        if wrong != right:
            table = aggregates.finished(aggregates.measured(orders, wrong), wrong)
            equal += [mutant.name] * made.exceptAll(table).isEmpty()
    expected = "each of them"
    return Finding("; ".join(f"{name} makes the same" for name in equal) or expected, expected)


@check(
    16,
    "The laws of the batch tables hold",
    cause="a table was changed by hand; `shopmetrics verify` says which law is broken and what usually lies behind it",
)
def _laws_hold(context: Context) -> Finding:
    asked = results.verify(context.spark, context.settings, through=LAST_BATCH_DAY).results
    broken = [one for one in asked if not one.ok]
    return finding(
        {f"broken: {'; '.join(one.name for one in broken)}": len(broken)}, f"{len(asked)} laws asked, none is broken"
    )
