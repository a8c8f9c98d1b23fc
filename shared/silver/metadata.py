"""What a silver table is, as data: the declaration, and what can be wrong with one.

Declared in ``shared/silver/tables.toml``, published into ``ops.table_metadata``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from shared import control_table
from shared.bronze.contracts import AUDIT_COLUMNS
from shared.control_table import ControlTable, Declared, Definition, Rule, choices, identifies, not_null

_ABOUT_THE_DELIVERY = {column.name for column in AUDIT_COLUMNS}


class DimensionJoin(Declared):
    """How a fact looks up a dimension: by which key, at which instant, and what happens if nothing is found."""

    dimension: str
    key: str
    """The fact's column that holds the dimension's business key. If it is NULL and unknown keys are inferred, the fact
    refers to nothing: what it takes is NULL."""
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

    @property
    def still_known_rule(self) -> str:
        """The rule under which rows are counted that were accepted, until the dimension lost their key."""
        return f"{self.key}_is_still_known"


class DerivedColumn(Declared):
    """A column computed from the row itself; the expression may use derived columns above it.

    A row of which the result does not fit the type is set aside. An expression that itself fails for a row, as a
    division by zero does, stops the table: write it with ``try_divide`` and the like.
    """

    name: str
    type: str
    expression: str
    comment: str = ""

    @property
    def fits_rule(self) -> str:
        """The rule under which a row is set aside for which it cannot be computed."""
        return f"{self.name}_fits"


class TableDefinition(Definition):
    """One silver table: what it is made from, and how."""

    kind: Literal["scd1", "scd2", "fact"]
    business_keys: tuple[str, ...]
    sequence_column: str
    delete_flag: str | None = None
    surrogate_key: str | None = None
    tracked_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Further columns of the source that the target carries; in a type 2 dimension these are the untracked ones."""
    dimension_joins: tuple[DimensionJoin, ...] = ()
    derived_columns: tuple[DerivedColumn, ...] = ()

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
        """All rules of the table in the order in which they are asked.

        Those that every table has, then its own, then one for each derived column.
        """
        well_formed = Rule(
            name="line_is_well_formed", severity="quarantine", expectation="_malformed IS NULL", limit=""
        )
        keys = (identifies(key, "quarantine") for key in self.business_keys)
        return (well_formed, *keys, not_null(self.sequence_column, "quarantine"), *self.rules, *self._fits())

    def _fits(self) -> Iterator[Rule]:
        above: dict[str, str] = {}
        for derived in self.derived_columns:
            expression = _inlined(derived.expression, above)
            fitted = f"try_cast(({expression}) AS {derived.type})"
            yield Rule(
                name=derived.fits_rule,
                severity="quarantine",
                expectation=f"({expression}) IS NULL OR {fitted} IS NOT NULL",
                limit=f"{derived.name} to be a {derived.type}",
            )
            above[derived.name] = fitted


def _inlined(expression: str, columns: Mapping[str, str]) -> str:
    """Return a SQL expression with the expressions of columns in the place of their names."""
    if not columns:
        return expression
    # A text in quotes names no column.
    names = "|".join(re.escape(name) for name in columns)
    lower = {name.lower(): text for name, text in columns.items()}
    return re.sub(
        rf"('(?:[^'\\]|\\.)*')|`?\b({names})\b`?",
        lambda found: found[1] or lower[found[2].lower()],
        expression,
        flags=re.IGNORECASE,
    )


def looked_into(definition: TableDefinition, known: Mapping[str, TableDefinition]) -> tuple[str, ...]:
    """Return the tables that a fact looks into beside its sources: those of the dimensions that take inferred members.

    They say when a thing was first delivered, and so which facts came before it.

    Args:
        definition: the table.
        known: all definitions by their targets.
    """
    inferring = [known.get(join.dimension) for join in definition.dimension_joins if join.unknown == "infer"]
    names = dict.fromkeys(dimension.source for dimension in inferring if dimension)
    return tuple(name for name in names if name not in definition.sources)


def problems(definitions: Sequence[TableDefinition], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Return everything that is wrong with these definitions taken together, each as a sentence; none if all is well.

    Pure: neither a table nor the engine is touched.

    Args:
        definitions: all tables that are to run.
        columns: the columns of every table that may serve as a source.
    """
    found = control_table.problems(definitions, columns, below=())
    targets = {definition.target: definition for definition in definitions}
    for definition in definitions:
        found += [f"{definition.target}: {problem}" for problem in _own_problems(definition, columns)]
        found += [f"{definition.target}: {problem}" for problem in _join_problems(definition, targets)]
    return found


def _own_problems(definition: TableDefinition, columns: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
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
    if definition.source not in columns:
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
            f"unknown column {column} in {field}: {definition.source} has {choices(there)}"
            for column in wanted
            if column not in there
        ]
    uncarried = [column for column in named["dimension_joins"] if column in there and column not in definition.carried]
    found += [f"{column} is joined on but not among columns" for column in dict.fromkeys(uncarried)]
    return found


def _join_problems(definition: TableDefinition, targets: Mapping[str, TableDefinition]) -> list[str]:
    found = []
    for join in definition.dimension_joins:
        dimension = targets.get(join.dimension)
        if not dimension or dimension.kind == "fact":
            known = [target for target, other in targets.items() if other.kind != "fact"]
            found.append(f"joins unknown dimension {join.dimension}: expected one of {choices(known)}")
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
            f"takes unknown column {column} of {join.dimension}: it has {choices(offered)}"
            for column in join.take
            if column not in offered
        ]
    return found


TABLES = ControlTable(
    name="ops.table_metadata",
    comment="What silver is told: one row a table.",
    file=Path(__file__).with_name("tables.toml"),
    model=TableDefinition,
    columns={
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
    },
)
"""Silver's declarations."""
