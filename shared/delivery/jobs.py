"""Jobs of the bundle, run on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from shared.delivery import records, tasks
from shared.delivery.bundle import Bundle
from shared.delivery.tasks import TaskRun, Tell


def run(
    bundle: Bundle,
    name: str,
    only: Sequence[str] = (),
    code: Path | None = None,
    tell: Tell | None = None,
    quiet: bool = False,
) -> list[TaskRun]:
    """Run a job's tasks, see :func:`shared.delivery.tasks.run`. Without ``only``, keep a record of the run.

    Raises:
        BundleError: if there is no such job or task, or the tasks cannot be put in order.

    Example:
        >>> [run.state for run in jobs.run(bundle.read("dev"), "nightly")]
        ['succeeded', 'succeeded', 'succeeded']
    """
    runs = tasks.run(bundle.job(name), only, code, tell, quiet)
    if not only:
        records.keep(
            f"job-{name}", {"target": bundle.target, "tasks": [asdict(replace(one, output="")) for one in runs]}
        )
    return runs
