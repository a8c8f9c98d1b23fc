"""Beyond one machine: the same commands on a Spark standalone cluster give the same tables, row for row.

A master and two workers, started from the engine's own jars on loopback, and in front of them a Connect server that
knows nothing of this project: ``SPARK_REMOTE`` is all that tells the commands where to run.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from generators import generate
from shared.runtime import spark as engine
from shared.runtime.java import find_java
from shared.runtime.process import LOOPBACK, ServerRecord, choose_port, is_listening, launch, log_tail, stop
from shared.settings import CHECKOUT, Settings, get_settings

TABLES = (
    "bronze.customers_raw", "bronze.products_raw", "bronze.orders_raw", "silver.dim_customers", "silver.dim_products",
    "silver.orders_clean", "gold.daily_sales_summary", "gold.customer_ltv", "gold.product_performance",
)  # fmt: skip


class Cluster:
    """A standalone master, two workers, and a Connect server on them."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory = directory
        self.java = find_java(settings)
        self.jars = engine.class_path(settings)
        self.servers: list[ServerRecord] = []
        directory.mkdir()

    def start(self) -> str:
        """Start everything and return the address for ``SPARK_REMOTE``."""
        environment = {"JAVA_HOME": str(self._java_home()), "SPARK_HOME": str(self._spark_home())}
        environment |= {"SPARK_LOCAL_IP": LOOPBACK, "SPARK_SCALA_VERSION": "2.13"}
        port, page = choose_port(0, "-"), choose_port(0, "-")
        master = f"spark://{LOOPBACK}:{port}"
        self._launch(
            "org.apache.spark.deploy.master.Master",
            ["--host", LOOPBACK, "--port", str(port), "--webui-port", str(page)], environment, port,
        )  # fmt: skip
        for number in (1, 2):
            own, page = choose_port(0, "-"), choose_port(0, "-")
            work = self.directory / f"work-{number}"
            self._launch(
                "org.apache.spark.deploy.worker.Worker",
                ["--host", LOOPBACK, "--port", str(own), "--webui-port", str(page), "--cores", "1", "--memory", "1g",
                 "--work-dir", str(work), master], environment, own,
            )  # fmt: skip
        connect, token = choose_port(0, "-"), secrets.token_urlsafe(32)
        conf = {
            "spark.master": master,
            "spark.driver.host": LOOPBACK,
            "spark.driver.bindAddress": LOOPBACK,
            "spark.ui.enabled": "false",
            "spark.executor.memory": "600m",
            "spark.executor.cores": "1",
            "spark.connect.grpc.binding.address": LOOPBACK,
            "spark.connect.grpc.binding.port": str(connect),
            "spark.connect.authenticate.token": token,
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            "spark.sql.catalogImplementation": "in-memory",
            # Spark's 200 and Delta's 50 are for clusters with more than two cores.
            "spark.sql.shuffle.partitions": "4",
            "spark.databricks.delta.snapshotPartitions": "2",
            **get_settings().spark_options,
        }
        self._launch(engine.MAIN_CLASS, [], environment, connect, conf)
        return f"sc://localhost:{connect}/;token={token}"

    def stop(self) -> None:
        for record in reversed(self.servers):
            stop(record)

    def _launch(
        self,
        main: str,
        arguments: list[str],
        environment: dict[str, str],
        port: int,
        conf: dict[str, str] | None = None,
    ) -> None:
        name = f"{len(self.servers)}-{main.rpartition('.')[2]}"
        log = self.directory / f"{name}.log"
        settings = Settings(home=self.directory, server_memory="700m")
        argfile = self.directory / f"{name}.args"
        command = engine.java_command(settings, self.java, self.jars, conf or {}, [], argfile)
        # The engine's own command line, for another main class.
        argfile.write_text(argfile.read_text().replace(engine.MAIN_CLASS, main))
        variables = [f"{key}={value}" for key, value in environment.items()]
        child = launch(["env", *variables, *command, *arguments], log, cwd=self.directory)
        record = ServerRecord(name, child.pid, psutil.Process(child.pid).create_time(), port, "", "")
        self.servers.append(record)
        deadline = time.monotonic() + 90
        while not is_listening(port):
            assert child.poll() is None, log_tail(log)
            assert time.monotonic() < deadline, log_tail(log)
            time.sleep(0.1)

    def _java_home(self) -> Path:
        """A Java for the executors. Spark adds an incubator module to their command line that a small JDK may lack."""
        home = self.directory / "java"
        (home / "bin").mkdir(parents=True)
        java = home / "bin" / "java"
        java.write_text(
            "#!/bin/sh\nfor given; do shift\n"
            'case "$given" in --add-modules=jdk.incubator.vector) ;; *) set -- "$@" "$given" ;; esac\ndone\n'
            f'exec "{self.java.executable}" "$@"\n'
        )
        java.chmod(java.stat().st_mode | stat.S_IXUSR)
        return home

    def _spark_home(self) -> Path:
        """A Spark installation as a cluster has it: the jars in one directory."""
        home = self.directory / "spark"
        (home / "jars").mkdir(parents=True)
        (home / "RELEASE").touch()
        for jar in self.jars:
            (home / "jars" / jar.name).symlink_to(jar)
        return home


@pytest.fixture
def cluster(settings, tmp_path) -> Iterator[str]:
    """The address of a cluster."""
    cluster = Cluster(tmp_path / "cluster", settings)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def pipeline(home: Path, **environment: str) -> dict:
    """Run the pipeline by its command in a home; return what it says of itself."""
    ended = subprocess.run(
        ["shopmetrics", "pipeline", "run", "--json"],
        env=os.environ | {"SHOPMETRICS_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        | environment,
        cwd=CHECKOUT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout)


def rows(session, table: str) -> list[str]:
    frame = session.table(table)
    columns = [name for name in frame.columns if name not in ("run_id", "released_by")]
    return sorted(row.text for row in frame.selectExpr(f"to_json(struct({', '.join(columns)})) AS text").collect())


def test_a_cluster_makes_the_same_tables_row_for_row(settings, cluster, tmp_path, monkeypatch):
    here, there = settings.model_copy(update={"home": tmp_path / "here"}), settings
    told = {}
    for days in (0, 1):
        for home, remote in ((here, {}), (there, {"SPARK_REMOTE": cluster})):
            generate(home.raw, scale=0.05, seed=7, defects=0.05, days=days, progress=False)
            told[home.home, days] = pipeline(home.home, **remote)
    assert engine.running(there) is None, "it ran on an engine of its own"
    for days in (0, 1):
        one, other = (
            {
                run["table_name"]: (run["status"], run["rows_read"], run["rows_changed"])
                for run in told[home.home, days]["tables"]
            }
            for home in (here, there)
        )
        assert one == other
    local = engine.session(engine.up(here))
    try:
        monkeypatch.setenv("SPARK_REMOTE", cluster)
        distant = engine.connect(there)
        executors = {
            row.executor
            for row in distant.range(64)
            .repartition(8)
            .selectExpr("spark_partition_id() AS part", "java_method('java.lang.ProcessHandle', 'current') AS executor")
            .collect()
        }
        assert len(executors) == 2, "only one worker worked"
        for table in (*TABLES, "silver.quarantine"):
            ours, theirs = rows(local, table), rows(distant, table)
            assert ours == theirs, table
            assert ours
        distant.stop()
    finally:
        local.stop()
        engine.down(here)
