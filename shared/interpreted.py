"""Small plans, run without generated code.

Spark compiles a plan to Java, and the JVM compiles that again, once it has seen it often enough. For some hundred
thousand rows all of that takes longer than to interpret the plan would; for millions it is what makes Spark fast.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from shared.errors import is_engine_gone
from shared.settings import on_databricks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}

NOT_STOCK = {
    "spark.sql.codegen.wholeStage": ("true", "To compile a small plan takes longer than to interpret it."),
    "spark.sql.codegen.factoryMode": ("FALLBACK", "The same, for single expressions."),
    "spark.sql.adaptive.enabled": (
        "true",
        "Adaptive execution plans again after each shuffle; a small plan has nothing to gain from that.",
    ),
}
"""Stock Spark's value of each of them, and why another here."""

_COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}


@dataclass
class _Blocks:
    """The blocks that a session is in."""

    number: int = 0
    before: dict[str, str | None] = field(default_factory=dict)
    """The settings as they were before the first."""


_blocks: WeakKeyDictionary[SparkSession, _Blocks] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def interpreted(spark: SparkSession, is_worth_it: bool = True) -> Iterator[None]:
    """Let what a session runs meanwhile be interpreted.

    A stream keeps the settings with which it was started; what its ``foreachBatch`` asks has those that the session
    has at that moment. Blocks of one session may overlap: the last to end sets back what the first has found.

    Args:
        spark: the session.
        is_worth_it: whether to do so at all.
    """
    if on_databricks() or not is_worth_it:
        # Databricks' engine has no such settings for who uses it, and needs none.
        yield
        return
    with _lock:
        blocks = _blocks.setdefault(spark, _Blocks())
        if not blocks.number:
            blocks.before = {name: spark.conf.get(name) for name in INTERPRETED}
            _set_all(spark, INTERPRETED)
        blocks.number += 1
    with _afterwards(lambda is_gone: _leave(spark, blocks, is_gone)):
        yield


@contextmanager
def compiled(spark: SparkSession, is_worth_it: bool = True) -> Iterator[None]:
    """Let one question be compiled among others that are interpreted, for one that reads many rows.

    Args:
        spark: the session.
        is_worth_it: whether to do so at all.
    """
    with configured(spark, _COMPILED if is_worth_it else {}):
        yield


@contextmanager
def configured(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Let a session of an engine that is not Databricks' have these settings meanwhile."""
    if on_databricks() or not settings:
        yield
        return
    before = {name: spark.conf.get(name) for name in settings}
    _set_all(spark, settings)
    with _afterwards(lambda is_gone: None if is_gone else _set_all(spark, before)):
        yield


@contextmanager
def _afterwards(set_back: Callable[[bool], None]) -> Iterator[None]:
    """Set back after the block, however it ends; ``set_back`` is told whether the engine is gone."""
    try:
        yield
    except BaseException as error:
        # What has failed first is what is to be told; and an engine that is gone cannot be asked.
        with suppress(Exception):
            set_back(is_engine_gone(error))
        raise
    set_back(False)


def _leave(spark: SparkSession, blocks: _Blocks, is_gone: bool) -> None:
    with _lock:
        blocks.number -= 1
        if not blocks.number and not is_gone:
            _set_all(spark, blocks.before)


def _set_all(spark: SparkSession, settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:  # it had none
            spark.conf.unset(name)
        else:
            spark.conf.set(name, value)
