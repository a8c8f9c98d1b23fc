"""Three places that answer the same questions: a Databricks workspace, the lakehouse of this home, the snapshot.

None needs Spark or Java. A source hands out Arrow tables and says how new they are; which one is asked is decided in
:mod:`dashboard.utils.databricks_connector`.

>>> Lakehouse(get_settings().lakehouse).answer(QUERIES["daily_sales"]).column_names[:3]
['order_date', 'category', 'orders']
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pydantic import SecretStr

from dashboard.utils.queries import QUERIES, Query
from shared import delta_log
from shared.errors import ShopMetricsError, first_line
from shared.settings import CHECKOUT, get_settings

Values = Mapping[str, date | str]
"""What the parameters of a query stand for."""

Ask = tuple[str, tuple[tuple[str, date | str], ...]]
"""A question's name, and its values in order: hashable, so that an answer can be kept."""

GOLD = ("gold.daily_sales_summary", "gold.customer_ltv", "gold.product_performance", "gold.hourly_traffic_metrics")

TABLES = tuple(sorted({table for query in QUERIES.values() for table in query.reads}, key=lambda t: (t not in GOLD, t)))
"""Every table that a page reads, gold first."""

SNAPSHOT = CHECKOUT / "data" / "gold_snapshot"

PARAMETER = re.compile(r"(?<!:):(\w+)")

TABLE_NAME = re.compile(r"\b(bronze|silver|gold|ops)\.(\w+)")


class DashboardError(ShopMetricsError):
    """A question has no answer, or none that may be shown. The page shows this in place of the figure."""


class OutOfReach(DashboardError):
    """A source does not answer, answers too slowly, or refuses the credentials; another one may be asked instead."""


@dataclass(frozen=True)
class TableState:
    """What is known of one table: its version and rows, and when it was last written; None where nobody knows."""

    name: str
    version: int | None = None
    updated_at: datetime | None = None
    rows: int | None = None
    problem: str = ""


class Source(Protocol):
    """Something that answers questions.

    Attributes:
        name: one word for code.
        title: what a page calls it.
    """

    name: str
    title: str

    def version(self, asks: tuple[Ask, ...]) -> str:
        """Return a text that changes when an answer may have changed. Costs no query."""

    def answers(self, asks: tuple[Ask, ...], within: float) -> dict[Ask, pa.Table | DashboardError]:
        """Answer several questions; a question that cannot be answered has its error as the answer.

        Args:
            asks: the questions.
            within: seconds that all of them may take together, where a source can be late.

        Raises:
            OutOfReach: if the source cannot be asked at all.
        """

    def tables(self) -> list[TableState]:
        """Return the state of the tables that the pages read."""


def answer(source: Source, name: str, **values: date | str) -> pa.Table:
    """Answer one question.

    Raises:
        DashboardError: if there is no answer.

    Example:
        >>> answer(Snapshot(), "product_sales", first_date=date(2025, 1, 1), last_date=date(2025, 1, 31)).num_rows
        848
    """
    ask = (name, tuple(sorted(values.items())))
    found = source.answers((ask,), within=30.0)[ask]
    if isinstance(found, DashboardError):
        raise found
    return found


class Lakehouse:
    """The Delta tables of a home, read by delta-rs: its own engine, DataFusion, understands deletion vectors."""

    name = "lakehouse"
    title = "the lakehouse of this home"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def is_there(self) -> bool:
        """Whether a gold table has been made here."""
        return any(self._log(table).is_dir() for table in GOLD)

    def version(self, asks: tuple[Ask, ...]) -> str:
        """Return the newest commit of each table that is read: a listing of a directory each, and no rows."""
        tables = sorted({table for name, _ in asks for table in QUERIES[name].reads})
        return " ".join([str(self.directory), *map(self._newest, tables)])

    def answers(self, asks: tuple[Ask, ...], within: float) -> dict[Ask, pa.Table | DashboardError]:
        """Answer each question by itself: a table that is missing costs the figures that need it, and no other."""
        return {ask: _or_error(self._answer, QUERIES[ask[0]], dict(ask[1])) for ask in asks}

    def answer(self, query: Query, values: Values | None = None) -> pa.Table:
        """Answer one question, also one of those that only the snapshot asks.

        Raises:
            DashboardError: if a table or a column is missing, or cannot be read.
        """
        return self._answer(query, values or {})

    def tables(self) -> list[TableState]:
        """Return version and time of the newest commit of each table, from its log."""
        states = []
        for table in TABLES:
            version = delta_log.newest_version(self._log(table))
            when = delta_log.committed_at(self._log(table), version) if version is not None else None
            states.append(
                TableState(table, version, datetime.fromtimestamp(when, UTC) if when else None)
                if version is not None
                else TableState(table, problem="not built yet")
            )
        return states

    def _log(self, table: str) -> Path:
        return self.directory / table.replace(".", "/") / "_delta_log"

    def _newest(self, table: str) -> str:
        version = delta_log.newest_version(self._log(table))
        if version is None:
            return f"{table}@none"
        # A table that was removed and made again may be at the same version.
        return f"{table}@{version}/{(self._log(table) / f'{version:020d}.json').stat().st_mtime_ns}"

    def _answer(self, query: Query, values: Values) -> pa.Table:
        from deltalake import DeltaTable, QueryBuilder

        builder, sql = QueryBuilder(), query.sql
        for table, columns in query.reads.items():
            if delta_log.newest_version(self._log(table)) is None:
                raise DashboardError(f"{table} is not in {self.directory}.", how_to_build(table))
            try:
                delta = DeltaTable(self._log(table).parent)
            except Exception as error:  # delta-rs has one kind for each thing that a log can lack
                raise _unreadable(table, error) from error
            if missing := [column for column in columns if column not in {f.name for f in delta.schema().fields}]:
                raise DashboardError(
                    f"{table} has no column {', '.join(missing)}: it was made by an older release.",
                    f"`shopmetrics reset {table}`, then {how_to_build(table)}",
                )
            alias = table.replace(".", "__")
            builder.register(alias, delta)
            sql = re.sub(rf"\b{re.escape(table)}\b", alias, sql)
        try:
            return checked(pa.table(builder.execute(bound(sql, values)).read_all()), query)
        except DashboardError:
            raise
        except Exception as error:  # a data file that is gone or cut short
            raise _unreadable(", ".join(query.reads), error) from error


class Snapshot:
    """Answers kept as Parquet in the repository, made from seed 42 by ``python -m dashboard.utils.snapshot``."""

    name = "snapshot"
    title = "the snapshot in the repository"

    def __init__(self, directory: Path = SNAPSHOT) -> None:
        self.directory = directory

    def manifest(self) -> dict[str, Any]:
        """Return what the snapshot says of itself.

        Raises:
            DashboardError: if it is not there, or not JSON.
        """
        try:
            manifest: dict[str, Any] = json.loads((self.directory / "snapshot.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DashboardError(
                f"There is no snapshot in {self.directory}: {first_line(error)}.", "`git checkout data/gold_snapshot`"
            ) from error
        return manifest

    def version(self, asks: tuple[Ask, ...]) -> str:
        """Return the files' times of change."""
        times = [str(file.stat().st_mtime_ns) for file in sorted(self.directory.glob("*"))]
        return " ".join([str(self.directory), *times])

    def answers(self, asks: tuple[Ask, ...], within: float) -> dict[Ask, pa.Table | DashboardError]:
        """Read the answers; those with parameters are worked out by DuckDB."""
        return {ask: _or_error(self._answer, QUERIES[ask[0]], dict(ask[1])) for ask in asks}

    def answer(self, query: Query, values: Values | None = None) -> pa.Table:
        """Answer one question, also one of those that only the snapshot holds.

        Raises:
            DashboardError: if its file is missing, or is not the one that was made.
        """
        return self._answer(query, values or {})

    def tables(self) -> list[TableState]:
        """Return the files with their rows."""
        return [TableState(name, rows=entry["rows"]) for name, entry in self.manifest()["files"].items()]

    def data_through(self) -> date:
        """Return the last day with orders."""
        return date.fromisoformat(self.manifest()["data_through"])

    def _answer(self, query: Query, values: Values) -> pa.Table:
        if not query.parameters:
            return checked(self._read(query.name), query)
        import duckdb

        (name,) = set(re.findall(r"FROM (\w+)", query.from_snapshot))
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            con.register(name, self._read(name))
            found = con.sql(PARAMETER.sub(r"$\1", query.from_snapshot), params=dict(values)).to_arrow_table()
        return checked(found, query)

    def _read(self, name: str) -> pa.Table:
        import pyarrow.parquet as pq

        file = self.directory / f"{name}.parquet"
        entry = self.manifest()["files"].get(name)
        content = file.read_bytes() if file.is_file() else b""
        if entry is None or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            found = f"{len(content)} bytes of {entry['bytes']}" if entry else "no entry in snapshot.json"
            raise DashboardError(
                f"{file.name} of the snapshot is not the file that was made: {found}.",
                "`git checkout data/gold_snapshot`, or make it again: make snapshot",
            )
        return pq.read_table(pa.BufferReader(content))


def source_named(name: str) -> Lakehouse | Snapshot:
    """Return a source of this machine by its name: ``snapshot``, or ``lakehouse`` for the one of this home.

    Raises:
        DashboardError: if there is no such source, or if the lakehouse holds no gold yet.

    Example:
        >>> source_named("snapshot").title
        'the snapshot in the repository'
    """
    if name == Snapshot.name:
        return Snapshot()
    if name != Lakehouse.name:
        raise DashboardError(
            f"There is no source {name!r}: expected 'snapshot' or 'lakehouse'.", 'set source = "snapshot"'
        )
    lakehouse = Lakehouse(get_settings().lakehouse)
    if not lakehouse.is_there():
        raise DashboardError(
            f"There is no gold table in {lakehouse.directory}.",
            '`shopmetrics generate`, then `shopmetrics pipeline run`; or set source = "snapshot"',
        )
    return lakehouse


class Databricks:
    """Gold in a Databricks workspace, asked through a SQL warehouse.

    Args:
        hostname: of the workspace.
        http_path: of the warehouse.
        token: a personal access token, or one of a service principal.
        catalog: the Unity Catalog that holds the schemas.
        uri: address of a stand-in, for tests.
    """

    name = "databricks"
    title = "Databricks SQL"

    REFRESH = 60
    """Seconds for which an answer counts as new: to ask for a table's version would be a query as well."""

    def __init__(self, hostname: str, http_path: str, token: SecretStr, catalog: str, uri: str | None = None) -> None:
        self._hostname, self._http_path, self._token, self._catalog = hostname, http_path, token, catalog
        self._uri = uri

    def version(self, asks: tuple[Ask, ...]) -> str:
        """Return the minute."""
        return str(int(time.time() // self.REFRESH))

    def answers(self, asks: tuple[Ask, ...], within: float) -> dict[Ask, pa.Table | DashboardError]:
        """Ask all questions at once, each on a connection of its own, and wait so long at most.

        Raises:
            OutOfReach: if one of them has no answer in time, or the workspace cannot be reached or refuses the token.
        """
        # Not as a context manager: that would wait for the thread of a server that never answers.
        pool = ThreadPoolExecutor(len(asks), thread_name_prefix="databricks")
        try:
            futures = {pool.submit(self._answer, QUERIES[ask[0]], dict(ask[1]), within): ask for ask in asks}
            _, late = wait(futures, timeout=within)
            if late:
                raise OutOfReach(
                    "Databricks did not answer in time.",
                    "a warehouse that was stopped starts when it is asked; it is asked again in a minute",
                )
            return {ask: future.result() for future, ask in futures.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def tables(self) -> list[TableState]:
        """Return the tables' names; their state is shown by the workspace."""
        return [TableState(table) for table in TABLES]

    def _answer(self, query: Query, values: Values, within: float) -> pa.Table | DashboardError:
        try:
            from databricks import sql
        except ImportError:
            raise OutOfReach(
                "The package databricks-sql-connector is not installed.", "pip install databricks-sql-connector"
            ) from None
        text = TABLE_NAME.sub(rf"`{self._catalog}`.\1.\2", query.sql)
        try:
            with (
                sql.connect(
                    server_hostname=self._hostname,
                    http_path=self._http_path,
                    access_token=self._token.get_secret_value(),
                    enable_telemetry=False,
                    # Its own patience is 15 minutes and 30 attempts.
                    _socket_timeout=within,
                    _retry_stop_after_attempts_count=1,
                    _retry_stop_after_attempts_duration=within,
                    **({"_connection_uri": self._uri} if self._uri else {}),
                ) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute(text, dict(values) or None)
                return checked(cursor.fetchall_arrow(), query)
        except DashboardError as error:
            return error
        except sql.exc.RequestError as error:
            # `from None`: the chain holds the arguments of the call, the token among them.
            raise self._out_of_reach(error) from None
        except sql.exc.DatabaseError as error:
            return DashboardError(
                f"Databricks cannot answer {query.name}: {self._redacted(error)}",
                f"the dashboard needs {', '.join(query.reads)} in the catalog {self._catalog}",
            )
        except Exception as error:  # TLS, DNS, Thrift: each has errors of its own
            raise self._out_of_reach(error) from None

    def _out_of_reach(self, error: Exception) -> OutOfReach:
        if getattr(error, "context", {}).get("http-code") in (401, 403):
            return OutOfReach("Databricks refuses the token.", "make a new one and put it into the secrets")
        return OutOfReach(f"Databricks cannot be reached ({type(error).__name__}).", "see whether the workspace is up")

    def _redacted(self, error: Exception) -> str:
        return first_line(error).replace(self._token.get_secret_value(), "***")[:200]


def bound(sql: str, values: Values) -> str:
    """Return a query with its parameters as literals of their types, for an engine that binds none itself.

    Only dates and text are values here. A quote within a text is doubled, which in standard SQL leaves no way out of
    the literal.

    >>> bound("SELECT * FROM t WHERE a = :a AND b < :b", {"a": "x'; DROP TABLE t", "b": date(2026, 1, 1)})
    "SELECT * FROM t WHERE a = 'x''; DROP TABLE t' AND b < DATE '2026-01-01'"
    """

    def literal(match: re.Match[str]) -> str:
        value = values[match[1]]
        if isinstance(value, date):
            return f"DATE '{value.isoformat()[:10]}'"
        return "'" + value.replace("'", "''") + "'"

    return PARAMETER.sub(literal, sql)


def checked(table: pa.Table, query: Query) -> pa.Table:
    """Return an answer in plain Arrow types, or refuse it: a total over rows without a value would be wrong.

    Raises:
        DashboardError: if a column that must not hold NULL does, naming column and rows.
    """
    fields = []
    for column in table.schema:
        kind = column.type
        if pa.types.is_string_view(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
            kind = pa.string()
        elif pa.types.is_decimal(kind) and kind.scale == 2:
            kind = pa.decimal128(18, 2)
        elif pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", "UTC")
        fields.append(pa.field(column.name, kind))
    table = table.cast(pa.schema(fields))
    empty = {
        name: table[name].null_count
        for name in table.column_names
        if name not in query.nullable and table[name].null_count
    }
    if empty:
        raise DashboardError(
            f"{' and '.join(query.reads)}: NULL in "
            + ", ".join(f"{name} ({rows} of {table.num_rows} groups)" for name, rows in empty.items())
            + ". A sum over them would be wrong, so there is none.",
            "find the rows with `shopmetrics sql`; `shopmetrics pipeline run --full` makes the table again from silver",
        )
    return table


def how_to_build(table: str) -> str:
    """Return the command that makes a table."""
    stream = table in ("gold.hourly_traffic_metrics", "ops.stream_log") or "clickstream" in table
    return "`shopmetrics stream run`" if stream else "`shopmetrics pipeline run`"


def _unreadable(table: str, error: Exception) -> DashboardError:
    return DashboardError(
        f"{table} cannot be read: {first_line(error)[:300]}",
        "a table that is being written is whole again in a moment; else `shopmetrics reset` it, and build it again",
    )


def _or_error(function: Any, query: Query, values: Values) -> pa.Table | DashboardError:
    try:
        found: pa.Table = function(query, values)
    except DashboardError as error:
        return error
    return found
