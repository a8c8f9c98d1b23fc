"""Run small plans without generated code.

Spark compiles a plan to Java, and the JVM compiles the Java code again once it has run often enough. For some hundred
thousand rows, compiling a plan takes longer than interpreting it; for millions of rows, compiling makes Spark fast.
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
"""Spark's default for each of these settings, and why it has another value here."""

_COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}


@dataclass
class _Blocks:
    """The open ``interpreted`` blocks of a session."""

    number: int = 0
    before: dict[str, str | None] = field(default_factory=dict)
    """The settings before the first block."""


_blocks: WeakKeyDictionary[SparkSession, _Blocks] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def interpreted(spark: SparkSession, is_worth_it: bool = True) -> Iterator[None]:
    """Interpret the session's queries during the block, instead of compiling them.

    A stream keeps the settings with which it was started; the queries of its ``foreachBatch`` have the settings that
    the session has at that moment. Blocks of one session may overlap: the last one to end restores the settings from
    before the first.

    Args:
        spark: the session.
        is_worth_it: False changes nothing.
    """
    if on_databricks() or not is_worth_it:
        # On Databricks users cannot change these settings, and need not.
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
    """Compile a query that reads many rows, within a block whose other queries are interpreted.

    Args:
        spark: the session.
        is_worth_it: False changes nothing.
    """
    with configured(spark, _COMPILED if is_worth_it else {}):
        yield


@contextmanager
def configured(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Give a session these settings during the block; on Databricks, change nothing."""
    if on_databricks() or not settings:
        yield
        return
    before = {name: spark.conf.get(name) for name in settings}
    _set_all(spark, settings)
    with _afterwards(lambda is_gone: None if is_gone else _set_all(spark, before)):
        yield


@contextmanager
def _afterwards(set_back: Callable[[bool], None]) -> Iterator[None]:
    """Call ``set_back`` after the block, however it ends; its argument says whether the engine is gone."""
    try:
        yield
    except BaseException as error:
        # Keep the original error. An engine that is gone cannot answer.
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
