"""Every test run has a home of its own: nothing here ever touches a learner's data or engine."""

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

# Some tests are about Ctrl-C, which a program that was started in the background ignores, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything reads the settings. The cache of jars is shared: its content is verified.
for _name in [name for name in os.environ if name.startswith("SHOPMETRICS_") and name != "SHOPMETRICS_CACHE_DIR"]:
    del os.environ[_name]
for _name in ("SPARK_REMOTE", *(name for name in os.environ if name.startswith("KAFKA_"))):
    os.environ.pop(_name, None)
_HOME = Path(tempfile.mkdtemp(prefix="shopmetrics-tests-"))
os.environ["SHOPMETRICS_HOME"] = str(_HOME)
# Nearly every query of a test is the first of its kind, on a few rows: what it costs is to plan and to compile it.
# Interpreted, and planned once, it says the same. The notebooks' outputs are compared on the engine that a learner has.
os.environ["SHOPMETRICS_SPARK_CONF"] = (
    "spark.sql.codegen.wholeStage=false spark.sql.codegen.factoryMode=NO_CODEGEN "
    "spark.sql.adaptive.enabled=false spark.extraListeners="
)

from shared.settings import Settings, get_settings  # noqa: E402


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home that only this test uses."""
    return get_settings().model_copy(update={"home": tmp_path / "home"})


@pytest.fixture(scope="session")
def spark() -> SparkSession:
    """The one engine that all Spark tests share, in the test run's own home."""
    import shared

    return shared.connect()


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing() -> Iterator[None]:
    yield
    from shared.runtime import kafka, spark

    spark.down()
    kafka.down()
    shutil.rmtree(_HOME, ignore_errors=True)
