"""A table that another writer has changed since the last run: the next run notices the change and repairs the table."""

from __future__ import annotations

import shutil

import pytest
from spark.silver_cases import SILVER, Shop, arrived, customer, order, product

from shared import bronze, catalog, gold, layer
from shared.errors import CatalogError
from shared.settings import get_settings

CUSTOMERS, PRODUCTS, ORDERS = SILVER
SALES, LTV, RANKS = (one.target for one in sorted(gold.TABLES.declared(), key=lambda one: "sales" not in one.target))
GOLD = (SALES, LTV, RANKS)


@pytest.mark.slow
def test_a_changed_table_of_silver_or_gold_is_made_again_and_says_why(spark, shop: Shop, monkeypatch):
    def run() -> dict[str, layer.TableRun]:
        return shop.run() | {one.table_name: one for one in gold.run(spark, settings=shop.home)}

    def held() -> dict[str, list[str]]:
        return shop.contents(*SILVER, *GOLD)

    # C-2 is unknown: after the dimension's own run, the fact's run adds an inferred member to the dimension.
    shop.deliver(
        product("P-1", 1), customer("C-1", 10), customer("C-1", 20, city="Rome"), order("O-1", "C-1", 15),
        order("O-2", "C-2", 15), order("O-3", "C-1", 25),
    )  # fmt: skip
    run()
    shop.deliver(arrived(product("P-2", 30), 2), arrived(order("O-4", "C-1", 30, of="P-2"), 2))
    assert {one.reason for one in run().values()} == {""}
    before = held()

    # Commits that move rows, describe the table or undo a change do not change a row.
    for table in (*SILVER, *GOLD):
        spark.sql(f"OPTIMIZE {table}")
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 60 days')")
        spark.sql(f"COMMENT ON TABLE {table} IS 'described otherwise'")
    spark.sql(f"VACUUM {ORDERS}")
    for status in ("cancelled", "delivered"):
        spark.sql(f"UPDATE {ORDERS} SET status = '{status}' WHERE order_id = 'O-4'")
    (was,) = {row.status for row in shop.rows("SELECT status FROM bronze.orders_raw")}
    spark.sql(f"UPDATE {ORDERS} SET status = '{was}' WHERE order_id = 'O-4'")
    assert {one: (done.reason, done.rows_changed) for one, done in run().items()} == dict.fromkeys(
        (*SILVER, *GOLD), ("", 0)
    )
    assert held() == before

    spark.sql(f"RESTORE TABLE {ORDERS} TO VERSION AS OF 1")
    spark.sql(f"DELETE FROM {CUSTOMERS}")
    spark.sql(f"UPDATE {PRODUCTS} SET category = 'Books'")
    spark.sql(f"RESTORE TABLE {SALES} TO VERSION AS OF 1")
    spark.sql(f"DELETE FROM {LTV} WHERE customer_id = 'C-1'")
    spark.sql(f"INSERT INTO {RANKS} SELECT 'P-9', category, units_sold, revenue, 9 FROM {RANKS} LIMIT 1")
    assert held() != before
    done = run()
    told = {
        one: done[one].reason.partition(" (")[0].removeprefix(f"{one} is not as the last run left it: ") for one in done
    }
    by = dict(
        zip(
            (ORDERS, CUSTOMERS, PRODUCTS, SALES, LTV, RANKS),
            ["RESTORE", "DELETE", "UPDATE", "RESTORE", "DELETE", "WRITE"],
            strict=True,
        )
    )
    assert told == {one: f"changed by {operation}" for one, operation in by.items()}
    assert held() == before
    assert shop.broken_laws() == []
    assert {one.status for one in run().values()} == {"unchanged"}

    # A run that died before its log entry has left commits of its own. They are no reason to rebuild a table.
    shop.deliver(arrived(customer("C-2", 5), 3), arrived(order("O-5", "C-2", 40), 3))
    with monkeypatch.context() as dies:
        dies.setattr("shared.run_log.write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            shop.run()
    assert spark.conf.get(catalog.NOTE, None) is None
    assert {one.reason for one in run().values()} == {""}
    assert shop.rows(f"SELECT count(*) AS n FROM {ORDERS}")[0].n == 5
    assert shop.broken_laws() == []


def test_rows_that_bronze_has_lost_are_brought_back_and_silver_is_made_again(spark, shop: Shop):
    values = get_settings()
    source, table = bronze.SOURCES["products"], "bronze.products_raw"
    shutil.rmtree(values.raw / "products", ignore_errors=True)
    bronze.reset(spark, source)

    def deliver_and_ingest(number: int = 0) -> bronze.Ingested:
        if number:
            path = values.raw / "products" / f"2026-01-0{number}" / "products.csv"
            path.parent.mkdir(parents=True)
            path.write_text(
                "product_id,product_name,category,brand,list_price,is_active,updated_at\n"
                f"P-{number},Kettle,Home & Kitchen,Acme,19.90,true,2026-01-0{number} 08:00:00\n"
            )
        return bronze.ingest(spark, [source])[0]

    def held() -> list[str]:
        return [row.product_id for row in shop.rows(f"SELECT product_id FROM {table} ORDER BY 1")]

    for number in (1, 2):
        deliver_and_ingest(number)
    shop.deliver()
    shop.run()
    spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF 1")
    assert held() == ["P-1"]
    done = deliver_and_ingest(3)
    assert done.mended == "rows that were lost by RESTORE (version 3) were restored, as of version 2"
    assert (done.rows, held()) == (1, ["P-1", "P-2", "P-3"])
    made = shop.run()[PRODUCTS]
    assert made.reason == f"{table} has not only been added to: changed by RESTORE (version 3)"
    assert [row.product_id for row in shop.rows(f"SELECT product_id FROM {PRODUCTS} ORDER BY 1")] == held()
    assert (deliver_and_ingest().mended, shop.run()[PRODUCTS].status) == ("", "unchanged")

    # Rows whose files are gone cannot be restored. Then nothing is read, and the error says so.
    spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF 1")
    check = "spark.databricks.delta.retentionDurationCheck.enabled"
    spark.conf.set(check, "false")
    try:
        spark.sql(f"VACUUM {table} RETAIN 0 HOURS")
    finally:
        spark.conf.unset(check)
    with pytest.raises(CatalogError, match=r"has lost rows by RESTORE \(version \d+\)") as raised:
        deliver_and_ingest(4)
    assert f"`shopmetrics reset {table}`" in raised.value.hint
    assert held() == ["P-1"]
    bronze.reset(spark, source)
    assert deliver_and_ingest().rows == 4
    shutil.rmtree(values.raw / "products")
    bronze.reset(spark, source)
