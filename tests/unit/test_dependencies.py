"""Dependencies point one way: a module imports only from layers below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from shared.settings import CHECKOUT

LAYERS = (
    ("shared.errors", "shared.clock", "shared.delta_log"),
    ("shared.settings", "shared.private"),
    ("shared.secrets",),
    ("shared.runtime",),
    ("generators",),
    ("shared", "shared.catalog", "shared.checkpoints", "shared.home", "shared.interpreted"),
    ("shared.bronze",),
    ("shared.control_table", "shared.run_log", "shared.changes", "shared.rules"),
    ("shared.layer",),
    ("shared.silver",),
    ("shared.gold",),
    ("shared.streaming",),
    ("shared.pipeline",),
    ("shared.course",),
    ("shared.cli",),
)
"""From the ground up. A package stands for all its modules."""

UPWARDS = {
    # A starting engine enters the tables that it finds on disk into its catalog.
    ("shared.runtime.spark", "shared.catalog"),
}
"""The imports that break the rule, each for the reason beside it."""


def layer_of(module: str) -> int:
    """The layer that names the module, or the package it is in. ``shared`` itself stands for its face only."""
    found = [
        number
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or (name != "shared" and module.startswith(f"{name}."))
    ]
    assert len(found) == 1, f"{module} is in {len(found)} layers; name it once in LAYERS"
    return found[0]


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    files = [file for package in ("shared", "generators") for file in (CHECKOUT / package).rglob("*.py")]
    names = {file: ".".join(file.relative_to(CHECKOUT).with_suffix("").parts) for file in files}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def imports(file: Path, known: set[str]) -> Iterator[str]:
    """The project's modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else str(node.module) for name in inner)


def test_no_module_imports_from_a_layer_above_its_own() -> None:
    files = modules()
    edges = {(name, used) for name, file in files.items() for used in imports(file, set(files)) if name != used}
    assert len(edges) > 30
    # The package's own face, `shared`, may be imported by everything above the engine.
    upwards = {(name, used) for name, used in edges if layer_of(used) > layer_of(name) and used != "shared"}
    assert upwards == UPWARDS
