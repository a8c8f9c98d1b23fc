"""Lesson 1's table of the engine's settings that differ from stock Spark, made from the settings themselves.

``python -m shared.course.engine_settings`` prints it; a test compares it with the lesson.
"""

from __future__ import annotations

from shared.interpreted import INTERPRETED
from shared.interpreted import NOT_STOCK as NOT_STOCK_IN_SMALL_RUNS
from shared.runtime.spark import NOT_STOCK, spark_conf
from shared.settings import Settings, get_settings

COLUMNS = ("setting", "stock", "here", "why")


def rows(settings: Settings | None = None) -> list[tuple[str, str, str, str]]:
    """Return setting, stock Spark's value, the value here, and the reason; settings of small runs come last."""
    # Without the user's own Spark options. Some values depend on the number of cores.
    default = (settings or get_settings()).model_copy(update={"spark_conf": ""})
    narrow, wide = (spark_conf(default.model_copy(update={"server_cores": cores})) for cores in (1, 64))
    always = [
        (name, stock, narrow[name] if narrow[name] == wide[name] else f"{narrow[name]} to {wide[name]}", why)
        for name, (stock, why) in NOT_STOCK.items()
    ]
    return always + [
        (name, stock, f"{INTERPRETED[name]}, in small runs", why)
        for name, (stock, why) in NOT_STOCK_IN_SMALL_RUNS.items()
    ]


def as_markdown(settings: Settings | None = None) -> str:
    """Return the table in Markdown."""
    lines = [f"| `{name}` | {stock} | {here} | {why} |" for name, stock, here, why in rows(settings)]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|", *lines])


if __name__ == "__main__":
    print(as_markdown())
