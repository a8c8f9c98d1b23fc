"""A refresh stores the outputs of a run without anything that varies; the gate then finds every difference."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from gate import Compared, compare
from notebook_samples import Notebooks, read
from papermill.engines import papermill_engines

from shared.course import refresh
from shared.course.execution import execute
from shared.errors import CourseError
from shared.settings import get_settings

FIGURE = """\
import plotly.graph_objects as go
from shared.course import display

display.figure(go.Figure(go.Bar(x=["a", "b"], y=[1, 2])), alt="a is 1, b is 2.")"""


# Unless a test says otherwise, cells are executed in this process, because the kernel is not tested here.
pytestmark = pytest.mark.usefixtures("here")

WITH_KERNEL = papermill_engines._engines[None]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list of the figures for which a picture is drawn; no browser is started."""
    figures: list[Any] = []

    def draw(specifications: list[Any]) -> list[str]:
        figures.extend(specifications)
        return [base64.b64encode(f"picture {len(figures)}".encode()).decode() for _ in specifications]

    monkeypatch.setattr(refresh, "draw", draw)
    return figures


def pictures(day: Any) -> list[str]:
    return [bundle.get("image/png", "") for bundle in refresh.figures(read(day))]


def test_a_refresh_stores_outputs_and_counts_and_nothing_that_varies(
    notebooks: Notebooks, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ("1 + 1", "import sys\nprint('a')\nprint('b')", FIGURE, "print('c')\n1 / 0")
    day = notebooks.make(*cells, tags={3: ["raises-exception"]})
    with monkeypatch.context() as patch:
        patch.setitem(papermill_engines._engines, None, WITH_KERNEL)
        assert refresh.refresh([day]) == [day.notebook]
    notebook = read(day)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4, 5]
    assert notebook.cells[2].outputs[0].data == {"text/plain": "2"}
    assert [output.text for output in notebook.cells[3].outputs] == ["a\nb\n"]
    assert notebook.cells[5].outputs[1].traceback == ["ZeroDivisionError: division by zero"], "the rest of it varies"
    assert notebook.metadata == {"kernelspec": refresh.KERNELSPEC, "language_info": refresh.LANGUAGE_INFO}
    tags = [cell.metadata for cell in notebook.cells[1:]]
    assert tags == [{"tags": ["parameters"]}, {}, {}, {}, {"tags": ["raises-exception"]}]
    assert [cell.id for cell in notebook.cells] == ["title", "parameters", *(f"sample-{n}" for n in range(4))]
    stored = day.notebook.read_bytes()
    # Execution in this process gives the same outputs as in a kernel.
    assert refresh.refresh([day]) == []
    assert day.notebook.read_bytes() == stored


def test_a_refresh_ignores_the_size_and_seed_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = get_settings().model_copy(update={"scale": 9.0, "seed": 7, "defects": 0.2, "server_cores": 1})
    monkeypatch.setattr(refresh, "get_settings", lambda: here)
    settings = refresh.default_settings(tmp_path)
    assert (settings.scale, settings.seed, settings.defects, settings.server_cores) == (1.0, 42, 0.01, refresh.CORES)
    assert (settings.home, settings.cache_dir) == (tmp_path, here.cache_dir)


def test_a_failing_notebook_is_left_as_it_was(notebooks: Notebooks) -> None:
    day = notebooks.make("1 / 0")
    before = day.notebook.read_bytes()
    with pytest.raises(CourseError, match=r"stopped in cell \[2\]: ZeroDivisionError"):
        refresh.refresh([day])
    assert day.notebook.read_bytes() == before


def test_a_picture_is_drawn_once_and_kept_while_its_figure_stays(notebooks: Notebooks, drawn: list[Any]) -> None:
    day = notebooks.make(FIGURE)
    refresh.refresh([day])
    (first,) = pictures(day)
    assert first
    assert read(day).cells[2].outputs[0].metadata == {
        "image/png": {"alt": "a is 1, b is 2.", "width": refresh.PICTURE_WIDTH}
    }

    # Another cell changes: the notebook is written again, but the picture stays and no browser is needed.
    day.notebook.write_text(day.notebook.read_text().replace("scale = 1.0", "scale = 2.0"))
    refresh.refresh([day])
    assert "scale = 2.0" in day.notebook.read_text()
    assert pictures(day) == [first]
    assert len(drawn) == 1

    # The figure changes, so a new picture is drawn.
    day.notebook.write_text(day.notebook.read_text().replace("y=[1, 2]", "y=[1, 3]"))
    refresh.refresh([day])
    assert pictures(day) != [first]
    assert len(drawn) == 2


def test_a_lost_picture_is_drawn_again(notebooks: Notebooks, drawn: list[Any]) -> None:
    day = notebooks.make(FIGURE)
    refresh.refresh([day])
    day.notebook.write_text(refresh.as_file(refresh.without_pictures(read(day))))
    assert refresh.refresh([day]) == [day.notebook]
    assert pictures(day) != [""]


def test_without_a_browser_a_refresh_says_so_and_writes_nothing(
    notebooks: Notebooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/no/such/browser")
    day = notebooks.make(FIGURE)
    before = day.notebook.read_bytes()
    with pytest.raises(CourseError, match="no Chromium was found") as caught:
        refresh.refresh([day])
    assert "BROWSER_PATH" in caught.value.hint
    assert day.notebook.read_bytes() == before


# The gate


def test_the_gate_passes_what_a_refresh_stored_and_finds_what_differs(
    notebooks: Notebooks, tmp_path: Path, drawn: list[Any]
) -> None:
    time = "import time; print(time.time_ns())"
    same = notebooks.make("print('a')", FIGURE, time, slug="same", tags={2: ["nbval-ignore-output"]})
    wrong = notebooks.make("print(1 + 1)", FIGURE, time, "print('fine')", "print('too')", slug="wrong")
    for day in (same, wrong):
        refresh.store(day.notebook, execute(day.notebook, get_settings()).notebook)
    edit(same, base64.b64encode(b"picture 1").decode(), base64.b64encode(b"another browser").decode())
    edit(wrong, '"2\\n"', '"3\\n"')
    edit(wrong, "          2\n         ]", "          5\n         ]")
    edit(wrong, "print('fine')", "1 / 0")
    result = compare([same.notebook, wrong.notebook], get_settings(), tmp_path)
    assert result["02_same"] == Compared(4, ())
    assert result["02_wrong"].cells == 6
    text, figure, varying, error = result["02_wrong"].differences
    assert "'3\\n' == '2\\n'" in text
    assert "plotly" in figure
    assert "time_ns" in varying
    assert "ZeroDivisionError" in error


def edit(day: Any, old: str, new: str) -> None:
    content = day.notebook.read_text()
    assert old in content
    json.loads(content.replace(old, new))
    day.notebook.write_text(content.replace(old, new))


def test_a_picture_can_be_drawn_without_a_network() -> None:
    pytest.importorskip("kaleido")
    from choreographer.browsers.chromium import Chromium

    if Chromium.find_browser(skip_local=False) is None:
        pytest.skip("no Chromium on this machine")
    (png,) = refresh.draw([{"data": [{"type": "bar", "y": [1, 2]}], "layout": {"height": 100}}])
    content = base64.b64decode(png)
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (refresh.PICTURE_WIDTH * refresh.PICTURE_SCALE, 100 * refresh.PICTURE_SCALE)
