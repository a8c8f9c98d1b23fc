"""Control tables: the declarations of a layer's tables, checked, and published where SQL can read them.

A table is declared once, as a ``[[table]]`` of the layer's TOML file, and published into the layer's control table in
``ops``. A row that is added there by ``INSERT`` declares a table too. All mistakes in the declarations are reported
together, with the valid choices, before anything runs.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared import catalog
from shared.errors import MetadataError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Severity = Literal["warn", "quarantine", "fail"]

_VOCABULARY: dict[str, Severity] = {"expect": "warn", "expect_or_quarantine": "quarantine", "expect_or_fail": "fail"}


class Declared(BaseModel):
    """Part of a declaration. An unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Declared):
    """A condition that a row must meet, and what happens to one that does not.

    ``expectation`` is a SQL expression over the source's columns. A row breaks the rule if the expression is false or
    NULL. In a declaration, the field that holds the expression names the consequence: ``expect`` counts the row and
    goes on, ``expect_or_quarantine`` sets it aside, ``expect_or_fail`` stops the table before anything is written.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    severity: Severity
    expectation: str
    limit: str
    """The expected value in words, for the reason in the quarantine."""

    @model_validator(mode="before")
    @classmethod
    def _spoken(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "severity" in value:
            return value
        words = _VOCABULARY.keys() & value.keys()
        if len(words) != 1:
            raise ValueError(f"expected exactly one of {', '.join(_VOCABULARY)}, found {', '.join(words) or 'none'}")
        word = words.pop()
        rest = {name: item for name, item in value.items() if name != word}
        return {**rest, "severity": _VOCABULARY[word], "expectation": value[word]}


def not_null(column: str, severity: Severity) -> Rule:
    """Return the rule that a column has a value."""
    return Rule(name=f"{column}_is_not_null", severity=severity, expectation=f"`{column}` IS NOT NULL", limit="a value")


def identifies(column: str, severity: Severity) -> Rule:
    """Return the rule that a column holds an identifier: NULL, empty and blank values break it."""
    # Blank means invisible: spaces of every kind, tabs, no-break and zero-width spaces, control characters.
    visible = r"'(?U)[^\\s\\p{C}]'"
    return Rule(
        name=f"{column}_is_not_null", severity=severity, expectation=f"`{column}` RLIKE {visible}", limit="a value"
    )


class Definition(Declared):
    """The part of a declaration that the tables of every layer have."""

    target: str
    comment: str = ""
    source: str
    processing_order: int
    depends_on: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    is_enabled: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """The tables that the table is made from."""
        return (self.source,)

    @property
    def gate(self) -> tuple[Rule, ...]:
        """All rules of the table in the order in which they are checked: those that every table has, then its own."""
        return self.rules

    @property
    def fingerprint(self) -> str:
        """A hash of the definition. If it differs from the one a table was made by, the table must be rebuilt."""
        meaning = self.model_dump(exclude={"comment", "processing_order", "is_enabled"})
        return hashlib.sha256(repr(sorted(meaning.items())).encode()).hexdigest()[:16]


D = TypeVar("D", bound=Definition)
M = TypeVar("M", bound=Declared)


def entries(file: Path) -> list[dict[str, Any]]:
    """Return the ``[[table]]`` entries of a TOML file.

    Raises:
        MetadataError: if it is not TOML.
    """
    try:
        found: list[dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8")).get("table", [])
    except tomllib.TOMLDecodeError as error:
        raise MetadataError(f"{file.name} is not TOML: {error}.", "correct the line it names") from error
    return found


def validated(model: type[M], entries: Iterable[Mapping[str, Any]], where: str) -> list[M]:
    """Return declarations as instances of their model, in their order.

    Args:
        model: the model that each entry must fit.
        entries: one mapping for each table.
        where: what the entries were read from, for the message.

    Raises:
        MetadataError: naming every invalid entry, all at once.
    """
    declared, wrong = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            declared.append(model.model_validate(entry))
        except ValidationError as error:
            name = entry.get("target", f"entry {number}")
            for detail in error.errors():
                place = ".".join(str(part) for part in detail["loc"])
                found = "" if detail["type"] == "missing" else f", found {detail['input']!r}"
                wrong.append(f"{name}: {place or 'entry'}: {_sentence(detail['msg'])}{found}")
    if wrong:
        raise MetadataError(listed(f"{where} cannot be used", wrong), "correct these entries, then run again")
    return declared


@dataclass(frozen=True)
class ControlTable(Generic[D]):
    """A layer's declarations: their file, the model that they must fit, the table that they are published into."""

    name: str
    comment: str
    file: Path
    model: type[D]
    columns: catalog.Columns

    def declared(self, file: Path | None = None) -> list[D]:
        """Return the tables declared in a file, in processing order; the file defaults to the layer's own.

        Raises:
            MetadataError: naming every invalid entry, all at once.

        Example:
            >>> [definition.target for definition in silver.TABLES.declared()]
            ['silver.dim_customers', 'silver.dim_products', 'silver.orders_clean']
        """
        file = file or self.file
        return self.parse(entries(file), file.name)

    def definition(self, target: str) -> D:
        """Return the declaration of a table in the layer's own file."""
        return next(one for one in self.declared() if one.target == target)

    def parse(self, entries: Iterable[Mapping[str, Any]], where: str) -> list[D]:
        """Return declarations as definitions, in processing order.

        Args:
            entries: one mapping for each table, as in the file or as a row of the control table.
            where: what the entries were read from, for the message.

        Raises:
            MetadataError: naming every invalid entry, all at once.
        """
        definitions = validated(self.model, entries, where)
        return sorted(definitions, key=lambda definition: (definition.processing_order, definition.target))

    def publish(
        self, spark: SparkSession, definitions: Sequence[D], require: Callable[[list[D]], None] = lambda known: None
    ) -> list[D]:
        """Write declarations into the control table and return all that it then holds, in processing order.

        The row of a declared table becomes equal to its declaration; rows of other targets stay. If nothing differs,
        nothing is written.

        Args:
            spark: the session.
            definitions: the declarations.
            require: called with what the table will hold, before it is written; raises an error to refuse it.

        Raises:
            MetadataError: if a row of the control table is not a declaration.
        """
        catalog.create_table(spark, self.name, self.columns, self.comment)
        there = {row["target"]: row for row in self._rows(spark)}
        changed = [row for row in map(self._row, definitions) if row != there.get(row["target"])]
        known = self._definitions((there | {row["target"]: row for row in changed}).values())
        require(known)
        if changed:
            rows = [tuple(row[name] for name in self.columns) for row in changed]
            frame = spark.createDataFrame(rows, catalog.schema_of(self.columns))
            spark.sql(
                f"MERGE INTO {self.name} AS t USING {{declared}} AS d ON t.target = d.target "
                "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *",
                declared=frame,
            )
        return known

    def published(self, spark: SparkSession) -> list[D]:
        """Return what the control table holds, in processing order.

        Raises:
            MetadataError: if a row of it is not a declaration.
        """
        return self._definitions(self._rows(spark))

    def unsound(self, found: Sequence[str]) -> MetadataError:
        """Return the error that lists all mistakes in the declarations."""
        return MetadataError(
            listed("The metadata cannot be run", found),
            f"correct {self.file.parent.name}/{self.file.name} or {self.name}; nothing was run",
        )

    def _rows(self, spark: SparkSession) -> list[dict[str, Any]]:
        return [row.asDict(recursive=True) for row in spark.table(self.name).collect()]

    def _definitions(self, rows: Iterable[Mapping[str, Any]]) -> list[D]:
        # A manual INSERT may omit the list columns, which are NULL then.
        entries = [
            {name: value for name, value in row.items() if name != "layer" and value is not None} for row in rows
        ]
        return self.parse(entries, self.name)

    def _row(self, definition: D) -> dict[str, Any]:
        values = definition.model_dump()
        values["layer"] = definition.target.partition(".")[0]
        return {name: _plain(values[name]) for name in self.columns}


def problems(
    definitions: Sequence[Definition], columns: Mapping[str, Sequence[str]], below: Iterable[str]
) -> list[str]:
    """Return the mistakes in the definitions of a layer, taken together: names, sources, dependencies, order.

    Pure: neither a table nor the engine is touched.

    Args:
        definitions: all tables that are to run.
        columns: the columns of every table that may serve as a source.
        below: tables of the layers below, which have run before.
    """
    found = []
    names = [definition.target for definition in definitions]
    targets = {definition.target: definition for definition in definitions}
    found += [f"{name}: declared more than once" for name in sorted({n for n in names if names.count(n) > 1})]
    for one in definitions:
        schema, _, name = one.target.partition(".")
        if schema not in catalog.SCHEMAS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            found.append(
                f"{one.target}: not the name of a table: expected <schema>.<table> "
                f"with a schema of {choices(catalog.SCHEMAS)}"
            )
        rules = [rule.name for rule in one.gate]
        found += [
            f"{one.target}: rule {name} is there more than once" for name in sorted(set(rules)) if rules.count(name) > 1
        ]
        if one.source not in columns:
            found.append(f"{one.target}: unknown source {one.source}: expected one of {choices(columns)}")
        for needed in one.depends_on:
            if needed in targets and needed != one.target:
                if targets[needed].processing_order >= one.processing_order:
                    found.append(
                        f"{one.target}: processing_order {one.processing_order} contradicts depends_on: "
                        f"{needed} has {targets[needed].processing_order}, and must come before"
                    )
            elif needed not in targets and needed not in below:
                known = choices([*below, *targets])
                found.append(f"{one.target}: depends on unknown table {needed}: expected one of {known}")
    try:
        graph = {one.target: set(one.depends_on) & targets.keys() for one in definitions}
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a cycle: " + " needs ".join(reversed(error.args[1])))
    return found


def choices(names: Iterable[str]) -> str:
    """Return the valid choices as text for a message."""
    return ", ".join(names) or "none"


def _plain(value: Any) -> Any:
    """Return tuples as lists, as Spark hands them back."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")[:1].lower() + message.removeprefix("Value error, ")[1:]


def listed(title: str, lines: Iterable[str]) -> str:
    """Return a message of several lines: the title, and one line for each item."""
    return "\n".join([f"{title}:", *(f"  - {line}" for line in lines)])
