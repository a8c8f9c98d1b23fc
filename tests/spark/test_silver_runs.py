"""Silver, tested by runs: the deliveries, the work of a run, and the tables afterwards."""

from __future__ import annotations

import random

import pytest
from spark.silver_cases import (
    CASES,
    all_deliveries,
    arrived,
    as_customer,
    customer,
    declared_with,
    key_of,
    order,
    product,
    told,
)
from unit import scd2_reference as reference

from shared import catalog, changes, silver
from shared.silver import metadata, silver_run

DIMENSION, PRODUCTS, FACT = "silver.dim_customers", "silver.dim_products", "silver.orders_clean"


# The tables do not depend on the order of deliveries or on their division into batches.


def test_every_history_grows_batch_by_batch_as_the_reference_says(shop):
    seen: list[reference.Delivery] = []
    for batch in all_deliveries():
        seen += batch
        run = shop.delivered_and_run(*map(as_customer, batch), tables=[DIMENSION])[DIMENSION]
        assert run.status == "succeeded"
        assert run.rows_read == len(batch) == run.rows_accepted + run.rows_quarantined + run.rows_duplicate
        assert told(shop.customers()) == told(reference.versions(seen))
    expected = {key_of(case): CASES[case].versions for case in CASES if CASES[case].versions}
    assert told(shop.customers()) == expected


INSTANTS = (1, 5, 7, 10, 12, 15, 20, 25, 30, 45)


def the_story() -> list[dict]:
    """Return the customers of all cases, their orders at every relevant instant, and products that change."""
    rows = [as_customer(event) for batch in all_deliveries() for event in batch]
    customers = sorted({key_of(case) for case in CASES} | {"C-nobody"})
    for number, who in enumerate(customers):
        for at in INSTANTS:
            key = f"O-{who}-{at}"
            rows.append(arrived(order(key, who, at, of=f"P-{number % 3}", status="pending"), number % 3 + 1))
            if at % 2:
                later = order(key, who, at, of=f"P-{number % 3}", updated=at + 50, status="shipped")
                rows.append(arrived(later, (number + at) % 3 + 1))
    rows += [
        arrived(product("P-0", 1), 1),
        arrived(product("P-0", 9, category="Garden", list_price="11.00"), 2),
        arrived(product("P-0", 5, category="Toys"), 3),
        arrived(product("P-1", 1), 3),
        arrived(product("P-2", 2, category="Books"), 2),
        arrived(product("P-2", 2, category="Music"), 2, "b.csv"),
        arrived(product("P-3", 3, category=None), 1),
        arrived(product("P-4", 3, list_price="-1.00"), 1),
        arrived(product(None, 3), 1),
        arrived(order("O-bad", "C-001", 10, quantity=0), 1),
        arrived(order("O-mended", "C-001", 10, quantity=0), 1),
        arrived(order("O-mended", "C-001", 10, updated=11, quantity=3), 2),
        arrived(order("O-spoilt", "C-001", 10, quantity=3), 1),
        arrived(order("O-spoilt", "C-001", 10, updated=11, status="lost"), 2),
        arrived(order("O-of-nothing", "C-001", 10, of="P-nothing"), 1),
        arrived(order("O-later-of-nothing", "C-001", 10, of="P-0"), 1),
        arrived(order("O-later-of-nothing", "C-001", 10, of="P-nothing", updated=11), 2),
        arrived(order("O-tie", "C-001", 10, status="shipped"), 1),
        arrived(order("O-tie", "C-001", 10, status="cancelled"), 2),
        arrived(order("O-of-a-guest", None, 10), 1),
        arrived(order("O-never", "C-001", None), 1),
        arrived(order(None, "C-001", 10), 2),
        arrived(customer("C-spoilt", 10, email="no address"), 1),
        arrived(customer("C-spoilt", 20, email=None), 2),
        arrived(order("O-spoilt-customer", "C-spoilt", 15), 2),
        arrived(order("O-line", "C-001", 10) | {"_malformed": "O-line,C-001,too few"}, 1),
    ]
    return rows


def deliveries_of(rows: list[dict]) -> dict[str, list[list[dict]]]:
    """Return several divisions of the same rows into runs."""
    by_batch = [[row for row in rows if row["batch_id"] == batch] for batch in sorted({r["batch_id"] for r in rows})]
    chance = random.Random(7)
    told_already: list[dict] = []
    with_repeats = []
    for number, batch in enumerate(by_batch):
        again = [arrived(row, 20 + number) for row in chance.sample(told_already, len(told_already) // 3)]
        with_repeats.append([*batch, *again])
        told_already += batch
    return {
        "all at once": [rows],
        "batch by batch, with re-deliveries": with_repeats,
        "the last batch first, and facts before their customers": [
            [row for row in rows if row["source"] == "products"]
            + [row for batch in by_batch[:0:-1] for row in batch if row["source"] == "orders"],
            [row for row in by_batch[0] if row["source"] == "orders"]
            + [row for batch in by_batch[:0:-1] for row in batch if row["source"] == "customers"],
            [row for row in by_batch[0] if row["source"] == "customers"],
        ],
    }


def test_the_same_events_make_the_same_tables_however_they_are_delivered(spark, shop):
    rows = the_story()
    contents = {}
    for way, runs in deliveries_of(rows).items():
        shop.clear()
        for batch in runs:
            done = shop.delivered_and_run(*batch)
            assert {run.status for run in done.values()} <= {"succeeded", "unchanged"}, done
            assert shop.broken_laws() == [], way
        contents[way] = shop.contents()
        before = shop.versions()
        again = shop.run()
        assert {run.status for run in again.values()} == {"unchanged"}, (way, again)
        assert shop.versions() == before, way

        delivered = sum(len(batch) for batch in runs)
        (read,) = shop.rows("SELECT CAST(sum(rows_read) AS BIGINT) AS n FROM ops.run_log")
        assert read.n == delivered, way
    first = contents.pop("all at once")
    for way, found in contents.items():
        for table in first:
            assert found[table] == first[table], f"{table}, delivered {way}"

    dimension = reference.versions(event for batch in all_deliveries() for event in batch)
    pointing = shop.pointing()
    for case in CASES:
        for at in INSTANTS:
            wanted = reference.version_at(dimension, key_of(case), at)
            assert pointing[f"O-{key_of(case)}-{at}"] == wanted, f"order at {at} by the customer of case {case}"
    facts = {row.order_id: row for row in shop.rows(f"SELECT * FROM {FACT}")}
    assert len(facts) == (len(CASES) + 1) * len(INSTANTS) + 6
    assert (facts["O-of-a-guest"].customer_id, facts["O-of-a-guest"].customer_sk) == (None, None)
    assert {facts[f"O-{key_of(case)}-5"].status for case in CASES} == {"shipped"}
    assert facts["O-mended"].quantity == 3
    assert facts["O-spoilt"].status == "pending"
    assert facts["O-tie"].status == "cancelled"
    assert facts["O-later-of-nothing"].product_id == "P-0"
    assert pointing["O-spoilt-customer"] is None
    products = {row.product_id: (row.category, str(row.list_price)) for row in shop.rows(f"SELECT * FROM {PRODUCTS}")}
    assert products == {"P-0": ("Garden", "11.00"), "P-1": ("Home", "10.00"), "P-2": ("Music", "10.00")}
    aside = {
        (row.business_key, row.rule)
        for row in shop.rows("SELECT business_key, rule FROM silver.quarantine WHERE released_by IS NULL")
    }
    assert aside == {
        (None, "customer_id_is_not_null"),
        (key_of("22 a row without a sequence is never current"), "updated_at_is_not_null"),
        (key_of("22 a customer of whom only that is known has no version"), "updated_at_is_not_null"),
        ("C-spoilt", "email_is_valid"),
        ("C-spoilt", "email_is_not_null"),
        ("P-3", "category_is_not_null"),
        ("P-4", "list_price_is_not_negative"),
        (None, "product_id_is_not_null"),
        ("O-bad", "quantity_is_positive"),
        ("O-mended", "quantity_is_positive"),
        ("O-spoilt", "status_is_known"),
        ("O-of-nothing", "product_id_is_known"),
        ("O-later-of-nothing", "product_id_is_known"),
        ("O-never", "updated_at_is_not_null"),
        (None, "order_id_is_not_null"),
        ("O-line", "line_is_well_formed"),
    }


# Facts follow their dimensions.


def test_a_fact_takes_the_version_of_its_instant_and_is_counted_where_there_is_none(shop):
    run = shop.delivered_and_run(
        product("P-1", 1),
        customer("C-1", 10, city="Oslo"), customer("C-1", 20, city="Rome"),
        customer("C-1", 30, is_deleted=True), customer("C-1", 40, city="Rome"),
        order("F1: on the boundary", "C-1", 20),
        order("F2: before the first version", "C-1", 5),
        order("F3: of an unknown customer", "C-2", 20),
        order("F5: in the gap of a closed account", "C-1", 35),
        order("on the end of the last version before the gap", "C-1", 30),
        order("an instant before the boundary", "C-1", 19),
    )[FACT]  # fmt: skip
    assert shop.pointing() == {
        "F1: on the boundary": 20,
        "F2: before the first version": 10,
        "F3: of an unknown customer": None,
        "F5: in the gap of a closed account": 20,
        "on the end of the last version before the gap": 20,
        "an instant before the boundary": 10,
    }
    assert (run.rows_read, run.rows_accepted, run.rows_inserted) == (6, 6, 6)  # F7
    assert shop.quality(run) == {
        "customer_id_is_known": 1, "customer_id_had_begun_at_order_ts": 1, "customer_id_was_open_at_order_ts": 2,
    }  # fmt: skip
    (inferred,) = shop.rows(f"SELECT * FROM {DIMENSION} WHERE is_inferred")
    given = {name: value for name, value in inferred._asdict().items() if value is not None}
    assert given.pop("start_date").isoformat() == "1900-01-01T00:00:00+00:00"
    assert given.pop("customer_sk") == shop.spark.sql("SELECT xxhash64('C-2', TIMESTAMP '1900-01-01')").first()[0]
    assert given == {"customer_id": "C-2", "is_current": True, "is_inferred": True}
    # A known customer gets no placeholder when an unknown customer gets one.
    shop.delivered_and_run(arrived(order("of C-1 again", "C-1", 45), 2), arrived(order("unknown too", "C-3", 45), 2))
    inferred = shop.rows(f"SELECT customer_id FROM {DIMENSION} WHERE is_inferred ORDER BY 1")
    assert [row.customer_id for row in inferred] == ["C-2", "C-3"]
    assert shop.broken_laws() == []


def test_a_fact_is_resolved_again_when_its_dimension_learns_more(shop):
    """F3, F4, F6, the late product and the moved category, each in the run that reads the new rows."""
    done = shop.delivered_and_run(
        product("P-1", 1), customer("C-1", 10), customer("C-1", 20, city="Rome"),
        order("O-early", "C-9", 15), order("O-8", "C-1", 8), order("O-12", "C-1", 12), order("O-17", "C-1", 17),
        order("O-25", "C-1", 25), order("O-late-product", "C-1", 25, of="P-9"),
    )  # fmt: skip
    assert shop.quality(done[FACT])["product_id_is_known"] == 1
    assert shop.pointing() == {"O-early": None, "O-8": 10, "O-12": 10, "O-17": 10, "O-25": 20}

    # F4: the customer arrives. F6 with case 12: a late change inside a version.
    done = shop.delivered_and_run(arrived(customer("C-9", 10), 2), arrived(customer("C-1", 15, city="Bern"), 2))
    assert shop.pointing() == {"O-early": 10, "O-8": 10, "O-12": 10, "O-17": 15, "O-25": 20}
    assert shop.rows(f"SELECT 1 FROM {DIMENSION} WHERE is_inferred") == []
    assert done[FACT].rows_changed == done[FACT].rows_updated == 2, "the orders that the news concerns, and no others"
    assert shop.quality(done[DIMENSION]) == {"updated_at_is_in_order": 1}

    # F6 with case 16: an event without a change moves the first start back. The product arrives and releases its order.
    done = shop.delivered_and_run(arrived(customer("C-1", 7), 3), arrived(product("P-9", 1, category="Toys"), 3))
    assert shop.pointing() == {"O-early": 10, "O-8": 7, "O-12": 7, "O-17": 15, "O-25": 20, "O-late-product": 20}
    assert (done[FACT].rows_released, done[FACT].rows_inserted, done[FACT].rows_updated) == (1, 1, 2)
    (released,) = shop.rows("SELECT * FROM silver.quarantine")
    assert (released.business_key, released.released_by) == ("O-late-product", done[FACT].run_id)

    # A column of a type 1 dimension has its present value. A change of a price, which no fact uses, causes no new join.
    before = shop.versions()
    done = shop.delivered_and_run(arrived(product("P-9", 50, category="Toys", list_price="99.00"), 4))
    assert (done[PRODUCTS].rows_updated, done[FACT].rows_changed) == (1, 0)
    assert shop.versions() == before | {PRODUCTS: before[PRODUCTS] + 1}
    done = shop.delivered_and_run(arrived(product("P-9", 60, category="Games"), 5))
    assert [row.order_id for row in shop.rows(f"SELECT order_id FROM {FACT} WHERE category = 'Games'")] == [
        "O-late-product"
    ]
    assert done[FACT].rows_updated == 1

    # A customer who turns out never to have existed: a delete at the instant of the only event.
    done = shop.delivered_and_run(arrived(customer("C-9", 10, is_deleted=True), 6))
    assert shop.pointing()["O-early"] is None
    assert shop.broken_laws() == []
    everything = shop.contents()
    shop.run(full=True)
    assert shop.contents() == everything


def test_orders_of_a_product_that_leaves_are_set_aside_and_come_back_with_it(shop, monkeypatch):
    """A stricter rule rebuilds the dimension with fewer rows; the fact continues from its cursor."""

    def dies(*given):
        raise RuntimeError("power failure")

    shop.delivered_and_run(
        product("P-1", 1), product("P-2", 1, list_price="90.00"), customer("C-1", 10),
        order("O-1", "C-1", 15), order("O-2", "C-1", 15, of="P-2"),
        order("O-moved", "C-1", 15, of="P-2"), order("O-moved", "C-1", 15, of="P-1", updated=16),
    )  # fmt: skip
    before = shop.contents()
    rule = {"name": "list_price_is_low", "expect_or_quarantine": "list_price < 50", "limit": "under 50"}
    stricter = declared_with(PRODUCTS, rules=[rule])
    shop.run(definitions=stricter, tables=[PRODUCTS])
    # A run dies before the fact is written, and another run right after that. Neither run is in the log.
    for owner, step, facts in ((changes, "merge", 3), (silver_run._SilverRun, "_release", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, dies)
            with pytest.raises(RuntimeError, match="power failure"):
                shop.run(definitions=stricter, tables=[FACT])
        assert len(shop.rows(f"SELECT 1 FROM {FACT}")) == facts
    lost = shop.run(definitions=stricter)[FACT]
    assert (lost.reason, lost.rows_read, lost.rows_quarantined, lost.rows_changed) == ("", 0, 0, 0)
    assert shop.quality(lost) == {"product_id_is_still_known": 2}
    reason = f"product_id = P-2: expected one of {PRODUCTS}"
    aside = shop.rows(f"SELECT business_key, reason FROM silver.quarantine WHERE table_name = '{FACT}' ORDER BY 1")
    assert [tuple(row) for row in aside] == [("O-2", reason), ("O-moved", reason)]
    assert shop.broken_laws() == []
    fewer = shop.contents()

    # The orders are set aside once, and a full run gives the same result.
    again = shop.delivered_and_run(arrived(order("O-2", "C-1", 15, of="P-2"), 2), definitions=stricter)[FACT]
    assert (again.rows_duplicate, shop.quality(again)) == (1, {"row_is_not_a_duplicate": 1})
    assert shop.contents() == fewer
    shop.run(full=True, definitions=stricter)
    assert shop.contents() == fewer

    returned = shop.run()[FACT]
    assert (returned.reason, returned.rows_released, returned.rows_inserted) == ("", 2, 1)
    assert shop.contents() == before
    assert shop.broken_laws() == []


# Running again.


def test_running_again_or_on_the_same_news_changes_nothing(shop):
    news = (
        product("P-1", 1), customer("C-1", 10), customer("C-1", 20, city="Rome"), order("O-1", "C-1", 15),
        order("O-2", "C-2", 15), order("O-3", "C-1", 15, quantity=0), order("O-4", "C-1", 15, of="P-9"),
        customer(None, 10), customer("C-3", None),
    )  # fmt: skip
    first = shop.delivered_and_run(*news)
    assert {run.reason for run in first.values()} == {"first run"}
    before, versions = shop.contents(), shop.versions()

    assert {run.status for run in shop.run().values()} == {"unchanged"}
    assert shop.versions() == versions

    # The same rows arrive in a later file. They are read, and counted as duplicates.
    again = shop.delivered_and_run(*(arrived(row, 2) for row in news))
    assert {run.reason for run in again.values()} == {""}
    for table, run in again.items():
        assert run.rows_read == run.rows_duplicate == first[table].rows_read
        assert run.rows_changed == run.rows_released == run.rows_accepted == run.rows_quarantined == 0
        assert shop.quality(run)["row_is_not_a_duplicate"] == run.rows_read
    assert shop.versions() == versions
    # An event of a known customer without a change is read and accepted, and changes nothing either.
    unchanged = shop.delivered_and_run(arrived(customer("C-1", 30, city="Rome"), 3))[DIMENSION]
    assert (unchanged.rows_accepted, unchanged.rows_changed) == (1, 0)
    assert shop.versions() == versions

    full = shop.run(full=True)
    assert {(run.status, run.reason) for run in full.values()} == {("succeeded", "full run asked for")}
    assert shop.contents() == before
    assert {run.status for run in shop.run().values()} == {"unchanged"}


def test_what_was_dropped_or_declared_otherwise_is_made_anew_and_says_why(spark, shop):
    rows = (
        product("P-1", 1), customer("C-1", 10), customer("C-1", 20, city="Rome"), order("O-1", "C-1", 15),
        order("O-2", "C-2", 15), order("O-3", "C-1", 25, discount_pct="100.00"), order("O-4", "C-1", 15, of="P-9"),
    )  # fmt: skip
    shop.delivered_and_run(*rows)
    before = shop.contents()

    catalog.drop_table(spark, FACT)
    done = shop.run()
    assert done[FACT].reason == f"{FACT} is not the table that the last run left"
    assert {done[DIMENSION].status, done[PRODUCTS].status} == {"unchanged"}
    assert shop.contents() == before

    catalog.drop_table(spark, DIMENSION)
    done = shop.run()
    assert done[DIMENSION].reason == f"{DIMENSION} is not the table that the last run left"
    assert done[FACT].reason == f"{DIMENSION} is not the table that the last run read"
    assert shop.contents() == before

    catalog.drop_table(spark, "bronze.customers_raw")
    shop.deliver(*(row for row in rows if row["source"] == "customers"))
    done = shop.run()
    assert done[DIMENSION].reason == "bronze.customers_raw is not the table that the last run read"
    assert shop.contents() == before

    stricter = declared_with(
        FACT, rules=[{"name": "something_is_paid", "expect_or_quarantine": "discount_pct < 100", "limit": "under 100"}]
    )
    done = shop.run(definitions=stricter)
    assert (done[FACT].status, done[FACT].reason) == ("succeeded", "its definition has changed")
    assert {done[DIMENSION].status, done[PRODUCTS].status} == {"unchanged"}
    assert [row.order_id for row in shop.rows(f"SELECT order_id FROM {FACT} ORDER BY 1")] == ["O-1", "O-2"]
    (aside,) = shop.rows("SELECT * FROM silver.quarantine WHERE rule = 'something_is_paid'")
    assert (aside.business_key, aside.reason) == ("O-3", "discount_pct = 100.00: expected under 100")

    done = shop.run()
    assert done[FACT].reason == "its definition has changed"
    assert shop.contents() == before

    silver.reset(spark, PRODUCTS)
    done = shop.run()
    assert done[PRODUCTS].reason == f"{PRODUCTS} is not the table that the last run left"
    assert shop.contents() == before
    assert {run.status for run in shop.run().values()} == {"unchanged"}


def test_what_was_vacuumed_before_it_was_read_is_made_anew_and_says_why(spark, shop):
    shop.delivered_and_run(product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15))
    shop.deliver(arrived(customer("C-1", 20, city="Rome"), 2))
    check = "spark.databricks.delta.retentionDurationCheck.enabled"
    spark.conf.set(check, "false")
    try:
        spark.sql("OPTIMIZE bronze.customers_raw")
        spark.sql("VACUUM bronze.customers_raw RETAIN 0 HOURS")
    finally:
        spark.conf.unset(check)
    done = shop.run()
    assert done[DIMENSION].reason.startswith("what is new cannot be read any more ("), done[DIMENSION].reason
    assert {run.status for run in done.values()} == {"succeeded", "unchanged"}
    assert [(version.start, version.end) for version in shop.customers()] == [(10, 20), (20, None)]
    before = shop.contents()
    shop.run(full=True)
    assert shop.contents() == before
    done = shop.delivered_and_run(arrived(customer("C-1", 30, city="Oslo"), 3))
    assert done[DIMENSION].reason == "", "it did not go on incrementally"
    assert len(shop.customers()) == 3


@pytest.mark.slow
def test_a_column_that_becomes_tracked_leaves_inferred_members_in_place(shop):
    shop.delivered_and_run(
        product("P-1", 1), customer("C-1", 10), customer("C-1", 20, last_name="Roe"),
        order("O-1", "C-1", 25), order("O-2", "C-2", 15),
    )  # fmt: skip
    assert shop.pointing() == {"O-1": 10, "O-2": None}
    tracked = next(one for one in metadata.TABLES.declared() if one.target == DIMENSION).tracked_columns
    wider = [
        one.model_copy(update={"tracked_columns": (*tracked, "last_name"), "columns": ("first_name",)})
        if one.target == DIMENSION
        else one
        for one in metadata.TABLES.declared()
    ]
    done = shop.run(definitions=wider)
    assert (done[DIMENSION].reason, done[DIMENSION].status) == ("its definition has changed", "succeeded")
    assert "signup_date" not in shop.spark.table(DIMENSION).columns
    assert done[FACT].status == "succeeded", done[FACT]
    assert shop.pointing() == {"O-1": 20, "O-2": None}
    assert {run.status for run in shop.run(definitions=wider).values()} == {"unchanged"}
    shop.run()
    assert shop.pointing() == {"O-1": 10, "O-2": None}
