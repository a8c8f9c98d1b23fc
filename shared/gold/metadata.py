"""The declaration of a gold table as data, and the mistakes that it can have.

Declared in ``shared/gold/tables.toml``, published into ``ops.gold_metadata``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from shared import control_table
from shared.control_table import ControlTable, Declared, Definition, Rule, choices, not_null

_COLUMN = r"^[a-z][a-z0-9_]*$"


class Measure(Declared):
    """A column of the table: an aggregate over the rows of a group."""

    name: str = Field(pattern=_COLUMN)
    type: str
    expression: str
    comment: str = ""


Money = Annotated[
    Decimal, Field(max_digits=18, decimal_places=2), AfterValidator(lambda value: value.quantize(Decimal("0.01")))
]
"""To the cent, so that 5000 in the file and 5000.00 in the control table are one value and one fingerprint."""


class Threshold(Declared):
    """A label, and the least value that gets it."""

    label: str
    at_least: Money | None = None
    """None: every value that no other threshold takes."""


class Bands(Declared):
    """A label for each row by the value of a measure: from the highest threshold down; the last one takes the rest."""

    column: str = Field(pattern=_COLUMN)
    of: str
    thresholds: tuple[Threshold, ...]
    comment: str = ""


class Rank(Declared):
    """The rank of each row within its partition; rows that are equal in the order share a rank."""

    column: str = Field(pattern=_COLUMN)
    within: tuple[str, ...]
    order_by: tuple[str, ...]
    comment: str = ""


class GoldDefinition(Definition):
    """One gold table: its source, the rows that count, their groups, and the measures of each group."""

    cursor: Literal["change_data_feed", "none"] = "change_data_feed"
    group_by: tuple[str, ...]
    where: str = "true"
    measures: tuple[Measure, ...]
    bands: Bands | None = None
    rank: Rank | None = None
    optimize_by: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns, in order."""
        further = [part.column for part in (self.bands, self.rank) if part]
        return (*self.group_by, *(measure.name for measure in self.measures), *further)

    @property
    def gate(self) -> tuple[Rule, ...]:
        """All rules: those that every table has, then its own."""
        return (*self.key_rules, *self.rules)

    @property
    def key_rules(self) -> tuple[Rule, ...]:
        """The rules that every table has, for rows that count: no column of its key is NULL."""
        return tuple(not_null(column, "fail") for column in self.group_by)

    @property
    def expressions(self) -> list[str]:
        """All SQL over the source's columns that decides a row's content; ``where`` only decides which rows count."""
        return [*self.group_by, *(measure.expression for measure in self.measures)]


def problems(
    definitions: Sequence[GoldDefinition], columns: Mapping[str, Sequence[str]], below: Sequence[str]
) -> list[str]:
    """Return everything that is wrong with these definitions taken together, each as a sentence; none if all is well.

    Pure: neither a table nor the engine is touched.

    Args:
        definitions: all tables that are to run.
        columns: the columns of every table that may serve as a source.
        below: tables of the layers below.
    """
    found = control_table.problems(definitions, columns, below)
    for definition in definitions:
        found += [f"{definition.target}: {problem}" for problem in _own_problems(definition, columns)]
    return found


def _own_problems(definition: GoldDefinition, columns: Mapping[str, Sequence[str]]) -> list[str]:
    found = []
    if definition.source in columns:
        there = columns[definition.source]
        found += [
            f"unknown column {name} in group_by: {definition.source} has {choices(there)}"
            for name in definition.group_by
            if name not in there
        ]
    if definition.source not in definition.depends_on:
        found.append(f"is made from {definition.source} but does not depend on it: add it to depends_on")
    if not definition.group_by:
        found.append("nothing in group_by: expected at least one column")
    if not definition.measures:
        found.append("no measures: expected at least one")
    names = list(definition.columns)
    found += [f"column {name} is there more than once" for name in sorted(set(names)) if names.count(name) > 1]
    found += [
        f"rule {rule.name} sets rows aside, and gold sets nothing aside: expected expect or expect_or_fail"
        for rule in definition.rules
        if rule.severity == "quarantine"
    ]
    made = [*definition.group_by, *(measure.name for measure in definition.measures)]
    if definition.bands:
        found += _band_problems(definition.bands, made)
    if definition.rank:
        found += [
            f"unknown column {name} in rank.within: expected one of {choices(made)}"
            for name in definition.rank.within
            if name not in made
        ]
        if not definition.rank.order_by:
            found.append("nothing in rank.order_by: expected at least one column")
    found += [
        f"unknown column {name} in optimize_by: expected one of {choices(names)}"
        for name in definition.optimize_by
        if name not in names
    ]
    return found


def _band_problems(bands: Bands, made: Sequence[str]) -> list[str]:
    found = []
    if bands.of not in made:
        found.append(f"unknown column {bands.of} in bands.of: expected one of {choices(made)}")
    *upper, rest = [one.at_least for one in bands.thresholds] or [None]
    steps = [value for value in upper if value is not None]
    if not bands.thresholds:
        found.append("no bands.thresholds: expected at least one")
    elif rest is not None or len(steps) < len(upper):
        found.append("bands.thresholds: expected an at_least in each but the last, which takes the rest")
    elif steps != sorted(set(steps), reverse=True):
        found.append(f"bands.thresholds must fall from one to the next, found {', '.join(map(str, steps))}")
    return found


TABLES = ControlTable(
    name="ops.gold_metadata",
    comment="What gold is told: one row a table.",
    file=Path(__file__).with_name("tables.toml"),
    model=GoldDefinition,
    columns={
        "target": ("STRING", "the table that the row describes"),
        "layer": ("STRING", "schema of the target"),
        "comment": ("STRING", "what the target holds"),
        "source": ("STRING", "the table it is made from"),
        "processing_order": ("INT", "lower numbers first, equal ones side by side"),
        "depends_on": ("ARRAY<STRING>", "tables that must have run before"),
        "cursor": ("STRING", "change_data_feed: only touched groups; none: everything, each time"),
        "group_by": ("ARRAY<STRING>", "what a row stands for"),
        "where": ("STRING", "which rows of the source count"),
        "measures": (
            "ARRAY<STRUCT<name: STRING, type: STRING, expression: STRING, comment: STRING>>",
            "aggregates over the rows of a group",
        ),
        "bands": (
            "STRUCT<column: STRING, of: STRING, "
            "thresholds: ARRAY<STRUCT<label: STRING, at_least: DECIMAL(18,2)>>, comment: STRING>",
            "labels by thresholds of a measure",
        ),
        "rank": (
            "STRUCT<column: STRING, within: ARRAY<STRING>, order_by: ARRAY<STRING>, comment: STRING>",
            "a place among the rows of a partition",
        ),
        "rules": (
            "ARRAY<STRUCT<name: STRING, severity: STRING, expectation: STRING, limit: STRING>>",
            "conditions that the source's rows must meet",
        ),
        "optimize_by": ("ARRAY<STRING>", "columns that queries filter by, for ZORDER"),
        "is_enabled": ("BOOLEAN", "false leaves the table out of every run"),
    },
)
"""Gold's declarations."""
