"""A home with a small shop, and the app on it. No engine is started."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from shared import settings
from shared.settings import CHECKOUT
from tests.dashboard import small_shop

APP = CHECKOUT / "dashboard" / "streamlit_app.py"

PAGES = {
    "sales": "1_Sales_Performance",
    "customers": "2_Customer_Analytics",
    "products": "3_Product_Insights",
    "traffic": "4_Kafka_Traffic",
}


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the small shop. Tests share it, so they must not change it."""
    home = tmp_path_factory.mktemp("home")
    small_shop.build(home / "lakehouse")
    return home


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that makes a home the home of this process, as for a newly started dashboard."""

    def into(home: Path) -> Path:
        monkeypatch.setenv("SHOPMETRICS_HOME", str(home))
        settings.read_again()
        st.cache_resource.clear()
        return home / "lakehouse"

    for name in ("DATABRICKS_SERVER_HOSTNAME", "DATABRICKS_HTTP_PATH", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield into
    monkeypatch.undo()
    settings.read_again()
    st.cache_resource.clear()


def opened(page: str = "", **address: Any) -> AppTest:
    """Open a page of the app, with these parameters in the URL."""
    app = AppTest.from_file(str(APP), default_timeout=180).run()
    if page:
        app.switch_page(f"pages/{PAGES[page]}.py")
    for name, value in address.items():
        app.query_params[name] = value
    return clean(app.run() if page or address else app)


def clean(app: AppTest) -> AppTest:
    """Return the app after asserting that its last run raised nothing."""
    assert [(error.message, error.stack_trace) for error in app.exception] == []
    return app


def trace(app: AppTest, key: str, number: int = -1) -> dict[str, Any]:
    """Return one trace of a figure on the page, with its numbers as lists."""
    found: dict[str, Any] = _plain(json.loads(app.get_by_key(f"figure_{key}").proto.spec)["data"][number])
    return found


def traces(app: AppTest, key: str) -> list[dict[str, Any]]:
    """Return all traces of a figure on the page."""
    return [_plain(one) for one in json.loads(app.get_by_key(f"figure_{key}").proto.spec)["data"]]


def metrics(app: AppTest) -> dict[str, str]:
    """Return the numbers on the page's tiles."""
    return {metric.label: metric.value for metric in app.metric}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if "bdata" in value:
            numbers = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
            shape = [int(part) for part in str(value.get("shape", len(numbers))).split(",")]
            return numbers.reshape(shape).tolist()
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
