"""Silver's rules, its bad input, and tables of one's own, each told as runs."""

from __future__ import annotations

import json
import re

import pytest
from pyspark.sql import functions as F
from spark.silver_cases import (
    arrived,
    customer,
    declared_with,
    instant,
    order,
    product,
)

from shared import catalog
from shared.errors import MetadataError
from shared.silver import metadata

DIMENSION, PRODUCTS, FACT = "silver.dim_customers", "silver.dim_products", "silver.orders_clean"


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
    assert json.loads(aside.row_json)["customer_id"] == "C-3"

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

    # The fact alone: what it depends on failed in an earlier run.
    again = shop.run(tables=[FACT])
    assert again[FACT].status == "skipped"
    assert re.fullmatch(
        rf"skipped: {DIMENSION} failed in run \w{{12}} at [-\d]{{10}} [\d:]{{5}} UTC, version \d+", again[FACT].reason
    )
    # Mended, nothing that came in between is lost.
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
    # It has no answer to the fatal rule, so the one before it sets it aside.
    shop.deliver(customer("C-2", 10, email="nowhere", country=None))
    first = shop.run(definitions=definitions)[DIMENSION]
    assert (first.status, shop.quality(first)) == ("succeeded", {"email_is_valid": 1})
    versions = shop.versions()
    news = arrived(customer("C-3", 10, email="nowhere", country="Atlantis"), 2)
    done = shop.delivered_and_run(news, definitions=definitions)
    assert done[DIMENSION].status == "failed"
    assert "rule country_is_above_water is broken in 2.csv" in done[DIMENSION].reason
    assert shop.versions() == versions


def test_the_log_says_what_was_done(shop):
    told = []
    done = shop.delivered_and_run(
        product("P-1", 1), customer("C-1", 10), customer("C-1", 10, city="Rome"), order("O-1", "C-1", 15),
        run_id="run-1", on_end=told.append,
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
        "bronze.orders_raw": None, DIMENSION: None, PRODUCTS: None,
    }  # fmt: skip
    assert fact.dependencies == [
        f"{DIMENSION} succeeded in this run, version {log[DIMENSION].to_version}",
        f"{PRODUCTS} succeeded in this run, version {log[PRODUCTS].to_version}",
    ]
    assert shop.quality(done[DIMENSION]) == {"updated_at_is_not_tied": 1}
    rules = shop.rows(f"SELECT * FROM ops.quality_results WHERE table_name = '{FACT}'")
    assert {(row.run_id, row.rows_checked) for row in rules} == {("run-1", 1)}
    assert {row.rule for row in rules} >= {rule.name for rule in done_rules()}


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


def test_a_row_in_the_control_table_is_a_table(spark, shop):
    shop.delivered_and_run(product("P-1", 1), product("P-2", 2))
    declared = spark.table(metadata.TABLES.name).where(f"target = '{PRODUCTS}'")
    declared.withColumn("target", F.lit("silver.goods")).writeTo(metadata.TABLES.name).append()
    done = shop.run()
    assert {table: run.status for table, run in done.items() if run.status != "unchanged"} == {
        "silver.goods": "succeeded"
    }
    assert done["silver.goods"].rows_changed == 2
    assert shop.contents("silver.goods")["silver.goods"] == shop.contents(PRODUCTS)[PRODUCTS]
    assert shop.delivered_and_run(product("P-3", 3))["silver.goods"].rows_changed == 1


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


def test_metadata_that_cannot_be_run_is_refused_before_anything_is(spark, shop):
    shop.delivered_and_run(product("P-1", 1), customer("C-1", 10), order("O-1", "C-1", 15))
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

    # A tracked column that the source has no more.
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


# Tables of one's own: the framework knows nothing of customers, products and orders.


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
    # News of keys that look alike when joined releases nobody else.
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
    # Of a tie the later arrival wins: the version starts where it did, and says something else.
    done = shop.delivered_and_run(
        arrived(customer("C-1", 10, city="Bern"), 2), arrived(customer("C-2", 10, city="Lima"), 2),
        definitions=definitions,
    )["silver.waiting"]  # fmt: skip
    assert cities() == {"O-1": "Bern", "O-2": "Lima"}
    assert done.rows_released == 1
    # A customer who turns out never to have been: a delete at the instant of the only event.
    never = arrived(customer("C-2", 10, is_deleted=True), 3)
    done = shop.delivered_and_run(never, definitions=definitions)["silver.waiting"]
    assert (cities(), shop.quality(done)["customer_id_is_still_known"]) == ({"O-1": "Bern"}, 1)
    aside = shop.rows("SELECT business_key, rule FROM silver.quarantine WHERE released_by IS NULL")
    assert [tuple(row) for row in aside] == [("O-2", "customer_id_is_known")]
