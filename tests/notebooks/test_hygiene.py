"""Every notebook keeps every rule, and every rule detects a notebook that breaks it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gate
import pytest
from gate import CHAINS
from hygiene import (
    LINK,
    RULES,
    anchors,
    broken_link,
    says_what_it_is_and_ends_with_its_check,
    spark_is_used_where_the_day_says_so,
)
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from shared.course.days import DAYS, Day
from shared.course.display import PLOTLY_MIME
from shared.course.execution import read
from shared.course.refresh import PNG, as_file, normalised
from shared.settings import CHECKOUT

Rule = Callable[[Any, Day], Iterator[str]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.name)
def test_notebook(day: Day, rule: Rule) -> None:
    broken = list(rule(read(day.notebook), day))
    assert not broken, "\n".join([f"{day.notebook.name} breaks `{rule.__name__}`:", *broken])


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.name)
def test_every_notebook_has_its_lesson_and_its_links_resolve(day: Day) -> None:
    assert day.lesson.is_file()
    targets = LINK.findall(day.lesson.read_text(encoding="utf-8"))
    assert not [broken for target in targets if (broken := broken_link(target, day.lesson.parent))]


@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.name)
def test_the_file_is_what_a_refresh_writes(day: Day) -> None:
    assert day.notebook.read_text(encoding="utf-8") == as_file(normalised(read(day.notebook))), "run: make notebooks"


def test_every_day_is_in_one_chain_whose_outputs_are_compared() -> None:
    assert Counter(day for chain in CHAINS for day in chain) == Counter(DAYS)
    assert all(list(chain) == sorted(chain, key=lambda day: day.number) for chain in CHAINS)
    files = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_stored_*.py"))
    compared = [match for text in files for match in re.findall(r"^CHAIN = (\w+)$", text, re.MULTILINE)]
    assert Counter(map(vars(gate).get, compared)) == Counter(CHAINS), "add a test_stored_*.py for the chain"


def test_every_notebook_is_a_day() -> None:
    found = {path.name for path in (CHECKOUT / "notebooks").glob("*.ipynb")}
    assert found == {day.notebook.name for day in DAYS}, "list it in shared/course/days.py"


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_is_content(command: list[str]) -> None:
    notebooks = [str(day.notebook) for day in DAYS]
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", *notebooks],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


# The rules themselves, tested with one notebook that keeps them all and with many that each break one.

DAY = DAYS[0]


def good() -> Any:
    figure = {PLOTLY_MIME: {"data": [], "layout": {}}, PNG: "iVBORw0KGgo=", "text/plain": "Orders per day, 219 to 512."}
    sources = [
        "scale = 1.0\nrows = 5",
        "import shared",
        "1 + 1",
        "2 + 2",
        "display.figure(fig, alt='Orders per day, 219 to 512.')",
        "display.lakehouse_state(spark)",
        "checks.report(1, spark)",
    ]
    cells = [new_markdown_cell(f"# Day 1: {DAY.title}\n\n[Plan](../docs/implementation-plan.md#milestones)")]
    for number, source in enumerate(sources, start=1):
        data = figure if "figure" in source else {"text/plain": "4"}
        outputs = [] if number <= 2 else [new_output("display_data", data)]
        tags = {"tags": ["parameters"]} if number == 1 else {}
        cells.append(new_code_cell(source, execution_count=number, outputs=outputs, metadata=tags))
    return normalised(new_notebook(cells=cells))


def change(**changes: Any) -> Callable[[Any], None]:
    """Return a function that sets these fields of the code cell `[3]`."""
    return lambda notebook: notebook.cells[3].update(changes)


def tag(*tags: str, cells: tuple[int, ...] = (3,)) -> Callable[[Any], None]:
    def apply(notebook: Any) -> None:
        for cell in cells:
            notebook.cells[cell].metadata["tags"] = list(tags)

    return apply


def output(text: str, name: str = "stdout") -> Callable[[Any], None]:
    return change(outputs=[new_output("stream", name=name, text=text)])


def display(html: str) -> Callable[[Any], None]:
    return change(outputs=[new_output("display_data", {"text/html": html})])


def error(notebook: Any) -> None:
    notebook.cells[3]["outputs"] = [new_output("error", ename="KeyError", evalue="'x'", traceback=["KeyError: 'x'"])]


def parameters(source: str) -> Callable[[Any], None]:
    return lambda notebook: notebook.cells[1].update(source=source)


def markdown(text: str) -> Callable[[Any], None]:
    return lambda notebook: notebook.cells.insert(1, new_markdown_cell(text, id="further"))


def no_picture(notebook: Any) -> None:
    del notebook.cells[5].outputs[0].data[PNG]


def short_alt(notebook: Any) -> None:
    notebook.cells[5].outputs[0].data["text/plain"] = "A plot."


def same_ids(notebook: Any) -> None:
    notebook.cells[2]["id"] = notebook.cells[3]["id"]


def many_outputs(notebook: Any) -> None:
    output("x" * 45_000)(notebook)
    notebook.cells += [notebook.cells[3]] * 5


BAD = {
    "counts_run_from_1_to_n": [change(execution_count=9), change(execution_count=None)],
    "outputs_are_compared": [
        tag("nbval-skip"),
        tag("nbval-ignore-output", cells=(3, 4, 5)),
        tag("nbval-ignore-output"),
        change(source="# NBVAL_IGNORE_OUTPUT\n1 + 1"),
    ],
    "parameters_are_literals_and_the_defaults": [
        tag(cells=(1,)),
        tag("parameters", cells=(1, 2)),
        parameters("scale = 0.5"),
        parameters("scale = get_settings().scale"),
        parameters("# none"),
    ],
    "says_what_it_is_and_ends_with_its_check": [
        lambda notebook: notebook.cells[0].update(source="# Workspace"),
        lambda notebook: notebook.cells.pop(),
        lambda notebook: notebook.cells[-1].update(source="checks.report(2, spark)"),
    ],
    "is_stored_in_normal_form": [
        same_ids,
        lambda notebook: notebook.metadata.update(papermill={"duration": 1.5}),
        lambda notebook: notebook.cells[2].metadata.update(execution={"iopub.status.idle": "2026-01-01"}),
        lambda notebook: notebook.metadata["language_info"].update(version="3.11.7"),
    ],
    "nothing_of_this_machine_is_stored": [
        output("in /home/ann/shop/data"),
        output("file:///tmp/lake"),
        output(f"{CHECKOUT}/data"),
        output("C:\\Users\\ann"),
    ],
    "errors_are_on_purpose": [error, output("WARN", name="stderr")],
    "figures_have_picture_and_alt_text": [no_picture, short_alt],
    "outputs_are_small": [
        output("x" * 50_001),
        lambda n: [output("x" * 45_000)(n) or n.cells.append(n.cells[3]) for _ in range(5)],
    ],
    "cells_are_short": [change(source="x = 1\n" * 31)],
    "links_resolve": [
        markdown("[gone](../lessons/99_gone.md)"),
        markdown("[gone](../docs/implementation-plan.md#no-such-heading)"),
        markdown("[out](../../elsewhere)"),
    ],
    "nothing_is_loaded_from_elsewhere": [
        markdown("![logo](https://example.com/logo.png)"),
        markdown('<img src="https://example.com/logo.png">'),
        display('<script src="https://example.com/plotly.js"></script>'),
    ],
}
CASES = [(rule, position) for rule, changes in BAD.items() for position in range(len(changes))]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_breaks_no_rule(rule: Rule) -> None:
    assert list(rule(good(), DAY)) == []


@pytest.mark.parametrize(("rule", "position"), CASES, ids=lambda value: str(value))
def test_a_bad_notebook_breaks_its_rule(rule: str, position: int) -> None:
    notebook = good()
    BAD[rule][position](notebook)
    (function,) = [function for function in RULES if function.__name__ == rule]
    assert list(function(notebook, DAY))


def test_every_rule_has_a_notebook_that_breaks_it() -> None:
    # The rule about Spark has a test of its own: it is about days without.
    assert set(BAD) == {rule.__name__ for rule in RULES} - {spark_is_used_where_the_day_says_so.__name__}


WITHOUT_SPARK = Day(21, "no_spark", "Without Spark", week=4, minutes=1, spark=False)


@pytest.mark.parametrize(
    "source", ["spark = shared.connect()", "shared.connect()", "from pyspark.sql import functions", "spark.sql('')"]
)
def test_a_day_without_spark_uses_none(source: str) -> None:
    notebook = good()
    notebook.cells[0].update(source="# Day 21: Without Spark")
    del notebook.cells[-2]
    notebook.cells[-1].update(source="checks.report(21)")
    for rule in (says_what_it_is_and_ends_with_its_check, spark_is_used_where_the_day_says_so):
        assert list(rule(notebook, WITHOUT_SPARK)) == []
    change(source=source)(notebook)
    assert len(list(spark_is_used_where_the_day_says_so(notebook, WITHOUT_SPARK))) == 1
    notebook.cells[-1].update(source="checks.report(21, spark)")
    assert list(says_what_it_is_and_ends_with_its_check(notebook, WITHOUT_SPARK))


def test_an_error_on_purpose_is_none() -> None:
    notebook = good()
    error(notebook)
    tag("raises-exception")(notebook)
    assert all(not list(rule(notebook, DAY)) for rule in RULES)


def test_anchors_are_those_of_code_hosts() -> None:
    assert anchors("# 7.2 Bronze schemas\n## `bronze.orders_raw`, and more") == {
        "72-bronze-schemas",
        "bronzeorders_raw-and-more",
    }
