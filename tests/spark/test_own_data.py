"""A reader's own files: the messages about them before a run, and the result of a run on a public shop's export."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal

import pytest

from generators import generate
from shared import bronze, catalog, pipeline
from shared.bronze.contracts import CUSTOMERS, ORDERS, PRODUCTS, SOURCES
from shared.check_files import check_files
from shared.settings import CHECKOUT, get_settings

BATCH = "2026-01-01"
PRODUCT = "P-1,Kettle,Home,Acme,19.90,true,2026-01-01 08:00:00"
ORDER = "O-1,C-1,P-1,2026-01-01 08:00:00,1,19.90,0,pending,card,2026-01-01 08:00:00"
CUSTOMER = "C-1,Ann,Lee,ann@shop.test,,,,,,Norway,,2026-01-01,false,2026-01-01 08:00:00"


@pytest.fixture
def own(shop):
    """An empty landing volume, and no table."""
    values = get_settings()
    _clear(shop, values)
    yield values
    _clear(shop, values)


def _clear(shop, values) -> None:
    import shutil

    for name in SOURCES:
        bronze.reset(shop.spark, name)
    shop.clear()
    shutil.rmtree(values.raw, ignore_errors=True)


def deliver(values, source, name, *lines, header=True, encoding="utf-8") -> None:
    path = values.raw / source.name / BATCH / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([",".join(source.column_names), *lines] if header else lines)
    path.write_bytes(f"{text}\n".encode(encoding))


def test_a_folder_with_everything_wrong_is_told_of_file_by_file_and_the_run_does_as_told(spark, shop, own):
    deliver(own, PRODUCTS, "a.csv", PRODUCT, PRODUCT.replace("P-1,", "p-1,"), PRODUCT.replace("19.90", '"19,90"'))
    deliver(own, PRODUCTS, "late.csv", PRODUCT.replace("2026-01-01 08", "2027-01-01 08"))
    deliver(own, PRODUCTS, "sixteen.csv", PRODUCT, encoding="utf-16")
    deliver(own, PRODUCTS, "headless.csv", PRODUCT, header=False)
    deliver(own, PRODUCTS, "notes.txt", "not data")
    deliver(own, CUSTOMERS, "c.csv", CUSTOMER, CUSTOMER.replace("C-1,", "C-1\u00a0,"), CUSTOMER.replace("@", " at "))
    deliver(
        own, ORDERS, "o.csv", ORDER, ORDER.replace("O-1,C-1,", "O-2,,"), ORDER.replace("O-1,C-1,P-1", "O-3,C-1,P-9"),
        ORDER.replace("O-1", "O-4").replace(",1,19.90", ",2000000,9999.99"), ORDER.replace("O-1,C-1,", "O-5,C-7,"),
    )  # fmt: skip
    (own.raw / "order").mkdir()

    report = check_files(spark)
    files = {file.path.split("/")[-1]: file for file in report.files}
    assert {name: (file.lines, file.taken, file.aside) for name, file in files.items()} == {
        "a.csv": (3, 2, {"line_is_well_formed": 1}),
        "late.csv": (1, 0, {"updated_at_is_not_in_the_future": 1}),
        "c.csv": (3, 2, {"email_is_valid": 1}),
        "o.csv": (5, 3, {"gross_amount_fits": 1, "product_id_is_known": 1}),
    }
    price = "list_price = 19,90: expected a number such as 1234.00, of at most 12 digits, 2 of them decimals"
    assert files["a.csv"].reasons == {"line_is_well_formed": price}
    assert files["o.csv"].reasons["product_id_is_known"] == "product_id = P-9: expected one of silver.dim_products"
    assert [path.split("/")[-1] for path in report.refused] == ["headless.csv", "sixteen.csv"]
    assert list(report.ignored) == ["order/", f"products/{BATCH}/notes.txt"]
    assert report.alike == {"customer_id": [["C-1", "C-1\u00a0"]], "product_id": [["P-1", "p-1"]]}
    assert not catalog.table_exists(spark, "bronze.orders_raw"), "it was only looked at"

    done = pipeline.run(spark)
    assert not done.ok
    assert (done.refused, list(done.ignored)) == (report.refused, list(report.ignored)[::-1])
    assert {table.status for table in done.tables} == {"succeeded"}
    aside = {row[:2] for row in shop.rows("SELECT rule, reason FROM silver.quarantine")}
    assert aside == {pair for file in report.files for pair in file.reasons.items()}
    # A guest's order is revenue, but counts for no customer's value. C-7 has no row in any file.
    assert shop.rows("SELECT sum(net_revenue), sum(orders)::INT, max(customers) FROM gold.daily_sales_summary") == [
        (Decimal("59.70"), 3, 2)
    ]
    ltv = shop.rows("SELECT customer_id, lifetime_value FROM gold.customer_ltv ORDER BY 1")
    assert ltv == [("C-1", Decimal("19.90")), ("C-7", Decimal("19.90"))]
    assert shop.rows("SELECT customer_sk FROM silver.orders_clean WHERE order_id = 'O-2'") == [(None,)]
    assert shop.broken_laws() == []

    # A part of the order is returned: the kept part still counts. And the guest turns out to have an account.
    later = "2026-01-01 09:00:00"
    deliver(
        own, ORDERS, "o2.csv", ORDER.replace(",1,19.90", ",3,19.90"),
        ORDER.replace("O-1,C-1,", "O-2,C-1,")[:-19] + later, ORDER.replace("O-1,C-1,", "O-6,,")[:-19] + later,
    )  # fmt: skip
    deliver(own, ORDERS, "o3.csv", ORDER.replace(",1,19.90", ",2,19.90")[:-19] + later)
    again = check_files(spark)
    assert [file.path.split("/")[-1] for file in again.files] == ["o2.csv", "o3.csv"]
    assert len(again.read_before) == 4
    pipeline.run(spark)
    found = shop.rows("SELECT order_id, quantity, customer_id FROM silver.orders_clean ORDER BY 1")
    assert found == [("O-1", 2, "C-1"), ("O-2", 1, "C-1"), ("O-5", 1, "C-7"), ("O-6", 1, None)]
    ltv = shop.rows("SELECT customer_id, lifetime_value FROM gold.customer_ltv ORDER BY 1")
    assert ltv == [("C-1", Decimal("59.70")), ("C-7", Decimal("19.90"))]


def test_the_example_of_the_page_goes_through_to_gold(spark, shop, own, tmp_path):
    page = (CHECKOUT / "docs" / "own-data.md").read_text(encoding="utf-8")
    export, script = (re.search(rf"```{kind}\n(.*?)```", page, re.S)[1] for kind in ("csv", "python"))
    (tmp_path / "export.csv").write_text(export)
    subprocess.run([sys.executable, "-c", script, tmp_path / "export.csv", own.raw], check=True)
    done = pipeline.run(spark)
    assert done.ok
    aside = shop.rows("SELECT table_name, rule, reason FROM silver.quarantine")
    assert aside == [("silver.orders_clean", "quantity_is_positive", "quantity = -1: expected at least 1")]
    expected = 6 * Decimal("2.55") + 6 * Decimal("3.39") + 24 * Decimal("3.75")
    assert shop.rows("SELECT sum(net_revenue) FROM gold.daily_sales_summary") == [(expected,)]
    ltv = shop.rows("SELECT customer_id, lifetime_value FROM gold.customer_ltv")
    assert ltv == [("17850", expected - 90)], "the third order is a guest's"


def test_generated_files_are_taken_whole_but_for_their_defects(spark, shop, own):
    manifest = generate(own.raw, scale=0.01, seed=7, defects=0.05, days=0, progress=False)
    report = check_files(spark)
    assert (report.refused, report.ignored, report.alike) == ({}, {}, {})
    for file in report.files:
        assert file.lines == manifest.rows(file.path.split("/")[0])
    orders = next(file for file in report.files if file.path.startswith("orders"))
    defects = manifest.defects("orders")
    assert orders.aside == {
        "line_is_well_formed": defects["malformed_line"], "order_id_is_not_null": defects["null_key"],
        "quantity_is_positive": defects["non_positive_quantity"], "status_is_known": defects["impossible_status"],
        "product_id_is_known": defects["unknown_product"],
    }  # fmt: skip
