"""Defects of source files, injected at a stated rate, so that the defects that a pipeline finds can be counted.

A defect is a function from one good row to the row or rows that replace it. The rows are chosen so that no row gets
two defects and no defect causes another:

* *Spoiling* kinds destroy a row. They affect only rows to which no other row refers: customers who never order,
  products that never sell, one third of the orders.
* *Doubling* kinds add a row beside a good one. They affect the other rows: customers who order, products that
  sell, another third of the orders.
* ``late_update`` adds a row for a key of the previous batch, chosen from the rows that doubling may affect.
* ``early_arriving_customer`` damages no row: the order is correct, but its customer arrives a batch later.
  It affects the last third of the orders.
* ``redelivered_file`` copies a whole file of the previous batch, defects included, on day 2 and every fifth day
  after it, at any rate above 0.

A rate of 1 % means that one row in a hundred has one of the other defects, all kinds of the table equally often.
A batch of 100 rows or more has at least one of each kind, so that a small incremental file contains them too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from generators import demand
from generators.plan import Plan
from generators.random_streams import Ints, Stream

Row = dict[str, str]

STATUSES = ("pending", "confirmed", "shipped", "delivered", "cancelled", "returned")
"""Every status that an order can have."""

HOW_TO_FIND = {
    "redelivered_file": "rows that equal, in every field, a row of an earlier batch: all rows of the copied file",
    "malformed_line": "lines with too few or too many fields, or with text where a number or a date must be",
    "null_key": "rows whose first column is empty",
    "null_email": "rows whose email is empty",
    "malformed_email": "rows whose email does not match [^@ ]+@[^@ ]+\\.[^@ ]+ as a whole",
    "non_positive_quantity": "rows whose quantity is zero or negative",
    "unknown_product": "rows whose product_id is in no products file up to this batch",
    "early_arriving_customer": "rows whose customer_id is in no customers file up to this batch",
    "impossible_status": "rows whose status is none of " + ", ".join(STATUSES),
    "duplicate_row": "rows that equal, in every field, a row before them in the same batch",
    "tie": "rows with key and updated_at of a row before them in the same batch, but other values",
    "late_update": "rows whose updated_at is before one that an earlier batch brought for the same key",
}
"""How to find the rows of each kind. If a pipeline looks for the kinds in this order, each among the rows not counted
before, it finds exactly the numbers in the manifest."""

SPOILING = {
    "customers": ("null_email", "malformed_email", "null_key", "malformed_line"),
    "products": ("null_key", "malformed_line"),
    "orders": ("non_positive_quantity", "unknown_product", "impossible_status", "null_key", "malformed_line"),
}
DOUBLING = ("duplicate_row", "tie")
ROW_KINDS = {
    "customers": (*SPOILING["customers"], *DOUBLING, "late_update"),
    "products": (*SPOILING["products"], *DOUBLING, "late_update"),
    "orders": (*SPOILING["orders"], *DOUBLING, "late_update", "early_arriving_customer"),
}
"""The kinds that share the rate, by table."""

_ENOUGH_ROWS = 100
_FIRST_REDELIVERY, _REDELIVERY_EVERY = 2, 5

_UNKNOWN_PRODUCTS = 9_000_000
"""No catalogue is large enough to have a product with this number or a higher one."""


def rows_per_kind(plan: Plan, table: str, day: int, rows: int) -> int:
    """Return how many rows of a batch each kind of defect affects: ``rate * rows / kinds``, rounded at random."""
    if plan.defects == 0:
        return 0
    # The historical load has no late updates.
    kinds = len(ROW_KINDS[table]) - (day == 0)
    luck = plan.stream("defects", table, "rounding").unit(np.array([day]))
    count = int(plan.defects * rows / kinds + float(luck[0]))
    return max(count, 1) if rows >= _ENOUGH_ROWS else count


def early_orders(plan: Plan, day: int) -> int:
    """Return how many orders of a day belong to customers who are delivered only in the next batch."""
    placed = plan.orders if day == 0 else demand.orders_on(plan, day)
    return rows_per_kind(plan, "orders", day, placed)


def is_redelivered(plan: Plan, day: int) -> bool:
    """Tell whether this day's folder also holds the files of the day before, under another name."""
    return plan.defects > 0 and day >= _FIRST_REDELIVERY and (day - _FIRST_REDELIVERY) % _REDELIVERY_EVERY == 0


def null_email(row: Row, variant: int) -> list[Row]:
    """The email is missing."""
    return [{**row, "email": ""}]


def malformed_email(row: Row, variant: int) -> list[Row]:
    """The email is no valid address: no @, two @, nothing after the @, or a blank."""
    name, domain = row["email"].split("@")
    broken = (f"{name}.{domain}", f"{name}@@{domain}", f"{name}@", f"{name} @{domain}")
    return [{**row, "email": broken[variant % len(broken)]}]


def non_positive_quantity(row: Row, variant: int) -> list[Row]:
    """The quantity is zero or negative, alternately."""
    return [{**row, "quantity": "0" if variant % 2 else f"-{row['quantity']}"}]


def unknown_product(row: Row, variant: int) -> list[Row]:
    """The product does not exist."""
    return [{**row, "product_id": f"P-{_UNKNOWN_PRODUCTS + variant}"}]


def impossible_status(row: Row, variant: int) -> list[Row]:
    """The status is not one that an order can have."""
    wrong = ("shiped", "lost", "DELIVERED", "unknown")
    return [{**row, "status": wrong[variant % len(wrong)]}]


def null_key(row: Row, variant: int) -> list[Row]:
    """The key, which is the first column, is missing."""
    return [{**row, next(iter(row)): ""}]


def malformed_line(row: Row, variant: int) -> list[Row]:
    """The line does not fit the schema: one field too few, one too many, or text instead of a number or date."""
    if variant % 3 == 0:
        return [dict(list(row.items())[:-1])]
    if variant % 3 == 1:
        return [{**row, "surplus": "?"}]
    typed = next(column for column in ("quantity", "list_price", "signup_date") if column in row)
    return [{**row, typed: "n/a"}]


def duplicate_row(row: Row, variant: int) -> list[Row]:
    """The row occurs twice."""
    return [row, row]


def tie(row: Row, variant: int) -> list[Row]:
    """A second row has the same key and the same ``updated_at``, but another phone, brand or payment method."""
    if "payment_method" in row:
        rival = {"payment_method": "paypal" if row["payment_method"] == "card" else "card"}
    elif "brand" in row:
        rival = {"brand": f"{row['brand']} Outlet"}
    else:
        rival = {"phone": "" if row["phone"] else "+1 555010100"}
    return [row, {**row, **rival}]


DEFECTS: dict[str, Callable[[Row, int], list[Row]]] = {
    function.__name__: function
    for function in (
        null_email,
        malformed_email,
        non_positive_quantity,
        unknown_product,
        impossible_status,
        null_key,
        malformed_line,
        duplicate_row,
        tie,
    )
}


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Return rows as CSV lines; a field is quoted only if it needs quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


_NAMES = tuple(DEFECTS)


@dataclass(frozen=True)
class Flaws:
    """The rows of a batch that get a defect, and its kind. One array element per affected row, ordered by position.

    Args:
        columns: the header of the table.
        positions: the positions of the affected rows in the clean batch.
        kinds: index into the names of ``DEFECTS``.
        variants: how many earlier rows of the batch have the same kind of defect.
    """

    columns: tuple[str, ...]
    positions: Ints
    kinds: Ints
    variants: Ints

    @classmethod
    def choose(
        cls,
        table: str,
        columns: tuple[str, ...],
        stream: Stream,
        per_kind: int,
        spoilable: range | Ints,
        doublable: range | Ints,
    ) -> Flaws:
        """Choose ``per_kind`` rows for each kind, or fewer if there are not enough. The kinds alternate in the batch.

        Args:
            table: the table whose kinds of defect are used.
            columns: the header of the table.
            stream: the source of the random numbers.
            per_kind: the number of rows for each kind.
            spoilable: positions that a spoiling kind may affect.
            doublable: positions that a doubling kind may affect; none of them is spoilable.
        """
        chosen, kinds, variants = [], [], []
        for family, members, names in (
            ("spoiled", spoilable, SPOILING[table]),
            ("doubled", doublable, DOUBLING),
        ):
            struck = stream.named(family).sample(members, per_kind * len(names))
            turn = np.arange(len(struck), dtype=np.int64)
            chosen.append(struck)
            kinds.append(np.array([_NAMES.index(name) for name in names], dtype=np.int64)[turn % len(names)])
            variants.append(turn // len(names))
        positions = np.concatenate(chosen)
        order = np.argsort(positions)
        return cls(columns, positions[order], np.concatenate(kinds)[order], np.concatenate(variants)[order])

    def counts(self) -> dict[str, int]:
        """Return the number of affected rows by kind."""
        return dict(zip(_NAMES, np.bincount(self.kinds, minlength=len(_NAMES)).tolist(), strict=True))

    def inject(self, lines: pa.Array, first: int) -> pa.Array:
        """Return the CSV lines of the rows from position ``first`` on, with their defects.

        If a doubling kind affects a row, its element holds two lines.
        """
        start, stop = np.searchsorted(self.positions, [first, first + len(lines)])
        if start == stop:
            return lines
        struck = self.positions[start:stop] - first
        rows = csv.reader(lines.take(pa.array(struck)).to_pylist())
        replacements = [
            csv_text(
                spoiled.values()
                for spoiled in DEFECTS[_NAMES[kind]](dict(zip(self.columns, row, strict=True)), variant)
            )
            for row, kind, variant in zip(rows, self.kinds[start:stop], self.variants[start:stop].tolist(), strict=True)
        ]
        mask = np.zeros(len(lines), dtype=bool)
        mask[struck] = True
        return pc.replace_with_mask(lines, pa.array(mask), pa.array(replacements, pa.string()))
