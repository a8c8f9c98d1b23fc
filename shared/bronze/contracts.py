"""The contract of each source: columns, types and meaning. Tables, parsing and checks are derived from it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How a value of a type is written. Other texts are refused: reading them could change the value silently."""

    pattern: str
    """A regular expression that the whole text matches, in the syntax that Java and Python share."""
    expected: str
    """The form in words, for the person who corrects the file."""


_DAY = r"(?!0000)\d{4}-\d{2}-\d{2}"
_WHOLE_NUMBER = Form(r"[+-]?\d+", "a whole number")
_FORMS = {
    "TINYINT": _WHOLE_NUMBER,
    "SMALLINT": _WHOLE_NUMBER,
    "INT": _WHOLE_NUMBER,
    "BIGINT": _WHOLE_NUMBER,
    "BOOLEAN": Form("[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]", "true or false"),
    "DATE": Form(_DAY, "a date such as 2025-03-01"),
    # With a T for the blank, fractions of a second or a zone, the instant is still unambiguous.
    "TIMESTAMP": Form(
        _DAY + r"[ T]\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})?", "an instant such as 2025-03-01 14:03:22"
    ),
}


@dataclass(frozen=True)
class Column:
    """One column: its name, its Spark SQL type and what it means."""

    name: str
    type: str
    comment: str

    @property
    def ddl(self) -> str:
        """The column as it is written in a schema string."""
        return f"`{self.name}` {self.type}"

    @property
    def form(self) -> Form | None:
        """The form of its values; None if every text is a value, or if the engine's cast decides."""
        if decimal := re.fullmatch(r"DECIMAL\((\d+), ?(\d+)\)", self.type):
            precision, scale = map(int, decimal.groups())
            decimals = rf"(\.\d{{1,{scale}}})?" if scale else ""
            words = (
                f"a number such as {1234:.{min(scale, 2)}f}, of at most {precision} digits, {scale} of them decimals"
            )
            return Form(rf"[+-]?\d+{decimals}", words)
        return _FORMS.get(self.type)


@dataclass(frozen=True)
class Source:
    """One source table: files in ``<landing volume>/<name>/<batch date>/``, ``*.csv`` or ``*.csv.gz``."""

    name: str
    comment: str
    columns: tuple[Column, ...]

    @property
    def bronze_table(self) -> str:
        """The table its rows land in."""
        return f"bronze.{self.name}_raw"

    @property
    def column_names(self) -> list[str]:
        """The source's own columns, in the order of its files' headers."""
        return [column.name for column in self.columns]


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


AUDIT_COLUMNS = _columns(
    ("_malformed", "STRING", "the line as delivered, if it does not fit the columns; else NULL"),
    ("_reason", "STRING", "why it does not fit: column, value and what was expected; else NULL"),
    ("_extra", "MAP<STRING, STRING>", "values of columns that the file has and the contract does not; else NULL"),
    ("source_file", "STRING", "the file, relative to the landing volume"),
    ("batch_id", "STRING", "the batch date, the name of the file's folder"),
    ("ingested_at", "TIMESTAMP", "when the nightly run ingested it, UTC"),
)
"""The columns that bronze adds to every row."""

CUSTOMERS = Source(
    "customers",
    "Customers as delivered, one row per change.",
    _columns(
        ("customer_id", "STRING", "business key"),
        ("first_name", "STRING", "given name"),
        ("last_name", "STRING", "family name"),
        ("email", "STRING", "a NULL or malformed one is a defect"),
        ("phone", "STRING", "NULL if unknown"),
        ("address", "STRING", "street and number, NULL if unknown"),
        ("city", "STRING", "NULL if unknown"),
        ("state", "STRING", "state or region, NULL if unknown"),
        ("postal_code", "STRING", "text: leading zeros count; NULL if unknown"),
        ("country", "STRING", "English name of the country"),
        ("segment", "STRING", "NULL if not yet assigned"),
        ("signup_date", "DATE", "first day as a customer"),
        ("is_deleted", "BOOLEAN", "true when the account was closed"),
        ("updated_at", "TIMESTAMP", "business time of this change, UTC"),
    ),
)

PRODUCTS = Source(
    "products",
    "Products as delivered, one row per change.",
    _columns(
        ("product_id", "STRING", "business key"),
        ("product_name", "STRING", "name in the shop"),
        ("category", "STRING", "one of eight"),
        ("brand", "STRING", "maker"),
        ("list_price", "DECIMAL(12,2)", "price before discount"),
        ("is_active", "BOOLEAN", "false when no longer sold"),
        ("updated_at", "TIMESTAMP", "business time of this change, UTC"),
    ),
)

ORDERS = Source(
    "orders",
    "Orders as delivered, one row per status an order reached.",
    _columns(
        ("order_id", "STRING", "business key"),
        ("customer_id", "STRING", "who ordered"),
        ("product_id", "STRING", "what was ordered"),
        ("order_ts", "TIMESTAMP", "when it was ordered, UTC"),
        ("quantity", "INT", "units, at least 1"),
        ("unit_price", "DECIMAL(12,2)", "list price of the product at order_ts"),
        ("discount_pct", "DECIMAL(5,2)", "percent off, 0 to 100"),
        ("status", "STRING", "pending, confirmed, shipped, delivered, cancelled or returned"),
        ("payment_method", "STRING", "how it was paid"),
        ("updated_at", "TIMESTAMP", "business time of this change, UTC"),
    ),
)

SOURCES = {source.name: source for source in (CUSTOMERS, PRODUCTS, ORDERS)}
"""Every source by name, in the order in which they are ingested."""
