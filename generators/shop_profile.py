"""The profile of the shop: orders and revenue per day, orders per hour, the inequality of customers and products.

>>> from generators.shop_profile import figure, profile_of
>>> profile = profile_of(settings.raw)                                              # doctest: +SKIP
>>> profile.share_of_top("customers", 0.2)                                          # doctest: +SKIP
0.62
>>> figure(profile).show()                                                          # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.csv
from plotly.subplots import make_subplots

from generators.demand import HISTORY_DAYS, PROMOTIONS
from generators.plan import GeneratorError
from generators.random_streams import Ints
from shared import clock

_BLUE, _ORANGE, _GREY = "#2a6f97", "#e07a2f", "#9aa5b1"


@dataclass(frozen=True)
class ShopProfile:
    """The profile of the historical orders in a landing directory, without rows that cannot be read."""

    daily: pd.DataFrame
    """A row per day: ``orders``, and ``revenue`` without cancelled and returned orders; index ``order_date``."""
    hourly: pd.Series
    """Orders in each hour of the day, UTC."""
    orders_of: dict[str, Ints]
    """For ``customers`` and ``products``, the number of orders of each member, ascending, zeros included."""

    def share_of_top(self, table: str, top: float) -> float:
        """Return the share of all orders that belongs to the given top share of customers or products."""
        orders = self.orders_of[table]
        count = round(len(orders) * top)
        return float(orders[len(orders) - count :].sum() / orders.sum())

    def gini(self, table: str) -> float:
        """Return the Gini coefficient of orders: 0 if all members have equally many, near 1 if one has all orders."""
        orders = self.orders_of[table]
        rank = np.arange(1, len(orders) + 1)
        return float(2 * (rank * orders).sum() / (len(orders) * orders.sum()) - (len(orders) + 1) / len(orders))


def profile_of(landing: Path | str) -> ShopProfile:
    """Read the historical files of a landing directory and return their profile.

    Raises:
        GeneratorError: if a folder has no historical file; the message names the folder.
    """
    landing = Path(landing)
    orders = _historical(landing, "orders")
    # Without the defects that would distort a curve: rows without a key, duplicate rows, quantities below one.
    orders = orders[(orders["order_id"] != "") & orders["quantity"].str.fullmatch(r"[1-9]\d*")]
    orders = orders.drop_duplicates("order_id")
    placed = pd.to_datetime(orders["order_ts"])
    day = placed.dt.date.rename("order_date")
    cents = orders["unit_price"].str.replace(".", "", regex=False).astype("int64")
    hundredths = cents * orders["quantity"].astype("int64") * (100 - orders["discount_pct"].astype("int64"))
    net = ((hundredths + 50) // 100).where(~orders["status"].isin(["cancelled", "returned"]), 0)
    days = pd.Index(
        [clock.HISTORY_START + timedelta(days=n) for n in range(HISTORY_DAYS)], name="order_date", dtype="object"
    )
    daily = pd.DataFrame({"orders": orders.groupby(day).size(), "revenue": net.groupby(day).sum() / 100})
    orders_of: dict[str, Ints] = {}
    for table, key in (("customers", "customer_id"), ("products", "product_id")):
        everyone = _historical(landing, table)[key].unique()
        counts = orders[key].value_counts().reindex(everyone, fill_value=0)
        orders_of[table] = np.sort(counts.to_numpy()).astype(np.int64)
    return ShopProfile(
        daily=daily.reindex(days, fill_value=0),
        hourly=placed.dt.hour.value_counts().reindex(range(24), fill_value=0).rename_axis("hour").rename("orders"),
        orders_of=orders_of,
    )


def figure(profile: ShopProfile) -> go.Figure:
    """Return the profile as a figure: orders and revenue per day with promotions marked, hours, Lorenz curves."""
    view = make_subplots(
        rows=3,
        cols=2,
        specs=[[{"colspan": 2}, None], [{"colspan": 2}, None], [{}, {}]],
        row_heights=[0.33, 0.27, 0.4],
        vertical_spacing=0.1,
        subplot_titles=("Orders a day", "Revenue a day", "Orders an hour (UTC)", "Who makes the orders"),
    )
    daily = profile.daily
    view.add_scatter(
        x=list(daily.index),
        y=daily["orders"].tolist(),
        line={"color": _BLUE, "width": 1.3},
        name="orders",
        row=1,
        col=1,
    )
    view.add_scatter(
        x=list(daily.index),
        y=daily["revenue"].tolist(),
        line={"color": _ORANGE, "width": 1.3},
        name="revenue",
        row=2,
        col=1,
    )
    for promotion in PROMOTIONS:
        first = date(clock.HISTORY_START.year, promotion.month, promotion.day)
        for row in (1, 2):
            view.add_vrect(
                x0=first.isoformat(),
                x1=(first + timedelta(days=promotion.days)).isoformat(),
                fillcolor=_ORANGE,
                opacity=0.15,
                line_width=0,
                annotation_text=promotion.name if row == 1 else "",
                annotation_position="top left",
                row=row,
                col=1,
            )
    view.add_bar(x=list(range(24)), y=profile.hourly.tolist(), marker_color=_BLUE, name="orders an hour", row=3, col=1)
    for table, colour in (("customers", _BLUE), ("products", _ORANGE)):
        below, orders_below = _lorenz(profile.orders_of[table])
        share = profile.share_of_top(table, 0.2)
        view.add_scatter(
            x=below,
            y=orders_below,
            line={"color": colour},
            name=f"{table}: the top 20 % make {share:.0%}",
            showlegend=True,
            row=3,
            col=2,
        )
    view.add_scatter(x=[0, 1], y=[0, 1], line={"color": _GREY, "dash": "dot"}, name="all equal", row=3, col=2)
    view.update_yaxes(rangemode="tozero")
    view.update_xaxes(dtick=3, row=3, col=1)
    view.update_xaxes(tickformat=".0%", title_text="share of customers or products, from the least", row=3, col=2)
    view.update_yaxes(tickformat=".0%", title_text="share of the orders", row=3, col=2)
    view.update_traces(showlegend=False, selector=lambda trace: trace.name in ("orders", "revenue", "orders an hour"))
    view.update_layout(
        template="plotly_white",
        height=760,
        margin={"t": 50, "b": 50, "l": 60, "r": 20},
        legend={"x": 0.57, "y": 0.31, "yanchor": "top"},
    )
    return view


def _historical(landing: Path, table: str) -> pd.DataFrame:
    """Return the historical rows of a table as text, without lines that have a wrong number of fields."""
    folder = landing / table / clock.batch_date(0).isoformat()
    files = sorted(folder.glob(f"{table}_historical*.csv"))
    if not files:
        raise GeneratorError(f"{folder} has no {table}_historical*.csv", "shopmetrics generate writes it")
    parse = pyarrow.csv.ParseOptions(invalid_row_handler=lambda row: "skip")
    frames = []
    for file in files:
        with file.open(encoding="utf-8") as text:
            header = text.readline().strip().split(",")
        convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
        frames.append(pyarrow.csv.read_csv(file, parse_options=parse, convert_options=convert).to_pandas())
    rows: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return rows


def _lorenz(ascending: Ints, points: int = 100) -> tuple[list[float], list[float]]:
    """Return the Lorenz curve: shares of the members, smallest first, and their share of the orders."""
    total = np.concatenate([[0], np.cumsum(ascending)])
    at = np.linspace(0, len(ascending), points + 1).round().astype(np.int64)
    return (at / len(ascending)).tolist(), (total[at] / total[-1]).tolist()
