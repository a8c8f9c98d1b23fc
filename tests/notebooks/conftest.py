from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from notebook_samples import Notebooks

import shared

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark() -> SparkSession:
    """The engine that all tests share, in the test run's own home."""
    return shared.connect()


@pytest.fixture
def notebooks(tmp_path: Path) -> Notebooks:
    """Throw-away notebooks in a folder of this test."""
    return Notebooks(tmp_path)
