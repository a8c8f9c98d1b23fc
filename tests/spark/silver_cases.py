"""The notation of silver's tests: one line per event, histories as ``A[10,20) B[20,..)``, and a shop of a few rows.

``A@10`` is an event with tracked value A at instant 10. Instants are minutes after midnight of 2026-01-01, UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import lake
from unit.scd2_reference import Delivery, Version, delete, upsert

from shared import bronze, catalog, silver
from shared.bronze.contracts import AUDIT_COLUMNS, SOURCES
from shared.settings import Settings, get_settings
from shared.silver import metadata

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shared.run_log import TableRun

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


def instant(minutes: int | None) -> datetime | None:
    """Return the instant of a number of minutes."""
    return None if minutes is None else MIDNIGHT + timedelta(minutes=minutes)


# Histories.


@dataclass(frozen=True)
class Case:
    """The history of one customer: its batches, each a list of events, and the versions that follow from them."""

    batches: list[list[Delivery]]
    versions: str

    def deliveries(self, key: str) -> list[list[Delivery]]:
        """Return the batches with this key; the first batch arrives first."""
        return [
            [replace(event, key=event.key and key, ingested_at=number, source_file=f"{number}.csv") for event in batch]
            for number, batch in enumerate(self.batches, start=1)
        ]


NO_KEY = replace(upsert("A", 10), key=None)

A5, A10, A15, A20, A30 = (upsert("A", at) for at in (5, 10, 15, 20, 30))
B5, B10, B12, B15, B20 = (upsert("B", at) for at in (5, 10, 12, 15, 20))

CASES = {
    "01 the first event opens a version": Case([[A10]], "A[10,..)"),
    "02 a change closes a version and opens the next": Case([[A10], [B20]], "A[10,20) B[20,..)"),
    "03 two changes in one batch are two versions": Case([[A10, B20]], "A[10,20) B[20,..)"),
    "04 insert, update, delete and insert in one batch": Case(
        [[A10, B20, delete(30), upsert("C", 40)]], "A[10,20) B[20,30) C[40,..)"
    ),
    "05 an event without a change starts nothing": Case([[A10], [A20]], "A[10,..)"),
    "06 a batch delivered again changes nothing": Case([[A10, B20], [A10, B20]], "A[10,20) B[20,..)"),
    "07 a row twice in a batch counts once": Case([[A10, A10]], "A[10,..)"),
    "08 an old event delivered again later changes nothing": Case([[A10], [B20], [A10]], "A[10,20) B[20,..)"),
    "09 of a tie in one file the greatest values win": Case([[B10, A10]], "B[10,..)"),
    "09 of a tie NULL is the least value": Case([[A10, upsert(None, 10)]], "A[10,..)"),
    "09 of a tie over two batches the later arrival wins": Case([[B10], [A10]], "A[10,..)"),
    "09 a tie is not won by being delivered again": Case([[A10], [B10], [A10]], "B[10,..)"),
    "10 of an update and a delete at one instant the delete wins": Case([[A10, delete(10)]], ""),
    "10 a delete wins against an update that arrives later": Case([[A5], [delete(10)], [B10]], "A[5,10)"),
    "11 a late event before all history": Case([[A10], [B5]], "B[5,10) A[10,..)"),
    "12 a late event inside a closed version splits it": Case(
        [[A10], [upsert("C", 20)], [B15]], "A[10,15) B[15,20) C[20,..)"
    ),
    "13 several late events in one batch": Case(
        [[A5], [B20], [upsert("X", 7), upsert("Y", 15)]], "A[5,7) X[7,15) Y[15,20) B[20,..)"
    ),
    "14 a late event splits a run of unchanged ones": Case(
        [[A5], [A10], [A15], [upsert("C", 20)], [B12]], "A[5,12) B[12,15) A[15,20) C[20,..)"
    ),
    "15 a late event equal to its neighbour changes nothing": Case([[A10], [B20], [A15]], "A[10,20) B[20,..)"),
    "16 a late event without a change moves the start back": Case([[A10], [B20], [A5]], "A[5,20) B[20,..)"),
    "17 from NULL to a value is a change": Case([[upsert(None, 10)], [A20]], "NULL[10,20) A[20,..)"),
    "18 from a value to NULL is a change": Case([[A10], [upsert(None, 20)]], "A[10,20) NULL[20,..)"),
    "19 from NULL to NULL is none": Case([[upsert(None, 10)], [upsert(None, 20)]], "NULL[10,..)"),
    "20 values that are equal only when joined differ": Case(
        [[upsert("a|bc", 10)], [upsert("ab|c", 20)]], "a|bc[10,20) ab|c[20,..)"
    ),
    "21 a row without a key is set aside and the rest goes on": Case([[NO_KEY, A10]], "A[10,..)"),
    "22 a row without a sequence is never current": Case([[A10, upsert("B", None)]], "A[10,..)"),
    "22 a customer of whom only that is known has no version": Case([[upsert("B", None)]], ""),
    "23 a delete closes the open version": Case([[A10], [delete(20)]], "A[10,20)"),
    "23 a second delete changes nothing": Case([[A10], [delete(20)], [delete(30)]], "A[10,20)"),
    "24 a delete of an unknown customer leaves no row": Case([[delete(5)]], ""),
    "24 and is remembered": Case([[delete(5)], [upsert("A", 3)]], "A[3,5)"),
    "25 an event older than a recorded delete": Case([[delete(20)], [A10]], "A[10,20)"),
    "25 a late delete inside a version shortens it": Case([[A10], [B20], [delete(15)]], "A[10,15) B[20,..)"),
    "26 a customer who comes back unchanged has a gap": Case([[A10], [delete(20)], [A30]], "A[10,20) A[30,..)"),
    "26 a deletion that repeats the values makes the same gap": Case(
        [[A10], [delete(20, tracked="A")], [A30]], "A[10,20) A[30,..)"
    ),
    "26 a late event fills the gap": Case(
        [[A10], [delete(20)], [A30], [upsert("B", 25)]], "A[10,20) B[25,30) A[30,..)"
    ),
    "28 a customer absent from a batch is untouched": Case([[A10], []], "A[10,..)"),
    "29 back to an old value is a third version": Case([[A10], [B20], [A30]], "A[10,20) B[20,30) A[30,..)"),
    "30 an untracked change starts nothing and shows everywhere": Case(
        [[A10], [B20], [upsert("B", 30, "Bea")]], "A:Bea[10,20) B:Bea[20,..)"
    ),
    "30 a late untracked change does not show": Case(
        [[A10], [upsert("A", 20, "Bea")], [upsert("A", 15, "Cid")]], "A:Bea[10,..)"
    ),
    "30 the newest untracked value may be NULL": Case([[A10], [upsert("A", 20, None)]], "A:NULL[10,..)"),
    "30 a delete tells no untracked value": Case([[A10], [delete(20, "Zed")]], "A[10,20)"),
    "32 an empty batch changes nothing": Case([[], [A10], []], "A[10,..)"),
}
"""The known hard cases of slowly changing dimensions; each case is a customer."""


def key_of(case: str) -> str:
    """Return the customer of a case."""
    return f"C-{list(CASES).index(case):03}"


def all_deliveries() -> list[list[Delivery]]:
    """Return the merged batches of all cases: the first batches of all cases, the second ones, and so on."""
    batches: dict[int, list[Delivery]] = defaultdict(list)
    for name, case in CASES.items():
        for number, batch in enumerate(case.deliveries(key_of(name))):
            batches[number] += batch
    return [batches[number] for number in sorted(batches)]


def told(versions: Iterable[Version]) -> dict[str, str]:
    """Return the history of each key in the notation of a case, without keys that have no version."""
    histories: dict[str, list[str]] = defaultdict(list)
    for one in sorted(versions, key=lambda version: (version.key, version.start)):
        name = "" if one.untracked == "Ann" else f":{_text(one.untracked)}"
        histories[one.key].append(f"{_text(one.tracked)}{name}[{one.start},{'..' if one.end is None else one.end})")
    return {key: " ".join(history) for key, history in histories.items()}


def minutes(moment: datetime | None) -> int | None:
    """Return the number of minutes of an instant."""
    return None if moment is None else (moment - MIDNIGHT) // timedelta(minutes=1)


def versions_in(rows: Iterable[dict[str, Any]]) -> list[Version]:
    """Return the rows of the customer dimension as versions, with instants as numbers."""
    return [
        Version(
            row["customer_id"],
            None if row["city"] is None else "|".join(part for part in (row["city"], row["state"]) if part is not None),
            row["first_name"],
            minutes(row["start_date"]),
            minutes(row["end_date"]),
        )
        for row in rows
    ]


def _text(value: str | None) -> str:
    return "NULL" if value is None else value


# Rows of bronze.

CUSTOMER = {
    "first_name": "Ann", "last_name": "Lee", "email": "ann@shop.test", "phone": None, "address": None, "city": "Oslo",
    "state": None, "postal_code": None, "country": "Norway", "segment": None, "signup_date": MIDNIGHT.date(),
    "is_deleted": False,
}  # fmt: skip
PRODUCT = {"product_name": "Kettle", "category": "Home", "brand": "Acme", "list_price": "10.00", "is_active": True}
ORDER = {"quantity": 2, "unit_price": "10.00", "discount_pct": "0.00", "status": "pending", "payment_method": "card"}


def customer(key: str | None, at: int | None, **values: Any) -> dict[str, Any]:
    """Return a row of bronze.customers_raw: a customer's values from this instant on."""
    return {"source": "customers", "customer_id": key, "updated_at": instant(at)} | CUSTOMER | values


def product(key: str | None, at: int | None, **values: Any) -> dict[str, Any]:
    """Return a row of bronze.products_raw."""
    return {"source": "products", "product_id": key, "updated_at": instant(at)} | PRODUCT | values


def order(
    key: str | None, by: str | None, at: int | None, of: str | None = "P-1", updated: int | None = None, **values: Any
) -> dict[str, Any]:
    """Return a row of bronze.orders_raw: an order by a customer, of a product, at an instant."""
    told_at = instant(at if updated is None else updated)
    given = {"order_id": key, "customer_id": by, "product_id": of, "order_ts": instant(at), "updated_at": told_at}
    return {"source": "orders"} | given | ORDER | values


def as_customer(event: Delivery) -> dict[str, Any]:
    """Return an event of a history as a row of bronze.customers_raw."""
    city, _, state = (event.tracked or "").partition("|")
    row = customer(
        event.key,
        event.sequence,
        first_name=event.untracked,
        city=None if event.tracked is None else city,
        state=state or None,
        is_deleted=event.deleted,
    )
    return arrived(row, event.ingested_at, event.source_file)


def arrived(row: dict[str, Any], batch: int, file: str | None = None) -> dict[str, Any]:
    """Return the row as delivered by a batch; a batch with a greater number arrives later."""
    given = {"source_file": file or f"{batch}.csv", "ingested_at": MIDNIGHT + timedelta(days=batch, hours=2)}
    return row | given | {"batch_id": f"{MIDNIGHT + timedelta(days=batch - 1):%Y-%m-%d}"}


def bronze_frame(spark: SparkSession, source: str, rows: Iterable[dict[str, Any]]) -> DataFrame:
    """Return these rows as a DataFrame with the columns of the source's bronze table."""
    contract = SOURCES[source]
    columns = [*contract.columns, *AUDIT_COLUMNS]
    # Decimals are texts here, because texts are exact.
    schema = ", ".join(
        f"`{column.name}` {'STRING' if column.type.startswith('DECIMAL') else column.type}" for column in columns
    )
    values = [tuple(row.get(column.name) for column in columns) for row in rows]
    return spark.createDataFrame(values, schema).selectExpr(
        *(f"CAST(`{column.name}` AS {column.type}) AS `{column.name}`" for column in columns)
    )


def declared_with(target: str, **more: Any) -> list[metadata.TableDefinition]:
    """Return the declared tables; one of them has additional rules."""
    rules = tuple(metadata.Rule.model_validate(rule) for rule in more["rules"])
    return [
        one.model_copy(update={"rules": (*one.rules, *rules)}) if one.target == target else one
        for one in metadata.TABLES.declared()
    ]


# A shop: its bronze, its runs, and the content of silver.

SILVER = ("silver.dim_customers", "silver.dim_products", "silver.orders_clean")


class Shop:
    """A few rows of bronze, silver's runs over them, and the content of the tables afterwards."""

    def __init__(self, spark: SparkSession, home: Settings | None = None) -> None:
        self.spark = spark
        self.home = home or get_settings()

    def clear(self) -> None:
        """Remove every table."""
        lake.clear(self.spark, self.home)

    def deliver(self, *rows: dict[str, Any]) -> None:
        """Add these rows to bronze; rows without an arrival belong to the first batch."""
        by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_source[row["source"]].append(row if "source_file" in row else arrived(row, 1))
        for name, contract in SOURCES.items():
            bronze.create_table(self.spark, contract)
            if by_source[name]:
                lake.append(self.home.lakehouse, contract.bronze_table, by_source[name])

    def run(self, **how: Any) -> dict[str, TableRun]:
        """Run silver; return the run of each table by its name."""
        return {run.table_name: run for run in silver.run(self.spark, settings=self.home, **how)}

    def delivered_and_run(self, *rows: dict[str, Any], **how: Any) -> dict[str, TableRun]:
        """Deliver rows, then run silver."""
        self.deliver(*rows)
        return self.run(**how)

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a query, computed by another engine."""
        return lake.rows(self.home.lakehouse, query)

    def contents(self, *tables: str) -> dict[str, list[str]]:
        """Return every row of these tables as text, in a fixed order; of the quarantine only the unreleased rows."""
        queries = {table: f"SELECT * FROM {table}" for table in tables or SILVER}
        queries["silver.quarantine"] = (
            "SELECT * EXCLUDE (run_id, released_by) FROM silver.quarantine WHERE released_by IS NULL"
        )
        return {table: sorted(map(repr, self.rows(query))) for table, query in queries.items()}

    def customers(self) -> list[Version]:
        """Return the versions in the customer dimension."""
        return versions_in(row._asdict() for row in self.rows("SELECT * FROM silver.dim_customers"))

    def versions(self) -> dict[str, int]:
        """Return the Delta version of each silver table."""
        return {table: catalog.version(self.spark, table) for table in catalog.tables(self.spark, ("silver",))}

    def pointing(self, table: str = "silver.orders_clean") -> dict[str, int | None]:
        """Return for each order the start of its customer's version, None for an inferred member.

        An order that points at no version, or at several, is an error.
        """
        found = self.rows(
            f"""
            SELECT order_id, count(v.customer_sk) AS versions, bool_or(v.is_inferred) AS is_inferred,
                min(start_date) AS start
            FROM {table} o LEFT JOIN silver.dim_customers v USING (customer_sk)
            WHERE o.customer_id IS NOT NULL GROUP BY order_id"""
        )
        assert [row.order_id for row in found if row.versions != 1] == []
        return {row.order_id: None if row.is_inferred else minutes(row.start) for row in found}

    def quality(self, run: TableRun) -> dict[str, int]:
        """Return how many new rows broke each rule in a run, without rules that no row broke."""
        return {
            row.rule: row.rows_failed
            for row in self.rows(
                f"SELECT rule, rows_failed FROM ops.quality_results WHERE run_id = '{run.run_id}' "
                f"AND table_name = '{run.table_name}' AND rows_failed > 0"
            )
        }

    def broken_laws(self) -> list[str]:
        """Return the violated ones of laws 1 and 2, with the number of rows that break them."""
        tracked = "row(email, phone, address, city, state, postal_code, country, segment)"
        parts = [
            f"SELECT '{law}' AS law, count(*) AS broken FROM ({rows})"
            for law, rows in {
                "one open row a customer": "SELECT 1 FROM c WHERE is_current GROUP BY customer_id HAVING count(*) > 1",
                "a version has a length": "SELECT 1 FROM c WHERE start_date >= end_date",
                "no overlap": "SELECT 1 FROM c WHERE next_start < coalesce(end_date, 'infinity'::TIMESTAMPTZ)",
                "current is open": "SELECT 1 FROM c WHERE is_current <> (end_date IS NULL)",
                "neighbours differ": (
                    "SELECT 1 FROM c WHERE next_start = end_date AND next_tracked IS NOT DISTINCT FROM tracked"
                ),
                "it ends by a change or a closed account": (
                    "SELECT 1 FROM c ANTI JOIN bronze.customers_raw b ON b.is_deleted "
                    "AND b.customer_id = c.customer_id AND b.updated_at = c.end_date "
                    "WHERE end_date IS NOT NULL AND end_date IS DISTINCT FROM next_start"
                ),
                "an inferred member is alone": (
                    "SELECT 1 FROM c GROUP BY customer_id HAVING bool_or(is_inferred) AND count(*) > 1"
                ),
                "every order once": "SELECT 1 FROM silver.orders_clean GROUP BY order_id HAVING count(*) > 1",
                "every order is a fact or set aside": (
                    "SELECT order_id FROM bronze.orders_raw WHERE order_id IS NOT NULL EXCEPT "
                    "(SELECT order_id FROM silver.orders_clean UNION SELECT business_key FROM silver.quarantine "
                    "WHERE table_name = 'silver.orders_clean' AND released_by IS NULL)"
                ),
                "every order points at a version of its customer": (
                    "SELECT 1 FROM silver.orders_clean o ANTI JOIN c "
                    "ON o.customer_sk = c.customer_sk AND o.customer_id = c.customer_id "
                    "WHERE o.customer_id IS NOT NULL OR o.customer_sk IS NOT NULL"
                ),
                "in = accepted + quarantined + duplicates": (
                    "SELECT 1 FROM ops.run_log WHERE rows_read <> rows_accepted + rows_quarantined + rows_duplicate"
                ),
                "what is set aside now = quarantined - released + lost by a dimension": (
                    "SELECT 1 FROM (SELECT table_name, count(*) AS rows FROM silver.quarantine "
                    "WHERE released_by IS NULL GROUP BY table_name) "
                    "FULL JOIN logged USING (table_name) WHERE coalesce(rows, 0) <> coalesce(held, 0)"
                ),
            }.items()
        ]
        found = self.rows(
            f"""
            WITH c AS (
                SELECT *, lead(start_date) OVER w AS next_start, lead(tracked) OVER w AS next_tracked
                FROM (SELECT *, {tracked} AS tracked FROM silver.dim_customers)
                WINDOW w AS (PARTITION BY customer_id ORDER BY start_date)
            ), runs AS (
                SELECT *, max(IF(reads[1].from_version IS NULL, started_at, NULL))
                    OVER (PARTITION BY table_name) AS made_at
                FROM ops.run_log WHERE status = 'succeeded' AND table_name LIKE 'silver.%'
            ), lost AS (
                SELECT run_id, table_name, sum(rows_failed) AS lost FROM ops.quality_results
                WHERE rule LIKE '%is_still_known' GROUP BY ALL
            ), logged AS (
                SELECT table_name,
                    sum(rows_quarantined + coalesce(lost, 0) - IF(started_at > made_at, rows_released, 0)) AS held
                FROM runs LEFT JOIN lost USING (run_id, table_name) WHERE started_at >= made_at GROUP BY table_name
            ) {" UNION ALL ".join(parts)}"""
        )
        assert len(found) == len(parts)
        return [f"{row.law}: {row.broken} rows" for row in found if row.broken]
