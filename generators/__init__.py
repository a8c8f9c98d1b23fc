"""The shop's source systems: they write the CSV files that the pipeline starts from.

``generate`` writes customers, products and orders; the same seed gives the same bytes on every machine.

>>> from generators import generate
>>> manifest = generate("/tmp/raw", scale=0.01, days=3)                             # doctest: +SKIP
>>> manifest.rows("customers")                                                      # doctest: +SKIP
116
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generators.manifest import Manifest as Manifest
    from generators.shop import generate as generate

__all__ = ["Manifest", "generate"]


def __getattr__(name: str) -> Any:
    # `python -m generators.generate_orders` runs that module as the program; were it imported here before, it
    # would run twice.
    if name == "generate":
        from generators.shop import generate

        return generate
    if name == "Manifest":
        from generators.manifest import Manifest

        return Manifest
    raise AttributeError(f"module 'generators' has no attribute {name!r}")
