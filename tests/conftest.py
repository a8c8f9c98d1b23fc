"""Every test run has a home of its own, so no test touches a learner's data or engine."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Some tests need Ctrl-C, but a program that was started in the background ignores it, and so do its child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
# `make mutants` runs tests many times in one home with one engine. It clears this home and ends its engine itself.
_SHARED_HOME = os.environ.get("SHOPMETRICS_TESTS_HOME")
# This must happen before anything reads the settings. The cache of jars is shared, because its content is verified.
for _name in [name for name in os.environ if name.startswith("SHOPMETRICS_") and name != "SHOPMETRICS_CACHE_DIR"]:
    del os.environ[_name]
for _name in ("SPARK_REMOTE", *(name for name in os.environ if name.startswith("KAFKA_"))):
    os.environ.pop(_name, None)
_HOME = Path(_SHARED_HOME or tempfile.mkdtemp(prefix="shopmetrics-tests-"))
os.environ["SHOPMETRICS_HOME"] = str(_HOME)
# Nearly every query of a test is the first of its kind and reads a few rows, so its cost is planning and compilation.
# Interpreted and planned once, it gives the same result. The notebooks' outputs are compared on a learner's engine.
os.environ["SHOPMETRICS_SPARK_CONF"] = (
    "spark.sql.codegen.wholeStage=false spark.sql.codegen.factoryMode=NO_CODEGEN "
    "spark.sql.adaptive.enabled=false spark.extraListeners="
)

# A test's engine lives for minutes, too short to repay the time of the optimising compiler.
os.environ["JDK_JAVA_OPTIONS"] = "-XX:TieredStopAtLevel=1"

from shared.settings import Settings, get_settings  # noqa: E402

LONGEST = (
    "test_stored_batch.py",
    "test_stored_streaming.py",
    "test_stored_delivery.py",
    "test_stored_dashboard.py",
    "test_shop.py",
    "test_clickstream_accidents.py",
)
"""The files that run first, in this order; the others follow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put short files last: two files run at a time, and at the end one worker would wait for the other."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home that only this test uses."""
    return get_settings().model_copy(update={"home": tmp_path / "home"})


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """A session to the one engine that all Spark tests share, in the test run's own home.

    Each module requests it again, because a test of the module before may have killed the engine.
    """
    import shared

    session = shared.connect()
    yield session
    if _SHARED_HOME:
        session.stop()  # the engine continues, and would keep the data of this session


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing() -> Iterator[None]:
    yield
    if _SHARED_HOME:
        return
    from shared.runtime import kafka, spark

    spark.down()
    kafka.down()
    shutil.rmtree(_HOME, ignore_errors=True)
