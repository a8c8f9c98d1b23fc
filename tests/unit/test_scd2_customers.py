"""The customer dimension: AC-003, the known hard cases, and agreement with the reference over random histories.

A run compares 2,000 random histories, in one DataFrame in Spark, with ``scd2_reference``. It tests the reference itself
with 500 random reorderings and re-deliveries.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from itertools import product as every

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F
from spark.silver_cases import (
    CASES,
    all_deliveries,
    arrived,
    as_customer,
    bronze_frame,
    customer,
    key_of,
    told,
    versions_in,
)
from unit import scd2_reference as reference
from unit.scd2_reference import Delivery

from shared.silver import events, gate, metadata, scd2

CUSTOMERS = next(one for one in metadata.TABLES.declared() if one.target == "silver.dim_customers")

KEYS, EVENTS = 2_000, 8
"""The number of customers with random histories, and the most deliveries of each."""


def accepted(spark, rows, definition=CUSTOMERS):
    delivered = bronze_frame(spark, "customers", rows).withColumn("is_new", F.lit(True))
    return gate.accepted(gate.examined(events.distinct_events(delivered), definition))


def dimension(spark, rows, definition=CUSTOMERS):
    return scd2.versions(accepted(spark, rows, definition), definition)


def rows_of(frame) -> list[reference.Version]:
    # With Arrow, because collected rows have instants without a time zone.
    return versions_in(frame.toArrow().to_pylist())


def rows_of_all_cases() -> list[dict]:
    return [as_customer(event) for batch in all_deliveries() for event in batch]


@pytest.fixture(scope="module")
def histories(spark) -> dict[str, str]:
    return told(rows_of(dimension(spark, rows_of_all_cases())))


def test_when_the_email_changes_the_old_row_ends_and_one_row_is_current(spark):
    """AC-003."""
    old, new = "ann@old.test", "ann@new.test"
    told_twice = [customer("C-1", 10, email=old), customer("C-1", 20, email=new)]
    rows = dimension(spark, [arrived(row, 1) for row in told_twice]).orderBy("start_date").collect()
    first, second = rows
    assert (first.email, first.is_current) == (old, False)
    assert (second.email, second.is_current) == (new, True)
    assert first.end_date == second.start_date
    assert first.start_date < first.end_date
    assert second.end_date is None
    assert first.customer_sk != second.customer_sk


@pytest.mark.parametrize("case", CASES)
def test_customer_history(histories, case):
    assert histories.get(key_of(case), "") == CASES[case].versions


@pytest.mark.parametrize("case", CASES)
def test_the_reference_tells_the_same(case):
    deliveries = [event for batch in CASES[case].deliveries("C-1") for event in batch]
    assert told(reference.versions(deliveries)).get("C-1", "") == CASES[case].versions


def test_38_a_column_that_arrives_later_starts_no_versions(spark, histories):
    """A column that bronze keeps aside is not part of an event. A tracked column that is NULL so far is no change."""
    aside = [row | {"_extra": {"loyalty": "gold"}} for row in rows_of_all_cases()]
    without = tuple(name for name in CUSTOMERS.tracked_columns if name != "postal_code")
    before_it_came = CUSTOMERS.model_copy(update={"tracked_columns": without})
    assert told(rows_of(dimension(spark, [*rows_of_all_cases(), *aside]))) == histories
    assert told(rows_of(dimension(spark, rows_of_all_cases(), before_it_came))) == histories


def test_a_row_of_the_dimension_says_what_its_columns_promise(spark):
    rows = dimension(spark, rows_of_all_cases())
    assert rows.columns == [
        "customer_sk", "customer_id", "first_name", "last_name", "email", "phone", "address", "city", "state",
        "postal_code", "country", "segment", "signup_date", "start_date", "end_date", "is_current", "is_inferred",
    ]  # fmt: skip
    found = rows.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_distinct("customer_sk").alias("keys"),
        F.count_if(F.col("customer_sk") != F.xxhash64("customer_id", "start_date")).alias("other_keys"),
        F.count_if(F.col("is_current") != F.col("end_date").isNull()).alias("contradictions"),
        F.count_if("is_inferred").alias("inferred"),
    ).first()
    assert found.rows == found.keys == sum(len(case.versions.split()) for case in CASES.values())
    assert (found.other_keys, found.contradictions, found.inferred) == (0, 0, 0)


# P1: the dimension is a function of the set of events.

# There are few instants, values and files, so that ties, unchanged runs, NULLs and re-deliveries are common. Each event
# is one draw.
DELIVERIES = [
    Delivery("?", sequence, tracked, untracked, tracked == "deleted", batch, f"{batch}{file}.csv")
    for sequence, tracked, untracked, (batch, file) in every(
        (10, 20, 30, 40, 50), (None, "A", "B", "deleted"), ("Ann", None), ((1, "a"), (1, "b"), (2, "a"), (3, "a"))
    )
]
HISTORIES = st.lists(st.sampled_from(DELIVERIES), min_size=1, max_size=EVENTS)

# Deterministic, like all tests. A DataFrame costs seconds, so all histories are drawn first and compared in one
# DataFrame. A failure shows the one customer with a difference, instead of trying smaller DataFrames.
in_spark = settings(max_examples=KEYS, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
in_memory = settings(max_examples=500, derandomize=True, database=None, deadline=None)


def drawn() -> list[list[Delivery]]:
    histories: list[list[Delivery]] = []

    @in_spark
    @given(HISTORIES)
    def draw(events):
        histories.append(events)

    draw()
    return histories


def keyed(histories: list[list[Delivery]]) -> list[Delivery]:
    return [replace(event, key=f"C-{number:04}") for number, events in enumerate(histories) for event in events]


def compare(found, deliveries: list[Delivery]) -> None:
    """Compare with the reference; a failure shows one customer with a difference, with its deliveries."""
    wanted, there = told(reference.versions(deliveries)), told(rows_of(found))
    for key in sorted(wanted.keys() | there.keys()):
        said = "\n".join(str(event) for event in deliveries if event.key == key)
        assert there.get(key, "") == wanted.get(key, ""), f"{key} was delivered as\n{said}"


def test_p1_versions_are_those_of_the_reference(spark):
    histories = drawn()
    assert len(histories) >= KEYS
    deliveries = keyed(histories)
    compare(dimension(spark, [as_customer(event) for event in deliveries]), deliveries)


def test_single_events_have_the_versions_that_they_would_have_among_others(spark):
    deliveries = keyed([[event] for event in DELIVERIES])
    alone = accepted(spark, [as_customer(event) for event in deliveries])
    found = scd2.versions_of_single_events(alone, CUSTOMERS)
    compare(found, deliveries)
    both = found.withColumn("which", F.lit("single")).unionByName(
        scd2.versions(alone, CUSTOMERS).withColumn("which", F.lit("general"))
    )
    assert both.groupBy(*found.columns).count().where("count != 2").count() == 0


@in_memory
@given(HISTORIES, st.randoms(use_true_random=False))
def test_p1_the_reference_does_not_depend_on_order_or_on_re_delivery(events, random):
    wanted = reference.versions(events)
    again = [replace(event, ingested_at=9, source_file="9.csv") for event in random.sample(events, len(events) // 2)]
    shuffled = [*events, *again]
    random.shuffle(shuffled)
    assert reference.versions(shuffled) == wanted


@in_memory
@given(HISTORIES)
def test_p1_the_reference_keeps_law_1(events):
    rows = reference.versions(events)
    for one, next_one in pairwise(rows):
        assert one.end is not None
        assert one.start < one.end <= next_one.start
        assert one.end < next_one.start or one.tracked != next_one.tracked
    last = max(events, key=lambda event: (event.sequence, event.deleted))
    assert (bool(rows) and rows[-1].end is None) == (not last.deleted)
