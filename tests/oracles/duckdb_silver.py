"""Silver computed by DuckDB and delta-rs: the rival of the Spark pipeline, and an independent check of its results.

    .venv/bin/python tests/oracles/duckdb_silver.py data /tmp/silver --threads 2 --memory-limit 2GB

It computes all of silver from all of bronze, in SQL of its own: only the names and types of the source columns come
from ``shared``. There are no surrogate keys, because DuckDB does not have Spark's hash function. Instead
``orders_clean`` names the version of its customer by ``customer_id`` and ``customer_start_date``, which is equivalent.

It is fast because most keys occur once in bronze. Such a row is no duplicate and is the latest of its key, so it
streams from Parquet through rules and joins to the writer. Only the rows of the other keys are kept in memory and
sorted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
from deltalake import DeltaTable, write_deltalake

if __name__ == "__main__":  # if this file is run as a script, the checkout is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shared.bronze.contracts import SOURCES, Source

RULES: dict[str, dict[str, str]] = {
    "customers": {
        "line_is_well_formed": "_malformed IS NULL",
        "customer_id_is_not_null": "trim(customer_id) <> ''",
        "updated_at_is_not_null": "updated_at IS NOT NULL",
        "updated_at_is_not_in_the_future": "updated_at <= arrival.ingested_at + INTERVAL 1 DAY",
        "email_is_not_null": "email IS NOT NULL",
        "email_is_valid": r"regexp_full_match(email, '[^@ ]+@[^@ ]+\.[^@ ]+')",
    },
    "products": {
        "line_is_well_formed": "_malformed IS NULL",
        "product_id_is_not_null": "trim(product_id) <> ''",
        "updated_at_is_not_null": "updated_at IS NOT NULL",
        "updated_at_is_not_in_the_future": "updated_at <= arrival.ingested_at + INTERVAL 1 DAY",
        "list_price_is_not_negative": "list_price >= 0",
        "category_is_not_null": "trim(category) <> ''",
    },
    "orders": {
        "line_is_well_formed": "_malformed IS NULL",
        "order_id_is_not_null": "trim(order_id) <> ''",
        "updated_at_is_not_null": "updated_at IS NOT NULL",
        "updated_at_is_not_in_the_future": "updated_at <= arrival.ingested_at + INTERVAL 1 DAY",
        "customer_id_is_not_blank": "customer_id IS NULL OR trim(customer_id) <> ''",
        "product_id_is_not_null": "trim(product_id) <> ''",
        "order_ts_is_not_null": "order_ts IS NOT NULL",
        "order_ts_is_not_in_the_future": "order_ts <= arrival.ingested_at",
        "quantity_is_positive": "quantity > 0",
        "unit_price_is_not_negative": "unit_price >= 0",
        "discount_pct_is_in_range": "discount_pct BETWEEN 0 AND 100",
        "status_is_known": "status IN ('pending', 'confirmed', 'shipped', 'delivered', 'cancelled', 'returned')",
        "gross_amount_fits": "quantity * unit_price < 10_000_000_000",
        "product_id_is_known": "product_id IN (SELECT product_id FROM dim_products)",
    },
}
"""The rules of each source, in order: the name, and the SQL condition of a good row. NULL counts as broken."""

TARGETS = {"products": "dim_products", "customers": "dim_customers", "orders": "orders_clean"}
"""The silver table of each source, in the order in which the tables are computed."""

DIM_PRODUCTS = """
CREATE TEMP TABLE dim_products AS
SELECT product_id, product_name, category, brand, list_price, is_active, updated_at FROM products_latest
"""

# A version is valid for the orders placed from serves_from until serves_until: its own interval and any gap after it.
# The first version is also valid for older orders. These intervals cover all time, so a hash join finds the version; an
# ASOF join would sort all orders.
CUSTOMER_VERSIONS = """
CREATE TEMP TABLE customer_versions AS
WITH events AS (
    SELECT * REPLACE (is_deleted IS TRUE AS is_deleted),
        row(email, phone, address, city, state, postal_code, country, segment) AS tracked
    FROM customers_repeated_latest
), changes AS (
    SELECT *,
        arg_max(struct_pack(first_name, last_name, signup_date), updated_at)
            FILTER (NOT is_deleted) OVER (PARTITION BY customer_id) AS newest
    FROM events
    WINDOW history AS (PARTITION BY customer_id ORDER BY updated_at)
    QUALIFY is_deleted OR lag(is_deleted, 1, true) OVER history OR tracked IS DISTINCT FROM lag(tracked) OVER history
), intervals AS (
    SELECT *, updated_at AS start_date, lead(updated_at) OVER history AS end_date
    FROM changes
    WINDOW history AS (PARTITION BY customer_id ORDER BY updated_at)
)
SELECT customer_id, newest.first_name, newest.last_name, email, phone, address, city, state, postal_code, country,
    segment, newest.signup_date, start_date, end_date,
    CASE WHEN row_number() OVER history = 1 THEN TIMESTAMP '-infinity' ELSE start_date END AS serves_from,
    lead(start_date, 1, TIMESTAMP 'infinity') OVER history AS serves_until
FROM intervals
WHERE NOT is_deleted
WINDOW history AS (PARTITION BY customer_id ORDER BY start_date)
UNION ALL
SELECT customer_id, first_name, last_name, email, phone, address, city, state, postal_code, country,
    segment, signup_date, updated_at, NULL, TIMESTAMP '-infinity', TIMESTAMP 'infinity'
FROM customers_once
WHERE rule IS NULL AND is_deleted IS NOT TRUE
"""

# This runs after orders_clean, because {orders} come from it: to read its few orders without a version saves a pass
# over bronze. An accepted event may name a customer although a later event of the same order has superseded it.
DIM_CUSTOMERS = """
SELECT * EXCLUDE (serves_from, serves_until), end_date IS NULL AS is_current, false AS is_inferred
FROM customer_versions
UNION ALL BY NAME
SELECT DISTINCT customer_id, TIMESTAMP '1900-01-01' AS start_date, true AS is_current, true AS is_inferred
FROM (
    SELECT customer_id FROM {orders} WHERE customer_start_date = TIMESTAMPTZ '1900-01-01 00:00:00+00'
    UNION ALL
    SELECT customer_id FROM orders_repeated WHERE rule IS NULL AND customer_id IS NOT NULL
) ANTI JOIN customer_versions USING (customer_id)
"""

# No division, so that all values stay decimals: a division would give doubles. For values that are not negative, round
# is half-up.
ORDERS_CLEAN = """
WITH orders AS (
    SELECT *, (quantity * unit_price)::DECIMAL(12,2) AS gross_amount,
        round(quantity * unit_price * (100 - discount_pct) * 0.01, 2)::DECIMAL(12,2) AS net_amount
    FROM orders_latest
)
SELECT order_id, o.customer_id,
    CASE WHEN o.customer_id IS NOT NULL THEN coalesce(start_date, TIMESTAMP '1900-01-01') END AS customer_start_date,
    o.product_id,
    category, order_ts, order_ts::DATE AS order_date, quantity, unit_price, discount_pct, gross_amount,
    (gross_amount - net_amount)::DECIMAL(12,2) AS discount_amount, net_amount, status, payment_method, o.updated_at
FROM orders o
JOIN dim_products p ON o.product_id = p.product_id
LEFT JOIN customer_versions v
    ON o.customer_id = v.customer_id AND order_ts >= serves_from AND order_ts < serves_until
"""

QUARANTINE = " UNION ALL ".join(
    f"SELECT 'silver.{target}' AS table_name, rule, unnest(broken, recursive := true) FROM {name}_judged"
    for name, target in TARGETS.items()
)


def silver(bronze: Path, out: Path, *, memory_limit: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Compute silver from bronze and write it as four Delta tables, which replace existing ones.

    Args:
        bronze: directory of the bronze tables, ``<home>/lakehouse/bronze``.
        out: directory to write to: ``dim_products``, ``dim_customers``, ``orders_clean``, and ``quarantine`` with
            table_name, rule, source_file, row_json. All timestamps are UTC instants.
        memory_limit: the memory that DuckDB may use, for example ``2GB``; beyond it, DuckDB spills to disk.
        threads: the number of DuckDB's threads; defaults to all cores.

    Returns:
        ``rows``: for each table the independent counts ``read``, ``accepted``, ``quarantined`` and ``duplicates``;
        ``seconds``: the wall time of each step.

    Example:
        >>> silver(Path("data/lakehouse/bronze"), Path("/tmp/silver"))["rows"]["orders_clean"]      # doctest: +SKIP
        {'read': 104473, 'accepted': 102653, 'quarantined': 640, 'duplicates': 1180}
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - begun

    with _connection(memory_limit, threads) as con:
        for name in TARGETS:
            with step(f"events of {name}"):
                _events(con, SOURCES[name], _scan(bronze / f"{name}_raw", SOURCES[name]))
                if name == "products":
                    con.execute(DIM_PRODUCTS)
                elif name == "customers":
                    con.execute(CUSTOMER_VERSIONS)
        with step("write dim_products"):
            _write(con, "FROM dim_products", out / "dim_products")
        with step("write orders_clean"):
            _write(con, ORDERS_CLEAN, out / "orders_clean")
        with step("write dim_customers"):
            orders = _read_parquet(out / "orders_clean", "customer_id STRING, customer_start_date TIMESTAMPTZ")
            _write(con, DIM_CUSTOMERS.format(orders=orders), out / "dim_customers")
        with step("judge"):
            rows = {target: _judge(con, SOURCES[name]) for name, target in TARGETS.items()}
        with step("write quarantine"):
            _write(con, QUARANTINE, out / "quarantine")
    return {"rows": rows, "seconds": seconds}


@contextmanager
def _connection(memory_limit: str | None, threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, Any] = {"preserve_insertion_order": False}
    config |= {"memory_limit": memory_limit} if memory_limit else {}
    config |= {"threads": threads} if threads else {}
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(config={**config, "temp_directory": spill}) as con:
        con.execute("SET TimeZone = 'UTC'")
        yield con


def _scan(path: Path, source: Source) -> str:
    """Return a query of a bronze table's rows, with timestamps in UTC but without a time zone, which are faster."""
    types = {column.name: column.type for column in source.columns}
    types |= {"_malformed": "STRING", "source_file": "STRING", "ingested_at": "TIMESTAMP"}
    columns = ", ".join(
        f"make_timestamp(epoch_us({name})) AS {name}" if kind == "TIMESTAMP" else name for name, kind in types.items()
    )
    return f"SELECT {columns} FROM {_read_parquet(path, ', '.join(f'{name} {kind}' for name, kind in types.items()))}"


def _read_parquet(path: Path, columns: str) -> str:
    """Return the text of a Delta table for a FROM clause; a table without files gives no rows with these columns."""
    if files := parquet_files(path):
        return "read_parquet([" + ", ".join("'" + file.replace("'", "''") + "'" for file in files) + "])"
    return "(SELECT unnest([]::STRUCT(" + columns + ")[], recursive := true))"


def _events(con: duckdb.DuckDBPyConnection, source: Source, scan: str) -> None:
    """Create ``<source>_events``: one row per distinct payload, with its arrival and the first rule that it breaks.

    It is the union of ``_once``, a view of the rows whose key occurs once, and ``_repeated``, a table of the others.
    ``<source>_latest`` has the last accepted event of each key (for ``customers``: of each key and instant).
    """
    name, key = source.name, source.column_names[0]
    gate = "CASE " + " ".join(f"WHEN ({good}) IS NOT TRUE THEN '{rule}'" for rule, good in RULES[name].items()) + " END"
    one_of = f"{key}, updated_at" if name == "customers" else key
    deletes_first = "is_deleted IS TRUE DESC, " if name == "customers" else ""
    greatest = ", ".join(f"{column} DESC NULLS LAST" for column in source.column_names)
    arrival = "struct_pack(ingested_at, source_file)"
    con.execute(f"""
        CREATE TEMP VIEW {name}_raw AS {scan};

        CREATE TEMP TABLE {name}_repeated_keys AS
        SELECT {key} FROM {name}_raw GROUP BY {key} HAVING count(*) > 1;

        CREATE TEMP VIEW {name}_once AS
        SELECT *, 1 AS copies, {gate} AS rule
        FROM (
            SELECT * EXCLUDE (ingested_at, source_file), {arrival} AS arrival
            FROM {name}_raw r ANTI JOIN {name}_repeated_keys k ON r.{key} IS NOT DISTINCT FROM k.{key}
        );

        CREATE TEMP TABLE {name}_repeated AS
        SELECT *, {gate} AS rule
        FROM (
            SELECT * EXCLUDE (ingested_at, source_file), min({arrival}) AS arrival, count(*) AS copies
            FROM {name}_raw r SEMI JOIN {name}_repeated_keys k ON r.{key} IS NOT DISTINCT FROM k.{key}
            GROUP BY ALL
        );

        CREATE TEMP VIEW {name}_events AS FROM {name}_once UNION ALL FROM {name}_repeated;

        CREATE TEMP TABLE {name}_repeated_latest AS
        FROM {name}_repeated
        WHERE rule IS NULL
        QUALIFY row_number() OVER (
            PARTITION BY {one_of} ORDER BY updated_at DESC, {deletes_first}arrival DESC, {greatest}
        ) = 1;

        CREATE TEMP VIEW {name}_latest AS
        (FROM {name}_once WHERE rule IS NULL) UNION ALL FROM {name}_repeated_latest;
    """)


def _judge(con: duckdb.DuckDBPyConnection, source: Source) -> dict[str, int]:
    """Create ``<source>_judged``, the events and broken rows by rule, NULL for accepted events; return the counts."""
    name, payload = source.name, ", ".join([*source.column_names, "_malformed"])
    con.execute(f"""
        CREATE TEMP TABLE {name}_judged AS
        SELECT rule, count(*) AS events, sum(copies - 1) AS duplicates,
            list(CASE WHEN rule IS NOT NULL THEN
                struct_pack(source_file := arrival.source_file, row_json := to_json(struct_pack({payload}))::VARCHAR)
            END) FILTER (rule IS NOT NULL) AS broken
        FROM {name}_events GROUP BY rule""")
    counted = con.sql(f"""
        SELECT (SELECT count(*) FROM {name}_raw) AS read, sum(events) FILTER (rule IS NULL) AS accepted,
            sum(len(broken)) AS quarantined, sum(duplicates) AS duplicates
        FROM {name}_judged""")
    (numbers,) = counted.fetchall()
    return {column: int(number or 0) for column, number in zip(counted.columns, numbers, strict=True)}


def _write(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Stream the rows of a query into a Delta table, whose timestamps have a time zone again."""
    relation = con.sql(query)
    columns = ", ".join(
        f"make_timestamptz(epoch_us({name})) AS {name}" if str(kind) == "TIMESTAMP" else name
        for name, kind in zip(relation.columns, relation.types, strict=True)
    )
    rows = relation.project(columns).to_arrow_reader(100_000)
    write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")


def parquet_files(path: Path) -> list[str]:
    """Return the Parquet files of a Delta table's latest version, for DuckDB or ``pyarrow.parquet`` to read.

    DuckDB's own Delta reader is an extension that must be downloaded. delta-rs's ``to_pyarrow_table`` calls Python from
    pyarrow's threads, which sometimes aborts the process at its end.

    Raises:
        ValueError: if plain Parquet files are not enough to read the table, for example with deletion vectors.
    """
    table = DeltaTable(path)
    if table.protocol().min_reader_version > 1:
        raise ValueError(
            f"{path} cannot be read as plain Parquet files: its log asks for a reader newer than version 1"
        )
    return [unquote(uri) for uri in table.file_uris()]


def peak_mb() -> float:
    """Return the peak resident memory of this process, in MB."""
    import psutil

    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak is None:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return float(peak) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute silver with DuckDB and delta-rs, and say what it took.")
    parser.add_argument("home", type=Path, metavar="HOME", help="the home whose bronze tables are read")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write the silver tables to")
    parser.add_argument("--threads", type=int, help="of DuckDB; default: all cores")
    parser.add_argument("--memory-limit", help="of DuckDB, for example 2GB; default: most of the memory")
    given = parser.parse_args()
    result = silver(
        given.home / "lakehouse" / "bronze", given.out, memory_limit=given.memory_limit, threads=given.threads
    )
    for table, rows in result["rows"].items():
        print(f"{table:24}" + "  ".join(f"{rows[kind]:>12,} {kind}" for kind in rows))
    for name, seconds in result["seconds"].items():
        print(f"{name:24}{seconds:8.2f} s")
    total = sum(result["seconds"].values())
    print(f"{'total':24}{total:8.2f} s, {time.process_time():.2f} s of CPU, peak {peak_mb():,.0f} MB")


if __name__ == "__main__":
    main()
