"""The shop's source systems: they write the CSV files that the pipeline reads.

``generate`` writes customers, products and orders; the same seed gives the same bytes on every machine.

>>> from generators import generate
>>> manifest = generate("/tmp/raw", scale=0.01, days=3)                             # doctest: +SKIP
>>> manifest.rows("customers")                                                      # doctest: +SKIP
116
"""

from generators.manifest import Manifest
from generators.shop import generate

__all__ = ["Manifest", "generate"]
