from __future__ import annotations

import pytest

from shared.bronze.contracts import PRODUCTS
from shared.bronze.landing import landed_files
from shared.errors import SourceError

HEADER = ",".join(PRODUCTS.column_names)


def put(volume, text, batch="2026-01-01", name="products.csv", encoding="utf-8"):
    path = volume / "products" / batch / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def test_files_come_oldest_batch_first(tmp_path):
    for batch in ("2026-01-02", "2025-12-31", "2026-01-01"):
        put(tmp_path, HEADER + "\n", batch)
    assert [file.path.split("/")[1] for file in landed_files(tmp_path, PRODUCTS)] == [
        "2025-12-31", "2026-01-01", "2026-01-02",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [HEADER + "\r\n", HEADER, '"' + HEADER.replace(",", '","') + '"\n'])
def test_line_endings_and_quotes_do_not_matter(tmp_path, text):
    put(tmp_path, text)
    assert landed_files(tmp_path, PRODUCTS)[0].header == tuple(PRODUCTS.column_names)


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path):
    put(tmp_path, HEADER + "\n", encoding="utf-8-sig")
    assert landed_files(tmp_path, PRODUCTS)[0].header[0] == "product_id"


def test_a_missing_column_names_file_and_column(tmp_path):
    put(tmp_path, HEADER.replace("list_price", "price") + "\n")
    with pytest.raises(SourceError, match=r"products/2026-01-01/products\.csv: the required column list_price"):
        landed_files(tmp_path, PRODUCTS)


def test_every_problem_of_every_file_is_reported_at_once(tmp_path):
    put(tmp_path, HEADER.replace("brand,", "") + "\n", name="a.csv")
    put(tmp_path, "", name="b.csv")
    put(tmp_path, HEADER + ",brand\n", name="c.csv")
    put(tmp_path, "this is no csv\n", name="d.csv")
    put(tmp_path, HEADER + "\n", batch="yesterday")
    with pytest.raises(SourceError) as raised:
        landed_files(tmp_path, PRODUCTS)
    text = str(raised.value)
    for part in (
        "a.csv: the required column brand is missing",
        "b.csv: the first line must name the columns",
        "c.csv: the column brand stands there twice",
        "d.csv: none of the columns of products",
        "must be a batch date such as 2026-01-01, found 'yesterday'",
    ):
        assert part in text


def test_files_that_spark_does_not_see_are_not_seen(tmp_path):
    put(tmp_path, "half", name=".products.csv")
    put(tmp_path, "half", name="_products.csv")
    put(tmp_path, "half", name="products.csv.part")
    assert landed_files(tmp_path, PRODUCTS) == []
