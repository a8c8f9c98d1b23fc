from __future__ import annotations

from pathlib import Path

import pytest
from gate import Compared, compared_chain
from here import Here
from notebook_samples import Notebooks


@pytest.fixture
def notebooks(tmp_path: Path) -> Notebooks:
    """Throw-away notebooks in a folder of this test."""
    return Notebooks(tmp_path)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executes notebooks in this process, without a kernel."""
    from papermill.engines import papermill_engines

    monkeypatch.setitem(papermill_engines._engines, None, Here)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's chain has its home."""
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def compared(request: pytest.FixtureRequest, scratch: Path) -> dict[str, Compared]:
    """What became of the notebooks of the module's ``CHAIN``."""
    return compared_chain(request.module.CHAIN, scratch)
