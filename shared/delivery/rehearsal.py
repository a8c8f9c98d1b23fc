"""A deployment, rehearsed on this machine: the jobs of ``cd.yml`` in their order, with a directory as the workspace.

A rehearsal deploys the same things as a real deployment: the wheel, built once, and the bundle's resources as a target
sees them. The job then runs the code of the wheel, not of the checkout. If a target fails, the targets that need it are
skipped. A target behind an environment gate waits until it is approved.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from shared.delivery import bundle, jobs, records, workflows
from shared.errors import BundleError
from shared.settings import CHECKOUT, Settings, get_settings

State = Literal["deployed", "failed", "waiting for approval", "left out"]

SMOKE = "nightly"
"""The job that runs after a deployment to dev."""


@dataclass(frozen=True)
class Deployment:
    """The result of one target of a rehearsal."""

    target: str
    state: State
    version: str = ""
    """The first characters of the wheel's SHA-256: the same wheel is deployed to every target."""
    reason: str = ""
    """Why the target failed, waits, or was skipped."""


def stages(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the targets that a workflow deploys to, in the order of deployment, each with the targets that it needs.

    A job deploys if one of its steps calls ``make deploy``; its target is ``TARGET`` in the job's ``env``.

    Raises:
        BundleError: if two jobs need each other.
    """
    targets = {
        name: str((job.get("env") or {})["TARGET"])
        for name, job in content["jobs"].items()
        if "deploy" in workflows.make_targets(job)
    }
    needs = {name: [content["jobs"][name].get("needs") or []] for name in targets}
    flat = {
        name: [one for entry in found for one in ([entry] if isinstance(entry, str) else entry)]
        for name, found in needs.items()
    }
    try:
        ordered = list(
            TopologicalSorter({name: [one for one in flat[name] if one in targets] for name in targets}).static_order()
        )
    except CycleError as error:
        raise BundleError(f"The jobs need each other: {' -> '.join(error.args[1])}.", "correct `needs`") from error
    return {targets[name]: [targets[one] for one in flat[name] if one in targets] for name in ordered}


def rehearse(
    root: Path = CHECKOUT,
    settings: Settings | None = None,
    quiet: bool = False,
) -> list[Deployment]:
    """Deploy to the targets of ``cd.yml`` in their order, and run the nightly job on targets that need no other target.

    A target that needs another one is behind a gate: what it is to get is kept, and :func:`approve` deploys it. A
    deployment that still waits is replaced.

    Args:
        root: the checkout that is deployed.
        settings: the home; defaults to this process's settings.
        quiet: do not show the tasks' output.

    Raises:
        BundleError: if the wheel cannot be built.
    """
    settings = settings or get_settings()
    content = workflows.read(workflows.CD, root)
    wheel = build_wheel(root)
    version = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]
    # If this run is killed, nothing can be approved: the record says so before what waited is removed.
    _keep((), settings)
    shutil.rmtree(_waiting(settings), ignore_errors=True)
    done: dict[str, Deployment] = {}
    for target, needed in stages(content).items():
        if stopped := [one for one in needed if done[one].state in ("failed", "left out")]:
            done[target] = Deployment(target, "left out", reason=f"{', '.join(stopped)} is not deployed")
        else:
            done[target] = _deploy(target, root, wheel, version, settings, is_gated=bool(needed), quiet=quiet)
    _keep(done.values(), settings)
    return list(done.values())


def approve(settings: Settings | None = None) -> list[Deployment]:
    """Deploy to the targets that wait for approval what the last rehearsal kept for them, and return all targets.

    Nothing is built, and no other target is deployed again: an approval continues a run of the workflow.

    Raises:
        BundleError: if nothing waits.
    """
    settings = settings or get_settings()
    done = [Deployment(**one) for one in records.last("deployment", settings)]
    if not any(one.state == "waiting for approval" for one in done):
        raise BundleError("No deployment waits for approval.", "run `shopmetrics bundle rehearse` first")
    for number, one in enumerate(done):
        if one.state == "waiting for approval":
            shutil.rmtree(place(one.target, settings), ignore_errors=True)
            shutil.copytree(_waiting(settings) / one.target, place(one.target, settings))
            done[number] = Deployment(one.target, "deployed", one.version)
    _keep(done, settings)
    shutil.rmtree(_waiting(settings))
    return done


def _deploy(
    target: str, root: Path, wheel: Path, version: str, settings: Settings, is_gated: bool, quiet: bool
) -> Deployment:
    try:
        found = bundle.read(target, root)
        bundle.require_sound(found)
    except BundleError as error:
        return Deployment(target, "failed", version, error.problem)
    folder = _waiting(settings) / target if is_gated else place(target, settings)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "resources.json").write_text(json.dumps(found.resources, indent=2), encoding="utf-8")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    if is_gated:
        return Deployment(target, "waiting for approval", version, f"the environment {target} asks for a reviewer")
    runs = jobs.run(found, SMOKE, code=folder / "wheel", quiet=quiet)
    if failed := [one.task_key for one in runs if one.state == "failed"]:
        return Deployment(target, "failed", version, f"the job {SMOKE} failed at {', '.join(failed)}")
    return Deployment(target, "deployed", version)


def _keep(done: Iterable[Deployment], settings: Settings) -> None:
    records.keep("deployment", [asdict(one) for one in done], settings)


def _waiting(settings: Settings) -> Path:
    return settings.delivery / "waiting"


def place(target: str, settings: Settings | None = None) -> Path:
    """Return the directory that represents the workspace of a target; it holds ``wheel/`` and ``resources.json``."""
    return (settings or get_settings()).delivery / "workspace" / target


def build_wheel(root: Path = CHECKOUT) -> Path:
    """Build the wheel with the bundle's build command, and return its path.

    Raises:
        BundleError: if the build failed, with its output.
    """
    command = bundle.read(root=root).content["artifacts"]["wheel"]["build"]
    done = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True, check=False)
    wheels = sorted((root / "dist").glob("*.whl"))
    if done.returncode or not wheels:
        raise BundleError(f"`{command}` did not build the wheel:\n{(done.stdout + done.stderr).strip()}", "make setup")
    return wheels[-1]
