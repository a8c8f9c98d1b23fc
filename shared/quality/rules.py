"""The quality rules of whole tables as data: the rules and metrics of each table, their versions, their mistakes.

Silver's gate checks its rules on new rows, once, before they enter the table (``shared/silver/tables.toml``). A rule
here is checked on the whole table, after every change. So it can answer what no single row can: whether a key is there
twice, whether a day is missing, whether a sum equals that of the layer below. Severities and their words are those of
silver: ``expect`` warns and goes on, ``expect_or_fail`` keeps gold from being made. Nothing is set aside here, because
the rows are in the table already.

Declared in ``shared/quality/rules.toml``. Each version of a rule is a row of ``ops.quality_rules``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from shared.control_table import Declared, Rule, choices, entries, validated
from shared.quarantine import QUARANTINE
from shared.silver.metadata import TABLES

FILE = Path(__file__).with_name("rules.toml")

LEAST_POINTS = 7
"""A window must have at least this many days before a value is compared with it."""

_ROWS = "count(1)"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

Columns = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(lambda names: tuple(sorted(set(names))))]
"""Names of columns whose order means nothing: sorted, so that one set has one fingerprint."""


class RowRule(Rule):
    """A condition that every row must meet, or every row for which ``where`` is true. NULL breaks the rule."""

    kind: Literal["row"] = "row"
    severity: Literal["warn", "fail"]
    where: str | None = None


class _TableRule(Declared):
    """A rule that no single row can answer."""

    name: Name
    severity: Literal["warn", "fail"]


class Matches(_TableRule):
    """A text must match a regular expression as a whole. NULL breaks the rule.

    As a whole: ``$`` would let a line break at the end pass.
    """

    kind: Literal["matches"]
    column: str
    pattern: str
    where: str | None = None

    @property
    def as_row_rule(self) -> RowRule:
        """The same as a condition in SQL."""
        pattern = rf"\A(?:{self.pattern})\z".replace("\\", "\\\\").replace("'", "\\'")
        return RowRule(
            name=self.name,
            severity=self.severity,
            expectation=f"`{self.column}` RLIKE '{pattern}'",
            limit=f"a text of the form {self.pattern}",
            where=self.where,
        )


class Unique(_TableRule):
    """No two rows have the same values in these columns; NULL is the same as NULL.

    With ``where``, only the rows for which it is true are compared.
    """

    kind: Literal["unique"]
    columns: Columns
    where: str | None = None


class Fresh(_TableRule):
    """The newest instant of a column is at most ``within_hours`` before the moment for which rules are checked."""

    kind: Literal["fresh"]
    column: str
    within_hours: float = Field(gt=0)


class Usual(_TableRule):
    """The last whole day is like the days before it: a measure lies in the range that a window of days gives.

    The range is the window's middle and ``sensitivity`` times its spread to both sides, both ends included. ``mad``
    takes the median and the median absolute deviation, which one odd day in the window does not move; ``mean`` takes
    the mean and the standard deviation. With fewer than ``least_points`` days in the window the rule is not judged.
    """

    kind: Literal["usual"]
    day: str
    """SQL: the DATE to which a row belongs."""
    measure: str = _ROWS
    """SQL aggregate over the rows of a day. With the default, a day without rows counts as 0; with others it has no
    value."""
    window: int = Field(14, ge=2)
    method: Literal["mad", "mean"] = "mad"
    sensitivity: float = Field(3, gt=0)
    least_points: int = Field(LEAST_POINTS, ge=2)

    @property
    def counts_rows(self) -> bool:
        """Whether the measure is the number of rows, so that a day without rows has a value too."""
        return self.measure == _ROWS


class NoGap(_TableRule):
    """Every one of the last ``window`` whole days has rows; days before the table's first are not missing."""

    kind: Literal["no_gap"]
    day: str
    window: int = Field(14, ge=1)


class Accounted(_TableRule):
    """Every row of bronze is accounted for: rows in bronze = accepted + quarantined + duplicates (law 2)."""

    kind: Literal["accounted"]


class Equals(_TableRule):
    """Each group of the table equals the same group of another table: gold is reconciled with silver (law 3).

    ``measures`` maps a column of this table to a SQL aggregate over the rows of ``source`` for which ``where`` is true.
    Amounts are compared exactly, NULL with NULL as equal; a group that only one side has differs.
    """

    kind: Literal["equals"]
    source: str
    by: Columns
    where: str = "true"
    measures: dict[str, str] = Field(min_length=1)


AnyRule = Annotated[
    RowRule | Matches | Unique | Fresh | Usual | NoGap | Accounted | Equals, Field(discriminator="kind")
]


class Metric(Declared):
    """A number about a table that is recorded for its trend; no rule judges it."""

    name: Name
    expression: str
    """SQL aggregate."""


class TableRules(Declared):
    """The rules and metrics of one table."""

    target: str
    rules: tuple[AnyRule, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @field_validator("rules", mode="before")
    @classmethod
    def _row_is_the_default(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"kind": "row", **one} if isinstance(one, dict) else one for one in value]

    @property
    def layer(self) -> str:
        """The schema of the table."""
        return self.target.partition(".")[0]

    @property
    def row_rules(self) -> tuple[RowRule, ...]:
        """The rules that are checked on each row alone."""
        found = (rule.as_row_rule if isinstance(rule, Matches) else rule for rule in self.rules)
        return tuple(rule for rule in found if isinstance(rule, RowRule))

    @property
    def days(self) -> tuple[str, ...]:
        """The expressions by which rows are grouped into days, each once."""
        return tuple(dict.fromkeys(rule.day for rule in self.rules if isinstance(rule, Usual | NoGap)))

    @property
    def reads(self) -> tuple[str, ...]:
        """The table itself, and the tables that it is compared with."""
        others = [rule.source for rule in self.rules if isinstance(rule, Equals)]
        others += [QUARANTINE for rule in self.rules if isinstance(rule, Accounted)]
        return tuple(dict.fromkeys((self.target, *others)))

    @property
    def fingerprints(self) -> dict[str, str]:
        """Each rule's and metric's name to its fingerprint."""
        return {one.name: fingerprint(self.target, one) for one in (*self.rules, *self.metrics)}


def fingerprint(target: str, declared: Declared) -> str:
    """Return a short text that is the same for the same rule of the same table, in every process and in every order.

    Example:
        >>> fingerprint("silver.orders_clean", Accounted(name="all", severity="fail", kind="accounted"))
        '8f13f3d99e8bd0f1'
    """
    return hashlib.sha256(as_text(target, declared).encode()).hexdigest()[:16]


def as_text(target: str, declared: Declared) -> str:
    """Return a rule as one line of JSON, its names sorted: what a fingerprint is made from."""
    return json.dumps({"target": target, **declared.model_dump(mode="json")}, sort_keys=True)


def declared(file: Path | None = None) -> list[TableRules]:
    """Return the rules declared in a file; it defaults to ``shared/quality/rules.toml``.

    Raises:
        MetadataError: naming every entry that is not a rule, all at once.

    Example:
        >>> [one.target for one in quality.declared() if one.layer == "gold"]
        ['gold.daily_sales_summary', 'gold.customer_ltv', 'gold.product_performance']
    """
    file = file or FILE
    return validated(TableRules, entries(file), file.name)


def problems(
    definitions: Sequence[TableRules], columns: Mapping[str, Sequence[str]], known: Iterable[str]
) -> list[str]:
    """Return everything that is wrong with these rules taken together, each as a sentence; none if all is well.

    Pure: neither a table nor the engine is touched. Whether an expression is SQL, only the engine can say.

    Args:
        definitions: the rules of every table.
        columns: the columns of every table that is there.
        known: the names of all tables that may exist. A table that does not exist yet is not a mistake.
    """
    known = list(known)
    found = []
    targets = [one.target for one in definitions]
    found += [f"{name}: declared more than once" for name in sorted({n for n in targets if targets.count(n) > 1})]
    for one in definitions:
        names = [rule.name for rule in (*one.rules, *one.metrics)]
        found += [
            f"{one.target}: {name} is there more than once" for name in sorted(set(names)) if names.count(name) > 1
        ]
        found += [f"{one.target}: unknown table: expected one of {choices(known)}"] * (one.target not in known)
        for rule in one.rules:
            found += [f"{one.target}: rule {rule.name}: {problem}" for problem in _problems(rule, one, columns, known)]
    return found


def _problems(
    rule: AnyRule, table: TableRules, columns: Mapping[str, Sequence[str]], known: Sequence[str]
) -> Iterable[str]:
    named = {table.target: _columns_of(rule)}
    if isinstance(rule, Equals):
        named = {table.target: (*rule.by, *rule.measures), rule.source: rule.by}
        if rule.source not in known:
            yield f"unknown source {rule.source}: expected one of {choices(known)}"
    for name, wanted in named.items():
        if name in columns:
            there = columns[name]
            yield from (f"unknown column {one}: {name} has {choices(there)}" for one in wanted if one not in there)
    if isinstance(rule, RowRule) and re.search(r"(?i)(rlike|regexp\w*)\b.*\$'", rule.expectation):
        yield r"its pattern ends in $, which lets a line break at the end pass: end it in \\z, or use kind = matches"
    if isinstance(rule, Usual) and rule.least_points > rule.window:
        yield f"least_points {rule.least_points} is more than the {rule.window} days of its window: it is never judged"
    accounted = [one.target for one in TABLES.declared()]
    if isinstance(rule, Accounted) and table.target not in accounted:
        yield f"its source's rows have no account: expected one of {choices(accounted)}"


def _columns_of(rule: AnyRule) -> tuple[str, ...]:
    if isinstance(rule, Unique):
        return rule.columns
    return (rule.column,) if isinstance(rule, Matches | Fresh) else ()


def new_versions(
    definitions: Sequence[TableRules], newest: Mapping[tuple[str, str], tuple[int, str | None]]
) -> list[tuple[str, str, int, str | None, str | None]]:
    """Return the versions that are to be added so that ``ops.quality_rules`` holds these rules; none if it does.

    Nothing is overwritten. A rule that differs from its newest version gets a new version. A rule that is no longer
    declared gets a version without a definition. A rule that returns to an older definition gets a new version too.

    Args:
        definitions: the rules of every table.
        newest: (table, name) to the number and the fingerprint of the newest version.

    Returns:
        For each: table, name, version, fingerprint, definition.
    """
    declared = {(one.target, rule.name): rule for one in definitions for rule in (*one.rules, *one.metrics)}
    added = []
    for key in sorted(declared.keys() | newest.keys()):
        number, before = newest.get(key, (0, None))
        rule = declared.get(key)
        now = fingerprint(key[0], rule) if rule else None
        if now != before:
            added.append((*key, number + 1, now, as_text(key[0], rule) if rule else None))
    return added
