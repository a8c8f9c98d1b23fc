"""Mutants: plausible wrong implementations, and the results of a test on them.

A test is good if it fails when the code is wrong. So one place of the code is made wrong on purpose, and the test is
run: this is *mutation testing* (R. DeMillo, R. Lipton, F. Sayward, "Hints on test data selection", 1978). A mutant that
makes the test fail is *killed*; a mutant that passes has *survived*, and a test is missing. ``make mutants`` runs every
mutant of ``tests/mutants/mutants.toml`` against the suite; day 16 runs some of them against the reader's own tests.
"""

from __future__ import annotations

import ast
import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from shared.settings import CHECKOUT

FILE = CHECKOUT / "tests" / "mutants" / "mutants.toml"


class MutantError(Exception):
    """A mutant does not match the sources, or no mutant has the requested name."""


@dataclass(frozen=True)
class Mutant:
    """One wrong implementation."""

    name: str
    topic: str
    wrong: str
    """The mistake, and why a programmer might make it: one or two sentences."""
    file: str
    old: str
    """The text that is replaced; it occurs in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """The tests that must fail: their pytest ids, the quickest first."""

    def applied_to(self, text: str) -> str:
        """Return the file's text with the mistake in it.

        Raises:
            MutantError: if the text to replace is not in the file, or the result is not valid Python or TOML.
        """
        if (found := text.count(self.old)) != 1:
            raise MutantError(f"{self.name}: its old text occurs {found} times in {self.file}, expected exactly once")
        changed = text.replace(self.old, self.new)
        try:
            tomllib.loads(changed) if self.file.endswith(".toml") else ast.parse(changed)
        except (SyntaxError, tomllib.TOMLDecodeError) as error:
            raise MutantError(f"{self.name}: {self.file} cannot be read with its new text: {error}") from error
        return changed

    def difference(self, tree: Path) -> str:
        """Return the change as a unified diff."""
        text = (tree / self.file).read_text(encoding="utf-8")
        lines = (text.splitlines(), self.applied_to(text).splitlines())
        return "\n".join(difflib.unified_diff(*lines, self.file, self.file, n=2, lineterm=""))


def declared(file: Path = FILE) -> list[Mutant]:
    """Return the mutants of a file, in its order."""
    topics = tomllib.loads(file.read_text(encoding="utf-8"))
    return [
        Mutant(**entry | {"topic": topic, "tests": tuple(entry["tests"])})
        for topic, entries in topics.items()
        for entry in entries
    ]


def of_declaration(declarations: Path) -> list[Mutant]:
    """Return the mutants that change this declaration file, for example ``shared/gold/tables.toml``."""
    return [one for one in declared() if CHECKOUT / one.file == declarations]


@dataclass(frozen=True)
class Judgement:
    """The results of a test on the right implementation and on wrong ones."""

    problem: str
    """Why the test proves nothing; empty if it passes on the right implementation and runs on every wrong one."""
    killed: tuple[str, ...] = ()
    survived: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the test passes on the right implementation and kills every mutant."""
        return not self.problem and not self.survived

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        told = f"passes on the right implementation, kills {len(self.killed)} of {len(self.killed + self.survived)}"
        return told + (f"; survived: {', '.join(self.survived)}" if self.survived else "")


def judged(test: Callable[[Any], None], right: Any, wrong: Mapping[str, Any]) -> Judgement:
    """Run a test on the right implementation and on wrong ones.

    Args:
        test: takes an implementation, and raises AssertionError if it does not do what the test expects.
        right: the right implementation.
        wrong: the wrong implementations by name.

    Example:
        >>> def test_double(double):
        ...     assert double(2) == 4
        >>> str(judged(test_double, lambda x: 2 * x, {"square": lambda x: x * x, "same": lambda x: x}))
        'passes on the right implementation, kills 1 of 2; survived: square'
    """
    try:
        test(right)
    except AssertionError as error:
        told = str(error).partition("\n")[0]
        said = f": {told}" if told else ""
        return Judgement(f"fails on the right implementation, so what it expects is wrong{said}")
    except Exception as error:
        return Judgement(f"stops with {type(error).__name__} on the right implementation: {error}")
    killed, survived = [], []
    for name, implementation in wrong.items():
        try:
            test(implementation)
        except AssertionError:
            killed.append(name)
        except Exception as error:
            # A crash proves nothing: the test might crash on a correct implementation of another shape too.
            return Judgement(f"stops with {type(error).__name__} on {name}, where an assertion must fail: {error}")
        else:
            survived.append(name)
    return Judgement("", tuple(killed), tuple(survived))


def covered(function: FunctionType, run: Callable[[], object]) -> float:
    """Return which share of a function's lines a run executes, from 0 to 1. The line with its name does not count.

    Example:
        >>> covered(aggregates.measured, lambda: test_rows_are_there(right))
        1.0
    """
    import coverage

    code = function.__code__
    # Without the settings of the project, whose own measurement is of other files.
    seen = coverage.Coverage(include=[code.co_filename], data_file=None, config_file=False)
    with seen.collect():
        run()
    _, statements, _, missing, _ = seen.analysis2(code.co_filename)
    body = {line for *_, line in code.co_lines() if line} - {code.co_firstlineno}
    lines = body & set(statements)
    return len(lines - set(missing)) / len(lines)
