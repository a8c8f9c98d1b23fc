"""What silver is made of, as data: the declarations, the control table they are loaded into, and what can be wrong.

A table is declared once, in ``shared/silver/tables.toml``, and published into ``ops.table_metadata``, where anybody can
read it with SQL. A row that somebody adds there by ``INSERT`` is a table too. Nothing runs before all declarations
together have been found sound: :func:`problems` reports everything that is wrong at once, with the valid choices.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared import catalog
from shared.bronze.contracts import AUDIT_COLUMNS
from shared.errors import MetadataError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DECLARATIONS = Path(__file__).with_name("silver") / "tables.toml"
"""The file in which silver's tables are declared."""

CONTROL_TABLE = "ops.table_metadata"

Severity = Literal["warn", "quarantine", "fail"]

_ABOUT_THE_DELIVERY = {column.name for column in AUDIT_COLUMNS}

_VOCABULARY: dict[str, Severity] = {"expect": "warn", "expect_or_quarantine": "quarantine", "expect_or_fail": "fail"}


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Declared):
    """A condition that a row must meet, and what happens to one that does not.

    ``expectation`` is a SQL expression over the source's columns; a row for which it is not true (so also one for
    which it is NULL) breaks the rule. In a declaration it stands under the name of its consequence: ``expect`` counts
    the row and goes on, ``expect_or_quarantine`` sets it aside, ``expect_or_fail`` stops the table before anything is
    written.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    severity: Severity
    expectation: str
    limit: str
    """What would have been right, for the reason in the quarantine."""

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


class DimensionJoin(_Declared):
    """How a fact looks up a dimension: by which key, at which instant, and what happens if nothing is found."""

    dimension: str
    key: str
    """The fact's column that holds the dimension's business key."""
    as_of: str | None = None
    """The fact's instant at which the version is looked up; None takes the row there is (SCD type 1)."""
    take: tuple[str, ...]
    """The dimension's columns that the fact carries."""
    unknown: Literal["infer", "quarantine"]
    """A key that the dimension does not have: add an inferred member to the dimension, or set the row aside."""

    @property
    def known_rule(self) -> str:
        """The rule under which a row with an unknown key is counted or set aside."""
        return f"{self.key}_is_known"


class DerivedColumn(_Declared):
    """A column computed from the row itself; the expression may use derived columns above it."""

    name: str
    type: str
    expression: str
    comment: str = ""


class TableDefinition(_Declared):
    """One silver table: what it is made from, and how."""

    target: str
    comment: str = ""
    source: str
    kind: Literal["scd1", "scd2", "fact"]
    processing_order: int
    depends_on: tuple[str, ...] = ()
    business_keys: tuple[str, ...]
    sequence_column: str
    delete_flag: str | None = None
    surrogate_key: str | None = None
    tracked_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Further columns of the source that the target carries; in a type 2 dimension these are the untracked ones."""
    rules: tuple[Rule, ...] = ()
    dimension_joins: tuple[DimensionJoin, ...] = ()
    derived_columns: tuple[DerivedColumn, ...] = ()
    is_enabled: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """The tables that it is made from: its source, and the dimensions that it looks up."""
        return (self.source, *(join.dimension for join in self.dimension_joins))

    @property
    def carried(self) -> tuple[str, ...]:
        """The source's columns that the target has: keys, tracked and further ones."""
        return tuple(dict.fromkeys((*self.business_keys, *self.tracked_columns, *self.columns)))

    @property
    def gate(self) -> tuple[Rule, ...]:
        """All rules of the table in the order in which they are asked: those that every table has, then its own."""
        always = [Rule(name="line_is_well_formed", severity="quarantine", expectation="_malformed IS NULL", limit="")]
        for column in (*self.business_keys, self.sequence_column):
            always.append(
                Rule(
                    name=f"{column}_is_not_null",
                    severity="quarantine",
                    expectation=f"`{column}` IS NOT NULL",
                    limit="a value",
                )
            )
        return (*always, *self.rules)

    @property
    def fingerprint(self) -> str:
        """A short text that changes when the definition does: rows made under another one must be made again."""
        meaning = self.model_dump(exclude={"comment", "processing_order", "is_enabled"})
        return hashlib.sha256(repr(sorted(meaning.items())).encode()).hexdigest()[:16]


def declared(file: Path = DECLARATIONS) -> list[TableDefinition]:
    """Return the tables declared in a file, in processing order.

    Raises:
        MetadataError: naming every entry that is not a declaration, all at once.

    Example:
        >>> [definition.target for definition in declared()]
        ['silver.dim_customers', 'silver.dim_products', 'silver.orders_clean']
    """
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("table", [])
    except tomllib.TOMLDecodeError as error:
        raise MetadataError(f"{file.name} is not TOML: {error}.", "correct the line it names") from error
    return parse(entries, file.name)


def parse(entries: Iterable[Mapping[str, Any]], where: str) -> list[TableDefinition]:
    """Return declarations as definitions, in processing order.

    Args:
        entries: one mapping a table, as in the file or as a row of the control table.
        where: what the entries were read from, for the message.

    Raises:
        MetadataError: naming every entry that is not a declaration, all at once.
    """
    definitions, wrong = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            definitions.append(TableDefinition.model_validate(entry))
        except ValidationError as error:
            name = entry.get("target", f"entry {number}")
            for detail in error.errors():
                place = ".".join(str(part) for part in detail["loc"])
                found = "" if detail["type"] == "missing" else f", found {detail['input']!r}"
                wrong.append(f"{name}: {place or 'entry'}: {_sentence(detail['msg'])}{found}")
    if wrong:
        raise MetadataError(_listed(f"{where} cannot be used", wrong), "correct these entries, then run again")
    return sorted(definitions, key=lambda definition: (definition.processing_order, definition.target))


def problems(definitions: Sequence[TableDefinition], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Return everything that is wrong with these definitions taken together, each as a sentence; none if all is well.

    Pure: neither a table nor the engine is touched.

    Args:
        definitions: all tables that are to run.
        columns: the columns of every table that may serve as a source.
    """
    found: list[str] = []
    targets = {definition.target: definition for definition in definitions}
    for target in sorted({one.target for one in definitions if [d.target for d in definitions].count(one.target) > 1}):
        found.append(f"{target}: declared more than once")
    for definition in definitions:
        found += [f"{definition.target}: {problem}" for problem in _own_problems(definition, columns)]
        found += [f"{definition.target}: {problem}" for problem in _dependency_problems(definition, targets)]
    try:
        graph = {definition.target: set(definition.depends_on) & targets.keys() for definition in definitions}
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a cycle: " + " needs ".join(reversed(error.args[1])))
    return found


def unsound(found: Sequence[str]) -> MetadataError:
    """Return the error that lists all that is wrong with the metadata."""
    return MetadataError(
        _listed("The metadata cannot be run", found), f"correct {DECLARATIONS.name} or {CONTROL_TABLE}; nothing was run"
    )


def _own_problems(definition: TableDefinition, columns: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
    schema, _, name = definition.target.partition(".")
    if schema not in catalog.SCHEMAS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        found.append(f"not the name of a table: expected <schema>.<table> with a schema of {_all(catalog.SCHEMAS)}")
    if not definition.business_keys:
        found.append("no business key: expected at least one column in business_keys")
    if definition.kind == "scd2" and not definition.tracked_columns:
        found.append("kind scd2 without tracked_columns: nothing would ever start a version")
    if definition.kind == "scd2" and not definition.surrogate_key:
        found.append("kind scd2 without surrogate_key: facts would have nothing to point at")
    if definition.kind != "scd2" and definition.tracked_columns:
        found.append(f"tracked_columns mean something only in kind scd2, not in {definition.kind}")
    if definition.kind != "fact" and definition.dimension_joins:
        found.append(f"dimension_joins mean something only in kind fact, not in {definition.kind}")
    if definition.kind == "fact" and definition.delete_flag:
        found.append("delete_flag means something only in a dimension")
    names = [rule.name for rule in definition.gate]
    found += [f"rule {name} is there more than once" for name in sorted({n for n in names if names.count(n) > 1})]
    if definition.source not in columns:
        found.append(f"unknown source {definition.source}: expected one of {_all(columns)}")
        return found
    there = [name for name in columns[definition.source] if name not in _ABOUT_THE_DELIVERY]
    named = {
        "business_keys": definition.business_keys,
        "sequence_column": (definition.sequence_column,),
        "delete_flag": (definition.delete_flag,) if definition.delete_flag else (),
        "tracked_columns": definition.tracked_columns,
        "columns": definition.columns,
        "dimension_joins": tuple(
            column for join in definition.dimension_joins for column in (join.key, join.as_of) if column
        ),
    }
    for field, wanted in named.items():
        found += [
            f"unknown column {column} in {field}: {definition.source} has {_all(there)}"
            for column in wanted
            if column not in there
        ]
    uncarried = [column for column in named["dimension_joins"] if column in there and column not in definition.carried]
    found += [f"{column} is joined on but not among columns" for column in dict.fromkeys(uncarried)]
    return found


def _dependency_problems(definition: TableDefinition, targets: Mapping[str, TableDefinition]) -> list[str]:
    found = []
    for needed in definition.depends_on:
        if needed not in targets:
            found.append(f"depends on unknown table {needed}: expected one of {_all(targets)}")
        elif needed != definition.target and targets[needed].processing_order >= definition.processing_order:
            found.append(
                f"processing_order {definition.processing_order} contradicts depends_on: "
                f"{needed} has {targets[needed].processing_order}, and must come before"
            )
    for join in definition.dimension_joins:
        dimension = targets.get(join.dimension)
        if not dimension or dimension.kind == "fact":
            choices = [target for target, other in targets.items() if other.kind != "fact"]
            found.append(f"joins unknown dimension {join.dimension}: expected one of {_all(choices)}")
            continue
        if join.dimension not in definition.depends_on:
            found.append(f"joins {join.dimension} but does not depend on it: add it to depends_on")
        if len(dimension.business_keys) != 1:
            found.append(f"joins {join.dimension} by one key, but that has {len(dimension.business_keys)}")
        if (dimension.kind == "scd2") != (join.as_of is not None):
            wanted = "needs as_of" if dimension.kind == "scd2" else "has no versions, so no as_of"
            found.append(f"joins {join.dimension}, which is {dimension.kind} and {wanted}")
        if join.unknown == "infer" and dimension.kind != "scd2":
            found.append(f"joins {join.dimension} with unknown = infer, which only a dimension of kind scd2 can take")
        offered = (*dimension.carried, *((dimension.surrogate_key,) if dimension.surrogate_key else ()))
        found += [
            f"takes unknown column {column} of {join.dimension}: it has {_all(offered)}"
            for column in join.take
            if column not in offered
        ]
    return found


# The control table.

_STRUCTURE = {
    "target": ("STRING", "the table that the row describes"),
    "layer": ("STRING", "schema of the target"),
    "comment": ("STRING", "what the target holds"),
    "source": ("STRING", "the table it is made from"),
    "kind": ("STRING", "scd1, scd2 or fact"),
    "processing_order": ("INT", "lower numbers first, equal ones side by side"),
    "depends_on": ("ARRAY<STRING>", "tables that must have run before"),
    "business_keys": ("ARRAY<STRING>", "what identifies a thing"),
    "sequence_column": ("STRING", "what orders the events of a thing"),
    "delete_flag": ("STRING", "true where the thing ended; NULL if it never does"),
    "surrogate_key": ("STRING", "name of the key of a version; NULL without one"),
    "tracked_columns": ("ARRAY<STRING>", "a change of these starts a version"),
    "columns": ("ARRAY<STRING>", "further columns carried from the source"),
    "rules": (
        "ARRAY<STRUCT<name: STRING, severity: STRING, expectation: STRING, limit: STRING>>",
        "conditions that a row must meet",
    ),
    "dimension_joins": (
        "ARRAY<STRUCT<dimension: STRING, key: STRING, as_of: STRING, take: ARRAY<STRING>, unknown: STRING>>",
        "dimensions that a fact looks up",
    ),
    "derived_columns": (
        "ARRAY<STRUCT<name: STRING, type: STRING, expression: STRING, comment: STRING>>",
        "columns computed from the row",
    ),
    "is_enabled": ("BOOLEAN", "false leaves the table out of every run"),
}


def publish(
    spark: SparkSession,
    definitions: Sequence[TableDefinition],
    require: Callable[[list[TableDefinition]], None] = lambda all_of_them: None,
) -> list[TableDefinition]:
    """Bring declarations into ``ops.table_metadata`` and return all that is there, in processing order.

    A declared table's row is made equal to its declaration; rows of other targets stay. If nothing differs, nothing
    is written.

    Args:
        spark: the session.
        definitions: the declarations.
        require: is handed what the table will hold, and raises if that must not be.

    Raises:
        MetadataError: if a row of the control table is not a declaration.
    """
    catalog.create_table(spark, CONTROL_TABLE, _STRUCTURE, "What the pipeline is told: one row a table.")
    there = {row["target"]: row for row in _rows(spark)}
    changed = [_row(definition) for definition in definitions if _row(definition) != there.get(definition.target)]
    known = _definitions((there | {row["target"]: row for row in changed}).values())
    require(known)
    if changed:
        rows = [tuple(row[name] for name in _STRUCTURE) for row in changed]
        frame = spark.createDataFrame(rows, catalog.schema_of(_STRUCTURE))
        spark.sql(
            f"MERGE INTO {CONTROL_TABLE} AS t USING {{declared}} AS d ON t.target = d.target "
            "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *",
            declared=frame,
        )
    return known


def published(spark: SparkSession) -> list[TableDefinition]:
    """Return what ``ops.table_metadata`` holds, in processing order.

    Raises:
        MetadataError: if a row of it is not a declaration.
    """
    return _definitions(_rows(spark))


def _rows(spark: SparkSession) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in spark.table(CONTROL_TABLE).collect()]


def _definitions(rows: Iterable[Mapping[str, Any]]) -> list[TableDefinition]:
    # An INSERT by hand may leave out the lists.
    entries = [{name: value for name, value in row.items() if name != "layer" and value is not None} for row in rows]
    return parse(entries, CONTROL_TABLE)


def _row(definition: TableDefinition) -> dict[str, Any]:
    values = definition.model_dump()
    values["layer"] = definition.target.partition(".")[0]
    return {name: _plain(values[name]) for name in _STRUCTURE}


def _plain(value: Any) -> Any:
    """Return tuples as lists, as Spark hands them back."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")[:1].lower() + message.removeprefix("Value error, ")[1:]


def _all(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _listed(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *(f"  - {line}" for line in lines)])
