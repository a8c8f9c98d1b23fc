from __future__ import annotations

from collections.abc import Iterator

import pytest
from spark.silver_cases import Shop


@pytest.fixture
def shop(spark) -> Iterator[Shop]:
    """A shop without tables, on the engine that all Spark tests share."""
    shop = Shop(spark)
    shop.clear()
    yield shop
    shop.clear()
