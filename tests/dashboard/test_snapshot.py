"""The committed snapshot is complete and small, has the present queries, and holds the present results of seed 42."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow.compute as pc
import pytest

from dashboard.utils.queries import IN_SNAPSHOT, QUERIES
from dashboard.utils.snapshot import MOST_BYTES, make, questions
from dashboard.utils.sources import SNAPSHOT, Lakehouse, Snapshot, answer
from generators import generate
from tests.dashboard import small_shop
from tests.oracles.duckdb_gold import gold

MANIFEST = Snapshot().manifest()


def test_it_answers_today_s_questions_in_two_megabytes():
    assert MANIFEST["questions"] == questions(), "the questions changed; renew the snapshot by `make snapshot`"
    assert set(MANIFEST["files"]) == set(IN_SNAPSHOT)
    assert {file.name for file in SNAPSHOT.iterdir()} == {f"{name}.parquet" for name in IN_SNAPSHOT} | {"snapshot.json"}
    assert sum(file.stat().st_size for file in SNAPSHOT.iterdir()) < MOST_BYTES
    assert (MANIFEST["seed"], MANIFEST["scale"]) == (42, 1.0)


@pytest.mark.parametrize("name", sorted(IN_SNAPSHOT))
def test_it_has_the_columns_and_types_that_a_lakehouse_gives(name: str, small_home: Path):
    # Also for the queries that exist only for the snapshot.
    given = Lakehouse(small_home / "lakehouse").answer(IN_SNAPSHOT[name])
    assert MANIFEST["files"][name]["columns"] == {field.name: str(field.type) for field in given.schema}


def test_made_from_a_lakehouse_it_answers_as_that_does(small_home: Path, tmp_path: Path):
    lakehouse = Lakehouse(small_home / "lakehouse")
    make(lakehouse.directory, tmp_path)
    again = make(lakehouse.directory, tmp_path / "again")
    assert again["files"] == make(lakehouse.directory, tmp_path)["files"]
    (example, *_) = answer(lakehouse, "changed_customers")["customer_id"].to_pylist()
    values = {
        "product_sales": {"first_date": date(2025, 2, 1), "last_date": small_shop.LAST},
        "customer_history": {"customer_id": example},
        "customer_orders": {"customer_id": example},
    }
    for name in set(QUERIES) - {"stream_batches"}:
        given = values.get(name, {})
        assert answer(Snapshot(tmp_path), name, **given).equals(answer(lakehouse, name, **given)), name


def test_it_holds_what_seed_42_gives_today(tmp_path: Path):
    """DuckDB computes gold from newly generated files: the test fails if a generator or a definition has changed."""
    generate(tmp_path, scale=MANIFEST["scale"], seed=MANIFEST["seed"], defects=0.01, days=3, progress=False)
    bands = [("High", Decimal(5000)), ("Medium", Decimal(1000)), ("Low", None)]
    expected = gold(tmp_path, bands)
    snapshot = Snapshot()
    daily = answer(snapshot, "daily_sales")
    assert daily.equals(expected["daily_sales_summary"].select(daily.column_names).cast(daily.schema))
    customers = answer(snapshot, "customers")
    assert customers.equals(expected["customer_ltv"].select(customers.column_names).cast(customers.schema))
    products = answer(snapshot, "products").select(["product_id", "units_sold", "revenue", "category_rank"])
    sold = products.filter(pc.is_valid(products["category_rank"]))
    assert sold.equals(expected["product_performance"].select(sold.column_names).cast(sold.schema))
    assert str(max(daily["order_date"].to_pylist())) == MANIFEST["data_through"]
