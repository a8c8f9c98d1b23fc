"""The asset bundle: read for a target, and checked without a workspace.

``databricks bundle validate`` needs a workspace to identify the user, and many problems show only at the deployment or
at the first run: a cycle of tasks, a wrong cron expression, a parameter that the program does not have.
:func:`problems` finds these in the files alone. The classes of ``databricks-bundles``, which Databricks publishes,
check the types and fields of each resource.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from shared.delivery import dashboard, schedule, tasks
from shared.errors import BundleError
from shared.settings import CHECKOUT

FILE = "databricks.yml"

_KNOWN_AT_DEPLOYMENT = re.compile(r"\$\{(workspace|resources)\.")
"""References whose value only a workspace knows, such as the deploying user or the id of a resource."""

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")

_KEYS = {
    FILE: {"bundle", "include", "artifacts", "experimental", "variables", "targets"},
    "a file of resources": {"resources"},
    "a target": {"mode", "default", "workspace", "run_as", "permissions", "variables"},
}
"""The keys that this bundle uses, out of all allowed keys. For a misspelt key Databricks' tool gives only a warning."""


@dataclass(frozen=True)
class Bundle:
    """A bundle as one target sees it: variables are replaced by their values, and everything else is as written.

    ``${workspace...}`` is not replaced, because only a workspace knows its value.
    """

    root: Path
    target: str
    content: dict[str, Any]
    """The content of ``databricks.yml``."""
    resources: dict[str, dict[str, dict[str, Any]]]
    """Resources by kind and name, for instance ``["jobs"]["nightly"]``."""
    files: dict[tuple[str, str], Path]
    """The file of each resource, by kind and name. Paths in a resource are relative to its file."""
    unknown: tuple[str, ...]
    """Problems that were found while the bundle was read."""

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """The jobs by their name in the bundle."""
        return self.resources.get("jobs", {})

    def job(self, name: str) -> dict[str, Any]:
        """Return a job.

        Raises:
            BundleError: if there is no job of this name; the message lists the existing names.
        """
        if name not in self.jobs:
            raise BundleError(
                f"There is no job {name} in the bundle.", f"choose one of: {', '.join(sorted(self.jobs))}"
            )
        return self.jobs[name]


def read(target: str = "dev", root: Path = CHECKOUT) -> Bundle:
    """Read the bundle of a checkout for one target.

    Raises:
        BundleError: if a file is missing or is not YAML, or there is no such target.

    Example:
        >>> read("prod").job("nightly")["schedule"]["timezone_id"]
        'UTC'
    """
    content = _yaml(root / FILE)
    targets = content.get("targets") or {}
    if target not in targets:
        raise BundleError(f"{FILE} has no target {target}.", f"choose one of: {', '.join(targets) or 'none'}")
    unknown = _unknown_keys(content, FILE, FILE) + _unknown_keys(targets[target], "a target", f"target {target}")
    written: dict[str, dict[str, dict[str, Any]]] = {}
    files: dict[tuple[str, str], Path] = {}
    for path in _included(content, root):
        document = _yaml(path)
        unknown += _unknown_keys(document, "a file of resources", path.name)
        for kind, named in (document.get("resources") or {}).items():
            for name, resource in named.items():
                if (kind, name) in files:
                    unknown.append(f"{kind}.{name} stands in {files[kind, name].name} and in {path.name}")
                written.setdefault(kind, {})[name] = resource
                files[kind, name] = path
    values = _values(content, target)
    missing: set[str] = set()
    resources = _resolved(written, values, missing)
    content = _resolved(content, values, missing)
    unknown += [f"${{{name}}} is used and not declared" for name in sorted(missing)]
    return Bundle(root, target, content, resources, files, tuple(unknown))


def problems(bundle: Bundle) -> list[str]:
    """Return all problems of a bundle, each as a sentence; none if the bundle can be deployed and run.

    This uses neither a workspace nor an engine.
    """
    found = [*bundle.unknown]
    for kind, named in bundle.resources.items():
        for name, resource in named.items():
            folder = bundle.files[kind, name].parent
            told = [_field_problems(kind, resource), _own_problems(kind, resource)]
            told.append(_path_problems(resource, folder, bundle.root))
            if kind == "jobs":
                told += [tasks.problems(resource, bundle.content), _catalog_problems(resource, bundle)]
            if kind == "dashboards":
                told.append(dashboard.problems(folder / str(resource.get("file_path"))))
            found += [f"{kind}.{name}: {problem}" for problem in chain.from_iterable(told)]
    return [*found, *_target_problems(bundle)]


def require_sound(bundle: Bundle) -> None:
    """Raise if a bundle has problems.

    Raises:
        BundleError: if there is a problem; the message lists all problems.
    """
    if found := problems(bundle):
        raise BundleError(
            f"The bundle cannot be deployed to {bundle.target}:\n  - " + "\n  - ".join(found),
            f"correct {FILE} or the file in resources/ that defines it; then `shopmetrics bundle validate`",
        )


# Reading ------------------------------------------------------------------------------------------------------------


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path.name} is not there.", "run the command in a checkout of the repository") from error
    except yaml.YAMLError as error:
        raise BundleError(f"{path.name} is not YAML: {error}", "correct the line that it names") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path.name} holds no mapping.", "compare it with the bundle's other files")
    return content


def _included(content: Mapping[str, Any], root: Path) -> list[Path]:
    return sorted(path for pattern in content.get("include") or [] for path in root.glob(pattern))


def _unknown_keys(content: Mapping[str, Any], what: str, where: str) -> list[str]:
    known = _KEYS[what]
    return [
        f"{where}: unknown key {key}, expected one of {', '.join(sorted(known))}" for key in content if key not in known
    ]


def _values(content: Mapping[str, Any], target: str) -> dict[str, str]:
    """Return the values of the ``${...}`` references that are known without a workspace."""
    values = {"bundle.name": content["bundle"]["name"], "bundle.target": target}
    for name, variable in (content.get("variables") or {}).items():
        # Only the workspace knows the value of a variable that is looked up.
        values[f"var.{name}"] = variable.get("default", f"${{workspace.lookup.{name}}}")
    chosen = content["targets"][target].get("variables") or {}
    return values | {f"var.{name}": value for name, value in chosen.items()}


def _resolved(value: Any, values: Mapping[str, str], missing: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(one, values, missing) for key, one in value.items()}
    if isinstance(value, list):
        return [_resolved(one, values, missing) for one in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        if _KNOWN_AT_DEPLOYMENT.match(match[0]):
            return match[0]
        if match[1] not in values:
            missing.add(match[1])
            return match[0]
        return str(values[match[1]])

    return _REFERENCE.sub(put, value)


# Examining ----------------------------------------------------------------------------------------------------------


def _field_problems(kind: str, resource: Mapping[str, Any]) -> Iterator[str]:
    """Yield the error of the ``databricks-bundles`` class for a resource's fields. The class reports only the first."""
    from databricks.bundles.dashboards import Dashboard
    from databricks.bundles.jobs import Job
    from databricks.bundles.schemas import Schema
    from databricks.bundles.volumes import Volume

    classes: dict[str, Any] = {"jobs": Job, "schemas": Schema, "volumes": Volume, "dashboards": Dashboard}
    if kind not in classes:
        yield f"unknown kind of resource, expected one of {', '.join(classes)}"
        return
    try:
        classes[kind].from_dict(resource)
    except (ValueError, TypeError) as error:
        yield str(error)


def _own_problems(kind: str, resource: Mapping[str, Any]) -> Iterator[str]:
    for number, grant in enumerate(resource.get("grants") or [], start=1):
        if not grant.get("principal"):
            yield f"grant {number} names no principal"
        if not grant.get("privileges"):
            yield f"grant {number} grants nothing"
    if "schedule" in resource:
        yield from schedule.problems(resource["schedule"])
    if kind == "jobs" and resource.get("max_concurrent_runs") != 1:
        yield "max_concurrent_runs is not 1, and two runs at the same time would write to the same tables"


def _catalog_problems(job: Mapping[str, Any], bundle: Bundle) -> Iterator[str]:
    """Yield the tasks whose parameters do not begin with the catalog of the target."""
    expected = ["--catalog", str(_values(bundle.content, bundle.target)["var.catalog"])]
    for task in job.get("tasks") or []:
        parameters = (task.get("python_wheel_task") or {}).get("parameters") or []
        if parameters[:2] != expected:
            yield f"task {task.get('task_key')}: its parameters begin with {parameters[:2]}, expected {expected}"


def _path_problems(resource: Mapping[str, Any], folder: Path, root: Path) -> Iterator[str]:
    if "file_path" in resource and not (folder / resource["file_path"]).is_file():
        yield f"file_path {resource['file_path']} is not there"
    for environment in resource.get("environments") or []:
        dependencies = (environment.get("spec") or {}).get("dependencies") or []
        wheels = [one for one in dependencies if one.endswith(".whl")]
        locks = [one.removeprefix("-r").strip() for one in dependencies if one.startswith("-r")]
        if [(folder / wheel).resolve() for wheel in wheels] != [root / "dist" / "*.whl"]:
            yield f"environment {environment.get('environment_key')}: the wheels are {wheels}, expected ../dist/*.whl"
        if not locks:
            yield f"environment {environment.get('environment_key')}: no `-r requirements.txt` fixes the versions"
        yield from (f"{lock} is not there" for lock in locks if not (folder / lock).is_file())


def _target_problems(bundle: Bundle) -> Iterator[str]:
    target = bundle.content["targets"][bundle.target]
    if target.get("mode") == "production":
        if "root_path" not in (target.get("workspace") or {}):
            yield f"target {bundle.target}: no root_path, so that each who deploys would make a copy"
        if not target.get("permissions"):
            yield f"target {bundle.target}: no permissions, so that only who deployed it could see a run"
    for other in bundle.content["targets"]:
        if other != bundle.target and _catalog(bundle.content, other) == _catalog(bundle.content, bundle.target):
            yield f"targets {bundle.target} and {other} write to the same catalog"


def _catalog(content: Mapping[str, Any], target: str) -> str | None:
    return _values(content, target).get("var.catalog")
