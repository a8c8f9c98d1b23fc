"""A notebook's output reads the same on every machine, and words repeat everything that colour shows."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from shared import clock
from shared.course import display, table
from shared.errors import CourseError, SourceError
from shared.settings import CHECKOUT, get_settings

ANN, BOB = {"id": 1, "name": "Ann", "city": None}, {"id": 2, "name": "Bob", "city": "Rome"}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The mime bundles that were put on the page."""
    bundles: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw, metadata: bundles.append(bundle))
    return bundles


# Tables


def test_a_table_is_aligned_numbers_to_the_right_and_null_named() -> None:
    rows = [
        {"name": "Ann", "price": Decimal("1.50"), "city": None},
        {"name": "Bo", "price": Decimal("22.00"), "city": "Rome"},
    ]
    assert display.shown(rows).plain().splitlines() == [
        "name  price  city",
        "----  -----  ----",
        "Ann    1.50  NULL",
        "Bo    22.00  Rome",
    ]


def test_html_is_plain_escaped_and_without_ids() -> None:
    html = display.shown([{"n": 1, "text": "<b>&", "gone": None}]).html()
    assert "&lt;b&gt;&amp;" in html
    assert "<i>NULL</i>" in html
    assert re.search(r'<td align="right" style="text-align: right">1</td>', html)
    assert not re.search(r"<script|<style|\bid=|class=|http", html)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NULL"),
        (True, "true"),
        (0.1 + 0.2, "0.3"),
        (1e15, "1e+15"),
        (float("nan"), "NaN"),
        (Decimal("0.00"), "0.00"),
        (dt.date(2025, 12, 31), "2025-12-31"),
        (dt.datetime(2025, 12, 31, 23, 5), "2025-12-31 23:05:00"),
        (dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))), "2026-01-01 00:00:00"),
        (dt.datetime(2025, 1, 1, 0, 0, 0, 500_000), "2025-01-01 00:00:00.5"),
        (b"\x00\xff", "0x00ff"),
        ([1, None], "[1, NULL]"),
        ([("a", 1)], "{a: 1}"),
        ({"a": {"b": None}}, "{a: {b: NULL}}"),
        ("two\nlines", "two\\nlines"),
        ("", ""),
    ],
)
def test_a_value_reads_as_in_sql(value: object, shown: str) -> None:
    assert table.text(value) == shown


def test_a_long_value_is_cut_with_an_ellipsis() -> None:
    (row,) = display.shown([{"line": "x" * 100}], width=10).rows
    assert row[0].text == "x" * 9 + "…"


def test_pandas_missing_values_are_null_and_the_index_is_left_out() -> None:
    frame = pd.DataFrame({"x": [1.5, None], "t": pd.to_datetime(["2025-01-01", None])}, index=[7, 8])
    assert display.shown(frame).plain().splitlines()[2:] == [" 1.5  2025-01-01 00:00:00", "NULL  NULL"]


@pytest.mark.parametrize(
    ("rows", "n", "note"),
    [(3, 3, None), (4, 3, "first 3 rows; there are more"), (2, 1, "first row; there are more"), (0, 3, "no rows")],
)
def test_a_table_says_when_it_does_not_show_all(rows: int, n: int, note: str | None) -> None:
    shown = display.shown(pd.DataFrame({"x": range(rows)}), n)
    assert shown.notes == ([note] if note else [])
    assert len(shown.rows) == min(rows, n)


def test_a_mixed_column_is_no_column_of_numbers() -> None:
    assert display.shown([{"x": 1}, {"x": "one"}]).numeric == [False]
    assert display.shown([{"x": True}]).numeric == [False]


@pytest.mark.parametrize("data", [42, "text", None])
def test_what_is_no_table_is_refused(data: Any) -> None:
    with pytest.raises(CourseError, match="cannot be shown as a table"):
        display.shown(data)


# Comparison


def marks(compared: table.Table) -> list[list[str]]:
    return [[f"{cell.text}|{cell.mark}" if cell.mark else cell.text for cell in row] for row in compared.rows]


def test_what_changed_is_marked_by_word_and_by_cell() -> None:
    moved, eve = {"id": 1, "name": "Ann", "city": "Oslo"}, {"id": 3, "name": "Eve", "city": "Bonn"}
    compared = display.compared([BOB, ANN], [moved, eve], key="id")
    assert compared.columns == ["change", "id", "name", "city"]
    assert marks(compared) == [
        ["changed", "1", "Ann", "NULL → Oslo|changed"],
        ["removed|removed", "2|removed", "Bob|removed", "Rome|removed"],
        ["added|added", "3|added", "Eve|added", "Bonn|added"],
    ]
    assert compared.notes == ["1 added, 1 removed, 1 changed"]


def test_nothing_changed_marks_nothing() -> None:
    nan = {"id": 5, "name": None, "city": float("nan")}
    compared = display.compared([ANN, BOB, nan], [dict(nan), BOB, ANN], key="id")
    assert not any(cell.mark for row in compared.rows for cell in row)
    assert compared.notes == ["3 unchanged"]


def test_null_to_empty_is_a_change() -> None:
    assert display.compared([ANN], [ANN | {"city": ""}], key="id").notes == ["1 changed"]


def test_a_new_and_a_gone_column_are_named() -> None:
    compared = display.compared([{"id": 1, "old": "a"}], [{"id": 1, "new": "b"}], key="id")
    assert compared.columns == ["change", "id", "new (new column)", "old (column gone)"]


def test_several_columns_may_be_the_key_and_null_keys_come_last() -> None:
    rows = [{"a": None, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 9}]
    compared = display.compared([], rows, key=("a", "b"))
    assert [row[1].text for row in compared.rows] == ["1", "2", "NULL"]


def test_a_key_that_is_not_unique_is_refused() -> None:
    with pytest.raises(CourseError, match="key id=1 occurs more than once in the rows after"):
        display.compared([ANN], [ANN, ANN], key="id")


def test_a_key_that_is_no_column_is_refused() -> None:
    with pytest.raises(CourseError, match=r"rows before have no column no\b"):
        display.compared([ANN], [ANN], key="no")


def test_a_table_too_large_to_check_by_eye_is_refused() -> None:
    with pytest.raises(CourseError, match="more than 1,000 rows"):
        display.compared(pd.DataFrame({"id": range(1001)}), [], key="id")


def test_a_snapshot_does_not_follow_its_source() -> None:
    frame = pd.DataFrame({"id": [1], "x": ["a"]})
    before = display.snapshot(frame)
    frame.loc[0, "x"] = "b"
    assert marks(display.compared(before, frame, key="id"))[0][2] == "a → b|changed"


# Figures, diagrams, sources, errors


def test_a_figure_has_data_alt_text_and_nothing_from_elsewhere(page: list[dict[str, Any]]) -> None:
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[dt.date(2025, 1, 1)], y=[Decimal("1.5")]))
    display.figure(figure, alt="One order.")
    display.figure(figure, alt="One order.")
    assert page[0] == page[1]
    assert page[0]["text/plain"] == "One order."
    content = page[0][display.PLOTLY_MIME]
    assert content["layout"]["height"] == 360
    assert len(json.dumps(content)) < 2_000
    assert "http" not in json.dumps(content)
    assert figure.layout.height is None, "the author's figure is left as it was"


def test_a_figure_keeps_what_its_author_set(page: list[dict[str, Any]]) -> None:
    import plotly.graph_objects as go

    display.figure(go.Figure(layout={"height": 500, "plot_bgcolor": "#eeeeee"}), alt="Empty.")
    layout = page[0][display.PLOTLY_MIME]["layout"]
    assert (layout["height"], layout["plot_bgcolor"]) == (500, "#eeeeee")


def test_a_chart_of_the_dashboard_brings_its_alt_text(page: list[dict[str, Any]]) -> None:
    import plotly.graph_objects as go

    from dashboard.figures.chart import Chart, drawn

    chart = Chart(drawn(go.Figure(go.Bar(x=["a"], y=[1]))), pd.DataFrame(), "One bar.")
    display.figure(chart)
    display.figure(chart, alt="A bar of height 1.")
    assert [shown["text/plain"] for shown in page] == ["One bar.", "A bar of height 1."]
    layout = page[0][display.PLOTLY_MIME]["layout"]
    # The course's own template: plotly's would be stored with every figure.
    assert layout["template"]["layout"]["paper_bgcolor"] == "#ffffff"
    assert len(json.dumps(page[0])) < 2_500


def test_a_figure_without_alt_text_is_refused() -> None:
    import plotly.graph_objects as go

    with pytest.raises(CourseError, match="no alt text"):
        display.figure(go.Figure(), alt=" ")


def test_a_diagram_is_shown_by_name_with_its_description(page: list[dict[str, Any]]) -> None:
    display.diagram("bronze")
    assert page[0]["image/svg+xml"] == (CHECKOUT / "docs/img/medallion-04-bronze.svg").read_text(encoding="utf-8")
    assert "Bronze (day 4)" in page[0]["text/plain"]


def test_an_unknown_diagram_is_refused_with_those_there_are() -> None:
    with pytest.raises(CourseError, match="expected one of bronze, dashboard, delivery"):
        display.diagram("copper")


def test_source_shows_the_code_with_a_link(page: list[dict[str, Any]]) -> None:
    display.source(clock.batch_date)
    display.source(clock.batch_date, docstring=False)
    full, short = (bundle["text/markdown"] for bundle in page)
    assert full.startswith(
        "From [shared/clock.py](../shared/clock.py):\n\n```python\ndef batch_date(day: int) -> date:\n"
    )
    assert '"""Return the batch date' in full
    assert '"""' not in short
    assert short.endswith("return HISTORY_END + timedelta(days=day)\n```")


def test_an_expected_error_is_shown_and_paths_are_relative_to_the_home(page: list[dict[str, Any]]) -> None:
    with display.expect_error(SourceError):
        raise SourceError(f"{get_settings().raw}/x.csv has no column a.", "add it")
    assert page[0]["text/plain"] == "SourceError: $SHOPMETRICS_HOME/raw/x.csv has no column a.\n  -> add it"


def test_an_expected_error_may_be_cut_to_its_first_lines(page: list[dict[str, Any]]) -> None:
    with display.expect_error(ValueError, lines=1):
        raise ValueError("the cause\nand a lot more")
    assert page[0]["text/plain"] == "ValueError: the cause"


def test_an_expected_error_that_does_not_come_is_an_error() -> None:
    with (
        pytest.raises(CourseError, match="was to raise SourceError or KeyError, but it ended without"),
        display.expect_error(SourceError, KeyError),
    ):
        pass


def test_another_error_than_the_expected_one_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), display.expect_error(KeyError):
        1 / 0  # noqa: B018
