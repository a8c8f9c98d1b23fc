"""Executes a notebook's cells in this process. A test that does not need a kernel saves a second each time."""

from __future__ import annotations

from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_output
from papermill.engines import Engine
from traitlets.config import Config

from shared.course.execution import RAISES


class Here(Engine):  # type: ignore[misc]
    """Replaces papermill's engine: it gives the same outputs and counts, and also stops at the first error."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> None:
        """Execute the code cells in order, and store their outputs."""
        # The shell that `get_ipython()` returns.
        shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
        try:
            _execute(shell, nb_man)
        finally:
            InteractiveShell.clear_instance()


def _execute(shell: InteractiveShell, nb_man: Any) -> None:
    count = 0
    for index, cell in enumerate(nb_man.nb.cells):
        nb_man.cell_start(cell, index)
        if cell.cell_type == "code":
            cell.execution_count = count = count + 1
            error = _run(shell, cell)
            if error and RAISES not in cell.metadata.get("tags", []):
                nb_man.cell_exception(cell, index, exception=error)
                break
        nb_man.cell_complete(cell, index)


def _run(shell: InteractiveShell, cell: Any) -> BaseException | None:
    values: list[Any] = []
    shell.display_trap.hook = values.append
    with capture_output() as said:
        result = shell.run_cell(cell.source)
    error: BaseException | None = result.error_before_exec or result.error_in_exec
    # IPython prints the traceback below the cell's own output.
    text = said.stdout.partition("\x1b[")[0] if error else said.stdout
    cell.outputs = [new_output("stream", name="stdout", text=text)] if text else []
    cell.outputs += [new_output("display_data", shown.data, metadata=shown.metadata or {}) for shown in said.outputs]
    for data, metadata in (shell.display_formatter.format(value) for value in values if value is not None):
        count = cell.execution_count
        cell.outputs.append(new_output("execute_result", data, metadata=metadata, execution_count=count))
    if error:
        told = f"{type(error).__name__}: {error}"
        cell.outputs.append(new_output("error", ename=type(error).__name__, evalue=str(error), traceback=[told]))
    return error
