"""Show what the rules found: a table of verdicts, a window with its usual range, a metric from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from shared.quality.measures import found_in, measuring
from shared.quality.quality_run import METRICS, QualityRun
from shared.quality.rules import TableRules, Usual
from shared.quality.verdicts import Verdict, last_whole_day, range_of, window_of

if TYPE_CHECKING:
    from datetime import date, datetime
    from decimal import Decimal

    import plotly.graph_objects as go
    from pyspark.sql import DataFrame, SparkSession

LINE, RANGE, FAILED = "#0072b2", "rgba(0, 114, 178, 0.15)", "#d55e00"


def expected(one: Verdict) -> str:
    """Return the range in which a value passes, as a text; empty if no rule judges it."""
    if one.low is not None and one.high is not None:
        return f"{_shown(one.low)} to {_shown(one.high)}"
    return f"at most {_shown(one.high)}" if one.high is not None else ""


def _shown(value: Decimal) -> str:
    return f"{float(value):,.6g}"


def as_rows(done: QualityRun, all_metrics: bool = False) -> list[dict[str, Any]]:
    """Return verdicts as rows ``table, rule, severity, status, value, expected``, those that failed first.

    Args:
        done: what the rules say.
        all_metrics: with the metrics that no rule judges.
    """
    order = {"failed": 0, "not judged": 1, "passed": 2, "measured": 3}
    shown = [one for one in done.verdicts if all_metrics or one.status != "measured"]
    return [
        {
            "table": one.table_name,
            "rule": one.metric_name,
            "severity": one.severity,
            "status": one.status,
            "value": None if one.metric_value is None else _shown(one.metric_value),
            "expected": expected(one),
        }
        for one in sorted(shown, key=lambda one: (order[one.status], one.severity != "fail"))
    ]


def history(spark: SparkSession, table: str, metric: str) -> DataFrame:
    """Return what runs have recorded of a metric, oldest first.

    Columns: ``as_of, run_time, metric_value, low, high, status``.
    """
    rows = spark.table(METRICS).where((F.col("table_name") == table) & (F.col("metric_name") == metric))
    columns = ("as_of", "run_time", "metric_value", "low", "high", "status")
    return rows.select(*columns).orderBy("as_of", "run_time", "metric_value")


def days(spark: SparkSession, table: TableRules, name: str, as_of: datetime) -> list[dict[str, Any]]:
    """Return each day for which a rule of kind ``usual`` can be checked: ``day, value, low, high``.

    Every day up to ``as_of`` is checked with the rows that the table has now. ``low`` and ``high`` are None where the
    window before a day has too few days.
    """
    (rule,) = (one for one in table.rules if isinstance(one, Usual) and one.name == name)
    alone = table.model_copy(update={"rules": (rule,), "metrics": ()})
    by_day = found_in(measuring(spark.table(table.target), alone).collect(), alone).by_day[rule.day]
    return [_day(rule, by_day, day) for day in sorted(by_day) if day <= last_whole_day(as_of)]


def _day(rule: Usual, by_day: Any, day: date) -> dict[str, Any]:
    window = window_of(rule, by_day, day)
    value = window.pop(day, None)
    low, high = (range_of(rule, window) if value is not None else None) or (None, None)
    return {"day": day, "value": value, "low": low, "high": high}


def window_figure(rows: Sequence[dict[str, Any]], title: str) -> go.Figure:
    """Return a figure of :func:`days`: the measure, its usual range, and the days outside of it."""
    import plotly.graph_objects as go

    judged = [row for row in rows if row["low"] is not None]
    outside = [row for row in judged if not row["low"] <= row["value"] <= row["high"]]
    figure = go.Figure(layout={"title": title})
    x = [row["day"] for row in judged]
    upper = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=x, y=[row["high"] for row in judged], **upper)
    lower = upper | {"fill": "tonexty", "fillcolor": RANGE, "name": "usual range", "showlegend": True}
    figure.add_scatter(x=x, y=[row["low"] for row in judged], **lower)
    line = {"mode": "lines+markers", "line": {"color": LINE}, "marker": {"size": 4}, "name": "measured"}
    figure.add_scatter(x=[row["day"] for row in rows], y=[row["value"] for row in rows], **line)
    dots = {"mode": "markers", "marker": {"color": FAILED, "size": 10, "symbol": "x"}, "name": "unusual"}
    figure.add_scatter(x=[row["day"] for row in outside], y=[row["value"] for row in outside], **dots)
    return figure


def status_figure(done: QualityRun) -> go.Figure:
    """Return a figure of how many rules of each table passed, failed, or were not judged."""
    import plotly.graph_objects as go

    tables = list(dict.fromkeys(one.table_name for one in done.verdicts))[::-1]
    figure = go.Figure(layout={"barmode": "stack", "title": "Rules by table", "xaxis": {"dtick": 2}})
    for status, colour in (("passed", "#009e73"), ("failed", FAILED), ("not judged", "#c9d1d9")):
        counts = [sum(v.table_name == table and v.status == status for v in done.verdicts) for table in tables]
        figure.add_bar(y=tables, x=counts, orientation="h", name=status, marker={"color": colour})
    return figure
