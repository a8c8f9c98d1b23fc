"""Product Insights (FR-015): best sellers, largest changes, and slow sellers.

The inputs are results of :mod:`dashboard.utils.queries`: ``products`` is *products* (the catalogue with
``gold.product_performance``), ``sales`` and ``before`` are *product_sales* of a period and of the period before it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from dashboard.figures.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    ROOM_FOR_100,
    Chart,
    drawn,
    each,
    frame,
    listed,
    marked,
    money,
    percent,
    room_for_text,
)

TOP = 12
"""The number of bars that can be read on a phone."""

MOST_POINTS = 1_500
"""The most points of the scatter plot; best sellers come first."""

SLOW = {"none": 0, "1 to 2": 2, "3 to 5": 5, "6 to 20": 20, "21 to 100": 100, "more than 100": np.inf}
"""Units sold in the period."""


def ranked(products: pa.Table, sales: pa.Table, categories: Collection[str] = ()) -> pd.DataFrame:
    """Return the catalogue with each product's sales in a period, and its rank in its category by revenue.

    Returns:
        The columns of ``products`` up to ``is_active``; ``orders``, ``units``, ``revenue`` (0 without a sale) and
        ``rank`` in the period. Rank 1 is the highest revenue in the category, and equal revenue has an equal rank. A
        product without a sale has no rank. The rows begin with the highest revenue.
    """
    rows = frame(products).drop(columns=["units_sold", "revenue", "category_rank"])
    rows = rows.merge(frame(sales), on="product_id", how="left").fillna({"orders": 0, "units": 0, "revenue": 0.0})
    rows = rows.astype({"orders": int, "units": int}).round({"revenue": 2})
    sold = rows[rows["units"] > 0]
    rows["rank"] = sold.groupby("category")["revenue"].rank(method="min", ascending=False).astype("Int64")
    if categories:
        rows = rows[rows["category"].isin(list(categories))]
    return rows.sort_values(["revenue", "product_id"], ascending=[False, True], ignore_index=True)


def best_sellers(products: pa.Table, sales: pa.Table, categories: Collection[str] = ()) -> Chart:
    """Draw the products with the highest revenue, each with its rank in its category."""
    table = ranked(products, sales, categories)
    table = table[table["units"] > 0]
    shown = table.head(TOP).iloc[::-1]
    figure = go.Figure()
    figure.add_bar(
        x=shown["revenue"],
        y=shown["product_id"],
        orientation="h",
        marker_color=BLUE,
        text=[money(value) for value in shown["revenue"]],
        textposition="outside",
        customdata=shown[["product_name", "category", "units", "rank"]],
        hovertemplate="%{customdata[0]}<br>no. %{customdata[3]} in %{customdata[1]}<br>"
        "$%{x:,.2f}, %{customdata[2]:,} units<extra></extra>",
    )
    _label_by_name(figure, shown)
    drawn(figure, 420, "xaxis")
    room_for_text(figure, shown["revenue"].max() if len(shown) else 0, 0.5)
    said = ", ".join(f"{row.product_name} {money(row.revenue)}" for row in each(table.head(5)))
    return Chart(figure, table, f"Products by revenue: {said}.")


def movers(products: pa.Table, sales: pa.Table, before: pa.Table, categories: Collection[str] = ()) -> Chart:
    """Draw the products whose revenue changed most since the period before, with their ranks in both periods."""
    now, then = ranked(products, sales, categories), ranked(products, before, categories)
    table = now.merge(then[["product_id", "revenue", "rank"]], on="product_id", suffixes=("", "_before"))
    table["change"] = (table["revenue"] - table["revenue_before"]).round(2)
    table = table[table["change"] != 0].sort_values(
        ["change", "product_id"], ascending=[False, True], ignore_index=True
    )
    half = TOP // 2
    shown = pd.concat([table[table["change"] > 0].head(half), table[table["change"] < 0].tail(half)]).iloc[::-1]
    figure = go.Figure()
    figure.add_bar(
        x=shown["change"],
        y=shown["product_id"],
        orientation="h",
        marker=marked(shown["change"] < 0, GREEN, ORANGE),
        text=[f"{_rank(a)} → {_rank(b)}" for a, b in zip(shown["rank_before"], shown["rank"], strict=True)],
        textposition="outside",
        cliponaxis=False,
        customdata=shown[["product_name", "category", "revenue_before", "revenue"]],
        hovertemplate="%{customdata[0]} (%{customdata[1]})<br>$%{customdata[2]:,.2f} → $%{customdata[3]:,.2f}"
        "<extra></extra>",
    )
    _label_by_name(figure, shown)
    figure.update_xaxes(title="Change of revenue")
    drawn(figure, 420, "xaxis")
    if len(shown):
        reach = shown["change"].abs().max() * 1.8
        figure.update_xaxes(range=[-reach if (shown["change"] < 0).any() else 0, reach])
    up = [f"{row.product_name} +{money(row.change)}" for row in each(table.head(3)) if row.change > 0]
    down = [f"{row.product_name} {money(row.change)}" for row in each(table.tail(3)) if row.change < 0]
    return Chart(figure, table, f"Largest changes of revenue. Up: {listed(up)}. Down: {listed(down)}.")


def price_against_units(products: pa.Table, sales: pa.Table, categories: Collection[str] = ()) -> Chart:
    """Draw each sold product's list price against its units, both on logarithmic axes."""
    table = ranked(products, sales, categories)
    table = table[(table["units"] > 0) & (table["list_price"] > 0)]
    shown = table.head(MOST_POINTS)
    figure = go.Figure()
    figure.add_scatter(
        x=shown["list_price"],
        y=shown["units"],
        mode="markers",
        marker={
            "color": BLUE,
            "opacity": 0.55,
            "size": np.clip(6 + 18 * np.sqrt(shown["revenue"] / max(shown["revenue"].max(), 1)), 6, 24)
            if len(shown)
            else 6,
        },
        customdata=shown[["product_name", "category", "revenue"]],
        hovertemplate="%{customdata[0]} (%{customdata[1]})<br>$%{x:,.2f}, %{y:,} units, $%{customdata[2]:,.2f}"
        "<extra></extra>",
    )
    figure.update_xaxes(title="List price", type="log", tickprefix="$", dtick=1)
    figure.update_yaxes(title="Units", type="log", dtick=1)
    said = f"List price against units of {len(table):,} products."
    if len(table) > 2:
        related = np.corrcoef(np.log(table["list_price"]), np.log(table["units"]))[0, 1]
        said += f" Correlation of the logarithms: {related:.2f}."
    return Chart(
        drawn(figure, 380), table[["product_id", "product_name", "category", "list_price", "units", "revenue"]], said
    )


def share_in_category(products: pa.Table, sales: pa.Table, categories: Collection[str] = ()) -> Chart:
    """Draw each category's revenue, divided into its first product, the next four, the next fifteen and the others."""
    rows = ranked(products, sales, categories)
    rows = rows[rows["units"] > 0]
    # Places and not ranks, because two products with equal revenue share a rank but must count as two.
    place = rows.groupby("category").cumcount() + 1
    bands = {"first": 1, "2nd to 5th": 5, "6th to 20th": 20, "all others": np.inf}
    band = pd.cut(place, [0, *bands.values()], labels=list(bands))
    table = rows.groupby(["category", band.rename("products")], observed=False)["revenue"].sum().round(2).reset_index()
    total = table.groupby("category")["revenue"].transform("sum")
    table["share"] = table["revenue"] / total.where(total > 0)
    order = table.groupby("category")["revenue"].sum().sort_values().index.tolist()
    figure = go.Figure()
    for name, colour, pattern in zip(bands, (BLUE, GREEN, ORANGE, GREY), ("", "/", ".", ""), strict=True):
        some = table[table["products"] == name].set_index("category").reindex(order)
        figure.add_bar(
            x=some["share"],
            y=order,
            name=name,
            orientation="h",
            marker={"color": colour, "pattern": {"shape": pattern, "size": 5}},
            customdata=some["revenue"],
            hovertemplate="%{y}, %{fullData.name}: %{x:.1%}, $%{customdata:,.2f}<extra></extra>",
        )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    first = table[table["products"] == "first"].set_index("category")["share"]
    said = ", ".join(f"{name} {percent(first[name])}" for name in reversed(order))
    figure = drawn(figure, 380).update_layout(margin_r=ROOM_FOR_100)
    return Chart(figure, table, f"Share of the best product in the revenue of its category: {said}.")


def slow_sellers(products: pa.Table, sales: pa.Table, categories: Collection[str] = ()) -> Chart:
    """Draw the number of active products by units sold; the table begins with the slowest sellers."""
    table = ranked(products, sales, categories)
    table = table[table["is_active"]].sort_values(["units", "revenue", "product_id"], ignore_index=True)
    band = pd.cut(table["units"], [-1, *SLOW.values()], labels=list(SLOW))
    counts = band.value_counts().reindex(list(SLOW), fill_value=0)
    figure = go.Figure()
    figure.add_bar(
        x=list(SLOW),
        y=counts.to_numpy(),
        marker=marked((name in ("none", "1 to 2") for name in SLOW), BLUE, ORANGE),
        text=[f"{count:,}" for count in counts],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{x} units: %{y:,} products<extra></extra>",
    )
    figure.update_xaxes(title="Units in the period", type="category")
    figure.update_yaxes(title="Products")
    said = ", ".join(f"{name} units {count:,}" for name, count in counts.items())
    columns = ["product_id", "product_name", "category", "list_price", "units", "revenue"]
    return Chart(drawn(figure, 380), table[columns], f"Active products by units sold: {said}.")


def _label_by_name(figure: go.Figure, shown: pd.DataFrame) -> None:
    """Label bars with the product's name. Their position comes from its id, because two products may share a name."""
    figure.update_yaxes(
        type="category",
        tickmode="array",
        tickvals=shown["product_id"],
        ticktext=[_short(n) for n in shown["product_name"]],
    )


def _rank(rank: Any) -> str:
    return "none" if pd.isna(rank) else str(rank)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
