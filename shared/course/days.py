"""The days of the course. This table is the only place that lists them: a further day is one further entry.

Everything that walks through the course starts here: the runner, the checks, the refresh of stored outputs, the
tests, and the table ``ops.course_days`` of day 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import CourseError
from shared.settings import CHECKOUT


@dataclass(frozen=True)
class Day:
    """One day: a notebook to run, a lesson to read, checks that hold afterwards.

    ``minutes`` is what a reader needs for lesson and notebook together, not what the machine needs. ``own_engine`` says
    that the day looks into the home's engine, ends it or kills it, so that no engine elsewhere will do. ``spark`` is
    False for a day that reads gold without Spark: nothing starts an engine for it.
    """

    number: int
    slug: str
    title: str
    week: int
    minutes: int
    own_engine: bool = False
    spark: bool = True
    root: Path = field(default=CHECKOUT, repr=False)

    @property
    def name(self) -> str:
        """The file name that notebook and lesson share, without its ending."""
        return f"{self.number:02d}_{self.slug}"

    @property
    def notebook(self) -> Path:
        """The notebook, with its stored outputs."""
        return self.root / "notebooks" / f"{self.name}.ipynb"

    @property
    def check_cell(self) -> str:
        """The source of the notebook's last code cell."""
        return f"checks.report({self.number}, spark)" if self.spark else f"checks.report({self.number})"

    @property
    def lesson(self) -> Path:
        """The reading for the same day."""
        return self.root / "lessons" / f"{self.name}.md"


DAYS = (
    Day(1, "workspace", "Workspace", week=1, minutes=45, own_engine=True),
    Day(2, "project_tour", "Project tour", week=1, minutes=30),
    Day(3, "generate_customers_orders", "Generators: customers and orders", week=1, minutes=60),
    Day(4, "bronze", "Products and bronze", week=1, minutes=75),
    Day(5, "silver_framework", "Silver framework", week=1, minutes=75),
    Day(6, "scd2", "SCD type 2", week=1, minutes=90),
    Day(7, "gold_daily_sales", "Daily sales", week=2, minutes=60),
    Day(8, "gold_customer_ltv", "Customer lifetime value", week=2, minutes=45),
    Day(9, "gold_product_performance", "Product performance", week=2, minutes=75),
    Day(10, "kafka_cluster", "Kafka", week=2, minutes=60),
    Day(11, "clickstream_producer", "Clickstream producer", week=2, minutes=60),
    Day(12, "streaming_bronze", "Streaming bronze", week=2, minutes=60, own_engine=True),
    Day(13, "streaming_silver_gold", "Streaming silver and gold", week=2, minutes=90),
    Day(14, "secrets", "Secrets", week=3, minutes=45, own_engine=True),
    Day(15, "asset_bundle", "Asset bundle", week=3, minutes=60),
    Day(16, "test_suite", "Test suite", week=3, minutes=55),
    Day(17, "ci", "CI", week=3, minutes=45),
    Day(18, "cd", "CD", week=3, minutes=45),
    Day(19, "scheduling_data_quality", "Scheduling and data quality", week=3, minutes=65),
    Day(20, "optimisation", "Optimisation", week=3, minutes=65),
    Day(21, "dashboard_scaffold", "Dashboard scaffold", week=4, minutes=55, spark=False),
    Day(22, "dashboard_connector", "Connector", week=4, minutes=65, spark=False),
    Day(23, "sales_performance", "Sales Performance", week=4, minutes=60, spark=False),
    Day(24, "customer_analytics", "Customer Analytics", week=4, minutes=50, spark=False),
    Day(25, "product_insights", "Product Insights", week=4, minutes=45, spark=False),
    Day(26, "kafka_traffic", "Kafka Traffic", week=4, minutes=45, spark=False),
    Day(27, "dashboard_acceptance", "Dashboard acceptance", week=4, minutes=45, spark=False),
)
"""Every day that is built, in order."""

COLUMNS = "day INT, name STRING, title STRING, week INT, minutes INT"
"""The columns of :func:`as_rows`, as a Spark schema."""


def as_rows() -> list[tuple[int, str, str, int, int]]:
    """Return the days as rows of the table ``ops.course_days``: day, name, title, week, minutes for a reader.

    Example:
        >>> spark.createDataFrame(as_rows(), COLUMNS).write.mode("overwrite").saveAsTable("ops.course_days")
    """
    return [(entry.number, entry.name, entry.title, entry.week, entry.minutes) for entry in DAYS]


def day(number: int) -> Day:
    """Return a day by its number.

    Raises:
        CourseError: if there is no such day, with the days that there are.

    Example:
        >>> day(4).name
        '04_bronze'
    """
    for entry in DAYS:
        if entry.number == number:
            return entry
    raise CourseError(
        f"There is no day {number}: the course has the days {DAYS[0].number} to {DAYS[-1].number}.",
        "shopmetrics course --help",
    )


def select(first: int | None = None, last: int | None = None) -> tuple[Day, ...]:
    """Return the days from ``first`` through ``last``; they default to the first and the last day.

    Raises:
        CourseError: if either is not a day, or if they leave nothing to run.

    Example:
        >>> [entry.number for entry in select(2, 3)]
        [2, 3]
    """
    start = day(DAYS[0].number if first is None else first).number
    end = day(DAYS[-1].number if last is None else last).number
    if start > end:
        raise CourseError(
            f"From day {start} through day {end} there is nothing to run.",
            "give a last day that is not before the first",
        )
    return tuple(entry for entry in DAYS if start <= entry.number <= end)
