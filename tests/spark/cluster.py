"""A Spark standalone cluster on this machine, for tests of runs beyond one machine.

It has a master, two workers and a Connect server, all started from the engine's own jars on loopback. The Connect
server has no settings of this project: only ``SPARK_REMOTE`` tells the commands where to run.
"""

from __future__ import annotations

import secrets
import stat
import time
from pathlib import Path

from shared.runtime import spark as engine
from shared.runtime.java import find_java
from shared.runtime.process import LOOPBACK, ServerRecord, choose_port, is_listening, launch, log_tail, started, stop
from shared.settings import Settings, get_settings


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
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            "spark.sql.catalogImplementation": "in-memory",
            # Spark's default of 200 and Delta's of 50 are for clusters with more than two cores.
            "spark.sql.shuffle.partitions": "4",
            "spark.databricks.delta.snapshotPartitions": "2",
            **get_settings().spark_options,
        }
        self._launch(engine.MAIN_CLASS, [], environment | {engine.TOKEN: token}, connect, conf)
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
        # The engine's own command line, with another main class.
        argfile.write_text(argfile.read_text().replace(engine.MAIN_CLASS, main))
        variables = [f"{key}={value}" for key, value in environment.items()]
        child = launch(["env", *variables, *command, *arguments], log, cwd=self.directory)
        record = ServerRecord(name, child.pid, started(child.pid), port, "", "")
        self.servers.append(record)
        deadline = time.monotonic() + 90
        while not is_listening(port):
            assert child.poll() is None, log_tail(log)
            assert time.monotonic() < deadline, log_tail(log)
            time.sleep(0.1)

    def _java_home(self) -> Path:
        """A Java for the executors: Spark's command line for them has an incubator module that a small JDK may lack."""
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
        """A Spark installation like a cluster's: the jars are in one directory."""
        home = self.directory / "spark"
        (home / "jars").mkdir(parents=True)
        (home / "RELEASE").touch()
        for jar in self.jars:
            (home / "jars" / jar.name).symlink_to(jar)
        return home
