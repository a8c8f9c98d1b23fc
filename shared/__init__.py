"""The package that the ShopMetrics notebooks import: ``import shared; spark = shared.connect()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.runtime.spark import connect as connect

__all__ = ["connect"]


def __getattr__(name: str) -> Any:
    # pyspark takes over a second to import; commands that need no Spark should not pay for it.
    if name == "connect":
        from shared.runtime.spark import connect

        return connect
    raise AttributeError(f"module 'shared' has no attribute {name!r}")
