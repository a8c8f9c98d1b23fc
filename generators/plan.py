"""The inputs of a run: a seed, a scale and a share of defects. Everything else follows from these three."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from generators.random_streams import Stream
from shared.errors import ShopMetricsError

TABLES = ("customers", "products", "orders")

VERSION = "1"
"""Raised when a code change makes the same seed give other bytes. Files of two versions never share a directory."""

MAX_SCALE = 1_000.0
MAX_DEFECTS = 0.2

PLACES = "SHOPMETRICS_HOME, or --out of `python -m generators.generate_...`"
"""How to choose another directory, for the hints of errors."""


class GeneratorError(ShopMetricsError):
    """Source files cannot be generated with these arguments or in this directory."""


@dataclass(frozen=True)
class Plan:
    """The three numbers that decide every byte of every source file.

    Args:
        seed: the seed of every random stream, 0 or more.
        scale: 1 is 10,000 customers, 1,000 products and 100,000 orders in the historical load.
        defects: share of rows that get an injected defect, 0 to 0.2.

    Raises:
        GeneratorError: if a value is invalid; the message says what was expected and what was given.
    """

    seed: int
    scale: float
    defects: float

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise GeneratorError(f"seed must be a whole number, 0 or more, got {self.seed!r}", "for example --seed 42")
        if not (math.isfinite(self.scale) and 0 < self.scale <= MAX_SCALE):
            raise GeneratorError(
                f"scale must be above 0 and at most {MAX_SCALE:g}, got {self.scale!r}",
                "1 is 100,000 orders; for a quick look use --scale 0.01",
            )
        if not 0 <= self.defects <= MAX_DEFECTS:
            raise GeneratorError(
                f"defects must be a share from 0 to {MAX_DEFECTS:g}, got {self.defects!r}",
                "0.01 is one row in a hundred, 0 gives clean files",
            )
        # 1 and 1.0 are the same plan, so a manifest must show them in the same way.
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "defects", float(self.defects))

    def __str__(self) -> str:
        return f"seed={self.seed}, scale={self.scale:g}, defects={self.defects:g}"

    @property
    def customers(self) -> int:
        """Customers in the historical load."""
        return max(10, round(10_000 * self.scale))

    @property
    def products(self) -> int:
        """Products in the historical load; no product is added later."""
        return max(10, round(1_000 * self.scale))

    @property
    def orders(self) -> int:
        """Orders in the historical load."""
        return max(50, round(100_000 * self.scale))

    def stream(self, *name: str | int) -> Stream:
        """Return the random stream of this name."""
        return Stream(self.seed, *name)

    def identity(self) -> dict[str, Any]:
        """Return the values that two runs must share if their files are in one directory."""
        return {**asdict(self), "version": VERSION}
