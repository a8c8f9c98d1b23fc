"""Accidents of silver: a run killed between its writes, a killed engine, and concurrent runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from spark.silver_cases import Shop, arrived, customer, order, product

from shared.runtime import spark as engine
from shared.settings import CHECKOUT

DIMENSION, PRODUCTS, FACT = "silver.dim_customers", "silver.dim_products", "silver.orders_clean"

STANDING = (
    product("P-1", 1), customer("C-1", 10), customer("C-1", 20, city="Rome"), customer("C-2", 10),
    order("O-1", "C-1", 15), order("O-2", "C-9", 15), order("O-3", "C-1", 15, of="P-9"),
    customer("C-3", 10, email="nowhere"),
)  # fmt: skip
NEWS = tuple(
    arrived(row, 2)
    for row in (
        customer("C-1", 12, city="Bern"), customer("C-2", 30, is_deleted=True), customer("C-9", 10),
        customer("C-4", 10, email="nowhere"), order("O-1", "C-1", 15, updated=40, status="shipped"),
        order("O-4", "C-8", 15), order("O-5", "C-1", 15, quantity=0), order("O-6", "C-7", 15),
        product("P-9", 1),
    )
)  # fmt: skip

CUT_OFF = """
import sys, threading
from pathlib import Path
import shared
from shared import changes, run_log, silver
from shared.silver import scd2, silver_run

point, reached = sys.argv[1], Path(sys.argv[2])

def stop_here(module, name, applies):
    original = getattr(module, name)
    def replacement(*given, **named):
        if applies(*given):
            reached.touch()
            if sys.stdin.readline() == "":  # held until told to go on
                threading.Event().wait()
        return original(*given, **named)
    setattr(module, name, replacement)

if point == "quarantine written, dimension not":
    stop_here(changes, "merge", lambda spark, table, *rest: table == "silver.dim_customers")
elif point == "dimension written, inferred members not":
    stop_here(scd2, "inferred_members", lambda *given: True)
elif point == "inferred members written, fact not":
    stop_here(changes, "merge", lambda spark, table, *rest: table == "silver.orders_clean")
elif point == "fact written, what it releases not":
    is_fact = lambda run, work, *rest: work.definition.target == "silver.orders_clean"
    stop_here(silver_run._SilverRun, "_release", is_fact)
elif point == "results written, log not":
    stop_here(run_log, "_append", lambda spark, table, *rest: table == run_log.RUN_LOG)
print(*(run.status for run in silver.run(shared.connect())))
"""
POINTS = re.findall(r'point == "(.+)"', CUT_OFF)


def started(home, point: str, tmp_path) -> tuple[subprocess.Popen[str], Path]:
    """Start a run in a process of its own that stops at a point; return it and the file that it writes there."""
    reached = tmp_path / f"{point}.reached"
    process = subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, point, str(reached)],
        env=os.environ | {"SHOPMETRICS_HOME": str(home)}, cwd=CHECKOUT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return process, reached


def wait_for(condition, what: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"the run ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, f"{what} was awaited for 240 s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(spark, tmp_path_factory) -> dict[str, list[str]]:
    """The tables after the new rows, without an accident. Three runs start at once, and only one does the work.

    The other two are a thread and another process. All end as if each had waited for the run before it.
    """
    shop = Shop(spark)
    shop.clear()
    shop.delivered_and_run(*STANDING)
    before = shop.versions()
    shop.deliver(*NEWS)
    process, _ = started(shop.home.home, "nowhere", tmp_path_factory.mktemp("at once"))
    with ThreadPoolExecutor() as pool:
        threads = [pool.submit(shop.run) for _ in range(2)]
        done = [thread.result() for thread in threads]
    answer, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    statuses = sorted([*(" ".join(run.status for run in runs.values()) for runs in done), answer.strip()])
    assert statuses == [
        "succeeded succeeded succeeded",
        "unchanged unchanged unchanged",
        "unchanged unchanged unchanged",
    ]
    once = {DIMENSION: 2, FACT: 1, PRODUCTS: 1}
    assert {table: shop.versions()[table] - before[table] for table in once} == once
    assert shop.broken_laws() == []
    return shop.contents()


def test_runs_at_once_end_as_if_one_had_waited_for_the_other(undisturbed):
    """See the fixture: the tests below compare their results with the tables of its one working run."""
    assert all(undisturbed.values())


@pytest.mark.parametrize(
    "points",
    [(POINTS[2], POINTS[4]), pytest.param(tuple(POINTS), marks=pytest.mark.slow)],
    ids=["at two points", "at every point"],
)
def test_killed_between_its_writes_a_run_converges(shop, undisturbed, tmp_path, points):
    """The process is really killed, at one point after another; each run finds the state that the one before left."""
    shop.delivered_and_run(*STANDING)
    before = shop.versions()
    shop.deliver(*NEWS)
    found = {}
    for point in points:
        process, reached = started(shop.home.home, point, tmp_path)
        # The products run at the same time as the customers.
        wait_for(reached.exists, point, process)
        wait_for(lambda: shop.versions()[PRODUCTS] > before[PRODUCTS], "the product", process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found[point] = {table: version - before[table] for table, version in shop.versions().items()}
    # The number of versions written at each point, for products, customers and orders.
    commits = dict(zip(POINTS, [(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 2, 1), (1, 2, 1)], strict=True))
    for point in points:
        assert tuple(found[point][table] for table in (PRODUCTS, DIMENSION, FACT)) == commits[point], point
        assert found[point]["silver.quarantine"] > 0

    done = shop.run()
    assert {run.status for run in done.values()} <= {"succeeded", "unchanged"}
    assert done[FACT].rows_released == 1, "O-3, which a run that died has released, is released in the log"
    assert shop.contents() == undisturbed
    assert shop.broken_laws() == []
    # No run wrote anything twice.
    assert {table: version - before[table] for table, version in shop.versions().items()} == found[points[-1]]
    assert {run.status for run in shop.run().values()} == {"unchanged"}


@pytest.mark.slow
def test_a_first_run_that_is_killed_converges(shop, undisturbed, tmp_path):
    shop.deliver(*STANDING, *NEWS)
    point = "dimension written, inferred members not"
    process, reached = started(shop.home.home, point, tmp_path)
    wait_for(reached.exists, point, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shop.run()
    assert shop.contents() == undisturbed


@pytest.fixture
def home(settings):
    """A home, and so an engine, that only this test uses."""
    yield settings
    engine.down(settings)


@pytest.mark.slow
def test_when_the_engine_is_killed_the_run_says_so_and_the_next_one_converges(home, undisturbed, tmp_path):
    session = engine.session(engine.up(home))
    shop = Shop(session, home)
    done = shop.delivered_and_run(*STANDING)
    assert {run.status for run in done.values()} == {"succeeded"}, "while this process has a session to another engine"
    shop.deliver(*NEWS)
    session.stop()

    def kill_engine() -> None:
        record = engine.running(home)
        server = record.process()
        os.kill(record.pid, signal.SIGKILL)
        psutil.wait_procs([server], timeout=10)

    # While the dimension is being written.
    files = home.lakehouse / "silver" / "dim_customers"
    there = set(files.glob("*.parquet"))
    point = "quarantine written, dimension not"
    process, reached = started(home.home, point, tmp_path)
    wait_for(reached.exists, point, process)
    process.stdin.write("go on\n")
    process.stdin.flush()
    wait_for(lambda: set(files.glob("*.parquet")) - there, "a file of the MERGE", process)
    kill_engine()
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0, errors

    # Between the inferred members and the fact.
    point = "inferred members written, fact not"
    process, reached = started(home.home, point, tmp_path)
    wait_for(reached.exists, point, process)
    kill_engine()
    _, errors = process.communicate("go on\n", timeout=120)
    assert process.returncode != 0, errors

    session = engine.session(engine.up(home))
    shop = Shop(session, home)
    shop.run()
    assert shop.contents() == undisturbed
    assert shop.broken_laws() == []
    assert {run.status for run in shop.run().values()} == {"unchanged"}
    session.stop()
