"""Draw the medallion diagram, and one copy per group of days with that group's box lit.

``python docs/img/build.py`` writes ``medallion.svg`` and ``medallion-<first day>-<box>.svg`` beside this
file. Every picture comes from :data:`BOXES`; the same source gives the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent

WIDTH, HEIGHT = 1000, 498
PADDING = 14
CORNER = 8
TITLE_DROP = 27
LINE = 21
BADGE_WIDTH, BADGE_HEIGHT = 54, 20

# name -> (light, dark). The page colour is painted too: a picture inside a page cannot know the page's
# own theme, only the reader's, and the two may differ.
PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#0d1117"),
    "text": ("#1f2328", "#e6edf3"),
    "quiet": ("#59636e", "#a5aeb8"),
    "line": ("#818b98", "#7d8590"),
    "plain": ("#f6f8fa", "#161b22"),
    "bronze": ("#f6e3d3", "#33251a"),
    "bronze-edge": ("#a3622f", "#c98b5a"),
    "silver": ("#e8ecf1", "#262c34"),
    "silver-edge": ("#6e7a88", "#9aa7b5"),
    "gold": ("#fbf0c4", "#332c10"),
    "gold-edge": ("#94720a", "#d6b13f"),
    "lit": ("#0a5bc4", "#1a63d6"),
    "on-lit": ("#ffffff", "#ffffff"),
}

Layer = Literal["plain", "bronze", "silver", "gold"]


@dataclass(frozen=True)
class Column:
    """Lines inside a box, top to bottom: its layer, names, one caption; moved by ``dx``, ``dy``."""

    names: tuple[str, ...]
    caption: str = ""
    layer: Layer | None = None
    dx: int = 0
    dy: int = 0


@dataclass(frozen=True, kw_only=True)
class Box:
    """One part of the lakehouse, and the days on which the course builds it."""

    name: str
    title: str
    days: str
    first_day: int
    x: int
    y: int
    width: int
    height: int
    columns: tuple[Column, ...]
    says: str
    layer: Layer = "plain"

    @property
    def file(self) -> str:
        """Name of the picture in which this box is lit."""
        return f"medallion-{self.first_day:02d}-{self.name}.svg"

    @property
    def is_strip(self) -> bool:
        """Whether the box is one line across the whole picture."""
        return self.height == STRIP_HEIGHT


LEFT, STRIP_WIDTH, STRIP_HEIGHT = 16, WIDTH - 32, 50
SOURCE_WIDTH, LAYER_WIDTH, DASHBOARD_WIDTH = 170, 176, 158
BRONZE_X, SILVER_X, GOLD_X, DASHBOARD_X = 214, 418, 622, 826
DELIVERY_Y, BATCH_Y, LIVE_Y, WORKSPACE_Y = 16, 88, 270, 432
BATCH_HEIGHT, LIVE_HEIGHT = 160, 140

BOXES: tuple[Box, ...] = (
    Box(
        name="workspace",
        title="Workspace",
        days="days 1–2",
        first_day=1,
        x=LEFT,
        y=WORKSPACE_Y,
        width=STRIP_WIDTH,
        height=STRIP_HEIGHT,
        columns=(Column((), "one Spark engine, Delta tables, catalog, landing volume, lineage"),),
        says="The workspace, days 1 and 2, carries everything: one Spark engine, Delta tables, the catalog, "
        "the landing volume and lineage.",
    ),
    Box(
        name="generators",
        title="Generators",
        days="days 3–4",
        first_day=3,
        x=LEFT,
        y=BATCH_Y,
        width=SOURCE_WIDTH,
        height=BATCH_HEIGHT,
        columns=(Column(("customers", "products", "orders"), "CSV, a batch a day"),),
        says="Generators, days 3 and 4, write CSV files of customers, products and orders.",
    ),
    Box(
        name="bronze",
        title="Bronze",
        days="day 4",
        first_day=4,
        x=BRONZE_X,
        y=BATCH_Y,
        width=LAYER_WIDTH,
        height=BATCH_HEIGHT,
        columns=(Column(("customers_raw", "products_raw", "orders_raw"), "as delivered"),),
        says="Bronze, day 4, keeps them as delivered.",
        layer="bronze",
    ),
    Box(
        name="silver",
        title="Silver",
        days="days 5–6",
        first_day=5,
        x=SILVER_X,
        y=BATCH_Y,
        width=LAYER_WIDTH,
        height=BATCH_HEIGHT,
        columns=(Column(("dim_customers", "dim_products", "orders_clean"), "clean, with history"),),
        says="Silver, days 5 and 6, holds the dimensions and the clean orders.",
        layer="silver",
    ),
    Box(
        name="gold",
        title="Gold",
        days="days 7–9",
        first_day=7,
        x=GOLD_X,
        y=BATCH_Y,
        width=LAYER_WIDTH,
        height=BATCH_HEIGHT,
        columns=(Column(("daily_sales_summary", "customer_ltv", "product_performance"), "one question each"),),
        says="Gold, days 7 to 9, answers one question per table: daily sales, customer lifetime value, "
        "product performance.",
        layer="gold",
    ),
    Box(
        name="kafka",
        title="Kafka",
        days="days 10–11",
        first_day=10,
        x=LEFT,
        y=LIVE_Y,
        width=SOURCE_WIDTH,
        height=LIVE_HEIGHT,
        columns=(Column(("clickstream-events",), "from a producer"),),
        says="Beside the batch path, Kafka, days 10 and 11, carries the clickstream.",
    ),
    Box(
        name="streaming",
        title="Streaming",
        days="days 12–13",
        first_day=12,
        x=BRONZE_X,
        y=LIVE_Y,
        width=GOLD_X + LAYER_WIDTH - BRONZE_X,
        height=LIVE_HEIGHT,
        columns=(
            Column(("clickstream_raw",), "offsets kept", "bronze"),
            Column(("clickstream_events", "clickstream_sessions"), "30-minute gap", "silver", dx=204),
            Column(("hourly_traffic_metrics",), "one row an hour", "gold", dx=392),
        ),
        says="Streaming, days 12 and 13, takes it through bronze, silver and gold to hourly traffic metrics.",
    ),
    Box(
        name="delivery",
        title="Delivery",
        days="days 14–20, 28–30",
        first_day=14,
        x=LEFT,
        y=DELIVERY_Y,
        width=STRIP_WIDTH,
        height=STRIP_HEIGHT,
        columns=(Column((), "secrets, bundle, tests, CI and CD, schedule, data quality, optimisation, launch"),),
        says="Delivery, days 14 to 20 and 28 to 30, puts tests, CI, CD, scheduling, quality and launch over all of it.",
    ),
    Box(
        name="dashboard",
        title="Dashboard",
        days="days 21–27",
        first_day=21,
        x=DASHBOARD_X,
        y=BATCH_Y,
        width=DASHBOARD_WIDTH,
        height=LIVE_Y + LIVE_HEIGHT - BATCH_Y,
        columns=(
            Column(("Sales Performance", "Customer Analytics", "Product Insights"), "from files"),
            Column(("Kafka Traffic",), "from events", dy=LIVE_Y - BATCH_Y),
        ),
        says="Both paths end in the dashboard, days 21 to 27, with four pages.",
    ),
)


def _sheet(rules: list[tuple[str, str]]) -> str:
    # A page may hold the picture inline: every rule is tied to the picture, so that none touches the page. Plain
    # rules rather than CSS variables or nesting, which several SVG renderers do not know.
    return "".join(
        ",".join(f".medallion {selector}" for selector in selectors.split(",")) + f"{{{body}}}"
        for selectors, body in rules
    )


def _colours(scheme: int) -> str:
    c = {name: pair[scheme] for name, pair in PALETTE.items()}
    layers = [
        rule
        for layer in ("bronze", "silver", "gold")
        for rule in (
            (f".{layer}>rect", f"fill:{c[layer]};stroke:{c[layer + '-edge']}"),
            (f".medal-{layer}", f"fill:{c[layer + '-edge']}"),
        )
    ]
    return _sheet(
        [
            (".page", f"fill:{c['page']}"),
            ("text", f"fill:{c['text']}"),
            (".quiet", f"fill:{c['quiet']}"),
            (".box>rect", f"fill:{c['plain']};stroke:{c['line']}"),
            *layers,
            (".flow", f"stroke:{c['line']}"),
            (".head", f"fill:{c['line']}"),
            (".lit>rect", f"fill:{c['lit']};stroke:{c['lit']}"),
            (".lit .badge,.lit text,.lit .head,.lit circle", f"fill:{c['on-lit']}"),
            (".lit .flow", f"stroke:{c['on-lit']}"),
            (".lit .today", f"fill:{c['lit']}"),
        ]
    )


def _style() -> str:
    shapes = _sheet(
        [
            ("text", 'font:13px system-ui,-apple-system,"Segoe UI",sans-serif'),
            (".title", "font-size:16px;font-weight:600"),
            (".strip", "font-size:14px"),
            (".quiet", "font-size:12.5px"),
            (".code", "font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"),
            (".today", "font-size:12px;font-weight:600;text-anchor:middle"),
            (".box>rect", "stroke-width:1.5"),
            (".flow", "fill:none;stroke-width:2"),
            (".lit>rect", "stroke-width:2"),
        ]
    )
    return f"{shapes}{_colours(0)}@media(prefers-color-scheme:dark){{{_colours(1)}}}"


def _text(x: int, y: int, content: str, kind: str, anchor: str = "") -> str:
    end = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text class="{kind}" x="{x}" y="{y}"{end}>{escape(content)}</text>'


def _arrow(x1: int, x2: int, y: int) -> str:
    return (
        f'<path class="flow" d="M{x1} {y}H{x2 - 7}"/>'
        f'<path class="head" d="M{x2 - 9} {y - 5}L{x2} {y}L{x2 - 9} {y + 5}Z"/>'
    )


def _medal(x: int, y: int, layer: str) -> str:
    return f'<circle class="medal-{layer}" cx="{x}" cy="{y}" r="6"/>'


def _strip(box: Box) -> list[str]:
    middle = box.y + box.height // 2 + 5
    return [
        _text(box.x + PADDING, middle, box.title, "title"),
        _text(box.x + 198, middle, box.columns[0].caption, "strip"),
        _text(box.x + box.width - PADDING, middle, box.days, "quiet", "end"),
    ]


def _card(box: Box) -> list[str]:
    left, title_y = box.x + PADDING, box.y + TITLE_DROP
    tinted, wide = box.layer != "plain", box.width > 2 * LAYER_WIDTH
    parts = [_medal(left + 6, title_y - 5, box.layer)] if tinted else []
    parts.append(_text(left + (20 if tinted else 0), title_y, box.title, "title"))
    if wide:
        parts.append(_text(box.x + box.width - PADDING, title_y, box.days, "quiet", "end"))
    else:
        parts.append(_text(left, title_y + LINE - 1, box.days, "quiet"))
    for column in box.columns:
        x, y = left + column.dx, title_y + column.dy + (LINE + 8 if wide else 2 * LINE + 5)
        if column.layer:
            parts.append(_medal(x + 6, y - 4, column.layer))
            parts.append(_text(x + 20, y, column.layer, "quiet"))
            if column.dx:
                parts.append(_arrow(x - 64, x - 12, y - 4))
            y += LINE
        for name in column.names:
            parts.append(_text(x, y, name, "body" if " " in name else "code"))
            y += LINE
        parts.append(_text(x, y + 2, column.caption, "quiet"))
    return parts


def _box(box: Box, lit: bool) -> str:
    classes = " ".join(["box", box.layer] + (["lit"] if lit else []))
    rect = f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="{CORNER}"/>'
    parts = [rect, *(_strip(box) if box.is_strip else _card(box))]
    if lit:
        x, y = box.x + box.width - PADDING - BADGE_WIDTH, box.y - BADGE_HEIGHT // 2
        parts.append(f'<rect class="badge" x="{x}" y="{y}" width="{BADGE_WIDTH}" height="{BADGE_HEIGHT}" rx="10"/>')
        parts.append(_text(x + BADGE_WIDTH // 2, y + 14, "today", "today"))
    return f'<g class="{classes}">' + "".join(parts) + "</g>"


def _flows() -> str:
    batch, live = BATCH_Y + BATCH_HEIGHT // 2, LIVE_Y + LIVE_HEIGHT // 2
    gaps = [
        (LEFT + SOURCE_WIDTH, BRONZE_X, (batch, live)),
        (BRONZE_X + LAYER_WIDTH, SILVER_X, (batch,)),
        (SILVER_X + LAYER_WIDTH, GOLD_X, (batch,)),
        (GOLD_X + LAYER_WIDTH, DASHBOARD_X, (batch, live)),
    ]
    return "".join(_arrow(start + 3, end - 3, y) for start, end, heights in gaps for y in heights)


def render(lit: str | None = None) -> str:
    """Return the diagram as SVG, with the box of this name lit.

    Raises:
        ValueError: if no box has this name; the message lists the names.

    Example:
        >>> render("bronze").count("today</text>")
        1
    """
    names = [box.name for box in BOXES]
    if lit is not None and lit not in names:
        raise ValueError(f"no box named {lit!r}; the boxes are {', '.join(names)}")
    today = next((box for box in BOXES if box.name == lit), None)
    title = "The ShopMetrics lakehouse" + (f": today, {today.title} ({today.days})" if today else "")
    description = " ".join(box.says for box in BOXES)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="medallion" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'role="img" aria-labelledby="medallion-title medallion-desc">',
        f'<title id="medallion-title">{escape(title)}</title>',
        f'<desc id="medallion-desc">{escape(description)}</desc>',
        f"<style>{_style()}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        _flows(),
        *(_box(box, box.name == lit) for box in BOXES),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def pictures() -> dict[str, str]:
    """Return every picture as file name -> SVG text: the plain diagram, then one per box."""
    return {"medallion.svg": render()} | {box.file: render(box.name) for box in BOXES}


if __name__ == "__main__":
    for file, svg in pictures().items():
        (HERE / file).write_text(svg, encoding="utf-8", newline="\n")
        print(f"{file}  {len(svg.encode()):,} bytes")
