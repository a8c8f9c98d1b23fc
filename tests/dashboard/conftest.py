"""A home with a small shop, and the app on it. No engine is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st

from shared import settings
from tests.dashboard import small_shop


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
