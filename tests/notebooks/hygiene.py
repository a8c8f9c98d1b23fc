"""The rules for every notebook. Each is a function from a notebook and its day to the violations of the rule."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.course.course_run import FROM_SETTINGS
from shared.course.days import Day
from shared.course.display import PLOTLY_MIME
from shared.course.execution import RAISES, parameters_of
from shared.course.refresh import PNG, normalised
from shared.errors import CourseError
from shared.settings import CHECKOUT, Settings

IGNORED = "nbval-ignore-output"
MOST_IGNORED = 2
FEWEST_COMPARED = 5
MOST_LINES = 30
"""The most lines of a code cell: enough for one idea."""
MOST_BYTES = {"one output": 50_000, "all outputs": 200_000, "one picture": 250_000, "all pictures": 600_000}
SHORTEST_ALT = 20

PATHS_OF_A_MACHINE = re.compile(r"(?<![\w.$>])/(?:home|Users|root|tmp|mnt|opt|private|var/folders)/\w|[A-Z]:\\+Users")
LOADED_FROM_ELSEWHERE = re.compile(
    r"<(?:script|iframe|link|img|object)\b[^>]*https?:"  # HTML
    r"|!\[[^\]]*\]\(\s*https?:"  # Markdown
    r"|url\(\s*['\"]?https?:"  # CSS
)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def counts_run_from_1_to_n(notebook: Any, day: Day) -> Iterator[str]:
    counts = [cell.execution_count for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}: run `make notebooks`"


def outputs_are_compared(notebook: Any, day: Day) -> Iterator[str]:
    tags = [tag for cell in code(notebook) for tag in cell.metadata.get("tags", [])]
    sources = "\n".join(cell.source for cell in code(notebook))
    for banned in ("nbval-skip", "pytest-validate-ignore-output"):
        if banned in tags:
            yield f"the tag {banned} takes a cell out of the comparison"
    if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", sources):
        yield "a comment switches nbval: use a tag"
    if tags.count(IGNORED) > MOST_IGNORED:
        yield f"{tags.count(IGNORED)} cells are not compared, at most {MOST_IGNORED} may"
    compared = [cell for cell in code(notebook) if cell.outputs and IGNORED not in cell.metadata.get("tags", [])]
    if len(compared) < FEWEST_COMPARED:
        yield f"only {len(compared)} cells have an output that is compared, expected {FEWEST_COMPARED} or more"


def parameters_are_literals_and_the_defaults(notebook: Any, day: Day) -> Iterator[str]:
    tagged = [i for i, cell in enumerate(code(notebook)) if "parameters" in cell.metadata.get("tags", [])]
    if tagged != [0]:
        yield f"the tag parameters is on the code cells {tagged}, expected on the first and no other"
        return
    try:
        found = parameters_of(notebook)
    except CourseError as error:
        yield error.problem
        return
    if not found:
        yield "the parameters cell has no parameter"
    for name in FROM_SETTINGS:
        default = Settings.model_fields[name].default
        if name in found and found[name] != default:
            yield f"{name} = {found[name]!r}, but the setting's default is {default!r}"


def says_what_it_is_and_ends_with_its_check(notebook: Any, day: Day) -> Iterator[str]:
    first = notebook.cells[0]
    heading = f"# Day {day.number}: {day.title}"
    if first.cell_type != "markdown" or first.source.splitlines()[0] != heading:
        yield f"the first cell does not begin with `{heading}`"
    cells = [cell.source for cell in code(notebook)]
    expected = ["display.lakehouse_state(spark)"] * day.spark + [day.check_cell]
    if cells[-len(expected) :] != expected:
        yield f"the last code cells are {cells[-len(expected) :]}, expected {expected}"


def spark_is_used_where_the_day_says_so(notebook: Any, day: Day) -> Iterator[str]:
    for cell in code(notebook):
        if not day.spark and (word := re.search(r"\bspark\b|\bpyspark\b|shared\.connect", cell.source)):
            yield f"cell [{cell.execution_count}] uses {word[0]}, but the day is listed with spark=False"


def is_stored_in_normal_form(notebook: Any, day: Day) -> Iterator[str]:
    ids = {cell.id for cell in notebook.cells if "id" in cell}
    if len(ids) < len(notebook.cells):
        yield "cell ids are missing or not unique"
    if normalised(notebook) != notebook:
        yield "metadata or outputs vary from run to run: run `make notebooks`"


def nothing_of_this_machine_is_stored(notebook: Any, day: Day) -> Iterator[str]:
    for cell in code(notebook):
        text = outputs_as_text(cell)
        found = [match[0] for match in PATHS_OF_A_MACHINE.finditer(text)]
        found += [str(path) for path in (CHECKOUT, Path.home()) if f"{path}/" in text]
        for place in sorted(set(found)):
            yield f"cell [{cell.execution_count}] shows a path of this machine: {place}..."


def errors_are_on_purpose(notebook: Any, day: Day) -> Iterator[str]:
    for cell in code(notebook):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors and RAISES not in cell.metadata.get("tags", []):
            yield f"cell [{cell.execution_count}] ends in {errors[0].ename}"
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"cell [{cell.execution_count}] writes to stderr: silence it at its source"


def figures_have_picture_and_alt_text(notebook: Any, day: Day) -> Iterator[str]:
    for cell in code(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if PLOTLY_MIME not in data:
                continue
            if PNG not in data:
                yield f"cell [{cell.execution_count}]: the figure has no picture: run `make notebooks`"
            if len(data.get("text/plain", "")) < SHORTEST_ALT:
                yield f"cell [{cell.execution_count}]: the figure's alt text says too little"


def outputs_are_small(notebook: Any, day: Day) -> Iterator[str]:
    texts = [len(outputs_as_text(cell)) for cell in code(notebook)]
    pictures = [len(o["data"][PNG]) for cell in code(notebook) for o in cell.outputs if PNG in o.get("data", {})]
    for what, sizes in {"output": texts, "picture": pictures}.items():
        for size, limit in ((max(sizes, default=0), f"one {what}"), (sum(sizes), f"all {what}s")):
            if size > MOST_BYTES[limit]:
                yield f"{limit}: {size:,} bytes, at most {MOST_BYTES[limit]:,}"


def cells_are_short(notebook: Any, day: Day) -> Iterator[str]:
    for cell in code(notebook):
        lines = cell.source.count("\n") + 1
        if lines > MOST_LINES:
            yield f"cell [{cell.execution_count}] has {lines} lines, at most {MOST_LINES}: one idea per cell"


def links_resolve(notebook: Any, day: Day) -> Iterator[str]:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in LINK.findall(cell.source):
                if broken := broken_link(target, day.notebook.parent):
                    yield broken


def nothing_is_loaded_from_elsewhere(notebook: Any, day: Day) -> Iterator[str]:
    for cell in notebook.cells:
        text = cell.source if cell.cell_type == "markdown" else outputs_as_text(cell)
        for match in LOADED_FROM_ELSEWHERE.finditer(text):
            yield f"{match[0][:60]!r} is loaded from another server"


RULES = (
    counts_run_from_1_to_n,
    outputs_are_compared,
    parameters_are_literals_and_the_defaults,
    says_what_it_is_and_ends_with_its_check,
    spark_is_used_where_the_day_says_so,
    is_stored_in_normal_form,
    nothing_of_this_machine_is_stored,
    errors_are_on_purpose,
    figures_have_picture_and_alt_text,
    outputs_are_small,
    cells_are_short,
    links_resolve,
    nothing_is_loaded_from_elsewhere,
)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_as_text(cell: Any) -> str:
    """Return all stored outputs of a cell, without pictures."""
    outputs = json.loads(json.dumps(cell.get("outputs", [])))
    for output in outputs:
        output.get("data", {}).pop(PNG, None)
    strings: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            for entry in value.values():
                walk(entry)
        elif isinstance(value, list):
            for entry in value:
                walk(entry)
        else:
            strings.append(str(value))

    walk(outputs)
    return "\n".join(strings)


def broken_link(target: str, folder: Path) -> str:
    """Return the problem of a link on a page in this folder, or nothing. Links to other servers are not checked."""
    if re.match(r"(https?|mailto):", target):
        return ""
    path, _, anchor = target.partition("#")
    file = (folder / path).resolve() if path else None
    if file and not file.exists():
        return f"the link {target} leads nowhere"
    if file and not file.is_relative_to(CHECKOUT.resolve()):
        return f"the link {target} leads out of the repository"
    if file and anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
        return f"the link {target} names a heading that {file.name} does not have"
    return ""


def anchors(markdown: str) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts generate them."""
    headings = re.findall(r"^#+\s+(.*?)\s*$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
