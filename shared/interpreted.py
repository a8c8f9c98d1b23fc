"""Small plans, run without generated code.

Spark compiles a plan to Java, and the JVM compiles that again, once it has seen it often enough. For some hundred
thousand rows all of that takes longer than to interpret the plan would; for millions it is what makes Spark fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.errors import is_engine_gone
from shared.settings import on_databricks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # Plans anew after each shuffle, for what a small plan has no use for.
    "spark.sql.adaptive.enabled": "false",
}


@contextmanager
def interpreted(spark: SparkSession, is_worth_it: bool = True) -> Iterator[None]:
    """Let what a session runs meanwhile be interpreted. A stream keeps the settings with which it was started.

    Args:
        spark: the session.
        is_worth_it: whether to do so at all.
    """
    if on_databricks() or not is_worth_it:
        # Databricks' engine has no such settings for who uses it, and needs none.
        yield
        return
    before = {name: spark.conf.get(name) for name in _INTERPRETED}
    try:
        _set_all(spark, _INTERPRETED)
        yield
    except BaseException as error:
        if not is_engine_gone(error):  # else there is nobody left to ask
            _set_all(spark, before)
        raise
    _set_all(spark, before)


def _set_all(spark: SparkSession, settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        spark.conf.set(name, value)
