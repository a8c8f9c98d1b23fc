from __future__ import annotations

import pytest
from spark.silver_cases import Shop


@pytest.fixture
def shop(spark) -> Shop:
    """A shop without tables, on the engine that all Spark tests share."""
    shop = Shop(spark)
    shop.clear()
    return shop
