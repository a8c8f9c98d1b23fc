"""GitHub workflows: read from their files, with their steps run on this machine in a copy of the checkout.

The steps are taken from the workflow's file, so a learner sees the real gate fail and not an imitation. Steps that only
GitHub can run are skipped, and the result says why: actions (``uses``), and steps that need GitHub's context, such as a
secret.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from shared.errors import BundleError
from shared.settings import CHECKOUT, PREFIX

FOLDER = Path(".github", "workflows")
CI = FOLDER / "ci.yml"
CD = FOLDER / "cd.yml"
SCHEDULE = FOLDER / "schedule.yml"

State = Literal["passed", "failed", "left out"]

_EXPRESSION = re.compile(r"\$\{\{\s*([^}]+?)\s*\}\}")


@dataclass(frozen=True)
class StepRun:
    """The result of one step of a job. ``output`` is the step's output, both streams in their order."""

    name: str
    state: State
    seconds: float = 0.0
    output: str = ""
    reason: str = ""
    """Why the step was not run."""


def read(file: Path, root: Path = CHECKOUT) -> dict[str, Any]:
    """Return the content of a workflow's file.

    Raises:
        BundleError: if the file is missing, is not YAML, or has no jobs.
    """
    try:
        content = yaml.safe_load((root / file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{file} is not there.", "run the command in a checkout of the repository") from error
    except yaml.YAMLError as error:
        raise BundleError(f"{file} is not YAML: {error}", "correct the line that it names") from error
    if not isinstance(content, dict) or not content.get("jobs"):
        raise BundleError(f"{file} has no jobs.", "a workflow needs `jobs`")
    return content


def job(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a job of a workflow.

    Raises:
        BundleError: if there is no job of this name with steps; the message lists the existing names.
    """
    with_steps = [key for key, one in content["jobs"].items() if "steps" in one]
    if name not in with_steps:
        raise BundleError(f"There is no job {name} with steps.", f"choose one of: {', '.join(with_steps)}")
    found: dict[str, Any] = content["jobs"][name]
    return found


def make_targets(job: Mapping[str, Any]) -> list[str]:
    """Return the targets with which the steps of a job call make, in order."""
    return [target for step in job.get("steps", []) if "run" in step for target in targets_in(str(step["run"]))]


def targets_in(script: str) -> list[str]:
    """Return the targets of the make calls that begin a line of a shell script, in order."""
    return re.findall(r"^\s*make (\w[\w-]*)", script, re.MULTILINE)


@contextmanager
def copy_of(root: Path = CHECKOUT) -> Iterator[Path]:
    """Copy the files of a checkout that git tracks or would add, and remove the copy afterwards.

    The copy is a repository of its own with one commit, so that a step can ask git what has changed. Its virtual
    environment is the checkout's.

    Raises:
        BundleError: if the checkout is not a git repository, or its dependencies have changed since they were
            installed: in that case `make setup` in the copy would install the copy.
    """
    installed = root / ".venv" / ".installed"
    if installed.is_file() and any(
        (root / name).stat().st_mtime > installed.stat().st_mtime for name in ("pyproject.toml", "constraints.txt")
    ):
        raise BundleError("The dependencies have changed since they were installed.", "make setup")
    with tempfile.TemporaryDirectory(prefix="shopmetrics-ci-") as scratch:
        copy = Path(scratch).resolve() / root.name
        listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in filter(None, listed):
            if (root / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, copy / name)
        _git(copy, "init", "--quiet")
        _git(copy, "add", "--all")
        # A temporary repository must not use the user's git settings, such as signing.
        _git(copy, *_NOBODY, "commit", "--quiet", "--no-verify", "--message", "copy")
        if (root / ".venv").is_dir():
            (copy / ".venv").symlink_to((root / ".venv").resolve(), target_is_directory=True)
        yield copy


_NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "commit.gpgsign=false")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"git {arguments[0]} failed: {done.stderr.strip()}", "is this a git repository?")
    return done.stdout


def run_steps(
    content: Mapping[str, Any],
    name: str,
    folder: Path,
    matrix: Mapping[str, str] | None = None,
    on_end: Callable[[StepRun], None] | None = None,
) -> list[StepRun]:
    """Run the ``run`` steps of a job in a folder, in order, each with ``bash -e`` as GitHub's runner does.

    If a step fails, the later steps are not run, as on GitHub.

    Args:
        content: the workflow.
        name: the job.
        folder: where the steps run, usually a :func:`copy_of` the checkout.
        matrix: values for ``${{ matrix.x }}``; defaults to the first value of each.
        on_end: called with each step as it ends.

    Raises:
        BundleError: if there is no such job.
    """
    this = job(content, name)
    values = {
        key: one[0] for key, one in (this.get("strategy") or {}).get("matrix", {}).items() if isinstance(one, list)
    }
    values |= dict(matrix or {})
    runs: list[StepRun] = []
    for number, step in enumerate(this["steps"], start=1):
        label = str(step.get("name") or step.get("uses") or step.get("run", f"step {number}")).splitlines()[0]
        runs.append(_run_step(step, label, [content, this], folder, values, runs))
        if on_end:
            on_end(runs[-1])
    return runs


def _run_step(
    step: Mapping[str, Any],
    label: str,
    around: Sequence[Mapping[str, Any]],
    folder: Path,
    values: Mapping[str, str],
    before: Sequence[StepRun],
) -> StepRun:
    if any(run.state == "failed" for run in before):
        return StepRun(label, "left out", reason="a step before it failed")
    if "uses" in step:
        return StepRun(label, "left out", reason="an action, which only GitHub's runner can run")
    environment = {key: str(value) for part in (*around, step) for key, value in (part.get("env") or {}).items()}
    filled = {key: _filled(text, values) for key, text in {"": str(step["run"]), **environment}.items()}
    if needed := sorted({one for text in filled.values() for one in _EXPRESSION.findall(text)}):
        return StepRun(label, "left out", reason=f"it needs GitHub's {', '.join(needed)}")
    script = filled.pop("")
    begun = time.perf_counter()
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder / str(step.get("working-directory", ".")),
        # The installed package is the checkout's, so the path puts the copy's modules before it.
        env=_environment() | {"PYTHONPATH": str(folder)} | filled,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    state: State = "passed" if done.returncode == 0 else "failed"
    return StepRun(label, state, round(time.perf_counter() - begun, 1), done.stdout)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _EXPRESSION.sub(lambda found: str(values.get(found[1].removeprefix("matrix."), found[0])), text)


def _environment() -> dict[str, str]:
    # The copy has its own code and its own home, so the steps must not see this process's settings. They must not see
    # the variables that git and make set for their child processes either. A log is plain text, without colours.
    kept = (f"{PREFIX}CACHE_DIR", f"{PREFIX}JAVA_HOME")
    ours = ("GIT_", "MAKE", "MFLAGS", "PYTEST", "FORCE_COLOR", "CLICOLOR", "PY_COLORS", PREFIX)
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(ours)}
