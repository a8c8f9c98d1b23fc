"""Refresh the notebooks' stored outputs: run all notebooks in order in a fresh home, and store what does not vary.

A stored notebook holds its sources, execution counts 1 to n, and the outputs of the default run, but no times, no
versions of a machine and no paths. So a refresh on another machine changes nothing, and a difference in git is a
difference in behaviour.

A figure gets a picture beside its interactive form, for code hosts. The picture is drawn here from the stored figure,
and only if the figure changed, because two browsers never draw the same bytes.

Run it with ``make notebooks``, or ``python -m shared.course.refresh``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from shared.course.days import Day, select
from shared.course.display import PICTURE_WIDTH, PLOTLY_MIME
from shared.course.execution import KERNEL_NAME, execute, read
from shared.errors import CourseError, ShopMetricsError
from shared.settings import Settings, get_settings

PNG = "image/png"

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL_NAME}
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}

KEPT_CELL_METADATA = ("tags", "jupyter")
KEPT_OUTPUT_METADATA = (PNG,)

CORES = 2
"""Cores of the engine while outputs are stored and compared; the number of files of a write depends on it."""

PICTURE_SCALE = 1.5
"""Pixels of a picture per pixel on the page: sharp on most screens, and still a small file."""


def default_settings(home: Path) -> Settings:
    """Return the settings of the default run in this home, whatever the environment says about size and seed."""
    # Settings such as the places of jars and JDK depend on the machine. The outputs of a run must not depend on it.
    here = get_settings()
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    kept = ("cache_dir", "java_home", "start_timeout", "startup_cache")
    return here.model_copy(
        update=defaults | {name: getattr(here, name) for name in kept} | {"home": home, "server_cores": CORES}
    )


def refresh(days: Sequence[Day] | None = None, console: Console | None = None) -> list[Path]:
    """Run the notebooks in order in a fresh home and store their outputs. Return the notebooks that changed.

    A notebook is written only if its run succeeded, and only if something other than a picture differs or the stored
    notebook lacks a picture.

    Args:
        days: the days to run; the first must not need the tables of an earlier day. Defaults to all days.
        console: shows progress; without it no progress is shown.

    Raises:
        CourseError: if a cell fails; or if a figure needs a picture and no browser is found to draw it.
    """
    from shared.runtime import kafka, spark

    chosen = select() if days is None else tuple(days)
    changed = []
    with tempfile.TemporaryDirectory(prefix="shopmetrics-") as scratch:
        settings = default_settings(Path(scratch).resolve() / "home")
        try:
            for day in chosen:
                execution = execute(day.notebook, settings, progress=f"day {day.number}" if console else "")
                if execution.failure:
                    raise CourseError(
                        f"{day.notebook} stopped in cell [{execution.failure.cell}]: {execution.failure.error}",
                        "mend it and refresh again; this notebook and those after it are as they were",
                    )
                written = store(day.notebook, execution.notebook)
                changed += [day.notebook] * written
                if console:
                    state = "changed" if written else "unchanged"
                    console.print(f"{day.notebook.name:<40} {execution.seconds:6.1f} s  {state}", highlight=False)
        finally:
            spark.down(settings)
            kafka.down(settings)
    return changed


def store(path: Path, executed: Any) -> bool:
    """Normalise an executed notebook and write it, pictures included. Return whether the file was written.

    Raises:
        CourseError: if a picture is needed and cannot be drawn.
    """
    import nbformat

    stored = read(path)
    fresh = normalised(executed)
    if as_file(without_pictures(fresh)) == as_file(without_pictures(stored)) and not _lacks_pictures(stored):
        return False
    add_pictures(fresh, _pictures(stored))
    nbformat.validate(fresh)
    path.write_text(as_file(fresh), encoding="utf-8")
    return True


def normalised(notebook: Any) -> Any:
    """Return a copy of an executed notebook without anything that varies from run to run."""
    import nbformat

    copy = deepcopy(notebook)
    copy.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO})
    copy.nbformat, copy.nbformat_minor = 4, 5
    for number, cell in enumerate(copy.cells):
        # JupyterLab gives every cell an id. A cell written by a program may lack one, and then gets a fixed id.
        cell.setdefault("id", f"cell-{number}")
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA and v})
        for output in cell.get("outputs", []):
            _normalise_output(output, cell.execution_count)
    return copy


def _normalise_output(output: Any, count: int) -> None:
    if "metadata" in output:
        output.metadata = {key: value for key, value in output.metadata.items() if key in KEPT_OUTPUT_METADATA}
    if output.output_type == "execute_result":
        output.execution_count = count
    if output.output_type == "error":
        # The rest of a traceback consists of colours, line numbers of libraries and paths of this machine.
        output.traceback = [f"{output.ename}: {output.evalue}"]


def as_file(notebook: Any) -> str:
    """Return the text of a notebook's file."""
    import nbformat

    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


# Pictures -----------------------------------------------------------------------------------------------------------


def figures(notebook: Any) -> list[Any]:
    """Return the mime bundles of a notebook that hold a plotly figure."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data for output in outputs if PLOTLY_MIME in output.get("data", {})]


def without_pictures(notebook: Any) -> Any:
    """Return a copy of a notebook whose figures have no picture."""
    copy = deepcopy(notebook)
    for bundle in figures(copy):
        bundle.pop(PNG, None)
    return copy


def _lacks_pictures(notebook: Any) -> bool:
    return any(PNG not in bundle for bundle in figures(notebook))


def _pictures(notebook: Any) -> dict[str, str]:
    return {_identity(bundle): bundle[PNG] for bundle in figures(notebook) if PNG in bundle}


def _identity(bundle: Any) -> str:
    return json.dumps(bundle[PLOTLY_MIME], sort_keys=True)


def add_pictures(notebook: Any, known: dict[str, str]) -> None:
    """Put a picture beside every figure: the known picture of the same figure, else a new one.

    Raises:
        CourseError: if a new picture is needed and cannot be drawn.
    """
    missing = {_identity(bundle): bundle[PLOTLY_MIME] for bundle in figures(notebook)}
    missing = {identity: figure for identity, figure in missing.items() if identity not in known}
    drawn = dict(zip(missing, draw(list(missing.values())), strict=True)) if missing else {}
    for bundle in figures(notebook):
        bundle[PNG] = (known | drawn)[_identity(bundle)]


def draw(specifications: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a PNG of each figure, base64-encoded, drawn by one browser that loads nothing from the network.

    Raises:
        CourseError: if there is no browser to draw with, or if it cannot draw a figure.
    """
    wanted = f"{len(specifications)} figure(s) need a picture for code hosts"
    try:
        from choreographer.errors import ChromeNotFoundError
        from kaleido.errors import KaleidoError  # type: ignore[import-untyped]
    except ImportError as error:
        raise CourseError(f"{wanted}, but the package {error.name} is not installed.", "make setup") from error
    try:
        return asyncio.run(_draw(specifications))
    except ChromeNotFoundError as error:
        raise CourseError(
            f"{wanted}, but no Chromium was found to draw it.",
            "install one, for example `apt-get install chromium`, or name it in BROWSER_PATH; then refresh again",
        ) from error
    except (KaleidoError, TimeoutError) as error:
        raise CourseError(
            f"{wanted}, but the browser could not draw it: {error}", "try the figure in JupyterLab"
        ) from error


async def _draw(specifications: Sequence[Mapping[str, Any]]) -> list[str]:
    from kaleido import Kaleido  # type: ignore[import-untyped]

    pictures = []
    # No mathjax: the browser would load it from a third party's server.
    async with Kaleido(mathjax=False) as browser:
        for figure in specifications:
            size = {"width": PICTURE_WIDTH, "height": figure["layout"]["height"], "scale": PICTURE_SCALE}
            content = {"data": figure["data"], "layout": figure["layout"]}
            png = await browser.calc_fig(content, opts={"format": "png", **size})
            pictures.append(base64.b64encode(png).decode("ascii"))
    return pictures


def main() -> None:
    """Execute every notebook, store what comes out in ``notebooks/``, and say which changed."""
    console = Console(stderr=True)
    try:
        changed = refresh(console=console)
    except ShopMetricsError as error:
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from None
    console.print(f"{len(changed)} notebooks changed; read `git diff` before you commit", highlight=False)


if __name__ == "__main__":
    # Through typer, `--help` and an unknown argument return at once, instead of starting a run of 15 minutes.
    typer.run(main)
