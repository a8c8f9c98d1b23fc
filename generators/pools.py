"""Names, streets and cities for customers and brands, generated once by Faker and stored in ``pools.json``.

A row picks from the pools by position. The pools are stored because Faker's word lists change with its version, and
the same seed must always give the same bytes. ``python -m generators.pools`` generates the pools again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from generators.plan import GeneratorError
from generators.random_streams import Ints

POOLS_FILE = Path(__file__).with_name("pools.json")

FIRST_NAMES, LAST_NAMES, STREETS, PLACES, BRANDS = 60, 100, 80, 60, 80
"""The size of each pool: per country, but for brands the total."""


@dataclass(frozen=True)
class Country:
    """A country of customers, and the format of its addresses and phone numbers."""

    locale: str
    name: str
    weight: int
    """Share of the customers."""
    calling_code: str
    address: str
    """With the fields ``{street}`` and ``{number}``."""


COUNTRIES = (
    Country("en_US", "United States", 26, "+1", "{number} {street}"),
    Country("de_DE", "Germany", 16, "+49", "{street} {number}"),
    Country("en_GB", "United Kingdom", 13, "+44", "{number} {street}"),
    Country("fr_FR", "France", 11, "+33", "{number}, {street}"),
    Country("es_ES", "Spain", 8, "+34", "{street} {number}"),
    Country("fi_FI", "Finland", 4, "+358", "{street} {number}"),
    Country("pl_PL", "Poland", 8, "+48", "{street} {number}"),
    Country("nl_NL", "Netherlands", 5, "+31", "{street} {number}"),
    Country("pt_BR", "Brazil", 5, "+55", "{street}, {number}"),
    Country("sv_SE", "Sweden", 4, "+46", "{street} {number}"),
)


@dataclass(frozen=True)
class Pools:
    """The pools as Arrow text, ready for a CSV line. Each pool holds the texts of all countries, one after another.

    Element ``country * SIZE + n`` is the *n*-th element of a country. Texts with a comma are already in quotes. A
    street is split where the house number belongs.
    """

    country: pa.Array
    calling_code: pa.Array
    first_name: pa.Array
    last_name: pa.Array
    first_in_email: pa.Array
    last_in_email: pa.Array
    street_before_number: pa.Array
    street_after_number: pa.Array
    city: pa.Array
    state: pa.Array
    postal_code: pa.Array
    brand: tuple[str, ...]


def quoted(text: str) -> str:
    """Return a CSV field, quoted if necessary (RFC 4180).

    >>> quoted("12, rue Pasteur"), quoted("Storgatan 7")
    ('"12, rue Pasteur"', 'Storgatan 7')
    """
    return f'"{text}"' if "," in text else text


def email_part(name: str) -> str:
    """Return a name in a form that an email address may contain.

    >>> email_part("João Felipe"), email_part("O'Łucki")
    ('joao-felipe', 'olucki')
    """
    plain = unicodedata.normalize("NFKD", name.translate(str.maketrans("łŁøØßđ", "lLoOsd")))
    return re.sub(r"[^a-z-]", "", plain.lower().replace(" ", "-"))


@lru_cache(maxsize=1)
def load_pools() -> Pools:
    """Return the pools of ``pools.json``."""
    content = json.loads(POOLS_FILE.read_text(encoding="utf-8"))
    pools = [content["countries"][country.locale] for country in COUNTRIES]

    def flat(key: str) -> list[str]:
        return [text for pool in pools for text in pool[key]]

    streets = [
        quoted(country.address.format(street=street, number="\0")).split("\0")
        for country, pool in zip(COUNTRIES, pools, strict=True)
        for street in pool["streets"]
    ]
    cities, states, postal_codes = zip(*(place for pool in pools for place in pool["places"]), strict=True)
    return Pools(
        country=pa.array([country.name for country in COUNTRIES]),
        calling_code=pa.array([country.calling_code for country in COUNTRIES]),
        first_name=pa.array(flat("first_names")),
        last_name=pa.array(flat("last_names")),
        first_in_email=pa.array([email_part(name) for name in flat("first_names")]),
        last_in_email=pa.array([email_part(name) for name in flat("last_names")]),
        street_before_number=pa.array([before for before, _ in streets]),
        street_after_number=pa.array([after for _, after in streets]),
        city=pa.array([quoted(city) for city in cities]),
        state=pa.array([quoted(state) for state in states]),
        postal_code=pa.array(postal_codes),
        brand=tuple(content["brands"]),
    )


def take(pool: pa.Array, positions: Ints) -> pa.Array:
    """Return the elements of a pool at these positions."""
    return pool.take(pa.array(positions))


def make_pools(seed: int = 42) -> dict[str, Any]:
    """Return the content of ``pools.json``, made by Faker."""
    from faker import VERSION, Faker

    def different(count: int, make: Any) -> list[Any]:
        found: dict[Any, None] = {}
        for _ in range(100 * count):
            found[make()] = None
            if len(found) == count:
                return list(found)
        raise GeneratorError(f"Faker makes {len(found)} different words of a kind, {count} are needed", "ask for fewer")

    countries = {}
    for country in COUNTRIES:
        fake = Faker(country.locale)
        fake.seed_instance(seed)
        countries[country.locale] = {
            "first_names": different(FIRST_NAMES, fake.first_name),
            "last_names": different(LAST_NAMES, fake.last_name),
            "streets": different(STREETS, fake.street_name),
            "places": different(PLACES, lambda f=fake: (f.city(), f.administrative_unit(), f.postcode())),
        }

    def brand(company: str) -> str:
        first_word = re.split(r"[^\w]", company)[0]
        # Shorter words are particles of names: de, van, Le.
        return first_word if len(first_word) > 3 else brand(fake.company())

    fake = Faker(["en_US", "de_DE", "fr_FR", "it_IT", "nl_NL"])
    fake.seed_instance(seed)
    brands = different(BRANDS, lambda: brand(fake.company()))
    return {"made_by": f"Faker {VERSION}", "countries": countries, "brands": sorted(brands)}


def main() -> None:
    """Write ``pools.json``, one list to a line."""
    text = json.dumps(make_pools(), ensure_ascii=False)
    text = re.sub(r'("(?:\w+)": [\[{])', r"\n\1", text)
    POOLS_FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
