"""Run one notebook with papermill: with this Python interpreter, in a home that the caller chooses.

The kernel is the interpreter that runs this code, whatever kernels are installed on the machine. Its environment
contains every setting, so that the notebook, its checks and this process use the same home. Its working directory is
the notebook's directory, as in JupyterLab. The memory of the run is measured.
"""

from __future__ import annotations

import ast
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from shared.errors import CourseError
from shared.runtime import kafka, spark
from shared.runtime.memory import kill_counter, limit
from shared.runtime.process import read_record
from shared.settings import PREFIX, Settings

KERNEL_NAME = "python3"
RAISES = "raises-exception"
"""Tag of a cell that raises an error on purpose."""

SAMPLE_EVERY = 0.2
"""Seconds between two measurements of the memory."""


LAST_WORDS = 5
"""The number of lines that are quoted from a dead kernel's stderr."""

_KILLED = "the system killed it, because everything together needed more than {limit}"
_USUAL_DEATH = "usually the machine had no memory left for it, or the cell ended the process"


@dataclass(frozen=True)
class Failure:
    """Where a notebook stopped, and why."""

    cell: int
    """The number in the brackets beside the cell, in the executed copy."""
    source: str
    error: str
    """Class and message, as in the last line of a traceback."""
    traceback: str = ""


@dataclass(frozen=True)
class Execution:
    """One run of one notebook: the notebook with its outputs, the run's cost, and the failure, if there was one."""

    notebook: Any
    seconds: float
    peak_mb: float
    """Largest sum of the resident memory of kernel and engine, in MiB."""
    failure: Failure | None


def read(path: Path) -> Any:
    """Return a notebook.

    Raises:
        CourseError: if the file does not exist or is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise CourseError(
            f"There is no notebook {path}.", "restore it with git, or take its day out of shared/course/days.py"
        ) from None
    except (ValueError, nbformat.ValidationError) as error:
        reason = str(error).split("\n")[0]
        raise CourseError(f"{path} is not a notebook: {reason}", "restore it with git") from error


def parameters_of(notebook: Any) -> dict[str, Any]:
    """Return the names and literal values in the cell tagged ``parameters``; empty if there is no such cell.

    Raises:
        CourseError: if a line of the cell is not ``name = literal``.
    """
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
            continue
        for statement in ast.parse(cell.source).body:
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    try:
                        found[name] = ast.literal_eval(value)
                        continue
                    except ValueError:
                        pass
            line = ast.unparse(statement)
            raise CourseError(
                f"The parameters cell has the line `{line}`: expected a name and a literal value, such as scale = 1.0.",
                "move everything else into the next cell",
            )
    return found


def execute(
    path: Path,
    settings: Settings,
    parameters: Mapping[str, Any] | None = None,
    save_to: Path | None = None,
    progress: str = "",
) -> Execution:
    """Run a notebook from top to bottom, stopping at the first cell that fails. The notebook's file is not touched.

    Args:
        path: the notebook.
        settings: the kernel's settings, above all the home.
        parameters: values for a cell below the one tagged ``parameters``.
        save_to: the file of the executed copy, which is written after every cell.
        progress: the label of papermill's progress bar; without a label there is no bar.

    Raises:
        CourseError: if the notebook cannot be read. A failing cell is not raised but returned.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines
    from papermill.execute import prepare_notebook_metadata, remove_error_markers
    from papermill.iorw import load_notebook_node, write_ipynb
    from papermill.parameterize import parameterize_notebook

    # The failure is returned; without this handler papermill's logger would print it as well.
    logging.getLogger("papermill").addHandler(logging.NullHandler())
    read(path)  # raises a clear error; papermill's own loader then adds the metadata that it needs
    notebook = load_notebook_node(str(path))
    if parameters:
        notebook = parameterize_notebook(notebook, dict(parameters), kernel_name=KERNEL_NAME, language="python")
    notebook = prepare_notebook_metadata(notebook, str(path), str(save_to or ""))
    notebook = remove_error_markers(notebook)
    pids: list[int] = []
    started, dead = time.monotonic(), ""
    killed = kill_counter()
    # The stderr of the kernel process, not of a cell: if the kernel dies, its last lines explain why.
    with (
        tempfile.TemporaryFile() as stderr,
        PeakMemory(lambda: [*pids, *_server_pids(settings)]) as memory,
    ):
        try:
            papermill_engines.execute_notebook_with_engine(
                None,
                notebook,
                kernel_name=KERNEL_NAME,
                output_path=str(save_to) if save_to else None,
                # tqdm takes None to mean: no bar if the output is not a terminal.
                progress_bar={"desc": progress, "leave": False, "disable": None} if progress else False,
                kernel_manager_class=_kernel_manager(environment(settings), pids, stderr),
                resources={"metadata": {"path": str(path.parent)}},
                coalesce_streams=True,
            )
        except DeadKernelError:
            stderr.seek(0)
            words = stderr.read().decode(errors="replace").strip().splitlines()[-LAST_WORDS:]
            death = _KILLED.format(limit=limit()) if killed.now() > killed.count else _USUAL_DEATH
            dead = "\n".join([f"the kernel died: {death}", *words])
    if save_to:
        write_ipynb(notebook, str(save_to))
    return Execution(notebook, time.monotonic() - started, memory.peak_mb, _failure(notebook, dead))


def _failure(notebook: Any, dead: str) -> Failure | None:
    """Return the first cell that failed: it raised unexpectedly, never ran, or ended without its expected error."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        on_purpose = RAISES in cell.metadata.get("tags", [])
        last_begun = all(later.metadata.papermill.start_time is None for later in code[number:])
        if errors and not on_purpose:
            error = errors[0]
            return Failure(number, cell.source, f"{error.ename}: {error.evalue}", "\n".join(error.traceback))
        if dead and last_begun:
            return Failure(number, cell.source, dead)
        if cell.execution_count is None and cell.source.strip():
            return Failure(number, cell.source, "the cell was not run")
        if on_purpose and not errors:
            return Failure(number, cell.source, f"the cell is tagged {RAISES}, but ended without an error")
    return Failure(0, "", dead) if dead else None


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that make a run of a notebook the same everywhere, its settings among them."""
    stated = {name: getattr(settings, name) for name in type(settings).model_fields}
    variables = {f"{PREFIX}{name.upper()}": str(value) for name, value in stated.items() if value is not None}
    # These two have an effect only if they are set before the interpreter starts.
    return variables | {"PYTHONHASHSEED": "0", "TZ": "UTC"}


def _kernel_manager(variables: dict[str, str], pids: list[int], stderr: IO[bytes]) -> type:
    """Return a kernel manager class that starts this interpreter and appends the process's id to ``pids``."""
    import zmq
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(
                **options,
                kernel_spec_manager=ThisPython(),
                # On a shared machine, other users must not read what a cell prints.
                transport_encryption="auto" if zmq.has("curve") else "disabled",
            )

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            await super().start_kernel(**options, env=os.environ | variables, stderr=stderr)
            pids.append(self.provisioner.pid)  # type: ignore[union-attr]

    return Manager


def _server_pids(settings: Settings) -> list[int]:
    records = (read_record(path(settings)) for path in (spark.record_path, kafka.record_path))
    return [record.pid for record in records if record]


class PeakMemory(AbstractContextManager["PeakMemory"]):
    """Measures the peak of the resident memory of some processes while a block runs.

    Args:
        pids: returns the processes to add up; called for each measurement, because processes start and end.

    Example:
        >>> with PeakMemory(lambda: [os.getpid()]) as memory:
        ...     work()
        >>> memory.peak_mb
    """

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self.peak_mb = 0.0
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, sum(map(_resident_mb, set(self._pids()))))
            if self._ended.wait(SAMPLE_EVERY):
                return


def _resident_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0
