"""The command line that the three generators share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from generators.manifest import Manifest
from generators.shop import generate
from shared.errors import ShopMetricsError
from shared.settings import get_settings


def run(table: str) -> None:
    """Run the command line of one table's generator.

    If the files cannot be generated, it prints the error message without a traceback and exits with status 1.
    """
    try:
        _command(table)()
    except ShopMetricsError as error:
        raise SystemExit(f"error: {error}") from None


def _command(table: str) -> typer.Typer:
    settings = get_settings()
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

    @app.command(
        help=f"Write the {table} files of the historical load and of the days after it.",
        epilog=f"Example: `python -m generators.generate_{table} --scale 0.1 --days 3 --out /tmp/raw`",
    )
    def main(
        scale: Annotated[float, typer.Option(help="1 is 10,000 customers, 1,000 products, 100,000 orders.")] = (
            settings.scale
        ),
        seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = settings.seed,
        defects: Annotated[float, typer.Option(help="Share of rows with a defect, 0 to 0.2.")] = settings.defects,
        days: Annotated[int, typer.Option(help="Incremental days after the historical load.")] = 0,
        out: Annotated[Path, typer.Option(help="Landing directory.")] = settings.raw,
    ) -> None:
        manifest = generate(out, scale=scale, seed=seed, defects=defects, days=days, tables=[table])
        Console().print(overview(manifest, [table]))

    return app


def overview(manifest: Manifest, tables: Sequence[str]) -> Table:
    """Return a table for display: the content of each batch of these tables. The manifest has the defects by kind."""
    view = Table(title=f"{manifest.landing}  {manifest.plan}", title_justify="left", show_edge=False)
    view.add_column("table")
    view.add_column("batch date")
    for column in ("files", "rows", "MB", "defective rows"):
        view.add_column(column, justify="right")
    for table in tables:
        for batch_date, entry in manifest.tables.get(table, {}).items():
            size = sum(file.bytes for file in entry.files) / 1e6
            defects = sum(entry.defects.values())
            view.add_row(table, batch_date, str(len(entry.files)), f"{entry.rows:,}", f"{size:.1f}", f"{defects:,}")
    return view
