from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import shared

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark() -> SparkSession:
    """The one engine that all Spark tests share, in the test run's own home."""
    return shared.connect()
