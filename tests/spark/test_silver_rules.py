"""Silver's rules, bad input, and a reader's own tables, tested by runs."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta

import pytest
from pyspark.sql import functions as F
from spark.silver_cases import (
    MIDNIGHT,
    arrived,
    bronze_frame,
    customer,
    declared_with,
    instant,
    order,
    product,
)

from shared import catalog
from shared.bronze.contracts import SOURCES
from shared.errors import MetadataError
from shared.silver import events, facts, gate, metadata, scd1, scd2

DIMENSION, PRODUCTS, FACT = "silver.dim_customers", "silver.dim_products", "silver.orders_clean"


# The result for single rows: no table is written.


def orders(spark, *rows: dict):
    """Return the events of these rows of bronze, all of them new; rows without an arrival came with the first batch."""
    delivered = [row if "source_file" in row else arrived(row, 1) for row in rows]
    return events.distinct_events(bronze_frame(spark, "orders", delivered).withColumn("is_new", F.lit(True)))


def test_the_newest_row_of_a_key_counts_and_not_the_last_to_arrive(spark):
    rows = orders(
        spark,
        arrived(order("O-late", "C-1", 10, updated=30, status="delivered"), 1),
        arrived(order("O-late", "C-1", 10, updated=20, status="shipped"), 2),
        arrived(order("O-tie", "C-1", 10, status="shipped"), 1),
        arrived(order("O-tie", "C-1", 10, status="cancelled"), 2),
        arrived(order("O-tie", "C-1", 10, status="shipped"), 3),
    )
    newest = scd1.newest(rows, metadata.TABLES.definition(FACT)).collect()
    assert {row.order_id: row.status for row in newest} == {"O-late": "delivered", "O-tie": "cancelled"}


def test_a_row_takes_the_version_of_its_instant_and_there_is_always_one(spark):
    definition, customers = metadata.TABLES.definition(FACT), metadata.TABLES.definition(DIMENSION)
    (join,) = (one for one in definition.dimension_joins if one.dimension == DIMENSION)
    told = [
        customer("C-1", 10), customer("C-1", 20, city="Rome"),
        customer("C-1", 30, city="Rome", is_deleted=True), customer("C-1", 40, city="Rome"),
    ]  # fmt: skip
    delivered = bronze_frame(spark, "customers", [arrived(row, 1) for row in told]).withColumn("is_new", F.lit(True))
    versions = scd2.versions(events.distinct_events(delivered), customers)
    placed = {5: 10, 10: 10, 19: 10, 20: 20, 30: 20, 35: 20, 40: 40}
    rows = orders(spark, *(order(f"O-{at}", "C-1", at) for at in placed), order("O-unknown", "C-2", 20))
    alone = definition.model_copy(update={"dimension_joins": (join,)})
    found = facts.looked_up(scd1.newest(rows, alone), alone, [facts.Dimension(join, customers, versions)])
    key = F.xxhash64("customer_id", F.expr("TIMESTAMP '2026-01-01' + make_interval(0, 0, 0, 0, 0, start)"))
    wanted = spark.createDataFrame(
        [(f"O-{at}", "C-1", start) for at, start in placed.items()], "order_id STRING, customer_id STRING, start INT"
    ).select("order_id", key.alias("customer_sk"))
    inferred = F.xxhash64(F.lit("C-2"), F.lit(scd2.BEGINNING_OF_TIME).cast("timestamp"))
    wanted = wanted.union(spark.range(1).select(F.lit("O-unknown"), inferred))
    assert sorted(found.select("order_id", "customer_sk").collect()) == sorted(wanted.collect())


def test_each_order_is_rounded_half_up_to_the_cent(spark):
    amounts = {  # quantity, unit price, discount in percent: gross, net
        (1, "0.05", "50.00"): ("0.05", "0.03"),
        (3, "0.15", "10.00"): ("0.45", "0.41"),
        (1, "0.15", "50.00"): ("0.15", "0.08"),
        (1, "19.99", "33.00"): ("19.99", "13.39"),
        (2, "19.99", "0.00"): ("39.98", "39.98"),
        (2, "19.99", "100.00"): ("39.98", "0.00"),
    }
    rows = orders(
        spark,
        *(
            order(f"O-{number}", "C-1", 10, quantity=quantity, unit_price=price, discount_pct=discount)
            for number, (quantity, price, discount) in enumerate(amounts)
        ),
    )
    alone = metadata.TABLES.definition(FACT).model_copy(update={"dimension_joins": ()})
    found = facts.looked_up(scd1.newest(rows, alone), alone, []).orderBy("order_id").collect()
    assert [(str(row.gross_amount), str(row.net_amount)) for row in found] == list(amounts.values())
    assert all(row.discount_amount == row.gross_amount - row.net_amount for row in found)


def test_a_row_that_gives_a_rule_no_answer_is_set_aside_whole(spark):
    silent = {"quantity": "quantity_is_positive", "unit_price": "unit_price_is_not_negative",
              "discount_pct": "discount_pct_is_in_range", "status": "status_is_known"}  # fmt: skip
    rows = orders(
        spark, order("O-fine", "C-1", 10), *(order(f"O-{name}", "C-1", 10, **{name: None}) for name in silent)
    )
    definition = metadata.TABLES.definition(FACT)
    aside = gate.quarantined(gate.examined(rows, definition), definition, "run-1").collect()
    assert {row.business_key: row.rule for row in aside} == {f"O-{name}": rule for name, rule in silent.items()}
    for row in aside:
        name = row.business_key.removeprefix("O-")
        assert row.reason.startswith(f"{name} = NULL: expected ")
        kept = json.loads(row.row_json)
        assert list(kept) == [column.name for column in SOURCES["orders"].columns] + ["_malformed"]
        assert kept | {"order_ts": None, "updated_at": None} == {
            "order_id": row.business_key, "customer_id": "C-1", "product_id": "P-1", "order_ts": None, "quantity": 2,
            "unit_price": 10.0, "discount_pct": 0.0, "status": "pending", "payment_method": "card", "updated_at": None,
            "_malformed": None, name: None,
        }  # fmt: skip
        assert kept["order_ts"] == kept["updated_at"] == "2026-01-01T00:10:00.000Z"


# Rules.


def test_a_rule_counts_or_sets_aside_or_stops_as_its_word_says(shop):
    shop.deliver(
        product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15),
        customer("C-2", 10, city=None), customer("C-3", 10, country="Atlantis"),
    )  # fmt: skip
    rules = [
        {"name": "city_is_known", "expect": "city IS NOT NULL", "limit": "a city"},
        {"name": "country_is_above_water", "expect_or_quarantine": "country <> 'Atlantis'", "limit": "dry land"},
    ]
    done = shop.run(definitions=declared_with(DIMENSION, rules=rules))
    assert shop.quality(done[DIMENSION]) == {"city_is_known": 1, "country_is_above_water": 1}
    assert (done[DIMENSION].rows_accepted, done[DIMENSION].rows_quarantined) == (2, 1)
    assert [row.customer_id for row in shop.rows(f"SELECT customer_id FROM {DIMENSION} ORDER BY 1")] == ["C-1", "C-2"]
    (aside,) = shop.rows("SELECT * FROM silver.quarantine")
    assert aside.reason == "country = Atlantis: expected dry land"
    held = json.loads(aside.row_json)
    assert (held["customer_id"], held["country"]) == ("C-3", "Atlantis"), "the whole row, to be corrected"
    assert list(held) == [column.name for column in SOURCES["customers"].columns] + ["_malformed"]

    before, versions = shop.contents(), shop.versions()
    rules[1] = {"name": "country_is_above_water", "expect_or_fail": "country <> 'Atlantis'", "limit": "dry land"}
    for batch, delivered in enumerate((None, customer("C-4", 10)), start=1):
        if delivered:
            shop.deliver(arrived(delivered, batch))
        done = shop.run(definitions=declared_with(DIMENSION, rules=rules))
        assert done[DIMENSION].status == "failed"
        assert done[DIMENSION].reason == (
            f"{DIMENSION}: rule country_is_above_water is broken in 1.csv: "
            "country = Atlantis: expected dry land. Nothing was written."
        )
        assert done[PRODUCTS].status == "unchanged", "the others go on"
        assert done[FACT].status == "skipped"
        assert done[FACT].reason == f"skipped: {DIMENSION} failed in this run, version {versions[DIMENSION]}"
        assert shop.versions() == versions
    assert shop.contents() == before

    # Only the fact runs: its dependency failed in an earlier run.
    again = shop.run(tables=[FACT])
    assert again[FACT].status == "skipped"
    assert re.fullmatch(
        rf"skipped: {DIMENSION} failed in run \w{{12}} at [-\d]{{10}} [\d:]{{5}} UTC, version \d+", again[FACT].reason
    )
    # After the repair, no row that arrived in between is lost.
    done = shop.run()
    assert {run.status for run in done.values()} <= {"succeeded", "unchanged"}
    assert len(shop.rows(f"SELECT 1 FROM {DIMENSION}")) == 4
    assert {(row.business_key, row.released_by is None) for row in shop.rows("SELECT * FROM silver.quarantine")} == {
        ("C-3", False)
    }
    logged = shop.rows("SELECT * FROM ops.run_log ORDER BY started_at")
    assert [row.status for row in logged if row.table_name == FACT] == [
        "succeeded", "skipped", "skipped", "skipped", done[FACT].status,
    ]  # fmt: skip


def test_a_fatal_rule_stops_a_run_of_news_too_whatever_else_the_row_breaks(shop):
    rules = [{"name": "country_is_above_water", "expect_or_fail": "country <> 'Atlantis'", "limit": "dry land"}]
    definitions = declared_with(DIMENSION, rules=rules)
    shop.deliver(product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15))
    # The fatal rule gives NULL for this row, so the rule before it sets the row aside.
    shop.deliver(customer("C-2", 10, email="nowhere", country=None))
    first = shop.run(definitions=definitions)[DIMENSION]
    assert (first.status, shop.quality(first)) == ("succeeded", {"email_is_valid": 1})
    versions = shop.versions()
    news = arrived(customer("C-3", 10, email="nowhere", country="Atlantis"), 2)
    done = shop.delivered_and_run(news, definitions=definitions)
    assert done[DIMENSION].status == "failed"
    assert "rule country_is_above_water is broken in 2.csv" in done[DIMENSION].reason
    assert shop.versions() == versions


def test_the_log_says_what_was_done_a_row_in_the_control_table_is_a_table_and_bad_metadata_is_refused(spark, shop):
    told = []
    done = shop.delivered_and_run(
        product("P-1", 1), product("P-2", 2), customer("C-1", 10), customer("C-1", 10, city="Rome"),
        order("O-1", "C-1", 15), run_id="run-1", on_end=told.append,
    )  # fmt: skip
    assert sorted(run.table_name for run in told) == sorted(done)
    log = {row.table_name: row for row in shop.rows("SELECT * FROM ops.run_log")}
    assert log.keys() == done.keys()
    fact = log[FACT]
    assert (fact.run_id, fact.status, fact.reason) == ("run-1", "succeeded", "first run")
    assert (fact.rows_read, fact.rows_accepted, fact.rows_inserted, fact.from_version) == (1, 1, 1, None)
    assert fact.to_version == shop.versions()[FACT]
    assert fact.seconds > 0
    assert {read["table"]: read["from_version"] for read in fact.reads} == {
        "bronze.orders_raw": None, DIMENSION: None, PRODUCTS: None, "bronze.customers_raw": None,
    }  # fmt: skip
    assert fact.dependencies == [
        f"{DIMENSION} succeeded in this run, version {log[DIMENSION].to_version}",
        f"{PRODUCTS} succeeded in this run, version {log[PRODUCTS].to_version}",
    ]
    assert shop.quality(done[DIMENSION]) == {"updated_at_is_not_tied": 1}
    rules = shop.rows(f"SELECT * FROM ops.quality_results WHERE table_name = '{FACT}'")
    assert {(row.run_id, row.rows_checked) for row in rules} == {("run-1", 1)}
    assert {row.rule for row in rules} >= {rule.name for rule in done_rules()}

    # A row in the control table declares a table.
    declared = spark.table(metadata.TABLES.name).where(f"target = '{PRODUCTS}'")
    declared.withColumn("target", F.lit("silver.goods")).writeTo(metadata.TABLES.name).append()
    done = shop.run()
    assert {table: run.status for table, run in done.items() if run.status != "unchanged"} == {
        "silver.goods": "succeeded"
    }
    assert done["silver.goods"].rows_changed == 2
    assert shop.contents("silver.goods")["silver.goods"] == shop.contents(PRODUCTS)[PRODUCTS]
    assert shop.delivered_and_run(product("P-3", 3))["silver.goods"].rows_changed == 1

    # Metadata that cannot be run is refused before any table runs.
    versions = shop.versions()
    bad = declared_with(
        FACT,
        rules=[
            {"name": "quantity_is_small", "expect": "quantity < ", "limit": "small"},
            {"name": "colour_is_red", "expect": "colour = 'red'", "limit": "red"},
        ],
    )
    bad = [one.model_copy(update={"processing_order": 30}) if one.target == PRODUCTS else one for one in bad]
    with pytest.raises(MetadataError) as raised:
        shop.run(definitions=bad)
    told = str(raised.value)
    assert f"{FACT}: processing_order 20 contradicts depends_on: {PRODUCTS} has 30, and must come before" in told
    assert f"{FACT}: rule quantity_is_small is not SQL over bronze.orders_raw: " in told
    assert f"{FACT}: rule colour_is_red is not SQL over bronze.orders_raw: " in told
    assert "colour" in told.split("rule colour_is_red", 1)[1]
    with pytest.raises(MetadataError, match=rf"no enabled table silver\.nothing\. Tables: {DIMENSION}"):
        shop.run(tables=["silver.nothing"])

    # A tracked column that the source no longer has.
    spark.sql(
        "CREATE TABLE bronze.fewer_customers_raw USING delta AS SELECT * EXCEPT (email) FROM bronze.customers_raw"
    )
    fewer = [
        one.model_copy(update={"source": "bronze.fewer_customers_raw"}) if one.target == DIMENSION else one
        for one in metadata.TABLES.declared()
    ]
    with pytest.raises(MetadataError) as raised:
        shop.run(definitions=fewer)
    assert f"{DIMENSION}: unknown column email in tracked_columns: bronze.fewer_customers_raw has" in str(raised.value)
    assert f"{DIMENSION}: rule email_is_not_null is not SQL over bronze.fewer_customers_raw" in str(raised.value)
    assert shop.versions() == versions
    assert {run.status for run in shop.run().values()} == {"unchanged"}


def done_rules() -> tuple[metadata.Rule, ...]:
    return next(one for one in metadata.TABLES.declared() if one.target == FACT).gate


def test_a_table_that_is_not_enabled_does_not_run(shop):
    declared = metadata.TABLES.declared()
    without = [one.model_copy(update={"is_enabled": one.target != PRODUCTS}) for one in declared]
    shop.deliver(product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15))
    done = shop.run(definitions=without)
    assert {table: run.status for table, run in done.items()} == {DIMENSION: "succeeded", FACT: "skipped"}
    assert done[FACT].reason == f"skipped: {PRODUCTS} has never run"
    assert PRODUCTS not in shop.versions()
    with pytest.raises(MetadataError, match=rf"no enabled table {PRODUCTS}"):
        shop.run(tables=[PRODUCTS], definitions=without)


# Bad input.


def test_a_source_table_that_is_missing_fails_its_table_and_names_it(spark, shop):
    shop.deliver(product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15))
    catalog.drop_table(spark, "bronze.customers_raw")
    done = shop.run()
    assert done[DIMENSION].status == "failed"
    assert done[DIMENSION].reason == f"The source table bronze.customers_raw of {DIMENSION} does not exist."
    assert done[PRODUCTS].status == "succeeded"
    assert done[FACT].reason == f"skipped: {DIMENSION} failed in this run"
    shop.deliver(customer("C-1", 10))
    assert {run.status for run in shop.run().values()} == {"succeeded", "unchanged"}
    assert shop.pointing() == {"O-1": 10}


# A reader's own tables: the framework does not depend on customers, products and orders.


def own(target: str, kind: str, **fields) -> metadata.TableDefinition:
    given = {"target": target, "kind": kind, "processing_order": 10, "sequence_column": "updated_at"}
    return metadata.TableDefinition.model_validate(given | fields)


def test_keys_of_two_columns_are_never_joined_into_one(spark, shop):
    cards = own(
        "silver.cards", "scd1", source="bronze.cards_raw", business_keys=["bank", "number"], columns=["owner"],
        rules=[{"name": "owner_is_not_null", "expect_or_quarantine": "owner IS NOT NULL", "limit": "an owner"}],
    )  # fmt: skip
    schema = (
        "bank STRING, number STRING, owner STRING, updated_at TIMESTAMP, _malformed STRING, "
        "_extra MAP<STRING, STRING>, source_file STRING, batch_id STRING, ingested_at TIMESTAMP"
    )
    spark.sql(
        f"CREATE TABLE bronze.cards_raw ({schema}) USING delta TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')"
    )

    def deliver(batch: int, *rows: tuple) -> dict:
        values = [(*row, instant(10), None, None, f"{batch}.csv", "1", instant(batch)) for row in rows]
        spark.createDataFrame(values, schema).writeTo("bronze.cards_raw").append()
        return shop.run(definitions=[cards])["silver.cards"]

    first = deliver(1, ("a, b", "c", "Ann"), ("a", "b, c", None), (None, "x", "Bea"), ("x", None, "Cid"))
    assert (first.rows_accepted, first.rows_quarantined) == (1, 3)
    # News of a key does not release rows of another key that looks the same when its columns are joined into one text.
    second = deliver(2, ("a, b", "c", "Abe"), (None, "x", "Bob"))
    assert (second.rows_accepted, second.rows_quarantined, second.rows_released) == (1, 1, 0)
    assert {(row.bank, row.number, row.owner) for row in shop.rows("SELECT * FROM silver.cards")} == {
        ("a, b", "c", "Abe")
    }
    full = shop.contents("silver.cards")
    shop.run(definitions=[cards], full=True)
    assert shop.contents("silver.cards") == full


def fact(target: str, join: dict, **fields) -> metadata.TableDefinition:
    """Return a second fact over bronze.orders_raw."""
    return own(
        target, "fact", source="bronze.orders_raw", business_keys=["order_id"], processing_order=20,
        columns=["customer_id", "order_ts"], depends_on=[DIMENSION], dimension_joins=[join], **fields,
    )  # fmt: skip


OF_CUSTOMERS = {
    "dimension": DIMENSION, "key": "customer_id", "as_of": "order_ts", "take": ["customer_sk"], "unknown": "infer",
}  # fmt: skip


@pytest.mark.slow
def test_facts_side_by_side_infer_one_member_for_one_key(shop):
    both = [*metadata.TABLES.declared(), *(fact(f"silver.fact_{name}", OF_CUSTOMERS) for name in "abc")]
    shop.deliver(product("P-1", 1), customer("C-0", 1), *(order(f"O-{n}", f"C-{n}", 10) for n in range(1, 9)))
    done = shop.run(definitions=both)
    assert {run.status for run in done.values()} == {"succeeded"}, done
    shop.delivered_and_run(*(arrived(order(f"O-{n}", f"C-{n}", 10), 2) for n in range(10, 19)), definitions=both)
    inferred = [row.customer_id for row in shop.rows(f"SELECT customer_id FROM {DIMENSION} WHERE is_inferred")]
    assert sorted(inferred) == sorted(f"C-{n}" for n in (*range(1, 9), *range(10, 19)))
    shop.run(definitions=both)
    assert {run.status for run in shop.run(definitions=both).values()} == {"unchanged"}


def test_a_fact_may_wait_for_a_customer_and_carry_what_a_version_says(shop):
    waiting = fact("silver.waiting", OF_CUSTOMERS | {"take": ["customer_sk", "city"], "unknown": "quarantine"})
    definitions = [*(one for one in metadata.TABLES.declared() if one.target != FACT), waiting]

    def cities() -> dict[str, str]:
        return {row.order_id: row.city for row in shop.rows("SELECT order_id, city FROM silver.waiting")}

    shop.deliver(product("P-1", 1), customer("C-1", 10), customer("C-1", 20, city="Rome"), order("O-1", "C-1", 15))
    shop.deliver(order("O-2", "C-2", 15))
    done = shop.run(definitions=definitions)["silver.waiting"]
    assert (done.rows_accepted, done.rows_quarantined, cities()) == (1, 1, {"O-1": "Oslo"})
    # In a tie the later arrival wins: the version keeps its start, but gets other values.
    done = shop.delivered_and_run(
        arrived(customer("C-1", 10, city="Bern"), 2), arrived(customer("C-2", 10, city="Lima"), 2),
        definitions=definitions,
    )["silver.waiting"]  # fmt: skip
    assert cities() == {"O-1": "Bern", "O-2": "Lima"}
    assert done.rows_released == 1
    # A customer who turns out never to have existed: a delete at the instant of the only event.
    never = arrived(customer("C-2", 10, is_deleted=True), 3)
    done = shop.delivered_and_run(never, definitions=definitions)["silver.waiting"]
    assert (cities(), shop.quality(done)["customer_id_is_still_known"]) == ({"O-1": "Bern"}, 1)
    aside = shop.rows("SELECT business_key, rule FROM silver.quarantine WHERE released_by IS NULL")
    assert [tuple(row) for row in aside] == [("O-2", "customer_id_is_known")]


def test_what_would_be_counted_wrong_for_ever_is_set_aside_and_the_rest_goes_on(shop):
    year_9999 = datetime(9999, 12, 31, 23, 59, 59)
    far = {"updated_at": year_9999}
    # Delivered on 1 January and ingested at 02:00 of the next day; one more day is tolerated.
    last_moment = MIDNIGHT + timedelta(days=2, hours=2)
    reason = "list_price = 12,99: expected a number such as 1234.00, of at most 12 digits, 2 of them decimals"
    shop.deliver(
        product("P-1", 1), product("P-2", 1), product("P-2", 1, list_price="0.01") | far,
        customer("C-1", 10), customer("C-1", 10, address="Nowhere 1") | far, customer("  ", 10),
        product("", 1), product("P-3", 1, list_price=None) | {"_malformed": "P-3,...", "_reason": reason},
        # A wrong date in the year 9999, with which an update would win for ever.
        order("O-1", "C-1", 15), order("O-1", "C-1", 15, quantity=9) | far,
        order("O-2", "C-1", 15) | {"updated_at": last_moment},
        order("O-3", "C-1", 15) | {"updated_at": last_moment + timedelta(microseconds=1)},
        order("O-4", "C-1", 15, quantity=2_000_000, unit_price="9999.99"),
        order("O-5", "C-1", 15, quantity=1_000_000, unit_price="9999.99"),
        order(" ", "C-1", 15), order("O-6", " ", 15), order("O-7", "C-1", 15, of=" "),
    )  # fmt: skip
    done = shop.run()
    assert {run.status for run in done.values()} == {"succeeded"}, done
    shop.delivered_and_run(arrived(order("O-1", "C-1", 15, updated=2000, status="cancelled"), 2))
    found = shop.rows("SELECT order_id, status, quantity, gross_amount FROM silver.orders_clean ORDER BY 1")
    assert [tuple(map(str, row)) for row in found] == [
        ("O-1", "cancelled", "2", "20.00"), ("O-2", "pending", "2", "20.00"),
        ("O-5", "pending", "1000000", "9999990000.00"),
    ]  # fmt: skip
    assert [row.address for row in shop.rows(f"SELECT address FROM {DIMENSION}")] == [None]
    assert [str(row.list_price) for row in shop.rows(f"SELECT list_price FROM {PRODUCTS}")] == ["10.00", "10.00"]
    aside = shop.rows("SELECT business_key, rule, reason, source FROM silver.quarantine")
    future = "updated_at_is_not_in_the_future"
    assert sorted((row.business_key, row.rule) for row in aside) == sorted([
        ("P-2", future), ("C-1", future), ("O-1", future), ("O-3", future), ("O-4", "gross_amount_fits"),
        ("", "product_id_is_not_null"), ("  ", "customer_id_is_not_null"), (" ", "order_id_is_not_null"),
        ("O-6", "customer_id_is_not_blank"), ("O-7", "product_id_is_not_null"), ("P-3", "line_is_well_formed"),
    ])  # fmt: skip
    told = {row.business_key: (row.reason, row.source) for row in aside}
    overflow = "quantity = 2000000, unit_price = 9999.99: expected gross_amount to be a DECIMAL(12,2)"
    assert told["O-4"] == (overflow, "1.csv")
    assert told["P-3"] == (reason, "1.csv")
    assert told["O-1"][0] == (
        "updated_at = 9999-12-31 23:59:59, ingested_at = 2026-01-02 02:00:00: expected at most a day after ingested_at"
    )
    shop.run(full=True)
    assert shop.rows("SELECT order_id, status, quantity, gross_amount FROM silver.orders_clean ORDER BY 1") == found
