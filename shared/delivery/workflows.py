"""GitHub workflows: read from their files, and their steps run here, in a copy of the checkout.

The steps that run are those of the file, so what a learner sees fail is the gate itself and no imitation. What only
GitHub can do is not run, and named: actions (``uses``), and steps that need its context, such as a secret.
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
    """What became of one step of a job. ``output`` is what the step wrote, both streams in their order."""

    name: str
    state: State
    seconds: float = 0.0
    output: str = ""
    reason: str = ""
    """Why it was not run."""


def read(file: Path, root: Path = CHECKOUT) -> dict[str, Any]:
    """Return a workflow as it is written.

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
        BundleError: if there is none of this name that has steps, with the names that there are.
    """
    with_steps = [key for key, one in content["jobs"].items() if "steps" in one]
    if name not in with_steps:
        raise BundleError(f"There is no job {name} with steps.", f"choose one of: {', '.join(with_steps)}")
    found: dict[str, Any] = content["jobs"][name]
    return found


def make_targets(job: Mapping[str, Any]) -> list[str]:
    """Return the targets that the steps of a job hand to make, in order."""
    return [target for step in job.get("steps", []) if "run" in step for target in targets_in(str(step["run"]))]


def targets_in(script: str) -> list[str]:
    """Return the targets that a shell script hands to make, each at the beginning of a line, in order."""
    return re.findall(r"^\s*make (\w[\w-]*)", script, re.MULTILINE)


@contextmanager
def copy_of(root: Path = CHECKOUT) -> Iterator[Path]:
    """Make a copy of what git knows of a checkout, new files included, and remove it afterwards.

    The copy is a repository of its own with one commit, so that a step may ask git what has changed. Its virtual
    environment is the checkout's.

    Raises:
        BundleError: if git does not know the checkout, or its dependencies have changed since they were installed:
            `make setup` within the copy would then install the copy.
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
        # Settings of the user, such as signing, are not for a scratch repository.
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
    """Run the ``run`` steps of a job in a folder, in order, each as GitHub's runner does: by ``bash -e``.

    After a step that fails, the steps that follow are not run, as on GitHub.

    Args:
        content: the workflow.
        name: the job.
        folder: where the steps run, usually a :func:`copy_of` the checkout.
        matrix: values for ``${{ matrix.x }}``; defaults to the first value of each.
        on_end: told of each step as it ends.

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
        # The package that is installed is the checkout's: the copy's modules come before it.
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
    # The copy brings its own code and its own home: nothing of the process that asks may lead it elsewhere. Nor may the
    # variables by which git and make tell what they start that it is a part of them. A log is text, without colours.
    kept = (f"{PREFIX}CACHE_DIR", f"{PREFIX}JAVA_HOME")
    ours = ("GIT_", "MAKE", "MFLAGS", "PYTEST", "FORCE_COLOR", "CLICOLOR", "PY_COLORS", PREFIX)
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(ours)}
