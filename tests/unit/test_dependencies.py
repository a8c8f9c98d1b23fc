"""Dependencies point one way: a module imports only from layers below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from shared.settings import CHECKOUT

LAYERS = (
    ("shared.errors", "shared.clock", "shared.delta_log", "shared.masking"),
    ("shared.settings", "shared.private"),
    ("shared.lock",),
    ("shared.secrets", "shared.catalog", "shared.checkpoints", "shared.interpreted"),
    ("shared.runtime",),
    ("shared", "shared.home", "generators"),
    ("shared.bronze",),
    ("shared.control_table", "shared.run_log", "shared.changes", "shared.rules", "shared.quarantine", "shared.tags"),
    ("shared.layer",),
    ("shared.silver",),
    ("shared.gold",),
    ("shared.streaming",),
    ("shared.quality",),
    ("shared.pipeline", "shared.check_files", "shared.maintenance", "shared.files_read", "shared.lineage"),
    ("shared.delivery",),
    ("shared.course",),
    ("shared.cli",),
)
"""The layers, from the lowest up. A package includes all its modules."""

BATCH = ("shared.bronze", "shared.layer", "shared.silver", "shared.gold", "shared.quality", "shared.pipeline")
"""Modules that work on a given session: they neither start nor query a server."""

APART = ("shared.silver", "shared.gold", "shared.streaming")
"""Packages that share tables but no code."""


def layer_of(module: str) -> int:
    """The layer of the module or of its package. ``shared`` itself means only the file ``shared/__init__.py``."""
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


@cache
def graph() -> dict[str, set[str]]:
    """Every module and the project's modules that it imports: at its top, inside a function, or for types only."""
    files = modules()
    return {name: set(imports(file, set(files))) - {name} for name, file in files.items()}


def is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_no_module_imports_from_a_layer_above_its_own() -> None:
    edges = {(name, used) for name, found in graph().items() for used in found}
    assert len(edges) > 30
    assert {(name, used) for name, used in edges if layer_of(used) > layer_of(name)} == set()


def test_only_the_checks_of_the_course_know_the_dashboard_and_import_it_when_they_are_made() -> None:
    """A job in the cloud installs ``shared`` without the dashboard's packages."""
    found: dict[str, list[str]] = {}
    for name, file in modules().items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        late = {
            id(node)
            for scope in ast.walk(tree)
            if isinstance(scope, ast.FunctionDef)
            or (isinstance(scope, ast.If) and ast.unparse(scope.test) == "TYPE_CHECKING")
            for node in ast.walk(scope)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(one.split(".")[0] == "dashboard" for one in names):
                found.setdefault(name, []).append("" if id(node) in late else ast.unparse(node))
    assert set(found) == {"shared.course.checks.dashboard"}
    assert not [at_once for imported in found.values() for at_once in imported if at_once]


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    # A circle raises CycleError, which names its modules.
    assert len(list(TopologicalSorter(graph()).static_order())) == len(graph())


def test_the_batch_layers_know_no_server() -> None:
    start = {name for name in graph() if is_in(name, BATCH)}
    assert len(start) > 15
    reached, following = set(start), list(start)
    while following:
        new = graph()[following.pop()] - reached
        reached |= new
        following += new
    # `shared` itself counts as well: its purpose is the connection to the engine.
    assert {name for name in reached if name == "shared" or is_in(name, ("shared.runtime",))} == set()


def test_silver_gold_and_streaming_import_nothing_of_each_other() -> None:
    for package in APART:
        others = [other for other in APART if other != package]
        used = {(name, used) for name, uses in graph().items() if is_in(name, [package]) for used in uses}
        assert used
        assert {(name, one) for name, one in used if is_in(one, others)} == set()
