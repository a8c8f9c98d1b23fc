"""Products: a catalogue of eight categories whose prices change and from which some products disappear.

The historical file has one row per product, with its state at the end of the history. During the history a price
changed up to three times, and an order of last spring has last spring's price. A daily file has the products whose
price changed on that day or that were discontinued.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from generators import demand
from generators.defects import Flaws, rows_per_kind
from generators.landing import Batch, Records, csv_lines, flags, identifiers, joined, money, timestamps
from generators.plan import Plan
from generators.pools import BRANDS, load_pools, take
from generators.random_streams import Bools, Ints, Lottery, Stream, heavy_tail
from shared import clock

TABLE = "products"
COLUMNS = ("product_id", "product_name", "category", "brand", "list_price", "is_active", "updated_at")


@dataclass(frozen=True)
class Category:
    """A category: its products, and its lowest and highest price in whole currency units."""

    name: str
    weight: int
    """Share of the products."""
    cheapest: int
    dearest: int
    things: tuple[str, ...]


CATEGORIES = (
    Category("Electronics", 16, 15, 1_400, ("Headphones", "Speaker", "Tablet", "Camera", "Monitor", "Charger")),
    Category("Home & Kitchen", 17, 8, 450, ("Kettle", "Lamp", "Pan", "Chair", "Blanket", "Knife Set")),
    Category("Fashion", 18, 9, 240, ("Jacket", "Sneakers", "Dress", "Jeans", "Scarf", "Backpack")),
    Category("Beauty", 11, 4, 95, ("Serum", "Shampoo", "Perfume", "Face Cream", "Lipstick", "Soap")),
    Category("Sports & Outdoors", 12, 7, 600, ("Tent", "Yoga Mat", "Bike Helmet", "Dumbbells", "Football", "Skis")),
    Category("Toys & Games", 10, 5, 130, ("Puzzle", "Board Game", "Train Set", "Doll", "Kite", "Building Blocks")),
    Category("Books", 9, 4, 45, ("Novel", "Cookbook", "Atlas", "Biography", "Travel Guide", "Picture Book")),
    Category("Grocery", 7, 2, 35, ("Coffee", "Olive Oil", "Chocolate", "Tea", "Honey", "Granola")),
)

_STYLES = (
    "Classic",
    "Light",
    "Pro",
    "Mini",
    "Urban",
    "Nordic",
    "Eco",
    "Deluxe",
    "Compact",
    "Vintage",
    "Basic",
    "Prime",
)

_PRICE_CHANGES = 3
"""The history has this many equal periods, and a product's price changes at most once in each."""
_CHANGES_IN_PERIOD = 0.4
_DISCONTINUED_IN_HISTORY = 0.03
_CLEARANCE_DAYS = 31
"""In the history, products are discontinued only in these last days, in which no price changes."""
_CHANGED_PER_DAY = 0.02
_DISCONTINUED_INSTEAD = 0.04
"""Share of a day's changes that discontinue the product."""

_NEVER_SELLS = 0.12
_FEWEST_TICKETS, _MOST_TICKETS = 8, 400


def charm_price(cents: Ints) -> Ints:
    """Return the price with the same whole units and 99 cents.

    >>> charm_price(np.array([1200, 1299]))
    array([1299, 1299])
    """
    return cents // 100 * 100 + 99


def product_ids(numbers: Ints) -> pa.Array:
    """Return the keys of products."""
    return identifiers("P-", 7, numbers + 1)


@dataclass(frozen=True)
class Rows(Records):
    """Rows of a products file."""

    product: Ints
    """Number of the product; 0 is ``P-0000001``."""
    cents: Ints
    active: Bools
    updated_at: Ints


class Products:
    """The catalogue at the end of a day, from the end of the history on. Each array has one element per product.

    Attributes:
        day: the incremental day, 0 for the historical load.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.day = 0
        everything = np.arange(plan.products, dtype=np.int64)
        # The first eight products cover the eight categories. They always sell and are never discontinued.
        self._category = self._stream("category").pick(everything, [c.weight for c in CATEGORIES])
        self._category[: len(CATEGORIES)] = np.arange(len(CATEGORIES))
        self._updated_at = np.full(plan.products, demand.OPENING, dtype=np.int64)
        self._updated_before = self._updated_at.copy()
        self._sold_until = np.full(plan.products, demand.FAR_FUTURE, dtype=np.int64)
        tickets = heavy_tail(self._stream("tickets").unit(everything), _FEWEST_TICKETS, _MOST_TICKETS)
        tickets[self._stream("sells").chance(everything, _NEVER_SELLS) & (everything >= len(CATEGORIES))] = 0
        self._sells = tickets > 0
        self._lottery = Lottery(tickets)

        # Prices in the order of the changes: row n + 1 is valid for a product after its change n.
        self._cents = self._first_price()[np.newaxis]
        self._changes_at = np.empty((0, plan.products), dtype=np.int64)
        period = (demand.HISTORY_DAYS - _CLEARANCE_DAYS) * demand.DAY // _PRICE_CHANGES
        for n in range(_PRICE_CHANGES):
            stream = self._stream("history", n)
            changed = np.flatnonzero(stream.named("changes").chance(everything, _CHANGES_IN_PERIOD))
            start = demand.OPENING + n * period
            self._change_prices(changed, start + 1 + stream.named("when").below(changed, period - 1), stream)
        stream = self._stream("history", "clearance")
        gone = np.flatnonzero(stream.chance(everything, _DISCONTINUED_IN_HISTORY) & (everything >= len(CATEGORIES)))
        clearance = _CLEARANCE_DAYS * demand.DAY
        self._discontinue(gone, demand.HISTORY_ENDS - clearance + stream.named("when").below(gone, clearance))

        self._touched = np.flatnonzero(self._updated_at > demand.OPENING)
        self._rows = self._as_they_are(everything)
        self._late = self._rows[:0]

    def next_day(self) -> None:
        """Advance to the next day: price changes and discontinued products."""
        missed = self._missed_updates()
        self.day += 1
        stream = self._stream("day", self.day)
        today = demand.midnight(clock.batch_date(self.day))
        self._cents, self._changes_at = self._cents[-1:], self._changes_at[:0]

        products = len(self._category)
        chosen = stream.sample(range(products), max(1, round(products * _CHANGED_PER_DAY)))
        chosen = chosen[self._sold_until[chosen] == demand.FAR_FUTURE]
        goes = stream.named("goes").chance(chosen, _DISCONTINUED_INSTEAD) & (chosen >= len(CATEGORIES))
        when = today + stream.named("when").below(chosen, demand.DAY)
        self._change_prices(chosen[~goes], when[~goes], stream)
        self._discontinue(chosen[goes], when[goes])

        self._touched = chosen
        self._rows = self._as_they_are(chosen)
        late = rows_per_kind(self.plan, TABLE, self.day, len(self._rows))
        self._late = missed[stream.named("late").sample(range(len(missed)), late)]

    def batch(self) -> Batch:
        """Return the batch of the day. It must be written before :meth:`next_day` is called again."""
        rows = self._rows
        sells = self._sells[rows.product]
        flaws = Flaws.choose(
            TABLE,
            COLUMNS,
            self._stream("defects", self.day),
            rows_per_kind(self.plan, TABLE, self.day, len(rows)),
            spoilable=np.flatnonzero(~sells),
            doublable=np.flatnonzero(sells),
        )
        return Batch(
            table=TABLE,
            columns=COLUMNS,
            rows=len(rows),
            lines=lambda start, stop: self._lines(rows[start:stop]),
            flaws=flaws,
            late=self._lines(self._late),
        )

    def draw(self, stream: Stream, orders: Ints, placed_at: Ints) -> Ints:
        """Return the product of each order: one that is for sale at that moment, popular products more often."""
        return self._lottery.draw(
            stream, orders, len(self._sells), lambda product, at: placed_at[at] < self._sold_until[product]
        )

    def price_at(self, products: Ints, moments: Ints) -> Ints:
        """Return the list price of each product at a moment, in cents.

        Moments before the current day are valid only on day 0, and there only those of the history.
        """
        cents: Ints = self._cents[0][products]
        for changes_at, changed in zip(self._changes_at, self._cents[1:], strict=True):
            cents = np.where(moments >= changes_at[products], changed[products], cents)
        return cents

    def _stream(self, *name: str | int) -> Stream:
        return self.plan.stream(TABLE, *name)

    def _first_price(self) -> Ints:
        """Return prices between the lowest and the highest price of a category, most of them near the lowest."""
        everything = np.arange(self.plan.products, dtype=np.int64)
        cheapest = np.array([c.cheapest for c in CATEGORIES])[self._category] * 100
        dearest = np.array([c.dearest for c in CATEGORIES])[self._category] * 100
        share = self._stream("price").below(everything, 1 << 20)
        return charm_price(cheapest + ((dearest - cheapest) * (share**3 >> 40) >> 20))

    def _change_prices(self, products: Ints, when: Ints, stream: Stream) -> None:
        before = self._cents[-1][products]
        per_cent = stream.named("per cent").below(products, 26) - 15
        after = charm_price(before * (100 + per_cent) // 100)
        changes_at = np.full(len(self._category), demand.FAR_FUTURE, dtype=np.int64)
        changes_at[products] = when
        cents = self._cents[-1].copy()
        cents[products] = np.where(after == before, before + 100, after)
        self._cents = np.vstack([self._cents, cents])
        self._changes_at = np.vstack([self._changes_at, changes_at])
        self._touch(products, when)

    def _discontinue(self, products: Ints, when: Ints) -> None:
        self._sold_until[products] = when
        self._touch(products, when)

    def _touch(self, products: Ints, when: Ints) -> None:
        self._updated_before[products] = self._updated_at[products]
        self._updated_at[products] = when

    def _as_they_are(self, products: Ints) -> Rows:
        active = self._sold_until[products] == demand.FAR_FUTURE
        return Rows(products, self._cents[-1][products], active, self._updated_at[products])

    def _missed_updates(self) -> Rows:
        """Return the updates that could still arrive late: each lies between two delivered states."""
        since, until = self._updated_before[self._touched], self._updated_at[self._touched]
        fit = self._sells[self._touched] & (until - since > 1)
        products, since, until = self._touched[fit], since[fit], until[fit]
        between = since + 1 + self._stream("late", self.day).below(products, until - since - 1)
        return Rows(products, self.price_at(products, until - 1), np.ones(len(products), dtype=bool), between)

    def _lines(self, rows: Rows) -> pa.Array:
        """Render rows as CSV lines."""
        what = rows.product
        category = self._category[what]
        per_category = BRANDS // len(CATEGORIES)
        brand = take(
            pa.array(load_pools().brand), category * per_category + self._stream("brand").below(what, per_category)
        )
        style = take(pa.array(_STYLES), self._stream("style").below(what, len(_STYLES)))
        kinds = len(CATEGORIES[0].things)
        things = pa.array([thing for c in CATEGORIES for thing in c.things])
        thing = take(things, category * kinds + self._stream("thing").below(what, kinds))
        return csv_lines(
            [
                product_ids(what),
                joined(brand, " ", style, " ", thing),
                take(pa.array([c.name for c in CATEGORIES]), category),
                brand,
                money(rows.cents),
                flags(rows.active),
                timestamps(rows.updated_at),
            ]
        )
